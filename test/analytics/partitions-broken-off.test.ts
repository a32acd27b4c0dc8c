import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { judgePartitions } from '../../src/analytics/partitions/diagnosis.ts';
import { makePlan } from '../../src/analytics/partitions/plan.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { breakOff, countRows, during, faultsOf, whileIndexesWait } from '../support/conversions.ts';
import { asSuperuser } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  convert,
  convertAt,
  createImpressions,
  entryOf,
  type Impressions,
  inCloneOf,
  NOW,
} from '../support/impressions.ts';
import { waitsForLock } from '../support/locks.ts';

// What others do, or time does, while a conversion is under way or lies broken off.

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
});
afterAll(() => original.drop());

const conversion = { entries: [entryOf()], now: NOW };
const inClone = (work: (impressions: Impressions) => Promise<void>) => inCloneOf(original, work);

describe('a column that a table gets while its rows are copied', () => {
  const changed = [expect.stringContaining('was changed while its rows were copied')];
  const add = (pool: Pool) => () => pool.query(`alter table stats.impressions add column extra text default 'there'`);

  it('is not lost: it is left, and copied anew by the next run', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      expect(await whileIndexesWait(impressions, () => applyPartitions(pool, conversion), add(pool))).toMatchObject([
        { status: 'skipped', reasons: changed },
      ]);
      await convertAt(pool, NOW);
      expect(await countRows(pool, `stats.impressions where extra = 'there'`)).toBe(300);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('is not lost on the way back either', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      expect(
        await whileIndexesWait(impressions, () => rollBackPartitions(pool, { tables: [] }), add(pool)),
      ).toMatchObject([{ status: 'skipped', reasons: changed }]);
      expect(await faultsOf(pool)).toEqual([]);
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
      expect(await countRows(pool, `stats.impressions where extra = 'there'`)).toBe(300);
    }));
});

describe('rows that lie in no month, more than the upkeep moves under a lock', () => {
  const stray = (pool: Pool, month: string) =>
    pool.query(
      `insert into stats.impressions (show_id, seen_at) select 1, $1::timestamptz + n * interval '1 minute' from generate_series(1, 5001) n`,
      [month],
    );

  it('are sorted by apply, beside whoever writes, as often as there are some, and come back', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      // Without a table of keys, which takes most of the time.
      await pool.query('drop table stats.clicks');
      await convert(impressions);
      await stray(pool, '2026-09-01');
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2099-01-01')`);
      await pool.query(`call partitions.maintain('command', '2026-09-10')`);
      expect(await countRows(pool, `partitions.log where detail like '%liventix partitions apply sorts them%'`)).toBe(
        1,
      );
      const later = new Date('2026-09-10T00:00:00Z');
      const write = () => pool.query(`insert into stats.impressions (show_id, seen_at) values (2, '2026-09-09')`);
      const { onStep, ended } = during('copying', write);
      expect(await applyPartitions(pool, { entries: [entryOf()], now: later, onStep })).toMatchObject([
        { status: 'sorted', lockedMs: [expect.any(Number)] },
      ]);
      await ended();
      expect(await countRows(pool, 'stats.impressions_202609')).toBe(5_002);
      expect(await faultsOf(pool)).toMatchObject([
        { check: 'no row lies in no month', faults: 1n, first: [expect.stringContaining('1 rows')] },
      ]);
      expect(await applyPartitions(pool, { entries: [entryOf()], now: later })).toMatchObject([{ status: 'already' }]);
      await stray(pool, '2027-09-01');
      await convertAt(pool, new Date('2027-09-10T00:00:00Z'));
      expect(await countRows(pool, 'stats.impressions_202709')).toBe(5_001);
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
      expect(await countRows(pool)).toBe(300 + 5_001 * 2 + 2);
    }));
});

