import { setTimeout as pause } from 'node:timers/promises';
import type { Queryable } from '../db/pool.ts';
import type { Sockets } from '../db/sockets.ts';
import { AppError } from '../errors.ts';
import { holdConnection } from './held-connection.ts';
import type { Observer } from './observer.ts';
import type { OutageLog } from './outage-log.ts';
import { createEviction, holdersOf, tryLock } from './session-lock.ts';

/** Tells the relay that this worker is alive: by an advisory lock on its number, which ends with the process whatever ends that. */
export interface Presence {
  /** What claims name. */
  readonly worker: number;
  close(): Promise<void>;
}

export interface PresenceOptions {
  readonly databaseUrl: string;
  readonly db: Queryable;
  readonly sockets: Sockets;
  readonly outage: OutageLog;
  /** It was lost, and is back: the server may have crashed meanwhile. */
  readonly onReturn: () => void;
  readonly observer: Observer;
}

export const WORKER_LOCK = 'liventix.worker';
const BEAT_MS = 1_000;
/** What this session asks is next to nothing, however much the server has to do: whoever does not answer is not there. */
const ANSWER_MS = 2_500;
/** Without a beat for so long, a worker's connection is one that nobody is at the other end of. */
const STALE_MS = 5_000;
/** For a session that was ended to be gone. */
const EVICTED_MS = 100;
/** How long a worker may be away, as while the server restarts, before what it had claimed is taken back. */
const ABSENCE_MS = 3_000;

export async function startPresence(options: PresenceOptions): Promise<Presence> {
  const { rows } = await options.db.query<{ worker: number }>(
    `select nextval('outbox.worker_numbers')::integer as worker`,
  );
  const worker = rows[0]?.worker;
  if (worker === undefined) throw new AppError('DB_FAILED', 'outbox.worker_numbers gave no number.');
  let wasPresent = false;
  const lock = { name: WORKER_LOCK, number: worker };
  const evict = createEviction({ ...lock, staleMs: 0 });
  let onPresent: ((failure?: unknown) => void) | undefined;
  const present = new Promise<void>((resolve, reject) => {
    onPresent = (failure) => (failure === undefined ? resolve() : reject(failure));
  });
  const connection = holdConnection({
    ...options,
    applicationName: 'liventix-presence',
    queryTimeoutMs: ANSWER_MS,
    onBeat: () => options.observer.beat('presence'),
    onFailure: (error) => {
      onPresent?.(error);
      options.outage.failed('presence', error);
    },
    session: async (client, until) => {
      // After a cut network the session of before may still be there, and hold the number, which is nobody else's.
      while (!(await tryLock(client, lock))) {
        await evict(client);
        await pause(EVICTED_MS, undefined, { signal: until });
      }
      options.outage.works('presence');
      if (wasPresent) options.onReturn();
      wasPresent = true;
      onPresent?.();
      for (;;) {
        await pause(BEAT_MS, undefined, { signal: until });
        await client.query('select');
      }
    },
  });
  try {
    await present;
  } catch (error) {
    await connection.close();
    throw error;
  }
  return { worker, close: connection.close };
}

export interface Attendance {
  /** The numbers of workers that are there, or were a moment ago: one may lose its session, and live. */
  present(): Promise<readonly number[]>;
  /** They have something claimed, so they were there. */
  expect(workers: readonly number[]): void;
}

// The state is null where the session is another role's: then its lock is all there is to tell.
const PRESENT = `
  select number::bigint::integer as worker
  from (${holdersOf('$1')}) as holders
  where coalesce(state <> 'idle' or state_change > clock_timestamp() - $2 * interval '1 millisecond', true)`;

export function createAttendance(db: Queryable): Attendance {
  const seenAt = new Map<number, number>();
  const see = (workers: readonly number[]) => {
    for (const worker of workers) seenAt.set(worker, performance.now());
  };
  return {
    expect: see,
    present: async () => {
      const { rows } = await db.query<{ worker: number }>({
        name: 'present',
        text: PRESENT,
        values: [WORKER_LOCK, STALE_MS],
      });
      see(rows.map(({ worker }) => worker));
      for (const [worker, at] of seenAt) if (performance.now() - at >= ABSENCE_MS) seenAt.delete(worker);
      return [...seenAt.keys()];
    },
  };
}
