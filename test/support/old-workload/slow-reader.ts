import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { connectionConfig } from '../../../src/db/pool.ts';
import type { Running } from './running.ts';

const TABLES_AT_ONCE = 3;
const HELD_MS = 3_000;

/** Somebody's report: it reads some tables, and holds their locks for three seconds. */
export function readSlowly(
  databaseUrl: string,
  tables: readonly string[],
  running: Running,
): { stop(): Promise<void> } {
  const stopped = new AbortController();
  const client = new pg.Client(connectionConfig({ databaseUrl, applicationName: 'report' }));
  const reading = (async () => {
    await client.connect();
    for (let from = 0; !stopped.signal.aborted; from += TABLES_AT_ONCE) {
      const phase = running.phaseNow;
      const read = Array.from({ length: TABLES_AT_ONCE }, (_, at) => tables[((from + at) * 7) % tables.length]);
      try {
        await client.query('begin');
        for (const table of read) await client.query(`select count(*) from public.${table}`);
        await sleep(HELD_MS, undefined, { signal: stopped.signal }).catch(() => undefined);
        await client.query('commit');
      } catch (error) {
        running.fail(`report on ${read.join(', ')}`, phase, error);
        await client.query('rollback');
      }
    }
  })();
  return {
    stop: async () => {
      stopped.abort();
      await reading.finally(() => client.end());
    },
  };
}
