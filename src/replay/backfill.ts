import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { BACKFILL_PATIENCE_MS, takeBackfillLock } from './backfill-lock.ts';
import { type BackfillOptions, countWhole, isStopped, mayGoOn, type Run, type Totals } from './backfill-run.ts';
import { assertStillCaptured, BEGIN_AGAIN, getCapture } from './capture.ts';
import { type Drained, drain } from './drain.ts';
import { findHeldBack, type HeldBack, letGoAll } from './held-back.ts';
import { getLegacyTables } from './legacy.ts';
import { countRowsSql } from './mapping.ts';
import { startPacing, UNPACED } from './pace/pacing.ts';
import { importInOrder } from './row-steps.ts';
import { isBeforeHorizon, SOURCES, type Source } from './sources.ts';
import { survey } from './survey.ts';
import {
  DEFAULT_SETTLE_MS,
  openPlatformAccounts,
  openWalletAccounts,
  reconcileBalances,
  reconcileChanged,
} from './wallet-steps.ts';

export interface BackfillResult {
  /** False when it was stopped; run it again to go on. */
  readonly finished: boolean;
  /** Rows of the legacy tables. */
  readonly legacyTransactions: bigint;
  /** Rows that this run brought into the log. */
  readonly imported: bigint;
  /** Changes to rows that were in the log already, each an event of its own. */
  readonly corrected: bigint;
  readonly wallets: bigint;
  /** Wallets whose account the ledger does not post to as it stands: what they lack waits. */
  readonly heldBack: HeldBack;
  readonly seconds: number;
}

export const DEFAULT_CHUNK_ROWS = 5_000;

/**
 * Replays every legacy wallet into the ledger while the old platform goes on: rows of before the capture in chunks, then what was
 * captured, then what balances have beyond their rows. Each chunk commits together with its checkpoint, and every event's id is made
 * from its legacy row, so the run may be stopped or killed at any point and run again.
 * @throws AppError BACKFILL_RUNNING, CAPTURE_OFF, CAPTURE_OTHER_BOOK, CAPTURE_INTERRUPTED, CAPTURE_BUSY, LEGACY_TABLE_MISSING,
 *   LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function runBackfill(pool: Pool, options: BackfillOptions = {}): Promise<BackfillResult> {
  const bookId = options.bookId ?? MAIN_BOOK;
  const startedAt = performance.now();
  const tables = await getLegacyTables(pool);
  const lock = await takeBackfillLock(pool, bookId, options.patienceMs ?? BACKFILL_PATIENCE_MS);
  let pacing = UNPACED;
  try {
    const capture = await getCapture(pool, { bookId, ...(options.stop === undefined ? {} : { stop: options.stop }) });
    const chunkRows = options.chunkRows ?? DEFAULT_CHUNK_ROWS;
    if (options.limits !== undefined) {
      pacing = await startPacing({ pool, bookId, tables, chunkRows, limits: options.limits });
    }
    const run: Run = { pool, bookId, tables, capture, options, lock, chunkRows, pacing };
    const totals: Totals[] = [];
    let imported = 0n;
    // One that is begun while it is paused asks nothing of the server.
    await mayGoOn(run);
    await openPlatformAccounts(run);
    await letGoAll(pool, bookId);
    for (const source of SOURCES) {
      const total = await countSource(run, source);
      imported += await replayRows(run, source, total);
      totals.push(total);
    }
    const drained = await drain(run);
    for (const [nth, source] of SOURCES.entries()) await reconcileBalances(run, source, totals[nth]?.wallets ?? 0n);
    const settled = await settle(run);
    const finished = !isStopped(run);
    if (finished) await conclude(run);
    return {
      finished,
      legacyTransactions: totals.reduce((sum, { rows }) => sum + rows, 0n),
      imported: imported + drained.imported + settled.imported,
      corrected: drained.corrected + settled.corrected,
      wallets: totals.reduce((sum, { wallets }) => sum + wallets, 0n),
      heldBack: await findHeldBack(pool, bookId),
      seconds: (performance.now() - startedAt) / 1_000,
    };
  } finally {
    await pacing.stop();
    await lock.release();
  }
}

async function replayRows(run: Run, source: Source, total: Totals): Promise<bigint> {
  await run.pool.query('insert into replay.progress (book_id, source) values ($1, $2) on conflict do nothing', [
    run.bookId,
    source.name,
  ]);
  const ids = [run.bookId, source.name];
  if (isStopped(run)) return 0n;
  if (await isReadAgain(run, source)) {
    // What the log has of a row is looked for on the account of the wallet that it is in now.
    await openWalletAccounts(run, source, total.wallets);
    if (isStopped(run)) return 0n;
  }
  if (!(await survey(run, source, total))) return 0n;
  const read = await run.pool.query(
    'select from replay.progress where book_id = $1 and source = $2 and read_at is not null',
    ids,
  );
  if (read.rowCount === 1) return 0n;
  await openWalletAccounts(run, source, total.wallets);
  const imported = await importInOrder(run, source, total);
  if (!isStopped(run)) {
    await run.pool.query(
      'update replay.progress set read_at = clock_timestamp() where book_id = $1 and source = $2',
      ids,
    );
  }
  return imported;
}

/** Whether a source was read before, under another capture. */
async function isReadAgain({ pool, bookId, capture }: Run, source: Source): Promise<boolean> {
  const { rowCount } = await pool.query(
    `select from replay.progress
     where book_id = $1 and source = $2 and surveyed_at is not null and capture_id is distinct from $3`,
    [bookId, source.name, capture.id],
  );
  return rowCount === 1;
}

