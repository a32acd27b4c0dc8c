import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { freePort } from '../../src/db/server.ts';
import { trackSockets } from '../../src/db/sockets.ts';
import { openQueue } from '../../src/outbox/queue.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const BOARD = '/queue/board/queue/deliveries';

let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(() => browser?.close());

const visit = async (served: Console, javaScriptEnabled = true) => {
  const window = await openWindow(browser, { origin: served.url, javaScriptEnabled });
  return { ...window, [Symbol.asyncDispose]: () => window.context.close() };
};

/** Jobs as the relay queues them, 32 attempts in each: so many of them. */
async function givenJobs(database: TestDatabase, { jobs, redisUrl }: { jobs: number; redisUrl?: string | undefined }) {
  const queue = await openQueue({
    databaseUrl: database.url,
    redisUrl,
    db: database.pool,
    outage: { failed: () => undefined, works: () => undefined, lasts: () => false },
    sockets: trackSockets(),
  });
  const attempts = Array.from({ length: 32 * jobs }, (_, at) => ({
    deliveryId: `${at + 1}`,
    day: '2026-12-01',
    attempt: 1,
  }));
  await queue.enqueue(attempts);
  return queue;
}

const mutations = [
  ['PUT', '/queue/board/api/queues/deliveries/empty'],
  ['PUT', '/queue/board/api/queues/deliveries/pause'],
  ['PUT', '/queue/board/api/queues/deliveries/1/clean'],
  ['POST', '/queue/board/api/queues/deliveries/add'],
  ['PATCH', '/queue/board/api/queues/deliveries/1/update-data'],
  ['DELETE', '/queue/board/api/queues/deliveries/1'],
] as const;

describe.each(['PostgreSQL', 'Redis'] as const)('the queue on %s', (backend) => {
  let database: TestDatabase;
  let redis: TestRedis | undefined;
  let served: Console;
  beforeAll(async () => {
    database = await createDatabase();
    redis = backend === 'Redis' ? await startRedis() : undefined;
    served = await startTestConsole(database, { redisUrl: redis?.url });
  });
  afterAll(async () => {
    await served?.stop();
    await redis?.stop();
    await database?.drop();
  });

  it('is looked at before there is one, or anything in it', async () => {
    const response = await fetch(`${served.url}/queue`);
    expect(response.status).toBe(200);
    expect(await response.text()).toContain(
      backend === 'Redis' ? 'wait for a worker' : 'There is no queue yet: the first worker makes it.',
    );
  });

  it('shows its jobs, as many as there are, and loads nothing from elsewhere', async () => {
    const queue = await givenJobs(database, { jobs: 3, redisUrl: redis?.url });
    await using window = await visit(served);
    const { page, faults } = window;
    await expectStill(page, `${served.url}/queue`);
    expect(await page.locator('.tiles li').first().textContent()).toContain('3 wait for a worker');
    await expectFits(page);
    await expectAccessible(page);
    await page.getByRole('link', { name: 'Look at the jobs in Bull Board' }).click();
    await page.getByText('Read only. PostgreSQL keeps what is to be delivered').first().waitFor();
    await page.getByText('attempts', { exact: true }).first().waitFor();
    expect(await page.getByText('attempts', { exact: true }).count()).toBe(3);
    expect(faults).toEqual([]);
    await queue.close();
  });

  it('is changed by nothing that anybody sends to it', async () => {
    const before = await (await fetch(`${served.url}/queue/board/api/queues`)).json();
    for (const [method, path] of mutations) {
      const response = await fetch(served.url + path, { method, headers: { 'sec-fetch-site': 'same-origin' } });
      expect([403, 404, 405], `${method} ${path}`).toContain(response.status);
    }
    expect(await (await fetch(`${served.url}/queue/board/api/queues`)).json()).toEqual(before);
    expect(before).toMatchObject({ queues: [{ readOnlyMode: true, counts: { waiting: 3 } }] });
  });

  it('lets only files of the console in, and no style or script that stands in a page', async () => {
    const response = await fetch(served.url + BOARD);
    expect(response.headers.get('content-security-policy')).toBe(
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    );
    const text = await response.text();
    expect(text).not.toMatch(/https?:\/\/(?!127\.0\.0\.1)/);
    expect(text).not.toMatch(/style=|<style/);
  });
});

describe('a queue that cannot be reached', () => {
  it('is said on its page, while the rest of the console works', async () => {
    const database = await createDatabase();
    const port = await freePort();
    const served = await startTestConsole(database, { redisUrl: `redis://:secret-word@127.0.0.1:${port}` });
    try {
      const away = await (await fetch(`${served.url}/queue`)).text();
      expect(away).toContain('The queue does not answer.');
      expect(away).toContain('QUEUE_UNREACHABLE');
      expect(away).not.toContain('secret-word');
      expect((await fetch(`${served.url}/queue/board/api/queues`)).status).toBe(503);
      const board = await fetch(served.url + BOARD, { redirect: 'manual' });
      expect([board.status, board.headers.get('location')]).toEqual([303, '/queue']);
      expect((await fetch(`${served.url}/outbox`)).status).toBe(200);
    } finally {
      await served.stop();
      await database.drop();
    }
  });

  it('that went away and came back is shown again, without a restart', async () => {
    const database = await createDatabase();
    const first = await startRedis();
    const served = await startTestConsole(database, { redisUrl: first.url });
    const text = async () => await (await fetch(`${served.url}/queue`)).text();
    try {
      expect(await text()).toContain('wait for a worker');
      await first.stop();
      await eventually('it is missed', async () => (await text()).includes('The queue does not answer.'));
      const second = await startRedis({ port: first.port });
      await eventually('it is found', async () => (await text()).includes('wait for a worker'));
      await second.stop();
    } finally {
      await served.stop();
      await database.drop();
    }
  });
});

describe('whoever is not signed in', () => {
  it('sees nothing of the queue, and no file of Bull Board', async () => {
    const database = await createDatabase();
    const served = await startTestConsole(database, {
      auth: { mode: 'password', bounds: { idleMinutes: 5, longestMinutes: 60 } },
    });
    try {
      for (const path of [
        '/queue',
        '/queue/board',
        BOARD,
        '/queue/board/api/queues',
        '/queue/board/static/favicon.ico',
      ]) {
        const response = await fetch(served.url + path, { redirect: 'manual' });
        expect([path, response.status, response.headers.get('location')]).toEqual([
          path,
          303,
          `/sign-in?to=${encodeURIComponent(path)}`,
        ]);
      }
    } finally {
      await served.stop();
      await database.drop();
    }
  });
});

it('a console that looks writes nothing into the queue, not even that it looks', async () => {
  const database = await createDatabase();
  await (await givenJobs(database, { jobs: 1 })).close();
  const written = async () =>
    (
      await database.pool.query<{ written: bigint }>(
        `select sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint as written from pg_stat_user_tables where schemaname = 'outbox_queue'`,
      )
    ).rows[0]?.written;
  const served = await startTestConsole(database);
  try {
    await database.pool.query('select pg_stat_force_next_flush()');
    const before = await written();
    expect((await fetch(served.url + BOARD)).status).toBe(200);
    expect((await fetch(`${served.url}/queue/board/api/queues?activeQueue=deliveries&status=latest`)).status).toBe(200);
    expect(await written()).toBe(before);
  } finally {
    await served.stop();
    await database.drop();
  }
});
