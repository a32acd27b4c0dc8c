import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { beginVerification, keepVerification } from '../../src/console/verifications.ts';
import { openBook } from '../../src/ledger/books.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';
import { expectRefusal } from '../support/refusal.ts';
import { HOSTILE_TEXTS, shownAs } from '../support/reports.ts';
import { disguised } from '../support/tamperings/tampering.ts';

const PATH = '/usr/bin:/bin';

let database: TestDatabase;
let folder: string;
let path: string;
beforeAll(async () => {
  database = await createDatabase();
  await fillDiverseBook(database.pool, 1);
});
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-test-report-'));
  await mkdir(join(folder, 'tmp'));
  path = join(folder, 'report');
  return () => rm(folder, { recursive: true, force: true });
});
afterAll(() => database?.drop());

const ARGS = ['books', 'report', '--period', '2026-02'];
const run = (...args: readonly string[]) =>
  liventix([...ARGS, '--output', path, ...args], { DATABASE_URL: database.url, PATH });

/** A program that is taken for Chromium, and is none. */
async function fakeBrowser(script: string): Promise<string> {
  const program = join(folder, 'browser');
  await writeFile(program, `#!/bin/sh\n${script}\n`);
  await chmod(program, 0o755);
  return program;
}
/** A command of its own process, and what it keeps for a while in a folder of its own. */
const start = (...args: readonly string[]) =>
  startLiventix([...ARGS, '--output', path, ...args], { DATABASE_URL: database.url, TMPDIR: join(folder, 'tmp') });
const leftovers = () => readdir(join(folder, 'tmp'));

describe('a report', () => {
  it('never takes the place of one that is there', async () => {
    expect(await run()).toMatchObject({ exitCode: 0 });
    const kept = await readFile(path, 'utf8');
    expect(await run()).toMatchObject({ exitCode: 2, stdout: '', stderr: expect.stringContaining('is there already') });
    expect(await readFile(path, 'utf8')).toBe(kept);
    expect(await readdir(folder)).toEqual(['report', 'tmp']);
  });

  it('is named after its book and period where nobody names it, and told as JSON with its SHA-256', async () => {
    const command = startLiventix(
      [...ARGS, '--format', 'csv', '--json'],
      { DATABASE_URL: database.url },
      { cwd: folder },
    );
    const { exitCode, stdout } = await command.done;
    expect(exitCode).toBe(0);
    const [file = ''] = (await readdir(folder)).filter((name) => name !== 'tmp');
    expect(file).toBe('liventix-book-1-2026-02.csv');
    const text = await readFile(join(folder, file));
    const sha256 = new Uint8Array(await crypto.subtle.digest('SHA-256', text));
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ file, format: 'csv', book: 1, status: 'provisional', standing: 'open', holds: true, verification: 'now' },
      sha256: Buffer.from(sha256).toString('hex'),
      bytes: text.length,
      period: {
        text: '2026-02',
        from: '2026-02-01T00:00:00.000000Z',
        until: '2026-03-01T00:00:00.000000Z',
        zone: 'UTC',
      },
    });
  });

  it('goes to stdout alone where that is asked for', async () => {
    const csv = await liventix([...ARGS, '--format', 'csv', '--output', '-'], { DATABASE_URL: database.url });
    expect(csv).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^section,currency,[\s\S]*\r\n$/) });
    expect(csv.stderr).toMatch(/^Book 1, 2026-02, provisional: SHA-256 [0-9a-f]{64}\n/);
  });

  it('is a PDF on stdout, byte by byte', async () => {
    const command = startLiventix(
      [...ARGS, '--format', 'pdf', '--output', '-', '--no-verify'],
      { DATABASE_URL: database.url },
      { unread: true },
    );
    command.stdout.setEncoding('latin1');
    let pdf = '';
    for await (const chunk of command.stdout) pdf += chunk;
    expect((await command.done).exitCode).toBe(0);
    const xref = Number(/startxref\n(\d+)\n%%EOF\s*$/.exec(pdf)?.[1]);
    expect(pdf).toMatch(/^%PDF-1\./);
    expect(pdf.slice(xref, xref + 4)).toBe('xref');
  });

  it.each([
    ['a JSON object beside it on stdout', ['--output', '-', '--json'], /would both be on stdout/],
    ['a folder that is not there', ['--output', '/nowhere/at/all.html'], /there is no folder/],
    ['a period that is none', ['--period', '2026-13'], /^.*REPORT_PERIOD_INVALID: "2026-13" is no period/],
    [
      'a zone by its offset, which PostgreSQL reads the other way round',
      ['--zone', '+02:00'],
      /such as UTC or Europe\/Berlin/,
    ],
    ['a zone by an abbreviation, which knows no summer there', ['--zone', 'CET'], /such as UTC or Europe\/Berlin/],
    ['a locale that is none', ['--locale', 'not a locale'], /such as en-GB or de-DE/],
    ['paper for a page', ['--paper', 'letter'], /are for --format pdf/],
  ])('is refused with %s', async (_, args, says) => {
    const code = says.source.includes('PERIOD') ? 'REPORT_PERIOD_INVALID' : 'USAGE';
    await expectRefusal({ code, says }, [...ARGS, ...args], { DATABASE_URL: database.url });
  });
});

