import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Recording } from '../../src/restructure/perf/recording.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { createSmallPlatform, moveTables } from '../support/platform.ts';

// The dashboards that come with the package, on the whole legacy platform.

/** What rollups keep, as far as a dashboard asks for it. */
const ROLLUPS = `
  create table analytics.event_daily as
    select event_id, (created_at at time zone 'UTC')::date as day, count(*) as total_views,
      count(distinct coalesce(user_id::text, session_id)) as unique_viewers, count(*) filter (where completed) as completions
    from public.event_impressions group by 1, 2;
  create function analytics.event_daily_between(p_event_id uuid[], p_from date, p_to date)
    returns table (total_views bigint, unique_viewers bigint, completions bigint, median_dwell_ms double precision) language sql as
    $$ select count(*), count(distinct coalesce(i.user_id::text, i.session_id)), count(*) filter (where i.completed),
         percentile_cont(0.5) within group (order by i.dwell_ms)
       from public.event_impressions i
       where i.event_id = any (p_event_id) and (i.created_at at time zone 'UTC')::date between p_from and p_to $$;
  create table analytics.post_daily as
    select post_id, (created_at at time zone 'UTC')::date as day, count(*) as total_views,
      count(*) filter (where completed) as completions, avg(dwell_ms) as avg_dwell_ms
    from public.post_impressions group by 1, 2;
  create table analytics.campaign_daily as
    select campaign_id, creative_id, (created_at at time zone 'UTC')::date as day, count(*) as impressions
    from public.ad_impressions group by 1, 2, 3;
  create table analytics.ticket_daily as
    select event_id, event_type, (created_at at time zone 'UTC')::date as day, count(*) as actions, count(distinct user_id) as unique_people
    from public.ticket_analytics group by 1, 2, 3`;

let database: TestDatabase;
let folder: string;
const before = () => join(folder, 'before.json');
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
  database = await createDatabase();
  await createSmallPlatform(database.pool);
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

/** Those that the package's rollups come with, as they are declared. */
async function createViews(): Promise<void> {
  const declared = await readFile(new URL('../../mappings/liventix-rollups.json', import.meta.url), 'utf8');
  const { views } = JSON.parse(declared) as {
    readonly views: readonly { readonly name: string; readonly query: readonly string[] }[];
  };
  for (const { name, query } of views) {
    const text = query.join('\n').replaceAll(/\{(\w+)\}/gu, 'public.$1');
    await database.pool.query(`create materialized view analytics.${name} as ${text}`);
  }
}

const perf = (...args: string[]) =>
  // Who asks as organizers has to be able to.
  liventix(['restructure', 'perf', ...args, '--rounds', '3'], { DATABASE_URL: database.adminUrl });

it('are all answered by the raw tables, with rows, and by rollups alike', async () => {
  const recorded = await perf('record', '--no-accesses', '--out', before());
  expect(recorded, recorded.stderr).toMatchObject({ exitCode: 0 });
  const { results } = JSON.parse(await readFile(before(), 'utf8')) as Recording;
  const dashboards = results.filter(({ kind }) => kind === 'dashboard');
  const silent = dashboards.filter((each) => each.way === 'old' && !(each.status === 'measured' && each.rows > 0));
  expect(silent).toEqual([]);
  const others = dashboards.filter(({ way }) => way === 'new');
  expect(others.map((each) => each.status === 'left out' && each.reason.split(':')[0])).toEqual(
    others.map(() => 'not there yet'),
  );
  expect(others.length).toBeGreaterThan(5);

  await database.pool.query(ROLLUPS);
  await createViews();
  const compared = await perf('compare', before(), '--json');
  expect(compared, compared.stderr).toMatchObject({ exitCode: 0 });
  const { counts, pairs } = JSON.parse(compared.stdout);
  expect(counts).toMatchObject({ compared: dashboards.length - others.length, answersDiffer: 0, faults: 0 });
  expect(pairs.filter(({ isOther }: { isOther: boolean }) => isOther)).toHaveLength(others.length);
});

it('are answered alike by the old names when the tables have moved', async () => {
  await moveTables(database);
  const { rows } = await database.pool.query(
    `select c.relkind as kind from pg_class c where c.oid = 'public.event_impressions'::regclass`,
  );
  expect(rows).toEqual([{ kind: 'v' }]);
  const compared = await perf('compare', before(), '--json');
  expect(compared, compared.stderr).toMatchObject({ exitCode: 0 });
  expect(JSON.parse(compared.stdout).counts).toMatchObject({ answersDiffer: 0, faults: 0 });
});
