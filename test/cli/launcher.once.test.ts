import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { TEST_ENCRYPTION_KEY } from '../support/liventix.ts';
import { addTestEndpoint, announce, clearOutbox, LOOPBACK, settled } from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

const BIN = fileURLToPath(new URL('../../bin/liventix', import.meta.url));
/** Makes the launcher believe that it runs under a Node which strips no types: it starts the pinned one. */
const ON_AN_OLDER_NODE = `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.0.0' } })`;
/** A signal that comes while the command line is being loaded. */
const SIGNAL_WHILE_LOADING = `import { registerHooks } from 'node:module';
  registerHooks({ load: (url, context, next) => {
    if (url.endsWith('/cli/main.ts')) process.kill(process.pid, 'SIGTERM');
    return next(url, context);
  } });`;
/** Longer than what counts as the same signal. */
const LATER_MS = 1_100;

let database: TestDatabase;
let receiver: TestReceiver;
let held: ServerResponse[] = [];
let child: ChildProcess;
let stderr = '';

beforeAll(async () => {
  database = await createDatabase();
  receiver = await startReceiver((response) => held.push(response));
});
beforeEach(async () => {
  await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 60_000 });
});
afterEach(async () => {
  for (const pid of [...processes(), child.pid ?? 0]) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
  held = [];
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

/** The launcher, leader of a process group of its own. */
function start(preload: string, args: readonly string[], env: Record<string, string> = {}): void {
  child = spawn(process.execPath, ['--import', `data:text/javascript,${encodeURIComponent(preload)}`, BIN, ...args], {
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      DATABASE_URL: database.url,
      OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
      OUTBOX_ENCRYPTION_KEY: TEST_ENCRYPTION_KEY,
      LOG_LEVEL: 'error',
      ...env,
    },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
}

/** A worker behind the launcher, with one request under way that the test answers. */
async function startBusyWorker(): Promise<void> {
  await announce(database.pool);
  start(ON_AN_OLDER_NODE, ['worker', '--drain-ms', '30000']);
  await eventually('a request is under way', () => held.length > 0);
}

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
/** Those that the launcher started. */
function processes(): number[] {
  const { pid } = child;
  if (pid === undefined || !isAlive(pid)) return [];
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}
const launcher = () => child.pid ?? Number.NaN;
const group = () => -launcher();
const exitCode = async () => child.exitCode ?? ((await once(child, 'close'))[0] as number | null);
const draining = () => eventually('it drains', () => stderr.includes('draining'));
const later = () => new Promise((resolve) => setTimeout(resolve, LATER_MS));

async function expectDrained(): Promise<void> {
  for (const response of held) response.writeHead(204).end();
  expect(await exitCode()).toBe(0);
  expect(stderr).toBe('liventix worker draining\nliventix worker stopped\n');
  expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 1 });
}

describe('a worker behind the launcher', () => {
  it.each([
    ['SIGTERM', 'its process group', group],
    ['SIGINT', 'its process group', group],
    ['SIGHUP', 'its process group', group],
    ['SIGTERM', 'the launcher alone', launcher],
    ['SIGINT', 'the launcher alone', launcher],
    ['SIGHUP', 'the launcher alone', launcher],
  ] as const)('drains once after a %s to %s', async (signal, _whom, target) => {
    await startBusyWorker();
    process.kill(target(), signal);
    await draining();
    await expectDrained();
  });

  it('goes on draining when SIGTERM comes again', async () => {
    await startBusyWorker();
    process.kill(group(), 'SIGTERM');
    await draining();
    await later();
    process.kill(group(), 'SIGTERM');
    process.kill(group(), 'SIGHUP');
    await later();
    await expectDrained();
  });

  it('ends at once when Ctrl-C is pressed again, and says so', async () => {
    await startBusyWorker();
    process.kill(group(), 'SIGINT');
    await draining();
    await later();
    process.kill(group(), 'SIGINT');
    expect(await exitCode()).toBe(130);
    expect(stderr).toBe('liventix worker draining\nliventix ends at once: SIGINT came again\n');
  });

  it.each([
    ['SIGKILL', 137],
    ['SIGABRT', 134],
    ['SIGUSR2', 140],
  ] as const)('killed by %s, makes the launcher say so and exit with %i', async (signal, code) => {
    await startBusyWorker();
    const [worker = Number.NaN] = processes();
    process.kill(worker, signal);
    expect(await exitCode()).toBe(code);
    expect(stderr).toContain(`liventix was ended by ${signal}\n`);
  });
});

it('a launcher that is killed takes the command with it', async () => {
  await startBusyWorker();
  const [worker = Number.NaN] = processes();
  process.kill(launcher(), 'SIGKILL');
  await eventually('the worker is gone', () => !isAlive(worker));
  expect(stderr).toBe('');
});

it('a signal that comes while the command line is being loaded stops the worker as later ones do', async () => {
  start(SIGNAL_WHILE_LOADING, ['worker']);
  expect(await exitCode()).toBe(0);
  expect(stderr).toBe('liventix worker draining\nliventix worker stopped\n');
});

describe.runIf(process.platform === 'linux')('the thread pool, half of which resolves names', () => {
  const threads = () => {
    const all = `/proc/${child.pid}/task`;
    return readdirSync(all).filter((id) => readFileSync(`${all}/${id}/comm`, 'utf8').startsWith('libuv-worker')).length;
  };

  it.each([
    ['is as large as the lookups of many endpoints want it', {}, 64],
    ['is as large as the environment says', { UV_THREADPOOL_SIZE: '6' }, 6],
  ])('%s', async (_what, env, size) => {
    await announce(database.pool);
    start('', ['worker'], env);
    await eventually('a request is under way', () => held.length > 0);
    expect(threads()).toBe(size);
  });
});
