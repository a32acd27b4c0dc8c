import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { type Isolation, isolate } from '../../src/restructure/tenancy/isolate.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { moveTables, shop, shopMapping, withTables } from '../support/tenanted-shop.ts';

/** What is in an order's boxes is whose the order is. */
const mapping: Mapping = withTables(shopMapping('busy'), 'sales', [
  { table: 'boxes', kind: 'organization', organization: { of: 'orders', by: 'order_id' } },
  { table: 'labels', kind: 'organization', organization: { of: 'boxes', by: 'box_id' } },
]);

let database: TestDatabase;
let pool: Pool;
let other: Tx;
beforeEach(async () => {
  database = await createDatabase({ template: await shop() });
  pool = database.pool;
  await pool.query(`create table public.boxes (id int primary key, order_id bigint not null references public.orders);
    create table public.labels (id int primary key, box_id int not null references public.boxes);
    insert into public.boxes select id, id from public.orders; insert into public.labels select id, id from public.boxes`);
  await moveTables(pool, mapping);
  other = await pool.connect();
});
afterEach(async () => {
  await other.query('rollback');
  other.release();
  await database.drop();
});

const statuses = ({ tables }: Isolation) => Object.fromEntries(tables.map(({ table, status }) => [table, status]));
const reasonOf = ({ tables }: Isolation, table: string) => tables.find((each) => each.table === table)?.reason;

it('leaves a table that is in use, and those whose organization is its rows’, and goes on with the others', async () => {
  await other.query('begin; lock table sales.boxes in row exclusive mode');
  const first = await isolate(pool, mapping, { maxTries: 2 });
  expect(statuses(first)).toEqual({
    members: 'isolated',
    orders: 'isolated',
    visits: 'isolated',
    boxes: 'skipped',
    labels: 'skipped',
  });
  expect(reasonOf(first, 'boxes')).toMatch(
    /^public\.boxes was in use .* Held by process \d+ .*lock table sales\.boxes/u,
  );
  expect(reasonOf(first, 'labels')).toBe('its organization is that of boxes, which was left');
  await other.query('rollback');
  const second = await isolate(pool, mapping);
  expect(statuses(second)).toMatchObject({ orders: 'already', boxes: 'isolated', labels: 'isolated' });
  const { rows } = await pool.query(`select count(*)::int as n from sales.labels where organization_id is not null`);
  expect(rows).toEqual([{ n: 300 }]);
});

it('names the table that keeps it from saying who the caller is', async () => {
  await other.query('begin; lock table people.members in access exclusive mode');
  await expect(isolate(pool, mapping, { maxTries: 2 })).rejects.toMatchObject({
    code: 'RESTRUCTURE_BUSY',
    message: expect.stringMatching(/^public\.members, which "public"\."\w+"\(\) reads, was in use/u),
  });
});

/** Runs until it is said for whom an index waits, and stops then. */
async function stoppedWaiting() {
  const stop = new AbortController();
  const said: string[] = [];
  const isolation = await isolate(pool, mapping, {
    stop: stop.signal,
    onWaiting: (what, holders) => {
      said.push(`${what} waits for ${holders}`);
      stop.abort();
    },
  });
  return { said, isolation };
}

const invalidIndexes = async () =>
  (await pool.query(`select indexrelid::regclass::text as name from pg_index where not indisvalid`)).rowCount;

it('says for whom an index waits, stops waiting when it is told to, and leaves nothing of the index', async () => {
  await other.query('begin isolation level repeatable read; select 1');
  const { said, isolation } = await stoppedWaiting();
  expect(said[0]).toMatch(/^the index "people"\."tenant_org_id_members" waits for process \d+ \(liventix/u);
  expect(isolation.isStopped).toBe(true);
  expect(reasonOf(isolation, 'members')).toMatch(/was not waited for any longer\. What there was of it is gone\./u);
  expect(await invalidIndexes()).toBe(0);
  await other.query('rollback');
  expect(Object.values(statuses(await isolate(pool, mapping)))).not.toContain('skipped');
});

it('builds anew what it could not take away of an index that it had stopped waiting for', async () => {
  await other.query('begin; lock table people.members in row exclusive mode');
  const { isolation } = await stoppedWaiting();
  expect(reasonOf(isolation, 'members')).toMatch(/What there is of it stays until isolate is run again/u);
  expect(await invalidIndexes()).toBe(1);
  await other.query('rollback');
  expect(Object.values(statuses(await isolate(pool, mapping)))).not.toContain('skipped');
  expect(await invalidIndexes()).toBe(0);
});
