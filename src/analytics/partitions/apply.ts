import { givingWay } from '../../db/giving-way.ts';
import { modestPool, type Pool, type Queryable } from '../../db/pool.ts';
import { underSessionLock } from '../../db/session-lock.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { withTransaction } from '../../db/transaction.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { attachPast } from './attach.ts';
import { type Reconciled, reconcileCopies } from './copies.ts';
import { giveUpCopy, giveUpInVain, isUnderWay, whyItFailed } from './copy.ts';
import { readFacts, type TableFacts } from './facts.ts';
import { blocking, identityOf } from './findings.ts';
import { remakeFollowers } from './followers.ts';
import type { Entry } from './mapping.ts';
import { type Mended, mendKeys } from './mend-keys.ts';
import { addMonths, endOfPast, type Month, monthOf } from './months.ts';
import { closingCheck, ident, notNullCheck, qualified } from './names.ts';
import { judgeTable } from './plan.ts';
import { prepare } from './prepare.ts';
import { leavesOfPast, leavesOfStrays, type Splitting, splitPartition } from './split.ts';
import { hasStrays } from './status.ts';
import { assertNotStopped, runUntilStopped } from './stopped.ts';
import { CONVERSION, findTable, type KeptTable, type Original, ofLost } from './tables.ts';

export interface ApplyOptions {
  readonly entries: readonly Entry[];
  /** The clock of whoever runs it: a past ends, and months are made ahead, by it. */
  readonly now: Date;
  /** Leaves the past in one partition: nothing is copied. */
  readonly keepsPast?: boolean | undefined;
  /** Whether months may go that a shorter retention keeps no longer. */
  readonly mayLose?: boolean | undefined;
  readonly stop?: AbortSignal | undefined;
  readonly maxTries?: number | undefined;
  readonly lockedForAtMostMs?: number | undefined;
  /** For how many times as long as a step took, of copying or an index, everybody is left alone after it. */
  readonly restFactor?: number | undefined;
  readonly onStep?: ((what: string, done: number, total: number) => void) | undefined;
  readonly onOutcome?: ((outcome: Outcome) => void) | undefined;
}

/** What became of a table. `lockedMs`: for how long it was locked, in each of the transactions that locked it. */
export type Outcome = { readonly table: string } & (
  | { readonly status: 'attached'; readonly lockedMs: readonly number[]; readonly mended: readonly Mended[] }
  | {
      readonly status: 'partitioned';
      readonly lockedMs: readonly number[];
      readonly copies: readonly Reconciled[];
      readonly mended: readonly Mended[];
      /** What the next upkeep takes out, as it is older than is kept. */
      readonly expired: readonly Expired[];
      /** Whether rows lie in no month: of none that is kept or ahead. */
      readonly areSomeLeft: boolean;
    }
  /** It had months before; rows that lay in none have theirs, but for those of no month that is kept or ahead. */
  | {
      readonly status: 'sorted';
      readonly lockedMs: readonly number[];
      readonly copies: readonly Reconciled[];
      readonly mended: readonly Mended[];
      readonly areSomeLeft: boolean;
    }
  /** It had months before, and what keeps its keys was not as it is to be. */
  | {
      readonly status: 'mended';
      readonly copies: readonly Reconciled[];
      readonly mended: readonly Mended[];
      readonly areSomeLeft: boolean;
    }
  | { readonly status: 'already'; readonly copies: readonly Reconciled[]; readonly areSomeLeft: boolean }
  | { readonly status: 'skipped'; readonly reasons: readonly string[] }
);

/** A partition, and about how many rows it has. */
interface Expired {
  readonly partition: string;
  readonly rowsEstimated: number;
}

const PATIENCE_MS = 2_000;

/**
 * Does something while no other run does anything in the same database.
 * @param work told to stop where it is no longer alone, too
 * @throws AppError PARTITIONS_RUNNING, DB_UNREACHABLE, what `work` throws
 */
export const alone = <T>(
  pool: Pool,
  { stop }: Pick<ApplyOptions, 'stop'>,
  work: (stop: AbortSignal) => Promise<T>,
): Promise<T> =>
  underSessionLock(
    pool,
    {
      ...CONVERSION,
      stop,
      patienceMs: PATIENCE_MS,
      taken: (cause, holder) =>
        new AppError(
          'PARTITIONS_RUNNING',
          `Another conversion is under way in this database: ${holder}. Wait for it, or end it with pg_terminate_backend: it can be run again.`,
          { cause },
        ),
    },
    work,
  );

