import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { withSavepoint, withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { isOfContent } from '../halving.ts';
import { PROJECTORS, SCHEMA } from './projections.ts';

/** How many events one step, which is one database transaction, projects, unless told. */
const STEP_EVENTS = 10_000;

/** Sorts and joins of a step, and of large tables; PostgreSQL's default is made for requests. */
const WORK_MEMORY = '128MB';

export interface StepOptions {
  /** Only this book; all of them when left out. */
  readonly bookId?: number | undefined;
  readonly stepEvents?: number | undefined;
}

/**
 * How the log stood before a snapshot was taken. Every position up to its top is taken; the transaction that took it is among the writers,
 * or has ended, and then a later snapshot sees what it wrote.
 */
export interface LogState {
  readonly top: bigint;
  /** The virtual transactions that may still write below the top. */
  readonly writers: readonly string[];
  /** A prepared transaction goes on without a session, and nobody promises that it keeps its id. */
  readonly hasPrepared: boolean;
}

/** Two statements, in this order: see `payments.seal_events`, which settles gaps likewise. */
export async function logState(db: Queryable): Promise<LogState> {
  const { rows } = await db.query<{ top: bigint }>(
    'select e.position as top from payments.events e order by e.position desc limit 1',
  );
  const { rows: found } = await db.query<Omit<LogState, 'top'>>(
    `select coalesce(array_agg(distinct l.virtualtransaction), '{}') as writers, coalesce(bool_or(l.pid is null), false) as "hasPrepared"
     from pg_locks l
     where l.locktype = 'relation' and l.relation = 'payments.events_position_seq'::regclass and l.mode = 'RowExclusiveLock'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())`,
  );
  return { writers: [], hasPrepared: false, ...found[0], top: rows[0]?.top ?? 0n };
}

export interface StepResult {
  readonly position: bigint;
  /** Whether more of what was visible is left. */
  readonly isMore: boolean;
}

/** One step in a transaction of its own: what it projects and how far it came are committed together. */
export async function projectStep(pool: Pool, { bookId, stepEvents = STEP_EVENTS }: StepOptions): Promise<StepResult> {
  const log = await logState(pool);
  return withTransaction(
    pool,
    async (tx) => {
      // Rows and checkpoint are forgotten together where the server crashes.
      await tx.query('set local synchronous_commit = off');
      return project(tx, log, { bookId, limit: stepEvents });
    },
    { mode: 'isolation level repeatable read' },
  );
}

/**
 * Projects what is visible and not projected yet, and says where later events may still appear. Everything it reads has to be one snapshot,
 * taken after `log` was found out: what came in between is projected as well, or the live tables would have it alone.
 * @param options.limit looks at so many events at most; all of them when left out
 * @throws AppError REBUILD_EVENT_REFUSED
 */
export async function project(
  tx: Tx,
  log: LogState,
  options: { readonly bookId: number | undefined; readonly limit?: number },
): Promise<StepResult> {
  // Plans of before, when the tables were empty, would be kept.
  await tx.query(`set local plan_cache_mode = force_custom_plan; set local work_mem = '${WORK_MEMORY}'`);
  const next = await findNext(tx, log, options.limit ?? null);
  const books = next.books.filter((book) => options.bookId === undefined || book === options.bookId);
  for (const range of next.ranges) {
    for (const book of books) await projectRange(tx, book, range);
  }
  await tx.query(
    `update ${SCHEMA}.run r
     set position = greatest(r.position, $1), judged_to = greatest(r.judged_to, least($1, $6)), open_writers = $2, open_positions = r.open_positions - $3::int8multirange + $4::int8multirange,
         fresh_positions = r.fresh_positions + $5::int8multirange`,
    [next.position, log.writers, next.decided, next.open, next.projected, log.top],
  );
  return { position: next.position, isMore: next.count === options.limit };
}

interface Range {
  readonly first: bigint;
  readonly last: bigint;
}

interface Next {
  readonly position: bigint;
  readonly count: number;
  readonly books: number[];
  /** Where events are, each range without one that was projected before. */
  readonly ranges: Range[];
  /** Those ranges, all that was looked at, and what of that stays open: multiranges as text. */
  readonly projected: string;
  readonly decided: string;
  readonly open: string;
}

// A place that is empty stays open as long as one of those is at work who wrote when it was judged first. Above the top that was found out
// before, nobody knows yet who may write.
async function findNext(tx: Tx, log: LogState, limit: number | null): Promise<Next> {
  const { rows } = await tx.query<Omit<Next, 'ranges'> & { first: string[]; last: string[] }>(
    `with before as (
       select r.open_writers, r.judged_to, t.top, r.open_positions * int8multirange(int8range(1, t.top + 1)) as look
       from ${SCHEMA}.run r
       cross join (select coalesce((select e.position from payments.events e order by e.position desc limit 1), 0) as top) t
     ), seen as materialized (
       select e.position, e.book_id
       from before b
       cross join lateral unnest(b.look) as r
       cross join lateral (
         select x.position, x.book_id from payments.events x
         where x.position >= lower(r) and x.position < upper(r)
         order by x.position
         limit $2
       ) e
       order by e.position
       limit $2
     ), found as (
       select count(*)::integer as count, coalesce(array_agg(distinct s.book_id), '{}') as books,
              case when count(*) < coalesce($2, count(*) + 1) then (select b.top from before b) else max(s.position) end as position,
              coalesce(range_agg(int8range(s.position, s.position + 1)), '{}') as positions
       from seen s
     ), decided as (
       select f.*, b.*, b.look * int8multirange(int8range(null, f.position, '[]')) as decided from found f cross join before b
     ), judged as (
       select d.*, d.decided - d.positions as empty,
              (select coalesce(range_agg(r), '{}') from unnest(d.decided) as r where int8multirange(r) && d.positions) as projected
       from decided d
     )
     select j.position, j.count, j.books, j.projected::text, j.decided::text,
            (case when $4 or $3::text[] && j.open_writers then j.empty * int8multirange(int8range(null, j.judged_to, '[]')) else '{}' end
             + case when $3::text[] <> '{}' then j.empty * int8multirange(int8range(j.judged_to, greatest($1, j.judged_to), '(]')) else '{}' end
             + j.empty * int8multirange(int8range($1, null, '()')))::text as open,
            array(select lower(r)::text from unnest(j.projected) as r order by r) as first,
            array(select (upper(r) - 1)::text from unnest(j.projected) as r order by r) as last
     from judged j`,
    [log.top, limit, log.writers, log.hasPrepared],
  );
  const [row] = rows;
  if (row === undefined)
    throw new AppError('INTERNAL', `${SCHEMA}.run has no row: what was rebuilt was changed by hand.`);
  const { first, last, ...next } = row;
  return {
    ...next,
    ranges: first.map((position, nth) => ({ first: BigInt(position), last: BigInt(last[nth] ?? position) })),
  };
}

async function projectRange(tx: Tx, book: number, range: Range): Promise<void> {
  try {
    await withSavepoint(tx, () => callProjectors(tx, book, range));
  } catch (error) {
    const failure = toAppError(error);
    throw isOfContent(failure) ? await nameCulprit(tx, book, range, failure) : failure;
  }
}

async function callProjectors(tx: Tx, book: number, { first, last }: Range): Promise<void> {
  const calls = PROJECTORS.map((name) => `${SCHEMA}.${name}($1, $2, $3, null)`);
  await tx.query(`select ${calls.join(', ')}`, [book, first, last]);
}

/** Finds the first event that cannot be projected, by halves; what comes before it is projected for that, to be undone by the caller. */
async function nameCulprit(tx: Tx, book: number, range: Range, failure: AppError): Promise<AppError> {
  let { first, last } = range;
  let cause = failure;
  while (first < last) {
    const middle = first + (last - first) / 2n;
    try {
      await withSavepoint(tx, () => callProjectors(tx, book, { first, last: middle }));
      first = middle + 1n;
    } catch (error) {
      cause = toAppError(error);
      last = middle;
    }
  }
  const { rows } = await tx.query<{ type: string; id: string }>(
    'select e.type, e.event_id as id from payments.events e where e.position = $1 and e.book_id = $2',
    [first, book],
  );
  return new AppError(
    'REBUILD_EVENT_REFUSED',
    `Event ${first} of book ${book} (${rows[0]?.type} ${rows[0]?.id}) cannot be projected: ${cause.message} The ledger did not write it so. The live tables are as they were; see what was changed: liventix books verify --independent`,
    { details: { position: first, book }, cause },
  );
}
