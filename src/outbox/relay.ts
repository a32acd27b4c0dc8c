import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import { admitDeliveries, fanOut, returnLostDeliveries, returnQueuedDeliveries, sayAsleep } from './deliveries.ts';
import type { OutageLog } from './outage-log.ts';
import { type DeliveryQueue, isQueueFailure } from './queue.ts';

/** Moves messages into deliveries and deliveries into the queue, for as long as it runs. */
export interface Relay {
  /** Something may be due: look now, or once more after the look that is under way. */
  wake(): void;
  stop(): Promise<void>;
}

/** One and the same where the queue is in PostgreSQL. */
export interface Outages {
  readonly postgres: OutageLog;
  readonly queue: OutageLog;
}

export interface RelayOptions {
  readonly db: Queryable;
  readonly queue: DeliveryQueue;
  readonly log: Logger;
  readonly outages: Outages;
  /** The longest it waits before it looks again, notified or not. */
  readonly pollMs: number;
  /** How often it looks for lost leases. */
  readonly sweepMs: number;
  readonly queueLeaseMs: number;
  readonly maxLost: number;
}

const FAN_OUT_LIMIT = 500;
const ADMISSION_LIMIT = 500;
const SWEEP_LIMIT = 1_000;

export function startRelay(options: RelayOptions): Relay {
  const { db, queue, log } = options;
  const alarm = createAlarm();
  let stopped = false;
  let sweptAt = Number.NEGATIVE_INFINITY;

  async function look(): Promise<boolean> {
    if (performance.now() - sweptAt >= options.sweepMs) {
      const returned = await returnLostDeliveries(db, { limit: SWEEP_LIMIT, maxLost: options.maxLost });
      if (returned > 0) log.warn({ returned }, 'relay: took back deliveries whose lease was lost');
      if (returned < SWEEP_LIMIT) sweptAt = performance.now();
    }
    if (await queue.wasEmptied()) {
      const returned = await returnQueuedDeliveries(db, 'all');
      // Only now: a crash before it repeats the work, a crash after the other order would skip it.
      await queue.markIntact();
      log[returned > 0 ? 'warn' : 'info']({ returned }, 'relay: the queue is new or was emptied; queueing again');
    }
    const { messages } = await fanOut(db, FAN_OUT_LIMIT);
    const admitted = await admitAndEnqueue();
    options.outages.postgres.works('relay');
    // A connection that is not back yet would fail once more, after the outage was said to be over.
    if (queue.answers()) options.outages.queue.works('relay');
    return messages > 0 || admitted > 0;
  }

  async function admitAndEnqueue(): Promise<number> {
    const jobs = await admitDeliveries(db, { limit: ADMISSION_LIMIT, queueLeaseMs: options.queueLeaseMs });
    if (jobs.length === 0) return 0;
    try {
      await queue.enqueue(jobs);
    } catch (error) {
      // When this fails as well, their lease brings them back.
      await returnQueuedDeliveries(db, jobs);
      throw error;
    }
    return jobs.length;
  }

  async function run(): Promise<void> {
    while (!stopped) {
      try {
        alarm.reset();
        if (await look()) continue;
        await sayAsleep(db);
        // Once more: what committed before it was heard that we sleep has notified nobody.
        if (await look()) continue;
      } catch (error) {
        if (stopped) return;
        options.outages[isQueueFailure(error) ? 'queue' : 'postgres'].failed('relay', error);
        alarm.reset();
      }
      await alarm.wait(options.pollMs);
    }
  }

  const running = run();
  return {
    wake: alarm.ring,
    stop: async () => {
      stopped = true;
      alarm.ring();
      await running;
    },
  };
}

interface Alarm {
  ring(): void;
  /** Forgets that it rang. */
  reset(): void;
  /** Until it rings, or has rung since `reset`, or the time is up. */
  wait(ms: number): Promise<void>;
}

function createAlarm(): Alarm {
  let hasRung = false;
  let onRing: (() => void) | undefined;
  return {
    ring: () => {
      hasRung = true;
      onRing?.();
    },
    reset: () => {
      hasRung = false;
    },
    wait: (ms) =>
      new Promise<void>((resolve) => {
        const finish = () => {
          clearTimeout(timer);
          onRing = undefined;
          resolve();
        };
        const timer = setTimeout(finish, ms);
        onRing = finish;
        if (hasRung) finish();
      }),
  };
}
