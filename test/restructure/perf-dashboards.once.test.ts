import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Recording } from '../../src/restructure/perf/recording.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { createSmallPlatform, moveTables } from '../support/platform.ts';

// The dashboards that come with the package, on the whole legacy platform.

let database: TestDatabase;
let folder: string;
const before = () => join(folder, 'before.json');
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
  database = await createDatabase();
  await createSmallPlatform(database.pool);
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const perf = (...args: string[]) =>
  // Who asks as organizers has to be able to.
  liventix(['restructure', 'perf', ...args, '--rounds', '3'], { DATABASE_URL: database.adminUrl });

it('are all answered by the raw tables, with rows, and by rollups alike', async () => {
  const recorded = await perf('record', '--no-accesses', '--output', before());
  expect(recorded, recorded.stderr).toMatchObject({ exitCode: 0 });
  const { results } = JSON.parse(await readFile(before(), 'utf8')) as Recording;
  const dashboards = results.filter(({ kind }) => kind === 'dashboard');
  const silent = dashboards.filter((each) => each.way === 'old' && !(each.status === 'measured' && each.rows > 0));
  expect(silent).toEqual([]);
  const others = dashboards.filter(({ way }) => way === 'new');
  expect(others.map((each) => each.status === 'left out' && each.reason.split(':')[0])).toEqual(
    others.map(() => 'not there yet'),
  );
  expect(others.length).toBeGreaterThan(5);

  const applied = await liventix(['rollups', 'apply'], { DATABASE_URL: database.url });
  expect(applied, applied.stderr).toMatchObject({ exitCode: 0 });
  const compared = await perf('compare', before(), '--json');
  expect(compared, compared.stderr).toMatchObject({ exitCode: 0 });
  const { counts, pairs } = JSON.parse(compared.stdout);
  expect(counts).toMatchObject({ compared: dashboards.length - others.length, answersDiffer: 0, faults: 0 });
  expect(pairs.filter(({ isOther }: { isOther: boolean }) => isOther)).toHaveLength(others.length);
});

it('are answered alike by the old names when the tables have moved', async () => {
  await moveTables(database);
  const { rows } = await database.pool.query(
    `select c.relkind as kind from pg_class c where c.oid = 'public.event_impressions'::regclass`,
  );
  expect(rows).toEqual([{ kind: 'v' }]);
  const compared = await perf('compare', before(), '--json');
  expect(compared, compared.stderr).toMatchObject({ exitCode: 0 });
  expect(JSON.parse(compared.stdout).counts).toMatchObject({ answersDiffer: 0, faults: 0 });
});
