import type { Queryable } from '../db/pool.ts';
import { isInvalidParameter } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { Machine } from './machine.ts';

const MAX_SHOWN_NAME = 100;

/** A table that a machine can be installed on. */
export interface MachineTable {
  readonly oid: string;
  /** With its schema, quoted where it must be. */
  readonly name: string;
  /** Whether it has a column `state` of the machine's type: it was begun before. */
  readonly hasState: boolean;
}

/**
 * The table of a name, which must have what the machine's declaration speaks of.
 * @throws AppError STATE_TABLE_UNSUITABLE, DB_*
 */
export async function getMachineTable(db: Queryable, machine: Machine, name: string): Promise<MachineTable> {
  const rows = await findTable(db, name);
  const [found] = rows;
  const fault = found === undefined ? 'there is no such table' : faultOf(machine, found);
  if (found === undefined || fault !== undefined) {
    throw new AppError(
      'STATE_TABLE_UNSUITABLE',
      `Machine ${machine.name} cannot be installed on ${name.slice(0, MAX_SHOWN_NAME)}: ${fault}.`,
    );
  }
  return { oid: found.oid, name: found.name, hasState: found.columns['state'] !== undefined };
}

interface Found {
  readonly oid: string;
  readonly name: string;
  readonly kind: string;
  readonly columns: Readonly<Record<string, string>>;
  readonly hasChildren: boolean;
}

async function findTable(db: Queryable, name: string): Promise<readonly Found[]> {
  try {
    const { rows } = await db.query<Found>(
      `with named as (
         select case when cardinality(parse_ident($1)) <= 2 then to_regclass($1) end::oid as oid
       )
       select c.oid::text as oid, format('%I.%I', n.nspname, c.relname) as name, c.relkind as kind, (
         select coalesce(jsonb_object_agg(a.attname, format_type(a.atttypid, null)), '{}') from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
         exists (select from pg_inherits i where i.inhparent = c.oid) as "hasChildren"
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       -- A table that moved into another schema left a view under its old name, which is called as it is.
       where c.oid = coalesce((
         select t.oid
         from named
         join pg_class v on v.oid = named.oid and v.relkind = 'v'
         join pg_rewrite w on w.ev_class = v.oid
         join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
         join pg_class t on t.oid = d.refobjid and t.relkind in ('r', 'p') and t.relname = v.relname
         limit 1
       ), (select oid from named))`,
      [name],
    );
    return rows;
  } catch (error) {
    // A text that no identifier can be read from names no table either.
    if (isInvalidParameter(error)) return [];
    throw error;
  }
}

function faultOf(machine: Machine, table: Found): string | undefined {
  const { kind, columns, hasChildren } = table;
  // Of a partitioned one a row that moves is deleted and inserted anew, which would end its history.
  if (kind === 'p') return 'it is partitioned';
  if (kind !== 'r') return 'it is not a table';
  if (hasChildren) return 'it has children by inheritance, whose rows no trigger of it would see';
  if (columns['id'] !== 'uuid') return 'it has no column id of type uuid';
  const missing = columnsOf(machine).filter((column) => columns[column] === undefined);
  if (missing.length > 0) return `it has no column ${missing.join(', ')}`;
  const { state } = columns;
  if (state !== undefined && state !== `states.${machine.name}_state`) {
    return `its column state is ${state}, and not states.${machine.name}_state`;
  }
  return undefined;
}

/** The columns of the row that a declaration speaks of. */
function columnsOf({ old, guards, money, roles, organization }: Machine): readonly string[] {
  const sql = JSON.stringify([roles, money, old?.withoutLabel]);
  const spokenOf = [...sql.matchAll(/\brow\.(\w+)/g)].map(([, column = '']) => column);
  const compared = guards.flatMap(({ column, than }) => (typeof than === 'number' ? [column] : [column, than.column]));
  return [
    ...new Set([
      ...(old === undefined ? [] : [old.column]),
      ...(organization === undefined ? [] : [organization.column]),
      ...compared,
      ...spokenOf,
    ]),
  ].sort();
}
