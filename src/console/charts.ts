import { scaleLinear, scaleUtc } from 'd3-scale';
import { line } from 'd3-shape';
import { bothWidths, round } from '../html/drawing.ts';
import { html, type Markup } from '../html/markup.ts';
import type { View } from '../html/view.ts';

/** A line of a chart over time; null where there is nothing to be drawn. */
interface Series {
  readonly name: string;
  readonly kind: 'first' | 'second' | 'third' | 'bad';
  readonly values: readonly (number | null)[];
}

interface TimeChart {
  /** What it shows, for whoever cannot see it. */
  readonly label: string;
  /** Of each value. */
  readonly instants: readonly Date[];
  readonly series: readonly Series[];
  /** How a figure of the axis is written. */
  readonly format: (value: number) => string;
}

const HEIGHT = 170;
const LEFT = 56;
const RIGHT = 8;
const TOP = 24;
const FLOOR = HEIGHT - 22;
const LETTER = 7;

/** Lines over time, from zero on; for a phone and for a desk. */
export function timeChart(chart: TimeChart, view: View): Markup {
  return html`<figure class="chart">${bothWidths((width) => drawn(chart, view, width))}</figure>`;
}

function drawn({ label, instants, series, format }: TimeChart, view: View, width: number): Markup {
  const x = scaleUtc()
    .domain([instants[0] ?? new Date(0), instants.at(-1) ?? new Date(1)])
    .range([LEFT, width - RIGHT]);
  const most = Math.max(0, ...series.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const y = scaleLinear()
    .domain([0, most === 0 ? 1 : most])
    .nice(3)
    .range([FLOOR, TOP]);
  const path = line<readonly [Date, number | null]>()
    .defined(([, value]) => value !== null)
    .x(([at]) => round(x(at)))
    .y(([, value]) => round(y(value ?? 0)));
  const hours = new Intl.DateTimeFormat(view.locale, {
    timeZone: view.zone,
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  const ticks = x.ticks(width < 500 ? 4 : 8).filter((at) => x(at) > LEFT + 14 && x(at) < width - RIGHT - 14);
  return html`<svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="${label}">
${y.ticks(3).map((value) => html`<line class="grid" x1="${LEFT}" x2="${width - RIGHT}" y1="${round(y(value))}" y2="${round(y(value))}"/><text class="tick" x="${LEFT - 6}" y="${round(y(value)) + 4}" text-anchor="end">${format(value)}</text>`)}
${ticks.map((at) => html`<text class="tick" x="${round(x(at))}" y="${HEIGHT - 6}" text-anchor="middle">${hours.format(at)}</text>`)}
${series.map(({ kind, values }) => {
  const points = instants.map((at, index) => [at, values[index] ?? null] as const);
  return html`<path class="series ${kind}" d="${path(points) ?? ''}"/>${alone(points).map(([at, value]) => html`<circle class="dot ${kind}" cx="${round(x(at))}" cy="${round(y(value))}" r="2.5"/>`)}`;
})}
${legend(series)}
</svg>`;
}

/** A value with none on either side is no line. */
function alone(points: readonly (readonly [Date, number | null])[]): readonly (readonly [Date, number])[] {
  return points.flatMap(([at, value], index) => {
    const isAlone = (points[index - 1]?.[1] ?? null) === null && (points[index + 1]?.[1] ?? null) === null;
    return value !== null && isAlone ? [[at, value] as const] : [];
  });
}

function legend(series: readonly Series[]): readonly Markup[] {
  let left = LEFT;
  return series.map(({ name, kind }) => {
    const at = left;
    left += 24 + name.length * LETTER + 12;
    return html`<line class="series ${kind}" x1="${at}" x2="${at + 16}" y1="10" y2="10"/><text x="${at + 21}" y="14">${name}</text>`;
  });
}
