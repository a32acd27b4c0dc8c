import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { type NewTransaction, openAccounts, post, postAll, postJson } from '../../src/ledger/ledger.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { balanceOf, dropVerified, HOLDER, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { disguised, undone } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let accounts: TestAccounts;
const MAX = 9_223_372_036_854_775_807n;

beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => dropVerified(database));

describe('opening accounts', () => {
  it('opens an account once, and answers the same id when asked again', async () => {
    const wallet = { type: 'cash', currency: 'USD', name: 'wallet', userId: HOLDER };
    expect(await openAccounts(database.pool, [wallet, wallet])).toEqual([accounts.wallet, accounts.wallet]);
  });

  it('lets 16 callers open the same account at once', async () => {
    const account = { type: 'escrow', currency: 'USD', name: 'raced' };
    const ids = await Promise.all(
      Array.from({ length: 16 }, () => withTransaction(database.pool, (tx) => openAccounts(tx, [account]))),
    );
    expect(new Set(ids.flat()).size).toBe(1);
  });

  it.each([
    ['an unknown type', { type: 'wallet', currency: 'USD', name: 'a' }, 'LEDGER_ACCOUNT_TYPE_UNKNOWN'],
    ['an unknown currency', { type: 'cash', currency: 'XYZ', name: 'a' }, 'LEDGER_CURRENCY_UNKNOWN'],
    ['a name in capitals', { type: 'cash', currency: 'USD', name: 'Wallet' }, 'LEDGER_INVALID'],
    [
      'two owners',
      { type: 'cash', currency: 'USD', name: 'a', userId: HOLDER, organizationId: HOLDER },
      'LEDGER_INVALID',
    ],
    [
      'an owner that is no UUID',
      { type: 'cash', currency: 'USD', name: 'a', userId: "x'; drop table" },
      'LEDGER_INVALID',
    ],
  ])('refuses %s, and opens none of the list', async (_what, account, code) => {
    const before = await countAccounts();
    const good = { type: 'cash', currency: 'EUR', name: 'never_opened' };
    await expect(openAccounts(database.pool, [good, account])).rejects.toMatchObject({ code });
    expect(await countAccounts()).toBe(before);
  });

  it('says so where the id that a name makes was given to something else', async () => {
    const account = { type: 'cash', currency: 'USD', name: 'taken-beforehand' };
    await undone(database.pool, async (tx) => {
      const { rows } = await tx.query<{ id: string; position: string }>(
        `select n.id, (payments.append_event(1, row('transaction.posted', n.id, null, null, null, null, '{}')::payments.new_event)).event_position::text as position
         from (select payments.account_id(1, 'cash', 'USD', $1, null, null) as id offset 0) n`,
        [account.name],
      );
      await expect(openAccounts(tx, [account])).rejects.toMatchObject({
        code: 'LEDGER_IDEMPOTENCY_CONFLICT',
        message: `The id ${rows[0]?.id}, which the account would have, was given to event ${rows[0]?.position} (transaction.posted) by its request: choose another name.`,
      });
    });
  });
});

