import type { Queryable } from '../../db/pool.ts';
import type { Mapping } from '../mapping.ts';
import { qualified, type Step } from '../statements.ts';
import { type Grant, grantsOf, roleName } from './access.ts';

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
 * what the reader wrote, REFERENCES, which tells what there is, MAINTAIN, which locks, and setval() on sequences. Of the relations, the
 * views that stand in for them, and their sequences, all of which it covers.
 * @returns null where readers have none of it
 */
export async function privilegeStep(
  db: Queryable,
  relations: readonly number[],
  mapping: Mapping,
): Promise<(Step & { relations: readonly number[]; covers: readonly number[] }) | null> {
  const { rows: objects } = await db.query<Privileged>(PRIVILEGED, [relations, mapping.from]);
  const readers = readersOf(mapping);
  const taken = objects.flatMap((object) =>
    object.grants
      .filter(({ grantee, privilege }) => readers.includes(grantee) && !KEPT[object.kind].includes(privilege))
      .map((grant) => ({ on: `${object.kind} ${qualified(object.schema, object.name)}`, ...grant })),
  );
  if (taken.length === 0) return null;
  return {
    relations: objects.filter(({ isRelation }) => isRelation).map(({ oid }) => oid),
    covers: objects.map(({ oid }) => oid),
    statements: taken.map(({ privilege, on, grantee }) => `revoke ${privilege} on ${on} from ${roleName(grantee)}`),
    inverse: taken.map(
      ({ privilege, on, grantee, withGrantOption }) =>
        `grant ${privilege} on ${on} to ${roleName(grantee)}${withGrantOption ? ' with grant option' : ''}`,
    ),
    mayChange: ['relation.grants', 'sequence.grants'],
  };
}

const readersOf = ({ roles }: Mapping): readonly string[] => [
  'public',
  ...(roles === undefined ? [] : [roles.read, ...roles.readers]),
];

const PRIVILEGED = `
  with member as (select c.oid, c.relname from pg_class c where c.oid = any ($1::oid[]))
  select c.oid, n.nspname as schema, c.relname as name, case c.relkind when 'S' then 'sequence' else 'table' end as kind,
    c.relkind <> 'S' as "isRelation",
    ${grantsOf('c.relacl', 'r', 'c.relowner')}
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.oid in (select oid from member)
    or c.relkind = 'v' and n.nspname = $2 and c.relname in (select relname from member)
    or c.relkind = 'S' and exists (
      select from pg_depend d join member m on d.refobjid = m.oid
      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i'))
  order by c.relkind = 'S', c.oid`;

/** A relation or a sequence. */
export interface Other {
  /** Of a sequence that is a relation's, that one. */
  readonly oid: number;
  readonly object: string;
  readonly owner: string;
  readonly isOurs: boolean;
}

/**
 * What else there is in the schema that tables leave, and where they go, that readers may do more with than they should: tables that are
 * nobody's, views, sequences. Tables first: what stands in for one, and its sequences, go with it.
 */
export async function otherPrivileged(
  db: Queryable,
  mapping: Mapping,
  members: readonly number[],
): Promise<readonly Other[]> {
  const { rows } = await db.query<Other>(
    `select coalesce(its.relation, c.oid) as oid, format('%s.%s', n.nspname, c.relname) as object, pg_get_userbyid(c.relowner) as owner, pg_has_role(c.relowner, 'usage') as "isOurs"
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     left join lateral (
       select d.refobjid as relation from pg_depend d
       where c.relkind = 'S' and d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
       limit 1
     ) its on true
     where n.nspname = any ($1) and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S') and coalesce(its.relation, c.oid) <> all ($2::oid[])
       and exists (
         select from aclexplode(c.relacl) g
         where case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end = any ($3)
           and g.privilege_type <> all (case c.relkind when 'S' then $4::text[] else $5::text[] end))
       and not exists (
         select from pg_depend d
         where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')
     order by array_position(array['r', 'p', 'f', 'v', 'm', 'S'], c.relkind::text), 2`,
    [
      [mapping.from, ...mapping.schemas.map(({ name }) => name)],
      members,
      readersOf(mapping),
      KEPT.sequence,
      KEPT.table,
    ],
  );
  return rows;
}
