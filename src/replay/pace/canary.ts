import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Pool } from '../../db/pool.ts';
import { isDenied, isLockTimeout, toAppError } from '../../db/sqlstate.ts';
import type { LegacyTables } from '../legacy.ts';
import { SOURCES } from '../sources.ts';

const EVERY_MS = 50;
/** A canary that waits for longer gives up, and counts as that long. */
const PATIENCE_MS = 1_000;
const BASELINE_WRITES = 20;
/** Of writes that are kept waiting, fewer are enough. */
const BASELINE_MS = 1_000;
/** Rows that are written over and over. */
const SLOTS = 1_000;
const KEPT = 100;

/** Writes as old code does, and measures how long that takes, beside the run. */
export interface Canary {
  /** Of the last hundred at most since `forget`, the one under way included as far as it is. */
  since(): { readonly writes: number; readonly p99Ms: number | undefined };
  forget(): void;
  /** Before the run did anything. */
  readonly baselineP99Ms: number;
  /** False where the role may not lock a wallet: then the canary only writes. */
  readonly locksWallets: boolean;
  readonly pid: number;
  stop(): Promise<void>;
}

/**
 * A canary locks a random wallet as old code does before it changes one, writes a row of ours and commits. No column of the old
 * tables changes and no trigger of theirs fires: what it leaves there is the lock's note in the row's header, as `select … for update`
 * leaves it too.
 * @throws AppError DB_*
 */
export async function startCanary(input: { pool: Pool; bookId: number; tables: LegacyTables }): Promise<Canary> {
  const client = new pg.Client({
    ...input.pool.options,
    options: `${input.pool.options.options ?? ''} -c lock_timeout=${PATIENCE_MS}`,
  });
  const stopped = new AbortController();
  const tries = { number: 0, locksWallets: true };
  let tookMs: number[] = [];
  let startedAt: number | undefined;
  let failure: unknown;
  client.on('error', (error) => {
    failure ??= error;
  });

  const write = async (): Promise<void> => {
    startedAt = performance.now();
    try {
      await writeOne(client, input, tries);
    } finally {
      tookMs = [...tookMs.slice(1 - KEPT), performance.now() - startedAt];
      startedAt = undefined;
    }
  };
  const goOn = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const dueAt = performance.now() + EVERY_MS;
      await write();
      await sleep(Math.max(0, dueAt - performance.now()), undefined, { signal: stopped.signal }).catch(() => undefined);
    }
  };
  const since = () => {
    if (failure !== undefined) throw toAppError(failure);
    const underWayMs = startedAt === undefined ? 0 : performance.now() - startedAt;
    const p99Ms = percentile99(tookMs);
    return { writes: tookMs.length, p99Ms: underWayMs > (p99Ms ?? EVERY_MS) ? underWayMs : p99Ms };
  };

  try {
    await client.connect();
    // The first finds the plans, and is no measure.
    await write();
    tookMs = [];
    const until = performance.now() + BASELINE_MS;
    while (tookMs.length === 0 || (tookMs.length < BASELINE_WRITES && performance.now() < until)) await write();
  } catch (error) {
    await client.end();
    throw toAppError(error);
  }
  const baselineP99Ms = since().p99Ms ?? 0;
  const running = goOn().catch((error: unknown) => {
    failure ??= error;
  });
  return {
    since,
    forget: () => {
      tookMs = [];
    },
    baselineP99Ms,
    get locksWallets() {
      return tries.locksWallets;
    },
    pid: (client as pg.Client & { readonly processID: number }).processID,
    stop: async () => {
      stopped.abort();
      await running;
      await client.end().catch(() => undefined);
    },
  };
}

/** By nearest rank: of fewer than a hundred, the longest. */
function percentile99(values: readonly number[]): number | undefined {
  return values.toSorted((a, b) => a - b)[Math.ceil(values.length * 0.99) - 1];
}

async function writeOne(
  client: pg.Client,
  { bookId, tables }: { bookId: number; tables: LegacyTables },
  tries: { number: number; locksWallets: boolean },
): Promise<void> {
  tries.number += 1;
  const source = SOURCES[tries.number % SOURCES.length];
  try {
    await client.query('begin');
    if (tries.locksWallets && source !== undefined) {
      await client.query(`select from ${tables[source.wallets]} where id >= $1 order by id limit 1 for no key update`, [
        randomUUID(),
      ]);
    }
    await client.query(
      `insert into replay.canaries (slot, book_id) values ($1, $2)
       on conflict (slot, book_id) do update set written_at = excluded.written_at`,
      [tries.number % SLOTS, bookId],
    );
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    if (isDenied(error) && tries.locksWallets) tries.locksWallets = false;
    else if (!isLockTimeout(error)) throw error;
  }
}
