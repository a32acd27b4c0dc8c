import { type Argument, InvalidArgumentError, type Option } from 'commander';
import { isUuid } from '../ledger/input.ts';
import { isDate } from '../ledger/instants.ts';

/** A book is an integer of PostgreSQL. */
export const MAX_BOOK = 2_147_483_647;

/** Reads a whole number of an option; anything else is a usage error that names the bounds. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
  };
}

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Reads a time such as `500ms`, `15s`, `5m`, `24h` or `7d`, in milliseconds; anything else is a usage error that names the bounds. */
export function duration(min: string, max: string): (text: string) => number {
  return (text) => {
    const value = durationMs(text);
    if (value >= durationMs(min) && value <= durationMs(max)) return value;
    throw new InvalidArgumentError(`Give a time from ${min} to ${max}, such as 500ms, 15s, 5m, 24h or 7d.`);
  };
}

function durationMs(text: string): number {
  const [, digits = '', unit = ''] = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text) ?? [];
  return Number(digits) * (UNITS_MS[unit] ?? Number.NaN);
}

/** The same the other way round, in the largest unit that is exact. */
export function durationText(ms: number): string {
  const [unit, inMs] = Object.entries(UNITS_MS).findLast(([, each]) => ms % each === 0 && ms >= each) ?? ['ms', 1];
  return `${ms / inMs}${unit}`;
}

/** Reads an amount in minor units, as an account's limit may be: at most 18 digits. */
export function minorUnits(text: string): bigint {
  if (/^-?\d{1,18}$/.test(text)) return BigInt(text);
  throw new InvalidArgumentError('Give a whole number of minor units, at most 18 digits, such as -50000.');
}

/** Reads a day of the calendar; in UTC, whatever the machine's zone. */
export function day(text: string): string {
  if (isDate(text)) return text;
  throw new InvalidArgumentError('Give a day such as 2026-03-01.');
}

/** Reads the id of a user or an organization. */
export function uuid(text: string): string {
  if (isUuid(text)) return text.toLowerCase();
  throw new InvalidArgumentError('Give a UUID such as 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4.');
}

/** Says which values there are: to the help, to completions, and to whoever misspells one. Its own parser refuses others. */
export function known<T extends Argument | Option>(argument: T, names: readonly string[]): T {
  argument.argChoices = [...names];
  return argument;
}

/** Collects an option that may be given several times. */
export const several = (text: string, former: readonly string[] = []): readonly string[] => [...former, text];
