import { scaleBand, scaleLinear, scaleLog } from 'd3-scale';
import { curveStepAfter, line } from 'd3-shape';
import { round } from '../../../html/drawing.ts';
import { html, type Markup } from '../../../html/markup.ts';
import { formatMs } from '../figures.ts';
import type { Load } from '../recording.ts';
import type { Interval } from '../statistics.ts';

/** For each query, what is drawn of it. */
export interface Bar {
  readonly name: string;
  /** Where there is little room. */
  readonly shortName: string;
  readonly note: string;
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly p50: { readonly before: number; readonly after: number };
}

const LABEL_HEIGHT = 18;
const BAR_HEIGHT = 11;
const GAP = 12;
const AXIS_HEIGHT = 26;
const RIGHT = 70;
const LEFT = 4;

/** Medians before and after, and each single run as a line: how they are spread. Milliseconds on a logarithmic scale. */
export function latencyChart(bars: readonly Bar[], width: number): Markup {
  const all = bars.flatMap(({ before, after }) => [...before, ...after]).filter((ms) => ms > 0);
  const [least, most] = [Math.min(...all) / 1.5, Math.max(...all) * 1.1];
  const x = scaleLog()
    .domain([least, most])
    .range([LEFT, width - RIGHT]);
  const row = LABEL_HEIGHT + 2 * BAR_HEIGHT + GAP;
  const height = bars.length * row + AXIS_HEIGHT;
  const ticks = decades(least, most);
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Median times before and after, on a logarithmic scale">
${ticks.map((ms) => gridLine({ at: round(x(ms)), height: height - AXIS_HEIGHT, label: ms < 1_000 ? `${ms} ms` : `${ms / 1_000} s` }))}
${bars.map((bar, at) => barGroup(bar, { x, top: at * row, width }))}
</svg>`;
}

const decades = (least: number, most: number): readonly number[] =>
  Array.from({ length: 12 }, (_, at) => 10 ** (at - 4)).filter((ms) => ms >= least && ms <= most);

const gridLine = ({ at, height, label }: { at: number; height: number; label: string }): Markup =>
  html`<line class="grid" x1="${at}" x2="${at}" y1="0" y2="${height}"/><text class="tick" x="${at}" y="${height + 16}" text-anchor="middle">${label}</text>`;

function barGroup(
  { name, shortName, note, before, after, p50 }: Bar,
  { x, top, width }: { x: (ms: number) => number | undefined; top: number; width: number },
): Markup {
  const half = (which: 'before' | 'after', runs: readonly number[], y: number) => {
    const end = x(p50[which]) ?? LEFT;
    return html`<rect class="${which}" x="${LEFT}" y="${y}" width="${Math.max(1, round(end) - LEFT)}" height="${BAR_HEIGHT - 1}"/>
${runs.map((ms) => html`<line class="run" x1="${round(x(ms))}" x2="${round(x(ms))}" y1="${y + 1}" y2="${y + BAR_HEIGHT - 2}"/>`)}
<text class="value" x="${width - 4}" y="${y + BAR_HEIGHT - 2}" text-anchor="end">${formatMs(p50[which])}</text>`;
  };
  return html`<g><text class="label" x="${LEFT}" y="${top + 12}">${shortened(width < 500 ? shortName : name, width)}</text><text class="ratio" x="${width - 4}" y="${top + 12}" text-anchor="end">${note}</text>
${half('before', before, top + LABEL_HEIGHT)}${half('after', after, top + LABEL_HEIGHT + BAR_HEIGHT)}</g>`;
}

/** A letter takes some 7 units; a figure stands at the end of the line. */
const shortened = (text: string, width: number): string => {
  const most = Math.floor((width - 90) / 7);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
};

const RATIO_BINS = [0.01, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.91, 1.1, 1.25, 1.5, 2, 3, 5, 10, 100];
const KINDS = ['same', 'few', 'faster', 'slower'] as const;

/** What became of one query, and how many times as fast it became. */
export interface Outcome {
  readonly ratio: number;
  readonly kind: (typeof KINDS)[number];
}

/** How many queries became how many times as fast; one above the other, those that really did and those that cannot be told. */
export function ratioChart(outcomes: readonly Outcome[], width: number): Markup {
  const bins = RATIO_BINS.slice(1).map((high, at) => {
    const low = RATIO_BINS[at] ?? 0;
    const isLast = at === RATIO_BINS.length - 2;
    return { low, held: outcomes.filter(({ ratio }) => (at === 0 || ratio >= low) && (isLast || ratio < high)) };
  });
  const height = 190;
  const floor = height - 34;
  const x = scaleBand<number>()
    .domain(bins.map(({ low }) => low))
    .range([LEFT, width - 4])
    .paddingInner(0.15);
  const y = scaleLinear()
    .domain([0, Math.max(1, ...bins.map(({ held }) => held.length))])
    .range([0, floor - 16]);
  const isTold = (at: number) => at > 0 && (width >= 500 || at % 2 === 0);
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="How many accesses became how many times as fast">
${bins.map(({ low, held }, at) => {
  const left = round(x(low));
  const middle = left + round(x.bandwidth() / 2);
  return html`${stack(held, { left, width: round(x.bandwidth()), floor, y })}
${held.length === 0 ? '' : html`<text class="value" x="${middle}" y="${round(floor - y(held.length)) - 4}" text-anchor="middle">${held.length}</text>`}
${isTold(at) ? html`<text class="tick" x="${left}" y="${floor + 15}" text-anchor="middle">${low}×</text>` : ''}`;
})}
<line class="axis" x1="${LEFT}" x2="${width - 4}" y1="${floor}" y2="${floor}"/>
<text class="tick" x="${LEFT}" y="${height - 4}">← slower</text><text class="tick" x="${width - 4}" y="${height - 4}" text-anchor="end">faster →</text>
</svg>`;
}

