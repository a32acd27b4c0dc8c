import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { createImpressions, entryOf, type Impressions } from '../support/impressions.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

// `liventix partitions …`, as whoever is at the terminal sees it.

let impressions: Impressions;
let folder: string;
let mapping: string;
beforeAll(async () => {
  impressions = await createImpressions({ rows: 500 });
  folder = await mkdtemp(join(tmpdir(), 'partitions-'));
  mapping = join(folder, 'months.json');
  await writeFile(mapping, JSON.stringify({ version: 1, tables: [{ ...entryOf(), keepMonths: null }] }));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await impressions.drop();
});

const run = (...args: string[]) => liventix(['partitions', ...args], { DATABASE_URL: impressions.url });
const refused = (code: ErrorCode, says: RegExp, ...args: string[]) =>
  expectRefusal({ code, says }, ['partitions', ...args], { DATABASE_URL: impressions.url });

describe('from the plan to the rollback', () => {
  it('says at first that nothing is kept by month, and that nothing is set aside', async () => {
    expect((await run('status')).stdout).toBe('No table is kept by month. First: liventix partitions plan\n');
    expect((await run('clean')).stdout).toBe('Nothing is set aside.\n');
    expect((await run('maintain')).stdout).toBe('Nothing was due.\n');
    expect((await run('rollback')).stdout).toBe('No table is kept by month.\n');
  });

  it('plans: what becomes of the table, and what will be different', async () => {
    const { exitCode, stdout } = await run('plan', '--mapping', mapping);
    expect({ exitCode, stdout }).toEqual({
      exitCode: 0,
      stdout: expect.stringMatching(
        /^ready {4}stats\.impressions, about 500 rows, \d MB, months .* beside the past\n {4}changes \(id\) is the primary key together with seen_at.*\n {4}changes clicks_impression_id_fkey of stats\.clicks refers to a table of keys beside .*\n {4}note {4}Triggers go along: noted\n$/s,
      ),
    });
    expect(await run('plan')).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining('There is no table analytics.event_impressions'),
    });
  });

  it('applies, and does nothing the second time', async () => {
    expect((await run('apply', '--mapping', mapping, '--dry-run')).stdout).toMatch(/^ready /);
    expect(await run('apply', '--mapping', mapping)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^by month stats\.impressions, locked for \d+ and \d+ ms\n$/),
      stderr: `Turning tables of the database ${impressions.name} into months.\n`,
    });
    expect((await run('apply', '--mapping', mapping)).stdout).toBe('already  stats.impressions\n');
    expect((await run('plan', '--mapping', mapping)).stdout).toMatch(/^done {5}stats\.impressions/);
  });

  it('verifies, tells how it stands, sees to the months, and is healthy', async () => {
    expect(await run('verify')).toMatchObject({ exitCode: 0, stdout: expect.not.stringContaining('FAILS') });
    const { stdout } = await run('status', '--months');
    expect(stdout).toMatch(/^partitioned stats\.impressions, \d+ months, \d MB, months for \d+ days, kept for ever\n/);
    expect(stdout).toMatch(/^ {4}stats\.impressions_202511 +2025-11-01 to 2025-12-01 +\d MB$/m);
    expect(stdout).toMatch(/^set aside {3}.*impressions_past.*liventix partitions clean$/m);
    expect(await run('maintain')).toMatchObject({ exitCode: 0, stdout: 'Nothing was due.\n' });
    const { stdout: doctor } = await liventix(['doctor'], { DATABASE_URL: impressions.url });
    expect(doctor).toMatch(/^ok +partitions +tables kept by month: 1, with months for \d+ days, by worker$/m);
  });

  it('says that keys are not kept, and what was put right', async () => {
    await impressions.pool.query('alter table stats.impressions disable trigger liventix_keeps_key_0');
    expect((await run('status')).stdout).toContain(', KEYS ARE NOT KEPT: liventix partitions apply, ');
    expect(await run('apply', '--mapping', mapping)).toMatchObject({
      exitCode: 0,
      stdout: [
        'mended   stats.impressions',
        '    the trigger liventix_keeps_key_0 of stats.impressions, which keeps its keys (id), is not enabled always: put right',
        '    stats.impressions_by_id: 0 keys that were lacking, 0 taken away that no row has and nothing refers to',
        '',
      ].join('\n'),
    });
    expect((await run('apply', '--mapping', mapping)).stdout).toBe('already  stats.impressions\n');
  });

  it('names rows that lie in no month, and exits with 1', async () => {
    await impressions.pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2099-01-01')`);
    expect(await run('verify')).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining(
        '1 rows of stats.impressions lie in no month, but in stats.impressions_other: maintain',
      ),
    });
    expect((await run('status')).stdout).toContain('ROWS LIE IN NO MONTH');
    expect((await run('apply', '--mapping', mapping)).stdout).toBe(
      'already  stats.impressions\n    rows lie in no month, as it is none that is kept or ahead: liventix partitions verify\n',
    );
    await impressions.pool.query('alter table stats.impressions disable trigger liventix_keeps_key_0');
    expect((await run('apply', '--mapping', mapping)).stdout).toMatch(/^mended .*\n {4}rows lie in no month, /);
    expect((await liventix(['doctor'], { DATABASE_URL: impressions.url })).stdout).toMatch(
      /^WARNING +partitions +rows of stats\.impressions lie in no month$/m,
    );
  });

  it('drops what was set aside only when told so', async () => {
    expect((await run('clean')).stdout).toMatch(/^would drop .*impressions_past, what stats\.impressions was\n$/);
    expect((await run('clean', '--yes')).stdout).toMatch(/^dropped .*impressions_past\n$/);
    expect((await run('clean', '--yes')).stdout).toBe('Nothing is set aside.\n');
  });

  it('tries out the way back, and who sees to the months, and changes neither', async () => {
    expect(await run('rollback', '--dry-run')).toEqual({
      exitCode: 0,
      stdout: 'would put back stats.impressions\n',
      stderr: 'Nothing was changed.\n',
    });
    expect((await run('schedule', 'worker', '--dry-run')).stdout).toContain('would be seen to by the worker');
    expect(JSON.parse((await run('schedule', 'worker', '--json')).stdout)).toMatchObject({ runner: 'worker' });
    await refused('PARTITIONS_NO_CRON', /pg_cron is not in this database/, 'schedule', 'pg_cron', '--dry-run');
    expect((await run('status')).stdout).toMatch(/^by month|^partitioned/);
  });

  it('goes back', async () => {
    expect(await run('rollback', '--table', 'stats.impressions')).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^back {5}stats\.impressions, locked for \d+ ms\n$/),
    });
    expect((await impressions.pool.query('select from stats.impressions')).rowCount).toBe(501);
  });

  it('leaves the past in one partition, and says for how long the table was locked only where it was', async () => {
    const keepPast = async () => (await run('apply', '--mapping', mapping, '--keep-past')).stdout;
    await run('clean', '--yes');
    expect(await keepPast()).toMatch(
      /^attached stats\.impressions: what was there is one partition, locked for \d+ ms\n$/,
    );
    expect(await keepPast()).toBe('attached stats.impressions: what was there is one partition\n');
  });
});

