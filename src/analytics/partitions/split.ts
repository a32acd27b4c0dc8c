import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { beginCopy, type Copying, copyAll, drainAll, drainMost, endCopy, type FromTo } from './copy.ts';
import { readFacts, type TableFacts } from './facts.ts';
import { finishTable } from './leaf.ts';
import { type Entry, nameParts } from './mapping.ts';
import { addMonths, type Month, monthsBetween } from './months.ts';
import { ident, literal, qualified, STAGE, stagedName } from './names.ts';
import { compareCopy } from './proof.ts';
import { runUntilStopped } from './stopped.ts';
import { setAside } from './take-place.ts';

export interface Splitting extends Copying {
  readonly entry: Entry;
  /** The name of the partition that is split, in the table's schema: the past, or that of rows which lay in no month. */
  readonly partition: string;
  /** What it is split into: asked while the months stay as they are. */
  readonly planLeaves: (tx: Tx) => Promise<readonly Leaf[]>;
}

/** A partition that rows are copied to. Without an end it is the default one. */
export interface Leaf {
  /** What its name ends in. */
  readonly suffix: string;
  readonly from: Month | null;
  readonly until: Month | null;
}

/** No more months than these are made of a past that is kept for ever: what is older stays together. */
const MOST_MONTHS = 120;
const OTHERS: Leaf = { suffix: 'other', from: null, until: null };

const leafOf = (month: Month): Leaf => ({
  suffix: month.slice(0, 7).replace('-', ''),
  from: month,
  until: addMonths(month, 1),
});

/** The leaves of rows that lay in no month. */
export const leavesOfStrays = (months: readonly Month[]): readonly Leaf[] => [...months.map(leafOf), OTHERS];

/**
 * Makes months of a partition, beside whoever writes, and lets them take its place in one short transaction. What was split is set aside.
 * @returns for how long the table was locked, in ms
 * @throws AppError PARTITIONS_BUSY, PARTITIONS_TOO_LONG, PARTITIONS_DRIFTED, PARTITIONS_DIFFERENT, STOPPED, DB_*
 */
export async function splitPartition(splitting: Splitting): Promise<number> {
  const { pool, tableId, entry, partition, locking } = splitting;
  const facts = await factsOf(pool, entry);
  const fromTo: FromTo = {
    way: 'apply',
    captured: qualified(facts.schema, partition),
    sources: [qualified(facts.schema, partition)],
    target: qualified(STAGE, stagedName(tableId)),
  };
  await beginCopy(splitting, fromTo, async (tx) => {
    await tx.query(targetStatements(facts, { tableId, entry, target: fromTo.target }, await splitting.planLeaves(tx)));
  });
  await copyAll(splitting, fromTo);
  const leaves = await readLeaves(pool, fromTo.target);
  await runUntilStopped(pool, locking.stop, `select partitions.drop_changed(${tableId}, ${literal(fromTo.target)})`);
  for (const [nth, leaf] of leaves.entries()) {
    splitting.onStep(`building indexes of ${entry.table}, months`, nth, leaves.length);
    await finishTable(splitting, leaf, { ...facts, areNamed: false });
  }
  await drainMost(splitting, fromTo);
  await compareCopy(splitting, fromTo);
  await drainMost(splitting, fromTo);
  return underLock(pool, locking, async (tx) => ({
    names: [qualified(facts.schema, facts.name)],
    locksLater: Math.max(1, facts.foreignKeys.length),
    work: async () => {
      await drainAll(tx, splitting, fromTo);
      await tx.query(takeItsPlace(facts, { tableId, partition, target: fromTo.target }).join(';\n'));
    },
  }));
}

async function factsOf(pool: Pool, entry: Entry): Promise<TableFacts> {
  const facts = await readFacts(pool, entry.table, entry.by);
  if (facts === undefined) throw new AppError('PARTITIONS_DRIFTED', `There is no ${entry.table} any more.`);
  return facts;
}

