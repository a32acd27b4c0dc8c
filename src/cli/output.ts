import { once } from 'node:events';
import { Writable } from 'node:stream';
import type { AppError } from '../errors.ts';
import { type Paint, paintOf } from './paint.ts';

/** Where a command writes: data to `out`, everything else to `err`. */
export interface Streams {
  readonly out: { write(text: string | Uint8Array): unknown; readonly isTTY?: boolean; readonly columns?: number };
  readonly err: { write(text: string): unknown; readonly isTTY?: boolean; readonly columns?: number };
  /** Which of them are coloured, each by itself; neither, when left out. */
  readonly colours?: { readonly out: boolean; readonly err: boolean };
}

/** How data for people is coloured; JSON and CSV never are. */
export const paintOut = ({ colours }: Streams): Paint => paintOf(colours?.out);

/** The one line that a user sees of a failure: code, what, what to do. */
export function errorLine(error: AppError, paint: Paint = paintOf(false)): string {
  return `liventix: ${paint.bad(error.code)}: ${error.message}\n`;
}

/** `1234567n` with exponent 2 → `12,345.67`. */
export function formatMoney(amountCents: bigint, exponent = 2): string {
  const digits = (amountCents < 0n ? -amountCents : amountCents).toString().padStart(exponent + 1, '0');
  const whole = digits.slice(0, digits.length - exponent).replace(/\B(?=(\d{3})+$)/g, ',');
  const fraction = exponent === 0 ? '' : `.${digits.slice(-exponent)}`;
  return `${amountCents < 0n ? '-' : ''}${whole}${fraction}`;
}

export function formatCount(count: number | bigint): string {
  return count.toString().replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Writes, and waits while whoever reads is behind: however much is written, little of it is in memory. */
export async function writeOut(out: Streams['out'], text: string | Uint8Array, signal: AbortSignal): Promise<void> {
  if (out.write(text) === false && out instanceof Writable && !signal.aborted) await once(out, 'drain', { signal });
}
