import { expect } from 'vitest';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { outboxStatus } from '../../src/outbox/status.ts';
import { startWorkerProcess, type WorkerProcess } from '../outbox/worker-process.ts';
import { eventually } from './eventually.ts';
import { addTestEndpoint, LOOPBACK } from './outbox.ts';
import { answer, startReceiver, type TestReceiver } from './receiver.ts';

/** What came of a drill. */
export interface Losses {
  readonly committed: number;
  readonly rolledBack: number;
  readonly lost: number;
  /** Requests beyond one for each message and endpoint. */
  readonly duplicates: number;
  /** From the end of the fault until the next webhook arrived. */
  readonly flowingInMs: number;
  /** Until all that was committed had arrived. */
  readonly recoveredInMs: number;
  /** For how long nothing could be delivered: the longer, the more gathered in it. */
  readonly outageMs: number;
}

export interface LossDrill {
  readonly receiver: TestReceiver;
  /** Starts a worker as a process of its own, with what production runs it with. */
  startWorker(): WorkerProcess;
  readonly workers: Set<WorkerProcess>;
  /** How many messages were committed up to now. */
  committed(): number;
  /** The fault is over: what is there, and a few more messages, are to arrive without anybody's help. Counts. */
  finish(options?: { readonly outageMs?: number }): Promise<Losses>;
  close(): Promise<void>;
}

export interface LossDrillOptions {
  readonly databaseUrl: string;
  /** What the announcer and the counting use; the workers may go another way. */
  readonly directUrl?: string;
  readonly redisUrl?: string | undefined;
  readonly workerEnvironment?: Readonly<Record<string, string>>;
  readonly respond?: Parameters<typeof startReceiver>[0];
  /** How many messages a transaction announces: one, unless said otherwise. */
  readonly messagesAtOnce?: number;
  /** What its endpoints are given beside their URLs. */
  readonly endpoint?: Omit<Parameters<typeof addTestEndpoint>[1], 'url'>;
}

const ENDPOINTS = ['/first', '/second'];
const BETWEEN_MS = 10;
const DEADLINE_MS = 60_000;
/** Until webhooks arrive again: as is promised of every fault. */
const RECOVERY_MS = 10_000;
/** Until all that gathered meanwhile is delivered, on a machine that does others' work beside it: that much, and a part of the outage. */
const CAUGHT_UP_MS = 20_000;
const CAUGHT_UP_SHARE = 1 / 3;
const ONE_IN_TEN = 0.1;
/** What is shown of a worker's log where a drill fails. */
const LOG_TAIL = 4_000;

/**
 * Somebody announces without rest, in transactions some of which are rolled back, for two endpoints, while a test does its worst. At the
 * end every message that was committed has to have reached both, and none that was not.
 */
export async function startLossDrill(options: LossDrillOptions): Promise<LossDrill> {
  const pool = createPool({ databaseUrl: options.directUrl ?? options.databaseUrl, max: 3 });
  const receiver = await startReceiver(
    options.respond ?? ((response, webhook) => setTimeout(() => answer(204)(response, webhook), 5)),
    // By its id everything is counted; half an hour of bodies would fill the memory.
    ({ path, headers }) => ({ path, headers: { 'webhook-id': headers['webhook-id'] }, body: '' }),
  );
  for (const path of ENDPOINTS) {
    await addTestEndpoint(pool, { url: `${receiver.url}${path}`, timeoutMs: 5_000, ...options.endpoint });
  }
  const workers = new Set<WorkerProcess>();
  const announcer = startAnnouncer(pool, options.messagesAtOnce ?? 1);
  let isClosed = false;
  const startWorker = () => {
    const worker = startWorkerProcess([], {
      DATABASE_URL: options.databaseUrl,
      OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
      LOG_LEVEL: 'warn',
      ...options.workerEnvironment,
      ...(options.redisUrl === undefined ? {} : { REDIS_URL: options.redisUrl }),
    });
    workers.add(worker);
    void worker.exitCode.then(() => workers.delete(worker));
    return worker;
  };
  return {
    receiver,
    workers,
    startWorker,
    committed: announcer.announced,
    finish: async ({ outageMs = 0 } = {}) => {
      const [endedAt, before] = [performance.now(), receiver.received.length];
      const flowing = eventually('webhooks arrive', () => receiver.received.length > before, DEADLINE_MS).then(
        () => performance.now() - endedAt,
        () => Number.POSITIVE_INFINITY,
      );
      await announcer.stop();
      await eventually('everything is delivered', () => isSettled(pool), DEADLINE_MS + outageMs).catch(
        async (error: unknown) => {
          const { deliveries, messages } = await outboxStatus(pool);
          const logs = [...workers].map((worker) => worker.stderr().slice(-LOG_TAIL)).join('\n');
          throw new Error(`${JSON.stringify({ deliveries, messages })}\n${logs}`, { cause: error });
        },
      );
      const recoveredInMs = performance.now() - endedAt;
      return count(pool, receiver, {
        announced: announcer.announced(),
        flowingInMs: await flowing,
        recoveredInMs,
        outageMs,
      });
    },
    close: async () => {
      if (isClosed) return;
      isClosed = true;
      await announcer.stop();
      for (const worker of workers) worker.kill('SIGKILL');
      await Promise.all([...workers].map(({ exitCode }) => exitCode));
      await receiver.stop();
      await pool.end();
    },
  };
}

