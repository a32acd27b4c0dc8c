import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { type Access, LEGACY_ACCESSES, nameOfAccess, readAccesses } from '../../src/restructure/accesses/access.ts';
import type { ApiCaller } from '../../src/restructure/accesses/api-callers.ts';
import { type AccessDifference, compareAccesses } from '../../src/restructure/accesses/compare.ts';
import { type Prepared, prepareAccesses } from '../../src/restructure/accesses/prepare.ts';
import type { PreparedAccess } from '../../src/restructure/accesses/prepared.ts';
import { type AccessResult, runAccesses } from '../../src/restructure/accesses/run.ts';
import type { Applied } from '../../src/restructure/apply.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { callersPool } from '../support/callers.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { createSmallPlatform, moveTables, platformCallers } from '../support/platform.ts';

// Everything that the old application asks for, before the tables move, after it, and when they are back.

/** What is left out, and nothing else. */
const NOT_APPLICABLE = [
  'other event-assets: event-assets is a bucket of the file storage, no table',
  'other org-logos: org-logos is a bucket of the file storage, no table',
  'other user-avatars: user-avatars is a bucket of the file storage, no table',
  'select tables: the API does not expose the schema information_schema',
  'other org-media: org-media is a bucket of the file storage, no table',
  'insert video_performance_metrics: there is no table or view public.video_performance_metrics',
];

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';

let database: TestDatabase;
let pool: Pool;
let accesses: readonly Access[];
let prepared: Prepared;
let callers: readonly ApiCaller[];
let before: readonly AccessResult[];

beforeAll(async () => {
  database = await createDatabase();
  await createSmallPlatform(database.pool);
  pool = callersPool(database);
  accesses = await readAccesses(LEGACY_ACCESSES);
  callers = await platformCallers(pool);
  prepared = await prepareAccesses(pool, accesses, { seed: 1 });
  before = await runAll();
}, 300_000);
afterAll(async () => {
  await pool.end();
  await database.drop();
});

async function runAll(chosen: readonly PreparedAccess[] = prepared.prepared, as = callers): Promise<AccessResult[]> {
  const results: AccessResult[] = [];
  for (const caller of as) results.push(...(await runAccesses(pool, chosen, { caller })));
  return results;
}

const inWords = ({ number, caller, what }: AccessDifference) => {
  const access = accesses[number];
  return { name: access === undefined ? '' : nameOfAccess(access), caller, what };
};

describe('the accesses of the old application', () => {
  it('are all sent, but for those that ask for no table', () => {
    const reasons = prepared.notApplicable.map(({ access, reason }) => `${nameOfAccess(access)}: ${reason}`);
    expect(reasons).toEqual(NOT_APPLICABLE);
    expect(accesses).toHaveLength(367);
    expect(prepared.prepared).toHaveLength(accesses.length - NOT_APPLICABLE.length);
    expect(callers.map(({ name }) => name)).toEqual(['service', 'owner', 'attendee', 'anonymous']);
    expect(before).toHaveLength(prepared.prepared.length * callers.length);
  });

  it('find rows, and write some', () => {
    const found = (caller: string) =>
      before.filter(({ outcome, ...of }) => of.caller === caller && outcome.status === 'rows' && outcome.count !== 0);
    expect(found('service').length).toBeGreaterThan(300);
    expect(found('owner').length).toBeGreaterThan(180);
    const written = before.flatMap(({ outcome }) => (outcome.status === 'rows' ? outcome.effects : []));
    expect(new Set(written.map((effect) => effect.split(' ')[0])).size).toBeGreaterThan(40);
  });

  it('are prepared the same each time, and change nothing', async () => {
    expect(await prepareAccesses(pool, accesses, { seed: 1 })).toEqual(prepared);
    const owner = callers.filter(({ name }) => name === 'owner');
    const wanted = before.filter(({ caller }) => caller === 'owner');
    expect(compareAccesses(wanted, await runAll(prepared.prepared, owner)).map(inWords)).toEqual([]);
  });

  it('survive being written down', () => {
    expect(JSON.parse(JSON.stringify(prepared))).toEqual(prepared);
  });
});

