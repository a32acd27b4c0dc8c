import { Writable } from 'node:stream';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Background } from '../../src/cli/background.ts';
import { startSealing } from '../../src/cli/sealing.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { listSeals, sealBooks } from '../../src/ledger/seals.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startLiventix } from '../support/liventix.ts';
import { addTestEndpoint, announce, LOOPBACK, settled } from '../support/outbox.ts';
import { startReceiver } from '../support/receiver.ts';
import { logPositions, sealedPositions } from '../support/seals.ts';

let database: TestDatabase;
let accounts: TestAccounts;
let lines: { msg: string; err?: { message: string } }[];
let sealing: Background | undefined;

beforeEach(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  lines = [];
});
afterEach(async () => {
  await sealing?.stop();
  sealing = undefined;
  await database.drop();
});

function start(intervalMs: number): Background {
  const sink = new Writable({
    write: (chunk, _encoding, done) => {
      lines.push(JSON.parse(String(chunk)));
      done();
    },
  });
  sealing = startSealing({ databaseUrl: database.url, intervalMs, log: pino({ level: 'debug' }, sink) });
  return sealing;
}

const give = () => post(database.pool, transfer(accounts.clearing, accounts.wallet));
const newestSeal = async () => (await listSeals(database.pool, { bookId: 1, limit: 1 }))[0];
const everythingIsSealed = async () =>
  (await sealedPositions(database.pool)).length === (await logPositions(database.pool)).length;
const postponements = () => lines.filter(({ msg }) => msg.startsWith('holds that have expired are written down later'));
const sealerConnections = async () => {
  const { rows } = await database.pool.query(
    `select from pg_stat_activity where datname = current_database() and application_name = 'liventix-sealer'`,
  );
  return rows.length;
};