/** Brings in what changed while the balances were compared, and looks at those wallets again once they were left alone. */
async function settle(run: Run): Promise<Drained> {
  const { rows } = await run.pool.query('select from replay.unreconciled where book_id = $1 limit 1', [run.bookId]);
  const settleMs = run.options.settleMs ?? DEFAULT_SETTLE_MS;
  if (rows.length > 0) await sleep(settleMs, undefined, { signal: run.options.stop }).catch(() => undefined);
  const drained = await drain(run);
  await forgetUnbound(run);
  for (const source of SOURCES) await reconcileChanged(run, source);
  return drained;
}

/**
 * A wallet that nobody owns has no account that anything could be booked on: it is compared as it is, and named, instead of being taken
 * for one that is about to be looked at. Given an owner, it is captured, and looked at then.
 */
async function forgetUnbound({ pool, bookId }: Run): Promise<void> {
  await pool.query(
    `delete from replay.unreconciled u
     where u.book_id = $1 and not exists (
       select from replay.wallets w where w.wallet_id = u.wallet_id and w.source = u.source and w.book_id = u.book_id)`,
    [bookId],
  );
}

/** @throws AppError CAPTURE_INTERRUPTED where rows are missing in the log that nobody captured */
async function conclude(run: Run): Promise<void> {
  await assertStillCaptured(run.pool, run.capture);
  await run.pool.query('select replay.fold_row_counts($1)', [run.bookId]);
  for (const source of SOURCES) {
    if ((await findMissing(run, source)) === undefined) continue;
    await recount(run, source);
    const missing = await findMissing(run, source);
    if (missing === undefined) continue;
    throw new AppError(
      'CAPTURE_INTERRUPTED',
      `${run.tables[source.transactions]} holds ${missing.inTable} rows, and the log ${missing.inLog}, or other ones: some were written behind the capture's back. ${BEGIN_AGAIN}`,
    );
  }
  await run.pool.query(
    `insert into replay.unseen (wallet_id, source, book_id)
     select l.wallet_id, l.source, l.book_id
     from (select wallet_id, source, book_id from replay.unreconciled union select wallet_id, source, book_id from replay.held_back) l
     join replay.progress p on p.source = l.source and p.book_id = l.book_id and p.finished_at is null
     where l.book_id = $1
     on conflict do nothing`,
    [run.bookId],
  );
  await run.pool.query(
    'update replay.progress set finished_at = coalesce(finished_at, clock_timestamp()) where book_id = $1',
    [run.bookId],
  );
}

/**
 * Whether every row of a source is in the log or captured, by count, sum and hash of the ids, in one snapshot; both as progress would
 * have them, undefined where they are the same.
 */
async function findMissing(run: Run, source: Source): Promise<{ inTable: bigint; inLog: bigint } | undefined> {
  return countWhole(
    run,
    `select t.rows as "inTable", p.rows as "inLog"
     from replay.progress p
     cross join (${countedSql(run.tables[source.transactions])}) t
     where p.book_id = $1 and p.source = $2 and (p.rows, p.delta_cents, p.id_hash) <> (t.rows, t.delta_cents, t.id_hash)`,
    [run.bookId, source.name],
  );
}

