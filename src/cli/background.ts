import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import { createPool, type Pool, type PoolOptions } from '../db/pool.ts';
import { trackSockets } from '../db/sockets.ts';
import { within } from '../outbox/deadline.ts';

/** What a worker does beside its deliveries. */
export interface Background {
  /** Ends what is under way, of which nothing is lost, and closes its connections. */
  stop(): Promise<void>;
}

/** For connections, to say goodbye to a server that may have gone silent. */
const GOODBYE_MS = 500;

/**
 * Works again and again until it is stopped.
 * @param work answers for how many ms there is nothing more to do; it never rejects
 */
export async function repeat(stop: AbortSignal, work: () => Promise<number>): Promise<void> {
  while (!stop.aborted) {
    const forMs = await work();
    // It rejects when it is aborted, and then there is nothing more to wait for.
    await pause(forMs, undefined, { signal: stop }).catch(() => undefined);
  }
}

/** A pool that can be ended though the server says nothing any more. */
export interface BackgroundPool {
  readonly pool: Pool;
  /** Breaks off what is under way. */
  breakOff(): void;
  end(): Promise<void>;
}

export function createBackgroundPool(options: PoolOptions, settings: pg.PoolConfig = {}): BackgroundPool {
  const sockets = trackSockets();
  const pool = createPool(options, { ...settings, stream: sockets.open });
  return {
    pool,
    breakOff: sockets.destroyAll,
    end: async () => {
      await within(GOODBYE_MS, pool.end());
      sockets.destroyAll();
    },
  };
}