describe('posting', () => {
  it('writes the event, its entries and the balances, in one transaction', async () => {
    const before = await balanceOf(database.pool, accounts.wallet);
    const outcome = await post(database.pool, {
      ...transfer(accounts.clearing, accounts.wallet, { amountCents: 250n }),
      effectiveAt: new Date('2026-03-01T12:00:00Z'),
      referenceType: 'credit_purchase',
      referenceId: 'inv-1',
      metadata: { channel: 'web', note: null },
    });
    expect(outcome.status).toBe('posted');
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before - 250n);
    const { rows } = await database.pool.query(
      `select account_id, amount_cents, currency, reference_type, reference_id, metadata, effective_at, event_position
       from payments.entries where transaction_id = $1 order by id`,
      [outcome.transactionId],
    );
    const shared = {
      currency: 'USD',
      reference_type: 'credit_purchase',
      reference_id: 'inv-1',
      metadata: { channel: 'web', note: null },
      effective_at: new Date('2026-03-01T12:00:00Z'),
      event_position: outcome.eventPosition,
    };
    expect(rows).toEqual([
      { account_id: accounts.clearing, amount_cents: 250n, ...shared },
      { account_id: accounts.wallet, amount_cents: -250n, ...shared },
    ]);
  });

  it('joins the transaction of the caller, and is undone with it', async () => {
    const before = await balanceOf(database.pool, accounts.wallet);
    const work = async (tx: Tx) => {
      await post(tx, transfer(accounts.clearing, accounts.wallet, { announce: 'ledger.test' }));
      throw new Error('the caller changed its mind');
    };
    await expect(withTransaction(database.pool, work)).rejects.toThrow('changed its mind');
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before);
    const { rows } = await database.pool.query(`select 1 from public.outbox where topic = 'ledger.test'`);
    expect(rows).toEqual([]);
  });

  it('announces itself through the outbox in the same transaction, with what was posted', async () => {
    const { transactionId } = await post(
      database.pool,
      transfer(accounts.clearing, accounts.wallet, { announce: 'wallet.credited', amountCents: 7n }),
    );
    const { rows } = await database.pool.query(`select payload from public.outbox where topic = 'wallet.credited'`);
    expect(rows).toMatchObject([
      { payload: { transaction_id: transactionId, entries: [{ amount_cents: 7 }, { amount_cents: -7 }] } },
    ]);
  });

  it('balances an exchange per currency through four entries', async () => {
    const outcome = await post(database.pool, {
      entries: [
        { accountId: accounts.clearing, amountCents: 100n, currency: 'USD' },
        { accountId: accounts.revenue, amountCents: -100n, currency: 'USD' },
        { accountId: accounts.yen, amountCents: 15_000n, currency: 'JPY' },
        ...(await openAccounts(database.pool, [{ type: 'revenue', currency: 'JPY', name: 'sales' }])).map(
          (accountId) => ({
            accountId,
            amountCents: -15_000n,
            currency: 'JPY',
          }),
        ),
      ],
    });
    expect(outcome.status).toBe('posted');
    const yen = (await trialBalance(database.pool)).find((balance) => balance.currency === 'JPY');
    expect(yen).toMatchObject({ decimalPlaces: 0, debitCents: 15_000n, creditCents: 15_000n });
  });

  it('raises the documented SQLSTATE to a SQL caller', async () => {
    const call = database.pool.query('select payments.post_transaction(1, $1)', [
      JSON.stringify({
        entries: [
          { account_id: accounts.clearing, amount_cents: 1, currency: 'USD' },
          { account_id: accounts.wallet, amount_cents: -2, currency: 'USD' },
        ],
      }),
    ]);
    await expect(call).rejects.toMatchObject({ code: 'LV002', message: expect.stringContaining('-1 USD') });
    await expect(database.pool.query(`select payments.post_transactions(99, '[]')`)).rejects.toMatchObject({
      code: 'LV010',
    });
    await expect(database.pool.query(`select payments.post_transactions(null, '[]')`)).rejects.toMatchObject({
      code: 'LV010',
    });
    await expect(database.pool.query('select payments.post_transactions(1, null)')).rejects.toMatchObject({
      code: 'LV001',
    });
  });

  it('refuses what would carry a balance past 64 bits, and does not wrap', async () => {
    const [full = '', other = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'full' },
      { type: 'payable', currency: 'USD', name: 'full' },
    ]);
    await post(database.pool, transfer(full, other, { amountCents: MAX }));
    await expect(post(database.pool, transfer(full, other, { amountCents: 1n }))).rejects.toMatchObject({
      code: 'LEDGER_AMOUNT_OVERFLOW',
    });
    expect(await balanceOf(database.pool, full)).toBe(MAX);
    await post(database.pool, transfer(other, full, { amountCents: MAX }));
    expect(await balanceOf(database.pool, full)).toBe(0n);
  });

  it.each([1, 5])('refuses a balance whose opposite passes 64 bits, in calls of %i', async (size) => {
    const [full = '', other = '', third = ''] = await openAccounts(
      database.pool,
      ['full', 'other', 'third'].map((name) => ({
        type: 'payable',
        currency: 'USD',
        name: `${name}_in_calls_of_${size}`,
      })),
    );
    await post(database.pool, transfer(other, full, { amountCents: MAX }));
    const outcomes = await postAll(database.pool, [
      transfer(third, full, { amountCents: 1n }),
      ...Array.from({ length: size - 1 }, () => transfer(third, accounts.revenue, { amountCents: 1n })),
    ]);
    expect(outcomes[0]).toMatchObject({ status: 'rejected', code: 'LEDGER_AMOUNT_OVERFLOW' });
    expect(outcomes.slice(1).every(({ status }) => status === 'posted')).toBe(true);
    expect(await balanceOf(database.pool, full)).toBe(-MAX);
    await post(database.pool, transfer(full, other, { amountCents: MAX }));
  });

  it.each([2, 5])(
    'refuses what is small as JSON and not as text, and leaves the neighbours alone, in calls of %i',
    async (size) => {
      const numbers = (
        number: string,
      ) => `{"metadata": {"n": [${Array.from({ length: 1_000 }, () => number).join(',')}]},
      "entries": [{"account_id": "${accounts.clearing}", "amount_cents": 1, "currency": "USD"},
                  {"account_id": "${accounts.wallet}", "amount_cents": -1, "currency": "USD"}]}`;
      for (const number of ['1e131000', '-1e41', '1e-16000']) {
        const requests = [numbers(number), ...Array.from({ length: size - 1 }, () => numbers('1e40'))];
        const [refused, ...others] = await postJson(database.pool, `[${requests.join(',')}]`);
        expect(refused).toMatchObject({
          code: 'LEDGER_INVALID',
          message: expect.stringContaining('more than 40 digits'),
        });
        expect(others.map(({ status }) => status)).toEqual(others.map(() => 'posted'));
      }
    },
  );

  it.each([
    ['an account', 1],
    ['an account', 60],
    ['a slot of an account', 1],
    ['a slot of an account', 60],
  ])('refuses %s whose balance somebody removed, and waits for nothing (%i in a call)', async (what, size) => {
    const tx = await database.pool.connect();
    try {
      await tx.query(`begin; set local statement_timeout = '20s'`);
      const [broken = ''] = await openAccounts(tx, [{ type: 'cash', currency: 'USD', name: 'broken' }]);
      if (what === 'an account') {
        await tx.query(disguised(`delete from payments.balances where account_id = '${broken}'`));
      } else {
        // So many that this connection posts to a slot and not to the account itself.
        const { rows } = await tx.query<{ slots: number }>(
          'select n as slots from generate_series(2, 64) n where pg_backend_pid() % n > 0 limit 1',
        );
        await addSlots(tx, { accountId: broken, slots: rows[0]?.slots ?? 0 });
        await tx.query(
          disguised(`delete from payments.balances b using payments.account_slots s where s.account_id = '${broken}'
                         and b.account_id = s.slot_account_id`),
        );
      }
      const request = JSON.stringify({
        entries: [
          { account_id: accounts.clearing, amount_cents: 1, currency: 'USD' },
          { account_id: broken, amount_cents: -1, currency: 'USD' },
        ],
      });
      const outcomes = await postJson(tx, `[${Array.from({ length: size }, () => request).join(',')}]`);
      for (const outcome of outcomes) {
        expect(outcome).toMatchObject({
          code: 'LEDGER_ACCOUNT_UNKNOWN',
          message: expect.stringMatching(/^Entry 2: account \S+, or a slot of it, has no balance/),
        });
      }
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('records who acts by at most 200 characters of what he calls himself', async () => {
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query(`select set_config('request.jwt.claims', $1, true)`, [
        JSON.stringify({ sub: 'x'.repeat(1_000_000) }),
      ]);
      const { transactionId } = await post(tx, transfer(accounts.clearing, accounts.wallet));
      const { rows } = await tx.query(
        'select e.created_by, n.created_by as entry from payments.events e join payments.entries n on n.transaction_id = e.event_id where e.event_id = $1 limit 1',
        [transactionId],
      );
      expect(rows).toEqual([{ created_by: 'x'.repeat(200), entry: 'x'.repeat(200) }]);
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('names the key that a request has too many', async () => {
    const [entry, other] = [
      { account_id: accounts.clearing, amount_cents: 1, currency: 'USD' },
      { account_id: accounts.wallet, amount_cents: -1, currency: 'USD' },
    ];
    const messages = async (...requests: object[]) =>
      (await postJson(database.pool, JSON.stringify(requests))).map((outcome) =>
        outcome.status === 'rejected' ? `${outcome.code}: ${outcome.message}` : outcome.status,
      );
    const [misspelt, inAnEntry, ...others] = await messages(
      { entries: [entry, other], idempotencykey: 'x', efective_at: null },
      { entries: [entry, { ...other, "ammount'; drop": 1 }] },
      { entries: [entry, other] },
      { entries: [entry, 7] },
    );
    expect(misspelt).toMatch(
      /^LEDGER_INVALID: It has the key efective_at, which is not among these: a transaction is an object of /,
    );
    expect(inAnEntry).toMatch(
      /^LEDGER_INVALID: Entry 2: It has the key ammount'; drop, which is not among these: it is an object of account_id, /,
    );
    expect(others).toEqual([
      'posted',
      expect.stringMatching(/^LEDGER_INVALID: Entry 2: It is no object: it is an object of account_id, /),
    ]);
    await expect(database.pool.query(`select payments.place_hold(1, '{"amount": 5}')`)).rejects.toMatchObject({
      message: expect.stringContaining('It has the key amount, which is not among these: a hold is'),
    });
  });

  it('refuses texts that its many entries would multiply', async () => {
    const legs = (count: number) =>
      Array.from({ length: count }, (_, nth) => ({
        accountId: nth % 2 === 0 ? accounts.clearing : accounts.wallet,
        amountCents: nth % 2 === 0 ? 1n : -1n,
        currency: 'USD',
      }));
    const metadata = { note: 'x'.repeat(400_000) };
    await expect(post(database.pool, { entries: legs(200), metadata })).rejects.toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining('16 MiB'),
    });
    expect(await post(database.pool, { entries: legs(20), metadata })).toMatchObject({ status: 'posted' });
  });

  it('takes no id that the ledger makes itself, which anybody can tell beforehand', async () => {
    const { rows } = await database.pool.query<{ id: string }>(
      `select payments.account_id(1, 'cash', 'USD', 'not opened yet', null, null) as id`,
    );
    const transactionId = rows[0]?.id as string;
    await expect(
      post(database.pool, { ...transfer(accounts.clearing, accounts.wallet), transactionId }),
    ).rejects.toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining('version 8'),
    });
    await expect(
      placeHold(database.pool, { accountId: accounts.wallet, amountCents: 1n, currency: 'USD', holdId: transactionId }),
    ).rejects.toMatchObject({ code: 'LEDGER_INVALID', message: expect.stringContaining('version 8') });
  });
});

