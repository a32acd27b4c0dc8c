import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../errors.ts';

const MOST_BYTES = 40;

/** Of a rollup and its columns: what is made of it has longer names. */
const name = z
  .string()
  .refine(
    (text) => /^[a-z][a-z0-9_]*$/.test(text) && text.length <= MOST_BYTES,
    `is no name of a rollup: a small letter, then small letters, digits or _, at most ${MOST_BYTES}`,
  );
/** Of a column that is there already. */
const column = z.string().min(1).max(63);
const qualifiedName = z
  .string()
  .refine((text) => /^[^."]+\.[^."]+$/.test(text), 'is no table with its schema, such as analytics.impressions');
const lines = z
  .array(z.string())
  .min(1)
  .transform((each) => each.join('\n'));

const rollupSchema = z.strictObject({
  name,
  /** The schema that the rollup is made in, which is there. */
  schema: z.string().min(1),
  /** A key of `tables`. */
  of: z.string(),
  /** A timestamp with time zone, by whose day the rows are grouped. */
  time: column,
  /** Where the days begin. */
  zone: z.string().min(1).default('UTC'),
  group: z.array(column).min(1),
  /** What the number of rows is called. */
  count: name,
  /** How many different values of an SQL expression over the row's columns there are; null is none. Exact. */
  distinct: z.strictObject({ name, of: z.string().min(1) }).optional(),
  /** How many rows have a boolean column true. */
  countIf: z.array(z.strictObject({ name, column })).default([]),
  /** Of whole numbers and numerics: the sum, how many are not null, and what of the two comes to an average. */
  measures: z.array(z.strictObject({ column, sum: name, count: name, average: name })).default([]),
  /** The median of a number column, to 1 %. */
  median: z.strictObject({ name, column }).optional(),
  readers: z.strictObject({
    /** Roles that read every row. */
    all: z.array(z.string()).default([]),
    /** Roles that read the rows whose column is among what a query returns, which is run as the owner: it says for whom the caller acts. */
    some: z.array(z.strictObject({ roles: z.array(z.string()).min(1), column, among: lines })).default([]),
  }),
});

const viewSchema = z.strictObject({
  name,
  schema: z.string().min(1),
  /** The columns of a unique index: what a refresh beside readers finds its rows by. */
  unique: z.array(name).min(1),
  everyMinutes: z.int().min(1).max(10_080).default(60),
  /** Roles that may read it; it knows no policies. */
  readers: z.array(z.string()).default([]),
  query: lines,
});

const declarationsSchema = z.strictObject({
  /** By a name that queries write as {name}: where a table may be, the first that is one. */
  tables: z.record(z.string(), z.array(qualifiedName).min(1)),
  rollups: z.array(rollupSchema),
  views: z.array(viewSchema).default([]),
});

export type Declarations = z.infer<typeof declarationsSchema>;
export type Rollup = Declarations['rollups'][number];
export type RefreshedView = Declarations['views'][number];

/** The declarations that come with the package: those of the platform it was written for. */
export const LIVENTIX_ROLLUPS = new URL('../../../mappings/liventix-rollups.json', import.meta.url);

const LARGEST_FILE_BYTES = 1_000_000;

/**
 * Reads which rollups and views there are to be. Whether their tables exist is not looked at here.
 * @throws AppError ROLLUP_DECLARATION_INVALID, with every fault at once
 */
export async function readDeclarations(file: string | URL): Promise<Declarations> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw invalidDeclaration(`The file ${file} cannot be read: ${error.message}.`);
  });
  if (text.length > LARGEST_FILE_BYTES) throw invalidDeclaration(`The file ${file} is larger than any declaration.`);
  return parseDeclarations(text, file);
}

export function parseDeclarations(text: string, file: string | URL): Declarations {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalidDeclaration(`The file ${file} is no JSON: ${(error as Error).message}.`);
  }
  const parsed = declarationsSchema.safeParse(json);
  const faults = parsed.success
    ? faultsOf(parsed.data)
    : parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`);
  if (!parsed.success || faults.length > 0) throw invalidDeclaration(`The file ${file}: ${faults.join('; ')}.`);
  return parsed.data;
}

function faultsOf({ tables, rollups, views }: Declarations): readonly string[] {
  const twice = (kind: string, names: readonly string[]) =>
    names.filter((each, at) => names.indexOf(each) !== at).map((each) => `${kind} ${each} is there twice`);
  return [
    ...twice(
      'the rollup or view',
      [...rollups, ...views].map((each) => each.name),
    ),
    ...rollups.flatMap((rollup) => twice(`in ${rollup.name} the column`, columnsOf(rollup))),
    ...rollups
      .filter(({ of }) => !Object.hasOwn(tables, of))
      .map((each) => `${each.name} is of ${each.of}, which is not in tables`),
    ...rollups.flatMap(({ name: rollup, group, readers }) =>
      readers.some
        .filter((each) => !group.includes(each.column))
        .map((each) => `readers of ${rollup} go by ${each.column}, which it is not grouped by`),
    ),
  ];
}

/** Every column of the rollup's table that the declaration names. */
const columnsOf = ({ group, count, distinct, countIf, measures, median }: Rollup): readonly string[] => [
  'cell',
  'day',
  ...group,
  count,
  ...(distinct === undefined ? [] : [distinct.name]),
  ...countIf.map((each) => each.name),
  ...measures.flatMap((each) => [each.sum, each.count, each.average]),
  ...(median === undefined ? [] : [median.name]),
];

export const invalidDeclaration = (fault: string): AppError =>
  new AppError('ROLLUP_DECLARATION_INVALID', `${fault} See: liventix rollups plan --help`, { details: { fault } });