it('of a table that somebody renamed status says that it is lost, and nothing is due', async () => {
  await impressions.pool.query('alter table stats.impressions rename to seen');
  expect((await run('status')).stdout).toMatch(
    /^lost {8}stats\.impressions was kept by month, .* rollback --table stats\.impressions$/m,
  );
  expect(await run('maintain')).toMatchObject({ exitCode: 0, stdout: 'Nothing was due.\n' });
  expect((await run('rollback')).stdout).toMatch(/^given up stats\.impressions/);
});

describe('wrong usage', () => {
  it('is one line that says what to do', async () => {
    await refused(
      'PARTITIONS_TABLE_UNKNOWN',
      /stats\.none is not in the mapping, which has stats\.impressions\./,
      'apply',
      '--mapping',
      mapping,
      '--table',
      'stats.none',
    );
    await refused(
      'PARTITIONS_TABLE_UNKNOWN',
      /stats\.none is not kept by month\. Those that are: liventix partitions status/,
      'rollback',
      '--table',
      'stats.none',
    );
    await refused('PARTITIONS_MAPPING_INVALID', /it cannot be read/, 'plan', '--mapping', join(folder, 'none.json'));
    await refused('PARTITIONS_NO_CRON', /schedule worker/, 'schedule', 'pg_cron');
    await refused('USAGE', /Allowed choices are worker, pg_cron/, 'schedule', 'me');
    await refused('USAGE', /Did you mean apply\?/, 'aply');
  });
});
