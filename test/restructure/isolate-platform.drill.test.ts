import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { findPeople, type People } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';

let database: TestDatabase;
let pool: Pool;
let people: People;
let schemas: readonly string[];

beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform() });
  pool = callersPool(database);
  people = await findPeople(pool);
  const mapping = await readMapping(LIVENTIX_MAPPING);
  schemas = [mapping.from, ...mapping.schemas.map(({ name }) => name)];
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

it('has no function that runs as its owner and looks names up in pg_temp before all else', async () => {
  const { rows } = await pool.query<{ function: string; isSafe: boolean }>(
    `select f.oid::regprocedure::text as function,
       exists (select from unnest(f.proconfig) setting where setting ~ '^search_path=.*, pg_temp$') as "isSafe"
     from pg_proc f join pg_namespace n on n.oid = f.pronamespace where f.prosecdef and n.nspname = any ($1)`,
    [schemas],
  );
  expect(rows.length).toBeGreaterThan(150);
  expect(rows.filter(({ isSafe }) => !isSafe)).toEqual([]);
});

it('leaves readers nothing that no policy is asked about, of any relation, and no sequence to set', async () => {
  const { rows } = await pool.query(
    `select c.oid::regclass::text as relation, r.role, privilege
     from pg_class c join pg_namespace n on n.oid = c.relnamespace cross join unnest(array['anon', 'authenticated', 'app_read']) r (role)
     cross join lateral (
       select privilege from unnest(array['truncate', 'trigger', 'references']) privilege
       where c.relkind <> 'S' and has_table_privilege(r.role, c.oid, privilege)
       union all select 'setval' where c.relkind = 'S' and has_sequence_privilege(r.role, c.oid, 'update')) held
     where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S') and n.nspname = any ($1)`,
    [schemas],
  );
  expect(rows).toEqual([]);
});

it('is not fooled by memberships in pg_temp', async () => {
  expect(
    await asCaller(pool, people.attendee, async (tx) => {
      await tx.query(`create temp table org_memberships (org_id uuid, user_id uuid, role text)`);
      await tx.query(`insert into pg_temp.org_memberships values ($1, $2, 'owner')`, [
        people.organizationA,
        people.attendee.userId,
      ]);
      await tx.query('grant select on pg_temp.org_memberships to public');
      const { rows } = await tx.query(`select public.is_org_role($1, '{owner}') as is`, [people.organizationA]);
      expect(rows).toEqual([{ is: false }]);
    }),
  ).toBe('ok');
});

it('writes nothing of a caller’s, as its owner, when he comments', async () => {
  const { rows: found } = await pool.query<{ post: string; user: string }>(
    `select p.id as post, t.owner_user_id as "user" from event_posts p
     join tickets t on t.event_id = p.event_id and t.owner_user_id = $1 and t.status in ('issued', 'redeemed')
     join events x on x.id = p.event_id and x.visibility = 'public' order by p.id limit 1`,
    [people.attendee.userId],
  );
  expect(
    await asCaller(pool, people.attendee, async (tx) => {
      await tx.query(`create temp table event_posts as select * from public.event_posts`);
      await tx.query('grant all on pg_temp.event_posts to public');
      await tx.query(
        `create function pg_temp.fires() returns trigger language plpgsql as $$ begin if current_user <> 'authenticated' then perform set_config('attack.ran_as', current_user, true); end if; return new; end $$`,
      );
      await tx.query(
        `create trigger fires before update on pg_temp.event_posts for each row execute function pg_temp.fires()`,
      );
      await tx.query(
        `insert into public.event_comments (post_id, author_user_id, text) values ('${found[0]?.post}', '${found[0]?.user}', 'Yes')`,
      );
      // What runs as he does may write what is his.
      const { rows } = await tx.query(`select coalesce(current_setting('attack.ran_as', true), '') as "ranAs"`);
      expect(rows).toEqual([{ ranAs: '' }]);
    }),
  ).toBe('ok');
});

it('asks nothing of every row that orders and tickets have', async () => {
  await asCaller(pool, people.inA, async (tx) => {
    for (const table of ['orders', 'tickets', 'order_items']) {
      const { rows } = await tx.query<{ 'QUERY PLAN': string }>(`explain verbose select * from public.${table}`);
      const asked = rows.map((row) => row['QUERY PLAN']).filter((line) => /Filter|Cond/u.test(line));
      expect([table, asked.filter((line) => /is_event_manager|current_setting|auth\.uid/u.test(line))]).toEqual([
        table,
        [],
      ]);
    }
  });
});
