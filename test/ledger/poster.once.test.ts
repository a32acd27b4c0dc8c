import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool, type Pool } from '../../src/db/pool.ts';
import type { AppError } from '../../src/errors.ts';
import { type NewTransaction, openAccounts } from '../../src/ledger/ledger.ts';
import { type LineOutcome, postLines } from '../../src/ledger/post-lines.ts';
import { createPoster } from '../../src/ledger/poster.ts';
import { balanceOf, dropVerified, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
let accounts: TestAccounts;

beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => dropVerified(database));

const deposit = () => transfer(accounts.clearing, accounts.wallet);
const commits = async () => {
  const { rows } = await database.pool.query<{ n: number }>(
    'select count(distinct xid)::int as n from payments.events',
  );
  return rows[0]?.n ?? -1;
};

describe('a poster', () => {
  it('posts what many callers ask for in few database transactions, each with its own result', async () => {
    const poster = createPoster(database.pool, { maxBatch: 100, maxInFlight: 1 });
    const before = { commits: await commits(), balance: await balanceOf(database.pool, accounts.wallet) };
    const posted = await Promise.all(Array.from({ length: 250 }, () => poster.post(deposit())));
    await poster.close();
    expect(new Set(posted.map(({ transactionId }) => transactionId)).size).toBe(250);
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before.balance - 25_000n);
    expect((await commits()) - before.commits).toBe(3);
    const seqs = posted.map(({ accountSeqs }) => accountSeqs[1] ?? 0n);
    expect(seqs).toEqual(seqs.toSorted((a, b) => Number(a - b)));
  });

  it('resolves a caller only when what it asked for has committed', async () => {
    const poster = createPoster(database.pool);
    const { transactionId } = await poster.post(deposit());
    const { rows } = await database.pool.query('select from payments.events where event_id = $1', [transactionId]);
    expect(rows).toHaveLength(1);
    await poster.close();
  });

  it('rejects who is refused with his code, and leaves his neighbours alone', async () => {
    const poster = createPoster(database.pool, { maxInFlight: 1 });
    const results = await Promise.allSettled([
      poster.post(deposit()),
      poster.post(transfer(accounts.clearing, randomUUID())),
      poster.post({ ...deposit(), metadata: { note: 'a\u0000b' } }),
      poster.post({ ...deposit(), metadata: { note: 'half \ud800 a pair' } }),
      poster.post({ ...deposit(), metadata: { amount: 5n } }),
      poster.post({ ...deposit(), metadata: { note: 'a backslash: \\u0000, a pair: 😀' } }),
    ]);
    await poster.close();
    expect(results.map((result) => (result.status === 'rejected' ? result.reason.code : result.status))).toEqual([
      'fulfilled',
      'LEDGER_ACCOUNT_UNKNOWN',
      'LEDGER_INVALID',
      'LEDGER_INVALID',
      'LEDGER_INVALID',
      'fulfilled',
    ]);
  });

  it('posts a chain in one call, all or none', async () => {
    const [wallet = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'chain', userId: randomUUID(), floorCents: 0n },
    ]);
    const poster = createPoster(database.pool, { maxBatch: 2 });
    const chain = [
      transfer(accounts.clearing, wallet, { amountCents: 10n }),
      deposit(),
      transfer(wallet, accounts.revenue, { amountCents: 11n }),
    ];
    const [outcomes, other] = await Promise.all([poster.postChain(chain), poster.post(deposit())]);
    await poster.close();
    expect(outcomes).toMatchObject([
      { code: 'LEDGER_LINK_FAILED' },
      { code: 'LEDGER_LINK_FAILED' },
      { code: 'LEDGER_FLOOR_PASSED' },
    ]);
    expect(other.status).toBe('posted');
    expect(await balanceOf(database.pool, wallet)).toBe(0n);
  });

  it('links nobody to a transaction of somebody else', async () => {
    const poster = createPoster(database.pool, { maxInFlight: 1 });
    const results = await Promise.allSettled([
      poster.post({ ...deposit(), linked: true }),
      poster.post(transfer(accounts.clearing, randomUUID())),
      poster.post(deposit()),
    ]);
    await poster.close();
    expect(results.map((result) => (result.status === 'rejected' ? result.reason : result.status))).toMatchObject([
      { code: 'LEDGER_INVALID', message: expect.stringContaining('postChain') },
      { code: 'LEDGER_ACCOUNT_UNKNOWN' },
      'fulfilled',
    ]);
  });

  it('refuses what is more than may wait, and what comes after it was closed', async () => {
    const poster = createPoster(database.pool, { maxWaiting: 3 });
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => poster.post(deposit())));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    expect(results.at(-1)).toMatchObject({ reason: { code: 'LEDGER_BUSY' } });
    await poster.close();
    await expect(poster.post(deposit())).rejects.toMatchObject({ code: 'LEDGER_BUSY' });
  });

  it('refuses what is more text than may wait, however few transactions it is', async () => {
    const nowhere = createPool({ databaseUrl: database.url });
    await nowhere.end();
    const poster = createPoster(nowhere);
    const large = transfer(accounts.clearing, accounts.wallet, { metadata: { note: 'y'.repeat(1_000_000) } });
    const results = await Promise.allSettled(Array.from({ length: 100 }, () => poster.post(large)));
    const codes = results.map((result) => result.status === 'rejected' && (result.reason as AppError).code);
    expect(codes).toEqual([
      ...Array.from({ length: 99 }, () => expect.not.stringMatching('LEDGER_BUSY')),
      'LEDGER_BUSY',
    ]);
    expect(results.at(-1)).toMatchObject({
      reason: { message: expect.stringMatching(/^Transactions of 99\d{6} characters wait/) },
    });
    await poster.close();
  });

  it('tells a chain that can never wait so, and asks nobody about one of none', async () => {
    const poster = createPoster(database.pool, { maxWaiting: 2 });
    await expect(poster.postChain([deposit(), deposit(), deposit()])).rejects.toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining('maxWaiting'),
    });
    const before = await commits();
    expect(await poster.postChain([])).toEqual([]);
    await poster.close();
    expect(await commits()).toBe(before);
  });

  it('asks for the last of a chain, and for a chain of one, as by itself: again alone it is a duplicate', async () => {
    const poster = createPoster(database.pool);
    const [first, last, only] = [1, 2, 3].map(() => ({ ...deposit(), idempotencyKey: randomUUID() })) as [
      NewTransaction,
      NewTransaction,
      NewTransaction,
    ];
    const [, posted] = await poster.postChain([first, last]);
    expect(await poster.post(last)).toEqual({ ...posted, status: 'duplicate' });
    expect(await poster.postChain([only])).toMatchObject([{ status: 'posted' }]);
    expect(await poster.post(only)).toMatchObject({ status: 'duplicate' });
    expect(await poster.postChain([first, last])).toMatchObject([{ status: 'duplicate' }, { status: 'duplicate' }]);
    await poster.close();
  });

  it('refuses a chain for one of its transactions before it waits, with one outcome each', async () => {
    const poster = createPoster(database.pool);
    const before = await commits();
    const outcomes = await poster.postChain([deposit(), { ...deposit(), metadata: { amount: 5n } }, deposit()]);
    expect(outcomes).toMatchObject([
      { code: 'LEDGER_LINK_FAILED', message: expect.stringContaining('transaction 2 of the chain') },
      { code: 'LEDGER_INVALID' },
      { code: 'LEDGER_LINK_FAILED' },
    ]);
    await poster.close();
    expect(await commits()).toBe(before);
  });

  it('ends a call by the length of its text as well as by count', async () => {
    const poster = createPoster(database.pool, { maxInFlight: 1 });
    const before = await commits();
    const metadata = { note: 'x'.repeat(1_000_000) };
    await Promise.all(Array.from({ length: 12 }, () => poster.post({ ...deposit(), metadata })));
    await poster.close();
    expect((await commits()) - before).toBe(2);
  });

  it('ends what was asked for before it is closed', async () => {
    const poster = createPoster(database.pool, { maxBatch: 10, maxInFlight: 1 });
    const asked = Array.from({ length: 35 }, () => poster.post(deposit()));
    await poster.close();
    expect((await Promise.all(asked)).every(({ status }) => status === 'posted')).toBe(true);
  });

  it('never has more calls under way than it may', async () => {
    const wallets = await openWallets(8);
    const poster = createPoster(database.pool, { maxBatch: 1, maxInFlight: 2 });
    const holder = await holding(wallets);
    const asked = pairsOf(wallets).map(([a, b]) => poster.post(transfer(a, b)));
    await eventually('two calls wait for the lock', async () => (await waiters()) === 2);
    expect(await waiters()).toBe(2);
    await holder.letGo();
    await Promise.all(asked);
    await poster.close();
  });

  it('spreads those who share no account over the calls that are free', async () => {
    const wallets = await openWallets(200);
    const poster = createPoster(database.pool, { maxInFlight: 2 });
    const before = await commits();
    await Promise.all(pairsOf(wallets).map(([a, b]) => poster.post(transfer(a, b))));
    expect((await commits()) - before).toBe(2);
    await Promise.all(pairsOf(wallets).map(([a]) => poster.post(transfer(accounts.clearing, a))));
    expect((await commits()) - before, 'all share the clearing account: one call').toBe(3);
    await poster.close();
  });

  it('leaves who shares an account with a call under way for a later one, and goes on with the others', async () => {
    const [held = '', shared = '', third = '', fourth = '', ...others] = await openWallets(6);
    const poster = createPoster(database.pool, { maxInFlight: 2 });
    const holder = await holding([held]);
    const underWay = poster.post(transfer(held, shared));
    await eventually('the first call waits for the lock', async () => (await waiters()) === 1);
    const left = poster.post(transfer(shared, third));
    // Shares nothing with the call under way, but an account with the one that is left.
    const behind = poster.post(transfer(third, fourth));
    await Promise.all(pairsOf(others).map(([a, b]) => poster.post(transfer(a, b))));
    expect(await waiters()).toBe(1);
    await holder.letGo();
    const positions = (await Promise.all([underWay, left, behind])).map(({ eventPosition }) => eventPosition);
    expect(positions).toEqual(positions.toSorted((a, b) => Number(a - b)));
    await poster.close();
  });

  it('tells every caller of a call that was cut off, and posts the same keys once when asked again', async () => {
    const pool = createPool({ databaseUrl: database.url, applicationName: 'cut off' });
    const poster = createPoster(pool, { maxInFlight: 1 });
    const holder = await holding([accounts.wallet]);
    const requests = Array.from({ length: 20 }, () => ({ ...deposit(), idempotencyKey: randomUUID() }));
    const asked = Promise.allSettled(requests.map((request) => poster.post(request)));
    await eventually('the call waits for the lock', async () => (await waiters()) === 1);
    await database.pool.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cut off'`,
    );
    expect((await asked).map((result) => result.status === 'rejected' && result.reason.code)).toEqual(
      requests.map(() => 'DB_UNREACHABLE'),
    );
    await holder.letGo();
    const again = await Promise.all(requests.map((request) => poster.post(request)));
    expect(again.map(({ status }) => status)).toEqual(requests.map(() => 'posted'));
    await poster.close();
    await pool.end();
  });

  it('finds who brings a call down by halves', async () => {
    // Somebody's own trigger: the only way left for one transaction to fail its call.
    await database.pool.query(`
      create function public.explode() returns trigger language plpgsql as $$
      begin
        if new.payload ->> 'description' = 'bomb' then raise exception 'boom'; end if;
        return new;
      end $$;
      create trigger explode before insert on payments.events for each row execute function public.explode()`);
    const poster = createPoster(database.pool, { maxInFlight: 1 });
    const bombs = [1, 6, 7];
    const results = await Promise.allSettled(
      Array.from({ length: 9 }, (_, nth) =>
        poster.post({ ...deposit(), ...(bombs.includes(nth) ? { description: 'bomb' } : {}) }),
      ),
    );
    await poster.close();
    const lines = results.map((_, nth) => lineOf(bombs.includes(nth) ? 'bomb' : 'fine'));
    const posted = postLines(database.pool, Readable.from([Buffer.from(lines.join('\n'))]), {
      batchSize: 9,
      stop: new AbortController().signal,
    });
    const outcomes: LineOutcome[] = [];
    for await (const batch of posted) outcomes.push(...batch);
    await database.pool.query('drop trigger explode on payments.events');
    expect(results.map((result) => (result.status === 'rejected' ? result.reason.code : result.status))).toEqual(
      results.map((_, nth) => (bombs.includes(nth) ? 'DB_FAILED' : 'fulfilled')),
    );
    expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.code : outcome.status))).toEqual(
      results.map((_, nth) => (bombs.includes(nth) ? 'DB_FAILED' : 'posted')),
    );
  });

  it('does not send again by halves what failed for another reason than its content', async () => {
    const pool = createPool({ databaseUrl: database.url });
    let calls = 0;
    const impatient: Pool = Object.assign(Object.create(pool), {
      connect: async () => {
        calls += 1;
        const client = await pool.connect();
        await client.query(`set statement_timeout = '200ms'`);
        return client;
      },
    });
    const poster = createPoster(impatient, { maxInFlight: 1 });
    const holder = await holding([accounts.wallet]);
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => poster.post(deposit())));
    await holder.letGo();
    await poster.close();
    await pool.end();
    expect(results.map((result) => result.status === 'rejected' && result.reason)).toMatchObject(
      results.map(() => ({ code: 'DB_FAILED', details: { sqlstate: '57014' } })),
    );
    expect(calls).toBe(1);
  });
});

