import type { Pool } from '../../src/db/pool.ts';

/** The clock of the bench: its rows end here. */
export const NOW = new Date();
const MONTHS = 18;
const EVENTS = 2_000;
const PEOPLE = 100_000;

/** The table of impressions with the indexes and keys of the old platform, where the restructuring puts it; rows in the order of their time, as they came. */
export async function fillSite(pool: Pool, rows: number): Promise<void> {
  await pool.query(`
    create schema if not exists analytics; create schema events;
    create table events.events (id uuid primary key, organization_id uuid not null);
    create table public.people (id uuid primary key);
    create table analytics.event_impressions (
      id uuid not null default gen_random_uuid(), event_id uuid not null, user_id uuid, session_id text,
      dwell_ms integer default 0, completed boolean default false, created_at timestamptz not null default now(),
      constraint event_impressions_dwell_valid check (dwell_ms between 0 and 3600000),
      constraint event_impressions_session_len check (length(session_id) between 16 and 64)
    );
    create function public.nth(kind text, n bigint) returns uuid language sql immutable as $$ select md5(kind || n)::uuid $$`);
  await pool.query(
    `insert into events.events select public.nth('event', n), public.nth('organization', n % 100) from generate_series(1, ${EVENTS}) n`,
  );
  await pool.query(`insert into public.people select public.nth('person', n) from generate_series(1, ${PEOPLE}) n`);
  // Some events and people are much busier than others.
  await pool.query(
    `insert into analytics.event_impressions (event_id, user_id, session_id, dwell_ms, completed, created_at)
     select public.nth('event', 1 + floor(${EVENTS} * power(random(), 3))::bigint),
       case when n % 3 = 0 then null else public.nth('person', 1 + floor(${PEOPLE} * power(random(), 2))::bigint) end,
       case when n % 3 = 0 then md5((random() * ${PEOPLE})::int::text) end, (random() * 90000)::int, n % 4 = 0,
       $1::timestamptz - make_interval(months => ${MONTHS}) + n * (($1::timestamptz - ($1::timestamptz - make_interval(months => ${MONTHS}))) / $2::float8)
     from generate_series(1, $2::bigint) n`,
    [NOW, rows],
  );
  await pool.query(`
    alter table analytics.event_impressions add constraint event_impressions_pkey primary key (id);
    create index brin_event_impressions_created on analytics.event_impressions using brin (created_at);
    create index idx_event_impressions_session_time on analytics.event_impressions (session_id, created_at desc) where session_id is not null;
    create index idx_event_impressions_user_time on analytics.event_impressions (user_id, created_at desc) where user_id is not null;
    alter table analytics.event_impressions add constraint event_impressions_event_id_fkey foreign key (event_id) references events.events on delete cascade;
    alter table analytics.event_impressions add constraint event_impressions_user_id_fkey foreign key (user_id) references public.people on delete set null;
    create view public.event_impressions with (security_invoker = true) as select * from analytics.event_impressions`);
  await pool.query('vacuum analyze');
}
