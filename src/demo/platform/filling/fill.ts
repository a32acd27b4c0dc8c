import type { Pool, Tx } from '../../../db/pool.ts';
import { withTransaction } from '../../../db/transaction.ts';
import { AppError } from '../../../errors.ts';
import { readCatalogue } from '../catalogue.ts';
import { ADVERTISING } from './advertising.ts';
import { settleCounters } from './counters.ts';
import { EVENTS } from './events.ts';
import { withoutIndexes } from './indexes.ts';
import { MESSAGES } from './messages.ts';
import { type Planned, planOf } from './plan.ts';
import { POSTS } from './posts.ts';
import type { Recipes } from './recipe.ts';
import { SPONSORS } from './sponsors.ts';
import { SPONSORSHIPS } from './sponsorships.ts';
import { SYSTEM } from './system.ts';
import { writeTable } from './table-writer.ts';
import { TENANTS } from './tenants.ts';
import { TICKETING } from './ticketing.ts';
import { TRAFFIC } from './traffic.ts';
import { withoutTriggers } from './triggers.ts';
import { drawsOf } from './values.ts';
import { type Given, readGiven, World } from './world.ts';

const RECIPES: Recipes = {
  ...TENANTS,
  ...EVENTS,
  ...TICKETING,
  ...POSTS,
  ...SPONSORS,
  ...SPONSORSHIPS,
  ...ADVERTISING,
  ...MESSAGES,
  ...TRAFFIC,
  ...SYSTEM,
};

const DEFAULT_ROWS = 60_000;
const LEAST_ROWS = 2_000;
const MOST_ROWS = 50_000_000;
/** A table with so many rows is indexed at the end. */
const LARGE_ROWS = 2_000;
const LEAST_PEOPLE = 20;
const LEAST_ORGANIZATIONS = 2;

export interface PlatformSize {
  /** Rows of all tables together, beside those of `fillLegacyDatabase`; 60,000 when left out. Small sizes give some more: no table stays empty. */
  readonly rows?: number;
  /** Any safe integer; 1 when left out. */
  readonly seed?: number;
}

export interface PlatformProgress {
  /** First the rows are written, then counted, then indexed where there are many. */
  readonly step: 'write' | 'count' | 'index';
  /** What is written now; of the last two steps, nothing. */
  readonly table?: string;
  /** Rows so far, and in all; of the last two steps, statements. */
  readonly done: number;
  readonly total: number;
}

export interface PlatformSummary {
  /** Rows written, by table, without its schema. */
  readonly rows: Readonly<Record<string, number>>;
  readonly total: number;
}

/**
 * Fills all the legacy tables that `fillLegacyDatabase`, which comes first, leaves empty, in one transaction: events of
 * organizations and of individuals, what is sold, said, sponsored, advertised and looked at. The same arguments on the
 * same rows give the same rows, byte for byte, on any server and at any time. Memory stays flat. The tables' own triggers
 * are off meanwhile, which locks those tables; the counters that they would have kept are written.
 * @throws AppError USAGE for a size that makes no sense, or users or organizations too few to play their parts;
 * DEMO_DATABASE_NOT_OURS when there are events already; STOPPED, with nothing written, after `stop`; DB_*
 */
export async function fillPlatform(
  pool: Pool,
  options: PlatformSize & { onProgress?: (progress: PlatformProgress) => void; stop?: AbortSignal } = {},
): Promise<PlatformSummary> {
  const { onProgress = () => undefined, stop, ...given } = options;
  const size = checkedSize(given);
  const catalogue = await readCatalogue();
  return withTransaction(pool, async (tx) => {
    await assertEmpty(tx);
    const world = new World(enough(await readGiven(tx)), size);
    const plan = planOf(world, RECIPES, catalogue);
    const total = plan.reduce((sum, { rows }) => sum + rows, 0);
    let done = 0;
    const tell = (progress: PlatformProgress) => {
      onProgress(progress);
      assertNotStopped(stop);
    };
    const write = async () => {
      for (const planned of plan) {
        const { name } = planned.table;
        const recipe = RECIPES[name];
        if (recipe === undefined) continue;
        const draws = drawsOf(planned.table, catalogue);
        await writeTable(tx, { world, planned, recipe, draws }, (rows) => {
          done += rows;
          tell({ step: 'write', table: name, done, total });
        });
      }
      await settleCounters(tx, (made) => tell({ step: 'count', ...made }));
    };
    const large = namesOf(plan.filter(({ rows }) => rows >= LARGE_ROWS));
    await withoutTriggers(tx, namesOf(plan), () =>
      withoutIndexes(tx, large, write, (made) => tell({ step: 'index', ...made })),
    );
    await analyze(tx, plan);
    return { rows: Object.fromEntries(plan.map(({ table, rows }) => [table.name, rows])), total };
  });
}

const namesOf = (plan: readonly Planned[]) => plan.map(({ table }) => table.name);

async function analyze(tx: Tx, plan: readonly Planned[]): Promise<void> {
  await tx.query(
    `analyze ${namesOf(plan)
      .map((name) => `public.${name}`)
      .join(', ')}`,
  );
}

function assertNotStopped(stop: AbortSignal | undefined): void {
  if (stop?.aborted !== true) return;
  throw new AppError(
    'STOPPED',
    `${String(stop.reason)} stopped the filling before its end. Nothing was written: run it again.`,
  );
}

function checkedSize(given: PlatformSize): Required<PlatformSize> {
  const size = { rows: given.rows ?? DEFAULT_ROWS, seed: given.seed ?? 1 };
  const bounds = [
    ['rows', LEAST_ROWS, MOST_ROWS],
    ['seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ] as const;
  for (const [name, least, most] of bounds) {
    const value = size[name];
    if (Number.isInteger(value) && value >= least && value <= most) continue;
    throw new AppError('USAGE', `${name} is ${value}: give a whole number from ${least} to ${most}.`);
  }
  return size;
}

function enough(given: Given): Given {
  const { people, organizations } = given;
  if (people.length >= LEAST_PEOPLE && organizations.length >= LEAST_ORGANIZATIONS) return given;
  throw new AppError(
    'USAGE',
    `The database has ${people.length} users and ${organizations.length} organizations: fill it with at least ${LEAST_PEOPLE} and ${LEAST_ORGANIZATIONS} first.`,
  );
}

async function assertEmpty(tx: Tx): Promise<void> {
  const { rows } = await tx.query<{ filled: boolean }>('select exists (select from public.events) as filled');
  if (rows[0]?.filled === false) return;
  throw new AppError(
    'DEMO_DATABASE_NOT_OURS',
    'The legacy tables of this database already hold events. Fill an empty database.',
  );
}
