import { textOf } from './json-text.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const WHOLE_NUMBER = /^-?\d{1,20}$/;
/** Of the most digits an amount has, with its sign. */
const MAX_DIGITS = 20;
export const MAX_CENTS = 2n ** 63n - 1n;

export type Said = ReadonlyMap<string, string>;

/** The UUID that a text is, as PostgreSQL prints it; null where it is none. */
export function uuidOf(text: string | null): string | null {
  if (text === null || UUID.test(text)) return text;
  const lower = text.toLowerCase();
  return UUID.test(lower) ? lower : null;
}

/** The amount that a text is, in 64 bits; null where it is none. */
export function centsOf(text: string | null): bigint | null {
  if (text === null || text.length > MAX_DIGITS || !WHOLE_NUMBER.test(text)) return null;
  const cents = BigInt(text);
  return cents > MAX_CENTS || cents < -MAX_CENTS ? null : cents;
}

export const saidText = (said: Said, key: string): string | null => textOf(said.get(key));
export const saidUuid = (said: Said, key: string): string | null => uuidOf(textOf(said.get(key)));
export const saidCents = (said: Said, key: string): bigint | null => centsOf(textOf(said.get(key)));

/** Of two numbers beyond what Math.max takes. */
export function greaterOf(one: bigint, other: bigint): bigint {
  if (one > other) return one;
  return other;
}

/** A column, what its row has, and what the log says. */
export type Compared = readonly [
  column: string,
  found: string | bigint | null | undefined,
  logged: string | bigint | null | undefined,
];

/** The columns that differ, each with both values; undefined where none does. */
export function differencesOf(compared: readonly Compared[], verb = 'logged was'): string | undefined {
  const differing = compared.filter(
    ([, found, logged]) => (found ?? null)?.toString() !== (logged ?? null)?.toString(),
  );
  if (differing.length === 0) return undefined;
  return differing
    .map(([column, found, logged]) => `${column} is ${shown(found)}, ${verb} ${shown(logged)}`)
    .join(', ');
}

const MOST_SHOWN = 200;

function shown(value: Compared[1]): string {
  const text = value?.toString() ?? 'null';
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}
