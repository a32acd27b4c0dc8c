import { describe, expect, it } from 'vitest';
import { compareRecordings, countsOf, isAtFault, verdictOf } from '../../src/restructure/perf/compare.ts';
import { LIVENTIX_QUERIES, readQueries } from '../../src/restructure/perf/queries.ts';
import type { Load, Measured, Recording, Result } from '../../src/restructure/perf/recording.ts';
import { pageOf } from '../../src/restructure/perf/report/page.ts';
import { levelOf, medianInterval, quantile, ratioOf } from '../../src/restructure/perf/statistics.ts';
import { caveatsOf, remarksOf } from '../../src/restructure/perf/words.ts';

// What is made of two recordings, without a database.

const HOSTILE = `<script>alert(1)</script><img src=https://evil.example/x onerror='alert("2")'>\u202e&amp;`;

const measured = (id: string, over: Partial<Measured> = {}): Measured => ({
  id: `dashboard ${id}`,
  way: 'old',
  kind: 'dashboard',
  title: id,
  status: 'measured',
  sql: 'select 1',
  answers: [{ status: 'rows', count: 1, total: null, effects: [], digest: 'a', places: { n: 'a' } }],
  rows: 1,
  warmMs: [[10], [10], [10], [10], [10], [10]],
  coldMs: null,
  failed: null,
  plan: null,
  ...over,
});

const recording = (results: readonly Result[], over: Partial<Recording> = {}): Recording => ({
  format: 'liventix restructure perf 2',
  program: 'liventix 0',
  server: '18.0',
  recordedAt: '2026-01-01T00:00:00.000Z',
  settings: {},
  rows: { 'public.orders': 5 },
  material: { seed: 1, tables: [], queries: [], callers: [], accesses: [] },
  cold: { status: 'not measured', why: 'it was not asked for' },
  results: [...results],
  indexes: [],
  load: [],
  ...over,
});

/** Rounds, with one set of values or with more, each as many times as long. */
const runs = (ms: number, sets: readonly number[] = [1]) =>
  Array.from({ length: 20 }, (_, at) => sets.map((times) => times * ms * (1 + (at % 3) / 100)));

const LOAD: Load = {
  way: 'pooler',
  clients: 2,
  poolSize: null,
  seconds: 1,
  transactions: 3,
  waitMs: { p50: 1, p90: 1, p99: 1, max: 1 },
  queryMs: { p50: 1, p90: 1, p99: 1, max: 1 },
  errors: [{ code: HOSTILE, message: HOSTILE, count: 1 }],
  connections: 1,
  samples: [
    { atMs: 0, open: 1, active: 1, idleInTransaction: 0, waiting: null },
    { atMs: 250, open: 1, active: 0, idleInTransaction: 0, waiting: 1 },
  ],
  afterwards: { open: 0, idleInTransaction: 0 },
  checks: [{ what: HOSTILE, holds: false, detail: HOSTILE }],
  notes: [HOSTILE],
};