function stack(
  held: readonly Outcome[],
  { left, width, floor, y }: { left: number; width: number; floor: number; y: (count: number) => number },
): readonly Markup[] {
  const counts = KINDS.map((kind) => held.filter((each) => each.kind === kind).length);
  return KINDS.map((kind, at) => {
    const [below, count] = [counts.slice(0, at).reduce((sum, each) => sum + each, 0), counts[at] ?? 0];
    const top = round(floor - y(below + count));
    return count === 0
      ? html``
      : html`<rect class="${kind}" x="${left}" y="${top}" width="${width}" height="${round(y(count))}"/>`;
  });
}

type Sample = Load['samples'][number];

const SERIES: readonly (readonly [string, (sample: Sample) => number | null])[] = [
  ['open', ({ open }) => open],
  ['active', ({ active }) => active],
  ['waiting', ({ waiting }) => waiting],
];

/** Connections that are open and at work, and clients that wait for one, over time. */
export function connectionChart(samples: readonly Sample[], most: Interval, width: number): Markup {
  const height = 200;
  const floor = height - 26;
  const x = scaleLinear()
    .domain([0, Math.max(1, samples.at(-1)?.atMs ?? 1)])
    .range([34, width - 8]);
  const y = scaleLinear()
    .domain([most.low, Math.max(1, most.high)])
    .nice(5)
    .range([floor, 8]);
  const path = (of: (sample: Sample) => number | null) =>
    line<Sample>()
      .defined((sample) => of(sample) !== null)
      .x((sample) => round(x(sample.atMs)))
      .y((sample) => round(y(of(sample) ?? 0)))
      .curve(curveStepAfter)([...samples]) ?? '';
  const seconds = x.ticks(width < 500 ? 4 : 8);
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Connections open and at work, and clients waiting, over time">
${y
  .ticks(5)
  .filter(Number.isInteger)
  .map(
    (count) =>
      html`<line class="grid" x1="34" x2="${width - 8}" y1="${round(y(count))}" y2="${round(y(count))}"/><text class="tick" x="28" y="${round(y(count)) + 4}" text-anchor="end">${count}</text>`,
  )}
${seconds.map((ms) => html`<text class="tick" x="${round(x(ms))}" y="${height - 6}" text-anchor="middle">${ms / 1_000} s</text>`)}
${SERIES.map(([name, of]) => html`<path class="series ${name}" d="${path(of)}"/>`)}
</svg>`;
}
