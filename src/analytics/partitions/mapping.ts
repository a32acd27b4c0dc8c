import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../errors.ts';

const NAME = z
  .string()
  .regex(
    /^[^.]+\.[^.]+$/,
    'give the schema too, unquoted, with no dot but the one between: analytics.event_impressions',
  );
const COLUMNS = z.array(z.string().min(1)).min(1);

const MOST_MONTHS = 1_200;
const MOST_AHEAD = 24;

const entrySchema = z.strictObject({
  table: NAME,
  /** The column by whose instant rows lie in months. */
  by: z.string().min(1),
  /** Whose months: they begin at midnight there. */
  zone: z.string().default('UTC'),
  /** Null: for ever. */
  keepMonths: z.number().int().min(1).max(MOST_MONTHS).nullable().default(13),
  /** What becomes of months that are older. */
  expired: z.enum(['drop', 'archive']).default('drop'),
  monthsAhead: z.number().int().min(1).max(MOST_AHEAD).default(3),
  /** Of rows that have no instant: an expression over the row. Without it they are refused. */
  whenNull: z.string().min(1).optional(),
  /** Indexes that it gets beside those that it has, as what follows USING: `btree (event_id, created_at)`. */
  indexes: z.array(z.string().min(1)).default([]),
  /** Keys that stay unique over all months, each by a table of its own, beside those that foreign keys refer to. */
  uniqueOverAll: z.array(COLUMNS).default([]),
  /** Tables that hold copies of its rows, begun and never finished. */
  copies: z.array(z.strictObject({ table: NAME, rows: z.enum(['take', 'leave']) })).default([]),
});

const mappingSchema = z.strictObject({ version: z.literal(1), tables: z.array(entrySchema).min(1) });

/** One table that is to be kept by month. */
export type Entry = z.infer<typeof entrySchema>;
export type PartitionsMapping = z.infer<typeof mappingSchema>;

/** The tables of Liventix. */
export const LIVENTIX_PARTITIONS = new URL('../../../mappings/liventix-partitions.json', import.meta.url);

/** @throws AppError PARTITIONS_MAPPING_INVALID, with every fault at once */
export async function readPartitionsMapping(file: string | URL): Promise<PartitionsMapping> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw invalid(file, `it cannot be read: ${error.message}`);
  });
  return parsePartitionsMapping(text, file);
}

/** @throws AppError PARTITIONS_MAPPING_INVALID, with every fault at once */
export function parsePartitionsMapping(text: string, file: string | URL): PartitionsMapping {
  const parsed = mappingSchema.safeParse(parseJson(text, file));
  if (!parsed.success) {
    throw invalid(
      file,
      parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`).join('; '),
    );
  }
  const names = parsed.data.tables.map(({ table }) => table);
  const twice = names.find((name, nth) => names.indexOf(name) !== nth);
  if (twice !== undefined) throw invalid(file, `${twice} is there twice`);
  return parsed.data;
}

function parseJson(text: string, file: string | URL): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(file, `it is no JSON: ${(error as Error).message}`);
  }
}

const invalid = (file: string | URL, fault: string): AppError =>
  new AppError('PARTITIONS_MAPPING_INVALID', `The mapping ${file}: ${fault}. See docs/partitions.md.`);

/** `analytics.event_impressions`, taken apart. */
export function nameParts(name: string): { readonly schema: string; readonly table: string } {
  const [schema = '', table = ''] = name.split('.');
  return { schema, table };
}
