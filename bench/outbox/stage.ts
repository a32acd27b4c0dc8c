import { createPool, type Pool } from '../../src/db/pool.ts';
import type { DemoHome } from '../../src/demo/home.ts';
import { startRedis, type TestRedis } from '../../test/support/redis.ts';
import { openBenchHome } from '../home.ts';
import type { Contender, Place } from './contender.ts';
import { type CpuSeconds, cpuSeconds, parentOf } from './cpu.ts';
import { type Receiver, startReceiver } from './receiver.ts';
import { startWorkerProcess, type WorkerProcess } from './worker-process.ts';

/** The servers that all contenders share, one after the other, and the receiver that answers all of them. */
export interface Stage {
  readonly receiver: Receiver;
  readonly redis: TestRedis;
  /** A database of its own, a copy of the contender's empty one, and a Redis without keys, for as long as `act` takes. */
  play<T>(contender: Contender, act: (place: Place) => Promise<T>): Promise<T>;
  startWorker(contender: Contender, place: Place): Promise<StagedWorker>;
  close(): Promise<void>;
}

interface StagedWorker extends WorkerProcess {
  /** Of this worker and of the servers, since they began. */
  cpu(): CpuSeconds;
}

/** Enough that no contender's figures are those of a checkpoint; commits wait for the disk, as they do by default. */
const SETTINGS = ['shared_buffers=1GB', 'max_wal_size=16GB', 'checkpoint_timeout=1h'];

const OBJECT_IN_USE = '55006';
/** Each waits for five seconds, on the server. */
const MOST_TRIES = 6;

export async function openStage(): Promise<Stage> {
  const home = await openBenchHome(SETTINGS);
  const pool = createPool({ databaseUrl: home.databaseUrl, max: 1 });
  const redis = await startRedis();
  const receiver = await startReceiver();
  const pids = { postgres: await postmasterOf(pool), redis: await processOf(redis), receiver: receiver.pid };
  const databases = openDatabases(home, pool);
  return {
    receiver,
    redis,
    play: async (contender, act) => {
      await redis.flush();
      const databaseUrl = await databases.copyFor(contender);
      try {
        return await act({ databaseUrl, redisUrl: redis.url, receiverUrl: receiver.url });
      } finally {
        await databases.drop(databaseUrl);
      }
    },
    startWorker: async (contender, place) => {
      const worker = await startWorkerProcess(contender.worker(place));
      return { ...worker, cpu: () => cpuSeconds({ ...pids, worker: worker.pid }) };
    },
    close: async () => {
      receiver.stop();
      await redis.stop();
      await databases.dropAll();
      await pool.end();
      await home.close({ keep: false });
    },
  };
}

// What a run leaves behind (dead rows, statistics, a queue's leftovers) may be nobody else's, nor its own next time.
function openDatabases(home: DemoHome, pool: Pool) {
  const made = new Set<string>();
  const urlOf = (name: string) => {
    const url = new URL(home.databaseUrl);
    url.pathname = `/${name}`;
    return url.href;
  };
  const create = async (name: string, from = '') => {
    await pool.query(`create database ${name} ${from}`);
    made.add(name);
    return urlOf(name);
  };
  const drop = async (name: string) => {
    // Not by force, which a superuser's autovacuum refuses to an ordinary owner; without it, the server sends that away itself.
    await tryWhileInUse(() => pool.query(`drop database if exists ${name}`));
    made.delete(name);
  };
  return {
    copyFor: async (contender: Contender) => {
      const template = `template_${contender.name.replaceAll('-', '_')}`;
      if (!made.has(template)) await contender.install(await create(template));
      return create(`run_${contender.name.replaceAll('-', '_')}`, `template ${template}`);
    },
    drop: (url: string) => drop(new URL(url).pathname.slice(1)),
    dropAll: async () => {
      for (const name of made) await drop(name);
    },
  };
}

// Sessions of a worker that was killed end when the server notices.
async function tryWhileInUse(drop: () => Promise<unknown>): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await drop();
      return;
    } catch (error) {
      const isInUse = error instanceof Error && 'code' in error && error.code === OBJECT_IN_USE;
      if (!isInUse || tries === MOST_TRIES) throw error;
    }
  }
}

async function postmasterOf(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ pid: number }>('select pg_backend_pid() as pid');
  return parentOf(rows[0]?.pid ?? 0);
}

async function processOf({ client }: TestRedis): Promise<number> {
  return Number(/process_id:(\d+)/.exec(await client.info('server'))?.[1]);
}