describe('the page', () => {
  const hostile = (node: string) => ({
    hit: 1,
    read: 0,
    indexes: [HOSTILE],
    scanned: [HOSTILE],
    partitions: [{ table: HOSTILE, looked: 1, of: 2 }],
    root: {
      node,
      relation: HOSTILE,
      table: HOSTILE,
      index: HOSTILE,
      rows: 1,
      isRun: true,
      children: [],
    },
  });
  const index = { table: HOSTILE, index: HOSTILE, scans: 0, scansEver: 0, bytes: 10, isUnique: false };
  const page = pageOf(
    compareRecordings(
      recording(
        [
          measured('one', { title: HOSTILE, plan: hostile('Seq Scan') }),
          measured('two', { kind: 'access', title: HOSTILE }),
          { id: 'three', way: 'old', kind: 'access', title: HOSTILE, status: 'left out', reason: HOSTILE },
          measured('four', { title: HOSTILE }),
        ],
        { server: HOSTILE, program: HOSTILE, recordedAt: HOSTILE, load: [LOAD], settings: { [HOSTILE]: HOSTILE } },
      ),
      recording(
        [
          measured('one', {
            title: HOSTILE,
            sql: HOSTILE,
            plan: hostile(HOSTILE),
            answers: [{ status: 'rows', count: 1, total: null, effects: [], digest: 'b', places: { [HOSTILE]: 'b' } }],
          }),
          measured('two', { kind: 'access', title: HOSTILE }),
          { id: 'three', way: 'old', kind: 'access', title: HOSTILE, status: 'left out', reason: HOSTILE },
          {
            id: 'dashboard four',
            way: 'old',
            kind: 'dashboard',
            title: HOSTILE,
            status: 'failed',
            sql: '',
            code: HOSTILE,
            message: HOSTILE,
          },
        ],
        { load: [LOAD], indexes: [index], rows: { 'public.orders': 5, [HOSTILE]: 1 } },
      ),
    ),
  );

  it('shows names as they are, whatever they are made of', () => {
    expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(page).toContain('\\u{202e}');
    expect(page).not.toMatch(/<script|<img|onerror='|\u202e/u);
    // Of the tags that there are none came from a name.
    expect(new Set([...page.matchAll(/<([a-z0-9]+)/gu)].map(([, tag]) => tag))).not.toContain('img');
  });

  it('says that it may hold values of rows', () => {
    expect(page).toContain('may be values of rows: this page is to be kept as carefully as the database.');
  });

  it('asks nobody for anything, and forbids the browser to', () => {
    const tags = [...page.matchAll(/<[a-z][^>]*>/gu)].map(([tag]) => tag);
    expect(tags.filter((tag) => /\b(?:src|href|srcset|action|data)=/u.test(tag))).toEqual([]);
    expect(page).not.toMatch(/@import|url\(/u);
    expect(page).toContain(`content="default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;"`);
  });

  it('has a chart of every kind, without a number that is none', () => {
    expect(page.match(/<svg/gu)).toHaveLength(8);
    expect(page).not.toMatch(/NaN|Infinity|undefined/u);
  });

  it('is made of nothing, too', () => {
    expect(pageOf(compareRecordings(recording([]), recording([])))).not.toMatch(/NaN|Infinity|undefined/u);
  });
});

describe('what is said of two measurings', () => {
  it.each([
    ['slower', 10, 20],
    ['faster', 20, 10],
    ['same', 10, 10.5],
    // Nobody sees a twentieth of a millisecond, however sure it is.
    ['same', 0.05, 0.1],
  ] as const)('is %s from %d ms to %d ms', (verdict, before, after) => {
    const { pairs } = compareRecordings(
      recording([measured('one', { warmMs: runs(before) })]),
      recording([measured('one', { warmMs: runs(after) })]),
    );
    expect(pairs.map((pair) => pair.verdict)).toEqual([verdict]);
  });

  it('takes for noise what the machine itself differs by', () => {
    const control = (ms: number) => measured('x', { id: 'control work', kind: 'control', warmMs: runs(ms) });
    const compared = compareRecordings(
      recording([control(10), measured('one', { warmMs: runs(10) })]),
      recording([control(14), measured('one', { warmMs: runs(12) })]),
    );
    expect(compared.noise.share).toBeCloseTo(Math.log(1.4), 1);
    expect(compared.pairs.map(({ verdict }) => verdict)).toEqual(['same']);
  });

  it('says where the machine itself was not timed, which is then not taken for as fast as before', () => {
    const control = (id: string) => measured('x', { id: `control ${id}`, kind: 'control', warmMs: runs(10) });
    const both = recording([control('work'), control('round-trip')]);
    const unknown =
      'the machine itself could not be timed each time: it may differ by more than what is taken for noise';
    expect(caveatsOf(compareRecordings(both, both))).not.toContain(unknown);
    const compared = compareRecordings(both, recording([control('round-trip')]));
    expect(caveatsOf(compared)).toContain(unknown);
    expect(compared.machine).toHaveLength(1);
  });

  it('counts a query once that another takes the place of', () => {
    const compared = compareRecordings(
      recording([measured('one')]),
      recording([measured('one'), measured('one', { way: 'new' })]),
    );
    expect(compared.pairs).toHaveLength(2);
    expect(countsOf(compared).compared).toBe(1);
  });

  describe('of a promise', () => {
    const query = { name: 'one', title: 'one', before: 'select 1', isOrdered: false, promised: 10 };
    const material = {
      seed: 1,
      tables: [],
      queries: [{ query, caller: null, values: [[]], failure: null }],
      callers: [],
      accesses: [],
    };
    const rowsOf = (digest: string): Measured['answers'] => [
      { status: 'rows', count: 1, total: null, effects: [], digest, places: { n: digest } },
    ];
    const tooLong: Measured['answers'] = [{ status: 'refused', by: 'api', code: 'too-long', message: 'too many rows' }];
    const recorded = (over: Partial<Measured> = {}) =>
      recording([measured('one', { warmMs: runs(1_000), ...over })], { material });
    it.each([
      ['kept', recorded(), measured('one', { warmMs: runs(50) })],
      ['missed', recorded(), measured('one', { warmMs: runs(200) })],
      // The median is ten times as fast, and may be less.
      ['missed', recorded(), measured('one', { warmMs: runs(99) })],
      ['missed', recorded(), measured('one', { warmMs: runs(50), answers: rowsOf('b') })],
      ['not known', recorded(), measured('one', { warmMs: [[50], [50]] })],
      ['not known', recorded({ answers: tooLong }), measured('one', { warmMs: runs(50), answers: tooLong })],
      ['not known', recorded(), undefined],
    ] as const)('it is %s (case %#)', (is, former, latter) => {
      const compared = compareRecordings(former, recording(latter === undefined ? [] : [latter], { material }));
      const { promisesKept, promisesMissed, promisesNotKnown } = countsOf(compared);
      expect({ kept: promisesKept, missed: promisesMissed, 'not known': promisesNotKnown }).toEqual({
        kept: 0,
        missed: 0,
        'not known': 0,
        [is]: 1,
      });
      if (latter !== undefined) expect(compared.pairs[0]?.promise).toEqual({ ratio: 10, is });
    });

    it('it is not known of a wrong answer on other rows, which nobody judges', () => {
      const after = recording([measured('one', { warmMs: runs(50), answers: rowsOf('b') })], { material, rows: {} });
      expect(compareRecordings(recorded(), after).pairs[0]?.promise?.is).toBe('not known');
    });
  });

  it('tells answers that nobody compared, and tables that nobody counted', () => {
    const tooLong = [{ status: 'refused' as const, by: 'api' as const, code: 'too-long', message: 'too many rows' }];
    const long = () => recording([measured('one', { answers: tooLong })], { rows: { 'public.orders': null } });
    const compared = compareRecordings(long(), long());
    expect(countsOf(compared)).toMatchObject({ answersDiffer: 0, answersNotCompared: 1 });
    expect(compared.pairs.flatMap(remarksOf)).toEqual(['answers not compared: more rows than are']);
    expect(caveatsOf(compared)).toContain(
      'public.orders could not be counted, before or after: it may have other rows',
    );
    expect(pageOf(compared)).toContain('answers not compared</li>');
  });

  it('writes how sure a span is beside it', () => {
    const page = (rounds: number) => {
      const one = recording([measured('one', { warmMs: runs(10).slice(0, rounds) })]);
      return pageOf(compareRecordings(one, one));
    };
    expect(page(3)).toMatch(/>0\.98× to 1\.02×, 75 %</u);
    expect(page(20)).toMatch(/ to [\d.]+×, 95 %</u);
  });

  it('lists the slowest first', () => {
    const all = ['one', 'two', 'three'];
    const { pairs } = compareRecordings(
      recording(all.map((id) => measured(id))),
      recording(all.map((id, at) => measured(id, { warmMs: runs([10, 40, 5][at] ?? 1) }))),
    );
    expect(pairs.map(({ title }) => title)).toEqual(['two', 'one', 'three']);
  });

  it.each([
    ['slower', 10],
    ['faster', 0.1],
    ['same', 1.05],
  ] as const)('is %s of values that are far apart when each takes %d times as long', (verdict, times) => {
    const { pairs } = compareRecordings(
      recording([measured('one', { warmMs: runs(1, [1, 10, 1_000]) })]),
      recording([measured('one', { warmMs: runs(times, [1, 10, 1_000]) })]),
    );
    expect(pairs.map((pair) => pair.verdict)).toEqual([verdict]);
    expect(pairs[0]?.warm.ratio).toBeCloseTo(1 / times, 5);
  });

  it('tells where it became slower with some values and faster with others, which the ratio does not', () => {
    const of = (warmMs: number[][]) => recording([measured('one', { warmMs })]);
    const [pair] = compareRecordings(of(runs(1, [10, 10])), of(runs(1, [100, 1]))).pairs;
    expect(pair?.warm.ratio).toBeCloseTo(1, 5);
    expect(pair === undefined ? [] : remarksOf(pair)).toEqual(['by its values from 0.10× to 10.0×']);
    const [close] = compareRecordings(of(runs(1, [10, 100])), of(runs(1, [20, 300]))).pairs;
    expect(close?.byValues).toBeNull();
  });

  it('lists those with too few rounds to say, and draws them as no others', () => {
    const access = (warmMs: number[][]) => measured('one', { kind: 'access', title: 'an access', warmMs });
    const page = pageOf(compareRecordings(recording([access([[1], [1], [1]])]), recording([access([[1_000]])])));
    expect(page).toContain('<h3>1 that became slower or faster, had too few rounds to say, or answer otherwise</h3>');
    expect(page).toContain('<rect class="few"');
    expect(page).not.toContain('<rect class="same"');
  });

  it('calls it a fault when a query fails more often than it did, and tells it', () => {
    const failed = (count: number) => ({ count, code: '57014', message: 'canceling statement' });
    const of = (count: number) => recording([measured('one', count === 0 ? {} : { failed: failed(count) })]);
    const more = compareRecordings(of(1), of(2));
    expect(isAtFault(more, {})).toBe(true);
    expect(more.pairs.flatMap(remarksOf)).toEqual([
      'failed 1 times before, first with 57014: canceling statement',
      'failed 2 times now, first with 57014: canceling statement',
    ]);
    expect(pageOf(more)).toContain('<b class="bad">not answered each time</b> one: 57014');
    expect(isAtFault(compareRecordings(of(2), of(1)), {})).toBe(false);
    expect(isAtFault(compareRecordings(of(0), of(1)), {})).toBe(true);
  });

  it('says nothing of two runs', () => {
    expect(
      verdictOf({ ratio: 9, low: 9, high: 9, level: 0 }, { noise: { share: 0.1, ms: 0.1 }, runs: 2, differenceMs: 80 }),
    ).toBe('too few');
  });
});

describe('a median', () => {
  it('lies between two of the values, closer the more there are', () => {
    const hundred = Array.from({ length: 100 }, (_, at) => at + 1);
    expect(quantile(hundred, 0.5)).toBe(50);
    expect(medianInterval(hundred)).toEqual({ low: 40, high: 61 });
    expect(medianInterval(Array.from({ length: 2_000 }, (_, at) => at + 1))).toEqual({ low: 956, high: 1_045 });
    // As tables of the sign test have it: of 9 all but the outermost two, of 20 from the sixth on.
    expect(medianInterval([1, 2, 3, 4, 5, 6, 7, 8, 9])).toEqual({ low: 2, high: 8 });
    expect(medianInterval(hundred.slice(0, 20))).toEqual({ low: 6, high: 15 });
    expect(medianInterval([3, 1, 2])).toEqual({ low: 1, high: 3 });
    expect(medianInterval([])).toEqual({ low: 0, high: 0 });
    expect(ratioOf([0, 0, 0], [0, 0, 0])).toEqual({ ratio: 1, low: 1, high: 1, level: 0.75 });
  });
});

it.each([
  [0, 0],
  [1, 0],
  [3, 0.75],
  [5, 0.9375],
  [6, 0.96875],
  [9, 0.9609375],
  [2_000, 0.95],
])('is as sure of %d rounds as coins are: %d', (count, level) => {
  expect(levelOf(count)).toBe(level);
});

it('reads the dashboards that come with the package', async () => {
  const { queries, tables } = await readQueries(LIVENTIX_QUERIES);
  expect(queries.length).toBeGreaterThan(10);
  expect(tables).toContain('public.event_impressions');
});