describe('after the move', () => {
  let applied: Applied;
  beforeAll(async () => {
    applied = await moveTables(database);
  }, 300_000);

  it('has moved the tables', () => {
    expect(applied.outcomes.length).toBeGreaterThan(90);
    expect(applied.outcomes.filter(({ status }) => status !== 'moved')).toEqual([]);
  });

  it('gives every caller the same for every access', async () => {
    expect(compareAccesses(before, await runAll()).map(inWords)).toEqual([]);
  });

  describe('when something was forgotten', () => {
    const BREAKS: readonly (readonly [
      string,
      { breaks: string; mends: string; of: string; caller: string; what: RegExp },
    ])[] = [
      [
        'a view with the rights of its owner',
        {
          breaks: 'alter view public.notifications set (security_invoker = false)',
          mends: 'alter view public.notifications set (security_invoker = true)',
          of: 'select notifications',
          caller: 'anonymous',
          what: /^0 rows became \d+$/,
        },
      ],
      [
        'a grant on a view',
        {
          breaks: 'revoke select on public.orders from authenticated, READERS',
          mends: 'grant select on public.orders to authenticated, READERS',
          of: 'select orders',
          caller: 'attendee',
          what: /refused with 42501: permission denied for view orders$/,
        },
      ],
      [
        'a grant on a table behind a view',
        {
          breaks: 'revoke insert on events.event_comments from authenticated',
          mends: 'grant insert on events.event_comments to authenticated',
          of: 'insert event_comments',
          caller: 'owner',
          what: /refused with 42501: permission denied for table event_comments/,
        },
      ],
      [
        'row security that is off',
        {
          breaks: 'alter table ticketing.tickets disable row level security',
          mends: 'alter table ticketing.tickets enable row level security',
          of: 'select tickets',
          caller: 'anonymous',
          what: /^0 rows became \d+$/,
        },
      ],
      [
        'a column of a view',
        {
          breaks: `alter view public.notifications rename to notifications_whole;
            create view public.notifications with (security_invoker = true) as
              select id, user_id, title, message, created_at, read_at from messaging.notifications;
            grant all on public.notifications to anon, authenticated, service_role`,
          mends: 'drop view public.notifications; alter view public.notifications_whole rename to notifications',
          of: 'select notifications',
          caller: 'service',
          what: /^differs in .*action_url/,
        },
      ],
    ];

    it.each(FULL ? BREAKS : BREAKS.slice(0, 2))('finds %s', async (_, { breaks, mends, of, caller, what }) => {
      const compared = comparing(of, caller);
      expect(await compared()).toEqual([]);
      await asSuperuser(database, named(breaks));
      const found = await compared().finally(() => asSuperuser(database, named(mends)));
      expect(found).toContainEqual(expect.stringMatching(what));
      expect(await compared()).toEqual([]);
    });
  });

  it('asks nobody for the right to use a schema: the server asks for it where a name is looked up, and not behind a view', async () => {
    const compared = comparing('select ticket_tiers', 'anonymous');
    await asSuperuser(database, named('revoke usage on schema ticketing from anon, READERS'));
    const found = await compared().finally(() =>
      asSuperuser(database, named('grant usage on schema ticketing to anon, READERS')),
    );
    expect(found).toEqual([]);
  });
});

/** SQL about the group of this database's readers. */
const named = (sql: string) => sql.replaceAll('READERS', `${database.name}_read`);

/** Sends what is called so again, as one caller, and says what differs from before. */
function comparing(of: string, caller: string): () => Promise<string[]> {
  const chosen = prepared.prepared.filter(({ access }) => nameOfAccess(access) === of);
  const numbers = new Set(chosen.map(({ number }) => number));
  const wanted = before.filter((result) => numbers.has(result.number) && result.caller === caller);
  const as = callers.filter(({ name }) => name === caller);
  expect(wanted).not.toEqual([]);
  return async () => compareAccesses(wanted, await runAll(chosen, as)).map(({ what }) => what);
}

describe('when the tables are back', () => {
  beforeAll(async () => {
    await rollBack(database.pool, { tables: [] });
  }, 300_000);

  it('gives every caller the same for every access', async () => {
    expect(compareAccesses(before, await runAll()).map(inWords)).toEqual([]);
  });
});
