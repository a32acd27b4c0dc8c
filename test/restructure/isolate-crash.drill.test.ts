import { afterAll, beforeAll, expect, it } from 'vitest';
import { createPool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { isolate } from '../../src/restructure/tenancy/isolate.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { moveTables, shop, shopMapping, withTables } from '../support/tenanted-shop.ts';
import { startWire } from '../support/wire.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const LONG_MS = 1_800_000;
/** How much later each time. */
const GROWTH = 1.5;
const MANY = 2_000;

/** Some of every step: a column that is filled and promised, functions with their owner's rights, views, old policies. */
const mapping: Mapping = withTables(shopMapping('isolate_crash'), 'sales', [
  { table: 'boxes', kind: 'organization', organization: { of: 'orders', by: 'order_id', notNull: true } },
]);

const MORE = `
  create table public.boxes (id int primary key, order_id bigint not null references public.orders);
  insert into public.boxes select id, id from public.orders;
  create function public.is_member(p_org uuid) returns boolean language sql stable security definer set search_path = public
    as 'select exists (select from members m where m.org_id = p_org and m.user_id = auth.uid())'`;

let template: TestDatabase;
beforeAll(async () => {
  template = await createDatabase({ template: await shop() });
  await template.pool.query(MORE);
  await moveTables(template.pool, mapping);
  // So that it can be cloned.
  await template.pool.end();
});
afterAll(() => template.drop());

/** Oids are each database's own, where something is made there. */
const WITHOUT_OIDS = /\b\d{5,}\b/gu;

const catalogWithoutOids = async (database: TestDatabase) => [
  ...(await catalogOf(database)).map((line) => line.replaceAll(WITHOUT_OIDS, 'oid')).toSorted(),
  ...(
    await database.pool.query<{ line: string }>(
      `select kind || ' ' || object as line from restructure.steps where undone_at is null order by 1`,
    )
  ).rows.map(({ line }) => line),
];

/** Isolates, and is killed at one statement of all; false where it came through before. */
async function killedAt(database: TestDatabase, nth: number, when: 'during' | 'after'): Promise<boolean> {
  const wire = await startWire({ databaseUrl: database.url, at: { nth, when } });
  const pool = createPool({ databaseUrl: wire.url });
  try {
    await isolate(pool, mapping).catch((error: unknown) => {
      if (!wire.isStruck()) throw error;
      expect(toAppError(error).code).toMatch(/^DB_/u);
    });
    return wire.isStruck();
  } finally {
    await pool.end();
    await wire.stop();
  }
}

/** The catalog after isolating to the end, killed before at those statements. */
async function catalogAfter(strikes: Iterable<readonly [nth: number, when: 'during' | 'after']>) {
  const database = await createDatabase({ template: template.name });
  let struck = 0;
  try {
    for (const [nth, when] of strikes) {
      if (!(await killedAt(database, nth, when))) break;
      struck += 1;
    }
    await isolate(database.pool, mapping);
    const { rows } = await database.pool.query(
      'select count(*)::int as n from sales.boxes where organization_id is not null',
    );
    expect(rows).toEqual([{ n: 300 }]);
    return { struck, catalog: await catalogWithoutOids(database) };
  } finally {
    await database.drop();
  }
}

/** Ever later statements: those before them stand by then. */
function* spread(): Generator<readonly [nth: number, when: 'during' | 'after']> {
  for (let nth = 1; nth < MANY; nth *= GROWTH) {
    yield [Math.round(nth), 'during'];
    yield [Math.round(nth), 'after'];
  }
}

let undisturbed: readonly string[];
beforeAll(async () => {
  undisturbed = (await catalogAfter([])).catalog;
});

it('ends in the catalog of a run that nobody disturbed, however often it was killed before', async () => {
  const { struck, catalog } = await catalogAfter(spread());
  expect(struck).toBeGreaterThan(10);
  expect(changesOf(undisturbed, catalog)).toEqual([]);
});

it.each(FULL ? (['during', 'after'] as const) : [])(
  'ends in it at whichever statement it was killed: %s',
  async (when) => {
    let nth = 1;
    for (; ; nth += 1) {
      const { struck, catalog } = await catalogAfter([[nth, when]]);
      expect([nth, changesOf(undisturbed, catalog)]).toEqual([nth, []]);
      if (struck === 0) break;
    }
    expect(nth).toBeGreaterThan(60);
  },
  LONG_MS,
);
