import { qualified } from '../statements.ts';
import type { Call } from './access.ts';
import { type ApiRelation, EXPOSED } from './api-schema.ts';
import { type Drawing, freshValue } from './drawing.ts';
import { endOfSpan, plainValue } from './plain-values.ts';
import { type SampledRow, seededNumber } from './samples.ts';
import { functionsFor } from './translate.ts';

/** What a function is called with: ids of rows that there are and values that columns of that name hold, else something of the type. */
export async function drawArguments(
  call: Call,
  { drawing, attempt }: { readonly drawing: Drawing; readonly attempt: number },
): Promise<Readonly<Record<string, unknown>>> {
  const seeded = { ...drawing, seed: `${drawing.seed} ${attempt}` };
  const [called] = functionsFor(drawing.schema, call);
  const drawn = await Promise.all(
    call.args.map(async (name) => {
      const type = called?.arguments.find((argument) => argument.name === name)?.type ?? 'text';
      const value = await drawArgument(name, type, seeded);
      // Every other time something that no row has yet: it may have to be unique.
      return [
        name,
        attempt % 2 === 1 && type === 'text' ? freshValue(type, value, `${seeded.seed} ${name}`) : value,
      ] as const;
    }),
  );
  return Object.fromEntries(drawn);
}

/** As many as a list gets. */
const FEW = 3;

async function drawArgument(name: string, type: string, drawing: Drawing): Promise<unknown> {
  const isList = type.endsWith('[]');
  const of = isList ? type.slice(0, -2) : type;
  if (of === 'date' || of.startsWith('timestamp')) return endOfSpan(name) ?? plainValue(of);
  if (/(?:^|_)sql(?:_|$)/u.test(name)) return queryOf(drawing);
  const values = await valuesOf(name, of, drawing);
  if (isList) return values.slice(0, FEW);
  return values[seededNumber(`${drawing.seed} ${name}`, Math.min(FEW, values.length))] ?? plainValue(of);
}

/** For a function that runs what it is given. */
function queryOf({ schema }: Drawing): string {
  const table = [...schema.exposed.values()].find(({ isView }) => !isView);
  return table === undefined
    ? 'select 1 as one'
    : `select count(*) as rows from ${qualified(table.schema, table.name)}`;
}

/** What columns of the argument's name hold, such as `event_id` for `p_event_id`, `p_event` and `p_event_ids`. */
async function valuesOf(name: string, type: string, drawing: Drawing): Promise<readonly unknown[]> {
  const stem = name
    .replace(/^(?:p|in)_/u, '')
    .replace(/\d+/u, '')
    .replace(/_?(?:ids?|uuid)$/u, '');
  // Whoever an id is of that no column is called by, `creator` or `viewer`, is most likely a user.
  const names = stem === '' ? ['id'] : type === 'uuid' ? [`${stem}_id`, stem, 'user_id'] : [stem];
  for (const column of names) {
    const target = referredBy(column, drawing);
    if (target !== undefined) return columnOf(await drawing.samples.rows(target.relation), target.column);
    const holder = holderOf(column, type, drawing);
    if (holder !== undefined) return columnOf(await drawing.samples.rows(holder, { filled: [column] }), column);
  }
  return [];
}

const columnOf = (rows: readonly SampledRow[], column: string): readonly unknown[] => [
  ...new Set(rows.flatMap(({ json }) => json[column] ?? [])),
];

/** What columns of this name refer to, wherever they are. */
function referredBy(column: string, { schema }: Drawing): { relation: ApiRelation; column: string } | undefined {
  const key = schema.foreignKeys.find(({ columns }) => columns.length === 1 && columns[0] === column);
  const relation = key === undefined ? undefined : schema.relations.get(key.to);
  return relation === undefined ? undefined : { relation, column: key?.toColumns[0] ?? 'id' };
}

const holderOf = (column: string, type: string, { schema }: Drawing): ApiRelation | undefined =>
  [...schema.exposed.values()].find(
    (relation) =>
      relation.schema === EXPOSED &&
      !relation.isView &&
      relation.columns.some((each) => each.name === column && each.type === type),
  );
