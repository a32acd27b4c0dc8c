import { AppError } from '../errors.ts';
import { givingWay } from './giving-way.ts';
import type { Pool, Queryable, Tx } from './pool.ts';
import { isCanceled, isIdleTooLong } from './sqlstate.ts';
import { LOCK_TIMEOUT_MS } from './try-until-free.ts';

/** For how long a table is locked at most, unless told otherwise. */
export const LOCKED_FOR_AT_MOST_MS = 1_000;

const TOO_LONG = {
  RESTRUCTURE: 'RESTRUCTURE_TOO_LONG',
  PARTITIONS: 'PARTITIONS_TOO_LONG',
  ROLLUP: 'ROLLUP_TOO_LONG',
} as const;

export interface UnderLockOptions {
  /** Whose codes its errors have. */
  readonly room: keyof typeof TOO_LONG;
  /** What is locked, as an error says it: `public.orders`. */
  readonly what: string;
  readonly stop?: AbortSignal | undefined;
  readonly maxTries?: number | undefined;
  readonly onBusy?: ((tries: number) => void) | undefined;
  /** LOCKED_FOR_AT_MOST_MS when left out. */
  readonly lockedForAtMostMs?: number | undefined;
}

/** What is locked, and what is done then. */
export interface Locked {
  /** Of tables and views, quoted, in this order; partitions and heirs come with their parents. None where `work` takes all that it needs. */
  readonly names: readonly string[];
  /** How many locks `work` waits for. */
  readonly locksLater: number;
  readonly work: () => Promise<unknown>;
}

/**
 * Locks relations and works on them, in one transaction that gives way: whoever uses them waits for at most 50 ms until all are locked. What takes
 * too long then, a statement or a pause between two, is undone by the server: a program that stands still keeps nobody waiting for ever.
 * @param prepare reads what it needs before anything is locked
 * @returns for how long they were locked, in ms
 * @throws AppError of the room, …_BUSY and …_TOO_LONG; what `work` throws, DB_*
 */
export async function underLock(
  pool: Pool,
  { room, what, lockedForAtMostMs = LOCKED_FOR_AT_MOST_MS, ...patience }: UnderLockOptions,
  prepare: (tx: Tx) => Promise<Locked>,
): Promise<number> {
  let lockedAt = 0;
  // Of a session that the server ends while it is idle, its next statement is told nothing but that it is gone.
  let ended: unknown;
  const onEnd = (error: Error) => {
    ended ??= error;
  };
  try {
    await givingWay(pool, { ...patience, code: `${room}_BUSY`, what }, async (tx) => {
      tx.on('error', onEnd);
      try {
        const { names, locksLater, work } = await prepare(tx);
        // Heard when it commits, so that who dies later has told of it.
        await reloadPostgrest(tx);
        await lockWithin(tx, { names, locksLater, lockedForAtMostMs });
        lockedAt = performance.now();
        await work();
      } finally {
        tx.off('error', onEnd);
      }
    });
  } catch (error) {
    if (!isCanceled((error as AppError).cause) && !isIdleTooLong(ended)) throw error;
    throw new AppError(
      TOO_LONG[room],
      `${what} would have been locked for more than ${lockedForAtMostMs} ms. Nothing was changed. Many partitions take long, and a program that was stopped: allow it more with --longest, when others can wait.`,
      { cause: error },
    );
  }
  return performance.now() - lockedAt;
}

/** All locks in 50 ms, however many there are; what is left of it is for those that the work waits for. */
async function lockWithin(
  tx: Tx,
  { names, locksLater, lockedForAtMostMs }: Omit<Locked, 'work'> & { readonly lockedForAtMostMs: number },
): Promise<void> {
  const leftMs = `${LOCK_TIMEOUT_MS} - extract(epoch from clock_timestamp() - statement_timestamp()) * 1000`;
  const statements = [
    `set local idle_in_transaction_session_timeout = ${lockedForAtMostMs}`,
    `set local statement_timeout = ${LOCK_TIMEOUT_MS}`,
    ...(names.length === 0 ? [] : [`lock table ${names.join(', ')} in access exclusive mode`]),
    `set local statement_timeout = ${lockedForAtMostMs}`,
    `select set_config('lock_timeout', greatest(1, (${leftMs}) / ${Math.max(1, locksLater)})::int::text, true)`,
  ];
  await tx.query(statements.join('; ')).catch((error: unknown) => {
    if (!isCanceled(error)) throw error;
    throw new AppError('DB_CONFLICT', `Not all locks were free within ${LOCK_TIMEOUT_MS} ms.`, {
      cause: error,
    });
  });
}

/** What PostgREST listens to; where there is none, nobody hears it. */
export const reloadPostgrest = (db: Queryable) => db.query(`notify pgrst, 'reload schema'`);
