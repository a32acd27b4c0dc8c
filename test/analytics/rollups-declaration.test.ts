import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyRollups, planRollups } from '../../src/analytics/rollups/apply.ts';
import { LIVENTIX_ROLLUPS, parseDeclarations, readDeclarations } from '../../src/analytics/rollups/declaration.ts';
import { removeRollups } from '../../src/analytics/rollups/remove.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createVisits, declare, visitsDeclaration } from '../support/rollups.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
  await createVisits(database.pool);
  await database.pool.query('create view site.seen as select * from site.visits');
});
afterAll(() => database.drop());

const rollup = visitsDeclaration();
const tables = { visits: ['site.visits'] };

describe('a declaration', () => {
  it('of the old platform is one', async () => {
    const { rollups, views } = await readDeclarations(LIVENTIX_ROLLUPS);
    expect(rollups.map(({ name }) => name)).toEqual(['event_daily', 'post_daily', 'campaign_daily', 'ticket_daily']);
    expect(views.map(({ name }) => name)).toEqual(['mv_event_daily_stats', 'mv_sponsor_performance']);
  });

  it.each([
    ['no JSON', '{', /is no JSON/],
    ['no object', '[]', /expected object/i],
    ['a key that nobody knows', { tables, rollups: [{ ...rollup, grup: [] }] }, /grup/],
    [
      'a name of SQL',
      { tables, rollups: [{ ...rollup, name: 'x; drop table y' }] },
      /rollups\.0\.name: is no name of a rollup/,
    ],
    ['a name that is too long', { tables, rollups: [{ ...rollup, name: 'x'.repeat(41) }] }, /at most 40/],
    ['no group', { tables, rollups: [{ ...rollup, group: [] }] }, /rollups\.0\.group/],
    ['a table without a schema', { tables: { visits: ['visits'] }, rollups: [] }, /no table with its schema/],
    [
      'a table that is not in tables',
      { tables: {}, rollups: [rollup] },
      /visits_daily is of visits, which is not in tables/,
    ],
    ['a rollup twice', { tables, rollups: [rollup, rollup] }, /visits_daily is there twice/],
    ['a column twice', { tables, rollups: [{ ...rollup, count: 'people' }] }, /the column people is there twice/],
    [
      'readers by what it is not grouped by',
      {
        tables,
        rollups: [{ ...rollup, readers: { some: [{ roles: ['anon'], column: 'person', among: ['select 1'] }] } }],
      },
      /readers of visits_daily go by person/,
    ],
  ])('with %s is refused', (_, file, says) => {
    const text = typeof file === 'string' ? file : JSON.stringify(file);
    expect(() => parseDeclarations(text, 'x.json')).toThrowError(
      expect.objectContaining({ code: 'ROLLUP_DECLARATION_INVALID', message: expect.stringMatching(says) }),
    );
  });

  it.each([
    ['a table that is none', { of: 'nowhere' }, /None of site\.nowhere is a table/],
    ['a view in place of a table', { of: 'seen' }, /None of site\.seen is a table/],
    [
      'columns that are not there, or of other types, all at once',
      {
        time: 'page',
        group: ['absent'],
        countIf: [{ name: 'x', column: 'ms' }],
        median: { name: 'm', column: 'person' },
      },
      /page is text, no timestamp with time zone; it has no column absent; ms is integer, no boolean; person is text, no number/,
    ],
    ['a zone that is none', { zone: 'Europe/Atlantis' }, /Europe\/Atlantis is no time zone/],
  ])('with %s is refused, and nothing is made', async (_, changes, says) => {
    const declarations = parseDeclarations(
      JSON.stringify({
        tables: { ...tables, nowhere: ['site.nowhere'], seen: ['site.seen'] },
        rollups: [{ ...rollup, ...changes }],
      }),
      'x.json',
    );
    await expect(applyRollups(database.pool, declarations, {})).rejects.toMatchObject({
      code: 'ROLLUP_DECLARATION_INVALID',
      message: expect.stringMatching(says),
    });
    expect((await database.pool.query('select from rollups.rollups')).rows).toEqual([]);
  });

  it('that names a role which is not there is made without it, and it is said which', async () => {
    const misspelt = { ...rollup, readers: { all: ['servce_role'] } };
    const view = {
      name: 'seen_pages',
      schema: 'site',
      unique: ['page'],
      readers: ['servce_role'],
      query: ['select distinct page from {visits}'],
    };
    const left = { rolesLeftOut: ['servce_role'] };
    expect(await applyRollups(database.pool, declare([misspelt], [view]), {})).toMatchObject([left, left]);
    expect(await planRollups(database.pool, declare([misspelt], [view]))).toMatchObject([left, left]);
    await removeRollups(database.pool, undefined);
  });

  it('that changed since is refused', async () => {
    await applyRollups(database.pool, declare([rollup]), {});
    expect(await planRollups(database.pool, declare([rollup]))).toMatchObject([{ status: 'already' }]);
    const changed = declare([{ ...rollup, zone: 'Europe/Berlin' }]);
    await expect(applyRollups(database.pool, changed, {})).rejects.toMatchObject({ code: 'ROLLUP_DIFFERS' });
  });
});
