import type { Logger } from 'pino';
import { expireDueHolds } from '../ledger/expiry.ts';
import { sealBooks } from '../ledger/seals.ts';
import { within } from '../outbox/deadline.ts';
import { createOutageLog } from '../outbox/outage-log.ts';
import { type Background, createBackgroundPool, repeat } from './background.ts';

export interface SealingOptions {
  readonly databaseUrl: string;
  /** How old a book's newest seal is when the next one is made. */
  readonly intervalMs: number;
  readonly log: Logger;
}

/** A batch takes a second. One that the server says nothing about for so long has failed. */
const QUERY_TIMEOUT_MS = 60_000;
/** For the seal under way, to be finished. */
const STOP_MS = 4_000;
/** Each book's holds: all books' seals wait for them. */
const EXPIRY_LOCK_TIMEOUT_MS = 100;

/**
 * Writes down which holds have expired, and seals what is new in every book, again and again until it is stopped. Any number
 * may: a book is sealed once per interval. What fails is logged and tried again after the interval.
 */
export function startSealing({ databaseUrl, intervalMs, log }: SealingOptions): Background {
  const { pool, end } = createBackgroundPool(
    { databaseUrl, applicationName: 'liventix-sealer', max: 1 },
    { query_timeout: QUERY_TIMEOUT_MS },
  );
  const outage = createOutageLog({ log, server: 'Sealing' });
  const stop = new AbortController();

  const expireOnce = async () => {
    const how = { lockTimeoutMs: EXPIRY_LOCK_TIMEOUT_MS, stop: stop.signal };
    const { expired, postponed } = await expireDueHolds(pool, how);
    if (expired > 0) log.debug({ expired }, 'holds expired');
    if (postponed.length > 0) {
      log.warn(
        { books: postponed },
        'holds that have expired are written down later: a posting keeps an account locked, or a period is being closed',
      );
    }
  };
  const sealOnce = async () => {
    try {
      // First, so that the seal has them.
      await expireOnce();
    } finally {
      // Whatever became of that, what is there is sealed.
      const seals = await sealBooks(pool, { stop: stop.signal, minAgeMs: intervalMs });
      for (const { book, sealNumber, treeSize, root } of seals)
        log.debug({ book, sealNumber, treeSize, root }, 'sealed');
    }
    outage.works('sealer');
  };
  const running = repeat(stop.signal, async () => {
    await sealOnce().catch((error: unknown) => {
      if (!stop.signal.aborted) outage.failed('sealer', error);
    });
    return intervalMs;
  });

  return {
    stop: async () => {
      stop.abort();
      await within(STOP_MS, running);
      await end();
    },
  };
}