describe('a conversion that was broken off', () => {
  it('refuses nobody when the month comes in which the past was to end: the upkeep opens it', () =>
    inClone(async ({ pool }) => {
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past');
      const late = `insert into stats.impressions (show_id, seen_at) values (1, '2026-04-02')`;
      await expect(pool.query(late)).rejects.toMatchObject({ code: '23514' });
      expect(await judgePartitions(pool)).toMatchObject({
        result: 'warning',
        found: expect.stringMatching(
          /^the conversion of stats.impressions, begun .*, was broken off, whose check refuses rows of 2026-04-01 and later/,
        ),
      });
      await pool.query(`call partitions.maintain('worker', '2026-03-29')`);
      await expect(pool.query(late)).rejects.toMatchObject({ code: '23514' });
      await pool.query(`call partitions.maintain('worker', '2026-03-30')`);
      await pool.query(late);
      await convertAt(pool, new Date('2026-04-03T00:00:00Z'));
      expect(await countRows(pool)).toBe(301);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('ends the past elsewhere when it goes on after that', () =>
    inClone(async ({ pool }) => {
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past');
      await convertAt(pool, new Date('2026-03-28T00:00:00Z'));
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2026-04-02'), (1, '2026-05-02')`);
      expect(await faultsOf(pool)).toEqual([]);
      expect(await judgePartitions(pool)).toMatchObject({ found: expect.not.stringContaining('broken off') });
    }));

  it('and whose table was renamed since is not gone on with by another of its name; given up, it refuses nothing more', () =>
    inClone(async ({ pool }) => {
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past');
      await pool.query('alter table stats.impressions rename to seen');
      await pool.query(
        'create table stats.impressions (id int primary key, show_id int, seen_at timestamptz not null)',
      );
      const late = `insert into stats.seen (show_id, seen_at) values (1, '2026-04-02')`;
      const lost = expect.stringContaining('nothing that bears its name is any more');
      await expect(pool.query(late)).rejects.toMatchObject({ code: '23514' });
      expect(await applyPartitions(pool, conversion)).toMatchObject([{ status: 'skipped', reasons: [lost] }]);
      expect(await judgePartitions(pool)).toMatchObject({
        found:
          'stats.impressions is gone, whose conversion was broken off: where it is called otherwise now, its check refuses rows of 2026-04-01 and later',
        todo: lost,
      });
      await pool.query('call partitions.maintain()');
      expect(await countRows(pool, 'partitions.log')).toBe(0);
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'given up', left: [] }]);
      await pool.query(late);
      expect(
        await countRows(pool, `pg_trigger where tgrelid = 'stats.seen'::regclass and tgname like 'liventix_keeps%'`),
      ).toBe(0);
      expect(await applyPartitions(pool, conversion)).toMatchObject([{ status: 'partitioned' }]);
      expect(await countRows(pool, 'stats.seen')).toBe(301);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('and whose table was renamed and has its name again is gone on with', () =>
    inClone(async ({ pool }) => {
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past');
      await pool.query('alter table stats.impressions rename to seen; alter table stats.seen rename to impressions');
      await convertAt(pool, NOW);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('in the midst of copying is told of, unless somebody is at it', () =>
    inClone(async ({ pool }) => {
      await breakOff(pool, 'taking what changed');
      await pool.query(`update stats.impressions set note = 'changed'`);
      expect(await judgePartitions(pool)).toMatchObject({
        found: expect.stringContaining(
          'the rows of stats.impressions were being copied, 300 changes wait, and nobody is at it',
        ),
        todo: expect.stringContaining(
          'Go on, with the mapping that has it: liventix partitions apply --table stats.impressions.',
        ),
      });
      const run = await pool.connect();
      await run.query(`select pg_advisory_lock(hashtext('liventix.partitions'), 0)`);
      // Who was at it is done while it is looked at.
      const query = async (text: string, values?: unknown[]) => {
        const result = await pool.query(text, values);
        if (text.includes('from partitions.copies')) await run.query('select pg_advisory_unlock_all()');
        return result;
      };
      expect((await judgePartitions({ query } as Queryable)).found).not.toContain('nobody is at it');
      run.release();
      const { onStep, ended } = during('comparing', async () =>
        expect((await judgePartitions(pool)).found).not.toContain('nobody is at it'),
      );
      await applyPartitions(pool, { entries: [entryOf()], now: NOW, onStep });
      await ended();
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('on the way back is told of with that way first, be the table a plain one again', () =>
    inClone(async ({ pool }) => {
      await convertAt(pool, NOW);
      const breakOffBack = async (step: string) => {
        const stop = new AbortController();
        const onStep = (what: string) => what.startsWith(step) && stop.abort('SIGINT');
        await expect(rollBackPartitions(pool, { tables: [], stop: stop.signal, onStep })).rejects.toMatchObject({
          code: 'STOPPED',
        });
        expect(await judgePartitions(pool)).toMatchObject({
          todo: expect.stringMatching(/Go on: liventix partitions rollback --table stats\.impressions\. Or keep/),
        });
      };
      await breakOffBack('building');
      // The materialized view is filled anew when the table is a plain one.
      await breakOffBack('filling');
      expect((await judgePartitions(pool)).found).toBe(
        'the way back of stats.impressions was broken off when it was a plain table again',
      );
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'given up' }]);
    }));

  it('while an index waits for somebody is stopped at once', () =>
    inClone(async ({ pool }) => {
      const other = await pool.connect();
      // Whoever builds an index beside others waits for those who have begun to read, whatever they read.
      await other.query('begin isolation level repeatable read; select from public.shows');
      await stopDuring(pool, 'index concurrently', (stop) => applyPartitions(pool, { ...conversion, stop }));
      await other.query('rollback');
      other.release();
      await convertAt(pool, NOW);
    }));

  const hold = `begin perform set_config('lock_timeout', '0', true), pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1)`;
  it.each([
    [
      'a materialized view is filled',
      'refresh materialized view',
      ({ pool }: Impressions) =>
        pool.query(`create function public.hold() returns int language plpgsql as $$ ${hold}; return 1; end $$;
          create materialized view stats.slow as select public.hold() as held, count(*) as views from stats.impressions`),
    ],
    [
      'rows are read for a constraint',
      'validate constraint',
      (impressions: Impressions) =>
        asSuperuser(
          impressions,
          `create function public.hold() returns event_trigger language plpgsql as $$ ${hold} where current_query() like '%validate constraint%'; end $$;
           create event trigger holds on ddl_command_start when tag in ('ALTER TABLE') execute function public.hold()`,
        ),
    ],
  ])('while %s is stopped at once', (_what, statement, prepare) =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await prepare(impressions);
      const other = await pool.connect();
      await other.query('select pg_advisory_lock(1)');
      await stopDuring(pool, statement, (stop) => applyPartitions(pool, { ...conversion, stop }));
      await other.query('select pg_advisory_unlock(1)');
      other.release();
    }),
  );

  it('while both sides are compared is stopped at once', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      const other = await pool.connect();
      const lock = () => other.query('begin; lock table stats.impressions_past in access exclusive mode');
      await stopDuring(pool, 'hashtextextended', (stop) =>
        whileIndexesWait(impressions, () => applyPartitions(pool, { ...conversion, stop }), lock),
      );
      await other.query('rollback');
      other.release();
    }));
});

/** Stops what is run while a statement of that text waits, which would wait on. */
async function stopDuring(pool: Pool, statement: string, run: (stop: AbortSignal) => Promise<unknown>): Promise<void> {
  const stop = new AbortController();
  const refused = expect(run(stop.signal)).rejects.toMatchObject({ code: 'STOPPED' });
  await waitsForLock(pool, statement);
  stop.abort('SIGINT');
  await refused;
}

describe('a run of which somebody ended the session that keeps others away', () => {
  const waiting = `pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'create%index%'`;

  it('does nothing more, and says why: the next one is alone, and goes on', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      const end = async () => {
        await pool.query(
          `select pg_terminate_backend(l.pid) from pg_locks l where l.locktype = 'advisory' and l.classid::int8 = hashtext('liventix.partitions')::int8 & 4294967295
             and l.database = (select oid from pg_database where datname = current_database())`,
        );
        await eventually('it ends', async () => (await countRows(pool, waiting)) === 0, 5_000);
      };
      await expect(whileIndexesWait(impressions, () => applyPartitions(pool, conversion), end)).rejects.toMatchObject({
        code: 'DB_UNREACHABLE',
        message: expect.stringMatching(/kept other runs away was lost \(terminating connection .* Run it again/),
      });
      await convertAt(pool, NOW);
      expect(await faultsOf(pool)).toEqual([]);
    }));
});

describe('what a conversion changed of rows is taken back where nobody changed it since', () => {
  it('be it an instant that they had not', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(
        `alter table stats.impressions alter column seen_at drop not null;
         insert into stats.impressions (show_id, seen_at) select n, null from generate_series(1, 3) n`,
      );
      const entry = entryOf({ whenNull: `timestamptz '2026-01-01' + t.show_id * interval '1 day'` });
      expect(
        await whileIndexesWait(
          impressions,
          () => applyPartitions(pool, { entries: [entry], now: NOW }),
          () => pool.query('insert into stats.impressions (show_id, seen_at) values (4, null)'),
        ),
      ).toMatchObject([{ status: 'partitioned' }]);
      await pool.query(`update stats.impressions set seen_at = '2026-02-02' where seen_at = '2026-01-03'`);
      await rollBackPartitions(pool, { tables: [] });
      const { rows } = await pool.query('select show_id from stats.impressions where seen_at is null order by 1');
      expect(rows).toEqual([{ show_id: 1 }, { show_id: 3 }, { show_id: 4 }]);
      expect(await countRows(pool, `stats.impressions where seen_at = '2026-02-02'`)).toBe(1);
    }));

  it('or rows that came from a table of copies, while that is there', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(
        `create table stats.impressions_p (like stats.impressions);
         insert into stats.impressions_p (id, show_id, dwell_ms, seen_at, note) select gen_random_uuid(), n, 0, '2026-01-01', n from generate_series(1, 3) n`,
      );
      await convert(impressions, { copies: [{ table: 'stats.impressions_p', rows: 'take' }] });
      expect(await countRows(pool)).toBe(303);
      await pool.query(`update stats.impressions set note = 'edited' where note = '2'`);
      await rollBackPartitions(pool, { tables: [] });
      expect((await pool.query(`select note from stats.impressions where note is not null`)).rows).toEqual([
        { note: 'edited' },
      ]);
    }));
});

it('a key that is there in two months keeps a table from going back, and is named', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await pool.query('drop table stats.clicks');
    await convert(impressions);
    const { rows } = await pool.query<{ id: string }>(
      `insert into stats.impressions (id, show_id, seen_at) select id, 1, '2026-05-05' from stats.impressions limit 1 returning id`,
    );
    const id = rows[0]?.id;
    expect(await faultsOf(pool)).toMatchObject([{ first: [`stats.impressions has 2 rows with (id) = (${id})`] }]);
    expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([
      { status: 'skipped', reasons: [expect.stringContaining(`Key (id)=(${id}) is duplicated.`)] },
    ]);
    await pool.query(`delete from stats.impressions where id = $1 and seen_at = '2026-05-05'`, [id]);
    expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
  }));

it('a view that groups by the primary key alone is named by the plan, as it stands on that', () =>
  inClone(async ({ pool }) => {
    await pool.query('create view stats.grouped as select id, note from stats.impressions group by id');
    const [planned] = await makePlan(pool, [entryOf()], NOW);
    expect(planned).toMatchObject({
      status: 'blocked',
      findings: expect.arrayContaining([
        expect.objectContaining({ finding: 'depends', text: expect.stringContaining('stats.grouped') }),
      ]),
    });
  }));
