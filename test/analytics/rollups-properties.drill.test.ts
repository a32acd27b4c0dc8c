import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { removeRollups } from '../../src/analytics/rollups/remove.ts';
import { verifyRollups } from '../../src/analytics/rollups/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { applyVisits, counted, countedAndVerified, createVisits } from '../support/rollups.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const SESSIONS = 3;
const RUNS = 40;
const DEADLINE_MS = 5 * 60_000;

const page = fc.constantFrom("'a'", "'b'", 'null');
const person = fc.constantFrom("'ann'", "'bob'", 'null');
const at = fc.constantFrom(
  "'2026-01-31 23:59:59.999Z'",
  "'2026-02-01 00:00Z'",
  "'2026-03-29 01:30Z'",
  "'infinity'",
  "'-infinity'",
  'null',
);
const row = fc.record({
  page,
  person,
  session: fc.constantFrom("'s1'", 'null'),
  ms: fc.constantFrom('0', '1', '77', '3600000', '-5', 'null'),
  done: fc.constantFrom('true', 'false', 'null'),
  price: fc.constantFrom('1.5', "'NaN'", 'null'),
  at,
});
const values = (each: { [column: string]: string }) => `(${Object.values(each).join(', ')})`;
const INSERT = 'insert into site.visits (page, person, session, ms, done, price, at) values';

// Whoever waited for another would stop the test: rows that are locked are left alone.
const chosen = (nth: number) =>
  `id = (select id from site.visits order by md5((id + ${nth})::text) limit 1 for update skip locked)`;
const act = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.array(row, { minLength: 1, maxLength: 3 }).map((rows) => `${INSERT} ${rows.map(values).join(', ')}`),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(row, fc.nat(9))
      .map(
        ([to, nth]) =>
          `update site.visits set (page, person, session, ms, done, price, at) = ${values(to)} where ${chosen(nth)}`,
      ),
  },
  { weight: 3, arbitrary: fc.nat(9).map((nth) => `delete from site.visits where ${chosen(nth)}`) },
  { weight: 2, arbitrary: fc.constantFrom('savepoint s', 'rollback to s', 'release s') },
  { weight: 4, arbitrary: fc.constantFrom('commit', 'commit', 'rollback') },
);
const command = fc.oneof(
  { weight: 12, arbitrary: fc.record({ session: fc.nat(SESSIONS - 1), act }) },
  { weight: 4, arbitrary: fc.record({ run: fc.constantFrom(1, 3, 50_000) }) },
  { weight: 2, arbitrary: fc.record({ everything: fc.boolean() }) },
  { weight: 2, arbitrary: fc.constant('build' as const) },
  { weight: 2, arbitrary: fc.constant('verify' as const) },
);

/** A session that opens a transaction whenever it is not in one. */
class Session {
  private inTransaction = false;
  private hasSavepoint = false;
  private readonly client: pg.PoolClient;
  constructor(client: pg.PoolClient) {
    this.client = client;
  }

  async act(sql: string): Promise<void> {
    const ends = sql === 'commit' || sql === 'rollback';
    if (ends && !this.inTransaction) return;
    if (/^(rollback to|release)/.test(sql) && !this.hasSavepoint) return;
    if (!this.inTransaction) await this.client.query('begin');
    this.inTransaction = !ends;
    this.hasSavepoint = sql === 'savepoint s' || (this.hasSavepoint && !ends && sql !== 'release s');
    await this.client.query(sql);
  }

  async end(how: string): Promise<void> {
    await this.act(how);
    this.client.release();
  }
}

type Command =
  | { readonly everything: boolean }
  | 'build'
  | 'verify'
  | { readonly run: number }
  | { readonly session: number; readonly act: string };

async function perform(commands: readonly Command[], before: readonly string[]): Promise<void> {
  const { pool } = database;
  if (before.length > 0) await pool.query(`${INSERT} ${before.join(', ')}`);
  await applyVisits(pool);
  const sessions: Session[] = [];
  try {
    for (let nth = 0; nth < SESSIONS; nth += 1) sessions.push(new Session(await pool.connect()));
    for (const each of commands) {
      if (each === 'build') await pool.query(`select rollups.build('visits_daily')`);
      else if (each === 'verify') await verifyIfBuilt();
      else if ('everything' in each) await rebuild(each.everything);
      else if ('run' in each) await pool.query(`select rollups.run('visits_daily', $1)`, [each.run]);
      else await sessions[each.session]?.act(each.act);
    }
  } finally {
    for (const [nth, session] of sessions.entries()) await session.end(nth === 0 ? 'rollback' : 'commit');
  }
}

async function rebuild(everything: boolean): Promise<void> {
  await database.pool.query(`select rollups.begin_build('visits_daily', $1)`, [everything]).catch((error: unknown) => {
    // Of a table that has no rows it cannot be told what is kept.
    if (everything || (error as pg.DatabaseError).code !== 'LV113') throw error;
  });
}

async function verifyIfBuilt(): Promise<void> {
  const { rows } = await database.pool.query(`select from rollups.rollups where state = 'ready'`);
  if (rows.length === 0) return;
  const [verified] = await verifyRollups(database.pool);
  expect(verified).toMatchObject({ holds: true, first: [] });
}

async function isWhatTheRowsSay(): Promise<void> {
  const { pool } = database;
  for (let status = ''; status !== 'ready'; ) {
    const { rows } = await pool.query<{ status: string }>(`select status from rollups.build('visits_daily')`);
    status = rows[0]?.status ?? '';
  }
  expect(await countedAndVerified(pool)).toMatchObject({ holds: true, first: [] });
  expect(await counted(pool)).toMatchObject([{ status: 'nothing' }]);
  const { rows } = await pool.query(
    `select (select coalesce(jsonb_agg(r order by r), '[]') from (
         select page, (at at time zone 'UTC')::date as day, count(*), count(distinct coalesce(person, session)), count(*) filter (where done), sum(ms)
         from site.visits group by 1, 2) r (page, day, visits, people, completions, sum)) as told,
       (select coalesce(jsonb_agg(r order by r), '[]') from (
         select page, day, visits, people, completions, case when ms_count > 0 then ms_sum end from site.visits_daily) r (page, day, visits, people, completions, sum)) as kept,
       (select count(*)::int from rollups.visits_daily_changes) as waiting,
       (select count(*)::int from rollups.visits_daily_viewers where views < 1) as "noViewers"`,
  );
  expect(rows[0].kept).toEqual(rows[0].told);
  expect(rows[0]).toMatchObject({ waiting: 0, noViewers: 0 });
}

const PARTITIONS = `
  create table site.visits_2026_01 partition of site.visits for values from ('2026-01-01Z') to ('2026-02-01Z');
  create table site.visits_2026_02 partition of site.visits for values from ('2026-02-01Z') to ('2026-03-01Z');
  create table site.visits_rest partition of site.visits default`;

async function anew(kind: string): Promise<void> {
  await removeRollups(database.pool, undefined);
  await database.pool.query('drop schema if exists site cascade');
  await createVisits(database.pool, kind);
  if (kind !== '') await database.pool.query(PARTITIONS);
}

describe('a rollup is what its rows say, whatever was under way when it was counted', () => {
  it.each(['', 'partition by range (at)'])(
    'of a table %s',
    async (kind) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(row, { maxLength: 4 }),
          fc.array(command, { minLength: 10, maxLength: 60 }),
          async (before, commands) => {
            await anew(kind);
            await perform(commands, before.map(values));
            await isWhatTheRowsSay();
          },
        ),
        { numRuns: RUNS },
      );
    },
    DEADLINE_MS,
  );
});