describe('idempotency', () => {
  it('posts the same key once, and answers the first result again', async () => {
    const transaction = transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'once' });
    const first = await post(database.pool, transaction);
    const before = await balanceOf(database.pool, accounts.wallet);
    expect(await post(database.pool, transaction)).toEqual({ ...first, status: 'duplicate' });
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before);
  });

  it('refuses the same key with another body', async () => {
    await post(database.pool, transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'body' }));
    await expect(
      post(database.pool, transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'body', amountCents: 101n })),
    ).rejects.toMatchObject({ code: 'LEDGER_IDEMPOTENCY_CONFLICT' });
  });

  it('keeps the keys of different scopes apart', async () => {
    const transaction = transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'scoped' });
    const outcomes = await postAll(database.pool, [
      { ...transaction, idempotencyScope: 'a' },
      { ...transaction, idempotencyScope: 'b' },
    ]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual(['posted', 'posted']);
  });

  it('finds the duplicate within one call too, and a refused one stands for none', async () => {
    const good = transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'within' });
    const bad = { ...unbalanced(accounts, 1n), idempotencyKey: 'within' };
    const outcomes = await postAll(database.pool, [bad, good, good, { ...good, description: 'another body' }]);
    expect(outcomes).toMatchObject([
      { status: 'rejected', code: 'LEDGER_UNBALANCED' },
      { status: 'posted' },
      { status: 'duplicate' },
      { status: 'rejected', code: 'LEDGER_IDEMPOTENCY_CONFLICT' },
    ]);
    const [, posted, duplicate] = outcomes;
    expect(duplicate).toEqual({ ...posted, status: 'duplicate' });
  });

  it('takes the same transaction id under two keys for a conflict, and leaves the neighbours alone', async () => {
    const transaction = transfer(accounts.clearing, accounts.wallet, {
      transactionId: '00000000-0000-4000-8000-00000000aa01',
    });
    const outcomes = await postAll(database.pool, [
      { ...transaction, idempotencyKey: 'id-a' },
      { ...transaction, idempotencyKey: 'id-b' },
      transfer(accounts.clearing, accounts.wallet),
    ]);
    expect(outcomes).toMatchObject([
      { status: 'posted' },
      { status: 'rejected', code: 'LEDGER_IDEMPOTENCY_CONFLICT' },
      { status: 'posted' },
    ]);
  });

  it('posts under claims that are no JSON, in the name of the role', async () => {
    const outcome = await withTransaction(database.pool, async (tx) => {
      await tx.query(`set local request.jwt.claims = 'not json'`);
      return post(tx, transfer(accounts.clearing, accounts.wallet));
    });
    const { rows } = await database.pool.query(
      'select distinct created_by from payments.entries where transaction_id = $1',
      [outcome.transactionId],
    );
    expect(rows).toEqual([{ created_by: 'liventix' }]);
  });

  it('lets one of 16 racing callers post, and answers the others with its result', async () => {
    const transaction = transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'race' });
    const outcomes = await Promise.all(
      Array.from({ length: 16 }, () => withTransaction(database.pool, (tx) => post(tx, transaction))),
    );
    expect(outcomes.filter((outcome) => outcome.status === 'posted')).toHaveLength(1);
    expect(new Set(outcomes.map((outcome) => outcome.transactionId)).size).toBe(1);
  });

  it('settles a race for one key between transactions that share no account', async () => {
    const [a = '', b = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'elsewhere' },
      { type: 'payable', currency: 'USD', name: 'elsewhere' },
    ]);
    const first = transfer(accounts.clearing, accounts.wallet, { idempotencyKey: 'disjoint' });
    const second = transfer(a, b, { idempotencyKey: 'disjoint' });
    const results = await Promise.allSettled(
      [first, second].map((transaction) => withTransaction(database.pool, (tx) => post(tx, transaction))),
    );
    expect(results.map((result) => result.status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(results.find((result) => result.status === 'rejected')).toMatchObject({
      reason: { code: 'LEDGER_IDEMPOTENCY_CONFLICT' },
    });
  });
});

