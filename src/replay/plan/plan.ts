import { STREAMED } from '../../db/cursor.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { SORT_MEMORY } from '../backfill-run.ts';
import { getKnownLegacyTables, type LegacyTables } from '../legacy.ts';
import { SOURCES } from '../sources.ts';
import { findRowHazards, findWalletHazards, type Hazard, surveyHazards } from './hazards.ts';
import {
  findInterferences,
  findOlderTransactions,
  findReplication,
  type Interference,
  type PlannedLock,
  plannedLocks,
  type Replication,
  type Waited,
} from './surroundings.ts';

/** One legacy table as it is. */
interface PlannedTable {
  readonly table: string;
  readonly rows: bigint;
  /** With its indexes and what is kept out of line. */
  readonly bytes: bigint;
  readonly firstId: string | null;
  readonly lastId: string | null;
  readonly firstAt: string | null;
  readonly lastAt: string | null;
  readonly withoutTime: bigint;
  readonly inTheFuture: bigint;
}

/** What the backfill needs. Figures that were not measured here say whose they are. */
export interface Need {
  readonly surveySeconds: number;
  readonly runSeconds: number;
  readonly durationBasis: string;
  readonly bytes: bigint;
  readonly walBytes: bigint;
  /** How much of that the server writes, at most, between two checkpoints: `max_wal_size`. */
  readonly checkpointBytes: bigint;
  readonly spaceBasis: string;
}

export interface Plan {
  readonly database: string;
  readonly role: string;
  readonly postgres: string;
  /** Whether nothing stands against it. */
  readonly holds: boolean;
  readonly tables: readonly PlannedTable[];
  readonly hazards: readonly Hazard[];
  readonly interferences: readonly Interference[];
  readonly needs: Need;
  readonly locks: readonly PlannedLock[];
  readonly waitsFor: readonly Waited[];
  readonly replication: Replication;
}

export interface PlanOptions {
  /** Columns that may be there although nobody knows them, such as `wallets.colour`. */
  readonly ignoredColumns?: readonly string[];
  readonly onStep?: (step: string) => void;
}

/**
 * What a backfill of this database will meet and need, from one snapshot. Reads, and needs nothing of ours to be installed.
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_REVISION_UNKNOWN, DB_*
 */
export async function planBackfill(
  pool: Pool,
  { ignoredColumns = [], onStep = () => undefined }: PlanOptions = {},
): Promise<Plan> {
  // Asked outside: its own transaction would be among them.
  const waitsFor = await findOlderTransactions(pool);
  return withTransaction(
    pool,
    async (tx) => {
      await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
      onStep('looking for the tables');
      const tables = await getKnownLegacyTables(tx, ignoredColumns);
      const described: PlannedTable[] = [];
      for (const [table, qualified] of Object.entries(tables).toSorted()) {
        onStep(`counting ${table}`);
        described.push(await describeTable(tx, qualified));
      }
      const { hazards, surveySeconds } = await findHazards(tx, tables, onStep);
      onStep('looking at what is around');
      const interferences = await findInterferences(tx, tables);
      const { rows } = await tx.query<Pick<Plan, 'database' | 'role' | 'postgres'>>(
        `select current_database() as database, current_user as role, current_setting('server_version') as postgres`,
      );
      return {
        ...(rows[0] ?? { database: '', role: '', postgres: '' }),
        holds: ![...hazards, ...interferences].some(({ blocks }) => blocks),
        tables: described,
        hazards,
        interferences,
        needs: await needsOf(tx, tables, described, surveySeconds),
        locks: plannedLocks(tables),
        waitsFor,
        replication: await findReplication(tx, tables),
      };
    },
    STREAMED,
  );
}

async function describeTable(tx: Tx, qualified: string): Promise<PlannedTable> {
  // The least of ids by their text: there is no min of uuids before PostgreSQL 18. Instants as text, which has infinity too.
  const { rows } = await tx.query<Omit<PlannedTable, 'table'>>(
    `select count(*) as rows,
            coalesce((select sum(pg_total_relation_size(p.relid)) from pg_partition_tree($1) p), pg_total_relation_size($1))::bigint as bytes,
            min(id::text collate "C") as "firstId", max(id::text collate "C") as "lastId",
            min(created_at)::text as "firstAt", max(created_at)::text as "lastAt",
            count(*) filter (where created_at is null) as "withoutTime", count(*) filter (where created_at > now()) as "inTheFuture"
     from ${qualified}`,
    [qualified],
  );
  return { table: qualified, ...(rows[0] as Omit<PlannedTable, 'table'>) };
}

