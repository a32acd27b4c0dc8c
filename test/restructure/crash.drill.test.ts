import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { applyPlan } from '../../src/restructure/apply.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import type { TestDatabase } from '../support/database.ts';
import { left, moveAll, planOf } from '../support/moves.ts';
import { query } from '../support/query.ts';
import { cloneShop, createShop, type Shop, shopMapping } from '../support/shop.ts';
import { type Point, startWire } from '../support/wire.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const LONG_MS = 1_800_000;
/** How much later each time. */
const GROWTH = 1.5;
const MANY = 2_000;

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const endBackend = (pid: number, { adminUrl }: TestDatabase) => query(adminUrl, `select pg_terminate_backend(${pid})`);

interface Kind {
  readonly what: string;
  readonly when: Point['when'];
  readonly strike?: (pid: number, database: TestDatabase) => unknown;
}

const KINDS: readonly Kind[] = [
  // The server goes on with the statement that it has, and finds nobody to tell.
  { what: 'its process is killed', when: 'during' },
  { what: 'its backend is ended', when: 'during', strike: endBackend },
  { what: 'its backend is ended, and nobody is told that it was done', when: 'after', strike: endBackend },
];

/** Some of everything: partitions, heirs, keys between two targets, another owner, a sequence, roles. */
const mappingOf = (shop: Shop) =>
  shopMapping(shop, {
    schemas: [
      { name: 'people', tables: ['customers', 'sellers', 'payouts'] },
      { name: 'log.book', tables: ['animals', 'events'] },
      { name: 'sales', tables: ['orders'] },
    ],
  });

interface Command {
  readonly name: string;
  before(shop: Shop): Promise<unknown>;
  run(pool: Pool, shop: Shop): Promise<unknown>;
}

const COMMANDS: readonly Command[] = [
  {
    name: 'apply',
    before: async () => undefined,
    run: async (pool, shop) => {
      // As its user would: by the plan that was made at first.
      const plan = plans.get(shop) ?? (await planOf(shop, mappingOf(shop)));
      plans.set(shop, plan);
      expect(left(await applyPlan(pool, plan, { schemas: [], tables: [] }))).toEqual({});
    },
  },
  { name: 'rollback', before: (shop) => moveAll(shop, mappingOf(shop)), run: (pool) => rollBack(pool, { tables: [] }) },
];
const plans = new WeakMap<Shop, Awaited<ReturnType<typeof planOf>>>();

/** Runs it until it was struck at one statement; false where it came through before. */
async function tryOnce(shop: Shop, command: Command, { nth, kind }: { nth: number; kind: Kind }): Promise<boolean> {
  const { when, strike } = kind;
  const striking = strike === undefined ? {} : { strike: (pid: number) => strike(pid, shop) };
  const wire = await startWire({ databaseUrl: shop.url, at: { nth, when }, ...striking });
  const pool = createPool({ databaseUrl: wire.url });
  try {
    await command.run(pool, shop).catch((error: unknown) => {
      if (!wire.isStruck()) throw error;
      // Of the database, and in words: nobody is told of a mistake of our own.
      expect(toAppError(error).code).toMatch(/^DB_/);
    });
    return wire.isStruck();
  } finally {
    await pool.end();
    await wire.stop();
  }
}

async function catalogAfter(command: Command, strikes: Iterable<{ nth: number; kind: Kind }>) {
  const shop = await cloneShop(original);
  let struck = 0;
  try {
    await command.before(shop);
    for (const strike of strikes) {
      if (!(await tryOnce(shop, command, strike))) break;
      struck += 1;
    }
    await command.run(shop.pool, shop);
    return { struck, catalog: await catalogOf(shop) };
  } finally {
    await shop.drop();
  }
}

/** Ever later statements, struck in each of the ways by turns. */
function* spread(): Generator<{ nth: number; kind: Kind }> {
  for (let nth = 1; nth < MANY; nth *= GROWTH) {
    for (const kind of KINDS) yield { nth: Math.round(nth), kind };
  }
}

describe.each(COMMANDS)('$name, run again until it comes through', (command) => {
  let undisturbed: readonly string[];
  beforeAll(async () => {
    undisturbed = (await catalogAfter(command, [])).catalog;
  });

  it('ends in the catalog of an undisturbed run, however often it was struck before', async () => {
    const { struck, catalog } = await catalogAfter(command, spread());
    expect(struck).toBeGreaterThan(10);
    expect(changesOf(undisturbed, catalog)).toEqual([]);
  });

  it.each(FULL ? KINDS : [])(
    'ends in the catalog of an undisturbed run, at whichever statement $what',
    async (kind) => {
      let nth = 1;
      for (; ; nth += 1) {
        const { struck, catalog } = await catalogAfter(command, [{ nth, kind }]);
        expect([nth, changesOf(undisturbed, catalog)]).toEqual([nth, []]);
        if (struck === 0) break;
      }
      expect(nth).toBeGreaterThan(20);
    },
    LONG_MS,
  );
});
