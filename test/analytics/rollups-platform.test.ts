import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { createSmallPlatform } from '../support/platform.ts';
import { horizonIsOurs } from '../support/rollups.ts';

let database: TestDatabase;
let env: Record<string, string>;

beforeAll(async () => {
  database = await createDatabase();
  await createSmallPlatform(database.pool);
  env = { DATABASE_URL: database.url };
  // What Supabase gives away of every table that is made later.
  await sql('alter default privileges in schema analytics grant select on tables to anon, authenticated, service_role');
  await sql('alter default privileges in schema analytics grant all on sequences to anon, authenticated');
  await sql('grant usage on schema analytics to anon, authenticated, service_role');
  expect(await liventix(['rollups', 'plan'], env)).toMatchObject({ exitCode: 0 });
  expect(await liventix(['rollups', 'apply'], env)).toMatchObject({ exitCode: 0, stderr: '' });
});
afterAll(() => database.drop());

const sql = (text: string) => database.pool.query(text);

async function as(role: string, claims: object, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: database.adminUrl });
  await client.connect();
  try {
    await client.query(`begin; set local role ${role}`);
    await client.query(`select set_config('request.jwt.claims', $1, true)`, [JSON.stringify(claims)]);
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

const organizers = async () =>
  (
    await sql(
      `select m.user_id as id, m.org_id as org, array_agg(distinct e.id order by e.id) as events
       from public.events e join public.org_memberships m on m.org_id = e.owner_context_id
       where e.owner_context_type = 'organization' and e.id in (select event_id from analytics.event_daily)
         and not exists (select from public.events o where o.created_by = m.user_id and o.owner_context_type = 'individual')
         and (select count(*) from public.org_memberships o where o.user_id = m.user_id) = 1
       group by 1, 2 limit 1`,
    )
  ).rows[0] as { id: string; org: string; events: string[] };

describe("the old platform's rollups", () => {
  it('hold, are the same as a view of the rows, and are told of as healthy', async () => {
    expect(await liventix(['rollups', 'verify'], env)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining('The rollups hold.'),
    });
    await sql(`create materialized view public.of_the_rows as
      select i.event_id, (i.created_at at time zone 'UTC')::date as day, count(*) as total_views,
        count(distinct coalesce(i.user_id::text, i.session_id)) as unique_viewers, count(*) filter (where i.completed) as completions,
        avg(i.dwell_ms) as avg_dwell_ms, percentile_cont(0.5) within group (order by i.dwell_ms) as median_dwell_ms
      from public.event_impressions i group by 1, 2`);
    for (const table of ['event_daily', 'mv_event_daily_stats']) {
      const { rows } = await sql(
        `select count(*)::int as days, count(*) filter (where (v.total_views, v.unique_viewers, v.completions, v.avg_dwell_ms)
             is distinct from (r.total_views, r.unique_viewers, r.completions, r.avg_dwell_ms)
           or v.median_dwell_ms is null <> (r.median_dwell_ms is null) or abs(v.median_dwell_ms - r.median_dwell_ms) > 0.01 * v.median_dwell_ms)::int as other
         from public.of_the_rows v full join analytics.${table} r on r.event_id = v.event_id and r.day = v.day`,
      );
      expect(rows).toEqual([{ days: expect.any(Number), other: 0 }]);
      expect(rows[0].days).toBeGreaterThan(100);
    }
    await sql('drop materialized view public.of_the_rows');
    // A refresh that reads every row holds the horizon, and with it every rollup, for as long.
    const { rows: views } = await sql(`select pg_get_viewdef('analytics.mv_event_daily_stats') as query`);
    expect(views[0].query).not.toContain('impressions');
    expect((await liventix(['doctor'], env)).stdout).toMatch(
      /^ok +rollups +4 rollups are up to date, and 2 views refreshed$/m,
    );
    expect((await liventix(['rollups', 'apply'], env)).stdout).toMatch(/^(already .*\n){6}$/);
  });

  it('follow users and events that are deleted, by their foreign keys', async () => {
    await sql(`delete from auth.users where id = (select user_id from public.event_impressions where user_id is not null
        and user_id not in (select created_by from public.events) limit 1)`).catch(() => undefined);
    await sql(
      `update public.event_impressions set user_id = null, session_id = repeat('x', 16) where user_id = (select user_id from public.event_impressions where user_id is not null limit 1)`,
    );
    await sql(
      `delete from public.event_impressions where event_id = (select event_id from analytics.event_daily limit 1)`,
    );
    await eventually('it is counted', async () =>
      /^counted +event_daily/m.test((await liventix(['rollups', 'run'], env)).stdout),
    );
    expect(await liventix(['rollups', 'verify'], env)).toMatchObject({ exitCode: 0 });
  });

  it('are read by organizers of their own events alone, by no stranger, and by the service', async () => {
    const organizer = await organizers();
    const events = 'select array_agg(distinct event_id order by event_id) as events from analytics.event_daily';
    const claims = { sub: organizer.id, role: 'authenticated' };
    expect(await as('authenticated', claims, events)).toEqual([{ events: organizer.events }]);
    expect(await as('authenticated', { ...claims, org_id: organizer.org.toUpperCase() }, events)).toEqual([
      { events: organizer.events },
    ]);
    expect(await as('authenticated', { ...claims, org_id: '00000000-0000-0000-0000-000000000000' }, events)).toEqual([
      { events: null },
    ]);
    expect(await as('authenticated', { sub: '00000000-0000-0000-0000-000000000000' }, events)).toEqual([
      { events: null },
    ]);
    const all = (await sql('select count(*)::int as days from analytics.event_daily')).rows;
    expect(await as('service_role', {}, 'select count(*)::int as days from analytics.event_daily')).toEqual(all);
    await expect(as('anon', {}, events)).rejects.toMatchObject({ code: '42501' });
    const between = `select array_agg(event_id order by event_id) as events from analytics.event_daily_between((select array_agg(id) from public.events), '-infinity', 'infinity')`;
    const everyEvent = (await sql('select array_agg(id) as ids from public.events')).rows[0].ids;
    const ofAll = between.replace('(select array_agg(id) from public.events)', `'{${everyEvent.join(',')}}'`);
    expect(await as('authenticated', claims, ofAll)).toEqual([{ events: organizer.events }]);
    expect(await as('authenticated', {}, ofAll)).toEqual([{ events: null }]);
    expect((await as('service_role', {}, ofAll))[0]?.['events']).toHaveLength(
      (await sql('select count(distinct event_id)::int as count from analytics.event_daily')).rows[0].count,
    );
    await expect(as('anon', {}, ofAll)).rejects.toMatchObject({ code: '42501' });
  });

  it.each([
    'rollups.event_daily_viewers',
    'rollups.event_daily_buckets',
    'rollups.event_daily_changes',
    'analytics.mv_event_daily_stats',
    'analytics.mv_sponsor_performance',
  ])('keep %s from whoever is signed in', async (relation) => {
    await expect(as('authenticated', {}, `select from ${relation}`)).rejects.toMatchObject({ code: '42501' });
    await expect(as('anon', {}, `select from ${relation}`)).rejects.toMatchObject({ code: '42501' });
  });

  it('keep the sequence that numbers their groups and days from whoever is signed in', async () => {
    const next = `select nextval('analytics.event_daily_cell_seq')`;
    await expect(as('authenticated', {}, next)).rejects.toMatchObject({ code: '42501' });
    await expect(as('anon', {}, next)).rejects.toMatchObject({ code: '42501' });
  });

  it('tell of sponsors what they reached and paid, by state and by currency, in whole cents', async () => {
    const { rows: told } = await sql(
      `select v.*, p.name from analytics.mv_sponsor_performance v join public.sponsors p on p.id = v.sponsor_id where v.orders > 0 order by v.total_views desc limit 1`,
    );
    const [sponsor] = told;
    const ours = `o.sponsor_id = '${sponsor.sponsor_id}'`;
    const { rows: orders } = await sql(
      `select (select count(*) from public.sponsorship_orders o where ${ours}) as orders,
         (select jsonb_object_agg(status, n) from (select status, count(*) as n from public.sponsorship_orders o where ${ours} group by 1) s) as by_state,
         (select jsonb_object_agg(currency, cents) from (select currency, (coalesce(sum(amount_cents) filter (where status in ('accepted', 'live', 'completed')), 0))::text as cents
            from public.sponsorship_orders o where ${ours} group by 1) m) as booked,
         (select count(distinct coalesce(user_id::text, session_id)) from public.event_impressions where event_id in (
            select event_id from public.sponsorship_orders o where ${ours} and status in ('accepted', 'live', 'completed')
            union select event_id from public.event_sponsorships o where ${ours} and status = 'active')) as viewers`,
    );
    await liventix(['rollups', 'refresh'], env);
    const { rows: fresh } =
      await sql(`select orders, orders_by_state as by_state, booked_cents as booked, unique_viewers as viewers
      from analytics.mv_sponsor_performance o where ${ours}`);
    expect(fresh).toEqual(orders);
    expect((await sql('select count(*)::int from analytics.mv_sponsor_performance')).rows).toEqual(
      (await sql('select count(*)::int from public.sponsors')).rows,
    );
  });

  it('are counted anew by a rebuild, which says before what it would do', async () => {
    expect(await liventix(['rollups', 'rebuild', 'event_daily', '--dry-run'], env)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^would count [1-9]\d* months of event_daily anew, and keep none\n$/),
    });
    expect((await liventix(['rollups', 'status'], env)).stdout).toMatch(/^ready +rollup event_daily /m);
    const rebuilt = await liventix(['rollups', 'rebuild', 'event_daily', '--json'], env);
    expect(JSON.parse(rebuilt.stdout)).toMatchObject({ rollup: 'event_daily', keptMonths: 0 });
    expect((await liventix(['rollups', 'rebuild', 'post_daily'], env)).stdout).toMatch(
      /^rebuilt post_daily of [\d,.]+ rows\n$/,
    );
    expect(await liventix(['rollups', 'verify', '--name', 'event_daily'], env)).toMatchObject({ exitCode: 0 });
    expect((await liventix(['rollups', 'remove', '--name', 'ticket_daily', '--dry-run'], env)).stdout).toMatch(
      /^would remove rollup analytics\.ticket_daily of public\.ticket_analytics\n/,
    );
  });

  it('are left alone by a worker that is told to', async () => {
    await sql(
      `insert into public.event_impressions (event_id, session_id) select id, repeat('w', 20) from public.events limit 1`,
    );
    await horizonIsOurs(database.pool);
    const worker = startLiventix(['worker', '--poll-ms', '1000'], { ...env, LIVENTIX_ROLLUP_INTERVAL_S: '0' });
    try {
      await eventually('it sees to tables by month, as after all that it begins with', async () => {
        const { rowCount } = await sql(
          `select from pg_stat_activity where application_name like 'liventix%' and datname = current_database() and pid <> pg_backend_pid()`,
        );
        return (rowCount ?? 0) > 0;
      });
    } finally {
      worker.kill('SIGTERM');
      expect(await worker.done).toMatchObject({ exitCode: 0 });
    }
    expect((await liventix(['rollups', 'run'], env)).stdout).toMatch(/^counted +event_daily +1 row or change$/m);
  });

  it('show within 5 s what came, while a worker runs', async () => {
    const worker = startLiventix(['worker', '--poll-ms', '1000'], env);
    try {
      await eventually('the worker counts', async () => {
        const { rowCount } = await sql(
          `select from pg_stat_activity where application_name = 'liventix-rollups' and datname = current_database()`,
        );
        return (rowCount ?? 0) > 0;
      });
      const { rows } = await sql(
        `insert into public.event_impressions (event_id, session_id) select id, repeat('w', 20) from public.events limit 1 returning event_id`,
      );
      // From when nobody of another database holds the horizon.
      await horizonIsOurs(database.pool);
      const begun = performance.now();
      await eventually('it is counted', async () => {
        const { rows: days } = await sql(
          `select total_views from analytics.event_daily where event_id = '${rows[0].event_id}' and day = (now() at time zone 'UTC')::date`,
        );
        return days.length === 1;
      });
      expect(performance.now() - begun).toBeLessThan(5_000);
    } finally {
      worker.kill('SIGTERM');
      expect(await worker.done).toMatchObject({ exitCode: 0 });
    }
  });
});
