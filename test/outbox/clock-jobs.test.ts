import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { trackSockets } from '../../src/db/sockets.ts';
import type { ClockJob } from '../../src/outbox/clock-jobs.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import { openQueue } from '../../src/outbox/queue.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let database: TestDatabase;
let redis: TestRedis;
beforeAll(async () => {
  database = await createDatabase();
  redis = await startRedis();
});
afterAll(async () => {
  await database.drop();
  await redis.stop();
});

const log = pino({ level: 'silent' });

async function withQueue(
  redisUrl: string | undefined,
  jobs: readonly ClockJob[],
  work: () => Promise<void>,
): Promise<void> {
  const sockets = trackSockets();
  const outage = createOutageLog({ log, server: 'test' });
  const queue = await openQueue({ databaseUrl: database.url, redisUrl, db: database.pool, outage, sockets });
  try {
    await queue.clock(jobs, log);
    await work();
  } finally {
    await queue.close();
    sockets.destroyAll();
  }
}

describe.each(['PostgreSQL', 'Redis'] as const)('jobs by the clock, through %s', (backend) => {
  const url = () => (backend === 'Redis' ? redis.url : undefined);

  it('are done again and again, also after one has failed, by one of all workers', async () => {
    const done: string[] = [];
    const job = (who: string): ClockJob => ({
      name: 'often',
      everyMs: 1_000,
      run: async () => {
        done.push(who);
        if (done.length === 1) throw new Error('the first fails');
      },
    });
    await withQueue(url(), [job('a')], () =>
      withQueue(url(), [job('b')], async () => {
        const began = performance.now();
        await eventually('it was done four times', () => done.length >= 4);
        expect(performance.now() - began).toBeGreaterThan(1_900);
      }),
    );
  });

  it('are not asked for anew by each worker that starts', async () => {
    let done = 0;
    const job: ClockJob = {
      name: 'seldom',
      everyMs: 3_600_000,
      run: async () => {
        done += 1;
      },
    };
    await withQueue(url(), [job], () => eventually('it was done at once', () => done === 1).then(() => undefined));
    await withQueue(
      url(),
      [
        job,
        {
          name: 'marker',
          everyMs: 1_000,
          run: async () => {
            done += 100;
          },
        },
      ],
      () => eventually('the other was done', () => done >= 100).then(() => undefined),
    );
    expect(done % 100).toBe(1);
  });
});
