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
/** Of those beside a chunk, as few as there are while the run is slow. */
const KEPT_BESIDE = 60;
/** Of those apart from the run: so many make up ten seconds. */
const KEPT_APART = 200;
/** In a mean, none counts as more than so many times what they mostly take: one that the disk kept waiting does not decide alone. */
const MOST_OF_MEDIAN = 10;

/** Writes as old code does, and measures how long that takes, beside the run. */
export interface Canary {
  since(): CanaryWrites;
  forget(): void;
  /** False where the role may not lock a wallet: then the canary only writes. */
  readonly locksWallets: boolean;
  readonly pid: number;
  stop(): Promise<void>;
}

export interface CanaryWrites {
  /** Of the last hundred at most since `forget`. */
  readonly writes: number;
  /** Of those, with the one under way as far as it is; undefined before the first. */
  readonly p99Ms: number | undefined;
  /** While a chunk is under way. */
  readonly beside: { readonly writes: number; readonly meanMs: number };
  /** While the run leaves the server alone, to begin with before it did anything. */
  readonly apart: { readonly p99Ms: number; readonly meanMs: number };
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
  let besideMs: number[] = [];
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
      tookMs = lastOf(KEPT, tookMs, ms);
      if (isApart && isResting()) apartMs = lastOf(KEPT_APART, apartMs, ms);
      else besideMs = lastOf(KEPT_BESIDE, besideMs, ms);
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
    const p99Ms = p99Of(tookMs);
    // Kept waiting, it will be long whatever comes of it.
    const isKeptWaiting = underWayMs > Math.max(p99Ms ?? 0, KEPT_WAITING_MS);
    const mostMs = MOST_OF_MEDIAN * medianOf(apartMs);
    return {
      writes: tookMs.length,
      p99Ms: isKeptWaiting ? underWayMs : p99Ms,
      beside: { writes: besideMs.length, meanMs: meanOf(besideMs, mostMs) },
      apart: { p99Ms: p99Of(apartMs) ?? 0, meanMs: meanOf(apartMs, mostMs) },
    };
  };

  try {
    await client.connect();
    // The first finds the plans, and is no measure.
    await writeOne(client, input, tries);
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

function lastOf(most: number, tookMs: readonly number[], ms: number): number[] {
  return [...tookMs.slice(1 - most), ms];
}

/** By nearest rank; of fewer than a hundred, the longest but one: by the longest alone, chance would decide. */
function p99Of(tookMs: readonly number[]): number | undefined {
  const rank = Math.ceil(tookMs.length * 0.99) - (tookMs.length < 100 ? 1 : 0);
  return tookMs.toSorted((a, b) => a - b)[Math.max(0, rank - 1)];
}

function medianOf(tookMs: readonly number[]): number {
  return tookMs.toSorted((a, b) => a - b)[Math.floor(tookMs.length / 2)] ?? 0;
}

function meanOf(tookMs: readonly number[], mostMs: number): number {
  return tookMs.reduce((sum, ms) => sum + Math.min(ms, mostMs), 0) / Math.max(1, tookMs.length);
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