async function findHazards(
  tx: Tx,
  tables: LegacyTables,
  onStep: (step: string) => void,
): Promise<{ hazards: Hazard[]; surveySeconds: number }> {
  const hazards: Hazard[] = [];
  let surveySeconds = 0;
  for (const source of SOURCES) {
    onStep(`surveying ${source.transactions}`);
    const startedAt = performance.now();
    hazards.push(...(await surveyHazards(tx, source, tables)));
    surveySeconds += (performance.now() - startedAt) / 1_000;
    onStep(`reading ${source.transactions}`);
    hazards.push(...(await findRowHazards(tx, source, tables)));
    onStep(`comparing ${source.wallets} with their rows`);
    hazards.push(...(await findWalletHazards(tx, source, tables)));
  }
  return { hazards, surveySeconds };
}

/** Of 1,000,000 rows, docs/benchmarks.md; a wallet took half of a row. */
const ROWS_A_SECOND = 9_100;
const WALLETS_A_SECOND = 2 * ROWS_A_SECOND;
const DURATION_BASIS =
  'the survey as measured here; the rest at 9,100 rows a second (2 cores, docs/benchmarks.md), slower where others are at work: backfill status --watch measures it';

/** Measured with 100,000 rows of 2,050 wallets, and 20,000 of 20,010 wallets: events, entries and all indexes, after the run. */
const STATED = { rowBytes: 2_500n, walletBytes: 1_300n, rowWalBytes: 3_400n };

async function needsOf(
  tx: Tx,
  tables: LegacyTables,
  described: readonly PlannedTable[],
  surveySeconds: number,
): Promise<Need> {
  const count = (names: readonly (keyof LegacyTables)[]) =>
    described
      .filter(({ table }) => names.some((name) => tables[name] === table))
      .reduce((sum, { rows }) => sum + rows, 0n);
  const rows = count(SOURCES.map(({ transactions }) => transactions));
  const wallets = count(SOURCES.map(({ wallets: name }) => name));
  const measured = await measureRowBytes(tx);
  const { rows: found } = await tx.query<{ bytes: bigint }>(
    `select pg_size_bytes(current_setting('max_wal_size')) as bytes`,
  );
  const rowBytes = measured ?? STATED.rowBytes;
  return {
    surveySeconds,
    runSeconds: surveySeconds + Number(rows) / ROWS_A_SECOND + Number(wallets) / WALLETS_A_SECOND,
    durationBasis: DURATION_BASIS,
    bytes: rows * rowBytes + wallets * STATED.walletBytes,
    walBytes: rows * STATED.rowWalBytes,
    checkpointBytes: found[0]?.bytes ?? 0n,
    spaceBasis:
      measured === undefined
        ? `${rowBytes} bytes a row with its indexes, as measured with 100,000 rows; nothing is booked here yet`
        : `${rowBytes} bytes a row with its indexes, as measured on the events and entries that are here`,
  };
}

/** Enough events that what an empty table takes counts little. */
const MEASURABLE_EVENTS = 2_000;

/**
 * What an event takes with its entries and all indexes; undefined where there are too few to tell. Counted, not estimated: statistics
 * count twice what was written just before they were gathered.
 */
async function measureRowBytes(tx: Tx): Promise<bigint | undefined> {
  const installed = await tx.query(`select from to_regclass('payments.events') as t where t is not null`);
  if (installed.rowCount === 0) return undefined;
  const { rows } = await tx.query<{ events: bigint; bytes: bigint }>(
    `select count(*) as events, pg_total_relation_size('payments.events') + pg_total_relation_size('payments.entries') as bytes
     from payments.events`,
  );
  const [found] = rows;
  if (found === undefined || found.events < MEASURABLE_EVENTS) return undefined;
  return found.bytes / found.events;
}
