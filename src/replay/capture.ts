import { setTimeout as sleep } from 'node:timers/promises';
import { type GivingWay, givingWay } from '../db/giving-way.ts';
import { describeHolder, findHorizonHolders } from '../db/horizon.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { BACKFILL_PATIENCE_MS, takeBackfillLock } from './backfill-lock.ts';
import { findLegacyTables, getLegacyTables, type LegacyTables } from './legacy.ts';
import { SOURCES } from './sources.ts';

/** How long an older transaction may take to end. */
const PATIENCE_MS = 60_000;
/** What to do once something was written that nobody captured. */
export const BEGIN_AGAIN =
  'Begin again: liventix backfill abort (where the ledger keeps wallets, rollback --all before it, with --also-differing where one is refused), then capture on and run; what is in the log already is not booked twice.';
const POLL_MS = 50;

/** A capture that is on. */
export interface Capture {
  readonly id: bigint;
  /** Whether every change since it was turned on has been captured: its triggers are the ones that were made then. */
  readonly isWhole: boolean;
  readonly bookId: number;
  readonly installedAt: Date;
}

export interface CaptureOptions {
  readonly bookId?: number;
  readonly stop?: AbortSignal | undefined;
  /** How often the locks were not free yet. */
  readonly onBusy?: (tries: number) => void;
  readonly patienceMs?: number;
}

/**
 * Captures every change to the four wallet tables from now on. All of it is installed in one database transaction that gives way to
 * the old platform after 50 ms, and is tried again. Done before, it does nothing.
 * @returns whether it was off until now
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, CAPTURE_BUSY, CAPTURE_OTHER_BOOK, CAPTURE_INTERRUPTED,
 *   BACKFILL_RETIRED, DB_*
 */
export async function turnCaptureOn(pool: Pool, options: CaptureOptions = {}): Promise<boolean> {
  const { bookId = MAIN_BOOK } = options;
  const tables = await getLegacyTables(pool);
  await assertNotRetired(pool, bookId);
  const before = await findCapture(pool);
  if (before !== undefined) {
    assertUsable(before, bookId);
    await awaitOlderTransactions(pool, options);
    return false;
  }
  const turnedOn = await givingWay(pool, busy(options), async (tx) => {
    await lockTables(tx, tables);
    // Somebody else may have been faster.
    const meanwhile = await findCapture(tx);
    if (meanwhile !== undefined) {
      assertUsable(meanwhile, bookId);
      return false;
    }
    for (const statement of installSql(tables)) await tx.query(statement);
    await tx.query(`insert into replay.capture (book_id, triggers) select $1, ${TRIGGERS}`, [bookId]);
    return true;
  });
  await awaitOlderTransactions(pool, options);
  return turnedOn;
}

/**
 * Ends the capture, and forgets what was captured and is not in the log yet.
 * @returns whether it was on
 * @throws AppError CAPTURE_NEEDED while the ledger keeps a wallet, BACKFILL_RUNNING, CAPTURE_BUSY, DB_*
 */
export async function turnCaptureOff(pool: Pool, options: CaptureOptions = {}): Promise<boolean> {
  const capture = await findCapture(pool);
  if (capture === undefined) return false;
  const tables = await findLegacyTables(pool);
  // A run that is at work would go on without it.
  const lock = await takeBackfillLock(pool, capture.bookId, BACKFILL_PATIENCE_MS);
  try {
    return await givingWay(pool, busy(options), async (tx) => {
      await lockTables(tx, tables);
      // Waits for a flip that is under way, which stands on it.
      const { rowCount } = await tx.query('delete from replay.capture');
      await assertNotNeeded(tx, tables);
      await tx.query('truncate replay.captured_rows, replay.captured_wallets, replay.unreconciled');
      await dropOurTriggers(tx);
      return rowCount === 1;
    });
  } finally {
    await lock.release();
  }
}

/** @throws AppError CAPTURE_NEEDED while the ledger keeps a wallet */
export async function assertNotNeeded(tx: Tx, tables: Partial<LegacyTables>): Promise<void> {
  // One that is gone is kept by nobody.
  const kept = SOURCES.filter(({ wallets }) => tables[wallets] !== undefined).map(
    ({ name, wallets }) =>
      `select from replay.wallets r join ${tables[wallets]} w on w.id = r.wallet_id where r.source = '${name}' and r.mode = 'ledger'`,
  );
  const { rowCount } = kept.length === 0 ? { rowCount: 0 } : await tx.query(kept.join(' union all '));
  if (rowCount === 0) return;
  throw new AppError(
    'CAPTURE_NEEDED',
    `${rowCount} wallets are kept by the ledger, and the old tables mirror it. Let them go back first: liventix backfill rollback --all`,
  );
}