/**
 * Does something to one table after the other, while nobody else does, on connections that leave others the other processors.
 * @throws AppError PARTITIONS_RUNNING, DB_UNREACHABLE, what `choose` and `work` throw
 */
export const oneByOne = <Item, Result>(
  given: Pool,
  {
    stop: asked,
    choose,
    work,
    onOutcome,
  }: {
    readonly stop?: AbortSignal | undefined;
    choose(pool: Pool): Promise<readonly Item[]>;
    work(pool: Pool, item: Item, stop: AbortSignal): Promise<Result>;
    readonly onOutcome?: ((outcome: Result) => void) | undefined;
  },
): Promise<readonly Result[]> =>
  alone(given, { stop: asked }, async (stop) => {
    const pool = modestPool(given);
    try {
      const outcomes: Result[] = [];
      for (const item of await choose(pool)) {
        assertNotStopped(stop);
        const outcome = await work(pool, item, stop);
        outcomes.push(outcome);
        onOutcome?.(outcome);
      }
      return outcomes;
    } finally {
      await pool.end();
    }
  });

/**
 * Turns tables into such as are kept by month, one after the other, while they are used. Killed at any point and run again, it goes on where it was.
 * @throws AppError PARTITIONS_RUNNING, STOPPED, DB_*
 */
export const applyPartitions = (pool: Pool, options: ApplyOptions): Promise<readonly Outcome[]> =>
  oneByOne(pool, {
    ...options,
    choose: async () => options.entries,
    work: (modest, entry, stop) => convert(modest, entry, { ...options, stop }),
  });

async function convert(pool: Pool, entry: Entry, options: ApplyOptions): Promise<Outcome> {
  const { table } = entry;
  const lockedMs: number[] = [];
  try {
    let kept = await findTable(pool, table);
    const isBegunNow = kept === undefined;
    if (kept === undefined) {
      const facts = await readFacts(pool, table, entry.by);
      const reasons = [...blocking(await judgeTable(pool, facts, entry)), ...(await leftAside(pool, table))];
      if (facts === undefined || reasons.length > 0) return { table, status: 'skipped', reasons };
      kept = await begin(pool, entry, facts);
    }
    if (kept.isLost) return { table, status: 'skipped', reasons: [ofLost(table)] };
    const following = { pool, tableId: kept.id, locking: lockingOf(entry, options), onStep: onStep(options) };
    // What a way back left that was broken off.
    await giveUpCopy(following, 'rollback');
    await remakeFollowers(following);
    // Of what was begun before too: who knows what became of its keys, which nothing else keeps once it has months.
    const mended = isBegunNow ? [] : await mendKeys({ ...following, kept });
    if (kept.state === 'preparing') {
      lockedMs.push(await attach(pool, { entry, kept }, options));
      await analyze(pool, kept, options);
      kept = await findTable(pool, table);
    }
    if (kept === undefined) throw new AppError('INTERNAL', `${table} is not there any more.`);
    await remakeFollowers(following);
    const isNew = kept.state !== 'partitioned';
    await heedPolicy(pool, kept, entry, options);
    if (isNew && options.keepsPast === true) return { table, status: 'attached', lockedMs, mended };
    const split = await (isNew ? splitPast : sortStrays)(pool, { entry, kept }, options);
    if (split.length > 0) await analyze(pool, kept, options);
    lockedMs.push(...split);
    await letReferencesGo(pool, entry, options);
    const copies = await reconcileCopies({
      pool,
      entry,
      kept,
      now: options.now,
      stop: options.stop,
      onStep: onStep(options),
    });
    const areSomeLeft = await hasStrays(pool, kept);
    if (isNew) {
      const expired = await readExpired(pool, kept, options.now);
      return { table, status: 'partitioned', lockedMs, copies, mended, expired, areSomeLeft };
    }
    if (lockedMs.length > 0) return { table, status: 'sorted', lockedMs, copies, mended, areSomeLeft };
    return mended.length > 0
      ? { table, status: 'mended', copies, mended, areSomeLeft }
      : { table, status: 'already', copies, areSomeLeft };
  } catch (thrown) {
    const error = await whyConversionFailed(pool, entry, options, thrown);
    if (!SKIPPED.has(error.code)) throw error;
    return { table, status: 'skipped', reasons: [error.message, ...(await leaveAlone(pool, entry, options, error))] };
  }
}