/** A deposit as a line of `ledger post`. */
const lineOf = (description: string) =>
  JSON.stringify({
    description,
    entries: [
      { account_id: accounts.clearing, amount_cents: 100, currency: 'USD' },
      { account_id: accounts.wallet, amount_cents: -100, currency: 'USD' },
    ],
  });

/** So many wallets that nothing was posted to. */
const openWallets = (count: number) =>
  openAccounts(
    database.pool,
    Array.from({ length: count }, () => ({ type: 'cash', currency: 'USD', name: 'wallet', userId: randomUUID() })),
  );

/** The first with the second, the third with the fourth, … */
const pairsOf = (ids: readonly string[]) =>
  ids.flatMap((id, nth) => (nth % 2 === 0 ? [[id, ids[nth + 1] ?? id] as const] : []));

/** Keeps everybody who posts to these accounts waiting until it lets go. */
async function holding(ids: readonly string[]): Promise<{ letGo: () => Promise<void> }> {
  const client = await database.pool.connect();
  await client.query('begin');
  await client.query('select from payments.balances where account_id = any ($1) for update', [ids]);
  return {
    letGo: async () => {
      await client.query('commit');
      client.release();
    },
  };
}

async function waiters(): Promise<number> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { rows } = await client.query<{ n: number }>(
    `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  await client.end();
  return rows[0]?.n ?? -1;
}