/** Prints what a drill came to, and holds it to what is promised. */
export function expectNothingLost(name: string, losses: Losses): void {
  const { committed, lost, duplicates, flowingInMs, recoveredInMs, outageMs } = losses;
  process.stdout.write(
    `drill: ${name}: ${committed} committed, lost ${lost}, duplicates ${duplicates}, flowing after ${Math.round(flowingInMs)} ms, recovered in ${Math.round(recoveredInMs)} ms\n`,
  );
  expect(lost).toBe(0);
  expect(committed).toBeGreaterThan(0);
  expect(flowingInMs).toBeLessThan(RECOVERY_MS);
  expect(recoveredInMs).toBeLessThan(CAUGHT_UP_MS + outageMs * CAUGHT_UP_SHARE);
}

function startAnnouncer(pool: Pool, messagesAtOnce: number) {
  let isStopped = false;
  let announced = 0;
  // What it does not know the fate of, it does not ask about: the tables tell at the end.
  async function announceSome(): Promise<void> {
    const tx = await pool.connect();
    try {
      await tx.query('begin');
      await tx.query(
        `insert into public.outbox (topic, payload)
         select 'drill.happened', jsonb_build_object('n', $1::integer + n) from generate_series(1, $2) as n`,
        [announced, messagesAtOnce],
      );
      if (Math.random() < ONE_IN_TEN) await tx.query('rollback');
      else await tx.query('commit');
      announced += messagesAtOnce;
      tx.release();
    } catch (error) {
      tx.release(error as Error);
      throw error;
    }
  }
  const running = (async () => {
    while (!isStopped) {
      await announceSome().catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
    }
    // The last ones, when all is well again.
    for (let more = 0; more < 20; more += 1) await announceSome();
  })();
  return {
    announced: () => announced,
    stop: async () => {
      isStopped = true;
      await running;
    },
  };
}

async function isSettled(pool: Pool): Promise<boolean> {
  const { messages, deliveries } = await outboxStatus(pool);
  return messages.unprocessed + deliveries.pending + deliveries.queued + deliveries.delivering === 0;
}

async function count(
  pool: Pool,
  receiver: TestReceiver,
  { announced, ...times }: { announced: number } & Pick<Losses, 'flowingInMs' | 'recoveredInMs' | 'outageMs'>,
): Promise<Losses> {
  const { rows } = await pool.query<{ id: string }>(`select 'msg_' || id as id from public.outbox`);
  const committed = new Set(rows.map(({ id }) => id));
  const arrivals = ENDPOINTS.map((path) => receiver.at(path).map(({ headers }) => `${headers['webhook-id']}`));
  expect(arrivals.flat().filter((id) => !committed.has(id))).toEqual([]);
  const lost = arrivals.reduce((sum, ids) => sum + committed.size - new Set(ids).size, 0);
  return {
    committed: committed.size,
    rolledBack: announced - committed.size,
    lost,
    duplicates: arrivals.flat().length - (ENDPOINTS.length * committed.size - lost),
    ...times,
  };
}