/** When the old tables were retired; undefined where they are not. */
export async function findRetirement(db: Queryable, bookId: number): Promise<Date | undefined> {
  const { rows } = await db.query<{ retiredAt: Date }>(
    'select retired_at as "retiredAt" from replay.progress where book_id = $1 and retired_at is not null limit 1',
    [bookId],
  );
  return rows[0]?.retiredAt;
}

/** @throws AppError BACKFILL_RETIRED */
export async function assertNotRetired(db: Queryable, bookId: number): Promise<void> {
  const retiredAt = await findRetirement(db, bookId);
  if (retiredAt === undefined) return;
  throw new AppError(
    'BACKFILL_RETIRED',
    `The old tables were retired at ${retiredAt.toISOString()}: the ledger keeps the wallets, and nothing of the old tables is replayed any more.`,
  );
}

/** Nobody reads or writes the tables from then on until the transaction ends: the last thing that it does. */
export async function dropOurTriggers(tx: Tx): Promise<void> {
  const { rows } = await tx.query<{ statement: string }>(
    `select format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass) as statement from (${OUR_TRIGGERS}) t order by t.tgrelid`,
  );
  for (const { statement } of rows) await tx.query(statement);
}

/** The capture that is on, if one is. */
export async function findCapture(db: Queryable): Promise<Capture | undefined> {
  const { rows } = await db.query<Capture>(
    `select id, book_id as "bookId", installed_at as "installedAt", triggers = ${TRIGGERS} as "isWhole" from replay.capture`,
  );
  return rows[0];
}

/**
 * The capture of a book, once no transaction is left that is older than it.
 * @throws AppError CAPTURE_OFF, BACKFILL_RETIRED, CAPTURE_OTHER_BOOK, CAPTURE_INTERRUPTED, CAPTURE_BUSY
 */
export async function getCapture(pool: Pool, options: CaptureOptions = {}): Promise<Capture> {
  const capture = await assertCaptured(pool, options.bookId ?? MAIN_BOOK);
  await awaitOlderTransactions(pool, options);
  return capture;
}

/**
 * Whether everything was captured until now: a trigger may go while a run is at work, and what is missed by that shows neither in
 * the count of the rows nor in their sum.
 * @throws AppError CAPTURE_OFF, CAPTURE_INTERRUPTED
 */
export async function assertStillCaptured(db: Queryable, capture: Capture): Promise<void> {
  const now = await assertCaptured(db, capture.bookId);
  if (now.id !== capture.id) assertUsable({ ...capture, isWhole: false }, capture.bookId);
}

/** @throws AppError CAPTURE_OFF, BACKFILL_RETIRED, CAPTURE_OTHER_BOOK, CAPTURE_INTERRUPTED */
async function assertCaptured(db: Queryable, bookId: number): Promise<Capture> {
  const capture = await findCapture(db);
  if (capture === undefined) {
    await assertNotRetired(db, bookId);
    throw captureOff();
  }
  assertUsable(capture, bookId);
  return capture;
}

function captureOff(): AppError {
  return new AppError(
    'CAPTURE_OFF',
    'Changes to the legacy wallets are not captured, so that what is written during the backfill would be missed. Turn it on: liventix backfill capture on',
  );
}

const busy = ({ stop, onBusy }: CaptureOptions): GivingWay => ({
  stop,
  onBusy,
  code: 'CAPTURE_BUSY',
  what: 'A wallet table',
});

function assertUsable(capture: Capture, bookId: number): void {
  if (capture.bookId !== bookId) {
    throw new AppError(
      'CAPTURE_OTHER_BOOK',
      `Changes are captured for book ${capture.bookId}, not for book ${bookId}: the legacy wallets can be replayed into one book at a time.`,
    );
  }
  if (capture.isWhole) return;
  throw new AppError(
    'CAPTURE_INTERRUPTED',
    `A trigger of the capture of ${capture.installedAt.toISOString()} was dropped, disabled or made anew behind its back, so that changes may be missing. ${BEGIN_AGAIN}`,
  );
}

