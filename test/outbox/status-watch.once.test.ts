import { stripVTControlCharacters } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { paintOf } from '../../src/cli/paint.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { addTestEndpoint, announceMany, clearOutbox, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { type WeakLink, weakLink } from './weak-link.ts';

let database: TestDatabase;
let receiver: TestReceiver;
let link: WeakLink;
let watching: RunningLiventix | undefined;
let output = '';

beforeAll(async () => {
  database = await createDatabase();
  receiver = await startReceiver((response, webhook) =>
    answer(webhook.path === '/fails' ? 500 : 204)(response, webhook),
  );
});
beforeEach(async () => {
  link = await weakLink(database.url);
});
afterEach(async () => {
  watching?.kill('SIGKILL');
  await watching?.done;
  await link.close();
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

const watch = (flags: readonly string[] = [], options: { terminal?: boolean } = {}) => {
  output = '';
  const args = ['outbox', 'status', '--watch', '--every', '100ms', ...flags];
  const started = startLiventix(args, { DATABASE_URL: link.url }, { unread: true, ...options });
  started.stdout.on('data', (chunk: string) => {
    output += chunk;
  });
  watching = started;
  return started;
};
const lines = () => output.split('\n').slice(0, -1);
const ticks = () => lines().map((line) => JSON.parse(line));

it('tells rates, who leads, and what waits for whom; ends with Ctrl-C', async () => {
  await addTestEndpoint(database.pool, { url: receiver.url });
  const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/fails` });
  const command = watch(['--json']);
  await eventually('it looks', () => ticks().length > 0);
  expect(ticks()[0]).toMatchObject({ relay: null, workers: 0, deliveredPerSecond: 0, endpoints: [], horizon: [] });
  const worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: [3_600_000] });
  await announceMany(database.pool, 20);
  const busy = await eventually('it has seen them', () => {
    const all = ticks();
    const sum = (name: string) => all.reduce((total, tick) => total + tick[name], 0);
    return sum('deliveredPerSecond') > 0 && sum('failedPerSecond') > 0 && all;
  });
  expect(busy.at(-1)).toMatchObject({ relay: { pid: expect.any(Number) }, workers: 1 });
  const open = await eventually('the breaker is open', () =>
    ticks().find(({ endpoints }) => endpoints[0]?.breaker === 'open'),
  );
  expect(open.endpoints[0]).toMatchObject({ id, probeAt: expect.any(String), waiting: expect.any(Number) });
  await worker.stop();
  command.kill('SIGINT');
  expect(await command.done).toMatchObject({ exitCode: 0, stderr: '' });
});

it('names what holds the horizon back', async () => {
  const client = await database.pool.connect();
  await client.query('begin');
  await client.query('select pg_current_xact_id()');
  watch(['--json']);
  const tick = await eventually('it is old enough', () => ticks().find(({ horizon }) => horizon.length > 0));
  expect(tick.horizon[0]).toMatchObject({ kind: 'transaction', hasWritten: true });
  await client.query('rollback');
  client.release();
});

it('goes on while the database is away, says so, and ends with Ctrl-C even then', async () => {
  const command = watch();
  await eventually('it looks', () => lines().length > 0);
  expect(lines()[0]).toMatch(
    /^\S+Z {2}delivered 0\/s {2}failed 0\/s {2}lag - {2}.* relay none {2}workers 0 {2}horizon \d+ s$/,
  );
  link.cut();
  await eventually('it says so', () =>
    lines().some((line) => / not answered, asked again: DB_UNREACHABLE: /.test(line)),
  );
  const before = lines().length;
  link.mend();
  await eventually('it is answered again', () =>
    lines()
      .slice(before)
      .some((line) => /delivered 0\/s/.test(line)),
  );
  link.silence();
  const silentAt = performance.now();
  await eventually('it waits for an answer', () => performance.now() - silentAt > 500);
  command.kill('SIGINT');
  expect(await command.done).toMatchObject({ exitCode: 0, stderr: '' });
  expect(performance.now() - silentAt).toBeLessThan(4_000);
});

it('draws a screen on a terminal, over and over, with what waits for whom', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/fails` });
  const worker = await startTestWorker({
    databaseUrl: database.url,
    retryDelaysMs: [3_600_000],
    breaker: { openMs: 60_000, maxOpenMs: 60_000 },
  });
  await announceMany(database.pool, 20);
  const command = watch([], { terminal: true });
  const screens = () => output.replaceAll('\r\n', '\n').split('\u001b[H\u001b[2J');
  const screen = await eventually('it shows the endpoint, and has shown others before', () => {
    const [before, ...shown] = screens();
    expect(before).toBe('');
    return shown.length > 3 && shown.find((text) => text.includes('breaker open'));
  });
  expect(screen).toMatch(
    /^\S+Z {2}delivered \d.*\nmessages .*\ndeliveries .* pending.*\noldest .*\nrelay {7}session \d+ .*leads; workers: 1\n/,
  );
  expect(screen).toContain(`0 dead, ${paintOf(true).bad('breaker open')}: probed`);
  expect(stripVTControlCharacters(`${screen}`)).toMatch(
    new RegExp(
      `\nendpoint    ${id}  \\S+/fails  \\d+ waiting, 0 dead, breaker open: probed in \\d+ s at the earliest\n`,
    ),
  );
  link.cut();
  await eventually('it says that it is not answered', () =>
    /Z {2}not answered, asked again: /.test(screens().at(-1) ?? ''),
  );
  await worker.stop();
  command.stdin.write('\u0003');
  expect(await command.done).toMatchObject({ exitCode: 0 });
});

it.each(['2', '99ms', '0s', '61m', 'soon'])('refuses --every %s', async (every) => {
  const refused = await liventix(['outbox', 'status', '--watch', '--every', every], { DATABASE_URL: database.url });
  expect(refused).toMatchObject({
    exitCode: 2,
    stdout: '',
    stderr: expect.stringMatching(/^liventix: USAGE: [^\n]+\n$/),
  });
});
