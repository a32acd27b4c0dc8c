import { formatCount, type Streams } from './output.ts';
import { paintOf } from './paint.ts';
import { shortened } from './table.ts';

const REDRAW_MS = 200;
const BAR_WIDTH = 24;
const TICK_MS = 1_000;
const SHOWN_AFTER_MS = 1_000;
/** Before that, a rate would be a guess. */
const RATE_AFTER_MS = 500;

export interface Progress {
  /** Shows how far `label` is; `total` 0 means unknown. The note may change while the label stays. */
  update(label: string, done: number | bigint, total: number | bigint, note?: string): void;
  /** Ends the bar and leaves no trace of it. */
  clear(): void;
}

const NONE: Progress = { update: () => undefined, clear: () => undefined };

/**
 * One line on a terminal, redrawn in place, with a rate and an estimate, and for how long already where that is all that is known; nothing
 * where nobody watches.
 */
export function createProgress(streams: Streams, now: () => number = () => performance.now()): Progress {
  if (streams.err.isTTY !== true) return NONE;
  const paint = paintOf(streams.colours?.err);
  let label = '';
  let startedAt = 0;
  let drawnAt = Number.NEGATIVE_INFINITY;
  let again: NodeJS.Timeout | undefined;
  let isShown = false;
  const draw = (done: number, total: number, note: string) => {
    drawnAt = now();
    isShown = true;
    const line = `${progressLine({ label, done, total, elapsedMs: now() - startedAt })}${note}`;
    // A line that wraps would leave all but its last row behind.
    const shown = shortened(line, (streams.err.columns || Number.POSITIVE_INFINITY) - 1);
    streams.err.write(`\r\u001b[2K${shown.replace(/█+/, paint.good)}`);
  };
  return {
    update: (newLabel, done, total, note = '') => {
      if (newLabel === label && now() - drawnAt < REDRAW_MS) return;
      if (newLabel !== label) [label, startedAt] = [newLabel, now()];
      draw(Number(done), Number(total), note);
      clearInterval(again);
      // Who waits for one statement is told nothing meanwhile but that time passes.
      again = setInterval(() => draw(Number(done), Number(total), note), TICK_MS).unref();
    },
    clear: () => {
      clearInterval(again);
      if (isShown) streams.err.write('\r\u001b[2K');
      isShown = false;
    },
  };
}

/** For a command that prints while it goes on: on one terminal, the two would write into each other. */
export const createProgressBeside = (streams: Streams): Progress =>
  streams.out.isTTY === true ? NONE : createProgress(streams);

/** Shows that `work` goes on once it has for a second, and for how long: of what answers all at once nobody knows how far it is. */
export async function waitingFor<T>(streams: Streams, label: string, work: () => Promise<T>): Promise<T> {
  const progress = createProgress(streams);
  const late = setTimeout(() => progress.update(label, 0, 0), SHOWN_AFTER_MS).unref();
  try {
    return await work();
  } finally {
    clearTimeout(late);
    progress.clear();
  }
}

/** `rows ███████░░░  50,000 of 100,000   12,500/s   4 s left` */
export function progressLine(input: { label: string; done: number; total: number; elapsedMs: number }): string {
  const { label, done, total, elapsedMs } = input;
  const rate = elapsedMs >= RATE_AFTER_MS ? done / (elapsedMs / 1_000) : 0;
  if (total === 0 && done === 0)
    return `${label} …${elapsedMs >= TICK_MS ? `   ${Math.floor(elapsedMs / 1_000)} s` : ''}`;
  if (total === 0) return `${label} ${formatCount(done)}${rate > 0 ? `   ${formatCount(Math.round(rate))}/s` : ''}`;
  const share = Math.min(done / total, 1);
  const bar = '█'.repeat(Math.round(share * BAR_WIDTH)).padEnd(BAR_WIDTH, '░');
  const speed =
    rate > 0 ? `   ${formatCount(Math.round(rate))}/s   ${Math.ceil(Math.max(total - done, 0) / rate)} s left` : '';
  return `${label} ${bar}  ${formatCount(done)} of ${formatCount(total)}${speed}`;
}
