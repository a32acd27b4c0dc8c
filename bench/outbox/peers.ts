import { fileURLToPath } from 'node:url';
import { Queue } from 'bullmq';
import { makeWorkerUtils } from 'graphile-worker';
import { Redis } from 'ioredis';
import { PgBoss } from 'pg-boss';
import { createPool } from '../../src/db/pool.ts';
import { type Contender, type Place, PRODUCER_CONNECTIONS, type Producer } from './contender.ts';
import { PAYLOAD_SQL, payloadOf } from './message.ts';
import type { WorkerCommand } from './worker-process.ts';

const PEER_WORKER = fileURLToPath(new URL('peer-worker.ts', import.meta.url));
const BULK = 1_000;

/** The name of task, queue and job, whoever's. */
export const JOB = 'deliver';

export const rawBullMq: Contender = {
  name: 'raw-bullmq',
  install: async () => undefined,
  worker: (place) => peerWorker('raw-bullmq', place),
  open: openBullMq,
};

export const graphileWorker: Contender = {
  name: 'graphile-worker',
  install: async (connectionString) => {
    const utils = await makeWorkerUtils({ connectionString });
    await utils.migrate();
    await utils.release();
  },
  worker: (place) => peerWorker('graphile-worker', place),
  open: openGraphileWorker,
};

export const pgBoss: Contender = {
  name: 'pg-boss',
  install: async (connectionString) => {
    const boss = new PgBoss({ connectionString, supervise: false, schedule: false });
    await boss.start();
    // So that an idle worker is told, and does not wait for its next look.
    await boss.createQueue(JOB, { notify: true });
    await boss.stop();
  },
  worker: (place) => peerWorker('pg-boss', place),
  open: openPgBoss,
};

function peerWorker(name: string, { databaseUrl, redisUrl, receiverUrl }: Place): WorkerCommand {
  return { args: [PEER_WORKER, name, `${receiverUrl}/0`], env: { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl } };
}

// It records nothing: what is done is removed, and a job is the whole message.
async function openBullMq({ redisUrl }: Place): Promise<Producer> {
  const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
  const queue = new Queue(JOB, { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } });
  return {
    preload: async (count) => {
      for (let from = 0; from < count; from += BULK) {
        const size = Math.min(BULK, count - from);
        await queue.addBulk(Array.from({ length: size }, (_, nth) => ({ name: JOB, data: payloadOf(from + nth) })));
      }
    },
    announce: async (n) => {
      await queue.add(JOB, payloadOf(n));
    },
    unrecorded: async () => {
      const { waiting = 0, active = 0 } = await queue.getJobCounts('waiting', 'active');
      return waiting + active;
    },
    close: async () => {
      await queue.close();
      connection.disconnect();
    },
  };
}

async function openGraphileWorker({ databaseUrl }: Place): Promise<Producer> {
  const pool = createPool({ databaseUrl, max: PRODUCER_CONNECTIONS });
  return {
    preload: async (count) => {
      await pool.query(
        `select count(*) from (
           select graphile_worker.add_job($2, (${PAYLOAD_SQL})::json) from generate_series(0, $1 - 1) as n offset 0
         ) as added`,
        [count, JOB],
      );
      await pool.query('analyze');
    },
    announce: async (n) => {
      await pool.query({
        name: 'announce',
        text: 'select graphile_worker.add_job($1, $2)',
        values: [JOB, JSON.stringify(payloadOf(n))],
      });
    },
    // A job that is done is deleted.
    unrecorded: async () => {
      const { rows } = await pool.query<{ count: number }>(
        'select count(*)::integer as count from graphile_worker.jobs',
      );
      return rows[0]?.count ?? 0;
    },
    close: () => pool.end(),
  };
}

async function openPgBoss({ databaseUrl }: Place): Promise<Producer> {
  const boss = new PgBoss({
    connectionString: databaseUrl,
    max: PRODUCER_CONNECTIONS,
    supervise: false,
    schedule: false,
    migrate: false,
  });
  // Its pool still says goodbye when the database is dropped. What a call came to, the call says.
  boss.on('error', () => undefined);
  await boss.start();
  const pool = createPool({ databaseUrl, max: 1 });
  return {
    preload: async (count) => {
      for (let from = 0; from < count; from += BULK) {
        const size = Math.min(BULK, count - from);
        await boss.insert(
          JOB,
          Array.from({ length: size }, (_, nth) => ({ data: payloadOf(from + nth) })),
        );
      }
      await pool.query('analyze');
    },
    announce: async (n) => {
      await boss.send(JOB, payloadOf(n));
    },
    unrecorded: async () => {
      const { rows } = await pool.query<{ count: number }>(
        `select count(*)::integer as count from pgboss.job where state < 'completed'`,
      );
      return rows[0]?.count ?? 0;
    },
    close: async () => {
      await boss.stop({ graceful: false });
      await pool.end();
    },
  };
}
