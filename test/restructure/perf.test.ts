import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import type { Recording, Result } from '../../src/restructure/perf/recording.ts';
import { asSuperuser, createDatabase, EMPTY, type TestDatabase, templateOf } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix } from '../support/liventix.ts';

// `liventix restructure perf …` on a small shop: what became of its dashboards.

const ROWS = 100_000;

/** Views of things by day; `things_daily` is what the other query asks. */
const SHOP = `
  create table views (id integer primary key, thing integer not null, seen_at timestamptz not null, dwell integer);
  insert into views select n, n % 30000, timestamptz '2026-01-01 UTC' + n * interval '1 minute', n % 17 from generate_series(1, ${ROWS}) n;
  create index views_thing on views (thing);
  create index views_never on views (dwell, seen_at);
  create table parts (id integer not null, seen_at date not null) partition by range (seen_at);
  create table parts_1 partition of parts for values from ('2026-01-01') to ('2026-02-01');
  create table parts_2 partition of parts for values from ('2026-02-01') to ('2026-03-01');
  create table parts_3 partition of parts for values from ('2026-03-01') to ('2026-04-01');
  create index parts_by_id on parts (id);
  insert into parts select n, date '2026-01-01' + n % 90 from generate_series(1, 900) n;
  create function note() returns integer language sql as 'insert into parts values (1, ''2026-01-01'') returning id';
  analyze`;

const COUNT = 'select count(*) as views, sum(dwell) as dwell from public.views where thing = $1::int4';
const QUERIES = {
  tables: ['public.views', 'public.parts'],
  queries: [
    {
      name: 'thing',
      title: 'how often a thing was seen',
      parameters: 'select thing from public.views group by thing order by thing limit 3',
      before: COUNT,
      after: { needs: ['public.things'], sql: 'select views, dwell from public.things where thing = $1::int4' },
      promised: 10,
    },
    { name: 'list', title: 'the first few', before: 'select id, dwell from public.views where thing = 7 limit 1000' },
    {
      name: 'month',
      title: 'one month',
      before: `select count(*) as parts from public.parts where seen_at = '2026-02-07'`,
    },
  ],
};

let database: TestDatabase;
let folder: string;
const inFolder = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
});
afterAll(() => rm(folder, { recursive: true }));
beforeEach(async () => {
  database = await createDatabase({
    template: await templateOf('template_perf_shop', (pool) => pool.query(SHOP), undefined, EMPTY),
  });
});
afterEach(() => database.drop());

type Queries = Omit<typeof QUERIES, 'queries'> & { readonly queries: readonly object[] };

const perf = (args: readonly string[], stop?: AbortSignal) =>
  liventix(['restructure', 'perf', ...args], { DATABASE_URL: database.url }, stop);

const record = (queries: Queries = QUERIES, ...args: string[]) => recordWith(0, queries, ...args);

async function recordWith(exitCode: 0 | 1, queries: Queries, ...args: string[]): Promise<readonly Result[]> {
  await writeFile(inFolder('queries.json'), JSON.stringify(queries));
  const recorded = await perf([
    ...[
      'record',
      '--no-accesses',
      '--rounds',
      '15',
      '--queries',
      inFolder('queries.json'),
      '--output',
      inFolder('before.json'),
      ...args,
    ],
  ]);
  expect(recorded, recorded.stderr).toMatchObject({ exitCode });
  return (JSON.parse(await readFile(inFolder('before.json'), 'utf8')) as Recording).results;
}

const compare = (...args: string[]) => perf(['compare', inFolder('before.json'), '--rounds', '15', ...args]);

/** What became of each query, by its name. */
async function compared(...args: string[]) {
  const run = await compare('--json', ...args);
  const said = JSON.parse(run.stdout || '{}');
  const find = (name: string, isOther = false) =>
    said.pairs.find(
      (pair: { title: string; isOther: boolean }) => pair.title.startsWith(`${name}:`) && pair.isOther === isOther,
    );
  return { ...run, said, find };
}

/** Is answered some times in a session, and then no more: locks of a session outlive what is undone. */
const answersTimes = (times: number) =>
  database.pool.query(
    `create or replace function weary() returns integer language plpgsql as $$
     declare v_asked integer := (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid());
     begin
       perform pg_advisory_lock(v_asked);
       if v_asked >= ${times} then raise exception 'asked too often'; end if;
       return 1;
     end $$`,
  );

