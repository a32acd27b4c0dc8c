/** Instants as whole microseconds since 2000-01-01T00:00:00Z, as PostgreSQL keeps them and the hashes have them. */
export type Microseconds = bigint;

/** The end of time and its beginning, as PostgreSQL sends `infinity` and `-infinity`. */
const FOREVER = 2n ** 63n - 1n;
const NEVER = -(2n ** 63n);

const INSTANT =
  /^(\d{4,6})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)? ?(?:Z|([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?)( BC)?$/;
const MICROSECONDS_A_SECOND = 1_000_000n;
const DAYS_BEFORE_MONTH = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
/** From year 0, which is 1 BC, to 2000-01-01. */
const DAYS_TO_EPOCH = 730_485;

let [lastText, lastInstant]: [string, Microseconds | undefined] = ['infinity', FOREVER];

/** The instant that a text names with its offset, as PostgreSQL prints it or as ISO 8601 has it; undefined where it names none. */
export function microsecondsOf(text: string): Microseconds | undefined {
  // Most events happen when they are recorded.
  if (text !== lastText) [lastText, lastInstant] = [text, parse(text)];
  return lastInstant;
}

function parse(text: string): Microseconds | undefined {
  if (text === 'infinity') return FOREVER;
  if (text === '-infinity') return NEVER;
  const parts = INSTANT.exec(text);
  if (parts === null) return undefined;
  const number = (nth: number) => Number(parts[nth] ?? 0);
  const year = parts[12] === undefined ? number(1) : 1 - number(1);
  const [month, day, hour, minute, second] = [number(2), number(3), number(4), number(5), number(6)];
  if (month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) return undefined;
  if (minute > 59 || second > 60 || hour * 60 + minute > 24 * 60) return undefined;
  const offset = (parts[8] === '-' ? -1 : 1) * ((number(9) * 60 + number(10)) * 60 + number(11));
  const seconds = daysSinceEpoch(year, month, day) * 86_400 + (hour * 60 + minute) * 60 + second - offset;
  return BigInt(seconds) * MICROSECONDS_A_SECOND + fraction(parts[7] ?? '');
}

function fraction(digits: string): Microseconds {
  return digits.length <= 6 ? BigInt(digits.padEnd(6, '0')) : BigInt(Math.round(Number(`0.${digits}`) * 1e6));
}

const isLeap = (year: number) => (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0;

function daysIn(year: number, month: number): number {
  return month === 2 && isLeap(year) ? 29 : (DAYS_BEFORE_MONTH[month] ?? 365) - (DAYS_BEFORE_MONTH[month - 1] ?? 0);
}

function daysSinceEpoch(year: number, month: number, day: number): number {
  const before = year - 1;
  const leapDays = Math.floor(before / 4) - Math.floor(before / 100) + Math.floor(before / 400) + 1;
  const leapDay = month > 2 && isLeap(year) ? 1 : 0;
  return year * 365 + leapDays + (DAYS_BEFORE_MONTH[month - 1] ?? 0) + leapDay + day - 1 - DAYS_TO_EPOCH;
}

const EPOCH_MS = Date.UTC(2000, 0, 1);
/** The last instant that a JavaScript Date can say, and the first one mirrored. */
const MAX_DATE_MS = 8.64e15;

/** `2026-03-01T00:00:00.000000Z`, as certificates have it. */
export function isoOf(instant: Microseconds): string {
  const belowMs = ((instant % 1_000n) + 1_000n) % 1_000n;
  const ms = Number((instant - belowMs) / 1_000n) + EPOCH_MS;
  if (Math.abs(ms) > MAX_DATE_MS) return instant > 0n ? 'infinity' : '-infinity';
  return new Date(ms).toISOString().replace('Z', `${belowMs.toString().padStart(3, '0')}Z`);
}
