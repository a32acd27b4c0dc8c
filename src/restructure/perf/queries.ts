import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../errors.ts';

/** SQL as a text or in lines, without a semicolon at its end: it is put into other statements. */
const sql = z
  .union([z.string(), z.array(z.string())])
  .transform((text) => (typeof text === 'string' ? text : text.join('\n')).trim().replace(/;$/u, ''))
  .refine((text) => text !== '', 'is empty');

const relationName = z.string().regex(/^[^.]+\.[^.]+$/u, 'is no name with its schema, such as public.orders');

const querySchema = z.strictObject({
  /** By which it is known in both measurings. */
  name: z.string().regex(/^[a-z0-9-]+$/u, 'takes small letters, digits and -'),
  /** What it is for, in words. */
  title: z.string().min(1),
  /** Gives the id of a user: it is asked as him, signed in, and so are its parameters; without it as whoever is connected, whom no policy holds. */
  caller: sql.optional(),
  /** Gives what `$1`, `$2` … stand for, a row each time it is to be asked; the same rows each time on the same data. */
  parameters: sql.optional(),
  before: sql,
  /** The query that gives the same by another way, and the relations that it takes. */
  after: z.strictObject({ needs: z.array(relationName).min(1), sql }).optional(),
  /** Whether the answer's order belongs to the answer. */
  isOrdered: z.boolean().default(false),
  /** So many times as fast it shall be. */
  promised: z.number().gt(1).optional(),
});

const queriesSchema = z.strictObject({
  /** The relations whose rows must be the same in both measurings. */
  tables: z.array(relationName).default([]),
  queries: z.array(querySchema).min(1),
});

export type Query = z.infer<typeof querySchema>;
export type Queries = z.infer<typeof queriesSchema>;

/** The dashboards of the platform that this package was written for. */
export const LIVENTIX_QUERIES = new URL('../../../mappings/liventix-queries.json', import.meta.url);

/**
 * Reads the queries that are to be measured: one JSON file.
 * @throws AppError USAGE, with every fault at once
 */
export async function readQueries(file: string | URL): Promise<Queries> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw invalid(file, `cannot be read: ${error.message}`);
  });
  const parsed = queriesSchema.safeParse(parseJson(text, file));
  if (!parsed.success) {
    const faults = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`);
    throw invalid(file, faults.join('; '));
  }
  const names = parsed.data.queries.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) throw invalid(file, `has two queries ${twice}`);
  return parsed.data;
}

function parseJson(text: string, file: string | URL): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(file, `is no JSON: ${(error as Error).message}`);
  }
}

const invalid = (file: string | URL, fault: string): AppError =>
  new AppError('USAGE', `The queries ${file}: ${fault}. See: liventix restructure perf record --help`);
