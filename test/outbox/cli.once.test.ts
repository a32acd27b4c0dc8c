import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../src/db/server.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { addTestEndpoint, announce, clearOutbox, LOOPBACK, settled } from '../support/outbox.ts';
import { startReceiver } from '../support/receiver.ts';

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
      ...['outbox', 'endpoint', 'add', '--url', 'https://example.com/hooks?a=1#fragment'],
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
    ['http://2130706433/', '*', 'OUTBOX_EGRESS_REFUSED'],
    ['https://example.com/', 'Ticket Sold', 'OUTBOX_TOPIC_INVALID'],
  ])('refuses --url %s --topic %s with one line, exit code 2, and nothing written', async (url, topic, code) => {
    const refused = await run(['outbox', 'endpoint', 'add', '--url', url, '--topic', topic]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(new RegExp(`^liventix: ${code}: [^\\n]+\\n$`));
    expect((await run(['outbox', 'endpoint', 'list', '--json'])).stdout).toBe('[]\n');
  });

  it('accepts a literal address that OUTBOX_EGRESS_ALLOW names', async () => {
    const args = ['outbox', 'endpoint', 'add', '--url', 'http://127.0.0.1:8080/', '--topic', '*'];
    expect((await run(args, { OUTBOX_EGRESS_ALLOW: '127.0.0.0/8' })).exitCode).toBe(0);
  });
});

describe('liventix outbox status', () => {
  it('counts what waits, and says since when', async () => {
    await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await announce(database.pool);
    const status = JSON.parse((await run(['outbox', 'status', '--json'])).stdout);
    expect(status).toMatchObject({
      messages: { total: 1, unprocessed: 1 },
      deliveries: { pending: 0, queued: 0, delivering: 0, delivered: 0, dead: 0 },
      attempts: 0,
    });
    expect(status.oldestUndeliveredSeconds).toBeGreaterThan(0);
  });
});

describe('liventix worker', () => {
  it('ignores every proxy of the environment', async () => {
    const [proxy, receiver] = [await startReceiver(), await startReceiver()];
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    const proxies = ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'ALL_PROXY'].map((name) => [name, proxy.url]);
    const worker = startLiventix(['worker'], {
      DATABASE_URL: database.url,
      OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
      NODE_USE_ENV_PROXY: '1',
      ...Object.fromEntries(proxies),
    });
    await settled(database.pool);
    worker.kill('SIGTERM');
    expect((await worker.done).exitCode).toBe(0);
    expect([receiver.received.length, proxy.connections()]).toEqual([1, 0]);
    await Promise.all([proxy.stop(), receiver.stop()]);
  });

  it('counts a refused address as a failed attempt and sends no request', async () => {
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    const worker = startLiventix(['worker'], { DATABASE_URL: database.url, LOG_LEVEL: 'silent' });
    const rows = await eventually('an attempt is recorded', async () => {
      const result = await database.pool.query('select error_class, status_code, address from outbox.attempts');
      return result.rows.length > 0 && result.rows;
    });
    worker.kill('SIGTERM');
    await worker.done;
    expect(rows).toEqual([{ error_class: 'egress_refused', status_code: null, address: '127.0.0.1' }]);
    expect(receiver.connections()).toBe(0);
    await receiver.stop();
  });

  it('says in one line that Redis does not answer', async () => {
    const refused = await run(['worker'], { REDIS_URL: `redis://127.0.0.1:${await freePort()}` });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: QUEUE_UNREACHABLE: [^\n]+\n$/);
  });

  it.each(['0', 'many'])('refuses --concurrency %s', async (value) => {
    const refused = await run(['worker', `--concurrency=${value}`]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: [^\n]+\n$/);
  });

  it('refuses a database that is not migrated', async () => {
    const empty = await createDatabase({ from: 'empty' });
    const refused = await run(['worker'], { DATABASE_URL: empty.url });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: MIGRATIONS_PENDING: [^\n]+\n$/);
    await empty.drop();
  });
});
