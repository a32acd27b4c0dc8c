import pg from 'pg';
import { qualified } from '../statements.ts';
import { type ApiSchema, primaryKeyOf } from './api-schema.ts';
import type { Comparison } from './filters.ts';
import { type FilterValue, Parameters, type PreparedAccess, type Sql } from './prepared.ts';
import type { BoundCondition, ResolvedEmbed, Resource } from './resource.ts';
import type { SelectItem } from './selection.ts';

const { escapeIdentifier: ident } = pg;

/** What a FROM names, and how columns of it are written. */
interface Source {
  readonly from: string;
  readonly ref: string;
}

/** What SQL is written with: its parameters, and a number for each name that it needs. */
export interface Writing {
  readonly parameters: Parameters;
  names: number;
}

/** The rows of a resource with what is embedded in them, in an order that decides where one was asked for. */
export function readSql(
  resource: Resource,
  about: { readonly schema: ApiSchema; readonly order: readonly string[] } & Pick<PreparedAccess, 'limit' | 'offset'>,
): Sql {
  const writing = { parameters: new Parameters(), names: 0 };
  const source = sourceOf(resource);
  const query = querySql(resource, source, writing);
  const ends = `${orderSql(resource, source, about)}${partSql(about)}`;
  return { text: asJsonRows(`${query}${ends}`), parameters: writing.parameters.values };
}

/** How many rows there are, whatever part of them is read. */
export function countSql(resource: Resource): Sql {
  const writing = { parameters: new Parameters(), names: 0 };
  const query = querySql(resource, sourceOf(resource), writing);
  return { text: `select count(*) as count from (${query}) counted`, parameters: writing.parameters.values };
}

/** Each row of a query as a column `row` of JSON; without an order of its own, the rows stay in that of the query. */
export const asJsonRows = (query: string): string => `select to_jsonb(r)::text as row from (${query}) r`;

function sourceOf({ relation }: Resource): Source {
  const name = qualified(relation.schema, relation.name);
  return { from: name, ref: name };
}

/** The resource's query, up to its conditions; `source` may be other than its relation. */
export function querySql(resource: Resource, source: Source, writing: Writing, joined: readonly string[] = []): string {
  const embeds = resource.embeds.map((embed) => embedSql(embed, source, writing));
  const columns = [...resource.items.map((item) => itemSql(item, source.ref)), ...embeds.map(({ column }) => column)];
  const conditions = [...joined, ...conditionsSql(resource.conditions, source.ref, writing.parameters)];
  const where = conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`;
  return `select ${columns.join(', ')} from ${source.from}${embeds.map(({ join }) => join).join('')}${where}`;
}

function itemSql(item: Exclude<SelectItem, { kind: 'embed' }>, ref: string): string {
  if (item.kind === 'all') return `${ref}.*`;
  const column = `${ref}.${ident(item.column)}`;
  const value = item.cast === undefined ? column : `cast(${column} as ${item.cast})`;
  return item.alias === undefined && item.cast === undefined
    ? value
    : `${value} as ${ident(item.alias ?? item.column)}`;
}

/** The related rows as one column: an object where there is one at most, else an array, in an order that does not depend on the plan. */
function embedSql(embed: ResolvedEmbed, outer: Source, writing: Writing): { column: string; join: string } {
  const { name, isInner, relationship, resource } = embed;
  writing.names += 1;
  const number = writing.names;
  const alias = ident(`${relationship.to.name}_${number}`);
  const junction = relationship.junction && { ...relationship.junction, alias: ident(`junction_${number}`) };
  const target = `${qualified(relationship.to.schema, relationship.to.name)} as ${alias}`;
  const inner =
    junction === undefined
      ? target
      : `${target}, ${qualified(junction.relation.schema, junction.relation.name)} as ${junction.alias}`;
  const equal = (pairs: readonly (readonly [string, string])[], left: string, right: string) =>
    pairs.map(([one, other]) => `${left}.${ident(one)} = ${right}.${ident(other)}`);
  const query = querySql(resource, { from: inner, ref: alias }, writing, [
    ...equal(relationship.pairs, outer.ref, junction?.alias ?? alias),
    ...(junction === undefined ? [] : equal(junction.pairs, junction.alias, alias)),
  ]);
  const result = `embed_${number}`;
  const kind = isInner ? 'inner' : 'left';
  if (relationship.isToOne) {
    const join = ` ${kind} join lateral (${query}) as ${result} on true`;
    return { column: `row_to_json(${result}.*)::jsonb as ${ident(name)}`, join };
  }
  const rows = `select jsonb_agg(e.row order by e.row::text) as rows from (select to_jsonb(i) as row from (${query}) i) e`;
  return {
    column: `coalesce(${result}.rows, '[]') as ${ident(name)}`,
    join: ` ${kind} join lateral (${rows}) as ${result} on ${isInner ? `${result}.rows is not null` : 'true'}`,
  };
}

export const conditionsSql = (
  conditions: readonly BoundCondition[],
  ref: string,
  parameters: Parameters,
): readonly string[] =>
  conditions.map((condition) => {
    const comparisons = condition.map(({ comparison, value }) => comparisonSql(comparison, value, { ref, parameters }));
    return comparisons.length === 1 ? (comparisons[0] ?? '') : `(${comparisons.join(' or ')})`;
  });

const SYMBOLS = { eq: '=', neq: '<>', gt: '>', gte: '>=', lt: '<', lte: '<=', like: 'like', ilike: 'ilike' } as const;

function comparisonSql(
  { operator, column }: Comparison,
  value: FilterValue,
  { ref, parameters }: { ref: string; parameters: Parameters },
): string {
  const left = `${ref}.${ident(column)}`;
  if (operator === 'is') return `${left} is null`;
  if (operator === 'in') return `${left} = any (${parameters.add(value)})`;
  return `${left} ${SYMBOLS[operator]} ${parameters.add(value)}`;
}

/** After what was asked for come the columns of the key, or the whole row, so that rows that are equal in it cannot change places. */
function orderSql(
  { relation }: Resource,
  { ref }: Source,
  { schema, order, limit }: { schema: ApiSchema; order: readonly string[]; limit?: number },
): string {
  if (order.length === 0 && limit === undefined) return '';
  const key = primaryKeyOf(schema, relation);
  const last = key.length === 0 ? [`to_jsonb(${ref}.*)::text`] : key.map((column) => `${ref}.${ident(column)}`);
  return ` order by ${[...order.map((column) => `${ref}.${ident(column)}`), ...last].join(', ')}`;
}

const partSql = ({ limit, offset }: Pick<PreparedAccess, 'limit' | 'offset'>): string =>
  limit === undefined ? '' : ` limit ${Math.trunc(limit)} offset ${Math.trunc(offset ?? 0)}`;
