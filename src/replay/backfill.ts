import pg from 'pg';
import type { Pool, Tx } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { importChunkSql, platformAccountIds, reconcileChunkSql, walletAccountId, walletsInRange } from './mapping.ts';
import { CAUSES, PLATFORM_ACCOUNTS, REPLAY_CURRENCY, SOURCES, type Source, WALLET_ACCOUNT } from './sources.ts';

export interface BackfillOptions {
  readonly bookId?: number;
  /** Legacy rows a database transaction. */
  readonly chunkRows?: number;
  readonly stop?: AbortSignal;
  readonly onProgress?: (progress: BackfillProgress) => void;
}

export interface BackfillProgress {
  readonly step: 'survey' | 'accounts' | 'rows' | 'balances';
  readonly source: Source['name'];
  readonly done: bigint;
  readonly total: bigint;
}

export interface BackfillResult {
  /** False when it was stopped; run it again to go on. */
  readonly finished: boolean;
  /** Rows of the legacy tables. */
  readonly legacyTransactions: bigint;
  /** Rows that this run brought into the log. */
  readonly imported: bigint;
  readonly wallets: bigint;
  readonly seconds: number;
}

const DEFAULT_CHUNK_ROWS = 5_000;
const WALLETS_A_CHUNK = 1_000;
const CHUNK_WORK_MEM = '32MB';
/** How often rows may come in behind a survey's back before the run gives up. */
const MAX_SURVEYS = 20;

/**
 * Replays every legacy wallet into the ledger. Each chunk commits together with its checkpoint, and every event's id is
 * made from its legacy row, so the run may be stopped or killed at any point and run again.
 * @throws AppError BACKFILL_RUNNING, LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function runBackfill(pool: Pool, options: BackfillOptions = {}): Promise<BackfillResult> {
  const bookId = options.bookId ?? 1;
  const startedAt = performance.now();
  const tables = await getLegacyTables(pool);
  const lock = await takeBackfillLock(pool, bookId);
  try {
    const run: Run = { pool, bookId, tables, options, lock, chunkRows: options.chunkRows ?? DEFAULT_CHUNK_ROWS };
    await openPlatformAccounts(run);
    const total = { rows: 0n, imported: 0n, wallets: 0n };
    for (const source of SOURCES) {
      const done = await replaySource(run, source);
      total.rows += done.rows;
      total.imported += done.imported;
      total.wallets += done.wallets;
    }
    return {
      finished: options.stop?.aborted !== true,
      legacyTransactions: total.rows,
      imported: total.imported,
      wallets: total.wallets,
      seconds: (performance.now() - startedAt) / 1_000,
    };
  } finally {
    await lock.release();
  }
}

interface Run {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly options: BackfillOptions;
  readonly lock: BackfillLock;
  readonly chunkRows: number;
}

async function replaySource(run: Run, source: Source): Promise<{ rows: bigint; imported: bigint; wallets: bigint }> {
  const { pool, bookId, tables } = run;
  await pool.query('insert into replay.progress (book_id, source) values ($1, $2) on conflict do nothing', [
    bookId,
    source.name,
  ]);
  const rows = await countRows(pool, tables[source.transactions]);
  const wallets = await countRows(pool, tables[source.wallets]);
  const total = { rows, wallets };
  await prepare(run, source, total);
  let imported = await importChunks(run, source, total, 'in_order');
  // Rows that appeared behind the checkpoint: written with an earlier time, or committed later than their neighbours.
  if (!(await isComplete(run, source))) imported += await importChunks(run, source, total, 'not_in_log');
  await reconcileBalances(run, source, wallets);
  if (!isStopped(run)) {
    await pool.query(
      'update replay.progress set finished_at = coalesce(finished_at, clock_timestamp()) where book_id = $1 and source = $2',
      [bookId, source.name],
    );
  }
  return { rows, imported, wallets };
}

/** Whether the run was told to stop. Throws when it lost its lock, because another may be running by now. */
function isStopped(run: Run): boolean {
  run.lock.assertHeld();
  return run.options.stop?.aborted === true;
}

interface BackfillLock {
  /** @throws AppError DB_UNREACHABLE */
  assertHeld(): void;
  release(): Promise<void>;
}

