import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import type { Sockets } from '../db/sockets.ts';
import { createAlarm } from './alarm.ts';
import type { BreakerSettings } from './health.ts';
import { keepBeating } from './heartbeat.ts';
import { holdConnection } from './held-connection.ts';
import { type Looking, type Seen, startLooking } from './look.ts';
import type { Observer } from './observer.ts';
import type { OutageLog } from './outage-log.ts';
import { type DeliveryQueue, isQueueFailure } from './queue.ts';
import { createServerClock } from './server-clock.ts';
import { createEviction, type SessionLock, tryLock } from './session-lock.ts';
import { createTimetable } from './timetable.ts';

/**
 * Moves messages into deliveries and deliveries into the queue, for as long as it runs and leads. Of all relays one leads, which is who
 * holds an advisory lock by the session through which it does everything: whoever loses the one can do no more of the other.
 */
export interface Relay {
  /** Something may be due: look now, or once more after the look that is under way. */
  wake(): void;
  /** Somebody changed endpoints or deliveries: look at all of them. */
  recheck(): void;
  leads(): boolean;
  stop(): Promise<void>;
}

/** One and the same where the queue is in PostgreSQL. */
export interface Outages {
  readonly postgres: OutageLog;
  readonly queue: OutageLog;
}

export interface RelayOptions {
  readonly databaseUrl: string;
  readonly sockets: Sockets;
  readonly queue: DeliveryQueue;
  readonly log: Logger;
  readonly outages: Outages;
  /** The longest it waits before it looks again, notified or not. */
  readonly pollMs: number;
  /** How often it compares what it remembers with the tables. */
  readonly sweepMs: number;
  readonly queueLeaseMs: number;
  readonly queryTimeoutMs: number;
  readonly maxLost: number;
  readonly breaker: BreakerSettings;
  readonly observer: Observer;
}

export const LEADS: SessionLock = { name: 'liventix.relay.leads', number: 0 };
/** Shared by every transaction that announces something, until it ends. */
const SLEEPS: SessionLock = { name: 'liventix.relay.sleeps', number: 0 };
const CAMPAIGN_MS = 250;
/** A leader asks the server something about this often, and one that has not for so long is taken for gone. */
const BEAT_MS = 400;
const STALE_MS = 1_400;
/** How long it stays awake after there was something to do, so that a busy platform is not notified of each commit. */
const LINGER_MS = 30;
/**
 * Between two looks: what is announced, and what is over, gathers meanwhile, and is looked at in one go. Longer after each look that
 * found nothing.
 */
const BREATH_MS = 2;
const LONGEST_BREATH_MS = { whileShort: 16, else: 4 };
const LONGER = 1.2;
/** Between two looks while somebody who announced something when he found the relay awake has not committed yet. */
const LONGEST_REFUSED_MS = 20;
/** Asleep, it looks at everything every so often; awake, as often as it sweeps. */
const RECHECK_MS = 2_000;

export function startRelay(options: RelayOptions): Relay {
  const alarm = createAlarm();
  // A server that another takes the place of may have another's clock.
  const clock = createServerClock();
  let isToRecheck = false;
  let [isLeading, isLooking] = [false, false];
  const beat = () => options.observer.beat('relay');

  const connection = holdConnection({
    ...options,
    applicationName: 'liventix-relay',
    onFailure: (error) => options.outages.postgres.failed('relay', error),
    // A look that waits for the queue for ever beats the server, and is no sign of life.
    onBeat: () => {
      if (!isLooking) beat();
    },
    session: async (client, until) => {
      await campaign(client, until, () => {
        tellWorks();
        clock.forget();
      });
      if (until.aborted) return;
      options.log.info('relay: leads');
      isLeading = true;
      const beating = keepBeating(client, { everyMs: BEAT_MS, onAnswer: beat });
      await lead(beating.db, until).finally(() => {
        beating.stop();
        isLeading = false;
      });
    },
  });

  function tellWorks(): void {
    options.outages.postgres.works('relay');
    // A connection that is not back yet would fail once more, after the outage was said to be over.
    if (options.queue.answers()) options.outages.queue.works('relay');
  }

  async function lead(db: Queryable, until: AbortSignal): Promise<void> {
    const looking = await startLooking({ ...options, db, clock });
    let busyAt = performance.now();
    let breathMs = BREATH_MS;
    const isTime = createTimetable();
    let refusals = 0;
    while (!until.aborted) {
      alarm.reset();
      const seen = await lookOnce(looking);
      if (seen.didSomething || seen.isShort) busyAt = performance.now();
      breathMs = seen.didSomething
        ? BREATH_MS
        : Math.min(LONGEST_BREATH_MS[seen.isShort ? 'whileShort' : 'else'], breathMs * LONGER);
      if (seen.failed) await alarm.wait(Math.min(options.pollMs, BEAT_MS));
      else if (performance.now() - busyAt < LINGER_MS) await pause(breathMs);
      else if (await tryLock(db, SLEEPS)) {
        refusals = 0;
        // Somebody may have announced long before he committed, where it does not look any more.
        if (isTime('recheck', RECHECK_MS)) looking.recheck();
        await sleep(db, looking, until);
      } else {
        // He will notify nobody.
        refusals += 1;
        await alarm.wait(Math.min(LONGEST_REFUSED_MS, BREATH_MS * LONGER ** refusals));
      }
    }
  }

  async function lookOnce(looking: Looking): Promise<Seen & { failed: boolean }> {
    isLooking = true;
    try {
      if (isToRecheck) looking.recheck();
      isToRecheck = false;
      const seen = await looking.look();
      tellWorks();
      return { ...seen, failed: false };
    } catch (error) {
      if (!isQueueFailure(error)) throw error;
      options.outages.queue.failed('relay', error);
      return { didSomething: false, isShort: true, nextInMs: Number.POSITIVE_INFINITY, failed: true };
    } finally {
      isLooking = false;
    }
  }

  async function sleep(db: Queryable, looking: Looking, until: AbortSignal): Promise<void> {
    try {
      // Once more: what committed before is notified of by nobody.
      const seen = await lookOnce(looking);
      if (!seen.didSomething && !until.aborted) await alarm.wait(Math.min(options.pollMs, seen.nextInMs));
    } finally {
      await db.query('select pg_advisory_unlock(hashtext($1), $2)', [SLEEPS.name, SLEEPS.number]);
    }
  }

  return {
    wake: alarm.ring,
    recheck: () => {
      isToRecheck = true;
      alarm.ring();
    },
    leads: () => isLeading,
    stop: async () => {
      const closed = connection.close();
      alarm.ring();
      await closed;
    },
  };
}

async function campaign(db: Queryable, until: AbortSignal, onOther: () => void): Promise<void> {
  const evictStale = createEviction({ ...LEADS, staleMs: STALE_MS });
  while (!until.aborted && !(await tryLock(db, LEADS))) {
    onOther();
    await evictStale(db);
    await pause(CAMPAIGN_MS, undefined, { signal: until }).catch(() => undefined);
  }
}
