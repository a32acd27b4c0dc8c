import type { Pool, Queryable } from '../../db/pool.ts';
import { underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { beginCopy, type Copying, copyAll, drainAll, drainMost, endCopy, type FromTo } from './copy.ts';
import { readFacts, type TableFacts } from './facts.ts';
import { finishTable } from './leaf.ts';
import type { Entry } from './mapping.ts';
import { addMonths, type Month, monthsBetween } from './months.ts';
import { ident, literal, qualified, STAGE, stagedName } from './names.ts';
import { compareCopy } from './proof.ts';
import { setAside } from './take-place.ts';

export interface Splitting extends Copying {
  readonly entry: Entry;
  /** The name of the partition that holds the past, in the table's schema. */
  readonly past: string;
  readonly thisMonth: Month;
  /** Before this one there are to be months. */
  readonly endOfMonths: Month;
}

/** No more months than these are made of a past that is kept for ever: what is older stays together. */
const MOST_MONTHS = 120;

/**
 * Makes months of the past, beside whoever writes, and lets them take its place in one short transaction. The past is set aside.
 * @returns for how long the table was locked, in ms
 * @throws AppError PARTITIONS_BUSY, PARTITIONS_TOO_LONG, PARTITIONS_DIFFERENT, STOPPED, DB_*
 */
export async function splitPast(splitting: Splitting): Promise<number> {
  const { pool, tableId, entry, past, locking } = splitting;
  const facts = await factsOf(pool, entry);
  const fromTo: FromTo = {
    way: 'apply',
    captured: qualified(facts.schema, past),
    sources: [qualified(facts.schema, past)],
    target: qualified(STAGE, stagedName(tableId)),
  };
  const { rowCount: isUnderWay } = await pool.query('select from partitions.copies where table_id = $1', [tableId]);
  if (isUnderWay === 0) await begin(splitting, facts, fromTo);
  await copyAll(splitting, fromTo);
  const leaves = await readLeaves(pool, fromTo.target);
  await pool.query('select partitions.drop_changed($1, $2)', [tableId, fromTo.target]);
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
      await drainAll(tx, tableId, fromTo);
      await tx.query(takeItsPlace(facts, { tableId, past, target: fromTo.target }).join(';\n'));
    },
  }));
}

async function factsOf(pool: Pool, entry: Entry): Promise<TableFacts> {
  const facts = await readFacts(pool, entry.table, entry.by);
  if (facts === undefined) throw new AppError('PARTITIONS_TABLE_UNKNOWN', `There is no ${entry.table}.`);
  return facts;
}

/**
 * Makes the months of all rows there are; what is older lies together. Each has its bounds as a check, so that nobody waits for its rows to be
 * read when it is attached. A past that has an end is split up to there; one that has none also holds rows of the future.
 */
async function begin(splitting: Splitting, facts: TableFacts, fromTo: FromTo): Promise<void> {
  const { pool, tableId, entry, past, thisMonth, endOfMonths } = splitting;
  splitting.onStep(`looking for the months of ${entry.table}`, 0, 0);
  const end = await endOfPast(pool, tableId, past);
  const first = await readFirst(pool, {
    table: qualified(facts.schema, past),
    entry,
    // What is older than is kept lies together, until it goes.
    floor: addMonths(thisMonth, -(entry.keepMonths ?? MOST_MONTHS)),
    end: end ?? endOfMonths,
  });
  const leaf = (name: string, from: Month | null, until: Month) =>
    `select partitions.make_leaf(${[String(tableId), ...[fromTo.target, name].map(literal), from === null ? 'null' : literal(from), literal(until)].join(', ')})`;
  await beginCopy(splitting, fromTo, async (tx) => {
    await tx.query(
      [
        `drop table if exists ${fromTo.target}`,
        `create table ${fromTo.target} (like ${qualified(facts.schema, facts.name)} including generated) partition by range (${ident(entry.by)})`,
        // Also where there is nothing older by now: something may come.
        leaf('before', null, first),
        ...monthsBetween(first, end ?? endOfMonths).map((month) =>
          leaf(month.slice(0, 7).replace('-', ''), month, addMonths(month, 1)),
        ),
        ...(end === undefined
          ? [`select partitions.make_leaf(${tableId}, ${literal(fromTo.target)}, 'other', null, null)`]
          : []),
      ].join(';\n'),
    );
  });
}

async function endOfPast(db: Queryable, tableId: number, past: string): Promise<Month | undefined> {
  const { rows } = await db.query<{ end: Month | null }>(
    `select m.end_day::text as end from partitions.months_of($1) m join pg_class c on c.oid = m.partition where c.relname = $2`,
    [tableId, past],
  );
  return rows[0]?.end ?? undefined;
}

/** The first month that there are rows of, or that there may be months of. */
async function readFirst(
  db: Queryable,
  {
    table,
    entry: { by, zone },
    floor,
    end,
  }: { readonly table: string; readonly entry: Entry; readonly floor: Month; readonly end: Month },
): Promise<Month> {
  const key = ident(by);
  const { rows } = await db.query<{ first: Month }>(
    `with span as (select min(${key}) filter (where isfinite(${key})) as oldest from ${table})
     select greatest(least(
         date_trunc('month', (case when pg_typeof(oldest) = 'timestamptz'::regtype then oldest::timestamptz at time zone $1 else oldest::timestamp end))::date,
         $3::date - interval '1 month'), $2::date)::date::text as first
     from span`,
    [zone, floor, end],
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

/** The SQL that lets the months take the place of the past, when the table is locked and nothing is left to be drained. Pure. */
function takeItsPlace(
  { schema, name }: TableFacts,
  { tableId, past, target }: { readonly tableId: number; readonly past: string; readonly target: string },
): readonly string[] {
  const [table, pastTable] = [qualified(schema, name), qualified(schema, past)];
  return [
    ...endCopy(tableId, pastTable),
    `alter table ${table} detach partition ${pastTable}`,
    `select partitions.take_leaves(${tableId}, ${literal(table)}, ${literal(target)})`,
    `drop table ${target}`,
    ...setAside(schema, past, `${schema}.${name}`),
    `update partitions.tables set state = 'partitioned', past = null where id = ${tableId}`,
  ];
}
