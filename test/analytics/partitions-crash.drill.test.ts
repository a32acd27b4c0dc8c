import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { readFacts } from '../../src/analytics/partitions/facts.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import {
  cloneImpressions,
  convert,
  createImpressions,
  entryOf,
  type Impressions,
  NOW,
} from '../support/impressions.ts';
import { query } from '../support/query.ts';
import { type Point, startWire } from '../support/wire.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const LONG_MS = 2_700_000;
/** How much later each time. */
const GROWTH = FULL ? 1.08 : 3;
const MANY = 2_000;

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 400 });
  // One without an instant, and one far ahead: every part of the preparation has something to do.
  await original.pool.query(`
    alter table stats.impressions alter column seen_at drop not null;
    insert into stats.impressions (show_id, seen_at) values (1, null), (2, '2031-01-01')`);
});
afterAll(() => original.drop());

const ENTRY = { whenNull: `timestamptz '2026-02-02'` };

interface Kind {
  readonly what: string;
  readonly when: Point['when'];
  readonly endsBackend: boolean;
}

const KINDS: readonly Kind[] = [
  { what: 'its process is killed', when: 'during', endsBackend: false },
  { what: 'its backend is ended', when: 'during', endsBackend: true },
  { what: 'its backend is ended, and nobody is told that it was done', when: 'after', endsBackend: true },
];

interface Command {
  readonly name: string;
  before(impressions: Impressions): Promise<unknown>;
  run(pool: Pool): Promise<unknown>;
}

const COMMANDS: readonly Command[] = [
  {
    name: 'apply',
    before: async () => undefined,
    run: async (pool) => {
      const outcomes = await applyPartitions(pool, { entries: [entryOf(ENTRY)], now: NOW });
      expect(outcomes).toEqual([expect.not.objectContaining({ status: 'skipped' })]);
    },
  },
  {
    name: 'rollback',
    before: (impressions) => convert(impressions, ENTRY),
    run: async (pool) => {
      const outcomes = await rollBackPartitions(pool, { tables: [] });
      for (const outcome of outcomes) expect(outcome).not.toMatchObject({ status: 'skipped' });
    },
  },
];

/** Writes between the tries, as somebody would who notices nothing. */
const writeSome = ({ pool }: Impressions, nth: number) =>
  pool.query(
    `with changed as (update stats.impressions set dwell_ms = dwell_ms + 1 where dwell_ms % 7 = $1 % 7 and viewer_id is not null and seen_at < '2026-03-01' returning 1),
       gone as (delete from stats.impressions i where dwell_ms = 70000 + $1 and not exists (select from stats.clicks c where c.impression_id = i.id) returning 1)
     insert into stats.impressions (id, show_id, dwell_ms, seen_at, note) values (md5('between ' || $1)::uuid, 3, 2, timestamptz '2025-12-01' + make_interval(days => $1::int), 'between ' || $1)`,
    [nth],
  );

/** Runs it until it was struck at one statement; false where it came through before. */
async function tryOnce(
  impressions: Impressions,
  command: Command,
  nth: number,
  { when, endsBackend }: Kind,
): Promise<boolean> {
  const strike = endsBackend
    ? { strike: (pid: number) => query(impressions.adminUrl, `select pg_terminate_backend(${pid})`) }
    : {};
  const wire = await startWire({ databaseUrl: impressions.url, at: { nth, when }, ...strike });
  const pool = createPool({ databaseUrl: wire.url });
  try {
    await command.run(pool).catch((error: unknown) => {
      if (!wire.isStruck()) throw error;
      expect(toAppError(error).code).toMatch(/^(DB_|INTERNAL)/);
    });
    return wire.isStruck();
  } finally {
    await pool.end();
    await wire.stop();
  }
}

async function endOf({ pool }: Impressions) {
  const { rows } = await pool.query<{ row: string }>('select i::text as row from stats.impressions i order by 1');
  const { rows: ours } = await pool.query<{ relation: string }>(
    `select c.oid::regclass || ' ' || c.relkind::text as relation from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where (n.nspname = 'stats' or c.relname like 'staged%' or c.relname like 'follower%') and c.relkind in ('r', 'p', 'v', 'm', 'i', 'I') order by 1`,
  );
  const facts = await readFacts(pool, 'stats.impressions', 'seen_at');
  const {
    oid: _oid,
    fingerprint: _print,
    sizeBytes: _size,
    rowsEstimated: _rows,
    ...standing
  } = facts ?? expect.fail('no table');
  const { rows: left } = await pool.query(
    'select (select count(*) from partitions.captured) as captured, (select count(*) from partitions.copies) as copies',
  );
  return { rows, relations: ours, standing, left };
}

/** Strikes it, writes, runs it again. @param prepared where it can be run; it gets a copy */
async function runStruck(prepared: Impressions, command: Command, nth: number, kind: Kind) {
  const impressions = await cloneImpressions(prepared);
  try {
    const wasStruck = await tryOnce(impressions, command, nth, kind);
    await writeSome(impressions, 0);
    await command.run(impressions.pool);
    const faults = (await verifyPartitions(impressions.pool)).filter(
      ({ holds, check }) => !holds && check !== 'no row lies in no month',
    );
    return { wasStruck, faults, end: await endOf(impressions) };
  } finally {
    await impressions.drop();
  }
}

describe.each(COMMANDS)('$name, struck at a statement and run again', (command) => {
  let prepared: Impressions;
  beforeAll(async () => {
    prepared = await cloneImpressions(original);
    await command.before(prepared);
  });
  afterAll(() => prepared.drop());

  it(
    'ends as an undisturbed run does, wherever it was struck, with every row that was written meanwhile',
    async () => {
      const undisturbed = await undisturbedEnd(prepared, command);
      // In each of the ways, at length; else by turns.
      for (const kinds of FULL ? KINDS.map((kind) => [kind]) : [KINDS]) {
        let [point, turn, isThrough] = [1, 0, false];
        while (!isThrough && point < MANY) {
          const nth = Math.round(point);
          const kind = kinds[turn % kinds.length] ?? expect.fail('no kind');
          const { wasStruck, faults, end } = await runStruck(prepared, command, nth, kind);
          isThrough = !wasStruck;
          const where = { kind: kind.what, nth };
          expect({ ...where, faults, left: end.left }).toEqual({
            ...where,
            faults: [],
            left: [{ captured: 0n, copies: 0n }],
          });
          expect({ ...where, ...end }).toEqual({ ...where, ...undisturbed });
          point *= GROWTH;
          turn += 1;
        }
        expect(isThrough).toBe(true);
      }
    },
    FULL ? LONG_MS : 240_000,
  );
});

/** The same but for the strike. */
async function undisturbedEnd(prepared: Impressions, command: Command) {
  const impressions = await cloneImpressions(prepared);
  try {
    await writeSome(impressions, 0);
    await command.run(impressions.pool);
    return await endOf(impressions);
  } finally {
    await impressions.drop();
  }
}
