import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { applyRollups } from '../../src/analytics/rollups/apply.ts';
import { type Declarations, parseDeclarations } from '../../src/analytics/rollups/declaration.ts';
import { type Ran, runRollups } from '../../src/analytics/rollups/run.ts';
import { type Verified, verifyRollups } from '../../src/analytics/rollups/verify.ts';
import type { Pool } from '../../src/db/pool.ts';
import { eventually } from './eventually.ts';

const VISITS_COLUMNS = `
  id bigint not null default nextval('site.ids'), page text, person text, session text, ms integer, done boolean, price numeric, at timestamptz`;

/** A table as any site has one, where every column may be null. */
export const createVisits = (pool: Pool, kind = '') =>
  pool.query(`create schema site; create sequence site.ids; create table site.visits (${VISITS_COLUMNS}) ${kind}`);

type Changes = Partial<Record<'zone' | 'name', string>> & { readonly group?: readonly string[] };

export const visitsDeclaration = ({ zone = 'UTC', name = 'visits_daily', group = ['page'] }: Changes = {}) => ({
  name,
  schema: 'site',
  of: 'visits',
  time: 'at',
  zone,
  group,
  count: 'visits',
  distinct: { name: 'people', of: 'coalesce(person, session)' },
  countIf: [{ name: 'completions', column: 'done' }],
  measures: [
    { column: 'ms', sum: 'ms_sum', count: 'ms_count', average: 'avg_ms' },
    { column: 'price', sum: 'price_sum', count: 'price_count', average: 'avg_price' },
  ],
  median: { name: 'median_ms', column: 'ms' },
  readers: { all: ['service_role'] },
});

export const declare = (rollups: readonly object[], views: readonly object[] = []): Declarations =>
  parseDeclarations(JSON.stringify({ tables: { visits: ['site.visits'] }, rollups, views }), 'of a test');

/** A file of declarations, which goes with the test. */
export async function fileOf(declarations: object): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'rollups-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const file = join(folder, 'rollups.json');
  await writeFile(file, JSON.stringify(declarations));
  return file;
}

/** Makes the rollup of visits, over what there is of them. */
export const applyVisits = (pool: Pool, changes: Changes = {}) =>
  applyRollups(pool, declare([visitsDeclaration(changes)]), {});

/** Runs until nothing is left that the horizon lets through, and answers what the last verification found. */
export async function countedAndVerified(pool: Pool): Promise<Verified> {
  await counted(pool);
  const [verified] = await verifyRollups(pool);
  if (verified === undefined) throw new Error('no rollup');
  return verified;
}

export async function counted(pool: Pool): Promise<readonly Ran[]> {
  await horizonIsOurs(pool);
  const ran = await runRollups(pool);
  for (const each of ran) if (each.status === 'failed') throw each.error;
  return ran;
}

/** The horizon is the whole server's: awaits that no transaction of another test's database, or of autovacuum, is below what was done here. */
export async function horizonIsOurs(pool: Pool): Promise<void> {
  const { rows } = await pool.query<{ now: bigint }>('select pg_current_xact_id()::text::bigint as now');
  await eventually('other databases are past it', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity where (datname <> current_database() or backend_type is distinct from 'client backend') and backend_xid::text::bigint < $1
       union all select from pg_prepared_xacts where database <> current_database()`,
      [rows[0]?.now],
    );
    return rowCount === 0;
  });
}
