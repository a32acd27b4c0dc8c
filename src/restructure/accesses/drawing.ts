import { createHash } from 'node:crypto';
import type { ApiRelation, ApiSchema } from './api-schema.ts';
import type { Comparison, Condition } from './filters.ts';
import type { FilterValue } from './prepared.ts';
import type { Relationship } from './relationships.ts';
import { type SampledRow, type Samples, seededNumber } from './samples.ts';

/** What values are drawn with. */
export interface Drawing {
  readonly schema: ApiSchema;
  readonly relationships: readonly Relationship[];
  readonly samples: Samples;
  readonly seed: string;
}

/** Where no row says what a column holds. */
const WITHOUT_ROW = 'nothing';

/** What an access's conditions compare with: taken from one row of the table, so that all of them hold for it. */
export async function drawFilterValues(
  relation: ApiRelation,
  conditions: readonly Condition[],
  about: { readonly drawing: Drawing; readonly embedded: ReadonlyMap<string, Relationship> },
): Promise<readonly (readonly FilterValue[])[]> {
  const own = conditions.flat().filter(({ embed }) => embed === undefined);
  const rows = await about.drawing.samples.rows(relation, {
    filled: own.filter(({ operator }) => operator !== 'is').map(({ column }) => column),
    empty: own.filter(({ operator }) => operator === 'is').map(({ column }) => column),
  });
  const drawn: FilterValue[][] = [];
  for (const condition of conditions) {
    const values: FilterValue[] = [];
    for (const comparison of condition) {
      const from = await rowsOf(comparison, rows, about);
      values.push(drawnValue(comparison, from));
    }
    drawn.push(values);
  }
  return drawn;
}

/** The rows that a comparison is about: those of the table, or those that an embedded resource finds from them. */
async function rowsOf(
  { embed }: Comparison,
  rows: readonly SampledRow[],
  { drawing, embedded }: { drawing: Drawing; embedded: ReadonlyMap<string, Relationship> },
): Promise<readonly SampledRow[]> {
  const relationship = embed === undefined ? undefined : embedded.get(embed);
  if (relationship === undefined) return rows;
  const [pair] = relationship.pairs;
  if (pair === undefined || relationship.junction !== undefined) return drawing.samples.rows(relationship.to);
  const related = await Promise.all(
    rows.slice(0, FEW).map((row) => {
      const value = row.texts[pair[0]];
      return value == null ? [] : drawing.samples.rows(relationship.to, { equal: [[pair[1], value]] });
    }),
  );
  return related.flatMap(([first]) => first ?? []);
}

/** As many values as a list gets. */
const FEW = 3;

function drawnValue({ operator, column }: Comparison, rows: readonly SampledRow[]): FilterValue {
  const values = rows.flatMap((row) => row.texts[column] ?? []);
  const [first = WITHOUT_ROW] = values;
  const few = [...new Set(values)].slice(0, FEW).toSorted(byValue);
  switch (operator) {
    case 'is':
      return null;
    case 'in':
      return few.length === 0 ? [WITHOUT_ROW] : few;
    case 'neq':
      return values.find((value) => value !== first) ?? first;
    case 'gt':
    case 'gte':
      return few[0] ?? first;
    case 'lt':
    case 'lte':
      return few.at(-1) ?? first;
    case 'like':
    case 'ilike':
      return `%${first.slice(0, Math.ceil(first.length / 2))}%`;
    default:
      return first;
  }
}

const byValue = (one: string, other: string): number => Number(one) - Number(other) || (one < other ? -1 : 1);

/** A value that no row has yet, made of one that a row has. */
export function freshValue(type: string, like: unknown, seed: string): unknown {
  const digits = createHash('sha256').update(seed).digest('hex');
  if (type === 'uuid') {
    return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-4${digits.slice(13, 16)}-8${digits.slice(17, 20)}-${digits.slice(20, 32)}`;
  }
  if (/^(?:integer|bigint|smallint|numeric)/u.test(type)) return 1_000 + seededNumber(seed, 30_000);
  if (/^(?:text|character|citext|name)/u.test(type)) return freshText(typeof like === 'string' ? like : '', digits);
  return like;
}

/** As long as the other, where it is long enough, and of the same letters: there may be a check. */
function freshText(like: string, digits: string): string {
  const ending = like === like.toUpperCase() ? digits.slice(0, ENDING).toUpperCase() : digits.slice(0, ENDING);
  return like.length > ENDING ? `${like.slice(0, -ENDING)}${ending}` : `${like}${ending}`;
}

const ENDING = 8;
