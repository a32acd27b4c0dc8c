import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

describe('who may touch the outbox', () => {
  let database: TestDatabase;
  let client: pg.Client;
  const as = async (role: string, sql: string) => {
    await client.query(`begin; set local role ${role}`);
    try {
      const { rows } = await client.query(sql);
      return rows;
    } catch (error) {
      return (error as pg.DatabaseError).code;
    } finally {
      await client.query('rollback');
    }
  };
  const DENIED = '42501';

  beforeAll(async () => {
    database = await createDatabase();
    client = new pg.Client({ connectionString: database.adminUrl });
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await database.drop();
  });

  it('is held by an owner who is no superuser', async () => {
    const { rows } = await database.pool.query(
      `select rolsuper, tableowner = rolname as owns from pg_roles, pg_tables
       where rolname = current_user and schemaname = 'public' and tablename = 'outbox'`,
    );
    expect(rows).toEqual([{ rolsuper: false, owns: true }]);
  });

  it('lets service_role announce, read, and see the schemas of topics, and nothing else', async () => {
    const insert = `insert into public.outbox (topic, payload) values ('a.b', '{}') returning processed_at`;
    const sleeper = await database.pool.connect();
    await sleeper.query(`select pg_advisory_lock(hashtext('liventix.relay.sleeps'), 0)`);
    expect(await as('service_role', insert)).toEqual([{ processed_at: null }]);
    await sleeper.query('select pg_advisory_unlock_all()');
    sleeper.release();
    expect(await as('service_role', 'select count(*)::integer as n from public.outbox')).toEqual([{ n: 0 }]);
    for (const sql of [
      `insert into public.outbox (topic, payload, processed_at) values ('a', '{}', now())`,
      'update public.outbox set processed_at = now()',
      'delete from public.outbox',
      'truncate public.outbox',
      'select * from outbox.endpoints',
      'select outbox.open_days(current_date, current_date)',
    ]) {
      expect([sql, await as('service_role', sql)]).toEqual([sql, DENIED]);
    }
  });

  it.each(['anon', 'authenticated'])('lets %s do nothing at all', async (role) => {
    for (const sql of [
      `insert into public.outbox (topic, payload) values ('a', '{}')`,
      'select * from public.outbox',
      'select secret from outbox.endpoints',
      'select * from outbox.deliveries',
      `select outbox.patterns_of('a')`,
    ]) {
      expect([sql, await as(role, sql)]).toEqual([sql, DENIED]);
    }
  });

  it.each([
    ['an upper-case topic', `('Ticket', '{}')`],
    ['an empty topic', `('', '{}')`],
    ['a wildcard as a topic', `('ticket.*', '{}')`],
    ['a topic of 129 characters', `(repeat('a', 129), '{}')`],
    ['a payload that is an array', `('a', '[1]')`],
    ['a payload that is a string', `('a', '"x"')`],
    ['a payload of more than 1 MB', `('a', jsonb_build_object('x', repeat('x', 1048576)))`],
  ])('refuses %s', async (_what, values) => {
    const insert = database.pool.query(`insert into public.outbox (topic, payload) values ${values}`);
    await expect(insert).rejects.toMatchObject({ code: '23514' });
  });

  it.each([
    ['deliver_after', 'infinity'],
    ['deliver_after', '-infinity'],
    ['deliver_after', '280000-01-01 00:00+00'],
    ['created_at', 'infinity'],
    ['created_at', '-infinity'],
  ])('refuses a %s of %s, and says which it was', async (column, instant) => {
    const insert = database.pool.query(`insert into public.outbox (topic, payload, ${column}) values ('a', '{}', $1)`, [
      instant,
    ]);
    await expect(insert).rejects.toMatchObject({ code: '23514', constraint: `outbox_${column}_reachable` });
  });

  it('lets the relay take a message of before that has such an instant', async () => {
    const { rows } = await database.pool.query<{ name: string; is: string }>(
      `select conname as name, pg_get_constraintdef(oid) as is from pg_constraint
       where conrelid = 'public.outbox'::regclass and conname like '%_reachable'`,
    );
    expect(rows).toHaveLength(2);
    const eachOne = async (change: (constraint: { name: string; is: string }) => string) => {
      for (const row of rows) await database.pool.query(`alter table public.outbox ${change(row)}`);
    };
    await eachOne(({ name }) => `drop constraint ${name}`);
    await database.pool.query(
      `insert into public.outbox (topic, payload, deliver_after, created_at) values ('a', '{}', 'infinity', 'infinity')`,
    );
    await eachOne(({ name, is }) => `add constraint ${name} ${is}`);
    const { messages } = await fanOut(database.pool, {
      limit: 1_000,
      floor: NO_FLOOR,
      places: new Map(),
      queueLeaseMs: 60_000,
    });
    expect(messages).toBeGreaterThan(0);
    const { rowCount } = await database.pool.query('select from public.outbox where processed_at is null');
    expect(rowCount).toBe(0);
  });

  it.each(['1999-12-31', '9999-12-31 23:59:59+00', null])('takes a deliver_after of %s', async (instant) => {
    await database.pool.query(`insert into public.outbox (topic, payload, deliver_after) values ('a', '{}', $1)`, [
      instant,
    ]);
  });
});
