import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../src/db/server.ts';
import { deleteEndpoint } from '../../src/outbox/endpoint-delete.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { WORKER_LOCK } from '../../src/outbox/presence.ts';
import { outboxStatus } from '../../src/outbox/status.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  clearOutbox,
  LOOPBACK,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { startReceiver } from '../support/receiver.ts';
import { startRedis } from '../support/redis.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const run = (args: readonly string[], env: Record<string, string> = {}) =>
  liventix(args, { DATABASE_URL: database.url, ...env });

describe('liventix outbox endpoint add', () => {
  it('prints the id and the secret, which no other command prints again', async () => {
    const added = await run([
      ...['outbox', 'endpoint', 'add', '--url', 'https://example.com/hooks?a=1'],
      ...['--topic', 'ticket.*', '--topic', 'payment.received', '--json'],
    ]);
    expect(added).toMatchObject({ exitCode: 0, stderr: '' });
    const { id, secret } = JSON.parse(added.stdout);
    expect(Buffer.from(secret.replace(/^whsec_/, ''), 'base64')).toHaveLength(32);

    const list = await run(['outbox', 'endpoint', 'list', '--json']);
    expect(JSON.parse(list.stdout)).toMatchObject([
      { id, url: 'https://example.com/hooks?a=1', topics: ['ticket.*', 'payment.received'], enabled: true },
    ]);
    const status = await run(['outbox', 'status', '--json']);
    for (const { stdout } of [
      list,
      status,
      await run(['outbox', 'endpoint', 'list']),
      await run(['outbox', 'status']),
    ]) {
      expect(stdout).toContain(id);
      expect(stdout).not.toContain(secret);
    }
  });

  it.each([
    ['ftp://example.com/', '*', 'OUTBOX_ENDPOINT_URL_INVALID'],
    ['https://example.com/#x', '*', 'OUTBOX_ENDPOINT_URL_INVALID'],
    ['http://2130706433/', '*', 'OUTBOX_EGRESS_REFUSED'],
    ['https://example.com/', 'Ticket Sold', 'OUTBOX_TOPIC_INVALID'],
  ])('refuses --url %s --topic %s with one line, exit code 2, and nothing written', async (url, topic, code) => {
    const refused = await run(['outbox', 'endpoint', 'add', '--url', url, '--topic', topic]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(new RegExp(`^liventix: ${code}: [^\\n]+\\n$`));
    expect(await run(['outbox', 'endpoint', 'add', '--dry-run', '--url', url, '--topic', topic])).toEqual(refused);
    expect((await run(['outbox', 'endpoint', 'list', '--json'])).stdout).toBe('[]\n');
  });

  it('says with --dry-run what it would add, without a secret, and adds nothing', async () => {
    const args = ['outbox', 'endpoint', 'add', '--dry-run', '--url', 'HTTPS://Example.com', '--topic', 'ticket.*'];
    const words = { exitCode: 0, stdout: 'would add  https://example.com/  ticket.*\n', stderr: '' };
    expect(await run(args)).toEqual(words);
    const json = JSON.parse((await run([...args, '--json'])).stdout);
    expect(json).toEqual({ wouldAdd: { url: 'https://example.com/', topics: ['ticket.*'] } });
    expect((await run(['outbox', 'endpoint', 'list', '--json'])).stdout).toBe('[]\n');
  });

  it('accepts a literal address that OUTBOX_EGRESS_ALLOW names', async () => {
    const args = ['outbox', 'endpoint', 'add', '--url', 'http://127.0.0.1:8080/', '--topic', '*'];
    expect((await run(args, { OUTBOX_EGRESS_ALLOW: '127.0.0.0/8' })).exitCode).toBe(0);
  });

  it('refuses one that OUTBOX_EGRESS_DENY names, whatever else is said of it', async () => {
    const deny = { OUTBOX_EGRESS_ALLOW: '127.0.0.0/8', OUTBOX_EGRESS_DENY: '127.0.0.1,8.8.8.0/24' };
    for (const url of ['http://127.0.0.1:8080/', 'https://8.8.8.8/']) {
      const refused = await run(['outbox', 'endpoint', 'add', '--url', url, '--topic', '*'], deny);
      expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
      expect(refused.stderr).toMatch(/^liventix: OUTBOX_EGRESS_REFUSED: [\d.]+ is in OUTBOX_EGRESS_DENY[^\n]+\n$/);
    }
  });
});

describe('liventix outbox status', () => {
  it('counts what waits, and says since when', async () => {
    await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await announce(database.pool);
    const status = JSON.parse((await run(['outbox', 'status', '--json'])).stdout);
    expect(status).toMatchObject({
      messages: { total: 1, unprocessed: 1 },
      deliveries: { pending: 0, paused: 0, queued: 0, delivering: 0, delivered: 0, dead: 0 },
      attempts: 0,
    });
    expect(status.oldestUndeliveredSeconds).toBeGreaterThan(0);
  });

  it('says who leads and how many workers there are, and that nobody is there for what waits', async () => {
    await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const idle = (await run(['outbox', 'status'])).stdout;
    expect(idle).toMatch(/^relay {7}NOBODY LEADS; workers: 0$/m);
    expect(idle).not.toMatch(/^nobody/m);
    await announce(database.pool);
    expect((await run(['outbox', 'status'])).stdout).toMatch(/^nobody {6}no worker runs, and 1 wait: /m);
    expect(JSON.parse((await run(['outbox', 'status', '--json'])).stdout)).toMatchObject({ relay: null, workers: 0 });
    const present = await database.pool.connect();
    await present.query('select pg_advisory_lock(hashtext($1), 7)', [WORKER_LOCK]);
    const { stdout } = await run(['outbox', 'status']);
    expect(stdout).toMatch(/^messages .* of which 1 are not yet turned into deliveries\n[\s\S]*; workers: 1$/m);
    expect(stdout).not.toMatch(/^nobody/m);
    present.release(true);
    await database.pool.query('update outbox.endpoints set enabled = false, disabled_at = now()');
    const worker = await startTestWorker({ databaseUrl: database.url });
    await eventually('it leads', async () => (await outboxStatus(database.pool)).relay !== null);
    expect((await run(['outbox', 'status'])).stdout).toMatch(/^relay {7}session \d+ .*leads; workers: 1$/m);
    await worker.stop();
  });

  it('counts what died with a deleted endpoint, so that its totals are what the tables have', async () => {
    const deleted = await addTestEndpoint(database.pool, { url: 'https://example.com/deleted' });
    await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await announceMany(database.pool, 3);
    await fanOut(database.pool, { limit: 10, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
    await deleteEndpoint(database.pool, { id: deleted.id, deletedAt: null });
    const { stdout } = await run(['outbox', 'status']);
    expect(stdout).toMatch(/^deliveries {2}3 pending, .* 3 dead, 0 delivered$/m);
    expect(stdout).toMatch(/^deleted {5}endpoints that were deleted: 0 delivered, 3 dead, counted above too$/m);
    expect(stdout).not.toContain(deleted.id);
  });

  it('counts apart what waits for a disabled endpoint', async () => {
    const gone = await addTestEndpoint(database.pool, { url: 'https://example.com/gone' });
    await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await announceMany(database.pool, 3);
    await fanOut(database.pool, { limit: 10, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
    await database.pool.query(
      `update outbox.endpoints set enabled = false, disabled_at = now(), disabled_reason = 'answered 410 Gone' where id = $1`,
      [gone.id],
    );
    const status = JSON.parse((await run(['outbox', 'status', '--json'])).stdout);
    expect(status.deliveries).toMatchObject({ pending: 3, paused: 3 });
    expect(status.endpoints).toMatchObject([
      { id: gone.id, enabled: false, waiting: 0, paused: 3 },
      { enabled: true, waiting: 3, paused: 0 },
    ]);
    const { stdout } = await run(['outbox', 'status']);
    expect(stdout).toMatch(/^deliveries {2}3 pending, 3 paused, /m);
    expect(stdout).toMatch(/^paused {6}3 wait for an endpoint that is disabled/m);
    await database.pool.query(`delete from outbox.deliveries where endpoint_id <> $1`, [gone.id]);
    // It was announced that an endpoint was disabled.
    await database.pool.query('delete from public.outbox where processed_at is null');
    expect((await run(['outbox', 'status'])).stdout).toMatch(
      /^oldest {6}no enabled endpoint waits for anything\npaused {6}3 /m,
    );
    expect(stdout).toMatch(/disabled \(answered 410 Gone\): 0 waiting, 3 paused, /);
  });
});

describe('liventix outbox endpoint list', () => {
  it('says in one line to stderr that there are none, and prints [] for machines', async () => {
    const none = await run(['outbox', 'endpoint', 'list']);
    expect(none).toMatchObject({
      exitCode: 0,
      stdout: '',
      stderr: expect.stringMatching(/^There are no endpoints[^\n]+\n$/),
    });
    expect(await run(['outbox', 'endpoint', 'list', '--json'])).toMatchObject({
      exitCode: 0,
      stdout: '[]\n',
      stderr: '',
    });
  });
});

describe.each(['OUTBOX_EGRESS_ALLOW', 'OUTBOX_EGRESS_DENY'])('%s', (name) => {
  const list = (value: string) => run(['outbox', 'endpoint', 'list', '--json'], { [name]: value });

  it.each([
    [',', 1],
    ['10.0.0.0/8,', 2],
    ['10.0.0.0/8,,::1', 2],
    [' ', 1],
  ])('"%s" is refused with one line that names element %i', async (value, element) => {
    const refused = await list(value);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(new RegExp(`^liventix: CONFIG_INVALID: ${name} has an empty element[^\\n]+\\n$`));
    expect(refused.stderr).toContain(`number ${element} of "${value}"`);
  });

  it('may be empty as a whole', async () => {
    expect((await list('')).exitCode).toBe(0);
  });
});

describe('liventix worker', () => {
  it('ignores every proxy of the environment', async () => {
    const [proxy, receiver] = [await startReceiver(), await startReceiver()];
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    // With NO_PROXY that excepts nothing of ours, and every other as libraries are known to read them.
    const names = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'GLOBAL_AGENT_HTTP_PROXY', 'npm_config_proxy'];
    const proxies = names.flatMap((name) => [name, name.toLowerCase()]).map((name) => [name, proxy.url]);
    const worker = startLiventix(['worker'], {
      DATABASE_URL: database.url,
      OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
      NODE_USE_ENV_PROXY: '1',
      NO_PROXY: 'example.com',
      no_proxy: 'example.com',
      ...Object.fromEntries(proxies),
    });
    await settled(database.pool);
    worker.kill('SIGTERM');
    expect((await worker.done).exitCode).toBe(0);
    expect([receiver.received.length, proxy.connections()]).toEqual([1, 0]);
    await Promise.all([proxy.stop(), receiver.stop()]);
  });

  it.each([
    ['that is inside', {}, 'is not a public address and not in OUTBOX_EGRESS_ALLOW'],
    [
      'that is denied',
      { OUTBOX_EGRESS_ALLOW: '127.0.0.0/8', OUTBOX_EGRESS_DENY: '127.0.0.1' },
      'is in OUTBOX_EGRESS_DENY',
    ],
  ])('counts an address %s as a failed attempt and sends no request', async (_which, env, why) => {
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    const worker = startLiventix(['worker'], { DATABASE_URL: database.url, LOG_LEVEL: 'silent', ...env });
    const rows = await eventually('an attempt is recorded', async () => {
      const result = await database.pool.query('select error_class, error, status_code, address from outbox.attempts');
      return result.rows.length > 0 && result.rows;
    });
    worker.kill('SIGTERM');
    await worker.done;
    const error = `127.0.0.1 is at 127.0.0.1, which ${why}`;
    expect(rows).toEqual([{ error_class: 'egress_refused', error, status_code: null, address: '127.0.0.1' }]);
    expect(receiver.connections()).toBe(0);
    await receiver.stop();
  });

  it('says in one sentence which Redis does not answer, without its password, and what to do', async () => {
    const port = await freePort();
    const refused = await run(['worker'], { REDIS_URL: `redis://:hunter2@127.0.0.1:${port}` });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toBe(
      `liventix: QUEUE_UNREACHABLE: Redis at 127.0.0.1:${port} cannot be used (connect ECONNREFUSED 127.0.0.1:${port}): check that it runs and that REDIS_URL names its host, port, user, password and database, or unset REDIS_URL to queue in PostgreSQL.\n`,
    );
  });

  it.each(['worker', 'doctor'])('%s refuses a database of Redis that does not exist', async (command) => {
    const redis = await startRedis();
    const refused = await run([command], { REDIS_URL: `${redis.url}/99` });
    expect(refused.exitCode).toBe(3);
    expect(`${refused.stdout}${refused.stderr}`).toMatch(
      new RegExp(
        `QUEUE_UNREACHABLE: Redis at 127\\.0\\.0\\.1:${redis.port} cannot be used \\([^\\n]*DB index is out of range`,
      ),
    );
    await redis.stop();
  });

  it.each(['0', 'many'])('refuses --concurrency %s', async (value) => {
    const refused = await run(['worker', `--concurrency=${value}`]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: [^\n]+\n$/);
  });

  it('refuses a database that is not migrated', async () => {
    const empty = await createDatabase({ template: EMPTY });
    const refused = await run(['worker'], { DATABASE_URL: empty.url });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: MIGRATIONS_PENDING: [^\n]+\n$/);
    await empty.drop();
  });
});