// Session-wide and on a connection of its own, so that a killed run lets go of it by dying. Not one of the pool's, which
// may have no second one.
async function takeBackfillLock(pool: Pool, bookId: number): Promise<BackfillLock> {
  const client = new pg.Client(pool.options);
  let lost: Error | undefined;
  client.on('error', (error) => {
    lost ??= error;
  });
  const release = () => client.end().catch(() => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ taken: boolean }>(
      `select pg_try_advisory_lock(hashtext('liventix.backfill'), $1) as taken`,
      [bookId],
    );
    if (rows[0]?.taken !== true) {
      throw new AppError(
        'BACKFILL_RUNNING',
        `Another backfill of book ${bookId} is running. Wait for it, or stop it first.`,
      );
    }
  } catch (error) {
    await release();
    throw toAppError(error);
  }
  const assertHeld = () => {
    if (lost === undefined) return;
    throw new AppError(
      'DB_UNREACHABLE',
      `The connection that kept other backfills away was lost (${lost.message}). Run it again: it goes on where it stopped.`,
      { cause: lost },
    );
  };
  return { assertHeld, release };
}

async function openPlatformAccounts(run: Run): Promise<void> {
  const accounts = [...PLATFORM_ACCOUNTS, ...CAUSES.map((name) => ({ type: 'suspense', name }))];
  await withTransaction(run.pool, (tx) =>
    tx.query('select payments.open_accounts($1, $2)', [
      run.bookId,
      JSON.stringify(accounts.map((account) => ({ ...account, currency: REPLAY_CURRENCY }))),
    ]),
  );
}

interface Totals {
  readonly rows: bigint;
  readonly wallets: bigint;
}

async function prepare(run: Run, source: Source, total: Totals): Promise<void> {
  report(run, { step: 'survey', source: source.name, done: 0n, total: total.rows });
  await survey(run, source);
  await openWalletAccounts(run, source, total.wallets);
}

/** Finds what the flows do not explain, in one pass over the whole table: a row is judged by those before it. */
async function survey(run: Run, source: Source): Promise<void> {
  await withTransaction(run.pool, async (tx) => {
    await tx.query(`set local work_mem = '${CHUNK_WORK_MEM}'`);
    await tx.query('delete from replay.findings where book_id = $1 and source = $2', [run.bookId, source.name]);
    await tx.query(
      // In one statement, so that the snapshot kept is the one that the rows were judged in.
      `with found as (
         insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
         select $1, $2, s.legacy_id, s.cause, s.explained_cents from (${source.surveySql(run.tables)}) s
       )
       update replay.progress set survey = pg_current_snapshot() where book_id = $1 and source = $2`,
      [run.bookId, source.name],
    );
  });
}

async function openWalletAccounts(run: Run, source: Source, total: bigint): Promise<void> {
  await inWalletChunks(run, source, { step: 'accounts', total }, async (tx, range) => {
    await tx.query(
      `select payments.open_accounts($1, (
         select coalesce(jsonb_agg(jsonb_build_object('type', 'cash', 'currency', $2::text, 'name', $3::text, $4::text, w.${source.ownerColumn})), '[]')
         from ${run.tables[source.wallets]} w where ${walletsInRange('$5', '$6')}))`,
      [run.bookId, REPLAY_CURRENCY, WALLET_ACCOUNT, `${source.ownerKind}_id`, range.after, range.upTo],
    );
  });
}

async function importChunks(
  run: Run,
  source: Source,
  total: Totals,
  which: 'in_order' | 'not_in_log',
): Promise<bigint> {
  const sql = importChunkSql(source, run.tables, which);
  let imported = 0n;
  let surveys = 1;
  while (!isStopped(run)) {
    const chunk = await withTransaction(run.pool, (tx) => importChunk(run, source, tx, sql));
    if (chunk === 'ahead_of_survey') {
      if (surveys >= MAX_SURVEYS) {
        throw new AppError(
          'DB_CONFLICT',
          `Rows were written to ${run.tables[source.transactions]} faster than they could be surveyed, ${surveys} times. Run it again while the old platform is quiet.`,
        );
      }
      surveys += 1;
      await prepare(run, source, total);
      continue;
    }
    if (chunk.rows === 0n) break;
    imported += chunk.imported;
    report(run, { step: 'rows', source: source.name, done: chunk.rowsSoFar, total: total.rows });
  }
  return imported;
}

async function isComplete(run: Run, source: Source): Promise<boolean> {
  const { rows } = await run.pool.query<{ complete: boolean }>(
    `select (p.rows, p.delta_cents, p.id_hash) = (t.rows, t.delta_cents, t.id_hash) as complete
     from replay.progress p
     cross join (
       select count(*) as rows, coalesce(sum(credits_delta), 0)::bigint as delta_cents,
              coalesce(sum(uuid_hash_extended(id, 0)), 0) as id_hash
       from ${run.tables[source.transactions]}
     ) t
     where p.book_id = $1 and p.source = $2`,
    [run.bookId, source.name],
  );
  return rows[0]?.complete === true;
}

