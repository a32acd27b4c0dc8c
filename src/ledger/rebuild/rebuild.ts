import type { Pool } from '../../db/pool.ts';
import { takeSessionLock } from '../../db/session-lock.ts';
import { AppError } from '../../errors.ts';
import { assertBook } from '../books.ts';
import { type ComparedTable, compareProjections } from './compare.ts';
import { assertLogIsSound, assertOwner, assertReplaceable } from './may-be-swapped.ts';
import { logState, projectStep, type StepOptions } from './project.ts';
import { type Swap, swapProjections } from './swap.ts';
import { isKept, openWorkspace, removeWorkspace } from './workspace.ts';

export type { ComparedTable } from './compare.ts';
export type { Swap } from './swap.ts';

/** Who wants to know while a rebuild goes on, and may stop it. */
export interface RebuildWatch {
  /** Where it is aborted, the rebuild ends after the step under way. */
  readonly stop?: AbortSignal;
  /** Told after each step up to which position of how many the log is projected. */
  readonly onStep?: (position: bigint, last: bigint) => void;
  readonly onCompare?: (table: string) => void;
  readonly onCheck?: (check: string) => void;
  readonly onBusy?: (tries: number) => void;
}

export interface RebuildOptions extends RebuildWatch, StepOptions {
  /** Puts the rows that differ in place of the live ones, of so many at most. */
  readonly swap?: { readonly maxRows: bigint };
  /** Keeps what was rebuilt where it differs, for a swap to go on from. */
  readonly keep?: boolean;
  /** How long another run may take to let go. */
  readonly patienceMs?: number;
}

export interface Rebuild {
  readonly tables: readonly ComparedTable[];
  /** Whether the live tables were what the log gives, when they were compared. */
  readonly isEqual: boolean;
  /** From where on the log was projected: what a run before had done was found again. */
  readonly resumedAt: bigint;
  /** What was put in place; undefined where that was not asked for, or nothing differed. */
  readonly swap: Swap | undefined;
  /** Whether what was rebuilt is there still. */
  readonly isKept: boolean;
}

/** How many rows may be replaced while nobody can post, unless told. */
export const DEFAULT_MAX_ROWS = 100_000;

const DEFAULT_PATIENCE_MS = 2_000;
/** While the log is read, others write: so often what came meanwhile is read too before the rest is left to the comparison. */
const MAX_PASSES = 5;

/**
 * Rebuilds the projections from the log in a schema beside the live ones, by the live ones' own functions, and compares both; with `swap`
 * it makes the live ones what the log gives. Each step is one database transaction, so that a run that was stopped or killed anywhere
 * goes on where it was. Nothing is announced, and nobody who posts waits but for the swap.
 * @throws AppError LEDGER_BOOK_UNKNOWN, REBUILD_RUNNING, REBUILD_EVENT_REFUSED, REBUILD_LOG_CHANGED, REBUILD_REFUSED, REBUILD_BUSY, STOPPED, DB_*
 */
export function rebuildProjections(pool: Pool, options: RebuildOptions = {}): Promise<Rebuild> {
  return alone(pool, options.patienceMs, async (assertAlone) => {
    const { bookId, swap } = options;
    if (bookId !== undefined) await assertBook(pool, bookId);
    if (swap !== undefined) await assertOwner(pool);
    const { resumesAt } = await openWorkspace(pool, { bookId, keep: options.keep === true });
    await projectLog(pool, options, assertAlone);
    const tables = await compareProjections(pool, bookId, options.onCompare ?? (() => undefined));
    assertNotStopped(options.stop);
    const isEqual = tables.every((table) => table.isEqual);
    const swapped = isEqual || swap === undefined ? undefined : await swapIn(pool, swap.maxRows, options, assertAlone);
    const keeps = !isEqual && swapped === undefined && (await isKept(pool));
    if (!keeps) await removeWorkspace(pool);
    return { tables, isEqual, resumedAt: resumesAt, swap: swapped, isKept: keeps };
  });
}

/** As `rebuildProjections` without a swap, of which nothing is left but the answer. */
export async function compareWithRebuild(
  pool: Pool,
  options: RebuildWatch & StepOptions = {},
): Promise<readonly ComparedTable[]> {
  return (await rebuildProjections(pool, options)).tables;
}

/** Removes what a run has left beside the live tables. Answers whether there was something. */
export function discardRebuild(pool: Pool): Promise<boolean> {
  return alone(pool, undefined, () => removeWorkspace(pool));
}

async function alone<T>(
  pool: Pool,
  patienceMs: number | undefined,
  work: (assertAlone: () => void) => Promise<T>,
): Promise<T> {
  const lock = await takeSessionLock(pool, {
    name: 'liventix.rebuild',
    number: 0,
    patienceMs: patienceMs ?? DEFAULT_PATIENCE_MS,
    taken: (cause) =>
      new AppError('REBUILD_RUNNING', 'Another rebuild of this database is running. Wait for it, or stop it first.', {
        cause,
      }),
  });
  try {
    return await work(lock.assertHeld);
  } finally {
    await lock.release();
  }
}

/** Up to where the log ends now, and what came meanwhile, until little of it is left. */
export async function projectLog(pool: Pool, options: RebuildOptions, assertAlone: () => void): Promise<void> {
  for (let pass = 1; pass <= MAX_PASSES; pass += 1) {
    const { top } = await logState(pool);
    for (let steps = 1; ; steps += 1) {
      assertNotStopped(options.stop);
      assertAlone();
      const { position, isMore } = await projectStep(pool, options);
      options.onStep?.(position, top);
      if (!isMore && steps === 1) return;
      if (!isMore || position >= top) break;
    }
  }
}

async function swapIn(pool: Pool, maxRows: bigint, options: RebuildOptions, assertAlone: () => void): Promise<Swap> {
  const { bookId, stepEvents, stop, onBusy } = options;
  await assertLogIsSound(pool, bookId, options.onCheck ?? (() => undefined));
  await assertReplaceable(pool);
  assertNotStopped(stop);
  assertAlone();
  return swapProjections(pool, { bookId, stepEvents, maxRows, stop, onBusy });
}

function assertNotStopped(stop: AbortSignal | undefined): void {
  if (stop?.aborted !== true) return;
  throw new AppError(
    'STOPPED',
    `${String(stop.reason)} stopped the rebuild between two steps. The live tables are as they were; run it again: it goes on where it stopped.`,
  );
}
