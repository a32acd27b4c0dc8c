import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import type { Entry } from '../../src/analytics/partitions/mapping.ts';
import { parsePartitionsMapping } from '../../src/analytics/partitions/mapping.ts';
import type { Pool } from '../../src/db/pool.ts';
import { createDatabase, type TestDatabase } from './database.ts';

/** A table of impressions with everything that may hang on one. */
export interface Impressions extends TestDatabase {
  readonly roles: { readonly reader: string; readonly writer: string };
}

export const NOW = new Date('2026-03-20T12:00:00Z');

/** Rows of 2025-11 to 2026-03, a minute and more apart. */
export async function createImpressions({ rows = 3_000 } = {}): Promise<Impressions> {
  const database = await createDatabase();
  const roles = { reader: `${database.name}_reader`, writer: `${database.name}_writer` };
  const { pool } = database;
  await pool.query(`create role ${roles.reader} nologin; create role ${roles.writer} nologin`);
  await pool.query(impressionsSql(roles));
  await pool.query(FILL, [rows]);
  await pool.query('refresh materialized view stats.impressions_daily; analyze');
  return {
    ...database,
    roles,
    drop: async () => {
      await database.drop();
      await createDatabase().then(async (other) => {
        await other.pool.query(`drop role ${roles.reader}; drop role ${roles.writer}`);
        await other.drop();
      });
    },
  };
}

/** The roles of Supabase will do where nobody has others. */
export const impressionsSql = (
  { reader, writer }: Impressions['roles'] = { reader: 'anon', writer: 'authenticated' },
): string => SQL.replaceAll('{reader}', reader).replaceAll('{writer}', writer);

const SQL = `
  create schema stats;
  grant usage on schema stats to {reader}, {writer};
  create table public.shows (id int primary key, title text not null);
  create table public.viewers (id int primary key);
  create table stats.impressions (
    id uuid constraint impressions_pkey primary key default gen_random_uuid(),
    show_id int not null constraint impressions_show_id_fkey references public.shows on delete cascade,
    gone text,
    viewer_id int constraint impressions_viewer_id_fkey references public.viewers on delete set null,
    dwell_ms int not null default 0 constraint impressions_dwell_valid check (dwell_ms between 0 and 3600000),
    note text,
    seen_at timestamptz not null default now()
  ) with (fillfactor = 90);
  alter table stats.impressions drop column gone;
  comment on table stats.impressions is 'Who saw what';
  comment on column stats.impressions.dwell_ms is 'For how long';
  create index impressions_viewer_idx on stats.impressions (viewer_id, seen_at desc) where viewer_id is not null;
  create index impressions_seen_brin on stats.impressions using brin (seen_at);
  alter table stats.impressions enable row level security;
  create policy read_all on stats.impressions for select to {reader} using (dwell_ms >= 0);
  create policy write_all on stats.impressions for insert to {writer} with check (viewer_id is null or viewer_id < 1000);
  grant select on stats.impressions to {reader};
  grant insert (show_id, viewer_id, dwell_ms, seen_at, id, note), select on stats.impressions to {writer};
  create table public.notes (impression_id uuid not null, said text);
  create function public.note_impression() returns trigger language plpgsql security definer set search_path = '' as $$
  begin insert into public.notes values (new.id, tg_table_name); return null; end $$;
  create trigger noted after insert on stats.impressions for each row when (new.dwell_ms > 3000000) execute function public.note_impression();
  create table stats.clicks (
    id int generated always as identity primary key,
    impression_id uuid constraint clicks_impression_id_fkey references stats.impressions
  );
  create view public.impressions with (security_invoker = true) as select * from stats.impressions;
  alter view public.impressions alter column dwell_ms set default 7;
  grant select on public.impressions to {reader};
  create view public.impressions_of_today as select id, show_id from public.impressions;
  create materialized view stats.impressions_daily as
    select show_id, date_trunc('day', seen_at) as day, count(*) as views from stats.impressions group by 1, 2 with no data;
  create unique index impressions_daily_key on stats.impressions_daily (show_id, day);
  grant select on stats.impressions_daily to {reader};
  create view public.daily as select * from stats.impressions_daily;
  insert into public.shows select n, 'show ' || n from generate_series(1, 20) n;
  insert into public.viewers select n from generate_series(1, 500) n;`;

const FILL = `
  with made as (
    insert into stats.impressions (show_id, viewer_id, dwell_ms, seen_at)
    select 1 + n % 20, nullif(n % 501, 0), n % 90000, timestamptz '2025-11-03 00:00Z' + n * (interval '137 days' / $1)
    from generate_series(1, $1::int) n returning id
  )
  insert into stats.clicks (impression_id) select id from made where ('x' || left(id::text, 2))::bit(8)::int < 20`;

export const entryOf = (overrides: Partial<Entry> = {}): Entry => ({
  ...(parsePartitionsMapping(
    JSON.stringify({
      version: 1,
      tables: [{ table: 'stats.impressions', by: 'seen_at', indexes: ['btree (show_id, seen_at)'] }],
    }),
    'test',
  ).tables[0] as Entry),
  ...overrides,
});

/** A copy of its own, whose pool is ended for it. */
export async function cloneImpressions(impressions: Impressions): Promise<Impressions> {
  if (!impressions.pool.ended) await impressions.pool.end();
  return { ...(await createDatabase({ template: impressions.name })), roles: impressions.roles };
}

/** Lets a test have a copy of its own. */
export async function inCloneOf(impressions: Impressions, work: (clone: Impressions) => Promise<void>): Promise<void> {
  const clone = await cloneImpressions(impressions);
  try {
    await work(clone);
  } finally {
    await clone.drop();
  }
}

/** Converts it, or fails with why not. */
export const convert = ({ pool }: TestDatabase, overrides: Partial<Entry> = {}): Promise<void> =>
  convertAt(pool, NOW, overrides);

export async function convertAt(pool: Pool, now: Date, overrides: Partial<Entry> = {}): Promise<void> {
  const outcomes = await applyPartitions(pool, { entries: [entryOf(overrides)], now });
  const reasons = outcomes.flatMap((outcome) => (outcome.status === 'skipped' ? outcome.reasons : []));
  if (reasons.length > 0) throw new Error(reasons.join('; '));
}
