import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { asCaller, type Caller, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { horizonIsOurs } from '../support/rollups.ts';
import { findPeople, type People } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';

let database: TestDatabase;
let pool: Pool;
let people: People;
let env: Record<string, string>;
let before: readonly string[];

/** What holds of the restructuring, and what not: search paths of roles are not in a copy of a database. */
const verdicts = async () =>
  (await liventix(['restructure', 'verify'], env)).stdout
    .split('\n')
    .flatMap((line) => /^(?:holds|FAILS) .{72}/.exec(line) ?? []);

beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform() });
  pool = callersPool(database);
  people = await findPeople(pool);
  env = { DATABASE_URL: database.url };
  before = await verdicts();
  expect(before.length).toBeGreaterThan(10);
  expect(await liventix(['rollups', 'apply'], env)).toMatchObject({ exitCode: 0, stderr: '' });
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

describe('rollups of moved tables, whose tenants are kept apart', () => {
  it('leave the restructuring as it is', async () => {
    expect(await verdicts()).toEqual(before);
  });

  it('count what comes by the old names, and hold', async () => {
    await database.pool.query(
      `insert into public.event_impressions (event_id, session_id) select id, repeat('w', 20) from public.events limit 3;
       delete from public.event_impressions where id in (select id from public.event_impressions where length(session_id) <> 20 limit 5)`,
    );
    await horizonIsOurs(database.pool);
    expect((await liventix(['rollups', 'run'], env)).stdout).toMatch(/^counted +event_daily +8 /m);
    expect(await liventix(['rollups', 'verify'], env)).toMatchObject({ exitCode: 0 });
  });

  it('show an organizer the days of the own events alone, and an attendee none', async () => {
    const ownersOf = async (caller: Caller): Promise<readonly unknown[]> => {
      const owners: unknown[] = [];
      const how = await asCaller(pool, caller, async (tx) => {
        const { rows } = await tx.query<{ event: string }>(
          'select distinct event_id as event from analytics.event_daily',
        );
        const { rows: found } = await pool.query<{ owner: string }>(
          `select distinct coalesce(case owner_context_type when 'organization' then owner_context_id end, created_by) as owner
           from events.events where id = any ($1)`,
          [rows.map(({ event }) => event)],
        );
        owners.push(...found.map(({ owner }) => owner));
      });
      expect(how).toBe('ok');
      return owners;
    };
    expect(await ownersOf(people.inA)).toEqual([people.organizationA]);
    expect(await ownersOf(people.inB)).toEqual([people.organizationB]);
    expect(await ownersOf(people.host)).toEqual([people.host.userId]);
    expect(await ownersOf(people.attendee)).toEqual([]);
    expect(await ownersOf(people.sponsor)).toEqual([]);
  });
});