describe('a browser', () => {
  it('that is missing is told before anything is read', async () => {
    const nothing = { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/nothing', PATH: folder };
    const pdf = [...ARGS, '--format', 'pdf', '--output', path];
    await expectRefusal({ code: 'REPORT_BROWSER_MISSING', says: /apt-get install chromium/ }, pdf, nothing);
    for (const named of [join(folder, 'none'), folder, '/etc/passwd']) {
      await expectRefusal(
        { code: 'REPORT_BROWSER_MISSING', says: /is no program/ },
        [...pdf, '--chromium', named],
        nothing,
      );
    }
    expect(await readdir(folder)).toEqual(['tmp']);
  });

  it.each([
    ['fails', 'echo "no display" >&2; exit 7', /no display/],
    ['prints nothing', 'exit 0', /it said nothing/],
    ['cannot be started', '\n', /printed no PDF/],
  ])('that %s leaves no file, and what it said is told', async (_, script, says) => {
    const browser = await fakeBrowser(script);
    const pdf = await start('--format', 'pdf', '--chromium', browser, '--no-verify').done;
    expect(pdf).toMatchObject({
      exitCode: 3,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: REPORT_BROWSER_FAILED: /),
    });
    expect(pdf.stderr).toMatch(says);
    expect(await readdir(folder)).toEqual(['browser', 'tmp']);
    expect(await leftovers()).toEqual([]);
  });
});

