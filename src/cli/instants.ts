import { InvalidArgumentError } from 'commander';
import { dayAfter, type Instant, isDate, isInstant } from '../ledger/instants.ts';

/** For the help of every command that takes instants. */
export const INSTANTS_HELP =
  'An instant is written with its offset, 2026-03-31T12:00:00Z or 2026-03-31T12:00:00.123456+02:00, or is a date: a day of UTC.';

/** Reads an instant; a date is the beginning of its day. */
export function beginningOf(text: string): Instant {
  return read(text, `${text}T00:00:00Z`);
}

/** Reads an instant up to which something is included; a date is the last microsecond of its day. */
export function endOf(text: string): Instant {
  return read(text, `${text}T23:59:59.999999Z`);
}

/** Reads an instant from which on nothing is included; a date is the beginning of the day after, so that its day is. */
export function afterEndOf(text: string): Instant {
  const next = isDate(text) ? dayAfter(text) : undefined;
  return next === undefined ? endOf(text) : `${next}T00:00:00Z`;
}

function read(text: string, ofDate: Instant): Instant {
  if (isDate(text)) return ofDate;
  if (isInstant(text)) return text;
  throw new InvalidArgumentError(
    'Give an instant with its offset, such as 2026-03-31T12:00:00Z, or a date, such as 2026-03-31.',
  );
}