interface ImportedChunk {
  readonly rows: bigint;
  readonly imported: bigint;
  readonly rowsSoFar: bigint;
}

async function importChunk(run: Run, source: Source, tx: Tx, sql: string): Promise<ImportedChunk | 'ahead_of_survey'> {
  // A chunk is sorted several times; in the default 4 MB it would be sorted on disk. And it need not wait for the disk: a
  // server that crashes forgets rows and checkpoint together, and the next run brings them again.
  await tx.query(`set local work_mem = '${CHUNK_WORK_MEM}'; set local synchronous_commit = off`);
  const { rows: checkpoints } = await tx.query<{ created_at: string | null; id: string | null }>(
    `select last_created_at::text as created_at, last_id as id
     from replay.progress where book_id = $1 and source = $2 for update`,
    [run.bookId, source.name],
  );
  const { rows } = await tx.query<{
    rows: bigint;
    delta: string;
    id_hash: string;
    imported: bigint | null;
    created_at: string;
    id: string;
  }>(sql, [run.bookId, source.name, checkpoints[0]?.created_at, checkpoints[0]?.id, run.chunkRows]);
  const chunk = rows[0];
  if (chunk === undefined || chunk.rows === 0n) return { rows: 0n, imported: 0n, rowsSoFar: 0n };
  if (chunk.imported === null) return 'ahead_of_survey';
  const { rows: updated } = await tx.query<{ rows: bigint }>(
    `update replay.progress
     set rows = rows + $3, delta_cents = delta_cents + $4, id_hash = id_hash + $7,
         (last_created_at, last_id) = (
           select * from (values (last_created_at, last_id), ($5::timestamptz, $6::uuid)) as key (created_at, id)
           where created_at is not null order by created_at desc, id desc limit 1)
     where book_id = $1 and source = $2
     returning rows`,
    [run.bookId, source.name, chunk.imported, chunk.delta, chunk.created_at, chunk.id, chunk.id_hash],
  );
  return { rows: chunk.rows, imported: chunk.imported, rowsSoFar: updated[0]?.rows ?? 0n };
}

/** Posts what is left between the old balance and the replayed one to suspense, by cause, so that both agree. */
async function reconcileBalances(run: Run, source: Source, total: bigint): Promise<void> {
  const sql = reconcileChunkSql(source, run.tables);
  await inWalletChunks(run, source, { step: 'balances', total }, async (tx, range) => {
    await tx.query(
      `select payments.lock_accounts($1, array(
         select ${walletAccountId(source, `w.${source.ownerColumn}`)} from ${run.tables[source.wallets]} w
         where ${walletsInRange('$2', '$3')}) || ${platformAccountIds()})`,
      [run.bookId, range.after, range.upTo],
    );
    await tx.query(sql, [run.bookId, source.name, range.after, range.upTo]);
  });
}

interface WalletRange {
  /** Null: from the first on. */
  readonly after: string | null;
  readonly upTo: string;
}

async function inWalletChunks(
  run: Run,
  source: Source,
  progress: Pick<BackfillProgress, 'step' | 'total'>,
  work: (tx: Tx, range: WalletRange) => Promise<void>,
): Promise<void> {
  let after: string | null = null;
  let done = 0n;
  while (!isStopped(run)) {
    const next = await nextWallets(run, source, after);
    if (next.upTo === null) break;
    const range: WalletRange = { after, upTo: next.upTo };
    await withTransaction(run.pool, (tx) => work(tx, range));
    after = range.upTo;
    done += next.count;
    report(run, { ...progress, source: source.name, done });
  }
}

async function nextWallets(
  run: Run,
  source: Source,
  after: string | null,
): Promise<{ count: bigint; upTo: string | null }> {
  const { rows } = await run.pool.query<{ count: bigint; upTo: string | null }>(
    `select count(*) as count, max(id::text) as "upTo"
     from (select id from ${run.tables[source.wallets]} where $1::uuid is null or id > $1::uuid order by id limit $2) w`,
    [after, WALLETS_A_CHUNK],
  );
  return rows[0] ?? { count: 0n, upTo: null };
}

async function countRows(pool: Pool, table: string): Promise<bigint> {
  const { rows } = await pool.query<{ n: bigint }>(`select count(*) as n from ${table}`);
  return rows[0]?.n ?? 0n;
}

function report(run: Run, progress: BackfillProgress): void {
  run.options.onProgress?.(progress);
}
