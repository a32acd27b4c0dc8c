import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool, Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { MAIN_BOOK } from '../../ledger/ledger.ts';
import type { LegacyTables } from '../legacy.ts';
import { type Load, watchLoad } from './load.ts';
import {
  decidePace,
  FULL_PACE,
  firstPace,
  type LimitName,
  type Limits,
  type Measured,
  type Pace,
  type Passed,
  restAfterMs,
  rowsAt,
  underWayAt,
} from './throttle.ts';

/** Often enough that who was slowed down is not for long; a decision needs a handful of canaries. */
const DECIDE_MS = 250;
const SHOW_MS = 1_000;
/** Of a run that shows itself each second. */
const ALIVE_SECONDS = 10;

/** What keeps a run from being noticed. Each step asks it before a chunk. */
export interface Pacing {
  pace(): Pace;
  /** How many rows the next chunk may have, where there may be so many at most. */
  rows(most: number): number;
  underWay(most: number): number;
  /**
   * Leaves the server alone for as long as the pace asks for after the work since it was asked last.
   * @throws AppError DB_* when it lost sight of the server
   */
  rest(stop: AbortSignal | undefined): Promise<void>;
  /** Says whether the run is paused. */
  standStill(isStill: boolean): void;
  stop(): Promise<void>;
}

export const UNPACED: Pacing = {
  pace: () => FULL_PACE,
  rows: (most) => most,
  underWay: (most) => most,
  rest: async () => undefined,
  standStill: () => undefined,
  stop: async () => undefined,
};

interface Input {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly chunkRows: number;
  readonly limits: Limits;
}

/** Measures beside the run until `stop`, and shows other terminals what it does about it. */
export async function startPacing(input: Input): Promise<Pacing> {
  let isResting = false;
  let isPaused = false;
  const load = await watchLoad({ ...input, isResting: () => isResting || isPaused });
  const stopped = new AbortController();
  let pace: Pace;
  try {
    pace = firstPace(await load.measure());
  } catch (error) {
    await load.stop();
    throw toAppError(error);
  }
  let failure: unknown;
  let restedAt = performance.now();

  const decide = async (): Promise<void> => {
    let shownAt = Number.NEGATIVE_INFINITY;
    while (!stopped.signal.aborted) {
      const measured = { ...(await load.measure()), isPaused };
      const next = decidePace(pace, measured, input.limits);
      const isNew = next.share !== pace.share;
      pace = next;
      // What was measured at another pace says nothing of this one.
      if (isNew) load.forget();
      if (isNew || performance.now() - shownAt >= SHOW_MS) {
        await show(load, { ...input, pace, measured });
        shownAt = performance.now();
      }
      await sleep(DECIDE_MS, undefined, { signal: stopped.signal }).catch(() => undefined);
    }
  };
  const deciding = decide().catch((error: unknown) => {
    failure = error;
  });

  return {
    pace: () => pace,
    rows: (most) => rowsAt(pace, most),
    underWay: (most) => underWayAt(pace, most),
    rest: async (stop) => {
      if (failure !== undefined) throw failure;
      const restMs = restAfterMs(pace, performance.now() - restedAt);
      isResting = true;
      if (restMs > 0) await sleep(restMs, undefined, { signal: stop }).catch(() => undefined);
      isResting = false;
      restedAt = performance.now();
    },
    standStill: (isStill) => {
      isPaused = isStill;
    },
    stop: async () => {
      stopped.abort();
      await deciding;
      await load.query('delete from replay.throttle where book_id = $1', [input.bookId]).catch(() => undefined);
      await load.stop();
    },
  };
}

interface Shown {
  readonly bookId: number;
  readonly chunkRows: number;
  readonly pace: Pace;
  readonly measured: Measured;
}

async function show(load: Load, { bookId, chunkRows, pace, measured }: Shown): Promise<void> {
  await load.query(
    `insert into replay.throttle as t (share, chunk_rows, passed, passed_value, passed_limit, canary_p99_ms, baseline_p99_ms, blind, book_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
     on conflict (book_id) do update
     set share = excluded.share, chunk_rows = excluded.chunk_rows, passed = excluded.passed, passed_value = excluded.passed_value,
         passed_limit = excluded.passed_limit, canary_p99_ms = excluded.canary_p99_ms, baseline_p99_ms = excluded.baseline_p99_ms,
         blind = excluded.blind, seen_at = clock_timestamp()`,
    [
      pace.share,
      rowsAt(pace, chunkRows),
      pace.passed?.name,
      pace.passed?.value,
      pace.passed?.limit,
      measured.canary.p99Ms,
      measured.canary.apart.p99Ms,
      load.blind(),
      bookId,
    ],
  );
}

/** What the throttle of a run that is under way does now. */
export interface ThrottleStatus {
  readonly share: number;
  readonly chunkRows: number;
  readonly passed: Passed | null;
  readonly canaryP99Ms: number | null;
  readonly baselineP99Ms: number;
  readonly blind: readonly string[];
}

/** Null where no run is under way, or one that goes at full speed whoever is slowed down. */
export async function throttleStatus(db: Queryable, bookId = MAIN_BOOK): Promise<ThrottleStatus | null> {
  const { rows } = await db.query<
    Omit<ThrottleStatus, 'passed'> & { name: LimitName | null; value: number; limit: number }
  >(
    `select share, chunk_rows as "chunkRows", passed as name, passed_value as value, passed_limit as limit,
            canary_p99_ms as "canaryP99Ms", baseline_p99_ms as "baselineP99Ms", blind
     from replay.throttle where book_id = $1 and seen_at > clock_timestamp() - $2 * interval '1 s'`,
    [bookId, ALIVE_SECONDS],
  );
  const [row] = rows;
  if (row === undefined) return null;
  const { name, value, limit, ...status } = row;
  return { ...status, passed: name === null ? null : { name, value, limit } };
}