/** Of a table that is left: no check of ours refuses rows, and no copy stands that no run could end. @returns what it could not do */
async function leaveAlone(
  pool: Pool,
  entry: Entry,
  options: ApplyOptions,
  error: AppError,
): Promise<readonly string[]> {
  const kept = await findTable(pool, entry.table);
  if (kept === undefined) return [];
  const opened = await reopenPast(pool, entry, options).catch((failure: unknown) => toAppError(failure).message);
  const locking = lockingOf(entry, options);
  return [
    ...(opened === undefined ? [] : [opened]),
    ...(await giveUpInVain({ pool, tableId: kept.id, locking }, 'apply', error)),
  ];
}

/** Checks of what is not to be by now would refuse rows: those without an instant, and all when the month has come in which the past ends. */
async function reopenPast(pool: Pool, entry: Entry, options: ApplyOptions): Promise<undefined> {
  const kept = await findTable(pool, entry.table);
  if (kept?.state !== 'preparing') return;
  const table = qualified(kept.schema, kept.name);
  await underLock(pool, lockingOf(entry, options), async (tx) => ({
    names: [table],
    locksLater: 0,
    work: () =>
      tx.query(
        [
          ...[closingCheck, notNullCheck].map(
            (check) => `alter table ${table} drop constraint if exists ${ident(check(kept.name))}`,
          ),
          `update partitions.tables set closes_at = null where id = ${kept.id}`,
        ].join(';\n'),
      ),
  }));
}

/** What concerns one table alone: the others can go on. */
const SKIPPED: ReadonlySet<string> = new Set([
  'PARTITIONS_WOULD_GO',
  'PARTITIONS_KEY_TWICE',
  'PARTITIONS_BUSY',
  'PARTITIONS_TOO_LONG',
  'PARTITIONS_DRIFTED',
  'PARTITIONS_NULL_KEY',
  'PARTITIONS_DIFFERENT',
  'DB_CONFLICT',
  'DB_FAILED',
  'DB_PERMISSION_DENIED',
]);

export const lockingOf = (
  { table }: Pick<Entry, 'table'>,
  { stop, maxTries, lockedForAtMostMs }: Pick<ApplyOptions, 'stop' | 'maxTries' | 'lockedForAtMostMs'>,
): UnderLockOptions => ({
  room: 'PARTITIONS',
  what: table,
  stop,
  maxTries,
  lockedForAtMostMs,
});

const onStep = ({ onStep: told }: ApplyOptions) => told ?? (() => undefined);

/** Names are wanted again of what stands aside. */
async function leftAside(pool: Pool, table: string): Promise<readonly string[]> {
  const { rows } = await pool.query<{ relation: string }>(
    'select relation from partitions.set_aside where table_name = $1 and to_regclass(relation) is not null',
    [table],
  );
  return rows.map(
    ({ relation }) => `${relation}, what ${table} was, is set aside still: liventix partitions clean --yes, first`,
  );
}

async function whyConversionFailed(
  pool: Pool,
  entry: Entry,
  options: ApplyOptions,
  thrown: unknown,
): Promise<AppError> {
  const kept = await findTable(pool, entry.table).catch(() => undefined);
  return kept === undefined ? toAppError(thrown) : whyItFailed(splittingOf(pool, { entry, kept }, options), thrown);
}

/**
 * How long months are kept, and what becomes of them, is what the mapping says by now.
 * @throws AppError PARTITIONS_WOULD_GO where months would go by that, and nobody said that they may
 */