/** Ours on the legacy tables, as far as they fire for everybody. */
const OUR_TRIGGERS = `
  select t.oid, t.xmin, t.tgname, t.tgrelid, t.tgenabled from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'replay'::regnamespace
  where not t.tgisinternal and t.tgname like 'liventix%'`;

/** Row and version of each in the catalog: whoever drops, disables or makes one anew changes it. */
const TRIGGERS = `(select coalesce(array_agg(format('%s:%s', t.oid, t.xmin) order by t.oid), '{}') from (${OUR_TRIGGERS}) t where t.tgenabled = 'A')`;

function installSql(tables: LegacyTables): string[] {
  return SOURCES.flatMap(({ name, transactions, wallets }) => {
    const [rowTable, walletTable] = [tables[transactions], tables[wallets]];
    const triggers = [
      [
        rowTable,
        'liventix_capture',
        `after insert or update or delete on ${rowTable} for each row execute function replay.capture_row('${name}')`,
      ],
      [
        walletTable,
        'liventix_capture',
        `after insert or update or delete on ${walletTable} for each row execute function replay.capture_wallet('${name}')`,
      ],
      [
        walletTable,
        'liventix_balance',
        `before update on ${walletTable} for each row execute function replay.take_balance('${name}')`,
      ],
      ...[rowTable, walletTable].map((table) => [
        table,
        'liventix_capture_truncate',
        `before truncate on ${table} for each statement execute function replay.refuse_truncate()`,
      ]),
    ];
    return triggers.flatMap(([table, trigger, rest]) => [
      `create trigger ${trigger} ${rest}`,
      // Replication applies changes as a replica does, and those count too.
      `alter table ${table} enable always trigger ${trigger}`,
    ]);
  });
}

/**
 * Keeps writers away from the wallet tables until the transaction ends, and lets readers go on: what creating a trigger needs anyway,
 * all at once, because waiting for one while holding another is bounded by the lock_timeout.
 */
export async function lockTables(tx: Tx, tables: Partial<LegacyTables>): Promise<void> {
  const names = SOURCES.flatMap(({ transactions, wallets }) => [tables[wallets], tables[transactions]]);
  const found = names.filter((name) => name !== undefined);
  if (found.length > 0) await tx.query(`lock table ${found.join(', ')} in share row exclusive mode`);
}

/**
 * Sets the horizon of the capture, and waits until every transaction of this database that is older has ended: such a one could
 * still write rows that are older than the horizon, after a survey has looked for them.
 */
async function awaitOlderTransactions(pool: Pool, options: CaptureOptions): Promise<void> {
  // After the transaction that installed it: until that ended, nobody could have written who is not captured.
  const { rowCount } = await pool.query(
    `update replay.capture set horizon = coalesce(horizon, pg_snapshot_xmax(pg_current_snapshot())) where settled_at is null`,
  );
  if (rowCount === 0) return;
  const deadline = performance.now() + (options.patienceMs ?? PATIENCE_MS);
  while (await hasOlderTransactions(pool)) {
    if (performance.now() > deadline || options.stop?.aborted === true) {
      const { holders } = await findHorizonHolders(pool, 0);
      const oldest = holders.find((holder) => holder.kind !== 'slot');
      throw new AppError(
        'CAPTURE_BUSY',
        `The capture is on, but a transaction that is older has not ended${oldest === undefined ? '' : `: ${describeHolder(oldest)}`}. Let it end, or end it, and run this again.`,
      );
    }
    await sleep(POLL_MS);
  }
  await pool.query('update replay.capture set settled_at = clock_timestamp() where settled_at is null');
}

async function hasOlderTransactions(pool: Pool): Promise<boolean> {
  const { rows } = await pool.query<{ found: boolean }>(
    `select exists (
       select from pg_stat_activity a
       where a.datname = current_database() and a.pid <> pg_backend_pid() and age(a.backend_xid) > age(c.horizon::xid)
     ) or exists (
       select from pg_prepared_xacts p where p.database = current_database() and age(p.transaction) > age(c.horizon::xid)
     ) as found
     from replay.capture c`,
  );
  return rows[0]?.found === true;
}
