import pg from 'pg';
import { qualified } from '../statements.ts';
import type { TableAccess } from './access.ts';
import { type ApiSchema, primaryKeyOf } from './api-schema.ts';
import { Parameters, type PreparedAccess, type Refusal, type Sql } from './prepared.ts';
import { asJsonRows, conditionsSql, querySql, type Writing } from './read-sql.ts';
import type { Resource } from './resource.ts';

const { escapeIdentifier: ident } = pg;

type Row = Readonly<Record<string, unknown>>;

/**
 * What is written, by the database roles' own rights, and what comes back of it: the rows that were asked for, or a number for each.
 * The conditions of the resource say which rows are changed or deleted.
 */
export function writeSql(
  resource: Resource,
  access: TableAccess,
  { schema, payload = [] }: { readonly schema: ApiSchema } & Pick<PreparedAccess, 'payload'>,
): Sql | Refusal {
  const { relation } = resource;
  const [first] = payload;
  const unknown = Object.keys(first ?? {}).find((column) => !relation.columns.some(({ name }) => name === column));
  if (unknown !== undefined) return { code: 'no-column', message: `${relation.name} has no column ${unknown}` };
  const writing: Writing = { parameters: new Parameters(), names: 0 };
  const change = changeSql(resource, access, { schema, payload, writing });
  const written = `${change} returning ${returnedColumns(resource, access)}`;
  const alias = ident(relation.name);
  const asked = access.returning
    ? querySql({ ...resource, conditions: [] }, { from: `written as ${alias}`, ref: alias }, writing)
    : 'select 1 as written from written';
  return { text: `with written as (${written}) ${asJsonRows(asked)}`, parameters: writing.parameters.values };
}

interface Change {
  readonly schema: ApiSchema;
  readonly payload: readonly Row[];
  readonly writing: Writing;
}

function changeSql(resource: Resource, access: TableAccess, change: Change): string {
  const table = nameOf(resource);
  const { parameters } = change.writing;
  switch (access.op) {
    case 'delete':
      return `delete from ${table}${whereSql(resource, parameters)}`;
    case 'update':
      return updateSql(resource, change);
    default:
      return `${insertSql(resource, change)}${access.op === 'upsert' ? conflictSql(resource, access, change) : ''}`;
  }
}

const nameOf = ({ relation }: Resource): string => qualified(relation.schema, relation.name);

function whereSql(resource: Resource, parameters: Parameters): string {
  const conditions = conditionsSql(resource.conditions, nameOf(resource), parameters);
  return conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`;
}

/** The body of the request, as a table of the types that the columns have. */
function bodySql({ relation }: Resource, { payload, writing }: Change): { columns: readonly string[]; body: string } {
  const columns = Object.keys(payload[0] ?? {});
  const typed = columns.map((column) => {
    const type = relation.columns.find(({ name }) => name === column)?.type;
    return `${ident(column)} ${type}`;
  });
  const json = writing.parameters.add(JSON.stringify(payload));
  return { columns: columns.map(ident), body: `json_to_recordset(${json}::json) as body (${typed.join(', ')})` };
}

function insertSql(resource: Resource, change: Change): string {
  const { columns, body } = bodySql(resource, change);
  const values = columns.map((column) => `body.${column}`);
  return `insert into ${nameOf(resource)} (${columns.join(', ')}) select ${values.join(', ')} from ${body}`;
}

function updateSql(resource: Resource, change: Change): string {
  const { columns, body } = bodySql(resource, change);
  const sets = columns.map((column) => `${column} = body.${column}`);
  return `update ${nameOf(resource)} set ${sets.join(', ')} from ${body}${whereSql(resource, change.writing.parameters)}`;
}

function conflictSql({ relation }: Resource, access: TableAccess, { schema, payload }: Change): string {
  const target =
    access.on_conflict === undefined || access.on_conflict === '(primary key)'
      ? primaryKeyOf(schema, relation)
      : access.on_conflict.split(',').map((column) => column.trim());
  if (target.length === 0) return '';
  const sets = Object.keys(payload[0] ?? {}).map((column) => `${ident(column)} = excluded.${ident(column)}`);
  const action = access.ignore_duplicates ? 'do nothing' : `do update set ${sets.join(', ')}`;
  return ` on conflict (${target.map(ident).join(', ')}) ${action}`;
}

/** What the answer is made from: the columns asked for, and those by which related rows are found. */
function returnedColumns(resource: Resource, { returning }: TableAccess): string {
  if (!returning) return '1';
  const asked = resource.items.map((item) => (item.kind === 'all' ? '*' : item.column));
  if (asked.includes('*')) return `${nameOf(resource)}.*`;
  const related = resource.embeds.flatMap(({ relationship }) => relationship.pairs.map(([column]) => column));
  const columns = [...new Set([...asked, ...related])];
  return columns.map((column) => `${nameOf(resource)}.${ident(column)}`).join(', ');
}
