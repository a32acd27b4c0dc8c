import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';
import { isolateTenants, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

describe('liventix restructure verify', () => {
  let database: TestDatabase;
  let dir: string;
  let before: string;
  const mapping = shopMapping('verify_cli');
  const run = (...args: readonly string[]) =>
    liventix(['restructure', 'verify', ...args], { DATABASE_URL: database.adminUrl });
  const refused = (code: Parameters<typeof expectRefusal>[0]['code'], says: RegExp, ...args: readonly string[]) =>
    expectRefusal({ code, says }, ['restructure', 'verify', ...args], { DATABASE_URL: database.adminUrl });

  beforeAll(async () => {
    database = await createDatabase({ template: await shop() });
    dir = await mkdtemp(join(tmpdir(), 'liventix-'));
    before = join(dir, 'before.json');
    await writeFile(join(dir, 'shop.json'), JSON.stringify(mapping));
  });
  afterAll(async () => {
    await rm(dir, { recursive: true, force: true });
    await database.drop();
  });

  it('records, compares after the move and after the isolation, and says what it found by its exit code', async () => {
    const recorded = await run('--record', before, '--mapping', join(dir, 'shop.json'));
    expect(recorded).toMatchObject({ exitCode: 0, stderr: `Recording what the database ${database.name} shows.\n` });
    expect(recorded.stdout).toMatch(/^\d+ rows of 8 tables and partitions\nseen by authenticated, authenticated as /);
    expect(await run('--against', before)).toMatchObject({
      exitCode: 0,
      stderr: `Nothing was moved in the database ${database.name}.\n`,
    });
    await moveTables(database.pool, mapping);
    const moved = await run('--against', before);
    expect(moved.stdout).toMatch(
      /^holds {2}every table of the recording is there.*\n(?:holds {2}.*\n)+\nIt holds\.\n$/,
    );
    expect(moved).toMatchObject({ exitCode: 0, stderr: '' });

    await isolateTenants(database.pool, mapping);
    const isolated = await run('--against', before);
    expect(isolated.stdout).toMatch(/note: narrowed: public\.visits: .*\n(?:note: .*\n)+\nIt holds\.\n$/);
    expect(isolated.stdout).toMatch(/note: narrowed: and \d+ more; --json has all/);
    const lines = (await run('--against', before, '--json')).stdout;
    expect(JSON.parse(lines)).toMatchObject({
      holds: true,
      notes: expect.arrayContaining([{ kind: 'narrowed', text: expect.any(String) }]),
    });

    await asSuperuser(database, 'create index of_somebody on sales.orders (cents)');
    const changed = await run();
    expect(changed.stdout).toMatch(
      /\nnote: changed since: public\.orders, since step \d+: index of_somebody was added\n\nIt holds\.\n$/,
    );
    expect([changed.exitCode, (await run('--strict')).exitCode]).toEqual([0, 1]);

    await asSuperuser(database, 'alter view public.orders reset (security_invoker)');
    const broken = await run('--against', before);
    expect(broken.exitCode).toBe(1);
    expect(broken.stdout).toMatch(
      /^FAILS {2}every role and tenant sees the rows that it saw .*\n {9}public\.orders: authenticated saw no rows, and sees 300 rows\n/m,
    );
    expect(broken.stdout).toMatch(/\nIt does NOT hold\.\n$/);
    expect((await run()).exitCode).toBe(1);
    expect(JSON.parse((await run('--json')).stdout)).toMatchObject({
      notes: expect.arrayContaining([{ kind: 'changed since', text: expect.stringMatching(/of_somebody was added/) }]),
    });
  });

  it('keeps a recording that is there, and reads none that was changed, cut off or is something else', async () => {
    const text = await readFile(before, 'utf8');
    const file = async (name: string, content: string) => {
      await writeFile(join(dir, name), content);
      return join(dir, name);
    };
    await refused('USAGE', /is there already/, '--record', before);
    await refused('USAGE', /--mapping goes with --record/, '--mapping', before);
    const invalid = 'RESTRUCTURE_RECORDING_INVALID';
    await refused(invalid, /names no file/, '--against', join(dir, 'none.json'));
    await refused(invalid, /is cut off/, '--against', await file('cut.json', text.slice(0, -100)));
    await refused(invalid, /is no recording/, '--against', join(dir, 'shop.json'));
    await refused(invalid, /SHA-256/, '--against', await file('changed.json', text.replace('"public"', '"pablic"')));
    await refused(
      invalid,
      /has the format/,
      '--against',
      await file('newer.json', text.replace('recording 2', 'recording 9')),
    );
    expect((await run('--record', join(dir, 'a.json'), '--against', before)).exitCode).toBe(2);
  });

  it('does not compare another database', async () => {
    const other = await createDatabase();
    try {
      await expectRefusal(
        { code: 'RESTRUCTURE_OTHER_DATABASE', says: /is of the database test_\w+ \(oid \d+\), and this is test_/ },
        ['restructure', 'verify', '--against', before],
        { DATABASE_URL: other.adminUrl },
      );
    } finally {
      await other.drop();
    }
  });

  it('explains itself in lines that a terminal can show', async () => {
    const { stdout, exitCode } = await liventix(['restructure', 'verify', '--help']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/--record <file>.*--against <file>.*Examples:/s);
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(140);
  });
});
