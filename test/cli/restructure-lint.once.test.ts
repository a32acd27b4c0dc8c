import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { liventix, startLiventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

// `liventix restructure lint`, as whoever is at the terminal sees it. It asks no database.

const root = fileURLToPath(new URL('../..', import.meta.url));
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'liventix-lint-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, content: string | Buffer): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

const lint = (...args: string[]) => liventix(['restructure', 'lint', ...args]);
const refused = (says: RegExp, ...args: string[]) =>
  expectRefusal({ code: 'USAGE', says }, ['restructure', 'lint', ...args]);

describe('lint', () => {
  it('says nothing on stdout and ends with 0 where nothing is found', async () => {
    const file = write('good.sql', "set local lock_timeout = '50ms';\nalter table orders add column note text;\n");
    expect(await lint(file)).toEqual({ exitCode: 0, stdout: '', stderr: 'Nothing found in 1 file.\n' });
  });

  it('says where and what in a line each, and ends with 1', async () => {
    const file = write('bad.sql', 'alter table orders set schema sales;\nalter table orders drop column x;\n');
    const { exitCode, stdout, stderr } = await lint(file);
    expect(exitCode).toBe(1);
    expect(stdout.split('\n').map((line) => line.replace(`${file}:`, '').split(' ').slice(0, 2).join(' '))).toEqual([
      '1:1 lock-without-timeout',
      '1:1 set-schema-without-view',
      '2:1 more-than-one-hot-table-a-transaction',
      '2:20 squawk/ban-drop-column',
      '',
    ]);
    expect(stderr).toBe('4 findings in 1 file.\n');
  });

  it('prints one JSON object', async () => {
    const file = write('json.sql', 'do $$ begin execute x; end $$;\nalter table orders set schema sales;');
    const { exitCode, stdout } = await lint(file, '--json', '--disable', 'lock-without-timeout');
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      findings: [
        {
          path: file,
          line: 2,
          column: 1,
          rule: 'set-schema-without-view',
          message: expect.stringMatching(/^public\.orders moves to sales\.orders/),
        },
      ],
      files: 1,
      allowed: 0,
      baselined: 0,
      unread: [{ path: file, line: 1, column: 21, why: 'SQL that is put together as it runs' }],
      squawk: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    });
  });

  it('looks at a folder in the order of its files, with folders below', async () => {
    write('set/0001_tables.sql', 'create table orders (id int);');
    write(
      'set/0002_move.sql',
      "set local lock_timeout = '50ms'; alter table orders set schema sales; create view orders with (security_invoker) as select id from sales.orders;",
    );
    write('set/deep/0003_late.SQL', 'truncate orders;');
    write('set/readme.md', 'no SQL');
    const { stdout, stderr } = await lint(join(folder, 'set'));
    expect(stdout.replaceAll(join(folder, 'set'), '')).toMatch(
      /^\/deep\/0003_late\.SQL:1:1 copy-truncate-through-view public\.orders is a view by now, .* sales\.orders\.\n$/,
    );
    expect(stderr).toBe('1 finding in 3 files.\n');
  });

  it('says what was allowed, what a baseline has, and what was not looked into', async () => {
    const file = write(
      'said.sql',
      `-- lint: allow lock-without-timeout because nobody reads it yet
drop table a; -- lint: allow squawk/ban-drop-table because nobody reads it yet
create view v as select id from b;
do $$ begin execute 'x' || y; end $$;`,
    );
    const baseline = write('base.txt', '# landed\r\nsaid.sql view-without-security-invoker 1 because it landed\r\n');
    expect(await lint(file, '--baseline', baseline)).toEqual({
      exitCode: 0,
      stdout: '',
      stderr: `Nothing found in 1 file, 2 allowed, 1 in the baseline.\nNot looked into: 1 body or string of SQL that only a run knows; the first is ${file}:4:21, SQL that is put together as it runs.\n`,
    });
    writeFileSync(file, 'select 1;');
    const stale = await lint(file, '--baseline', baseline);
    expect(stale).toMatchObject({
      exitCode: 1,
      stdout: `${baseline}:2:1 baseline said.sql has 0 findings of view-without-security-invoker, not 1. Correct the entry, or take it away.\n`,
    });
  });

  it('takes each statement for a transaction where it is told so, and goes without squawk', async () => {
    const file = write('alone.sql', 'create index concurrently i on a (x); create index j on a (y);');
    expect((await lint(file, '--no-squawk')).stdout).toMatch(
      /^\S+:1:1 not-in-a-transaction [^\n]+\n\S+:1:39 lock-without-timeout [^\n]+\n$/,
    );
    expect((await lint(file, '--no-squawk', '--no-transaction')).stdout).toMatch(
      /^\S+:1:39 lock-without-timeout [^\n]+\n$/,
    );
    expect((await lint(file, '--no-transaction')).stdout).toContain('squawk/require-concurrent-index-creation');
  });

  it('goes on past a file that is no SQL', async () => {
    const files = [write('broken.sql', 'select 1;\nselec 2;'), write('after.sql', 'drop table a;')];
    const { exitCode, stdout } = await lint(...files, '--no-squawk');
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(
      /broken\.sql:2:1 syntax PostgreSQL does not parse it: syntax error at or near "selec"\. [^\n]+\n\S+after\.sql:1:1 lock-without-timeout/,
    );
  });

  it('shows no control characters of others', async () => {
    const file = write('control.sql', 'select "\u001b[31m;');
    expect((await lint(file)).stdout).not.toContain('\u001b');
  });

  it('takes an empty file for what it is', async () => {
    expect(await lint(write('empty.sql', ''))).toEqual({
      exitCode: 0,
      stdout: '',
      stderr: 'Nothing found in 1 file.\n',
    });
  });

  it('runs as a program, and says what it takes', async () => {
    const run = await startLiventix(['restructure', 'lint', '--help']).done;
    expect(run.exitCode).toBe(0);
    expect(run.stdout).toContain('Usage: liventix restructure lint [options] <path...>');
    for (const line of run.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(140);
  });
});