/** The SQL that makes what rows are copied to. Each month has its bounds as a check, so that nobody waits for its rows to be read when it is attached. Pure. */
function targetStatements(
  { schema, name }: TableFacts,
  { tableId, entry, target }: { readonly tableId: number; readonly entry: Entry; readonly target: string },
  leaves: readonly Leaf[],
): string {
  const bound = (month: Month | null) => (month === null ? 'null' : literal(month));
  return [
    `drop table if exists ${target}`,
    `create table ${target} (like ${qualified(schema, name)} including generated) partition by range (${ident(entry.by)})`,
    ...leaves.map(
      ({ suffix, from, until }) =>
        `select partitions.make_leaf(${tableId}, ${literal(target)}, ${literal(suffix)}, ${bound(from)}, ${bound(until)})`,
    ),
  ].join(';\n');
}

/** The months of all rows that a past has; what is older lies together. One that has an end is split up to there; one that has none also holds rows of the future. */
export async function leavesOfPast(
  pool: Pool,
  {
    entry,
    past,
    end,
    thisMonth,
    endOfMonths,
    stop,
  }: {
    readonly entry: Entry;
    readonly past: string;
    readonly end: Month | null;
    readonly thisMonth: Month;
    /** Before this one there are to be months. */
    readonly endOfMonths: Month;
    readonly stop: AbortSignal | undefined;
  },
): Promise<readonly Leaf[]> {
  const first = await readFirst(pool, {
    table: qualified(nameParts(entry.table).schema, past),
    entry,
    // What is older than is kept lies together, until it goes.
    floor: addMonths(thisMonth, -(entry.keepMonths ?? MOST_MONTHS)),
    end: end ?? endOfMonths,
    stop,
  });
  return [
    // Also where there is nothing older by now: something may come.
    { suffix: 'before', from: null, until: first },
    ...monthsBetween(first, end ?? endOfMonths).map(leafOf),
    ...(end === null ? [OTHERS] : []),
  ];
}

/** The first month that there are rows of, or that there may be months of. */
async function readFirst(
  pool: Pool,
  {
    table,
    entry: { by, zone },
    floor,
    end,
    stop,
  }: {
    readonly table: string;
    readonly entry: Entry;
    readonly floor: Month;
    readonly end: Month;
    readonly stop: AbortSignal | undefined;
  },
): Promise<Month> {
  const key = ident(by);
  const { rows } = await runUntilStopped<{ first: Month }>(
    pool,
    stop,
    `with span as (select min(${key}) filter (where isfinite(${key})) as oldest from ${table})
     select greatest(least(
         date_trunc('month', (case when pg_typeof(oldest) = 'timestamptz'::regtype then oldest::timestamptz at time zone ${literal(zone)} else oldest::timestamp end))::date,
         ${literal(end)}::date - interval '1 month'), ${literal(floor)}::date)::date::text as first
     from span`,
  );
  return rows[0]?.first ?? addMonths(end, -1);
}

async function readLeaves(
  db: Queryable,
  target: string,
): Promise<readonly { readonly name: string; readonly bare: string }[]> {
  const { rows } = await db.query<{ name: string; bare: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name, n.nspname || '.' || c.relname as bare from pg_inherits h join pg_class c on c.oid = h.inhrelid join pg_namespace n on n.oid = c.relnamespace
     where h.inhparent = $1::regclass order by c.relname`,
    [target],
  );
  return rows;
}

/** The SQL that lets the months take the place of what was split, when the table is locked and nothing is left to be drained. Pure. */
function takeItsPlace(
  { schema, name }: TableFacts,
  { tableId, partition, target }: { readonly tableId: number; readonly partition: string; readonly target: string },
): readonly string[] {
  const [table, split] = [qualified(schema, name), qualified(schema, partition)];
  return [
    ...endCopy(tableId, split),
    `alter table ${table} detach partition ${split}`,
    `select partitions.take_leaves(${tableId}, ${literal(table)}, ${literal(target)})`,
    `drop table ${target}`,
    ...setAside(schema, partition, `${schema}.${name}`),
    `update partitions.tables set state = 'partitioned', past = null where id = ${tableId}`,
  ];
}
