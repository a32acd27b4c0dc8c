import { inShell } from '../db/in-shell.ts';
import type { Queryable } from '../db/pool.ts';
import type { StandingStep, StepKind } from './journal.ts';
import { qualified } from './statements.ts';

/** Of steps of these kinds: the kinds of later steps that need them, whatever they were done to. */
const NEEDED_BY: Partial<Record<StepKind, (later: StepKind) => boolean>> = {
  role: () => true,
  member: () => true,
  schema: () => true,
  usage: () => true,
  replacement: () => true,
  // Policies, and the bodies of functions, ask who the caller is.
  'tenant function': (later) => later !== 'tenant function',
  'tenant replacement': (later) => later === 'policies',
  // What a row belongs to is read from the row that it refers to.
  'tenant column': (later) => later === 'tenant column',
};

/**
 * Why a step may not be undone while `later` ones stand, in words; undefined where it may. One busy table keeps what it needs, and no more: steps
 * on the same relation go back in their order, and a table stays while a function of a later step names it where it is.
 */
export async function whatHoldsBack(
  db: Queryable,
  step: StandingStep,
  later: readonly StandingStep[],
): Promise<string | undefined> {
  const byMonth = await keptByMonth(db, step.relations);
  if (byMonth !== undefined)
    return `${byMonth} is kept by month: liventix partitions rollback --table ${inShell(byMonth)}, first`;
  const isNeeded = NEEDED_BY[step.kind];
  const relations = new Set(step.relations);
  const holding = later.findLast(
    ({ kind, relations: others }) => isNeeded?.(kind) || others.some((oid) => relations.has(oid)),
  );
  if (holding !== undefined) return `${holding.kind} ${holding.object} (step ${holding.id}) stands on it`;
  const named = step.kind === 'table' && later.length > 0 ? await functionNaming(db, step.relations) : undefined;
  return named === undefined ? undefined : `${named} names it where it is`;
}

/** A table that another has taken the place of, made of months: what was done to it is undone when it is a plain one again. */
async function keptByMonth(db: Queryable, relations: readonly number[]): Promise<string | undefined> {
  const { rows } = await db.query<{ table: string }>(
    `select format('%s.%s', t.schema_name, t.table_name) as table from partitions.tables t
     where coalesce(t.relation, to_regclass(partitions.name_of(t.id)))::oid = any ($1::oid[])`,
    [relations],
  );
  return rows[0]?.table;
}

/** What bears the name of a table that is kept by month. */
export async function readKeptByMonth(db: Queryable): Promise<ReadonlySet<number>> {
  const { rows: about } = await db.query<{ isThere: boolean }>(
    `select to_regclass('partitions.tables') is not null as "isThere"`,
  );
  if (about[0]?.isThere !== true) return new Set();
  const { rows } = await db.query<{ oid: number }>(
    'select to_regclass(partitions.name_of(t.id))::oid as oid from partitions.tables t',
  );
  return new Set(rows.map(({ oid }) => oid));
}

/** A function whose text has the name of a relation with both its parts quoted, as the functions of our steps have it. */
async function functionNaming(db: Queryable, relations: readonly number[]): Promise<string | undefined> {
  const { rows: places } = await db.query<{ schema: string; name: string }>(
    `select n.nspname as schema, c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any ($1)`,
    [relations],
  );
  const { rows } = await db.query<{ function: string }>(
    `select p.oid::regprocedure::text as function from pg_proc p
     where exists (select from unnest($1::text[]) n (name) where position(n.name in p.prosrc) > 0) order by 1 limit 1`,
    [places.map(({ schema, name }) => qualified(schema, name))],
  );
  return rows[0]?.function;
}
