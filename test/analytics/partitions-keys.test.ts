import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApplyOptions, applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { dropSetAside } from '../../src/analytics/partitions/clean.ts';
import { judgePartitions } from '../../src/analytics/partitions/diagnosis.ts';
import { makePlan } from '../../src/analytics/partitions/plan.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { readStatus } from '../../src/analytics/partitions/status.ts';
import type { Pool } from '../../src/db/pool.ts';
import { breakOff, countRows, faultsOf } from '../support/conversions.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { entryOf, NOW } from '../support/impressions.ts';
import { waitsForLock } from '../support/locks.ts';

// Keys beside a table that somebody stopped keeping, and what puts them right.

const ENTRY = entryOf({ table: 'app.visits', by: 'at', indexes: [] });
const MENDS = 'liventix partitions apply --table app.visits';
const apply = async (pool: Pool, options: Partial<ApplyOptions> = {}) =>
  (await applyPartitions(pool, { entries: [ENTRY], now: NOW, ...options }))[0];

let converted: TestDatabase;
beforeAll(async () => {
  converted = await createDatabase();
  const { pool } = converted;
  await pool.query(`
    create schema app;
    create table app.visits (id int primary key, ref text constraint visits_ref_key unique, at timestamptz not null);
    create table app.clicks (id int generated always as identity, visit int constraint clicks_visit_fkey references app.visits on delete cascade);
    insert into app.visits select n, 'r' || n, timestamptz '2026-01-01' + n * interval '2 hours' from generate_series(1, 900) n;
    insert into app.clicks (visit) values (8), (9), (10)`);
  expect(await apply(pool)).toMatchObject({ status: 'partitioned', mended: [] });
  await pool.end();
});
afterAll(() => converted.drop());

async function inClone(work: (pool: Pool) => Promise<void>): Promise<void> {
  const clone = await createDatabase({ template: converted.name });
  await work(clone.pool).finally(clone.drop);
}

const insert = (pool: Pool, id: number, ref = `r${id}`, at = '2026-02-02') =>
  pool.query('insert into app.visits (id, ref, at) values ($1, $2, $3)', [id, ref, at]);

/** What everybody says of it. */
const said = async (pool: Pool) => ({
  faults: (await faultsOf(pool)).flatMap(({ first }) => first),
  status: (await readStatus(pool)).tables[0]?.unkeptKeys,
  doctor: await judgePartitions(pool),
});

async function isWell(pool: Pool): Promise<void> {
  expect(await faultsOf(pool)).toEqual([]);
  expect((await judgePartitions(pool)).found).not.toContain('trigger');
  expect(await apply(pool)).toMatchObject({ status: 'already' });
  // A key is one, and the cascade goes on.
  await expect(insert(pool, 5001, 'r800')).rejects.toMatchObject({ code: '23505' });
  await insert(pool, 5002);
  await pool.query('insert into app.clicks (visit) values (5002)');
  await pool.query('delete from app.visits where id = 5002');
  expect(await countRows(pool, 'app.clicks where visit = 5002')).toBe(0);
}

