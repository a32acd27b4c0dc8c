import { formatCount, type Streams } from './output.ts';
import { paintOf } from './paint.ts';
import { shortened } from './table.ts';

const REDRAW_MS = 200;
const BAR_WIDTH = 24;
/** Before that, a rate would be a guess. */
const RATE_AFTER_MS = 500;

export interface Progress {
  /** Shows how far `label` is; `total` 0 means unknown. The note may change while the label stays. */
  update(label: string, done: number | bigint, total: number | bigint, note?: string): void;
  /** Ends the bar and leaves no trace of it. */
  clear(): void;
}

/** One line on a terminal, redrawn in place, with a rate and an estimate; nothing where nobody watches. */
export function createProgress(streams: Streams, now: () => number = () => performance.now()): Progress {
  if (streams.err.isTTY !== true) return { update: () => undefined, clear: () => undefined };
  const paint = paintOf(streams.colours?.err);
  let label = '';
  let startedAt = 0;
  let drawnAt = Number.NEGATIVE_INFINITY;
  return {
    update: (newLabel, done, total, note = '') => {
      if (newLabel === label && now() - drawnAt < REDRAW_MS) return;
      if (newLabel !== label) [label, startedAt] = [newLabel, now()];
      drawnAt = now();
      const line = `${progressLine({ label, done: Number(done), total: Number(total), elapsedMs: now() - startedAt })}${note}`;
      // A line that wraps would leave all but its last row behind.
      const shown = shortened(line, (streams.err.columns || Number.POSITIVE_INFINITY) - 1);
      streams.err.write(`\r\u001b[2K${shown.replace(/█+/, paint.good)}`);
    },
    clear: () => streams.err.write('\r\u001b[2K'),
  };
}

/** `rows ███████░░░  50,000 of 100,000   12,500/s   4 s left` */
export function progressLine(input: { label: string; done: number; total: number; elapsedMs: number }): string {
  const { label, done, total, elapsedMs } = input;
  const rate = elapsedMs >= RATE_AFTER_MS ? done / (elapsedMs / 1_000) : 0;
  if (total === 0 && done === 0) return `${label} …`;
  if (total === 0) return `${label} ${formatCount(done)}${rate > 0 ? `   ${formatCount(Math.round(rate))}/s` : ''}`;
  const share = Math.min(done / total, 1);
  const bar = '█'.repeat(Math.round(share * BAR_WIDTH)).padEnd(BAR_WIDTH, '░');
  const speed =
    rate > 0 ? `   ${formatCount(Math.round(rate))}/s   ${Math.ceil(Math.max(total - done, 0) / rate)} s left` : '';
  return `${label} ${bar}  ${formatCount(done)} of ${formatCount(total)}${speed}`;
}
