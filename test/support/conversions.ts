import { expect } from 'vitest';
import { type ApplyOptions, applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import type { Pool } from '../../src/db/pool.ts';
import { asSuperuser } from './database.ts';
import { entryOf, type Impressions, NOW } from './impressions.ts';
import { waitsForLock } from './locks.ts';

export const faultsOf = async (pool: Pool) => (await verifyPartitions(pool)).filter(({ holds }) => !holds);

export const countRows = async (pool: Pool, from = 'stats.impressions') =>
  (await pool.query(`select from ${from}`)).rowCount;

/** Says what is under way; `work` is begun with the first step of that name, and awaited at the end. */
export function during(step: string, work: () => Promise<unknown>) {
  let done: Promise<unknown> | undefined;
  return {
    onStep: (what: string) => {
      if (what.startsWith(step)) done ??= work();
    },
    ended: async () => {
      expect(done).toBeDefined();
      await done;
    },
  };
}

/** Does something while what is run waits to build its first index, and lets it go on then. */
export async function whileIndexesWait<Result>(
  impressions: Impressions,
  run: () => Promise<Result>,
  work: () => Promise<unknown>,
): Promise<Result> {
  const { pool } = impressions;
  await asSuperuser(
    impressions,
    `create function public.wait() returns event_trigger language plpgsql as $$ begin perform pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1); end $$;
     create event trigger waits on ddl_command_start when tag in ('CREATE INDEX') execute function public.wait()`,
  );
  const holder = await pool.connect();
  await holder.query('select pg_advisory_lock(1)');
  const running = run();
  // Where `work` fails, it is told first.
  running.catch(() => undefined);
  try {
    await waitsForLock(pool, 'create index');
    await work();
  } finally {
    await holder.query('select pg_advisory_unlock(1)');
    holder.release();
  }
  return running;
}

/** Begins a conversion, and is stopped at the first step of that name. */
export async function breakOff(pool: Pool, step: string, options: Partial<ApplyOptions> = {}): Promise<void> {
  const stop = new AbortController();
  const applying = applyPartitions(pool, {
    entries: [entryOf()],
    now: NOW,
    ...options,
    stop: stop.signal,
    onStep: (what) => {
      if (what.startsWith(step)) stop.abort('SIGINT');
    },
  });
  await expect(applying).rejects.toMatchObject({ code: 'STOPPED' });
}