describe('a trigger that keeps keys', () => {
  it.each([
    [
      'disabled',
      'alter table app.visits disable trigger liventix_keeps_key_1',
      'the trigger liventix_keeps_key_1 of app.visits, which keeps its keys (ref), is not enabled always',
    ],
    [
      'enabled again, but not always',
      'alter table app.visits disable trigger liventix_keeps_key_1',
      'the trigger liventix_keeps_key_1 of app.visits, which keeps its keys (ref), is not enabled always',
      'alter table app.visits enable trigger liventix_keeps_key_1',
    ],
    [
      'dropped',
      'drop trigger liventix_keeps_key_1 on app.visits',
      'app.visits has no trigger that keeps its keys (ref)',
    ],
  ])(
    'and was %s is named by verify, status and doctor, and put right by apply with its keys',
    (_what, sql, fault, then = 'select') =>
      inClone(async (pool) => {
        await pool.query(sql);
        await insert(pool, 2001);
        await pool.query(
          `delete from app.visits where id = 11; update app.visits set at = '2026-03-02' where id = 12; ${then}`,
        );
        expect(await said(pool)).toMatchObject({
          faults: expect.arrayContaining([expect.stringContaining(`${fault}: ${MENDS}`)]),
          status: [fault],
          doctor: { found: expect.stringContaining(fault), todo: expect.stringContaining(MENDS) },
        });
        expect(await apply(pool)).toMatchObject({
          status: 'mended',
          mended: [{ side: 'app.visits_by_ref', columns: ['ref'], unkept: [fault], written: 2, takenAway: 1 }],
        });
        await insert(pool, 11);
        await isWell(pool);
      }),
  );

  it('that was dropped leaves behind what is referred to, which stays', () =>
    inClone(async (pool) => {
      await pool.query('drop trigger liventix_keeps_key_0 on app.visits; delete from app.visits where id in (8, 15)');
      expect(await apply(pool)).toMatchObject({
        status: 'mended',
        mended: [{ columns: ['id'], written: 0, takenAway: 1 }],
      });
      expect(await countRows(pool, 'app.visits_by_id where id in (8, 15)')).toBe(1);
      await isWell(pool);
    }));

  it('and was disabled on a month alone is named, and put right', () =>
    inClone(async (pool) => {
      await pool.query('alter table app.visits_202602 disable trigger liventix_keeps_key_0');
      await insert(pool, 2001);
      const fault =
        'the trigger liventix_keeps_key_0 of app.visits_202602, which keeps its keys (id), is not enabled always';
      expect(await said(pool)).toMatchObject({
        faults: [
          `${fault}: ${MENDS}, with the mapping that has it, puts that right`,
          expect.stringContaining('app.visits_by_id lacks (2001,'),
        ],
        doctor: { found: expect.stringContaining(fault) },
      });
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ unkept: [fault], written: 1 }] });
      await isWell(pool);
    }));

  it('and empties them with the table is put back too', () =>
    inClone(async (pool) => {
      await pool.query('drop trigger liventix_keeps_key_1_emptied on app.visits');
      expect(await said(pool)).toMatchObject({ status: ['app.visits has no trigger that empties its keys (ref)'] });
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ written: 0, takenAway: 0 }] });
      await isWell(pool);
      await pool.query('drop table app.clicks; truncate app.visits');
      expect(await countRows(pool, 'app.visits_by_ref')).toBe(0);
    }));

  it('and empties them before the TRUNCATE, as a former release had it, is put right: what refers to the table goes with it', () =>
    inClone(async (pool) => {
      await pool.query(`drop trigger liventix_keeps_key_0_emptied on app.visits;
        create trigger liventix_keeps_key_0_emptied before truncate on app.visits for each statement execute function partitions.empty_keys('"app"."visits_by_id"')`);
      await expect(pool.query('truncate app.visits, app.clicks')).rejects.toMatchObject({ code: '0A000' });
      expect((await said(pool)).status).toEqual([expect.stringContaining('fires before the TRUNCATE')]);
      expect(await apply(pool)).toMatchObject({ status: 'mended' });
      await pool.query('truncate app.visits, app.clicks');
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('takes nothing away by a TRUNCATE of what a policy hides from the owner too', () =>
    inClone(async (pool) => {
      await pool.query(
        'alter table app.clicks enable row level security; alter table app.clicks force row level security',
      );
      await expect(pool.query('truncate app.visits')).rejects.toMatchObject({ code: '42501' });
      await pool.query('alter table app.clicks no force row level security');
      expect(await countRows(pool, 'app.clicks')).toBe(3);
    }));

  it('is not put back over keys that are there twice, which are named, and nothing is done by halves', () =>
    inClone(async (pool) => {
      await pool.query(
        'alter table app.visits disable trigger liventix_keeps_key_1; drop trigger liventix_keeps_key_0 on app.visits',
      );
      for (const [nth, ref] of ['same', 'same', 'r17'].entries()) await insert(pool, 2001 + nth, ref);
      expect(await apply(pool)).toMatchObject({
        status: 'skipped',
        reasons: [
          expect.stringMatching(
            /^\(ref\) of app\.visits is to be there once over all months, and 2 are there more than once: \((r17\), \(same|same\), \(r17)\)\. /,
          ),
        ],
      });
      expect(await countRows(pool, 'app.visits_by_ref')).toBe(900);
      expect(await countRows(pool, 'app.visits_by_id')).toBe(900);
      expect((await said(pool)).status).toHaveLength(2);
      await pool.query('delete from app.visits where id in (2001, 2003)');
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ written: 1 }, { written: 1 }] });
      await isWell(pool);
    }));
});

