import { z } from 'zod';
import { isStorableText } from '../db/json-value.ts';
import { dayAfter, type Instant, isDate, isInstant } from '../ledger/instants.ts';

const MAX_BOOK = 2_147_483_647;
const MAX_CURSOR_LENGTH = 2_000;

/** What every list takes: where the page before ended, and whether all of it is wanted as a file. */
export const LIST_FIELDS = {
  after: z.string().max(MAX_CURSOR_LENGTH, 'this is no place in a list').optional(),
  export: z.enum(['csv', 'json'], { error: 'csv or json' }).optional(),
} as const;

const wholeNumber = (max: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, { error: `a whole number from 1 to ${max}` })
    .transform(Number)
    .refine((value) => value >= 1 && value <= max, { error: `a whole number from 1 to ${max}` });

export const bookNumber = wholeNumber(MAX_BOOK);

/** A number of a row that the database counts, as text: it may pass 2^53. */
export const rowNumber = z.string().regex(/^[1-9]\d{0,17}$/, { error: 'a whole number' });

export const uuid = z
  .string()
  .regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i, {
    error: 'an id such as 0198c5e2-3b7a-7c1d-9f00-5a6b7c8d9e0f',
  })
  .transform((id) => id.toLowerCase());

/** An instant by the database's clock, as a page of ours wrote it into its form. */
export const serverInstant = z
  .string()
  .regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/, { error: 'an instant' })
  .refine((text) => !Number.isNaN(Date.parse(text)), { error: 'an instant' });

const A_MOMENT = 'a day of UTC such as 2026-03-31, or an instant with its offset such as 2026-03-31T12:00:00Z';

const moment = (ofDate: (date: string) => Instant) =>
  z
    .string()
    .refine((text) => isDate(text) || isInstant(text), { error: A_MOMENT })
    .transform((text) => (isDate(text) ? ofDate(text) : text));

/** From when on, included: of a day, its beginning. */
export const since = moment((date) => `${date}T00:00:00Z`);

/** Until when, not included: of a day, its end. */
export const until = moment((date) => {
  const next = dayAfter(date);
  return next === undefined ? `${date}T23:59:59.999999Z` : `${next}T00:00:00Z`;
});

/** Text that PostgreSQL can keep, and so find. */
export const text = (most: number) =>
  z
    .string()
    .max(most, { error: `at most ${most} characters` })
    .refine(isStorableText, { error: 'text without U+0000' });