async function heedPolicy(pool: Pool, kept: KeptTable, entry: Entry, { now, mayLose }: ApplyOptions): Promise<void> {
  const { keepMonths, expired, monthsAhead, table } = entry;
  await withTransaction(pool, async (tx) => {
    const before = await readExpired(tx, kept, now);
    await tx.query('update partitions.tables set keep_months = $2, expired = $3, months_ahead = $4 where id = $1', [
      kept.id,
      keepMonths,
      expired,
      monthsAhead,
    ]);
    const after = await readExpired(tx, kept, now);
    const lost = after.filter(({ partition }) => !before.some((each) => each.partition === partition));
    if (lost.length === 0 || mayLose === true || kept.keepMonths === keepMonths) return;
    throw new AppError(
      'PARTITIONS_WOULD_GO',
      `${table} is to be kept for ${keepMonths} months, not ${kept.keepMonths ?? 'for ever'}: ${lost.map(({ partition }) => partition).join(', ')} would go with the next upkeep. Say that they may: --yes`,
    );
  });
}

/** What the upkeep would take out. */
async function readExpired(db: Queryable, { id, state }: KeptTable, now: Date): Promise<readonly Expired[]> {
  if (state === 'preparing') return [];
  const { rows } = await db.query<Expired>(
    `select e.partition::text, greatest(c.reltuples, 0)::float8 as "rowsEstimated"
     from partitions.expired_months($1, $2) e (partition) join pg_class c on c.oid = e.partition`,
    [id, now],
  );
  return rows;
}