describe('a table of keys that somebody dropped', () => {
  const fault =
    'app.visits_by_ref, which keeps the keys (ref) of app.visits, is gone: rows that are written are refused';

  it('is named by verify, status and doctor, and is there again by apply, with its keys', () =>
    inClone(async (pool) => {
      await pool.query('drop table app.visits_by_ref');
      await expect(insert(pool, 2001)).rejects.toMatchObject({ code: '42P01' });
      expect(await said(pool)).toMatchObject({
        faults: [`${fault}: ${MENDS}, with the mapping that has it, puts that right`],
        status: [fault],
        doctor: { result: 'failed', found: expect.stringContaining(fault), todo: expect.stringContaining(MENDS) },
      });
      await pool.query('call partitions.maintain()');
      expect(await apply(pool)).toMatchObject({
        status: 'mended',
        mended: [{ side: 'app.visits_by_ref', columns: ['ref'], unkept: [fault], written: 900, takenAway: 0 }],
      });
      expect(await countRows(pool, 'partitions.open_to_others((select id from partitions.tables))')).toBe(0);
      await isWell(pool);
    }));

  it('of a table without rows is there again too', () =>
    inClone(async (pool) => {
      await pool.query('truncate app.visits, app.clicks; drop table app.visits_by_ref');
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ columns: ['ref'], written: 0 }] });
      await insert(pool, 1);
      await insert(pool, 800);
      await isWell(pool);
    }));

  it('is not there before it has all keys: a row whose key is there is refused until then, and after', () =>
    inClone(async (pool) => {
      await pool.query('drop table app.visits_by_ref');
      const other = await pool.connect();
      try {
        await other.query('begin; select from app.visits where id = 800 for update');
        expect(await apply(pool, { maxTries: 1 })).toMatchObject({
          status: 'skipped',
          reasons: [expect.stringContaining('was in use each of 1 times')],
        });
        expect((await said(pool)).status).toEqual([fault]);
        await expect(insert(pool, 2001, 'r20')).rejects.toMatchObject({ code: '42P01' });
        await other.query('rollback');
      } finally {
        other.release();
      }
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ written: 900 }] });
      await expect(insert(pool, 2001, 'r20')).rejects.toMatchObject({ code: '23505' });
      expect(await countRows(pool, `pg_class where relname like 'visits_by_ref%_again'`)).toBe(0);
      await isWell(pool);
    }));

  it('is not there again while keys of another are there twice, which are named first', () =>
    inClone(async (pool) => {
      await pool.query('alter table app.visits disable trigger liventix_keeps_key_1; drop table app.clicks');
      await insert(pool, 2001, 'r20');
      await pool.query('drop table app.visits_by_id');
      expect(await apply(pool)).toMatchObject({
        status: 'skipped',
        reasons: [
          expect.stringMatching(/^\(ref\) of app\.visits is to be there once .*: its keys are not mended before\.$/),
        ],
      });
      expect(await countRows(pool, `pg_class where relname like 'visits_by_id%'`)).toBe(0);
    }));
});

describe('a table of keys that somebody renamed', () => {
  const RENAMES = `alter table app.visits_by_id rename to ids; create schema lost; alter table app.ids set schema lost`;
  const refersAgain = async (pool: Pool) => {
    await insert(pool, 5003);
    await pool.query('insert into app.clicks (visit) values (5003); delete from app.visits where id in (8, 5003)');
    expect(await countRows(pool, 'app.clicks')).toBe(2);
  };

  it('has its name again by apply, with what refers to it', () =>
    inClone(async (pool) => {
      await pool.query(RENAMES);
      const fault =
        'app.visits_by_id, which keeps the keys (id) of app.visits, is called lost.ids by now: rows that are written are refused';
      expect((await said(pool)).status).toEqual([fault]);
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ unkept: [fault], written: 0 }] });
      await refersAgain(pool);
      await isWell(pool);
    }));

  it('has it on the way back: no foreign key is lost', () =>
    inClone(async (pool) => {
      await pool.query(RENAMES);
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
      await refersAgain(pool);
    }));
});

