import { scaleLinear, scaleUtc } from 'd3-scale';
import { curveStepAfter, line } from 'd3-shape';
import { bothWidths, round } from '../html/drawing.ts';
import { html, type Markup } from '../html/markup.ts';
import { decimalText, formatMoney, type Money, type View } from '../html/view.ts';
import type { Instant } from '../ledger/instants.ts';
import { tableOf } from './list.ts';
import { cents, instant } from './parts.ts';

/** A balance, positive on the normal side, as it stood at an instant. */
interface BalancePoint {
  readonly at: Instant;
  readonly cents: bigint;
}

interface Drawn {
  readonly points: readonly BalancePoint[];
  readonly currency: Omit<Money, 'cents'>;
  readonly view: View;
}

const HEIGHT = 220;
const [TOP, RIGHT, BOTTOM] = [10, 12, 24];

/** A balance over time, as a picture and as the figures that it is drawn from. */
export function balanceChart(drawn: Drawn): Markup {
  const { points, currency, view } = drawn;
  return html`${bothWidths((width) => picture(drawn, width))}
<details><summary>The ${points.length} figures</summary>
${tableOf(
  'Balance over time',
  [
    { name: 'at', title: 'At', text: ({ at }) => at, cell: ({ at }) => instant(at, view) },
    {
      name: 'balance_cents',
      title: `Balance in ${currency.currency}`,
      isNumber: true,
      text: (point) => point.cents,
      cell: (point) => cents({ cents: point.cents, decimalPlaces: currency.decimalPlaces }, view),
    },
  ],
  points,
)}</details>`;
}

function picture({ points, currency, view }: Drawn, width: number): Markup {
  const isNarrow = width < 500;
  const left = isNarrow ? 56 : 72;
  const floor = HEIGHT - BOTTOM;
  // A picture may round what no figure of ours does.
  const amount = (point: BalancePoint) => Number(decimalText(point.cents, currency.decimalPlaces));
  const amounts = points.map(amount);
  const x = scaleUtc()
    .domain([new Date(points[0]?.at ?? 0), new Date(points.at(-1)?.at ?? 0)])
    .range([left, width - RIGHT]);
  const [low, high] = [Math.min(0, ...amounts), Math.max(0, ...amounts)];
  const y = scaleLinear()
    .domain(low === high ? [0, 1] : [low, high])
    .nice(4)
    .range([floor, TOP]);
  const short = new Intl.NumberFormat(view.locale, { notation: 'compact', maximumFractionDigits: 1 });
  const path =
    line<BalancePoint>()
      .x(({ at }) => round(x(new Date(at))))
      .y((point) => round(y(amount(point))))
      .curve(curveStepAfter)([...points]) ?? '';
  const [first, last] = [points[0], points.at(-1)];
  const spoken = (point: BalancePoint | undefined) =>
    point === undefined ? 'nothing' : formatMoney({ ...currency, cents: point.cents }, view);
  return html`<svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="Balance over time: from ${spoken(first)} to ${spoken(last)}">
${y
  .ticks(4)
  .map(
    (tick) =>
      html`<line class="${tick === 0 ? 'axis' : 'grid'}" x1="${left}" x2="${width - RIGHT}" y1="${round(y(tick))}" y2="${round(y(tick))}"/><text class="tick" x="${left - 6}" y="${round(y(tick)) + 4}" text-anchor="end">${short.format(tick)}</text>`,
  )}
${timeTicks(x.domain() as [Date, Date], { most: isNarrow ? 3 : 7, view }).map(
  ({ at, text }) => html`<text class="tick" x="${round(x(at))}" y="${HEIGHT - 6}" text-anchor="middle">${text}</text>`,
)}
<path class="series" d="${path}"/>
</svg>`;
}

const DAY_MS = 86_400_000;

/** Instants of the calendar, as the reader's zone calls them; those at either end, whose names would be cut off, are left out. */
function timeTicks(
  [from, to]: readonly [Date, Date],
  { most, view }: { most: number; view: View },
): readonly { readonly at: Date; readonly text: string }[] {
  const span = to.getTime() - from.getTime();
  const format = new Intl.DateTimeFormat(view.locale, {
    timeZone: view.zone,
    ...(span > 180 * DAY_MS
      ? { year: 'numeric', month: 'short' }
      : span > 2 * DAY_MS
        ? { month: 'short', day: 'numeric' }
        : { hour: '2-digit', minute: '2-digit', ...(span < 600_000 ? { second: '2-digit' } : {}), hourCycle: 'h23' }),
  } as Intl.DateTimeFormatOptions);
  const margin = span * 0.04;
  return scaleUtc()
    .domain([from, to])
    .ticks(most)
    .filter((at) => at.getTime() - from.getTime() >= margin && to.getTime() - at.getTime() >= margin)
    .map((at) => ({ at, text: format.format(at) }));
}
