import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { type UnderLockOptions, underLock } from '../db/under-lock.ts';
import { AppError } from '../errors.ts';
import type { StepKind } from './journal.ts';
import type { Mapping } from './mapping.ts';
import { type Movable, moveStep, qualified, type Step } from './statements.ts';

/** A table that is to move, as a plan has it. */
export interface Moving {
  readonly table: string;
  readonly target: string;
  /** The table, its partitions and heirs, by oid, itself first. */
  readonly relations: readonly number[];
  readonly fingerprint: string;
}

export interface MoveOptions extends Omit<UnderLockOptions, 'room' | 'what'> {
  readonly mapping: Mapping;
  /** The digest of the plan. */
  readonly plan: string;
}

/**
 * Moves one table, in one transaction that gives way: whoever uses the table waits for at most 50 ms and for as long as the move takes.
 * @returns for how long the table was locked, in ms
 * @throws AppError RESTRUCTURE_BUSY, RESTRUCTURE_TOO_LONG, RESTRUCTURE_DRIFTED, RESTRUCTURE_CHANGED_MORE, DB_*
 */
export async function moveTable(pool: Pool, moving: Moving, options: MoveOptions): Promise<number> {
  const { mapping, plan, ...underLockOptions } = options;
  const object = `${mapping.from}.${moving.table}`;
  return underLock(pool, { room: 'RESTRUCTURE', what: object, ...underLockOptions }, async (tx) => {
    // Under the lock, take_step finds out whether it is still so.
    const { step, sequences } = await readMoveStep(tx, moving, mapping);
    // Asked once before, so that its plan is not made while others wait.
    await tx.query('select restructure.facts_of($1)', [moving.relations]);
    return {
      names: [qualified(mapping.from, moving.table)],
      locksLater: sequences,
      work: () =>
        takeStep(tx, {
          kind: 'table',
          object,
          relations: moving.relations,
          plan,
          expected: moving.fingerprint,
          ...step,
        }),
    };
  });
}

/** The SQL of a move as it would run now, and how many sequences go along, each with a lock of its own. @throws AppError RESTRUCTURE_DRIFTED where a relation of it is gone; DB_* */
export async function readMoveStep(
  db: Queryable,
  { table, target, relations }: Moving,
  mapping: Mapping,
): Promise<{ readonly step: Step; readonly sequences: number }> {
  const { from, roles } = mapping;
  const { rows } = await db.query<Movable & { currentUser: string }>(MOVABLES, [
    relations,
    roles?.readers ?? [],
    roles?.writers ?? [],
    roles?.read,
    roles?.write,
  ]);
  const byOid = new Map(rows.map((row) => [row.oid, row]));
  const movables = relations.flatMap((oid) => byOid.get(oid) ?? []);
  const [first] = movables;
  if (first === undefined || movables.length < relations.length) {
    throw new AppError(
      'RESTRUCTURE_DRIFTED',
      `${from}.${table} is not any more what the plan says: a table of it is gone. Make another: liventix restructure plan`,
    );
  }
  return {
    step: moveStep({ from, target, currentUser: first.currentUser, groups: roles, relations: movables }),
    sequences: movables.reduce((sum, { sequences }) => sum + sequences, 0),
  };
}

/** To become a role takes a right of its own since PostgreSQL 16. */
const TO_BECOME = `case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end`;

/** Of these privileges, those that a group lacks, unless somebody in it, or to be, could not do all of that by itself: nobody gains anything. */
const groupGrantsSql = ({ group, members, privileges }: Record<'group' | 'members' | 'privileges', string>) => `
    array(
      select privilege from unnest(array[${privileges}]) privilege
      where not exists (
          select from pg_roles r left join pg_roles g on g.rolname = ${group}
          cross join unnest(array[${privileges}]) needed
          where (r.rolname = any (${members}::text[])
              or r.oid <> g.oid and not r.rolsuper and (pg_has_role(r.oid, g.oid, 'usage') or pg_has_role(r.oid, g.oid, ${TO_BECOME})))
            and not (has_table_privilege(r.oid, c.oid, needed) and has_schema_privilege(r.oid, c.relnamespace, 'usage')))
        and not exists (
          select from aclexplode(c.relacl) a join pg_roles g on g.oid = a.grantee
          where g.rolname = ${group} and a.privilege_type = upper(privilege))
    )`;

const MOVABLES = `
  select c.oid, c.relname as name, pg_get_userbyid(c.relowner) as owner, current_user as "currentUser",
    array(
      select jsonb_build_object('name', a.attname, 'comment', col_description(c.oid, a.attnum)) from pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
    ) as columns,
    obj_description(c.oid, 'pg_class') as comment,
    exists (select from pg_statistic_ext s where s.stxrelid = c.oid and s.stxnamespace = c.relnamespace) as "hasStatistics",
    (
      select count(*) from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
      where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
    )::int as sequences,
    array(
      select p.pubname::text from pg_publication p join pg_publication_namespace pn on pn.pnpubid = p.oid
      where pn.pnnspid = c.relnamespace and c.relpersistence = 'p' and not exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid)
      order by 1
    ) as "publishedBySchema",
    ${groupGrantsSql({ group: '$4::text', members: '$2', privileges: `'select'` })} as "readGrants",
    ${groupGrantsSql({ group: '$5::text', members: '$3', privileges: `'select', 'insert', 'update', 'delete'` })} as "writeGrants",
    has_schema_privilege(c.relowner, c.relnamespace, 'create') and pg_has_role(c.relowner, ${TO_BECOME}) as "mayOwnView"
  from pg_class c
  where c.oid = any ($1::oid[])`;

/** What restructure.take_step is given. */
export interface TakenStep extends Step {
  readonly kind: StepKind;
  readonly object: string;
  readonly relations: readonly number[];
  readonly plan: string;
  /** Null where no plan says what the relations are. */
  readonly expected: string | null;
}

/** Does a step and writes it into the journal, in the caller's transaction. @throws what the server refuses */
export async function takeStep(tx: Tx, step: TakenStep): Promise<void> {
  await tx.query('select restructure.take_step($1, $2, $3, $4, $5, $6, $7, $8)', [
    step.kind,
    step.object,
    step.relations,
    step.plan,
    step.expected,
    step.statements,
    step.inverse,
    step.mayChange,
  ]);
}