describe('Ctrl-C', () => {
  it('while the books are read ends the command, the query on the server, and leaves no file', async () => {
    const holder = await database.pool.connect();
    try {
      await holder.query('begin; lock table payments.entries in access exclusive mode');
      const command = start();
      await waitsForLock(database.pool, 'payments.entries');
      command.kill('SIGINT');
      expect(await command.done).toMatchObject({ exitCode: 3, stdout: '', stderr: expect.stringContaining('STOPPED') });
      await eventually('nobody waits on the server', async () => {
        const { rowCount } = await database.pool.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return rowCount === 0;
      });
    } finally {
      await holder.query('rollback');
      holder.release();
    }
    expect(await readdir(folder)).toEqual(['tmp']);
  });

  it('while it is printed ends the browser and what that started, and leaves no file', async () => {
    const pids = join(folder, 'pids');
    const browser = await fakeBrowser(`sleep 300 & echo $$ $! > ${pids}.part; mv ${pids}.part ${pids}; wait`);
    const command = startLiventix(
      [...ARGS, '--output', path, '--format', 'pdf', '--chromium', browser, '--no-verify'],
      {
        DATABASE_URL: database.url,
      },
    );
    const started = await eventually('it prints', () => readFile(pids, 'utf8').catch(() => undefined));
    command.kill('SIGINT');
    expect(await command.done).toMatchObject({ exitCode: 3, stdout: '', stderr: expect.stringContaining('STOPPED') });
    for (const pid of started.trim().split(' ').map(Number)) {
      await eventually(`${pid} has ended`, () => !isRunning(pid));
    }
    expect((await readdir(folder)).toSorted()).toEqual(['browser', 'pids', 'tmp']);
    expect(await leftovers()).toEqual([]);
  });
});

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('what does not hold', () => {
  it('is said in the report of tampered books, with its figures, and the command exits with 1', async () => {
    const own = await createDatabase();
    try {
      await fillDiverseBook(own.pool, 1);
      await closePeriod(own.pool, { until: '2026-03-01T00:00:00Z' });
      // One sum by 1, and an entry of a closed period to another account; names that no posting lets in.
      await own.pool.query(
        disguised(`
          update payments.entries set amount_cents = amount_cents + 1 where id = (select min(id) from payments.entries where currency = 'JPY');
          alter table payments.accounts drop constraint accounts_name_format;
          update payments.accounts set name = t.text from unnest(array[${HOSTILE_TEXTS.map((text) => `$t$${text}$t$`).join(', ')}]) with ordinality as t (text, nth)
          where id = (select id from payments.accounts a where a.type = 'suspense' and a.book_id = 1 order by a.currency offset least(t.nth - 1, 3) limit 1)`),
      );
      const done = await liventix([...ARGS, '--output', path], { DATABASE_URL: own.url });
      expect(done).toMatchObject({ exitCode: 1, stdout: expect.stringContaining('does NOT hold'), stderr: '' });
      const page = await readFile(path, 'utf8');
      expect(page).toContain('No: the books do not balance.');
      expect(page).toContain('1 JPY: so much is the sum of all opening balances, and it must be nothing.');
      expect(page).toMatch(
        /The certificate of the period that ended .* does not agree: JPY \w+: certified (debit|credit)/,
      );
      expect(page).toContain('does not hold</span>');
      expect(page).not.toMatch(/<script|<img/);
      expect(
        HOSTILE_TEXTS.map(shownAs).some((text) =>
          page.includes(
            text.replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;').replaceAll("'", '&#39;'),
          ),
        ),
      ).toBe(true);
    } finally {
      await own.drop();
    }
  });
});

describe('--no-verify', () => {
  it('says that nothing is known beyond the sums, then names the verification that was kept last and what came since', async () => {
    const own = await createDatabase();
    const { pool } = own;
    try {
      await fillDiverseBook(pool, 1);
      expect(await liventix([...ARGS, '--output', path, '--no-verify'], { DATABASE_URL: own.url })).toMatchObject({
        exitCode: 0,
      });
      expect(await readFile(path, 'utf8')).toContain('Every currency sums to zero, and that is all that is known.');

      const begun = await beginVerification(pool, { askedBy: 'a test' });
      const { certificate } = await keepVerification(
        pool,
        { verificationId: begun.verificationId, bookId: undefined, version: 'test' },
        (watch) => verifyBooksAndWallets(pool, watch, { summaries: true }),
      );
      await openBook(pool, 'since');
      const csv = await liventix([...ARGS, '--output', '-', '--format', 'csv', '--no-verify'], {
        DATABASE_URL: own.url,
      });
      const { rows } = await pool.query<{ sha256: string }>(
        'select certificate_sha256 as sha256 from console.verifications',
      );
      expect(csv.stdout).toContain(`report,,,,verification_sha256,${rows[0]?.sha256},`);
      const page = `${path}.html`;
      expect(await liventix([...ARGS, '--output', page, '--no-verify'], { DATABASE_URL: own.url })).toMatchObject({
        exitCode: 0,
      });
      const text = await readFile(page, 'utf8');
      expect(text).toContain(
        `by verification ${begun.verificationId}. Up to 1 events were recorded since, which it does not speak of.`,
      );
      expect(text.replaceAll('&quot;', '"').replaceAll('&#39;', "'")).toContain(certificate.trimEnd());
    } finally {
      await own.drop();
    }
  });
});
