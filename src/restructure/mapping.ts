import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../errors.ts';
import { replacement, tenancyFaults, tenancySchema } from './tenancy/declaration.ts';
import { narrowTenancy } from './tenancy/narrow.ts';

/** A name of PostgreSQL, as it is written in the catalog: no quotes, at most 63 bytes. */
const name = z
  .string()
  .min(1)
  .refine((text) => Buffer.byteLength(text) <= 63 && !text.includes('\0'), 'is no name of PostgreSQL: 1 to 63 bytes');

const mappingSchema = z.strictObject({
  /** What the plan and its messages call the platform. */
  name: z.string().min(1),
  /** The schema that the tables leave, where views stand in for them. */
  from: name,
  /** Where tables go, in the order in which they go. */
  schemas: z.array(
    z.strictObject({
      name,
      tables: z.array(name),
      /** What the groups may do with tables that are made there later: read and write, only read, or nothing that is not granted by hand. */
      laterTables: z.enum(['write', 'read', 'nothing']).default('write'),
    }),
  ),
  /** Tables that stay, so that nobody wonders whether they were forgotten. */
  stay: z.array(name).default([]),
  /** Whether trigger functions go with their tables: those whose tables all go to one schema, and that no text names. */
  moveTriggerFunctions: z.boolean().default(false),
  /** Functions whose bodies would break behind views, and the definitions that work before and after: `create or replace function`, in lines. */
  replacements: z.array(replacement).default([]),
  roles: z
    .strictObject({
      read: name,
      write: name,
      /** Roles that are put into the group `read`, those of them that there are. */
      readers: z.array(name),
      writers: z.array(name),
    })
    .optional(),
  /** Whose rows are whose. */
  tenancy: tenancySchema.optional(),
  /** What is known to break and is taken care of elsewhere. */
  accept: z.array(z.strictObject({ table: name, finding: z.string(), because: z.string().min(1) })).default([]),
});

export type Mapping = z.infer<typeof mappingSchema>;
/** As it is written, where some of it may be left out. */
export type MappingFile = z.input<typeof mappingSchema>;

/** The mapping that comes with the package: that of the platform it was written for. */
export const LIVENTIX_MAPPING = new URL('../../mappings/liventix.json', import.meta.url);

const LARGEST_MAPPING_BYTES = 10_000_000;

/**
 * Reads a mapping: one JSON file that says which table goes where. Whether its tables exist is not looked at here.
 * @throws AppError RESTRUCTURE_MAPPING_INVALID, with every fault at once
 */
export async function readMapping(file: string | URL): Promise<Mapping> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw invalid(file, `cannot be read: ${error.message}`);
  });
  if (text.length > LARGEST_MAPPING_BYTES) throw invalid(file, 'is larger than any mapping');
  return parseMapping(text, file);
}

export function parseMapping(text: string, file: string | URL): Mapping {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalid(file, `is no JSON: ${(error as Error).message}`);
  }
  const parsed = mappingSchema.safeParse(json);
  if (!parsed.success) {
    const faults = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`);
    throw invalid(file, faults.join('; '));
  }
  const { from, stay } = parsed.data;
  const schemas = parsed.data.schemas.map((schema) => schema.name);
  const theirs = [from, ...schemas].find(isTheirOwn);
  if (theirs !== undefined)
    throw invalid(file, `names the schema ${theirs}, which is not for tables of others: choose another`);
  const twice = schemas.filter((schema, at) => schemas.indexOf(schema) !== at);
  if (twice.length > 0) throw invalid(file, `names the schema ${twice[0]} twice`);
  if (schemas.includes(from)) throw invalid(file, `moves tables of ${from} to ${from}`);
  const both = stay.find((table) => parsed.data.schemas.some(({ tables }) => tables.includes(table)));
  if (both !== undefined) throw invalid(file, `has ${both} under stay and in a schema: leave it where it belongs`);
  for (const replacements of [parsed.data.replacements, parsed.data.tenancy?.functions.replacements ?? []]) {
    const names = replacements.map((each) => each.function);
    const again = names.find((each, at) => names.indexOf(each) !== at);
    if (again !== undefined) throw invalid(file, `replaces ${again} twice`);
  }
  const faults = parsed.data.tenancy === undefined ? [] : tenancyFaults(parsed.data.tenancy);
  if (faults.length > 0) throw invalid(file, faults.join('; '));
  return parsed.data;
}

/** Of ours, those whose functions work on any table, by the name that it has by then. */
export const OF_ANY_TABLE = ['restructure', 'partitions', 'rollups'];

/** Schemas of the server and of ours; `payments` takes the old platform's tables beside the ledger's. */
const THEIR_OWN = [
  ...OF_ANY_TABLE,
  'information_schema',
  'outbox',
  'states',
  'replay',
  'partitions_aside',
  'partitions_archive',
  'console',
];
const isTheirOwn = (schema: string): boolean => schema.startsWith('pg_') || THEIR_OWN.includes(schema);

function invalid(file: string | URL, fault: string): AppError {
  return new AppError(
    'RESTRUCTURE_MAPPING_INVALID',
    `The mapping ${file}: ${fault}. See: liventix restructure plan --help`,
  );
}

/** A table of the mapping, and where it goes. */
export interface Assignment {
  readonly table: string;
  readonly target: string;
}

/** In the order in which they go; a table that is named twice comes twice. */
export const assignmentsOf = (mapping: Mapping): readonly Assignment[] =>
  mapping.schemas.flatMap(({ name: target, tables }) => tables.map((table) => ({ table, target })));

/** The mapping for a database that has only some of the tables: what is said of others, or by them, is left out. */
export function narrowMapping(mapping: Mapping, tables: ReadonlySet<string>): Mapping {
  const isThere = (each: { readonly table: string }) => tables.has(each.table);
  const { tenancy } = mapping;
  return {
    ...mapping,
    schemas: mapping.schemas.map((schema) => ({
      ...schema,
      tables: schema.tables.filter((table) => tables.has(table)),
    })),
    accept: mapping.accept.filter(isThere),
    tenancy: tenancy === undefined ? undefined : narrowTenancy(tenancy, tables),
  };
}
