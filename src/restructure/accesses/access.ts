import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../errors.ts';

const callSchema = z.strictObject({ rpc: z.string().min(1), args: z.array(z.string()) });

const tableAccessSchema = z.strictObject({
  table: z.string().min(1),
  /** The schema, where the access asks for another than the one that the API exposes. */
  schema_prefix: z.string().optional(),
  op: z.enum(['select', 'insert', 'update', 'delete', 'upsert', 'other']),
  select: z.string().optional(),
  /** `operator:column`, and `single`, `maybeSingle`, `limit`, `range`; what they compare with is drawn from the database. */
  filters: z.array(z.string()).default([]),
  /** `variable`: whatever the caller has at hand; `...name`: these and whatever is in `name`. */
  columns: z.union([z.array(z.string()), z.literal('variable')]).optional(),
  on_conflict: z.string().optional(),
  ignore_duplicates: z.boolean().default(false),
  returning: z.boolean().default(false),
  count: z.literal('exact').optional(),
  head: z.boolean().default(false),
});

const accessSchema = z.union([callSchema, tableAccessSchema]);
const accessesSchema = z.looseObject({ accesses: z.array(accessSchema) });

/** A call of a function by its name and the names of its arguments. */
export type Call = z.infer<typeof callSchema>;
/** What an application does with a table or a view through PostgREST, but for the values. */
export type TableAccess = z.infer<typeof tableAccessSchema>;
export type Access = Call | TableAccess;

/** The accesses that come with the package: a sample of those of the platform it was written for. */
export const LEGACY_ACCESSES = new URL('../../../fixtures/legacy/accesses.json', import.meta.url);

export const isCall = (access: Access): access is Call => 'rpc' in access;

/** In one line, for people: the operation and what it is about. */
export const nameOfAccess = (access: Access): string =>
  isCall(access) ? `rpc ${access.rpc}` : `${access.op} ${access.table}`;

/**
 * Reads accesses from a JSON file: `{"accesses": [{"table": "orders", "op": "select", "select": "*", "filters": ["eq:id"]}]}`.
 * @throws AppError USAGE, with every fault at once
 */
export async function readAccesses(file: string | URL): Promise<readonly Access[]> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw invalid(file, `cannot be read: ${error.message}`);
  });
  const parsed = accessesSchema.safeParse(parseJson(text, file));
  if (parsed.success) return parsed.data.accesses;
  const faults = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`);
  throw invalid(file, faults.join('; '));
}

function parseJson(text: string, file: string | URL): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(file, `is no JSON: ${(error as Error).message}`);
  }
}

const invalid = (file: string | URL, fault: string): AppError =>
  new AppError('USAGE', `The accesses ${file}: ${fault}. See: liventix restructure accesses record --help`);

/** An access that does not reach the database's API at all, and why. */
export interface NotApplicable {
  readonly number: number;
  readonly access: Access;
  readonly reason: string;
}
