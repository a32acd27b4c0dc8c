import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { trackSockets } from '../../src/db/sockets.ts';
import { keepBeating } from '../../src/outbox/heartbeat.ts';
import { holdConnection } from '../../src/outbox/held-connection.ts';
import { createEviction, holdersOf, tryLock } from '../../src/outbox/session-lock.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const LOCK = { name: 'test.lock', number: 7 };

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

async function withSession(work: (session: pg.Client) => Promise<void>): Promise<void> {
  const session = new pg.Client({ connectionString: database.url });
  // Whoever ends it is the test.
  session.on('error', () => undefined);
  await session.connect();
  try {
    await work(session);
  } finally {
    await session.end().catch(() => undefined);
  }
}

const holders = async () =>
  (
    await database.pool.query<{ pid: number; idleMs: number }>(
      `select pid, (extract(epoch from clock_timestamp() - state_change) * 1000)::float8 as "idleMs" from (${holdersOf('$1')}) as holders`,
      [LOCK.name],
    )
  ).rows;

describe('a lock of a session', () => {
  it.each([
    ['that has asked nothing for too long', 'select'],
    ['that has asked nothing for too long in a transaction', 'begin'],
  ])('is taken from one %s, whatever locks others hold in the database', async (_who, before) => {
    await withSession(async (other) => {
      // Of one number alone, as applications and BullMQ take them: both of its halves may be beyond any of ours.
      await other.query('select pg_advisory_lock(-1), pg_advisory_lock(hashtext($1), -1)', [LOCK.name]);
      await withSession(async (holder) => {
        expect(await tryLock(holder, LOCK)).toBe(true);
        await holder.query(before);
        expect(await tryLock(database.pool, LOCK)).toBe(false);
        const evictLate = createEviction({ ...LOCK, staleMs: 60_000 });
        for (let turn = 0; turn < 3; turn += 1) await evictLate(database.pool);
        expect(await holders()).toHaveLength(2);
        const evictSoon = createEviction({ ...LOCK, staleMs: 1 });
        await eventually('it is free', async () => {
          await evictSoon(database.pool);
          return (await holders()).length === 1;
        });
        await expect(holder.query('select')).rejects.toThrow();
      });
      await other.query('select');
    });
  });

  it('stays with one that waits for something else, as long as it beats', async () => {
    await withSession(async (holder) => {
      const beating = keepBeating(holder, { everyMs: 20 });
      expect(await tryLock(beating.db, LOCK)).toBe(true);
      const since = performance.now();
      await eventually('it has asked for nothing for a while', () => performance.now() - since > 500);
      expect((await holders())[0]?.idleMs).toBeLessThan(400);
      beating.stop();
      await eventually('it is silent', async () => ((await holders())[0]?.idleMs ?? 0) > 500);
    });
  });

  it('asks one statement after the other, and goes on after one that failed', async () => {
    await withSession(async (session) => {
      const { db, stop } = keepBeating(session, { everyMs: 1 });
      const asked = Array.from({ length: 20 }, (_, n) => db.query(`select ${n} as n${n % 5 === 0 ? ' wrong' : ''}`));
      const answers = await Promise.allSettled(asked);
      stop();
      expect(answers.map(({ status }) => status)).toEqual(
        Array.from({ length: 20 }, (_, n) => (n % 5 === 0 ? 'rejected' : 'fulfilled')),
      );
    });
  });
});

it('a statement of the outbox is given up by the server, with all that its session held, before its client gives up', async () => {
  await withSession(async (blocker) => {
    await blocker.query('begin; lock table outbox.attempts');
    let failure: { code?: string } | undefined;
    const connection = holdConnection({
      databaseUrl: database.url,
      applicationName: 'test-held',
      sockets: trackSockets(),
      queryTimeoutMs: 5_000,
      session: async (session) => {
        await tryLock(session, LOCK);
        await session.query('select count(*) from outbox.attempts');
      },
      onFailure: (error) => {
        failure ??= error as { code?: string };
      },
      onBeat: () => undefined,
    });
    await eventually('it failed', () => failure !== undefined);
    expect(failure).toMatchObject({ code: '57014' });
    await connection.close();
    await eventually('the lock is free', async () => (await holders()).length === 0);
  });
});
