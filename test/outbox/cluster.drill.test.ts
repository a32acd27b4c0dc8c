import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { expectNothingLost, type LossDrill, startLossDrill } from '../support/loss.ts';
import { announceMany } from '../support/outbox.ts';
import {
  type ClusterOptions,
  moveSlot,
  startRedisCluster,
  type TestClusterNode,
  type TestRedisCluster,
} from '../support/redis-cluster.ts';

const isFull = process.env['LIVENTIX_DRILLS'] === 'full';
/** How long a master is away: longer than the cluster needs to find out, in any case. */
const OUTAGE_MS = isFull ? 60_000 : 3_000;
const PATIENCE_MS = 120_000;
const ROUNDS = isFull ? 5 : 1;
/** What waits when something happens. */
const BACKLOG = 200;
const SERVE_WHAT_IS_THERE = ['--cluster-require-full-coverage', 'no'];

let database: TestDatabase;
let cluster: TestRedisCluster;
let drill: LossDrill;

afterEach(async () => {
  await drill.close();
  await cluster.stop();
  await database.drop();
});

const begin = async (options: ClusterOptions) => {
  database = await createDatabase();
  cluster = await startRedisCluster(options);
  drill = await startLossDrill({ databaseUrl: database.url, redisUrl: cluster.url });
  await flowing(2);
  await announceMany(database.pool, BACKLOG);
};
const flowing = (workers: number) => {
  for (let n = 0; n < workers; n += 1) drill.startWorker();
  const before = drill.receiver.received.length;
  return eventually('webhooks arrive', () => drill.receiver.received.length >= before + 50, 30_000);
};
const otherThan = (holder: TestClusterNode): TestClusterNode => {
  const [other] = cluster.masters.filter(({ port }) => port !== holder.port);
  if (other === undefined) throw new Error('a cluster has more than one master');
  return other;
};
const complaints = () =>
  [...drill.workers].filter((worker) => worker.log().some(({ msg }) => /Redis (still )?fails/.test(msg)));

describe('nothing is lost on a Redis Cluster', { timeout: PATIENCE_MS + 2 * ROUNDS * OUTAGE_MS }, () => {
  it('and nothing stops, when a master dies that does not hold the queue', async () => {
    await begin({ flags: SERVE_WHAT_IS_THERE });
    const victim = otherThan(await cluster.holder());
    await victim.kill();
    await pause(OUTAGE_MS);
    await flowing(0);
    // Nor does it keep a worker from starting.
    await flowing(1);
    expect(complaints()).toEqual([]);
    expectNothingLost('another master dead', await drill.finish());
  });

  it('when that brings the cluster down, until it is back', async () => {
    await begin({});
    const victim = otherThan(await cluster.holder());
    await victim.kill();
    await eventually('a worker notices', () => complaints().length > 0);
    await pause(OUTAGE_MS);
    await victim.start();
    await cluster.settled();
    for (const worker of drill.workers) {
      // One that does not lead may have met nothing of it.
      const said = await eventually('the end is logged', () => {
        const lines = worker.log().filter(({ msg }) => /^Redis/.test(msg));
        return !/fails/.test(lines.at(-1)?.msg ?? '') && lines;
      });
      expect(said.length).toBeLessThanOrEqual(2);
    }
    expectNothingLost(`cluster down for ${OUTAGE_MS / 1_000} s`, await drill.finish({ outageMs: OUTAGE_MS }));
  });

  it('when the master that holds the queue dies, and comes back empty', async () => {
    await begin({ flags: SERVE_WHAT_IS_THERE });
    for (let round = 0; round < ROUNDS; round += 1) {
      const victim = await cluster.holder();
      await victim.kill();
      await pause(OUTAGE_MS);
      await victim.start();
      await cluster.settled();
      await flowing(0);
    }
    expectNothingLost(
      `the queue's master away for ${OUTAGE_MS / 1_000} s`,
      await drill.finish({ outageMs: ROUNDS * OUTAGE_MS }),
    );
  });

  it.runIf(isFull)('when the master that holds the queue falls silent', async () => {
    await begin({ flags: SERVE_WHAT_IS_THERE });
    const victim = await cluster.holder();
    victim.freeze();
    await pause(OUTAGE_MS);
    victim.thaw();
    await cluster.settled();
    expectNothingLost(
      `the queue's master silent for ${OUTAGE_MS / 1_000} s`,
      await drill.finish({ outageMs: OUTAGE_MS }),
    );
  });

  it.runIf(isFull)('when all masters die, and come back empty', async () => {
    await begin({});
    await Promise.all(cluster.masters.map((master) => master.kill()));
    await pause(OUTAGE_MS);
    await Promise.all(cluster.masters.map((master) => master.start()));
    await cluster.settled();
    expectNothingLost(`all masters away for ${OUTAGE_MS / 1_000} s`, await drill.finish({ outageMs: OUTAGE_MS }));
  });

  it('when a replica takes the place of the master that holds the queue', async () => {
    await begin({ replicas: true });
    for (let round = 0; round < ROUNDS; round += 1) {
      const victim = await cluster.holder();
      await victim.kill();
      await cluster.settled();
      await flowing(1);
      await victim.start();
      await cluster.settled();
    }
    expectNothingLost('a replica takes over', await drill.finish());
  });

  it('when the queue moves to another master, and back', async () => {
    await begin({});
    for (let round = 0; round < 2 * ROUNDS; round += 1) {
      await announceMany(database.pool, BACKLOG);
      const from = await cluster.holder();
      const key = await eventually('the queue is marked intact', async () => (await from.client.keys('*:epoch'))[0]);
      const slot = await from.client.cluster('KEYSLOT', key);
      expect(await moveSlot(slot, { from, to: otherThan(from) })).toBeGreaterThan(0);
      await cluster.settled();
      await flowing(0);
    }
    expectNothingLost('the queue moved', await drill.finish());
  });
});
