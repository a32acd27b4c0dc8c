const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** The waits after the first, second, … failed attempt; https://www.standardwebhooks.com recommends this schedule. */
export const STANDARD_RETRY_DELAYS_MS: readonly number[] = [
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
];

/** An endpoint may ask for patience, not for oblivion. */
export const MAX_RETRY_AFTER_MS = 24 * HOUR;

const JITTER = 0.2;

export interface RetryInput {
  /** The number of the attempt that failed, from 1, among those that the endpoint had a part in. */
  readonly scheduleAttempt: number;
  readonly delaysMs: readonly number[];
  /** From 0 to below 1. */
  readonly random: number;
  /** What the endpoint's Retry-After asked for. */
  readonly retryAfterMs: number | undefined;
}

/**
 * How long to wait before the next attempt: the schedule's delay ±20 %, so that what failed together does not come back
 * together, and never less than what Retry-After asked for.
 * @returns undefined when the schedule is used up: the delivery is dead.
 */
export function retryDelayMs(input: RetryInput): number | undefined {
  const scheduled = input.delaysMs[input.scheduleAttempt - 1];
  if (scheduled === undefined) return undefined;
  const jittered = scheduled * (1 + JITTER * (2 * input.random - 1));
  return Math.round(Math.max(jittered, Math.min(input.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS)));
}

/** Retry-After in either of its forms, seconds or a date (RFC 9110, section 10.2.3); undefined when it is neither. */
export function parseRetryAfterMs(header: string | undefined, now: Date): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,10}$/.test(text)) return Number(text) * SECOND;
  const at = parseHttpDate(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now.getTime());
}

// Also in the two obsolete forms, which a recipient has to read (RFC 9110, section 5.6.7); always in UTC.
const HTTP_DATES = [
  /^[A-Z][a-z]{2}, (?<day>\d{2}) (?<month>[A-Z][a-z]{2}) (?<year>\d{4}) (?<time>[\d:]{8}) GMT$/,
  /^[A-Z][a-z]+day, (?<day>\d{2})-(?<month>[A-Z][a-z]{2})-(?<year>\d{2}) (?<time>[\d:]{8}) GMT$/,
  /^[A-Z][a-z]{2} (?<month>[A-Z][a-z]{2}) (?<day>[ \d]\d) (?<time>[\d:]{8}) (?<year>\d{4})$/,
];

function parseHttpDate(text: string): number {
  for (const form of HTTP_DATES) {
    const { day, month, year, time } = form.exec(text)?.groups ?? {};
    if (year !== undefined) return Date.parse(`${day} ${month} ${year.padStart(4, '20')} ${time} GMT`);
  }
  return Number.NaN;
}
