import type { Queryable, Tx } from '../../../src/db/pool.ts';
import { become } from '../callers.ts';
import { factsOf } from './facts.ts';
import type { Person } from './people.ts';

/** A table, or a partition of one, of the legacy database. */
export interface Legacy {
  readonly name: string;
  /** Where it is now. */
  readonly schema: string;
  /** Those that it had before, in order. */
  readonly columns: readonly string[];
}

/** All tables and partitions that the old names still speak of: 148 of them. */
export async function legacyTables(db: Queryable): Promise<readonly Legacy[]> {
  const { rows } = await db.query<Legacy>(
    `select c.relname as name, n.nspname as schema, array(
       select quote_ident(a.attname) from pg_attribute a
       where a.attrelid = to_regclass(format('public.%I', c.relname)) and a.attnum > 0 and not a.attisdropped order by a.attnum
     ) as columns
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relname <> all ($1)
       and (
         c.oid = to_regclass(format('public.%I', c.relname))
         or exists (
           select from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
           where w.ev_class = to_regclass(format('public.%I', c.relname)) and d.refobjid = c.oid and d.refclassid = 'pg_class'::regclass
             and exists (select from pg_class v where v.oid = w.ev_class and v.relkind = 'v')))
     order by 1`,
    [NOT_LEGACY],
  );
  return rows;
}

/** What the migrations made in public. */
const NOT_LEGACY = ['outbox', 'pgmigrations'];

export const oldName = ({ name }: Legacy): string => `public.${name}`;
export const newName = ({ name, schema }: Legacy): string => `${schema}.${name}`;

/** What a caller sees of a table by a name of it: a digest of each row's old columns, sorted; or the code of the refusal. */
export async function seenRows(tx: Tx, from: string, { columns }: Legacy): Promise<readonly string[] | string> {
  await tx.query('savepoint looking');
  try {
    const { rows } = await tx.query<{ seen: string[] }>(
      `select coalesce(array_agg(md5(row(${columns.join(', ')})::text)), '{}') as seen from ${from} t`,
    );
    return (rows[0]?.seen ?? []).toSorted();
  } catch (error) {
    await tx.query('rollback to savepoint looking');
    return (error as { code?: string }).code ?? String(error);
  }
}

/** The same of everybody's rows that the facts allow a person, asked by the superuser. */
export async function allowedRows(tx: Tx, table: Legacy, person: Person): Promise<ReadonlySet<string>> {
  const { rows } = await tx.query<{ allowed: string[] }>(
    `select coalesce(array_agg(md5(row(${table.columns.join(', ')})::text)), '{}') as allowed
     from ${oldName(table)} t where ${allowed(table, person)}`,
  );
  return new Set(rows[0]?.allowed);
}

/** The condition on a row `t` of the old name by which the facts let a person see it. */
export function allowed({ name }: Legacy, person: Person): string {
  if (person.role === 'bypassing_service') return 'true';
  const me = person.userId === undefined ? 'null::uuid' : `'${person.userId}'::uuid`;
  const claimed = person.claim === undefined ? '' : ` and m.org_id::text = '${String(person.claim)}'`;
  const mine = `array(select m.org_id from org_memberships m where m.user_id = ${me}${claimed})`;
  const { organization, users = [], sponsor, open } = factsOf(name);
  return [
    ...(organization === undefined ? [] : [`${organization} = any (${mine})`]),
    ...users.map((user) => `${user} = ${me}`),
    ...(sponsor === undefined
      ? []
      : [`${sponsor} in (select m.sponsor_id from sponsor_members m where m.user_id = ${me})`]),
    ...(open === undefined ? [] : [open.replaceAll(/\bME\b/gu, me).replaceAll(/\bMINE\b/gu, mine)]),
    'false',
  ]
    .map((condition) => `(${condition})`)
    .join(' or ');
}

/** Runs `work` in a transaction that is a person's, and is undone. */
export async function asPerson<T>(tx: Tx, person: Person, work: () => Promise<T>): Promise<T> {
  await tx.query('begin');
  try {
    await become(tx, person);
    return await work();
  } finally {
    await tx.query('rollback');
  }
}
