import { once } from 'node:events';
import { setImmediate as immediately } from 'node:timers/promises';
import { Cluster } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../src/db/server.ts';
import { removeQueue } from '../../src/outbox/redis-backend.ts';
import { findRedis, redisClient } from '../../src/outbox/redis-servers.ts';
import { STOP_MARGIN_MS } from '../../src/outbox/worker.ts';
import { makeCertificates } from '../support/certificates.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix } from '../support/liventix.ts';
import { addTestEndpoint, announceMany, clearOutbox, LOOPBACK, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis } from '../support/redis.ts';
import { startRedisCluster, type TestClusterNode, type TestRedisCluster } from '../support/redis-cluster.ts';
import { watchedAt } from './watched.ts';
import { startWorkerProcess, type WorkerProcess } from './worker-process.ts';

const DRAIN_MS = 500;
/** For a loaded machine to hear a signal and to end a process. */
const SLACK_MS = 1_500;

let database: TestDatabase;
let receiver: TestReceiver;
let cluster: TestRedisCluster;
let respond = answer(204);
let worker: WorkerProcess | undefined;
/** Of one test alone. */
let own: TestRedisCluster | undefined;

beforeAll(async () => {
  [database, cluster] = await Promise.all([createDatabase(), startRedisCluster()]);
  receiver = await startReceiver((response, webhook) => respond(response, webhook));
});
afterEach(async () => {
  worker?.kill('SIGKILL');
  await worker?.exitCode;
  worker = undefined;
  await own?.stop();
  own = undefined;
  respond = answer(204);
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await cluster.stop();
  await receiver.stop();
  await database.drop();
});

const startWorker = (env: Record<string, string>, flags: readonly string[] = []) => {
  worker = startWorkerProcess([...flags, '--poll-ms', '100', '--sweep-ms', '100'], {
    DATABASE_URL: database.url,
    OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
    ...env,
  });
  return worker;
};
const deliverSome = async () => {
  await addTestEndpoint(database.pool, { url: receiver.url });
  await announceMany(database.pool, 10);
  expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 10 });
};
const allKeys = async () => (await Promise.all(cluster.masters.map(({ client }) => client.keys('*')))).flat();
const urlOf = (node: TestClusterNode | undefined) => node?.url ?? '';

describe('a Redis Cluster', () => {
  it.each<[string, () => Promise<string>]>([
    ['any one of its nodes', async () => urlOf(cluster.masters[1])],
    [
      'two nodes, of which one is down',
      async () => `redis://127.0.0.1:${await freePort()},${urlOf(cluster.masters[0])}`,
    ],
    ['two nodes, of which the name of one is gone', async () => `redis://gone.invalid,${urlOf(cluster.masters[2])}`],
  ])('is found by %s', async (_what, url) => {
    const running = await startTestWorker({ databaseUrl: database.url, redisUrl: await url() });
    await deliverSome();
    await running.stop();
  });

  it('is forgotten by removeQueue without a trace', async () => {
    const running = await startTestWorker({ databaseUrl: database.url, redisUrl: cluster.url });
    await deliverSome();
    await running.stop();
    expect(await allKeys()).not.toEqual([]);
    await removeQueue(database.pool, cluster.url);
    expect(await allKeys()).toEqual([]);
  });

  it('is reached by TLS and a password at nodes that nobody named', async () => {
    const certificates = makeCertificates();
    own = await startRedisCluster({ tls: certificates });
    await Promise.all(own.masters.map(({ client }) => client.config('SET', 'requirepass', 'p,w')));
    // One of the two does not hold the queue.
    for (const { tlsPort } of own.masters.slice(0, 2)) {
      const running = startWorker({
        REDIS_URL: `rediss://:p,w@localhost:${tlsPort}`,
        NODE_EXTRA_CA_CERTS: certificates.caFile,
      });
      await deliverSome();
      running.kill('SIGTERM');
      expect(await running.exitCode).toBe(0);
      await clearOutbox(database.pool);
    }
    certificates.remove();
  });
});

describe("a cluster's client", () => {
  const connected = async (url: string) => {
    const servers = await findRedis(url, new AbortController().signal);
    const client = redisClient(servers, { isPatient: true, timeouts: {}, retryStrategy: () => 100 });
    client.on('error', () => undefined);
    await client.connect();
    if (!(client instanceof Cluster)) throw new Error('it is a cluster');
    return client;
  };

  // BullMQ waits for ever for what comes of connecting.
  it('says that it is connected while the cluster is down', async () => {
    own = await startRedisCluster();
    const [first, second] = own.masters;
    await second?.kill();
    await eventually('the cluster is down', async () =>
      (await first?.client.cluster('INFO'))?.includes('cluster_state:fail'),
    );
    (await connected(own.url)).disconnect();
  });

  // BullMQ connects again what has ended, and waits for ever for what only closes.
  it.each([
    ['it', (client: Cluster) => client],
    ['its copy', (client: Cluster) => client.duplicate()],
  ])('does not say that it closes after %s has ended', async (_what, choose) => {
    const client = await connected(cluster.url);
    const chosen = choose(client);
    await chosen.set('asked', 'of one node alone', 'PX', 1);
    const connection = chosen.nodes().find(({ status }) => status === 'ready');
    if (connection === undefined) throw new Error('no node was asked');
    const lastFarewell = once(connection, 'end');
    chosen.disconnect();
    client.disconnect();
    await lastFarewell;
    await immediately();
    expect(chosen.status).toBe('end');
  });
});

