import { z } from 'zod';

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
