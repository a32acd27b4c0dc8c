import type { Queryable } from '../../db/pool.ts';
import type { Mapping } from '../mapping.ts';
import { qualified, type Step } from '../statements.ts';
import { type Grant, grantsOf, roleName } from './access.ts';
import type { Member } from './ground.ts';

/** What readers keep of each kind of object: all that row security stands before, and what a default needs of its sequence. */
const KEPT: Readonly<Record<Privileged['kind'], readonly string[]>> = {
  table: ['SELECT', 'INSERT', 'UPDATE', 'DELETE'],
  sequence: ['SELECT', 'USAGE'],
};

interface Privileged {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly kind: 'table' | 'sequence';
  readonly isRelation: boolean;
  readonly grants: readonly Grant[];
}

/**
 * Takes from readers what no policy is asked about: TRUNCATE, which empties a table of everybody's rows, TRIGGER, by which others run
 * what the reader wrote, REFERENCES, which tells what there is, MAINTAIN, which locks, and setval() on sequences. Of the table, its
 * partitions, the views that stand in for them, and its sequences.
 * @returns null where readers have none of it
 */
export async function privilegeStep(
  db: Queryable,
  members: readonly Member[],
  mapping: Mapping,
): Promise<(Step & { relations: readonly number[] }) | null> {
  const objects = await readPrivileged(db, members, mapping);
  const readers = new Set([
    'public',
    ...(mapping.roles?.readers ?? []),
    ...(mapping.roles ? [mapping.roles.read] : []),
  ]);
  const taken = objects.flatMap((object) =>
    object.grants
      .filter(({ grantee, privilege }) => readers.has(grantee) && !KEPT[object.kind].includes(privilege))
      .map((grant) => ({ on: `${object.kind} ${qualified(object.schema, object.name)}`, ...grant })),
  );
  if (taken.length === 0) return null;
  return {
    relations: objects.filter(({ isRelation }) => isRelation).map(({ oid }) => oid),
    statements: taken.map(({ privilege, on, grantee }) => `revoke ${privilege} on ${on} from ${roleName(grantee)}`),
    inverse: taken.map(
      ({ privilege, on, grantee, withGrantOption }) =>
        `grant ${privilege} on ${on} to ${roleName(grantee)}${withGrantOption ? ' with grant option' : ''}`,
    ),
    mayChange: ['relation.grants', 'sequence.grants'],
  };
}

async function readPrivileged(
  db: Queryable,
  members: readonly Member[],
  { from }: Mapping,
): Promise<readonly Privileged[]> {
  const { rows } = await db.query<Privileged>(
    `with member as (select c.oid, c.relname from pg_class c where c.oid = any ($1::oid[]))
     select c.oid, n.nspname as schema, c.relname as name, case c.relkind when 'S' then 'sequence' else 'table' end as kind,
       c.relkind <> 'S' as "isRelation",
       ${grantsOf('c.relacl', 'r', 'c.relowner')}
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid in (select oid from member)
       or c.relkind = 'v' and n.nspname = $2 and c.relname in (select relname from member)
       or c.relkind = 'S' and exists (
         select from pg_depend d join member m on d.refobjid = m.oid
         where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i'))
     order by c.relkind = 'S', c.oid`,
    [members.map(({ oid }) => oid), from],
  );
  return rows;
}