async function begin(pool: Pool, entry: Entry, facts: TableFacts): Promise<KeptTable> {
  await pool.query(
    `insert into partitions.tables (schema_name, table_name, key_column, zone, keep_months, expired, months_ahead, pair_columns, storage, original)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      facts.schema,
      facts.name,
      entry.by,
      entry.zone,
      entry.keepMonths,
      entry.expired,
      entry.monthsAhead,
      [...new Set([...identityOf(facts.uniqueKeys), entry.by])],
      facts.storage,
      JSON.stringify({ uniqueKeys: facts.uniqueKeys, keyIsNotNull: facts.key?.isNotNull ?? true } satisfies Original),
    ],
  );
  const kept = await findTable(pool, entry.table);
  if (kept === undefined) throw new AppError('INTERNAL', `${entry.table} was not begun.`);
  return kept;
}

interface Of {
  readonly entry: Entry;
  readonly kept: KeptTable;
}

async function attach(pool: Pool, { entry, kept }: Of, options: ApplyOptions): Promise<number> {
  const end = await closePast(pool, { entry, kept }, options);
  const locking = lockingOf(entry, options);
  await prepare({ pool, tableId: kept.id, entry, locking, onStep: onStep(options) }, end);
  assertNotStopped(options.stop);
  onStep(options)(`attaching ${entry.table}`, 0, 0);
  return attachPast(
    pool,
    { tableId: kept.id, entry, endOfPast: end, endOfMonths: endOfMonths(entry, options.now) },
    { ...locking, onBusy: (tries) => onStep(options)(`waiting for ${entry.table}, tries`, tries, 0) },
  );
}

/** Of the table as a whole, which autovacuum leaves out, and by which joins and groups are planned. */
async function analyze(pool: Pool, { id, schema, name }: KeptTable, options: ApplyOptions): Promise<void> {
  // The partitions of before: one that comes meanwhile makes it due again.
  const { rows } = await pool.query<{ digest: string }>('select partitions.partitions_digest($1) as digest', [id]);
  onStep(options)(`analyzing ${schema}.${name}`, 0, 0);
  // By itself, not in a function: so each partition has a transaction of its own, and none holds the horizon until all are done.
  await runUntilStopped(pool, options.stop, `analyze ${qualified(schema, name)}`);
  await pool.query('update partitions.tables set analyzed = $2 where id = $1', [id, rows[0]?.digest]);
}

const endOfMonths = ({ monthsAhead }: Entry, now: Date): Month => addMonths(monthOf(now), monthsAhead + 1);

/** Where the past ends: decided once, and anew when that month has come too near. Nowhere, where rows lie beyond. */
async function closePast(pool: Pool, { entry, kept }: Of, options: ApplyOptions): Promise<Month | null> {
  const end = endOfPast(options.now);
  const usable = kept.closesAt !== null && kept.closesAt >= end ? kept.closesAt : end;
  // The check of a run that was broken off says another month.
  if (kept.closesAt !== null && kept.closesAt !== usable) await reopenPast(pool, entry, options);
  const { rows } = await runUntilStopped<{ isBeyond: boolean }>(
    pool,
    options.stop,
    `select exists (select from ${qualified(kept.schema, kept.name)} where ${ident(entry.by)} >= (${await boundSql(pool, usable, kept)})) as "isBeyond"`,
  );
  const closesAt = rows[0]?.isBeyond === true ? null : usable;
  await pool.query('update partitions.tables set closes_at = $2 where id = $1', [kept.id, closesAt]);
  return closesAt;
}

async function boundSql(db: Queryable, month: Month, { id, zone }: KeptTable): Promise<string> {
  const { rows } = await db.query<{ bound: string }>(
    'select partitions.month_bound($1, $2, partitions.key_type($3)) as bound',
    [month, zone, id],
  );
  return rows[0]?.bound ?? '';
}

async function splitPast(pool: Pool, of: Of, options: ApplyOptions): Promise<readonly number[]> {
  const { entry, kept } = of;
  // By its bounds: somebody may have renamed it.
  const { rows } = await pool.query<{ name: string; end: Month | null }>(
    'select c.relname as name, m.end_day::text as end from partitions.months_of($1) m join pg_class c on c.oid = m.partition where m.first_day is null and not m.is_default',
    [kept.id],
  );
  const past = rows[0];
  if (past === undefined) {
    throw new AppError(
      'PARTITIONS_DRIFTED',
      `${entry.table} has no partition of the past any more. What it has: liventix partitions status --months`,
    );
  }
  onStep(options)(`looking for the months of ${entry.table}`, 0, 0);
  const leaves = await leavesOfPast(pool, {
    entry,
    past: past.name,
    end: past.end,
    thisMonth: monthOf(options.now),
    endOfMonths: endOfMonths(entry, options.now),
    stop: options.stop,
  });
  const planLeaves = async () => leaves;
  return [await splitPartition({ ...splittingOf(pool, of, options), partition: past.name, planLeaves })];
}

/** Gives rows that lie in no month the months that they belong to; those of years that nobody keeps stay where they are. */
async function sortStrays(pool: Pool, of: Of, options: ApplyOptions): Promise<readonly number[]> {
  const splitting = splittingOf(pool, of, options);
  const isGoingOn = await isUnderWay(splitting, 'apply');
  const strays = await readStrays(pool, of.kept, options.now);
  if (strays === undefined || (strays.months.length === 0 && !isGoingOn)) return [];
  const planLeaves = async (tx: Queryable) =>
    leavesOfStrays((await readStrays(tx, of.kept, options.now))?.months ?? []);
  return [await splitPartition({ ...splitting, partition: strays.name, planLeaves })];
}

/** The partition of what lies in no month, and the months that its rows belong to. */
async function readStrays(
  db: Queryable,
  { id }: KeptTable,
  now: Date,
): Promise<{ readonly name: string; readonly months: readonly Month[] } | undefined> {
  const { rows } = await db.query<{ name: string; months: readonly Month[] }>(
    `select c.relname as name, partitions.months_in($1, m.partition, $2)::text[] as months
     from partitions.months_of($1) m join pg_class c on c.oid = m.partition where m.is_default`,
    [id, now],
  );
  return rows[0];
}

const splittingOf = (
  pool: Pool,
  { entry, kept }: Of,
  options: ApplyOptions,
): Omit<Splitting, 'partition' | 'planLeaves'> => ({
  pool,
  tableId: kept.id,
  table: entry.table,
  entry,
  locking: lockingOf(entry, options),
  restFactor: options.restFactor ?? 0,
  onStep: onStep(options),
});

/** What is set aside refers to nothing any more: else who deletes what it refers to would be kept waiting, or refused. */
export async function letReferencesGo(
  pool: Pool,
  entry: Pick<Entry, 'table'>,
  options: Pick<ApplyOptions, 'stop' | 'maxTries' | 'lockedForAtMostMs'>,
): Promise<void> {
  const { rows } = await pool.query<{ relation: string; name: string }>(
    `select s.relation, k.conname as name from partitions.set_aside s join pg_constraint k on k.conrelid = to_regclass(s.relation) and k.contype = 'f' and k.conparentid = 0`,
  );
  for (const { relation, name } of rows) {
    await givingWay(pool, { ...lockingOf(entry, options), code: 'PARTITIONS_BUSY' }, (tx) =>
      tx.query(`alter table ${relation} drop constraint ${ident(name)}`),
    );
  }
}