describe('a conversion that was broken off', () => {
  const breaks = (pool: Pool) => breakOff(pool, 'building indexes', { entries: [ENTRY] });
  const inPlain = async (work: (pool: Pool) => Promise<void>) =>
    inClone(async (pool) => {
      await rollBackPartitions(pool, { tables: [] });
      await dropSetAside(pool, {});
      await breaks(pool);
      await work(pool);
    });

  it('has its keys put right when it is gone on with, before nothing else keeps them', () =>
    inPlain(async (pool) => {
      const fault = 'the trigger liventix_keeps_key_1 of app.visits, which keeps its keys (ref), is not enabled always';
      await pool.query('alter table app.visits disable trigger liventix_keeps_key_1');
      await insert(pool, 2001);
      expect(await said(pool)).toMatchObject({
        status: [fault],
        doctor: { result: 'failed', found: expect.stringContaining(fault) },
      });
      expect(await apply(pool)).toMatchObject({ status: 'partitioned', mended: [{ unkept: [fault], written: 1 }] });
      await expect(insert(pool, 2002, 'r2001')).rejects.toMatchObject({ code: '23505' });
      await isWell(pool);
    }));

  it('lacks no key of a row that has no instant yet', () =>
    inClone(async (pool) => {
      await rollBackPartitions(pool, { tables: [] });
      await dropSetAside(pool, {});
      await pool.query(
        'alter table app.visits alter column at drop not null; update app.visits set at = null where id = 7',
      );
      const entries = [{ ...ENTRY, whenNull: `timestamptz '2026-02-02'` }];
      await breakOff(pool, 'keeping keys of app.visits', { entries });
      expect(await countRows(pool, 'app.visits_by_id where at is null')).toBe(1);
      expect(await apply(pool, { entries })).toMatchObject({ status: 'partitioned', mended: [] });
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('has a table of keys again that was dropped meanwhile', () =>
    inPlain(async (pool) => {
      await pool.query('drop table app.visits_by_id cascade');
      await expect(insert(pool, 2001)).rejects.toMatchObject({ code: '42P01' });
      expect((await judgePartitions(pool)).result).toBe('failed');
      expect(await apply(pool)).toMatchObject({ status: 'partitioned', mended: [{ columns: ['id'], written: 900 }] });
      await isWell(pool);
    }));
});

describe('policies that hold for the owner of what refers to a table', () => {
  const FORCES = 'alter table app.clicks enable row level security; alter table app.clicks force row level security';
  it('keep nobody from what does not concern its keys, and are named where they do', () =>
    inClone(async (pool) => {
      await pool.query(FORCES);
      expect(await apply(pool)).toMatchObject({ status: 'already' });
      await pool.query(`alter table app.visits disable trigger liventix_keeps_key_0; delete from app.visits where id = 20;
        alter table app.visits enable always trigger liventix_keeps_key_0`);
      expect(await apply(pool)).toMatchObject({
        status: 'skipped',
        reasons: [expect.stringMatching(/policy for table "clicks".*BYPASSRLS/)],
      });
    }));

  it('keep a plain table from being converted, which the plan says', () =>
    inClone(async (pool) => {
      await rollBackPartitions(pool, { tables: [] });
      await dropSetAside(pool, {});
      await pool.query(FORCES);
      const forced = expect.stringContaining(
        'Policies of app.clicks, which refers to app.visits, hold for its owner too',
      );
      expect(await makePlan(pool, [ENTRY], NOW)).toMatchObject([
        {
          status: 'blocked',
          findings: expect.arrayContaining([{ severity: 'blocks', finding: 'forced', text: forced }]),
        },
      ]);
      expect(await apply(pool)).toMatchObject({ status: 'skipped', reasons: [forced] });
    }));
});

it('triggers that keep keys stay behind with the months on the way back, whatever they are called by now', () =>
  inClone(async (pool) => {
    await pool.query(`alter trigger liventix_keeps_key_1 on app.visits rename to keeps_ref;
      alter trigger liventix_keeps_key_1_emptied on app.visits rename to empties_ref`);
    expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
    expect(await countRows(pool, `pg_trigger where tgrelid = 'app.visits'::regclass and not tgisinternal`)).toBe(0);
    await insert(pool, 2001);
  }));

describe('keys', () => {
  it('that were not kept for a while, by a trigger that is as it is to be again, are written down and taken away', () =>
    inClone(async (pool) => {
      await pool.query('alter table app.visits disable trigger liventix_keeps_key_1');
      await insert(pool, 2001);
      await pool.query(
        `delete from app.visits where id = 11; alter table app.visits enable always trigger liventix_keeps_key_1`,
      );
      expect((await said(pool)).faults).toEqual([
        expect.stringMatching(new RegExp(`^app\\.visits_by_ref lacks \\(2001,.*: ${MENDS}`)),
        expect.stringMatching(new RegExp(`^app\\.visits_by_ref has .*r11.* else ${MENDS}`)),
      ]);
      expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ unkept: [], written: 1, takenAway: 1 }] });
      await isWell(pool);
    }));

  it('of a month that was dropped by hand are taken away, but for what is referred to', () =>
    inClone(async (pool) => {
      const gone = (await countRows(pool, 'app.visits_202601')) ?? 0;
      await pool.query('drop table app.visits_202601');
      await expect(insert(pool, 31)).rejects.toMatchObject({ code: '23505' });
      expect(await apply(pool)).toMatchObject({
        status: 'mended',
        mended: [
          { columns: ['id'], takenAway: gone - 3 },
          { columns: ['ref'], takenAway: gone },
        ],
      });
      await insert(pool, 31);
      await pool.query(`call partitions.maintain('command', $1)`, [NOW]);
      await isWell(pool);
    }));

  it('that somebody is about to write again are left to him', () =>
    inClone(async (pool) => {
      await pool.query('drop table app.visits_202601; delete from app.clicks');
      const other = await pool.connect();
      try {
        await other.query(`begin; select from app.visits_by_id where id = 30 for key share`);
        expect(await apply(pool)).toMatchObject({
          status: 'skipped',
          reasons: [expect.stringContaining('are held by somebody')],
        });
        await other.query('insert into app.visits select 30, ref, at from app.visits_by_ref where ref = $1', ['r30']);
        await other.query('commit');
      } finally {
        other.release();
      }
      expect(await countRows(pool, 'app.visits_by_id where id < 100')).toBe(1);
    }));

  it.each([
    ['key', `ref = 'new'`],
    ['instant', `at = '2026-02-20'`],
  ])(
    'of a row whose %s somebody changes wait for him, for a moment at a time, and are what the row says then',
    (_what, sets) =>
      inClone(async (pool) => {
        await pool.query(`delete from app.visits_by_ref where ref = 'r20'`);
        const other = await pool.connect();
        try {
          await other.query(`begin; update app.visits set ${sets} where id = 20`);
          expect(await apply(pool, { maxTries: 1 })).toMatchObject({
            status: 'skipped',
            reasons: [expect.stringContaining('was in use each of 1 times')],
          });
          await other.query('commit');
        } finally {
          other.release();
        }
        expect(await faultsOf(pool)).toEqual([]);
        expect(await apply(pool)).toMatchObject({ status: 'already' });
      }),
  );
});

