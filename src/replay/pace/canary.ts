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
/** One under way for longer counts before it has come through. */
const KEPT_WAITING_MS = 200;
/** Rows that are written over and over. */
const SLOTS = 1_000;
const KEPT = 100;
/** Of those apart from the run: so many make up ten seconds. */
const KEPT_APART = 200;

/** Writes as old code does, and measures how long that takes, beside the run. */
export interface Canary {
  /**
   * Of the last hundred at most since `forget`, the p99 with the one under way, as far as it is; beside what they take while the run
   * leaves the server alone, to begin with what they took before it did anything.
   */
  since(): CanaryWrites;
  forget(): void;
  /** False where the role may not lock a wallet: then the canary only writes. */
  readonly locksWallets: boolean;
  readonly pid: number;
  stop(): Promise<void>;
}

export interface CanaryWrites extends Took {
  readonly writes: number;
  readonly baseline: Took;
}

/** Undefined before the first. */
interface Took {
  readonly medianMs: number | undefined;
  readonly p99Ms: number | undefined;
}

export interface CanaryInput {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  /** Whether the run leaves the server alone just now. */
  readonly isResting: () => boolean;
}

/**
 * A canary locks a random wallet as old code does before it changes one, writes a row of ours and commits. No column of the old
 * tables changes and no trigger of theirs fires: what it leaves there is the lock's note in the row's header, as `select … for update`
 * leaves it too.
 * @throws AppError DB_*
 */
export async function startCanary(input: CanaryInput): Promise<Canary> {
  const client = new pg.Client({
    ...input.pool.options,
    options: `${input.pool.options.options ?? ''} -c lock_timeout=${PATIENCE_MS}`,
  });
  const stopped = new AbortController();
  const tries = { number: 0, locksWallets: true };
  let tookMs: number[] = [];
  let apartMs: number[] = [];
  let startedAt: number | undefined;
  let failure: unknown;
  client.on('error', (error) => {
    failure ??= error;
  });

  const write = async (isResting: () => boolean): Promise<void> => {
    startedAt = performance.now();
    const isApart = isResting();
    try {
      await writeOne(client, input, tries);
    } finally {
      const ms = performance.now() - startedAt;
      tookMs = [...tookMs.slice(1 - KEPT), ms];
      if (isApart && isResting()) apartMs = [...apartMs.slice(1 - KEPT_APART), ms];
      startedAt = undefined;
    }
  };
  const goOn = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const dueAt = performance.now() + EVERY_MS;
      await write(input.isResting);
      await sleep(Math.max(0, dueAt - performance.now()), undefined, { signal: stopped.signal }).catch(() => undefined);
    }
  };
  const since = () => {
    if (failure !== undefined) throw toAppError(failure);
    const underWayMs = startedAt === undefined ? 0 : performance.now() - startedAt;
    const took = summary(tookMs);
    // Kept waiting, it will be long whatever comes of it.
    const isKeptWaiting = underWayMs > Math.max(took.p99Ms ?? 0, KEPT_WAITING_MS);
    return {
      ...took,
      ...(isKeptWaiting ? { p99Ms: underWayMs } : {}),
      writes: tookMs.length,
      baseline: summary(apartMs),
    };
  };

  try {
    await client.connect();
    // The first finds the plans, and is no measure.
    await write(() => false);
    const until = performance.now() + BASELINE_MS;
    while (apartMs.length === 0 || (apartMs.length < BASELINE_WRITES && performance.now() < until)) {
      await write(() => true);
    }
  } catch (error) {
    await client.end();
    throw toAppError(error);
  }
  const running = goOn().catch((error: unknown) => {
    failure ??= error;
  });
  return {
    since,
    forget: () => {
      tookMs = [];
    },
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

/** By nearest rank; for the p99 of fewer than a hundred, the longest but one: by the longest alone, chance would decide. */
function summary(tookMs: readonly number[]): Took {
  const sorted = tookMs.toSorted((a, b) => a - b);
  const rank = (part: number) => Math.ceil(sorted.length * part);
  return {
    medianMs: sorted[Math.max(0, rank(0.5) - 1)],
    p99Ms: sorted[Math.max(0, rank(0.99) - (sorted.length < 100 ? 2 : 1))],
  };
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
