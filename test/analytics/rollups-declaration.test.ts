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

  it('with what the server refuses is refused, by plan too, with each key of it at once, and nothing is made', async () => {
    await database.pool.query('create table site.documents (body json, person text, at timestamptz)');
    const among = { roles: ['anon'], column: 'page', among: ['select pge from {visits}'] };
    const broken = (name: string, changes: object) => ({ ...visitsDeclaration({ name }), ...changes });
    const of = (expression: string) => ({ distinct: { name: 'people', of: expression } });
    const view = (name: string, changes: object) => ({
      name,
      schema: 'site',
      unique: ['page'],
      query: ['select page, visits from {whole}'],
      ...changes,
    });
    const declarations = parseDeclarations(
      JSON.stringify({
        tables: { ...tables, documents: ['site.documents'] },
        rollups: [
          broken('whole', {}),
          broken('misspelt', of('coalesc(person)')),
          broken('columnless', of('coalesce(usr, session)')),
          broken('gathered', of('max(person)')),
          broken('manifold', of('unnest(array[person, session])')),
          broken('physical', of('ctid::text')),
          broken('nowhere', { schema: 'sites' }),
          broken('closed', { readers: { some: [among, among] } }),
          { name: 'unordered', schema: 'site', of: 'documents', time: 'at', group: ['body'], count: 'n', readers: {} },
        ],
        views: [
          view('fine', {}),
          view('of_misspelt', { query: ['select page from {misspelt}'] }),
          view('homeless', { schema: 'sites' }),
          view('unread', { query: ['selec page from {visits}'] }),
          view('strange', { query: ['select page from {guests}'] }),
          view('keyless', { unique: ['pages'] }),
        ],
      }),
      'x.json',
    );
    const refused = {
      code: 'ROLLUP_DECLARATION_INVALID',
      message: [
        'The rollup misspelt: distinct.of: function coalesc(text) does not exist (SQLSTATE 42883)',
        'The rollup columnless: distinct.of: column "usr" does not exist (SQLSTATE 42703)',
        'The rollup gathered: distinct.of: aggregate functions are not allowed in WHERE (SQLSTATE 42803)',
        'The rollup manifold: distinct.of: set-returning functions are not allowed in WHERE (SQLSTATE 0A000)',
        'The rollup physical: distinct.of: column "ctid" does not exist (SQLSTATE 42703)',
        'The rollup nowhere: schema: there is no schema sites',
        'The rollup closed: readers.some.0.among: column "pge" does not exist (SQLSTATE 42703); readers.some.1.among: column "pge" does not exist (SQLSTATE 42703)',
        'The rollup unordered: group.0: could not identify an ordering operator for type json (SQLSTATE 42883)',
        'The view homeless: schema: there is no schema sites',
        'The view unread: query: syntax error at or near "selec" (SQLSTATE 42601)',
        'The view strange: query: {guests} is not in tables',
        'The view keyless: unique: column "pages" does not exist (SQLSTATE 42703). See: liventix rollups plan --help',
      ].join('; '),
    };
    await expect(planRollups(database.pool, declarations)).rejects.toMatchObject(refused);
    await expect(applyRollups(database.pool, declarations, {})).rejects.toMatchObject(refused);
    const { rows } = await database.pool.query(
      `select to_regclass('site.whole') as whole, (select count(*)::int from pg_trigger where tgname like 'zz_liventix%') as triggers`,
    );
    expect(rows).toEqual([{ whole: null, triggers: 0 }]);
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
