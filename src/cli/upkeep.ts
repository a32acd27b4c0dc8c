import type { Logger } from 'pino';
import { maintain } from '../analytics/partitions/upkeep.ts';
import { toAppError } from '../db/sqlstate.ts';
import { within } from '../outbox/deadline.ts';
import { type Background, createBackgroundPool, repeat } from './background.ts';

const INTERVAL_MS = 3_600_000;
const STOP_MS = 500;

interface UpkeepOptions {
  readonly databaseUrl: string;
  readonly log: Logger;
}

/**
 * Sees to the months of tables, again and again until it is stopped: each step is a transaction, and what is broken off is due again. Any number may:
 * the database says what is due, has one do each step, and knows whether it is left to pg_cron. What fails is logged, and is due again.
 */
export function startUpkeep({ databaseUrl, log }: UpkeepOptions): Background {
  const stop = new AbortController();
  const running = repeat(stop.signal, async () => {
    await keepMonths({ databaseUrl, log }, stop.signal).catch((error: unknown) => {
      // Of a server that is away the relay tells.
      if (!stop.signal.aborted && toAppError(error).code !== 'DB_UNREACHABLE')
        log.warn({ err: error }, 'the months were not seen to');
    });
    return INTERVAL_MS;
  });
  return {
    stop: async () => {
      stop.abort();
      await within(STOP_MS, running);
    },
  };
}

async function keepMonths({ databaseUrl, log }: UpkeepOptions, stop: AbortSignal): Promise<void> {
  // For this once: for an hour nobody wants the connection.
  const { pool, breakOff, end } = createBackgroundPool({ databaseUrl, applicationName: 'liventix-upkeep', max: 1 });
  stop.addEventListener('abort', breakOff);
  try {
    for (const { action, table, partition, detail } of await maintain(pool, 'worker')) {
      const isLeft = action === 'left' || action === 'held back';
      log[isLeft ? 'warn' : 'info']({ table, partition, detail }, `month ${action}`);
    }
  } finally {
    stop.removeEventListener('abort', breakOff);
    await end();
  }
}
