import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { beginVerification } from '../../src/console/verifications.ts';
import { startTestConsole, TEST_POOL_MAX } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
let served: Console;

beforeAll(async () => {
  database = await createDatabase();
  served = await startTestConsole(database);
});
afterAll(async () => {
  await served?.stop();
  await database?.drop();
});

const EXPORT = '/accounts?export=csv';
/** Half of the connections of a test's console. */
const MOST = TEST_POOL_MAX / 2;

/** Nothing is read of the accounts until the test ends it. */
async function heldUp(work: () => Promise<void>): Promise<void> {
  const client = await database.pool.connect();
  try {
    await client.query('begin; lock table payments.accounts in access exclusive mode');
    await work();
  } finally {
    await client.query('rollback');
    client.release();
  }
}

/** Whether one more is; one that is not is held up as the others are, and given up. */
async function isRefused(): Promise<boolean> {
  try {
    const { statusCode, body } = await request(new URL(EXPORT, served.url), { signal: AbortSignal.timeout(200) });
    const text = await body.text();
    return statusCode === 429 && text.includes('CONSOLE_TOO_MANY') && text.includes('Try again');
  } catch {
    return false;
  }
}

describe('downloads', () => {
  it('are so many at a time: one more is told to wait, pages are not held up, and who goes away makes room', async () => {
    const aborting = new AbortController();
    const begun: Promise<number>[] = [];
    const ask = (signal?: AbortSignal) =>
      request(new URL(EXPORT, served.url), { signal }).then(async ({ statusCode, body }) => {
        await body.dump();
        return statusCode;
      });
    await heldUp(async () => {
      const given = ask(aborting.signal).catch(() => 'gone');
      for (let nth = 1; nth < MOST; nth += 1) begun.push(ask());
      await eventually('one more is refused', isRefused);
      expect((await request(new URL('/audit', served.url))).statusCode).toBe(200);
      aborting.abort();
      expect(await given).toBe('gone');
      await eventually('one more is begun', async () => !(await isRefused()));
    });
    expect(await Promise.all(begun)).toEqual(begun.map(() => 200));
    expect(await ask()).toBe(200);
  });
});

describe('a verification', () => {
  it('is given up to begin where others begin and end again and again', async () => {
    let asked = 0;
    const alwaysJustEnded = {
      query: async () => {
        asked += 1;
        return { rows: [] };
      },
    } as never;
    await expect(beginVerification(alwaysJustEnded, { askedBy: 'ada' })).rejects.toThrow('Wait for a minute');
    expect(asked).toBeLessThan(100);
  });
});
