import type { Pool, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { importChunkSql, reconcileChunkSql, walletAccountId } from './mapping.ts';
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
const ZERO_UUID = '00000000-0000-0000-0000-000000000000';

/**
 * Replays every legacy wallet into the ledger. Each chunk commits together with its checkpoint, and every event's id is
 * made from its legacy row, so the run may be stopped or killed at any point and run again.
 * @throws AppError BACKFILL_RUNNING, LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function runBackfill(pool: Pool, options: BackfillOptions = {}): Promise<BackfillResult> {
  const bookId = options.bookId ?? 1;
  const startedAt = performance.now();
  const tables = await getLegacyTables(pool);
  const release = await takeBackfillLock(pool, bookId);
  try {
    const run: Run = { pool, bookId, tables, options, chunkRows: options.chunkRows ?? DEFAULT_CHUNK_ROWS };
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
    await release();
  }
}

interface Run {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly options: BackfillOptions;
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
  report(run, { step: 'survey', source: source.name, done: 0n, total: rows });
  await survey(run, source);
  await openWalletAccounts(run, source, wallets);
  const imported = (await importInOrder(run, source, rows)) + (await importLatecomers(run, source));
  await reconcileBalances(run, source, wallets);
  if (run.options.stop?.aborted !== true) {
    await pool.query(
      'update replay.progress set finished_at = coalesce(finished_at, clock_timestamp()) where book_id = $1 and source = $2',
      [bookId, source.name],
    );
  }
  return { rows, imported, wallets };
}

// Session-wide and on a connection of its own, so that a killed run lets go of it by dying.
async function takeBackfillLock(pool: Pool, bookId: number): Promise<() => Promise<void>> {
  const client = await pool.connect();
  const { rows } = await client.query<{ taken: boolean }>(
    `select pg_try_advisory_lock(hashtext('liventix.backfill'), $1) as taken`,
    [bookId],
  );
  if (rows[0]?.taken !== true) {
    client.release();
    throw new AppError(
      'BACKFILL_RUNNING',
      `Another backfill of book ${bookId} is running. Wait for it, or stop it first.`,
    );
  }
  return async () => {
    await client.query(`select pg_advisory_unlock(hashtext('liventix.backfill'), $1)`, [bookId]);
    client.release();
  };
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

/** Finds what the flows do not explain, in one pass over the whole table: a row is judged by those before it. */
async function survey(run: Run, source: Source): Promise<void> {
  await withTransaction(run.pool, async (tx) => {
    await tx.query('delete from replay.findings where book_id = $1 and source = $2', [run.bookId, source.name]);
    await tx.query(
      `insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
       select $1, $2, s.legacy_id, s.cause, s.explained_cents from (${source.surveySql(run.tables)}) s`,
      [run.bookId, source.name],
    );
  });
}

async function openWalletAccounts(run: Run, source: Source, total: bigint): Promise<void> {
  await inWalletChunks(run, source, { step: 'accounts', total }, async (tx, range) => {
    await tx.query(
      `select payments.open_accounts($1, (
         select jsonb_agg(jsonb_build_object('type', 'cash', 'currency', $2::text, 'name', $3::text, $4::text, w.${source.ownerColumn}))
         from ${run.tables[source.wallets]} w where w.id > $5 and w.id <= $6))`,
      [run.bookId, REPLAY_CURRENCY, WALLET_ACCOUNT, `${source.ownerKind}_id`, range.after, range.upTo],
    );
  });
}

async function importInOrder(run: Run, source: Source, total: bigint): Promise<bigint> {
  const sql = importChunkSql(source, run.tables, 'in_order');
  let imported = 0n;
  while (run.options.stop?.aborted !== true) {
    const chunk = await withTransaction(run.pool, (tx) => importChunk(run, source, tx, sql));
    imported += chunk.imported;
    report(run, { step: 'rows', source: source.name, done: chunk.rowsSoFar, total });
    if (chunk.rows === 0n) break;
  }
  return imported;
}

// Rows that appeared behind the checkpoint: written with an earlier time, or committed later than their neighbours.
async function importLatecomers(run: Run, source: Source): Promise<bigint> {
  if (await isComplete(run, source)) return 0n;
  const sql = importChunkSql(source, run.tables, 'not_in_log');
  let imported = 0n;
  while (run.options.stop?.aborted !== true) {
    const chunk = await withTransaction(run.pool, (tx) => importChunk(run, source, tx, sql));
    imported += chunk.imported;
    if (chunk.rows === 0n) break;
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

async function importChunk(run: Run, source: Source, tx: Tx, sql: string): Promise<ImportedChunk> {
  // A chunk is sorted several times; in the default 4 MB it would be sorted on disk. And it need not wait for the disk: a
  // server that crashes forgets rows and checkpoint together, and the next run brings them again.
  await tx.query(`set local work_mem = '${CHUNK_WORK_MEM}'; set local synchronous_commit = off`);
  const { rows: checkpoints } = await tx.query<{ created_at: string; id: string }>(
    `select coalesce(last_created_at, '-infinity')::text as created_at, coalesce(last_id, $3) as id
     from replay.progress where book_id = $1 and source = $2 for update`,
    [run.bookId, source.name, ZERO_UUID],
  );
  const { rows } = await tx.query<{
    rows: bigint;
    delta: string;
    id_hash: string;
    imported: bigint;
    created_at: string;
    id: string;
  }>(sql, [run.bookId, source.name, checkpoints[0]?.created_at, checkpoints[0]?.id, run.chunkRows]);
  const chunk = rows[0];
  if (chunk === undefined || chunk.rows === 0n) return { rows: 0n, imported: 0n, rowsSoFar: 0n };
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
         where w.id > $2 and w.id <= $3))`,
      [run.bookId, range.after, range.upTo],
    );
    await tx.query(sql, [run.bookId, source.name, range.after, range.upTo]);
  });
}

interface WalletRange {
  readonly after: string;
  readonly upTo: string;
}

async function inWalletChunks(
  run: Run,
  source: Source,
  progress: Pick<BackfillProgress, 'step' | 'total'>,
  work: (tx: Tx, range: WalletRange) => Promise<void>,
): Promise<void> {
  let after = ZERO_UUID;
  let done = 0n;
  while (run.options.stop?.aborted !== true) {
    const { rows } = await run.pool.query<{ count: bigint; up_to: string | null }>(
      `select count(*) as count, max(id::text) as up_to
       from (select id from ${run.tables[source.wallets]} where id > $1 order by id limit $2) w`,
      [after, WALLETS_A_CHUNK],
    );
    const range = rows[0];
    if (range === undefined || range.up_to === null) break;
    const upTo = range.up_to;
    await withTransaction(run.pool, (tx) => work(tx, { after, upTo }));
    after = upTo;
    done += range.count;
    report(run, { ...progress, source: source.name, done });
  }
}

async function countRows(pool: Pool, table: string): Promise<bigint> {
  const { rows } = await pool.query<{ n: bigint }>(`select count(*) as n from ${table}`);
  return rows[0]?.n ?? 0n;
}

function report(run: Run, progress: BackfillProgress): void {
  run.options.onProgress?.(progress);
}
