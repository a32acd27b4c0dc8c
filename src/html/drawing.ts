import { html, type Markup } from './markup.ts';

/** Every chart is drawn twice, for a phone and for a desk: text that is scaled down with a picture cannot be read. */
export const bothWidths = (draw: (width: number) => Markup): Markup =>
  html`<div class="wide">${draw(880)}</div><div class="narrow">${draw(330)}</div>`;

/** A place in a drawing, to a tenth of a unit. */
export const round = (place: number | undefined): number => Math.round((place ?? 0) * 10) / 10;
