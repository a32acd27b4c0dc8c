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

/** Each starts its worker, which goes on until it is killed. */
const PEERS: Readonly<Record<string, () => Promise<void>>> = {
  'raw-bullmq': async () => {
    const worker = new Worker(JOB, ({ id = '', data }) => deliver({ id, payload: data }), {
      connection: new Redis(redisUrl, { maxRetriesPerRequest: null }),
      concurrency: CONCURRENCY,
      removeOnComplete: { count: 0 },
    });
    await worker.waitUntilReady();
  },

  // As https://worker.graphile.org/docs/performance sets it up for its own figures, with as many jobs at once as everybody.
  'graphile-worker': async () => {
    await run({
      taskList: { [JOB]: (payload, { job }) => deliver({ id: job.id, payload }) },
      noHandleSignals: true,
      preset: {
        worker: {
          connectionString: databaseUrl,
          concurrentJobs: CONCURRENCY,
          maxPoolSize: 25,
          localQueue: { size: 500 },
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
          // A line per job is a log that nobody asked for.
          logger: new Logger(() => () => undefined),
        },
      },
    });
  },

  // Whole batches, completed by one statement each; the next is fetched at once while they come full, and NOTIFY wakes it otherwise.
  // Of 100, 250 and 500 a batch, and of 1, 2 and 4 workers, these were the fastest.
  'pg-boss': async () => {
    const boss = new PgBoss({ connectionString: databaseUrl, migrate: false, schedule: false, useListenNotify: true });
    boss.on('error', (error) => process.stderr.write(`${error.message}\n`));
    await boss.start();
    await boss.work(
      JOB,
      {
        batchSize: 250,
        localConcurrency: 2,
        burstWhenBatchFull: true,
        pollingIntervalSeconds: 0.5,
      },
      async (jobs) => {
        await Promise.all(jobs.map(({ id, data }) => deliver({ id, payload: data })));
      },
    );
  },
};

process.on('disconnect', () => process.exit());
await PEERS[name]?.();
process.stdout.write('ready\n');
