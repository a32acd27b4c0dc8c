import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { type Isolation, isolate } from '../../src/restructure/tenancy/isolate.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { ANN, moveTables, NORTH, SOUTH, shop, shopMapping } from '../support/tenanted-shop.ts';

/** Functions that run as their owner, as an old platform has them: with a path, with an odd one, and with none. */
const OLD_FUNCTIONS = `
  create function public.is_member(p_org uuid) returns boolean language sql stable security definer set search_path = public
    as 'select exists (select from members m where m.org_id = p_org and m.user_id = auth.uid())';
  create function public.count_stays() returns trigger language plpgsql security definer
    as $$ begin insert into stays values (new.id + 1000); return null; end $$;
  create trigger counted after insert on sales.orders for each row execute function public.count_stays();
  create procedure public.tidy() language plpgsql security definer set search_path = pg_temp, "public" as 'begin end';
  create function public.bare() returns int language sql security definer set search_path = '' as 'select 1';
  create function public.good() returns int language sql security definer set search_path = public, pg_temp as 'select 1';
  create function public.as_caller() returns int language sql set search_path = public as 'select 1';`;

let database: TestDatabase;
let admin: Pool;
let before: readonly string[];
let isolation: Isolation;
const mapping = shopMapping('definers');

beforeAll(async () => {
  database = await createDatabase({ template: await shop() });
  admin = callersPool(database);
  await moveTables(database.pool, mapping);
  await database.pool.query(OLD_FUNCTIONS);
  await asSuperuser(
    database,
    `create function public.of_another() returns int language sql security definer set search_path = public as 'select 1'`,
  );
  before = await catalogOf(database);
  isolation = await isolate(database.pool, mapping);
});
afterAll(async () => {
  await admin.end();
  await database.drop();
});

/** As whom what a caller has put into pg_temp was run, other than as himself. */
async function ranAs(attack: (tx: Tx) => Promise<unknown>): Promise<string> {
  let found = '';
  const outcome = await asCaller(admin, { role: 'authenticated', userId: ANN }, async (tx) => {
    await tx.query(
      `create function pg_temp.tells() returns void language plpgsql as $$
       begin if current_user <> 'authenticated' then perform set_config('attack.ran_as', current_user, true); end if; end $$`,
    );
    await attack(tx);
    const { rows } = await tx.query<{ as: string | null }>(`select current_setting('attack.ran_as', true) as "as"`);
    found = rows[0]?.as ?? '';
  });
  expect(outcome).toBe('ok');
  return found;
}

it.each(['caller_org_ids', 'current_org_id'])('%s runs no type of whoever calls it', async (called) => {
  for (const type of ['text', 'uuid', 'jsonb', 'bool']) {
    const found = await ranAs(async (tx) => {
      await tx.query(
        `create function pg_temp.evil(v pg_catalog.${type}) returns pg_catalog.bool language plpgsql as $$ begin perform pg_temp.tells(); return true; end $$`,
      );
      await tx.query(`create domain pg_temp.${type} as pg_catalog.${type} check (pg_temp.evil(value))`);
      await tx.query(`select public.${called}()`);
    });
    expect([type, found]).toEqual([type, '']);
  }
});

it('a table of members in pg_temp makes nobody a member', async () => {
  expect(
    await asCaller(admin, { role: 'authenticated', userId: ANN }, async (tx) => {
      await tx.query(`create temp table members (id uuid, user_id uuid, org_id uuid)`);
      await tx.query(`insert into pg_temp.members values (gen_random_uuid(), '${ANN}', '${SOUTH}')`);
      await tx.query(`grant select on pg_temp.members to public`);
      const { rows } = await tx.query(
        `select public.is_member('${SOUTH}') as south, public.is_member('${NORTH}') as north`,
      );
      expect(rows).toEqual([{ south: false, north: true }]);
    }),
  ).toBe('ok');
});

it('a table with a trigger in pg_temp is not written by a trigger that runs as its owner', async () => {
  const found = await ranAs(async (tx) => {
    await tx.query(`create temp table stays (id int)`);
    await tx.query(`grant all on pg_temp.stays to public`);
    await tx.query(
      `create function pg_temp.fires() returns trigger language plpgsql as $$ begin perform pg_temp.tells(); return new; end $$`,
    );
    await tx.query(`create trigger fires before insert on pg_temp.stays for each row execute function pg_temp.fires()`);
    await tx.query(`insert into public.orders (org_id) values ('${NORTH}')`);
    const { rowCount } = await tx.query('select from public.stays where id > 1000');
    expect(rowCount).toBe(1);
  });
  expect(found).toBe('');
});

it('is said of every function that runs as its owner, and keeps what it said before', async () => {
  const { rows } = await database.pool.query<{ function: string; path: string | null }>(
    `select f.proname as function, (select setting from unnest(f.proconfig) setting where setting like 'search_path=%') as path
     from pg_proc f where f.prosecdef and f.pronamespace = 'public'::regnamespace order by 1`,
  );
  const paths = new Map(rows.map((row) => [row.function, row.path]));
  expect(Object.fromEntries(['is_member', 'tidy', 'bare', 'good'].map((name) => [name, paths.get(name)]))).toEqual({
    is_member: 'search_path=public, pg_temp',
    tidy: 'search_path=public, pg_temp',
    bare: 'search_path=pg_catalog, pg_temp',
    good: 'search_path=public, pg_temp',
  });
  // As the session that isolates finds them, and where tables went.
  expect(paths.get('count_stays')).toBe('search_path=public, people, sales, liventix, pg_temp');
  expect([...paths].filter(([name, path]) => name !== 'of_another' && path?.endsWith(', pg_temp') !== true)).toEqual(
    [],
  );
});

it('names those that are somebody else’s, and leaves them', async () => {
  expect(isolation.ofOthers).toEqual(['public.of_another() of postgres']);
  expect(isolation.left).toEqual([]);
});

it('is verified, and taken back to the last setting, but for what was changed since', async () => {
  const check = 'every function that passes by policies looks nothing up in what a caller has made';
  const faults = async () => {
    const checks = await withTransaction(database.pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
    return checks.find((each) => each.check === check)?.first;
  };
  expect(await faults()).toEqual([]);
  await database.pool.query('alter function public.is_member(uuid) set search_path = sales');
  expect(await faults()).toEqual(['public.is_member(uuid) runs as its owner, and looks names up in pg_temp first']);
  await rollBack(database.pool, { tables: [], to: await lastMove() });
  expect(changesOf(before, await catalogOf(database)).filter((line) => !line.includes('is_member'))).toEqual([]);
  const { rows } = await database.pool.query(
    `select proconfig from pg_proc where proname = 'is_member' and pronamespace = 'public'::regnamespace`,
  );
  expect(rows).toEqual([{ proconfig: ['search_path=sales'] }]);
});

async function lastMove(): Promise<bigint | undefined> {
  const { rows } = await database.pool.query<{ last: bigint }>(
    `select max(id) as last from restructure.steps where kind in ('table', 'search path')`,
  );
  return rows[0]?.last;
}
