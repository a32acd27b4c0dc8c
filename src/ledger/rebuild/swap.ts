import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { LOCK_TIMEOUT_MS, tryUntilFree } from '../../db/try-until-free.ts';
import { AppError } from '../../errors.ts';
import { logState, project, projectStep, type StepOptions } from './project.ts';
import { PROJECTIONS, type Projection, SCHEMA, sameKey } from './projections.ts';

/** How long the lock that keeps vacuum away, and nobody who posts, is waited for: PostgreSQL sends autovacuum away after a second. */
const VACUUM_TIMEOUT_MS = 5_000;

export interface SwapOptions extends StepOptions {
  /** More than so many rows are not put in place. */
  readonly maxRows: bigint;
  readonly stop: AbortSignal | undefined;
  /** Told how often the locks were not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
}

export interface Swap {
  /** Rows that differed, were missing or too many, and no longer do. */
  readonly rows: bigint;
  /** For how long nobody could post. */
  readonly lockedMs: number;
  readonly tries: number;
}

/**
 * Makes the live projections what the log gives. The rows that differ were noted by a comparison; under a lock that keeps every poster out
 * the rest of the log is projected, what that touched is compared as well, and those rows alone are replaced: readers go on reading.
 * @throws AppError REBUILD_BUSY, REBUILD_REFUSED, DB_*
 */
export async function swapProjections(pool: Pool, options: SwapOptions): Promise<Swap> {
  const { stop, onBusy } = options;
  return tryUntilFree({ stop, onBusy, givenUp }, async (tries) => {
    // So that little is left to be done under the lock.
    while ((await projectStep(pool, options)).isMore);
    return tryToSwap(pool, options, tries);
  });
}

async function tryToSwap(pool: Pool, options: SwapOptions, tries: number): Promise<Swap> {
  let lockedAt = 0;
  const rows = await withTransaction(pool, async (tx) => {
    await keepPostersOut(tx);
    lockedAt = performance.now();
    await project(tx, await logState(tx), { bookId: options.bookId });
    return replaceRows(tx, options);
  });
  return { rows, lockedMs: performance.now() - lockedAt, tries };
}