describe('concurrency', () => {
  it('numbers every account without gaps under 16 connections that share accounts in any order', async () => {
    const ids = await openAccounts(
      database.pool,
      Array.from({ length: 6 }, (_, index) => ({ type: 'payable', currency: 'USD', name: `crossing_${index}` })),
    );
    const pick = (n: number) => ids[n % ids.length] ?? '';
    await Promise.all(
      Array.from({ length: 16 }, async (_, worker) => {
        for (let round = 0; round < 10; round += 1) {
          const transactions = Array.from({ length: 5 }, (_unused, index) =>
            transfer(
              pick(worker + round + index),
              pick(
                worker * 3 +
                  index +
                  1 +
                  ((worker + round + index) % ids.length === (worker * 3 + index + 1) % ids.length ? 1 : 0),
              ),
            ),
          );
          await withTransaction(database.pool, (tx) => postAll(tx, transactions));
        }
      }),
    );
    const { rows } = await database.pool.query<{ n: bigint }>(
      `select count(*) as n from payments.entries where account_id = any ($1)`,
      [ids],
    );
    expect(rows[0]?.n).toBe(1600n);
  });

  it('never lands a transaction that waited for a lock earlier in the history than the one it waited for', async () => {
    const waiter = await database.pool.connect();
    const holder = await database.pool.connect();
    // The waiter's transaction begins first: stamped with its own start, it would land before the one it waits for.
    await waiter.query('begin');
    await waiter.query('select now()');
    await holder.query('begin');
    const first = await post(holder, transfer(accounts.clearing, accounts.wallet));
    const waiting = post(waiter, transfer(accounts.clearing, accounts.wallet));
    await eventually('the second poster waits for a lock', async () => {
      const { rows } = await database.pool.query(
        `select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      );
      return rows.length > 0;
    });
    await holder.query('commit');
    holder.release();
    const second = await waiting;
    await waiter.query('commit');
    waiter.release();
    const { rows } = await database.pool.query<{ transaction_id: string; created_at: Date }>(
      `select transaction_id, created_at from payments.entries where account_id = $1 and transaction_id = any ($2) order by account_seq`,
      [accounts.wallet, [first.transactionId, second.transactionId]],
    );
    expect(rows.map((row) => row.transaction_id)).toEqual([first.transactionId, second.transactionId]);
    expect(second.eventPosition).toBeGreaterThan(first.eventPosition);
    expect(rows[1]?.created_at.getTime()).toBeGreaterThanOrEqual(
      rows[0]?.created_at.getTime() ?? Number.POSITIVE_INFINITY,
    );
  });
});

function unbalanced(a: TestAccounts, creditCents: bigint): NewTransaction {
  return {
    entries: [
      { accountId: a.clearing, amountCents: 100n, currency: 'USD' },
      { accountId: a.wallet, amountCents: -creditCents, currency: 'USD' },
    ],
  };
}

async function countAccounts(): Promise<bigint> {
  const { rows } = await database.pool.query<{ n: bigint }>('select count(*) as n from payments.accounts');
  return rows[0]?.n ?? -1n;
}