/** SQL of whether a captured change will be counted when it is drained. */
const IS_COUNTED = `c.operation <> 'resync' and not ${isBeforeHorizon('c.xmin')}`;

/** SQL of what progress must have counted by now of a source: the table's rows, less what is captured and what is counted apart. */
function countedSql(table: string): string {
  const image = (of: string, sign: 1 | -1) => `
    select ${sign} as sign, (${of}).id, (${of}).delta from replay.captured_rows c
    where c.source = $2 and ${IS_COUNTED} and (${of}).id is not null`;
  return `
    select sum(m.rows)::bigint as rows, sum(m.delta_cents)::bigint as delta_cents, sum(m.id_hash) as id_hash
    from (
      select count(*) as rows, coalesce(sum(credits_delta), 0) as delta_cents, coalesce(sum(uuid_hash_extended(id, 0)), 0) as id_hash
      from ${table}
      union all
      select coalesce(-sum(c.sign), 0), coalesce(-sum(c.sign * c.delta), 0), coalesce(-sum(c.sign * uuid_hash_extended(c.id, 0)::numeric), 0)
      from (
        ${image('c.new', 1)} union all ${image('c.old', -1)}
        union all
        -- It was there before the capture began, and had not been reached: it will be counted as it was, first.
        select 1, f.id, f.delta
        from (
          select distinct on (coalesce((c.old).id, (c.new).id)) (c.old).id as id, (c.old).delta as delta
          from replay.captured_rows c
          where c.source = $2 and ${IS_COUNTED}
          order by coalesce((c.old).id, (c.new).id), c.id
        ) f
        where f.id is not null and not replay.is_in_log($1, $2, f.id)
      ) c
      union all
      select coalesce(-sum(c.rows), 0), coalesce(-sum(c.delta_cents), 0), coalesce(-sum(c.id_hash), 0)
      from replay.row_counts c where c.book_id = $1 and c.source = $2
    ) m`;
}

/**
 * Where rows are read again, chunks pass over what changed since the capture began, and so does their count: where every row is in the
 * log, they are counted anew.
 */
async function recount({ pool, bookId, tables }: Run, source: Source): Promise<void> {
  const table = tables[source.transactions];
  await pool.query(
    `update replay.progress p
     set rows = t.rows, delta_cents = t.delta_cents, id_hash = t.id_hash
     from (${countedSql(table)}) t
     where p.book_id = $1 and p.source = $2 and p.is_repeat
       and not exists (
         select from ${table} r
         where not replay.is_in_log($1, $2, r.id)
           and not exists (
             select from replay.captured_rows c
             where c.source = $2 and ${IS_COUNTED} and coalesce((c.new).id, (c.old).id) = r.id))`,
    [bookId, source.name],
  );
}

async function countSource(run: Run, { transactions, wallets }: Source): Promise<Totals> {
  const { tables } = run;
  const counted = await countWhole<Totals>(
    run,
    `select (select count(*) from ${tables[transactions]}) as rows, (select count(*) from ${tables[wallets]}) as wallets`,
  );
  return counted ?? { rows: 0n, wallets: 0n };
}

/** What a run would find to do in one legacy table. */
export interface Remaining {
  readonly source: Source['name'];
  readonly wallets: bigint;
  readonly rowsInTable: bigint;
  /** Those that are not in the log yet. */
  readonly rowsLeft: bigint;
}

/**
 * What `runBackfill` would find to do; changes nothing.
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function findRemaining(
  pool: Pool,
  options: { readonly bookId?: number; readonly onBegin?: (source: Source['name']) => void } = {},
): Promise<Remaining[]> {
  const { bookId = MAIN_BOOK, onBegin = () => undefined } = options;
  const tables = await getLegacyTables(pool);
  const remaining: Remaining[] = [];
  for (const source of SOURCES) {
    onBegin(source.name);
    const { rows } = await pool.query<Omit<Remaining, 'source'>>(countRowsSql(source, tables), [bookId, source.name]);
    remaining.push(...rows.map((counts) => ({ source: source.name, ...counts })));
  }
  return remaining;
}
