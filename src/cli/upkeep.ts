import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import { maintain } from '../analytics/partitions/upkeep.ts';
import { createPool } from '../db/pool.ts';
import { trackSockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { within } from '../outbox/deadline.ts';

export interface Upkeep {
  /** Breaks off what is under way: each step is a transaction, and what is not done is due again. */
  stop(): Promise<void>;
}

const INTERVAL_MS = 3_600_000;
const GOODBYE_MS = 500;

/**
 * Sees to the months of tables, again and again until it is stopped. Any number may: the database says what is due, has one do each step, and knows
 * whether it is left to pg_cron. What fails is logged, and is due again.
 */
export function startUpkeep({ databaseUrl, log }: { readonly databaseUrl: string; readonly log: Logger }): Upkeep {
  const stop = new AbortController();
  const running = (async () => {
    while (!stop.signal.aborted) {
      await keepMonths({ databaseUrl, log, stop: stop.signal }).catch((error: unknown) => {
        // Of a server that is away the relay tells.
        if (!stop.signal.aborted && toAppError(error).code !== 'DB_UNREACHABLE')
          log.warn({ err: error }, 'the months were not seen to');
      });
      await pause(INTERVAL_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return {
    stop: async () => {
      stop.abort();
      await within(GOODBYE_MS, running);
    },
  };
}

async function keepMonths({
  databaseUrl,
  log,
  stop,
}: {
  databaseUrl: string;
  log: Logger;
  stop: AbortSignal;
}): Promise<void> {
  const sockets = trackSockets();
  // For this once: for an hour nobody wants the connection.
  const pool = createPool({ databaseUrl, applicationName: 'liventix-upkeep', max: 1 }, { stream: sockets.open });
  const breakOff = () => sockets.destroyAll();
  stop.addEventListener('abort', breakOff);
  try {
    for (const { action, table, partition, detail } of await maintain(pool, 'worker')) {
      const isLeft = action === 'left' || action === 'held back';
      log[isLeft ? 'warn' : 'info']({ table, partition, detail }, `month ${action}`);
    }
  } finally {
    stop.removeEventListener('abort', breakOff);
    await within(GOODBYE_MS, pool.end());
    sockets.destroyAll();
  }
}