describe('REDIS_URL', () => {
  const refusal = async (url: string) => {
    const refused = await liventix(['worker'], { DATABASE_URL: database.url, REDIS_URL: url });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: QUEUE_UNREACHABLE: [^\n]+\n$/);
    return refused.stderr;
  };

  it('may not name a database of a cluster', async () => {
    expect(await refusal(`${urlOf(cluster.masters[0])}/1`)).toContain(
      'cannot be used (it is a Redis Cluster, which has no database but 0)',
    );
  });

  it('may not name several servers that are no cluster', async () => {
    const redis = await startRedis();
    expect(await refusal(`${redis.url},${redis.url}`)).toContain(
      'cannot be used (REDIS_URL names several servers, and this one is of no Redis Cluster)',
    );
    await redis.stop();
  });

  it('is told by its hosts, and without its passwords, when none of them answers', async () => {
    const [one, other] = [await freePort(), await freePort()];
    const said = await refusal(`redis://:hunter2@127.0.0.1:${one},redis://:hunter2@127.0.0.1:${other}`);
    expect(said).toContain(
      `Redis at 127.0.0.1:${one}, 127.0.0.1:${other} cannot be used (connect ECONNREFUSED 127.0.0.1:${one})`,
    );
    expect(said).not.toContain('hunter2');
  });
});

describe('a worker on a cluster that is told to stop', () => {
  it.each<[string, (nodes: readonly TestClusterNode[]) => unknown, 'at once' | 'noticed']>([
    ['it lost all nodes', (nodes) => Promise.all(nodes.map((node) => node.kill())), 'at once'],
    ['it lost all nodes and the worker knows', (nodes) => Promise.all(nodes.map((node) => node.kill())), 'noticed'],
    ['it went silent', (nodes) => nodes.map((node) => node.freeze()), 'at once'],
    ['it went silent and the worker knows', (nodes) => nodes.map((node) => node.freeze()), 'noticed'],
  ])('ends within its drain and the margin after %s', async (_what, goAway, when) => {
    own = await startRedisCluster();
    respond = () => undefined;
    await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 60_000, maxInFlight: 3 });
    const before = receiver.received.length;
    const running = startWorker({ REDIS_URL: own.url }, ['--drain-ms', `${DRAIN_MS}`]);
    await announceMany(database.pool, 6);
    await eventually('three requests are under way', () => receiver.received.length >= before + 3);
    await goAway(own.masters);
    if (when === 'noticed')
      await eventually('it has noticed', () => running.log().some(({ msg }) => /fails/.test(msg)));
    const stoppedAt = performance.now();
    running.kill('SIGTERM');
    expect(await running.exitCode).toBe(0);
    expect(performance.now() - stoppedAt).toBeLessThan(DRAIN_MS + STOP_MARGIN_MS + SLACK_MS);
    expect(running.stderr()).not.toMatch(/Unhandled|INTERNAL|Error:/);
  });
});

describe('while a master is away that holds nothing of ours', () => {
  const checksOf = async (url: string) => {
    const { stdout } = await liventix(['doctor', '--json'], { DATABASE_URL: database.url, REDIS_URL: url });
    const { checks } = JSON.parse(stdout) as { checks: { name: string; result: string; found: string }[] };
    return Object.fromEntries(checks.map((check) => [check.name, check]));
  };

  it('/readyz and doctor say that the cluster is down, and that it is well again', async () => {
    own = await startRedisCluster();
    const watched = await watchedAt();
    const isReady = async () => (await watched.probe('/readyz'))?.statusCode === 200;
    startWorker({ REDIS_URL: own.url }, ['--http', watched.address]);
    await eventually('it is ready', isReady);
    const { found } = (await checksOf(own.url))['redis-cluster'] ?? {};
    expect(found).toMatch(/^3 masters, cluster_state ok, 16384 of 16384 slots are served; without a replica: /);
    const holder = await own.holder();
    const victim = own.masters.find(({ port }) => port !== holder.port);
    await victim?.kill();
    // Whichever node was asked last; at first it is known only that connections are lost.
    const isDown = new RegExp(`CLUSTERDOWN|ECONNREFUSED 127.0.0.1:${victim?.port}`);
    const ready = await eventually('it is told why', async () => {
      const probe = await watched.probe('/readyz');
      return probe?.statusCode === 503 && isDown.test(JSON.stringify(probe.body)) && probe;
    });
    expect(ready.body['failing']).toMatchObject([{ part: 'queue' }]);
    expect((await watched.probe('/livez'))?.statusCode).toBe(200);
    const started = await liventix(['worker'], { DATABASE_URL: database.url, REDIS_URL: own.url });
    expect(started).toMatchObject({
      exitCode: 3,
      stderr: expect.stringMatching(new RegExp(`^liventix: QUEUE_UNREACHABLE: [^\\n]*(${isDown.source})[^\\n]*\\n$`)),
    });
    const down = await checksOf(own.url);
    expect(down['redis']).toMatchObject({ result: 'ok' });
    expect(down['redis-cluster']).toMatchObject({
      result: 'failed',
      found: expect.stringMatching(new RegExp(`cluster_state fail.* no answer from 127\\.0\\.0\\.1:${victim?.port}$`)),
    });
    await victim?.start();
    await eventually('it is ready again', isReady);
  });

  it('doctor finds the one master that may drop jobs', async () => {
    const [, second] = cluster.masters;
    await second?.client.config('SET', 'maxmemory-policy', 'allkeys-lru');
    expect((await checksOf(cluster.url))['redis-eviction']).toMatchObject({
      result: 'warning',
      found: expect.stringMatching(new RegExp(`^127\\.0\\.0\\.1:${second?.port}: maxmemory-policy allkeys-lru`)),
    });
    await second?.client.config('SET', 'maxmemory-policy', 'noeviction');
  });
});
