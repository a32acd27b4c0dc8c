import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { STREAMED } from '../../db/cursor.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { MAIN_BOOK } from '../../ledger/ledger.ts';
import type { Which } from '../compare-wallet.ts';
import { assertFinished } from '../finished.ts';
import { getLegacyTables } from '../legacy.ts';
import { SOURCES } from '../sources.ts';
import { SHADOW_READS } from './reads.ts';

export interface ShadowOptions {
  readonly bookId?: number;
  /** Wallets of each table a round. */
  readonly sample: number;
  /** For how long rounds follow each other; one when left out. */
  readonly seconds?: number;
  readonly stop?: AbortSignal;
  readonly onProgress?: (wallets: number) => void;
}

/** A read that the two sides answer differently. */
interface ShadowDifference {
  readonly table: string;
  readonly walletId: string;
  readonly read: string;
  readonly old: string | null;
  readonly ledger: string | null;
}

interface Latency {
  readonly read: string;
  readonly old: { readonly p50Ms: number; readonly p99Ms: number };
  readonly ledger: { readonly p50Ms: number; readonly p99Ms: number };
}

export interface ShadowResult {
  readonly wallets: number;
  /** Something of them is captured and not booked yet: not compared. */
  readonly changing: number;
  readonly reads: number;
  readonly differing: number;
  /** The first ones. */
  readonly differences: readonly ShadowDifference[];
  readonly latencies: readonly Latency[];
  readonly seconds: number;
}

const NAMED = 10;

/**
 * Answers what the application reads of some wallets from the old tables and from the ledger, each wallet in one snapshot.
 * @throws AppError BACKFILL_UNFINISHED, LEGACY_*, DB_*
 */
export async function shadow(pool: Pool, options: ShadowOptions): Promise<ShadowResult> {
  const { bookId = MAIN_BOOK, sample, seconds = 0, stop } = options;
  await assertFinished(pool, bookId);
  const tables = await getLegacyTables(pool);
  const tally = startTally();
  const startedAt = performance.now();
  const elapsed = () => (performance.now() - startedAt) / 1_000;
  do {
    for (const source of SOURCES) {
      for (const walletId of await sampleWallets(pool, tables[source.wallets], sample)) {
        if (stop?.aborted === true || (seconds > 0 && elapsed() > seconds)) break;
        await withTransaction(pool, (tx) => readBoth(tx, { bookId, source, tables, walletId }, tally), STREAMED);
        options.onProgress?.(tally.wallets());
      }
    }
  } while (elapsed() < seconds && stop?.aborted !== true);
  return { ...tally.result(), seconds: elapsed() };
}

/** Fewer rows than these are all looked at. */
const SMALL_TABLE_ROWS = 100_000;
/** The sample of a large table is drawn from so many times as many. */
const DRAWN_FROM = 20;
const PERCENT = 100;

/** Wallets by chance. Of a large table whole pages are drawn, so that it is not read as a whole. */
async function sampleWallets(pool: Pool, table: string, sample: number): Promise<string[]> {
  const estimate = await pool.query<{ rows: number }>(
    `select greatest(c.reltuples, s.n_live_tup, 0)::float8 as rows
     from pg_class c left join pg_stat_all_tables s on s.relid = c.oid where c.oid = $1::regclass`,
    [table],
  );
  const rows = estimate.rows[0]?.rows ?? 0;
  const percent = Math.min((PERCENT * DRAWN_FROM * sample) / rows, PERCENT);
  const from = rows > SMALL_TABLE_ROWS ? `${table} tablesample system (${percent})` : table;
  const drawn = await pool.query<{ id: string }>(`select id from ${from} order by random() limit $1`, [sample]);
  return drawn.rows.map(({ id }) => id);
}

interface Standing {
  readonly ownerId: string | null;
  readonly accountId: string | null;
  readonly isChanging: boolean;
}

async function readBoth(tx: Tx, which: Which, tally: Tally): Promise<void> {
  const { bookId, source, tables, walletId } = which;
  const standing = await standingOf(tx, which);
  // Deleted since it was drawn.
  if (standing === undefined) return;
  const { ownerId, accountId, isChanging } = standing;
  tally.add(isChanging);
  if (isChanging) return;
  for (const { read, oldSql, ledgerSql } of SHADOW_READS) {
    const old = await timed(tx, oldSql(source, tables), [ownerId ?? walletId, walletId]);
    const ledger = await timed(tx, ledgerSql, [bookId, accountId, source.name]);
    tally.compare({ table: source.wallets, walletId, read, old: old.said, ledger: ledger.said }, [old.ns, ledger.ns]);
  }
}

async function standingOf(tx: Tx, { bookId, source, tables, walletId }: Which): Promise<Standing | undefined> {
  const { rows } = await tx.query<Standing>(
    `select w.${source.ownerColumn} as "ownerId", r.account_id as "accountId",
            exists (select from replay.changing c where c.wallet_id = w.id and c.source = $2 and c.book_id = $1) as "isChanging"
     from ${tables[source.wallets]} w
     left join replay.wallets r on r.wallet_id = w.id and r.source = $2 and r.book_id = $1
     where w.id = $3`,
    [bookId, source.name, walletId],
  );
  return rows[0];
}

async function timed(tx: Tx, sql: string, values: readonly unknown[]): Promise<{ said: string | null; ns: number }> {
  const startedAt = performance.now();
  const { rows } = await tx.query<{ said: string | null }>(sql, [...values]);
  return { said: rows[0]?.said ?? null, ns: Math.max(1, Math.round((performance.now() - startedAt) * 1e6)) };
}

type Tally = ReturnType<typeof startTally>;

function startTally() {
  let [wallets, changing, reads, differing] = [0, 0, 0, 0];
  const differences: ShadowDifference[] = [];
  const times = new Map<string, readonly [old: RecordableHistogram, ledger: RecordableHistogram]>(
    SHADOW_READS.map(({ read }) => [read, [createHistogram(), createHistogram()]]),
  );
  return {
    wallets: () => wallets,
    add: (isChanging: boolean): void => {
      wallets += 1;
      if (isChanging) changing += 1;
    },
    compare: (answer: ShadowDifference, ns: readonly [old: number, ledger: number]): void => {
      reads += 1;
      const [old, ledger] = times.get(answer.read) ?? [];
      old?.record(ns[0]);
      ledger?.record(ns[1]);
      if (answer.old === answer.ledger) return;
      differing += 1;
      if (differences.length < NAMED) differences.push(answer);
    },
    result: () => ({
      wallets,
      changing,
      reads,
      differing,
      differences,
      latencies: [...times].map(
        ([read, [old, ledger]]): Latency => ({ read, old: percentilesOf(old), ledger: percentilesOf(ledger) }),
      ),
    }),
  };
}

function percentilesOf(times: RecordableHistogram): Latency['old'] {
  const ms = (percentile: number) => (times.count === 0 ? 0 : Math.round(times.percentile(percentile) / 1e3) / 1e3);
  return { p50Ms: ms(50), p99Ms: ms(99) };
}
