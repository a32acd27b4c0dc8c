import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { isAlive } from '../../src/db/server.ts';
import { copyCheckout } from '../support/checkout.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { query } from '../support/query.ts';

// The demo on the embedded server. What it computes is told in demo.test.ts; here, that it leaves nothing behind.

const SMALL = ['demo', '--wallets', '10', '--transactions', '200'];
/** What a user may have set for servers elsewhere. */
const ELSEWHERE = { PGSSLMODE: 'require', PGPORT: '1', PGUSER: 'nobody', PGDATA: '/nowhere' };
const A_DEMO_MS = 120_000;
const STOPS_WITHIN_MS = 15_000;
/** As src/db/server.ts has it. */
const SERVER_STARTS_WITHIN_MS = 60_000;

const isRoot = process.getuid?.() === 0;

/** A checkout of the test's own: there the demo has its folder. */
let folder: string;
let bin: string;
let started: RunningLiventix[] = [];

beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'liventix-demo-')));
  // As root the server runs under another account, which has to get here.
  await chmod(folder, 0o755);
  bin = await copyCheckout(folder);
});
beforeEach(() => {
  started = [];
});
afterEach(async () => {
  for (const demo of started) demo.kill('SIGKILL');
  await Promise.all(started.map((demo) => demo.done));
});
afterAll(async () => {
  await stop();
  await rm(folder, { recursive: true, force: true });
});

function start(...flags: string[]): RunningLiventix {
  const demo = startLiventix([...SMALL, ...flags], ELSEWHERE, { bin });
  started.push(demo);
  return demo;
}
const run = (...flags: string[]) => start(...flags).done;
// From wherever it is asked.
const stop = () => startLiventix(['demo', '--stop'], {}, { bin, cwd: tmpdir() }).done;
const nothingKept = () => ({ exitCode: 0, stdout: `No demo was kept in ${join(folder, '.liventix')}\n`, stderr: '' });

interface Server {
  readonly pid: number;
  readonly port: number;
}

/** Where the server of the folder lives, where it cannot live in the folder. */
async function homeElsewhere(): Promise<string | undefined> {
  const record = await readFile(join(folder, '.liventix/postgres/server.json'), 'utf8').catch(() => '');
  return record === '' ? undefined : (JSON.parse(record) as { away: string }).away;
}

/** The server of this home, where it takes connections. */
async function readyIn(home: string): Promise<Server | undefined> {
  const text = await readFile(join(home, 'data/postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  return lines[7]?.trim() === 'ready' ? { pid: Number(lines[0]), port: Number(lines[3]) } : undefined;
}

/** The embedded server of the folder, once it takes connections. */
function serverOfDemo(): Promise<Server> {
  return eventually('the embedded server is ready', async () => {
    // Where the checkout of this suite may not be entered, neither may the binaries that the folder links to.
    const home = (await homeElsewhere()) ?? join(folder, '.liventix/postgres');
    return readyIn(home);
  });
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function expectNothingRuns(server: Server): Promise<void> {
  expect(await answers(server.port)).toBe(false);
  expect(isAlive(server.pid)).toBe(false);
  expect(await readdir(join(folder, '.liventix'))).toEqual(['postgres']);
}

it(
  'keeps the database for whoever asks, says how to connect, and stops the server on --stop',
  async () => {
    const kept = await run('--keep');
    expect(kept).toMatchObject({ exitCode: 0, stderr: '' });
    expect(kept.stdout).toContain('Books balance: yes');
    const [, url = ''] = /DATABASE_URL=(\S+) bin\/liventix books verify/.exec(kept.stdout) ?? [];
    const server = await serverOfDemo();
    expect(new URL(url)).toMatchObject({ port: `${server.port}`, pathname: '/liventix_demo' });

    expect(await liventix(['books', 'verify'], { DATABASE_URL: url })).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining('The books balance.'),
    });
    // Whoever measures asks as those whom the API knows.
    const roles = `unnest(array['anon', 'authenticated', 'service_role']) r (name)`;
    expect(await query(url, `select r.name from ${roles} where not pg_has_role(r.name, 'set')`)).toEqual([]);

    expect(await stop()).toMatchObject({
      exitCode: 0,
      stdout: `Stopped the server of the demo kept in ${join(folder, '.liventix')}\n`,
    });
    await expectNothingRuns(server);
    expect(await stop()).toEqual(nothingKept());
  },
  A_DEMO_MS,
);

it(
  'lets one of three demos that start at once in a folder work, tells the others DEMO_RUNNING, and is not stopped by --stop',
  async () => {
    // A lock whose process is gone: all three find it, and one takes it over.
    await mkdir(join(folder, '.liventix'), { recursive: true });
    await writeFile(join(folder, '.liventix/demo.lock'), '4194304');
    const demos = [start('--json'), start('--json'), start('--json')];
    const server = await serverOfDemo();
    expect(await stop()).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('liventix: DEMO_RUNNING: ') });

    const ends = await Promise.all(demos.map((demo) => demo.done));
    const worked = ends.filter((end) => end.exitCode === 0);
    const refused = ends.filter((end) => end.exitCode === 3);
    expect([worked.length, refused.length]).toEqual([1, 2]);
    expect(JSON.parse(worked[0]?.stdout ?? '')).toMatchObject({ booksBalance: true, legacyTransactions: 200 });
    const pid = demos[ends.findIndex((end) => end.exitCode === 0)]?.pid;
    for (const end of refused) {
      expect(end.stdout).toBe('');
      expect(end.stderr).toMatch(/^liventix: DEMO_RUNNING: [^\n]+\n$/);
      expect(end.stderr).toContain(`process ${pid}`);
    }
    await expectNothingRuns(server);
  },
  A_DEMO_MS,
);

