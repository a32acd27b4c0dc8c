import type { Logger } from 'pino';
import { runRollups } from '../analytics/rollups/run.ts';
import { refreshViews } from '../analytics/rollups/views.ts';
import { toAppError } from '../db/sqlstate.ts';
import type { AppError } from '../errors.ts';
import { within } from '../outbox/deadline.ts';
import { type Background, createBackgroundPool, repeat } from './background.ts';

export interface RollingUpOptions {
  readonly databaseUrl: string;
  readonly log: Logger;
  /** How long after a run the next one is. */
  readonly intervalMs: number;
}

/** Whether a view is due; they are of an hour. */
const VIEWS_INTERVAL_MS = 15_000;
/** Whether there is anything by now: a connection that is idle for so long is given back. */
const SELDOM_MS = 30_000;
const STOP_MS = 2_000;

/**
 * Counts what came to the rollups, and refreshes views that are due, again and again until it is stopped, each on a connection of its own: a refresh
 * takes as long as it does. Any number may; whatever somebody else is at is left alone. What fails is logged and tried again.
 */
export function startRollingUp({ databaseUrl, log, intervalMs }: RollingUpOptions): Background {
  const { pool, end } = createBackgroundPool(
    { databaseUrl, applicationName: 'liventix-rollups', max: 2 },
    { keepAlive: true },
  );
  const stop = new AbortController();
  const said = new Map<string, string>();
  /** Once, until it is another or none. */
  const warn = (what: string, fault: string | null) => {
    if (fault !== null && said.get(what) !== fault) log.warn({ rollup: what }, fault);
    if (fault === null) said.delete(what);
    else said.set(what, fault);
  };

  /** Of a server that is away the relay tells. */
  const faultOf = ({ code, message }: AppError): string | null =>
    code === 'DB_UNREACHABLE' ? null : `${code}: ${message}`;

  const count = async () => {
    for (const ran of await runRollups(pool, { stop: stop.signal })) {
      if (ran.status === 'failed') warn(ran.rollup, faultOf(ran.error));
      else warn(ran.rollup, ran.status === 'to be rebuilt' ? `it is to be rebuilt: ${ran.todo}` : null);
      if (ran.status === 'counted') log.debug({ rollup: ran.rollup, changes: ran.changes }, 'rolled up');
    }
  };
  const refresh = async () => {
    for (const { view, status, seconds, rows, error } of await refreshViews(pool)) {
      warn(view, error);
      if (status === 'refreshed') log.debug({ view, seconds, rows }, 'view refreshed');
    }
  };
  /** @returns whether there is anything to work on */
  const workOn = async (name: 'rollups' | 'views', work: () => Promise<void>): Promise<boolean> => {
    const { rowCount } = await pool.query(`select from rollups.${name} limit 1`);
    if (rowCount === 0) return false;
    await work();
    return true;
  };
  const workAgain = (name: 'rollups' | 'views', everyMs: number, work: () => Promise<void>) =>
    repeat(stop.signal, async () => {
      try {
        const isKept = await workOn(name, work);
        warn(name, null);
        return isKept ? everyMs : Math.max(everyMs, SELDOM_MS);
      } catch (error) {
        if (!stop.signal.aborted) warn(name, faultOf(toAppError(error)));
        return everyMs;
      }
    });
  const running = Promise.all([
    workAgain('rollups', intervalMs, count),
    workAgain('views', Math.max(intervalMs, VIEWS_INTERVAL_MS), refresh),
  ]);

  return {
    stop: async () => {
      stop.abort();
      await within(STOP_MS, running);
      await end();
    },
  };
}