// First what only vacuum and changes of tables wait for: autovacuum gives way when it was waited for longer than the short timeout allows.
// Then the book's periods, which every posting locks before any row, in the order of their ids; who holds none of them is out of the tables
// as well. The tables after that, for whoever writes them by hand: readers go on.
async function keepPostersOut(tx: Tx): Promise<void> {
  const tables = ['events', ...PROJECTIONS.map(({ table }) => table)].map((table) => `payments.${table}`).join(', ');
  await tx.query(`
    set local lock_timeout = ${VACUUM_TIMEOUT_MS};
    lock table ${tables} in share update exclusive mode;
    set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  await tx.query(
    `select pg_advisory_xact_lock(hashtext('liventix.period'), b.book_id)
     from (select b.book_id from payments.books b order by b.book_id offset 0) b`,
  );
  await tx.query(`lock table ${tables} in share row exclusive mode`);
}

async function replaceRows(tx: Tx, options: SwapOptions): Promise<bigint> {
  await addFresh(tx, options.bookId);
  let total = 0n;
  const damaged: Projection[] = [];
  for (const projection of await withDifferences(tx)) {
    const rows = await judgeAgain(tx, projection);
    total += rows;
    if (rows > 0n) damaged.push(projection);
  }
  if (total > options.maxRows) throw tooMany(total, options.maxRows);
  if (damaged.length > 0) {
    await withoutTriggers(tx, damaged, async () => {
      for (const projection of damaged) await replaceIn(tx, projection);
    });
    for (const projection of damaged) await assertReplaced(tx, projection);
  }
  await tx.query(`update ${SCHEMA}.run set fresh_positions = '{}'`);
  return total;
}

interface Range {
  readonly first: bigint;
  readonly beyond: bigint;
}

/** Adds to the rows that differed those that events since the comparison wrote, here or there. */
async function addFresh(tx: Tx, bookId: number | undefined): Promise<void> {
  const { rows: fresh } = await tx.query<Range>(
    `select lower(f) as first, upper(f) as beyond from ${SCHEMA}.run r cross join lateral unnest(r.fresh_positions) as f`,
  );
  if (fresh.length === 0) return;
  const ofBook = bookId === undefined ? '' : ` and book_id = ${bookId}`;
  for (const { table, key, writtenWith } of PROJECTIONS) {
    const sources = ['payments', SCHEMA].flatMap((schema) =>
      writtenWith.map(
        ([written, columns]) =>
          `select ${columns}, book_id from ${schema}.${written} where (${isIn(written, fresh)})${ofBook}`,
      ),
    );
    await tx.query(
      `insert into ${SCHEMA}.differing_${table} (${[...key, 'book_id'].join(', ')}, kind)
       select f.*, 'fresh' from (${sources.join(' union ')}) f on conflict do nothing`,
    );
  }
}

async function withDifferences(tx: Tx): Promise<Projection[]> {
  const { rows } = await tx.query<{ table: string }>(
    PROJECTIONS.map(
      ({ table }) => `select '${table}' as table where exists (select from ${SCHEMA}.differing_${table})`,
    ).join(' union all '),
  );
  return PROJECTIONS.filter(({ table }) => rows.some((row) => row.table === table));
}

/** Takes out what is the same by now. Answers how many rows are left. */
async function judgeAgain(tx: Tx, projection: Projection): Promise<bigint> {
  const { table } = projection;
  const differing = `${SCHEMA}.differing_${table}`;
  // Or whole tables are read for a few rows.
  await tx.query(`analyze ${differing}`);
  const { rows } = await tx.query<{ count: bigint }>(
    `with same as (
       delete from ${differing} d
       using payments.${table} l, ${SCHEMA}.${table} r
       where ${sameKey(projection, 'l', 'd')} and ${sameKey(projection, 'r', 'd')} and l operator(pg_catalog.*=) r
         and (select count(*) from payments.${table} t where ${sameKey(projection, 't', 'd')}) = 1
       returning 1
     )
     select (select count(*) from ${differing}) - (select count(*) from same) as count`,
  );
  return rows[0]?.count ?? 0n;
}

// As constants, which are looked up in an index however many rows there are. An entry's id begins with its event's position.
const isIn = (table: string, ranges: readonly Range[]) =>
  ranges
    .map(({ first, beyond }) =>
      table === 'entries'
        ? `id >= ${first * 1024n} and id < ${beyond * 1024n}`
        : `event_position >= ${first} and event_position < ${beyond}`,
    )
    .join(' or ');

// Deleted and inserted, in one statement: unique keys may have changed places, and to who refers to a row it never was gone.
async function replaceIn(tx: Tx, projection: Projection): Promise<void> {
  const { table } = projection;
  const differing = `${SCHEMA}.differing_${table}`;
  await tx.query(
    `with gone as (
       delete from payments.${table} l using ${differing} d where ${sameKey(projection, 'l', 'd')} returning 1
     )
     insert into payments.${table}
     select r.* from (select count(*) from gone) g, ${differing} d join ${SCHEMA}.${table} r on ${sameKey(projection, 'r', 'd')}`,
  );
}

/** Whatever somebody made of an insert, the rows are those of the log, or nothing was changed. */
async function assertReplaced(tx: Tx, projection: Projection): Promise<void> {
  const { table } = projection;
  const { rows } = await tx.query<{ count: bigint }>(
    `select count(*) from ${SCHEMA}.differing_${table} d
     left join payments.${table} l on ${sameKey(projection, 'l', 'd')}
     left join ${SCHEMA}.${table} r on ${sameKey(projection, 'r', 'd')}
     where (l.book_id is null) <> (r.book_id is null) or l.book_id is not null and not (l operator(pg_catalog.*=) r)`,
  );
  if (rows[0]?.count === 0n) return;
  throw new AppError(
    'REBUILD_REFUSED',
    `${rows[0]?.count} rows of payments.${table} were written and are not what was written: something rewrites them. Nothing was changed. See: liventix doctor`,
  );
}

/** Takes the triggers of these tables out of the way, all that fire, and puts each back as it was. Nobody writes meanwhile. */
async function withoutTriggers(tx: Tx, projections: readonly Projection[], work: () => Promise<void>): Promise<void> {
  const { rows } = await tx.query<{ off: string; on: string }>(
    `select format('alter table %s disable trigger %I', t.tgrelid::regclass, t.tgname) as off,
            format('alter table %s enable %s trigger %I', t.tgrelid::regclass,
              case t.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, t.tgname) as on
     from pg_trigger t join pg_class c on c.oid = t.tgrelid
     where c.relnamespace = 'payments'::regnamespace and c.relname = any ($1) and not t.tgisinternal and t.tgenabled <> 'D'
     order by c.relname, t.tgname`,
    [projections.map(({ table }) => table)],
  );
  await tx.query(rows.map(({ off }) => off).join('; '));
  await work();
  await tx.query(rows.map(({ on }) => on).join('; '));
}

function tooMany(rows: bigint, maxRows: bigint): AppError {
  return new AppError(
    'REBUILD_REFUSED',
    `${rows} rows differ, more than the ${maxRows} that may be replaced while nobody can post. Nothing was changed. Give --max-rows ${rows} when it may take that long.`,
    { details: { rows } },
  );
}

function givenUp(tries: number, cause: AppError): AppError {
  return new AppError(
    'REBUILD_BUSY',
    `The ledger was in use at each of ${tries} tries, ${LOCK_TIMEOUT_MS} ms each, and nothing was changed. What was rebuilt is kept: run it again when less is posted, and end a transaction that was forgotten. See: liventix doctor`,
    { details: { tries }, cause },
  );
}
