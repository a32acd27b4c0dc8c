import pg from 'pg';
import { qualified } from '../statements.ts';
import { type Call, isCall, type TableAccess } from './access.ts';
import { type ApiFunction, type ApiSchema, EXPOSED } from './api-schema.ts';
import { parseFilters } from './filters.ts';
import { isRefusal, type PreparedAccess, type Refusal, type Statement } from './prepared.ts';
import { countSql, readSql } from './read-sql.ts';
import { type Relationship, relationshipsOf } from './relationships.ts';
import { resolveResource } from './resource.ts';
import { parseSelect, type SelectItem } from './selection.ts';
import { writeSql } from './write-sql.ts';

const { escapeIdentifier: ident } = pg;

/** A schema with what follows from it. */
export interface Api {
  readonly schema: ApiSchema;
  readonly relationships: readonly Relationship[];
}

export const apiOf = (schema: ApiSchema): Api => ({ schema, relationships: relationshipsOf(schema) });

/**
 * The SQL that PostgREST would send for an access, or what it would say by itself. In three respects the SQL is other, so that it gives the
 * same each time: an order that was asked for goes on to the key, so does that of rows of which a part is read, and rows embedded in an
 * array are in the order of their text. Pure.
 */
export function translate(api: Api, prepared: PreparedAccess): Statement | Refusal {
  const { access } = prepared;
  return isCall(access) ? translateCall(api.schema, access, prepared) : translateTable(api, access, prepared);
}

const EVERYTHING: readonly SelectItem[] = [{ kind: 'all' }];

function translateTable(api: Api, access: TableAccess, prepared: PreparedAccess): Statement | Refusal {
  const { schema, relationships } = api;
  const relation = schema.exposed.get(access.table);
  if (relation === undefined) return { code: 'no-table', message: `there is no ${EXPOSED}.${access.table}` };
  const items = access.select === undefined ? EVERYTHING : parseSelect(access.select);
  const criteria = parseFilters(access.filters);
  if (items === undefined) return { code: 'unreadable', message: `the select is none of PostgREST: ${access.select}` };
  if (criteria === undefined)
    return { code: 'unreadable', message: `a filter is not known: ${access.filters.join(' ')}` };
  const conditions = criteria.conditions.map((condition, at) =>
    condition.map((comparison, place) => ({ comparison, value: prepared.values[at]?.[place] ?? null })),
  );
  const resource = resolveResource(relation, items, { relationships, conditions });
  if (isRefusal(resource)) return resource;
  const cardinality = criteria.cardinality === undefined ? {} : { cardinality: criteria.cardinality };
  if (access.op !== 'select') {
    const rows = writeSql(resource, access, { schema, ...prepared });
    return isRefusal(rows) ? rows : { rows, isOrdered: false, ...cardinality };
  }
  return {
    ...(access.head ? {} : { rows: readSql(resource, { schema, order: criteria.order, ...prepared }) }),
    ...(access.count === undefined ? {} : { count: countSql(resource) }),
    isOrdered: criteria.order.length > 0 || prepared.limit !== undefined,
    ...cardinality,
  };
}

/** The functions that take these arguments and can do without the others. */
export const functionsFor = ({ functions }: ApiSchema, { rpc, args }: Call): readonly ApiFunction[] =>
  functions.filter(({ name, arguments: taken, defaults }) => {
    const needed = taken.slice(0, taken.length - defaults);
    return (
      name === rpc &&
      args.every((arg) => taken.some((each) => each.name === arg)) &&
      needed.every((each) => args.includes(each.name))
    );
  });

function translateCall(schema: ApiSchema, call: Call, prepared: PreparedAccess): Statement | Refusal {
  const [found, other] = functionsFor(schema, call);
  const signature = `${call.rpc}(${call.args.join(', ')})`;
  if (found === undefined) return { code: 'no-function', message: `there is no ${EXPOSED}.${signature}` };
  if (other !== undefined) return { code: 'ambiguous', message: `more than one function takes ${signature}` };
  const taken = found.arguments.filter(({ name }) => call.args.includes(name));
  const called = qualified(EXPOSED, found.name);
  const row = found.returns === 'void' ? 'null::jsonb' : 'to_jsonb(result)';
  const typed = taken.map(({ name, type }) => `${ident(name)} ${type}`).join(', ');
  const given = taken.map(({ name }) => `${ident(name)} := body.${ident(name)}`).join(', ');
  const body = taken.length === 0 ? '' : `json_to_record($1::json) as body (${typed}), lateral `;
  return {
    rows: {
      text: `select ${row}::text as row from ${body}${called}(${given}) as result`,
      parameters: taken.length === 0 ? [] : [JSON.stringify(prepared.arguments ?? {})],
    },
    isOrdered: false,
  };
}