const only = (query: object): Queries => ({ ...QUERIES, queries: [{ name: 'it', title: 'it', ...query }] });

describe('perf', () => {
  it('finds nothing where nothing changed, and says what is not there yet', async () => {
    await record();
    const { exitCode, stdout } = await compare();
    expect(exitCode, stdout).toBe(0);
    expect(stdout).toContain('thing: how often a thing was seen: the other query: not there yet: public.things\n');
    expect(stdout).toContain('note: cold: not measured: it was not asked for: --cold\n');
    expect(stdout).toMatch(/3 compared: .*; 0 answers differ, 0 not answered any more\./u);
  });

  it('finds a query that became slower, by its plan, its index and the table that it reads', async () => {
    await record();
    await database.pool.query('drop index views_thing');
    const { find, said, exitCode } = await compared('--fail-slower', '1.5');
    expect(exitCode).toBe(1);
    expect(find('thing')).toMatchObject({
      verdict: 'slower',
      answerDiffers: null,
      remarks: expect.arrayContaining(['another plan', 'reads all of public.views now']),
    });
    expect(find('thing').planChange.before.join('\n')).toMatch(/on views by views_thing|by views_thing/u);
    expect(find('thing').planChange.after.join('\n')).toContain('Seq Scan on views');
    expect(said.indexes.usedBefore).toEqual(['public.views views_thing']);
    expect(said.indexes.neverUsed).toMatchObject([
      { table: 'public.views', index: 'views_never' },
      { table: 'public.parts', index: 'parts_by_id' },
    ]);
    // Slower is no fault by itself.
    expect((await compare()).exitCode).toBe(0);
  });

  it('finds the query that takes its place, with its promise', async () => {
    await database.pool.query('drop index views_thing');
    await record();
    await database.pool.query(
      `create table things as select thing, count(*) as views, sum(dwell) as dwell from views group by thing;
       alter table things add primary key (thing); analyze things`,
    );
    const { find, exitCode } = await compared('--output', inFolder('after.json'));
    expect(exitCode).toBe(0);
    const { stdout } = await perf(['compare', inFolder('before.json'), inFolder('after.json')]);
    const [, ...verdicts] =
      /^3 queries compared, 4 times in all, with the other queries: (\d) slower, (\d) the same, (\d) faster;/m.exec(
        stdout,
      ) ?? [];
    expect(
      verdicts.reduce((sum, count) => sum + Number(count), 0),
      stdout,
    ).toBe(4);
    const asked = [
      '--no-accesses',
      '--rounds',
      '3',
      '--queries',
      inFolder('queries.json'),
      '--output',
      inFolder('again.json'),
    ];
    expect((await perf(['record', ...asked])).stdout).toMatch(
      /ms {2}thing: how often a thing was seen\n.* ms {2}thing: how often a thing was seen \(the other query\)\n/,
    );
    expect(find('thing', true)).toMatchObject({ verdict: 'faster', answerDiffers: null, promise: { ratio: 10 } });
    expect(find('thing', true).warm.ratio).toBeGreaterThan(2);
    expect(find('thing').promise).toBeNull();
  });

  it('calls a faster wrong answer wrong', async () => {
    await record();
    await database.pool.query(
      `create table things as select thing, count(*) + 1 as views, sum(dwell) as dwell from views group by thing`,
    );
    const { exitCode, stdout } = await compare();
    expect(exitCode).toBe(1);
    expect(stdout).toContain('WRONG ANSWER: with its values number 1: differs in views\n');
  });

  it('compares rows without an order by what they are, and those with one by their order', async () => {
    const list = 'select id from public.views where thing = 7 order by dwell';
    await record(only({ before: list.replace(' order by dwell', '') }));
    await database.pool.query(
      'create table copied as select * from views order by id desc; drop table views; alter table copied rename to views',
    );
    expect((await compared()).find('it')).toMatchObject({ answerDiffers: null });
    await record(only({ before: 'select id from public.views where thing = 7 order by id', isOrdered: true }));
    const turned = only({
      before: 'select 1',
      after: { needs: ['public.views'], sql: 'select id from public.views where thing = 7 order by id desc' },
    });
    await writeFile(inFolder('turned.json'), JSON.stringify(turned));
    const { find, exitCode } = await compared('--queries', inFolder('turned.json'));
    expect(exitCode).toBe(1);
    expect(find('it', true)).toMatchObject({
      answerDiffers: 'has the same values in other rows, or rows in another order',
    });
  });

  it('refuses to compare what was measured on other rows, unless told to', async () => {
    await record();
    await database.pool.query('delete from views where id = 1');
    expect(await compare()).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringMatching(
        /PERF_OTHER_ROWS: public\.views had 100000 rows when it was recorded, and has 99999\. .*--other-rows/u,
      ),
    });
    const { exitCode, stdout } = await compare('--other-rows');
    expect(exitCode).toBe(0);
    expect(stdout).toContain('note: public.views had 100000 rows and has 99999: answers are not judged\n');
  });

  it('refuses to compare two recordings that did not ask the same, but for what takes a query’s place', async () => {
    const copy = async (name: string, queries: Queries) => {
      await record(queries);
      await writeFile(inFolder(name), await readFile(inFolder('before.json')));
    };
    const asked = { before: 'select dwell from public.views where id = $1::int4', parameters: 'select 1' };
    const after = { needs: ['public.gone'], sql: 'select 1' };
    await copy('one.json', only(asked));
    await copy('two.json', only({ ...asked, after, promised: 2 }));
    await copy('three.json', only({ ...asked, parameters: 'select 2' }));
    expect(await perf(['compare', inFolder('one.json'), inFolder('two.json')])).toMatchObject({ exitCode: 0 });
    expect(await perf(['compare', inFolder('one.json'), inFolder('three.json')])).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringContaining('PERF_OTHER_QUESTIONS: The two recordings did not ask the same: the query it. '),
    });
  });

  it('asks as a user where the query names one, by the policies that hold for him', async () => {
    await asSuperuser(
      database,
      `grant select on parts, views to authenticated; alter table parts enable row level security;
       create policy his on parts for select to authenticated
         using (id = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::integer)`,
    );
    const query = {
      caller: 'select id from public.parts where id = 7',
      parameters: 'select id from public.parts limit 1',
      before: 'select id, $1::int4 as asked from public.parts',
    };
    await writeFile(inFolder('queries.json'), JSON.stringify(only(query)));
    const asAdmin = { DATABASE_URL: database.adminUrl };
    const files = ['--queries', inFolder('queries.json'), '--output', inFolder('before.json')];
    const run = await liventix(['restructure', 'perf', 'record', '--no-accesses', '--rounds', '3', ...files], asAdmin);
    expect(run, run.stderr).toMatchObject({ exitCode: 0 });
    const { results, material } = JSON.parse(await readFile(inFolder('before.json'), 'utf8')) as Recording;
    expect(results.find(({ id }) => id === 'dashboard it')).toMatchObject({ status: 'measured', rows: 1 });
    expect(material.queries[0]?.values).toEqual([['7']]);
    await asSuperuser(database, 'drop policy his on parts');
    const after = await liventix(['restructure', 'perf', 'compare', inFolder('before.json'), '--rounds', '3'], asAdmin);
    expect(after.exitCode).toBe(1);
    expect(after.stdout).toMatch(/WRONG ANSWER/u);
  });

  it('tells of what fails, takes too long or has no values, and goes on', async () => {
    const results = await recordWith(
      1,
      {
        ...QUERIES,
        queries: [
          { name: 'broken', title: 'divides', before: 'select 1 / (id - id) from public.views' },
          { name: 'slow', title: 'sleeps', before: 'select pg_sleep(60)' },
          {
            name: 'empty',
            title: 'asks of nobody',
            parameters: 'select id from public.views where false',
            before: 'select $1::int4',
          },
          {
            name: 'nobodys',
            title: 'asks as nobody',
            caller: 'select id from public.views where false',
            before: 'select 1',
          },
          { name: 'unable', title: 'asks wrongly', parameters: 'select nothing', before: 'select $1::int4' },
          { name: 'writer', title: 'writes', before: 'select public.note()' },
          { name: 'fine', title: 'is well', before: 'select count(*) from public.views' },
        ],
      },
      '--timeout',
      '300ms',
    );
    const dashboards = results.filter(({ kind }) => kind === 'dashboard');
    expect(
      Object.fromEntries(dashboards.map(({ id, ...about }) => [id.replace('dashboard ', ''), about])),
    ).toMatchObject({
      broken: { status: 'failed', code: '22012' },
      slow: { status: 'failed', code: '57014' },
      empty: { status: 'left out', reason: 'no row to ask about' },
      nobodys: { status: 'left out', reason: 'nobody to ask as' },
      unable: { status: 'failed', code: '42703', message: 'its parameters: column "nothing" does not exist' },
      writer: { status: 'left out', reason: 'it writes' },
      fine: { status: 'measured' },
    });
    const { rows } = await database.pool.query('select count(*)::int4 as parts from parts');
    expect(rows).toEqual([{ parts: 900 }]);
  });

  it('exits with 1 where a query failed or its parameters did, and where nothing was timed, and writes what it has', async () => {
    const fine = { name: 'fine', title: 'is well', before: 'select 1' };
    const nobodys = { name: 'nobodys', title: 'asks as nobody', caller: 'select 1 where false', before: 'select 1' };
    const unable = { name: 'unable', title: 'asks wrongly', parameters: 'select nope', before: 'select $1::int4' };
    const of = (...queries: object[]) => ({ ...QUERIES, queries });
    const statuses = (results: readonly Result[]) =>
      results.filter(({ kind }) => kind === 'dashboard').map(({ status }) => status);
    expect(statuses(await recordWith(1, of(fine, { ...fine, name: 'nope', before: 'select nope' })))).toEqual([
      'measured',
      'failed',
    ]);
    expect(statuses(await recordWith(1, of(fine, unable)))).toEqual(['measured', 'failed']);
    expect(statuses(await recordWith(1, of(nobodys)))).toEqual(['left out']);
    expect(statuses(await recordWith(0, of(fine, nobodys)))).toEqual(['measured', 'left out']);
  });

  it('calls it a fault when what was answered is not any more', async () => {
    await record(only({ before: 'select sum(dwell) from public.views' }));
    await database.pool.query('alter table views drop column dwell');
    const { exitCode, stdout } = await compare();
    expect(exitCode).toBe(1);
    expect(stdout).toContain(
      'FAULT    it: it: answered before; failed with 42703: column "dwell" does not exist after\n',
    );
  });

  it('calls it a fault when what was answered each time fails some times, or all but the first', async () => {
    await answersTimes(1_000);
    await record(only({ before: 'select public.weary()' }));
    await answersTimes(10);
    const some = await compare();
    expect(some.exitCode).toBe(1);
    expect(some.stdout).toMatch(/failed \d+ times now, first with P0001: asked too often/u);
    expect(some.stdout).toContain('0 not answered any more, 1 not each time.');
    await answersTimes(3);
    const all = await compare();
    expect(all.exitCode).toBe(1);
    expect(all.stdout).toContain('FAULT    it: it: answered before; failed with P0001: asked too often after\n');
  });

  it('asks with all values in every round', async () => {
    const results = await record();
    const rounds = (name: string) => {
      const result = results.find(({ id }) => id === `dashboard ${name}`);
      return result?.status === 'measured' ? result.warmMs.map((round) => round.length) : [];
    };
    expect(rounds('thing')).toEqual(Array.from({ length: 15 }, () => 3));
    expect(rounds('list')).toEqual(Array.from({ length: 15 }, () => 1));
  });

  it('counts the partitions that were looked at, and takes their indexes for one', async () => {
    const results = await record(only({ before: `select count(*) from public.parts where seen_at = '2026-02-07'` }));
    const month = results.find(({ id }) => id === 'dashboard it');
    expect(month).toMatchObject({ plan: { partitions: [{ table: 'public.parts', looked: 1, of: 3 }], scanned: [] } });
    const ordered = only({ before: 'select id from public.parts where id = 5 order by id' });
    await database.pool.query(
      "insert into parts select n, date '2026-01-01' + n % 90 from generate_series(901, 60000) n; analyze parts",
    );
    const [byId] = (await record(ordered)).filter(({ kind }) => kind === 'dashboard');
    expect(byId).toMatchObject({ plan: { partitions: [{ looked: 3, of: 3 }], indexes: ['parts_by_id'] } });
    const { indexes } = JSON.parse(await readFile(inFolder('before.json'), 'utf8')) as Recording;
    expect(indexes).toMatchObject([{ table: 'public.parts', index: 'parts_by_id' }]);
    expect(indexes[0]?.scans).toBeGreaterThan(0);
    // A scan of all partitions is one of the table.
    const [all] = (await record(only({ before: 'select count(*) from public.parts' }))).filter(
      ({ kind }) => kind === 'dashboard',
    );
    expect(all).toMatchObject({ plan: { partitions: [{ looked: 3, of: 3 }], scanned: ['public.parts'] } });
  });

  it('asks with the values of the recording, whatever has become of the rows', async () => {
    await record();
    await database.pool.query('update views set thing = thing + 1000 where thing < 3');
    // The things that it asked about have no row any more.
    const { find, exitCode } = await compared();
    expect(exitCode).toBe(1);
    expect(find('thing')).toMatchObject({ answerDiffers: 'with its values number 1: differs in dwell, views' });
  });

  it('measures cold where shared buffers can be emptied, and says why where not', async () => {
    await asSuperuser(database, 'create extension pg_buffercache');
    const cold = async (url: string) => {
      const run = await liventix(
        [
          'restructure',
          'perf',
          'record',
          '--no-accesses',
          '--cold',
          '--rounds',
          '3',
          '--queries',
          inFolder('queries.json'),
          '--output',
          inFolder('cold.json'),
        ],
        { DATABASE_URL: url },
      );
      expect(run, run.stderr).toMatchObject({ exitCode: 0 });
      return JSON.parse(await readFile(inFolder('cold.json'), 'utf8')) as Recording;
    };
    await writeFile(inFolder('queries.json'), JSON.stringify(QUERIES));
    const isAble = inject('postgresMajor') >= 17;
    const asOwner = await cold(database.url);
    expect(asOwner.cold).toMatchObject({
      status: 'not measured',
      why: isAble ? 'only a superuser may empty shared buffers' : 'shared buffers can be emptied from PostgreSQL 17 on',
    });
    const asAdmin = await cold(database.adminUrl);
    expect(asAdmin.cold.status).toBe(isAble ? 'measured' : 'not measured');
    const thing = asAdmin.results.find(({ id }) => id === 'dashboard thing');
    expect(thing?.status === 'measured' && thing.coldMs?.length).toBe(isAble ? 3 : undefined);
  });

  it('ends when it is told to, and leaves no recording', async () => {
    await writeFile(inFolder('queries.json'), JSON.stringify(only({ before: 'select pg_sleep(30)' })));
    const stop = new AbortController();
    const running = perf(
      ['record', '--no-accesses', '--queries', inFolder('queries.json'), '--output', inFolder('stopped.json')],
      stop.signal,
    );
    await sleeping();
    stop.abort('SIGINT');
    expect(await running).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('STOPPED: SIGINT') });
    await expect(readFile(inFolder('stopped.json'))).rejects.toThrow('ENOENT');
  });

  it('says before anything is asked that a file could not be written, by its option and the path that was given', async () => {
    await record(only({ before: 'select 1' }));
    const nowhere = inFolder('nowhere/it');
    const recording = ['record', '--no-accesses', '--queries', inFolder('queries.json')];
    const refusals: readonly (readonly [args: readonly string[], option: string, path: string, fault: string])[] = [
      [recording, '--output', nowhere, `there is no folder ${inFolder('nowhere')}`],
      [recording, '--output', inFolder('queries.json/it'), `there is no folder ${inFolder('queries.json')}`],
      [recording, '--output', folder, 'that is a folder'],
      [['compare', inFolder('before.json')], '--output', nowhere, `there is no folder ${inFolder('nowhere')}`],
      [['compare', inFolder('before.json')], '--html', nowhere, `there is no folder ${inFolder('nowhere')}`],
    ];
    for (const [args, option, path, fault] of refusals) {
      expect(await perf([...args, option, path])).toEqual({
        exitCode: 2,
        stdout: '',
        stderr: `liventix: USAGE: ${option} "${path}": ${fault}. Give a file that can be written.\n`,
      });
    }
  });

  it('names every fault of a file of queries, and what is no recording', async () => {
    const faulty = { tables: ['views'], queries: [{ name: 'A b', title: '', before: ' ; ' }] };
    await writeFile(inFolder('faulty.json'), JSON.stringify(faulty));
    expect(await perf(['record', '--queries', inFolder('faulty.json')])).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(
        /USAGE: .*tables\.0: .*queries\.0\.name: .*queries\.0\.title: .*queries\.0\.before: is empty/u,
      ),
    });
    expect(await perf(['compare', inFolder('faulty.json')])).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('RESTRUCTURE_RECORDING_INVALID'),
    });
    expect(await perf(['compare', inFolder('none.json')])).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('is not there. Make one: liventix restructure perf record --out'),
    });
  });
});

/** Until a query of the measuring is under way. */
const sleeping = () =>
  eventually('somebody sleeps', async () => {
    const { rowCount } = await database.pool.query(
      `select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`,
    );
    return rowCount === 1;
  });
