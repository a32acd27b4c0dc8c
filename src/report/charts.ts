import { scaleBand, scaleLinear } from 'd3-scale';
import { round } from '../html/drawing.ts';
import { html, type Markup } from '../html/markup.ts';
import { decimalText, formatCents, type View } from '../html/view.ts';

/** Figures of one currency, which are drawn, and written as the view has it. */
export interface Drawing {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly view: View;
  readonly width: number;
}

/** Where a bar ends is told by a floating-point number, what is written beside it never. */
const drawn = (cents: bigint, { decimalPlaces }: Drawing): number => Number(decimalText(cents, decimalPlaces));

const HEIGHT = 170;
const FLOOR = HEIGHT - 24;
const LEFT = 58;
const TICK_LETTERS = 11;

export interface Point {
  /** As it is written below the axis. */
  readonly label: string;
  readonly cents: bigint;
}

/** What was debited, by day, month or year. */
export function turnoverChart(points: readonly Point[], drawing: Drawing): Markup {
  const { width, currency, decimalPlaces, view } = drawing;
  const most = Math.max(10 ** -decimalPlaces, ...points.map(({ cents }) => drawn(cents, drawing)));
  const x = scaleBand<number>()
    .domain(points.map((_, at) => at))
    .range([LEFT, width - 4])
    .paddingInner(points.length > 100 ? 0 : 0.2);
  const y = scaleLinear().domain([0, most]).range([FLOOR, 10]);
  const compact = new Intl.NumberFormat(view.locale, { notation: 'compact', maximumSignificantDigits: 3 });
  const every = Math.ceil(points.length / Math.max(1, Math.floor((width - LEFT) / (TICK_LETTERS * 7))));
  return html`<svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="Turnover in ${currency}; its figures are in the table of turnover">
${y.ticks(4).map((value) => html`<line class="grid" x1="${LEFT}" x2="${width - 4}" y1="${round(y(value))}" y2="${round(y(value))}"/><text class="tick" x="${LEFT - 6}" y="${round(y(value)) + 4}" text-anchor="end">${compact.format(value)}</text>`)}
${points.map(({ label, cents }, at) => {
  if (cents === 0n) return '';
  const top = round(y(drawn(cents, drawing)));
  return html`<rect class="bar" x="${round(x(at))}" y="${top}" width="${Math.max(0.5, round(x.bandwidth()))}" height="${round(Math.max(1, FLOOR - top))}"><title>${label}: ${formatCents({ cents, decimalPlaces }, view)}</title></rect>`;
})}
<line class="axis" x1="${LEFT}" x2="${width - 4}" y1="${FLOOR}" y2="${FLOOR}"/>
${points.map(({ label }, at) => (at % every === 0 ? html`<text class="tick" x="${round(x(at))}" y="${HEIGHT - 6}">${label}</text>` : ''))}
</svg>`;
}

const ROW = 38;
const BAR_HEIGHT = 12;

/** What each type stands at: debit to the right, credit to the left. */
export function balanceChart(
  types: readonly { readonly type: string; readonly closingCents: bigint }[],
  drawing: Drawing,
): Markup {
  const { width, currency, decimalPlaces, view } = drawing;
  const most = Math.max(
    10 ** -decimalPlaces,
    ...types.map(({ closingCents }) => Math.abs(drawn(closingCents, drawing))),
  );
  const x = scaleLinear()
    .domain([-most, most])
    .range([4, width - 4]);
  const zero = round(x(0));
  const height = types.length * ROW + 20;
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Closing balances in ${currency} by account type; their figures are in the trial balance">
${types.map(({ type, closingCents }, at) => {
  const end = round(x(drawn(closingCents, drawing)));
  const top = at * ROW;
  return html`<text class="label" x="4" y="${top + 14}">${shortened(type, width)}</text><text class="value" x="${width - 4}" y="${top + 14}" text-anchor="end">${formatCents({ cents: closingCents, decimalPlaces }, view)}</text>
<rect class="${closingCents < 0n ? 'bar credit' : 'bar'}" x="${Math.min(zero, end)}" y="${top + 20}" width="${round(Math.max(closingCents === 0n ? 0 : 1, Math.abs(end - zero)))}" height="${BAR_HEIGHT}"/>`;
})}
<line class="axis" x1="${zero}" x2="${zero}" y1="16" y2="${height - 18}"/>
<text class="tick" x="4" y="${height - 4}">← credit</text><text class="tick" x="${width - 4}" y="${height - 4}" text-anchor="end">debit →</text>
</svg>`;
}

/** A letter takes some 7 units; half is the figure's. */
const shortened = (text: string, width: number): string => {
  const most = Math.floor(width / 14);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
};