describe('sealing in the background', () => {
  it('writes down which holds have expired, in every book', async () => {
    await give();
    const expiresAt = new Date(Date.now() + 100);
    const { holdId } = await placeHold(database.pool, {
      accountId: accounts.wallet,
      amountCents: 5n,
      currency: 'USD',
      expiresAt,
    });
    start(20);
    await eventually('the hold is written down as expired', async () => {
      const { rows } = await database.pool.query('select state from payments.holds where hold_id = $1', [holdId]);
      return rows[0]?.state === 'expired';
    });
    await eventually('that is sealed too', everythingIsSealed);
  });

  it('seals, and expires in other books, while a posting that is left open keeps an account locked; then it is made up for', async () => {
    const { pool } = database;
    await pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
    const [from = '', to = ''] = await openAccounts(
      pool,
      [
        { type: 'receivable', currency: 'USD', name: 'clearing' },
        { type: 'cash', currency: 'USD', name: 'other' },
      ],
      { bookId: 2 },
    );
    await give();
    await post(pool, transfer(from, to), { bookId: 2 });
    const hold = { amountCents: 5n, currency: 'USD', expiresAt: new Date(Date.now() + 2_000) };
    const holds = [
      await placeHold(pool, { ...hold, accountId: accounts.wallet }),
      await placeHold(pool, { ...hold, accountId: to }, { bookId: 2 }),
    ];
    const states = async () => {
      const { rows } = await pool.query<{ state: string }>(
        'select state from payments.holds where hold_id = any ($1) order by book_id',
        [holds.map(({ holdId }) => holdId)],
      );
      return rows.map(({ state }) => state).join(' ');
    };
    await eventually('both are due', async () => {
      const { rows } = await pool.query('select from payments.holds where expires_at > clock_timestamp()');
      return rows.length === 0;
    });
    const open = await pool.connect();
    try {
      await open.query('begin');
      await post(open, transfer(accounts.clearing, accounts.wallet));
      start(20);
      await eventually('everything that is committed is sealed', everythingIsSealed);
      await eventually('the other book has its expiry', async () => (await states()) === 'active expired');
      await eventually('what came since is sealed', everythingIsSealed);
      await eventually('two rounds say what they left', () => postponements().length > 1);
      expect(postponements()[0]).toMatchObject({ books: [1] });
      await open.query('commit');
    } finally {
      open.release(true);
    }
    await eventually('it is written down', async () => (await states()) === 'expired expired');
    await eventually('and sealed', everythingIsSealed);
    // Nothing failed: it is no outage.
    expect(lines.filter(({ msg }) => msg.includes('fails'))).toEqual([]);
  });

  it('seals the other books, and expires in them, where one is broken; it is named in the log', async () => {
    const { pool } = database;
    await pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
    const types = [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'cash', currency: 'USD', name: 'other' },
    ];
    const [from = '', to = ''] = await openAccounts(pool, types, { bookId: 2 });
    await give();
    const expiresAt = new Date(Date.now() + 500);
    await placeHold(pool, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD', expiresAt });
    const { holdId } = await placeHold(
      pool,
      { accountId: to, amountCents: 5n, currency: 'USD', expiresAt },
      { bookId: 2 },
    );
    for (const table of ['seals', 'hold_entries']) {
      await pool.query(`alter table payments.${table} add constraint broken check (book_id <> 1) not valid`);
    }
    await post(pool, transfer(from, to), { bookId: 2 });
    start(20);
    await eventually('the hold of the other book is written down', async () => {
      const { rows } = await pool.query('select state from payments.holds where hold_id = $1', [holdId]);
      return rows[0]?.state === 'expired';
    });
    await eventually('the other book is sealed', async () => {
      const { rows } = await pool.query(
        `select from payments.events e where e.book_id = 2 and not exists (
           select from payments.seals s where s.book_id = 2 and s.positions @> e.position)`,
      );
      return rows.length === 0;
    });
    await eventually('the broken one is named', () => lines.some(({ err }) => err?.message.startsWith('Book 1: ')));
  });

  it('seals also where the expiry fails, and logs that', async () => {
    await give();
    const expiresAt = new Date(Date.now() + 1_000);
    await placeHold(database.pool, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD', expiresAt });
    await database.pool.query('alter function payments.expire_holds rename to expire_holds_away');
    start(20);
    await eventually('the failure is logged', () => lines.some(({ err }) => err?.message.includes('expire_holds')));
    await give();
    await eventually('what came is sealed', everythingIsSealed);
    await database.pool.query('alter function payments.expire_holds_away rename to expire_holds');
    await eventually('that it works is logged', () => lines.some(({ msg }) => msg.includes('works again')));
  });

  it('seals what is new again and again, in every book, one that is opened meanwhile included', async () => {
    start(20);
    await eventually('what was there is sealed', everythingIsSealed);
    await give();
    await eventually('what came is sealed', everythingIsSealed);
    await database.pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
    await database.pool.query(
      `select payments.open_accounts(2, '[{"type": "cash", "currency": "USD", "name": "other"}]')`,
    );
    await eventually('the second book is sealed', async () => (await sealedPositions(database.pool, 2)).length === 1);
    expect(lines.filter(({ msg }) => msg !== 'sealed')).toEqual([]);
  });

  it('logs a failure once, tries again, and says when it works', async () => {
    await database.pool.query('alter function payments.seal_events rename to seal_events_away');
    start(20);
    await eventually('the failure is logged', () => lines.length > 0);
    await database.pool.query('alter function payments.seal_events_away rename to seal_events');
    await eventually('everything is sealed', everythingIsSealed);
    await eventually('that it works is logged', () => lines.some(({ msg }) => msg.includes('works again')));
    expect(lines.map(({ msg }) => msg).filter((msg) => msg !== 'sealed')).toEqual([
      'Sealing fails; trying again, and nothing is lost meanwhile',
      'Sealing works again',
    ]);
    expect(lines[0]?.err?.message).toContain('seal_events');
  });

  it('finishes the seal under way when it is stopped, and leaves no connection', async () => {
    const holder = await database.pool.connect();
    await holder.query('begin; lock table payments.seals in share mode');
    const { stop } = start(60_000);
    await eventually('a seal is under way', async () => {
      const { rows } = await database.pool.query(
        `select from pg_locks where relation = 'payments.seals'::regclass and not granted`,
      );
      return rows.length === 1;
    });
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const stopped = stop();
      // Longer than it takes to say goodbye to a connection with nothing under way.
      await vi.advanceTimersByTimeAsync(3_000);
      vi.useRealTimers();
      await holder.query('commit');
      await eventually('the seal is finished', everythingIsSealed);
      await stopped;
    } finally {
      vi.useRealTimers();
      holder.release();
    }
    await eventually('its connection is closed', async () => (await sealerConnections()) === 0);
  });

  it('stops at once while it has nothing to do', async () => {
    const { stop } = start(86_400_000);
    await eventually('what was there is sealed', everythingIsSealed);
    const startedAt = performance.now();
    await stop();
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  it('makes one seal an interval, however many seal', async () => {
    await sealBooks(database.pool);
    await give();
    expect(await sealBooks(database.pool, { minAgeMs: 3_600_000 })).toEqual([]);
    expect(await sealBooks(database.pool, { minAgeMs: 0 })).toHaveLength(1);
  });
});

describe('liventix worker', () => {
  const startWorker = (env: Record<string, string>) =>
    startLiventix(['worker'], { DATABASE_URL: database.url, OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','), ...env });

  it('seals at its start and at each interval, and stops on SIGTERM', async () => {
    const worker = startWorker({ LIVENTIX_SEAL_INTERVAL_S: '1' });
    await eventually('what was there is sealed', everythingIsSealed);
    await give();
    await eventually('what came is sealed', everythingIsSealed);
    expect((await newestSeal())?.sealNumber).toBe(2n);
    worker.kill('SIGTERM');
    expect(await worker.done).toMatchObject({
      exitCode: 0,
      stderr: expect.stringMatching(/liventix worker draining\nliventix worker stopped\n$/),
    });
  });

  it('seals nothing where the interval is 0', async () => {
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    const worker = startWorker({ LIVENTIX_SEAL_INTERVAL_S: '0' });
    await settled(database.pool);
    expect(await sealerConnections()).toBe(0);
    worker.kill('SIGTERM');
    await worker.done;
    expect(await newestSeal()).toBeUndefined();
    await receiver.stop();
  });
});
