import type { TableAccess } from './access.ts';
import { type ApiRelation, type ForeignKey, primaryKeyOf } from './api-schema.ts';
import { type Drawing, freshValue } from './drawing.ts';
import { plainValue } from './plain-values.ts';
import { type SampledRow, seededNumber } from './samples.ts';

type Row = Readonly<Record<string, unknown>>;

/** So many columns does an update get that says `variable`. */
const SEVERAL = 4;

/**
 * Rows that an access could write: values of existing rows, other ones where they have to be unique, existing rows where they refer to
 * some. Whether the database takes them has to be tried out; the first attempt is the most plausible.
 */
export async function drawPayload(
  relation: ApiRelation,
  access: TableAccess,
  { drawing, attempt }: { readonly drawing: Drawing; readonly attempt: number },
): Promise<readonly Row[]> {
  const columns = writtenColumns(relation, access, drawing);
  const rows = await drawing.samples.rows(relation, { filled: columns });
  // An update writes what another row has.
  const offset = access.op === 'update' ? 1 : 0;
  const like = rows[(attempt + offset) % Math.max(1, rows.length)];
  const fresh = await freshRow(relation, columns, { drawing, like, seed: `${drawing.seed} ${attempt}`, attempt });
  // One row that is there, and one that is not.
  return access.op === 'upsert' && like !== undefined ? [rowLike(columns, like), fresh] : [fresh];
}

const rowLike = (columns: readonly string[], { json }: SampledRow): Row =>
  Object.fromEntries(columns.map((column) => [column, json[column] ?? null]));

/** Those that the access names, in its order; `variable` ones are those that a row needs, or some that an update may change. */
function writtenColumns(relation: ApiRelation, { op, columns = [] }: TableAccess, drawing: Drawing): readonly string[] {
  const named = columns === 'variable' ? [] : columns.filter((column) => !column.startsWith('...'));
  if (columns !== 'variable' && named.length === columns.length) return named;
  const keys = uniqueColumns(relation, drawing);
  const writable = relation.columns.filter(({ isGenerated }) => !isGenerated).map(({ name }) => name);
  const free = writable.filter((column) => !keys.has(column));
  const isNumbered = (column: string) => primaryKeyOf(drawing.schema, relation).includes(column) && column === 'id';
  const rest =
    op === 'update'
      ? free.slice(seededNumber(drawing.seed, Math.max(1, free.length - SEVERAL))).slice(0, SEVERAL)
      : writable.filter((column) => op === 'upsert' || !isNumbered(column));
  return [...new Set([...named, ...rest])];
}

const uniqueColumns = ({ oid }: ApiRelation, { schema }: Drawing): ReadonlySet<string> =>
  new Set(schema.uniqueKeys.filter(({ relation }) => relation === oid).flatMap(({ columns }) => columns));

interface Fresh {
  readonly drawing: Drawing;
  readonly like: SampledRow | undefined;
  readonly seed: string;
  readonly attempt: number;
}

async function freshRow(relation: ApiRelation, columns: readonly string[], fresh: Fresh): Promise<Row> {
  const entries = await Promise.all(
    columns.map(async (column) => [column, await freshColumn(relation, column, fresh)] as const),
  );
  return Object.fromEntries(entries);
}

/** What a column gets in a row that is new: what another row has in it, or something else where two rows must not have the same. */
async function freshColumn(relation: ApiRelation, column: string, fresh: Fresh): Promise<unknown> {
  const { drawing, like, seed, attempt } = fresh;
  const value = like === undefined ? plainColumn(relation, column) : (like.json[column] ?? null);
  const keys = drawing.schema.uniqueKeys.filter((key) => key.relation === relation.oid && key.columns.includes(column));
  const reference = referenceOf(relation, column, drawing);
  if (reference !== undefined) {
    const isKept = attempt === 0 && like !== undefined && keys.length === 0;
    return isKept || value === null ? value : referredValue(reference, value, fresh, `${seed} ${column}`);
  }
  // Of a key that refers to something, another reference is enough.
  const isFresh = keys.some(({ columns }) =>
    columns.every((each) => referenceOf(relation, each, drawing) === undefined),
  );
  const type = relation.columns.find(({ name }) => name === column)?.type;
  return isFresh && value !== null && type !== undefined ? freshValue(type, value, `${seed} ${column}`) : value;
}

const referenceOf = ({ oid }: ApiRelation, column: string, { schema }: Drawing): ForeignKey | undefined =>
  schema.foreignKeys.find(({ from, columns }) => from === oid && columns.length === 1 && columns[0] === column);

async function referredValue(key: ForeignKey, value: unknown, { drawing }: Fresh, seed: string): Promise<unknown> {
  const target = drawing.schema.relations.get(key.to);
  const rows = target === undefined ? [] : await drawing.samples.rows(target);
  return rows[seededNumber(seed, rows.length)]?.json[key.toColumns[0] ?? ''] ?? value;
}

const plainColumn = (relation: ApiRelation, column: string): unknown => {
  const type = relation.columns.find(({ name }) => name === column)?.type;
  return type === undefined ? 'nothing' : plainValue(type);
};
