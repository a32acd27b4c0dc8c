import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type GivingWay, givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable } from '../db/pool.ts';

/** How long what is over is kept. */
export interface Retention {
  /** Days of messages that were delivered. */
  readonly keepDays: number;
  /** Days that have a dead letter. */
  readonly keepDeadDays: number;
}

/** What became of a day that is older than is kept: `waiting` and `dead` say why it is still there. */
export interface OldDay {
  readonly day: string;
  readonly fate: 'drop' | 'waiting' | 'dead';
}

/** So far ahead partitions are made: a platform whose workers stand still for longer announces into the default ones. */
const DAYS_AHEAD = 3;
const EVERY_MS = 3_600_000;
const TODAY = `(clock_timestamp() at time zone 'UTC')::date`;

const DAYS: GivingWay = { code: 'OUTBOX_BUSY', what: 'The tables of the outbox' };

/** Makes the partitions of today and of the next days, where they are missing. @throws AppError OUTBOX_BUSY, DB_* */
export async function openDays(pool: Pool): Promise<number> {
  return givingWay(pool, DAYS, async (tx) => {
    const { rows } = await tx.query<{ opened: number }>(
      `select outbox.open_days(${TODAY}, ${TODAY} + $1::integer) as opened`,
      [DAYS_AHEAD],
    );
    return rows[0]?.opened ?? 0;
  });
}

/** The days that are older than is kept, and what is to become of each. */
export async function listOldDays(db: Queryable, retention: Retention): Promise<readonly OldDay[]> {
  const { rows } = await db.query<OldDay>(
    `select day::text, fate from outbox.old_days(${TODAY} - $1::integer, ${TODAY} - $2::integer)`,
    [retention.keepDays, retention.keepDeadDays],
  );
  return rows;
}

/**
 * Drops the days that are older than is kept, and of which nothing is to be delivered any more; one after the other, so that nobody waits
 * for more than one.
 * @throws AppError OUTBOX_BUSY, DB_*
 */
export async function dropOldDays(pool: Pool, retention: Retention): Promise<readonly OldDay[]> {
  const fates: OldDay[] = [];
  for (const { day } of await listOldDays(pool, retention)) {
    const fate = await givingWay(pool, DAYS, async (tx) => {
      const { rows } = await tx.query<{ fate: OldDay['fate'] }>(
        `select outbox.drop_day($1, ${TODAY} - $2::integer) as fate`,
        [day, retention.keepDeadDays],
      );
      return rows[0]?.fate ?? 'waiting';
    });
    fates.push({ day, fate });
  }
  return fates;
}

export interface DayKeeping {
  stop(): Promise<void>;
}

/** Makes what is missing and drops what is old, now and every hour; whatever stands in the way is said, and tried again. */
export function startDayKeeping(options: { pool: Pool; log: Logger; retention: Retention }): DayKeeping {
  const { pool, log, retention } = options;
  const stopping = new AbortController();

  async function keep(): Promise<void> {
    try {
      const opened = await openDays(pool);
      const old = await dropOldDays(pool, retention);
      const dropped = old.filter(({ fate }) => fate === 'drop').map(({ day }) => day);
      if (opened > 0 || dropped.length > 0) log.info({ opened, dropped }, 'outbox: days opened and dropped');
    } catch (error) {
      if (!stopping.signal.aborted)
        log.error({ err: error }, 'outbox: the days could not be kept; tried again in an hour');
    }
  }

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      await keep();
      await pause(EVERY_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }

  const running = run();
  return {
    stop: async () => {
      stopping.abort();
      await running;
    },
  };
}