it(
  'starts clean where a killed demo left its lock and its server',
  async () => {
    const killed = start();
    const orphan = await serverOfDemo();
    killed.kill('SIGKILL');
    await killed.done;
    expect(await answers(orphan.port)).toBe(true);

    expect(await run('--json')).toMatchObject({ exitCode: 0, stderr: '' });
    await expectNothingRuns(orphan);
  },
  A_DEMO_MS,
);

it(
  'takes over a lock whose process id belongs to something else by now',
  async () => {
    await writeFile(join(folder, '.liventix/demo.lock'), `${process.pid}`);
    expect(await stop()).toEqual(nothingKept());
  },
  A_DEMO_MS,
);

it.each(['SIGINT', 'SIGTERM'] as const)(
  'ends on %s with one line, and takes its server with it, asked to keep it or not',
  async (signal) => {
    // Much more than it could do until it is stopped.
    const demo = start('--transactions', '2000000', '--keep');
    const server = await serverOfDemo();
    const stoppedAt = performance.now();
    demo.kill(signal);
    const end = await demo.done;
    expect(performance.now() - stoppedAt).toBeLessThan(STOPS_WITHIN_MS);
    expect(end).toMatchObject({
      stdout: '',
      stderr: expect.stringMatching(/^liventix: DEMO_STOPPED: [^\n]*stopped[^\n]+\n$/),
    });
    expect(end.exitCode).toBe(3);
    await expectNothingRuns(server);
  },
  A_DEMO_MS,
);

it('says in one line that its folder cannot be written', async () => {
  const checkout = await mkdtemp(join(tmpdir(), 'liventix-demo-'));
  try {
    const launcher = await copyCheckout(checkout);
    // A file where the folder should be stops root as well.
    await writeFile(join(checkout, '.liventix'), '');
    const end = await startLiventix(SMALL, {}, { bin: launcher }).done;
    expect(end).toMatchObject({ exitCode: 3, stdout: '' });
    expect(end.stderr).toMatch(/^liventix: EMBEDDED_POSTGRES_FAILED: The folder [^\n]+ set DATABASE_URL\.\n$/);
  } finally {
    await rm(checkout, { recursive: true, force: true });
  }
});

// Then the server's account may not enter, and its home lies elsewhere.
it.runIf(isRoot)(
  'keeps twice, and cleans up after a kill, as root in a checkout that nobody else may enter',
  async () => {
    await chmod(folder, 0o700);
    try {
      const homes: string[] = [];
      for (const flags of [['--keep'], ['--keep'], ['--transactions', '2000000']]) {
        const demo = start(...flags, '--json');
        homes.push(await homeOfServer(homes));
        if (flags.includes('--keep')) {
          const end = await demo.done;
          expect(end).toMatchObject({ exitCode: 0, stderr: '' });
          const { databaseUrl } = JSON.parse(end.stdout) as { databaseUrl: string };
          expect(await liventix(['books', 'verify'], { DATABASE_URL: databaseUrl })).toMatchObject({ exitCode: 0 });
        } else {
          demo.kill('SIGKILL');
          await demo.done;
        }
        expect(homes.filter((home) => existsSync(home))).toEqual(homes.slice(-1));
      }
      expect((await stop()).stdout).toMatch(/^Stopped the server of the demo kept in /);
      expect(homes.filter((home) => existsSync(home))).toEqual([]);
    } finally {
      await chmod(folder, 0o755);
    }
  },
  2 * A_DEMO_MS,
);

/** Where the server lives outside the checkout, once it takes connections there. */
function homeOfServer(former: readonly string[]): Promise<string> {
  return eventually(
    'a server in a home of its own',
    async () => {
      const away = await homeElsewhere();
      if (away === undefined || former.includes(away)) return undefined;
      return (await readyIn(away)) && away;
    },
    SERVER_STARTS_WITHIN_MS,
  );
}
