import { createHmac, randomBytes } from 'node:crypto';
import { Worker } from 'bullmq';
import { Logger, run } from 'graphile-worker';
import { Redis } from 'ioredis';
import { PgBoss } from 'pg-boss';
import { Agent, request } from 'undici';
import { CONCURRENCY } from './contender.ts';
import { TOPIC } from './message.ts';
import { JOB } from './peers.ts';

// A peer's worker in a process of its own, as ours has one: `peer-worker.ts <contender> <url>`. It prints `ready`.

const [name = '', url = ''] = process.argv.slice(2);
const databaseUrl = process.env['DATABASE_URL'] ?? '';
const redisUrl = process.env['REDIS_URL'] ?? '';

/** As ours connects. */
const dispatcher = new Agent({ connections: 128, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
const secret = randomBytes(32);

/**
 * A Standard Webhook by Node's own HMAC, which is cheaper than the library that ours signs with: a peer pays for no more than it must.
 */
async function deliver(job: { readonly id: string; readonly payload: unknown }): Promise<void> {
  const now = new Date();
  const id = `msg_${job.id}`;
  const timestamp = Math.floor(now.getTime() / 1_000).toString();
  const body = JSON.stringify({ type: TOPIC, timestamp: now, data: job.payload });
  const signature = createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64');
  const answer = await request(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${signature}`,
    },
    body,
    dispatcher,
  });
  await answer.body.dump();
  if (answer.statusCode !== 200) throw new Error(`answered ${answer.statusCode}`);
}

/** Each starts its worker and answers how to stop it. */
const PEERS: Readonly<Record<string, () => Promise<() => Promise<unknown>>>> = {
  'raw-bullmq': async () => {
    const worker = new Worker(JOB, ({ id = '', data }) => deliver({ id, payload: data }), {
      connection: new Redis(redisUrl, { maxRetriesPerRequest: null }),
      concurrency: CONCURRENCY,
      removeOnComplete: { count: 0 },
    });
    await worker.waitUntilReady();
    return () => worker.close(true);
  },

  // As https://worker.graphile.org/docs/performance sets it up for its own figures, with as many jobs at once as everybody.
  'graphile-worker': async () => {
    const runner = await run({
      taskList: { [JOB]: (payload, { job }) => deliver({ id: job.id, payload }) },
      noHandleSignals: true,
      preset: {
        worker: {
          connectionString: databaseUrl,
          concurrentJobs: CONCURRENCY,
          maxPoolSize: Number(process.env['GW_POOL'] ?? 25),
          localQueue: { size: Number(process.env['GW_LQ'] ?? 500) },
          completeJobBatchDelay: Number(process.env['GW_DELAY'] ?? 0),
          failJobBatchDelay: Number(process.env['GW_DELAY'] ?? 0),
          // A line per job is a log that nobody asked for.
          logger: new Logger(() => () => undefined),
        },
      },
    });
    return () => runner.stop();
  },

  // Whole batches, completed by one statement each; the next is fetched at once while they come full, and NOTIFY wakes it otherwise.
  'pg-boss': async () => {
    const boss = new PgBoss({ connectionString: databaseUrl, migrate: false, schedule: false, useListenNotify: true });
    boss.on('error', (error) => process.stderr.write(`${error.message}\n`));
    await boss.start();
    await boss.work(
      JOB,
      {
        batchSize: Number(process.env['PB_BATCH'] ?? 100),
        localConcurrency: Number(process.env['PB_LOCAL'] ?? 2),
        burstWhenBatchFull: true,
        pollingIntervalSeconds: 0.5,
      },
      async (jobs) => {
        await Promise.all(jobs.map(({ id, data }) => deliver({ id, payload: data })));
      },
    );
    return () => boss.stop({ graceful: false });
  },
};

const stop = await PEERS[name]?.();
process.once('SIGTERM', async () => {
  await stop?.();
  process.exit();
});
process.stdout.write('ready\n');