it('Ctrl-C ends the taking away of keys at once', () =>
  inClone(async (pool) => {
    await pool.query(`drop table app.visits_202601;
      create function app.waits() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(77); return old; end $$;
      create trigger waits before delete on app.visits_by_ref for each row execute function app.waits()`);
    const other = await pool.connect();
    const stop = new AbortController();
    try {
      await other.query('select pg_advisory_lock(77)');
      const applying = apply(pool, { stop: stop.signal });
      await waitsForLock(pool, 'take_keys_away');
      stop.abort('SIGINT');
      await expect(applying).rejects.toMatchObject({ code: 'STOPPED' });
    } finally {
      other.release(true);
    }
    await pool.query('drop trigger waits on app.visits_by_ref');
    expect(await apply(pool)).toMatchObject({ status: 'mended', mended: [{ columns: ['ref'] }] });
  }));

describe('a month that somebody opened', () => {
  it('by its own name is named by verify and doctor, with what closes it: a warning, where a trigger that keeps keys is more', () =>
    inClone(async (pool) => {
      await pool.query('call partitions.maintain()');
      expect(await judgePartitions(pool)).toMatchObject({ result: 'ok' });
      await pool.query(
        'alter table app.visits_202601 disable row level security; grant select (ref), truncate on app.visits_202602 to public',
      );
      const closes = (month: string) => `The owner closes it: select partitions.close_to_others('app.visits_${month}')`;
      const { faults, doctor } = await said(pool);
      expect(faults).toEqual([
        `app.visits_202601 has no row security. ${closes('202601')}`,
        `app.visits_202602 gives rights to public. ${closes('202602')}`,
      ]);
      expect(doctor).toEqual({
        result: 'warning',
        found: 'app.visits_202601 has no row security; app.visits_202602 gives rights to public',
        todo: `${closes('202601')}. ${closes('202602')}.`,
      });
      await pool.query(
        `select partitions.close_to_others('app.visits_202601'), partitions.close_to_others('app.visits_202602')`,
      );
      expect(await faultsOf(pool)).toEqual([]);
      await pool.query('alter table app.visits disable trigger liventix_keeps_key_0');
      expect(await judgePartitions(pool)).toMatchObject({ result: 'failed' });
    }));
});
