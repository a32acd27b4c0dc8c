import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { type Isolation, isolate } from '../../src/restructure/tenancy/isolate.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { standingSteps } from '../support/moves.ts';
import { ANN, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

const ODD = 'abcdef00-0000-4000-8000-00000000000f';

let database: TestDatabase;
let pool: Pool;
let admin: Pool;
let mapping: Mapping;
let warnings: string[];
let dry: { isolation: Isolation; changes: readonly string[]; steps: readonly string[] };
let moved: readonly string[];

/** The shop's, with a writer whom policies hold, and one whom they do not; and two views of one name. */
function mappingOf(): Mapping {
  const { roles, tenancy, ...rest } = shopMapping('isolated');
  if (roles === undefined || tenancy === undefined) throw new Error('the shop keeps nobody apart');
  return {
    ...rest,
    roles: { ...roles, writers: ['service_role', 'bypassing_service'] },
    tenancy: { ...tenancy, views: { ...tenancy.views, invoker: ['report', 'people.report'] } },
  };
}

beforeAll(async () => {
  database = await createDatabase({ template: await shop() });
  pool = database.pool;
  admin = callersPool(database);
  mapping = mappingOf();
  await moveTables(pool, mapping);
  await pool.query(`create view public.report as select * from sales.orders; create view people.report as select * from people.members;
    create sequence public.numbers; create sequence sales.numbers; grant all on public.numbers, sales.numbers, public.report to anon;
    insert into people.members (user_id, org_id) values ('${ANN}', '${ODD}')`);
  moved = await standingSteps(database);
  const before = await catalogOf(database);
  warnings = [];
  const isolation = await isolate(pool, mapping, { dryRun: true, onWarning: (warning) => warnings.push(warning) });
  dry = { isolation, changes: changesOf(before, await catalogOf(database)), steps: await standingSteps(database) };
  await isolate(pool, mapping);
});
afterAll(async () => {
  await admin.end();
  await database.drop();
});

it('warns of writers whom policies will hold, before it begins', () => {
  expect(warnings).toEqual([expect.stringMatching(/^service_role writes, and has no BYPASSRLS/u)]);
});

describe('a dry run', () => {
  it('changes nothing', () => {
    expect(dry.changes).toEqual([]);
    expect(dry.steps).toEqual(moved);
  });

  it('says what is then done', async () => {
    const isIndex = (step: string) => step.startsWith('tenant index ');
    const done = (await standingSteps(database)).filter((step) => !moved.includes(step));
    const said = dry.isolation.wouldDo.map(({ object }) => object);
    expect(said.filter((step) => !isIndex(step))).toEqual(done.filter((step) => !isIndex(step)));
    expect(said.filter(isIndex).length).toBeGreaterThan(2);
    expect(done.length).toBeGreaterThan(10);
  });

  it('has nothing left to do afterwards', async () => {
    expect((await isolate(pool, mapping, { dryRun: true })).wouldDo).toEqual([]);
  });
});

it('leaves readers nothing that no policy is asked about, of any relation', async () => {
  const { rows } = await pool.query<{ relation: string; privilege: string }>(
    `select c.oid::regclass::text as relation, r.role, privilege
     from pg_class c cross join unnest(array['anon', 'authenticated', 'isolated_read']) r (role)
     cross join lateral (
       select privilege from unnest(array['truncate', 'trigger', 'references']) privilege
       where c.relkind <> 'S' and has_table_privilege(r.role, c.oid, privilege)
       union all select 'setval' where c.relkind = 'S' and has_sequence_privilege(r.role, c.oid, 'update')) held
     where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S') and c.relnamespace in ('public'::regnamespace, 'people'::regnamespace, 'sales'::regnamespace)`,
  );
  expect(rows).toEqual([]);
  const { rows: kept } = await pool.query(
    `select has_table_privilege('authenticated', 'public.outbox', 'select') as reads, has_sequence_privilege('anon', 'sales.numbers', 'usage') as counts`,
  );
  expect(kept).toEqual([{ reads: true, counts: true }]);
});

it('tells views of one name in two schemas apart', async () => {
  const { rows } = await pool.query(
    `select oid::regclass::text as view from pg_class where relname = 'report' and reloptions @> array['security_invoker=true'] order by 1`,
  );
  expect(rows).toEqual([{ view: 'people.report' }, { view: 'report' }]);
});

it('takes a claim for the organization that it names, however it is written', async () => {
  const asked = async (claim: string) => {
    let found: unknown;
    await asCaller(admin, { role: 'authenticated', userId: ANN, claim }, async (tx) => {
      const { rows } = await tx.query(
        `select public.current_org_id()::text as current, public.caller_org_ids()::text[] as all`,
      );
      found = rows[0];
    });
    return found;
  };
  expect(await asked(ODD.toUpperCase())).toEqual({ current: ODD, all: [ODD] });
  expect(await asked(ODD)).toEqual({ current: ODD, all: [ODD] });
});

it('asks once a statement what an old policy asked of every row', async () => {
  const { rows } = await pool.query<{ policy: string; using: string }>(
    `select polname as policy, pg_get_expr(polqual, polrelid) as using from pg_policy where polrelid = 'sales.orders'::regclass and polname = 'theirs'`,
  );
  expect(rows).toHaveLength(1);
  expect(rows[0]?.using).toMatch(/m\.user_id = \( SELECT auth\.uid\(\)/u);
});

it('is told by verify of a table that came later, which readers may read all of', async () => {
  const faults = async () => {
    const checks = await withTransaction(pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
    return checks.filter(({ holds }) => !holds).flatMap(({ first }) => first);
  };
  expect(await faults()).toEqual([]);
  await pool.query('create table sales.later (id int); grant select on sales.later to anon');
  expect(await faults()).toEqual([
    // Roles of other tests of the server may be among them.
    expect.stringMatching(
      /^sales\.later has no row security and no tenancy, and all of it may be read by .*\banon, .*authenticated\b/,
    ),
  ]);
  await pool.query('alter table sales.later enable row level security');
  expect(await faults()).toEqual([]);
});