describe('our migrations', () => {
  it('hold, with the baseline of those that landed', async () => {
    const run = await startLiventix(
      ['restructure', 'lint', 'migrations', '--baseline', 'lint-baseline.txt'],
      {},
      { cwd: root },
    ).done;
    expect(run).toMatchObject({ exitCode: 0, stdout: '' });
    expect(run.stderr).toMatch(/^Nothing found in \d+ files(?:, \d+ allowed)?, \d+ in the baseline\.\n/);
  });
});

describe('bad input', () => {
  it('is one clear line', async () => {
    await refused(/missing required argument 'path'/);
    await refused(
      /^liventix: USAGE: There is no "\/nowhere\/x\.sql"\. Give a file or a folder that is there\./,
      '/nowhere/x.sql',
    );
    await refused(/holds no file that ends in \.sql/, join(root, 'bin'));
    await refused(/is no text in UTF-8/, write('binary.sql', Buffer.from([0x73, 0, 0x73])));
    await refused(/is no text in UTF-8/, write('latin.sql', Buffer.from("select 'é'", 'latin1')));
    await refused(/has 5000001 bytes, more than 5000000/, write('huge.sql', Buffer.alloc(5_000_001, ' ')));
    await refused(/'nothing' is invalid\. There is no such rule/, '--disable', 'nothing', 'x.sql');
    await refused(/There is no such rule/, '--disable', 'syntax', 'x.sql');
    await refused(/is neither a file nor a folder/, '/dev/null');
    await refused(
      /base\.txt:1 is no entry of a baseline/,
      write('x.sql', ''),
      '--baseline',
      write('bad/base.txt', 'x.sql everything'),
    );
    await refused(/There is no "\/nowhere\.txt"/, write('x.sql', ''), '--baseline', '/nowhere.txt');
  });

  it('a mark of the byte order is taken off', async () => {
    expect((await lint(write('bom.sql', '\uFEFFdrop table a;'), '--no-squawk')).stdout).toMatch(
      /bom\.sql:1:1 lock-without-timeout/,
    );
  });
});
