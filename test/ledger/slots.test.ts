import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { effectiveBalance, type HistoryOrder, recordedBalance } from '../../src/ledger/history.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { type NewAccount, openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild/rebuild.ts';
import { statementPages } from '../../src/ledger/statement.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import {
  openTestAccounts,
  type TestAccounts,
  transfer,
  verifyBooks,
  verifyBooksIndependently,
} from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { allEntries, instantOf, type KeptEntry, sum } from '../support/history.ts';

const RUNS = process.env['LIVENTIX_DRILLS'] === 'full' ? 100 : 15;
const CONNECTIONS = 24;
const UNKNOWN = '00000000-0000-4000-8000-0000000000ff';
/** What the balance of one slot may come to, so that the sum of 64 fits 64 bits. */
const MOST_CENTS = 2n ** 57n - 1n;

let database: TestDatabase;
let accounts: TestAccounts;
beforeAll(async () => {
  database = await createDatabase({ poolMax: CONNECTIONS });
  accounts = await openTestAccounts(database.pool);
});
afterAll(async () => {
  const results = [...(await verifyBooks(database.pool)), ...(await verifyBooksIndependently(database.pool))];
  const rebuilt = await compareWithRebuild(database.pool);
  await database.drop();
  expect(results.filter(({ holds }) => !holds)).toEqual([]);
  expect(rebuilt.filter(({ isEqual }) => !isEqual)).toEqual([]);
});

async function openOne(fields: Partial<NewAccount> = {}): Promise<string> {
  const [id = ''] = await openAccounts(database.pool, [
    { type: 'receivable', currency: 'USD', name: randomUUID(), ...fields },
  ]);
  return id;
}

async function openSlotted(slots: number, fields: Partial<NewAccount> = {}): Promise<string[]> {
  return addSlots(database.pool, { accountId: await openOne(fields), slots });
}

/** Work on connections of one server process each that would post to these slots of an account with so many. */
async function onSlots<T>(count: number, wanted: readonly number[], work: (...txs: Tx[]) => Promise<T>): Promise<T> {
  const open: Tx[] = [];
  const found = new Map<number, Tx>();
  try {
    while (wanted.some((slot) => !found.has(slot))) {
      if (open.length >= CONNECTIONS - 2) throw new Error(`no connection of ${open.length} posts to ${wanted}`);
      const tx = await database.pool.connect();
      open.push(tx);
      const { rows } = await tx.query<{ pid: number }>('select pg_backend_pid() as pid');
      found.set((rows[0]?.pid ?? 0) % count, tx);
    }
    return await work(...wanted.map((slot) => found.get(slot) as Tx));
  } finally {
    for (const tx of open) (tx as Tx & { release(): void }).release();
  }
}

/** The accounts that the entries of a transaction are on, in its order. */
async function accountsOf(transactionId: string): Promise<string[]> {
  const { rows } = await database.pool.query<{ id: string }>(
    'select e.account_id as id from payments.entries e where e.transaction_id = $1 order by e.id',
    [transactionId],
  );
  return rows.map(({ id }) => id);
}

async function shown(accountId: string) {
  const { rows } = await database.pool.query<{ balance: bigint; available: bigint; entries: bigint; status: string }>(
    `select balance_cents as balance, available_cents as available, entries, status
     from payments.account_balances where account_id = $1`,
    [accountId],
  );
  return rows[0];
}

async function statusesOf(ids: readonly string[]): Promise<string[]> {
  const { rows } = await database.pool.query<{ status: string }>(
    'select distinct status from payments.balances where account_id = any ($1)',
    [ids],
  );
  return rows.map(({ status }) => status);
}

describe('giving an account slots', () => {
  it('answers with the accounts that its entries are spread over, itself first', async () => {
    const accountId = await openOne({ name: 'card-processor' });
    const slots = await addSlots(database.pool, { accountId, slots: 3 });
    expect(slots).toHaveLength(3);
    expect(slots[0]).toBe(accountId);
    const { rows } = await database.pool.query(
      `select a.id, a.name, a.type, a.currency from payments.accounts a where a.id = any ($1) order by a.name`,
      [slots],
    );
    expect(rows).toEqual(
      ['', ':slot-1', ':slot-2'].map((suffix, nth) => ({
        id: slots[nth],
        name: `card-processor${suffix}`,
        type: 'receivable',
        currency: 'USD',
      })),
    );
  });

  it('keeps the owner', async () => {
    const userId = randomUUID();
    const slots = await openSlotted(2, { type: 'cash', userId });
    const { rows } = await database.pool.query('select user_id from payments.accounts where id = any ($1)', [slots]);
    expect(rows).toEqual([{ user_id: userId }, { user_id: userId }]);
  });

  it('may be repeated, and go on later', async () => {
    const two = await openSlotted(2);
    const accountId = two[0] ?? '';
    expect(await addSlots(database.pool, { accountId, slots: 2 })).toEqual(two);
    const five = await addSlots(database.pool, { accountId, slots: 5 });
    expect(five.slice(0, 2)).toEqual(two);
    expect(new Set(five).size).toBe(5);
    expect(await addSlots(database.pool, { accountId, slots: 3 })).toEqual(five);
  });

  it('ends in as many as the most was asked for, when several ask at once', async () => {
    const accountId = await openOne();
    await Promise.all([4, 2, 6, 3, 6].map((slots) => addSlots(database.pool, { accountId, slots })));
    expect(await addSlots(database.pool, { accountId, slots: 2 })).toHaveLength(6);
  });

  it('names the slots by the id where the name leaves no room', async () => {
    const [accountId, slot] = await openSlotted(2, { name: 'x'.repeat(100) });
    const { rows } = await database.pool.query('select name from payments.accounts where id = $1', [slot]);
    expect(rows).toEqual([{ name: `slot-1:${accountId}` }]);
  });

  it('goes up to 64', async () => {
    expect(await openSlotted(64)).toHaveLength(64);
  });

  const cases: [string, string, RegExp, () => Promise<{ accountId: string; slots?: number; bookId?: number }>][] = [
    ['one slot', 'LEDGER_INVALID', /from 2 to 64, not 1\./, async () => ({ accountId: await openOne(), slots: 1 })],
    ['65 slots', 'LEDGER_INVALID', /not 65\./, async () => ({ accountId: await openOne(), slots: 65 })],
    ['nobody', 'LEDGER_ACCOUNT_UNKNOWN', /does not exist/, async () => ({ accountId: UNKNOWN })],
    ['what is no id', 'LEDGER_ACCOUNT_UNKNOWN', /does not exist/, async () => ({ accountId: 'me' })],
    [
      'an account of another book',
      'LEDGER_BOOK_UNKNOWN',
      /Book 77/,
      async () => ({ accountId: await openOne(), bookId: 77 }),
    ],
    [
      'an account with a floor',
      'LEDGER_SLOTS_REFUSED',
      /has a floor or a ceiling/,
      async () => ({ accountId: await openOne({ floorCents: 0n }) }),
    ],
    [
      'an account with a ceiling',
      'LEDGER_SLOTS_REFUSED',
      /has a floor or a ceiling/,
      async () => ({ accountId: await openOne({ ceilingCents: 5n }) }),
    ],
    [
      'an account with a hold',
      'LEDGER_SLOTS_REFUSED',
      /has active holds/,
      async () => {
        const accountId = await openOne();
        await placeHold(database.pool, { accountId, amountCents: 1n, currency: 'USD' });
        return { accountId };
      },
    ],
    [
      'a frozen account',
      'LEDGER_SLOTS_REFUSED',
      /it is frozen/,
      async () => {
        const accountId = await openOne();
        await changeAccount(database.pool, { accountId, status: 'frozen' });
        return { accountId };
      },
    ],
    [
      'a slot',
      'LEDGER_SLOTS_REFUSED',
      /is a slot of account .*: name that one/,
      async () => ({ accountId: (await openSlotted(2))[1] ?? '' }),
    ],
    [
      'an account whose balance leaves no room for others',
      'LEDGER_SLOTS_REFUSED',
      /leaves no room/,
      async () => {
        const accountId = await openOne();
        await post(database.pool, transfer(accountId, await openOne(), { amountCents: MOST_CENTS + 1n }));
        return { accountId };
      },
    ],
    [
      'an account beside another that is called as a slot would be',
      'LEDGER_SLOTS_REFUSED',
      /the name taken:slot-2, .* is another account's/,
      async () => {
        await openOne({ name: 'taken:slot-2' });
        return { accountId: await openOne({ name: 'taken' }), slots: 3 };
      },
    ],
  ];
  it.each(cases)('is refused for %s, and writes nothing', async (_what, code, message, prepare) => {
    const request = { slots: 2, ...(await prepare()) };
    const count = 'select count(*)::int as n from payments.events';
    const before = (await database.pool.query(count)).rows;
    await expect(addSlots(database.pool, request)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    expect((await database.pool.query(count)).rows).toEqual(before);
  });

  it('makes no accounts of them that could be opened by name, which would be without their floor', async () => {
    const [accountId, , slot] = await openSlotted(3, { name: 'hot' });
    const opening = openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'hot' },
      { type: 'receivable', currency: 'USD', name: 'hot:slot-2', floorCents: 0n },
    ]);
    await expect(opening).rejects.toMatchObject({
      code: 'LEDGER_SLOTS_REFUSED',
      message: `Account hot:slot-2 of the list cannot be opened: ${slot} is a slot of account ${accountId}. Name that account, or give this one another name.`,
    });
  });

  it('is not hindered by holds that have ended', async () => {
    const accountId = await openOne();
    const { holdId } = await placeHold(database.pool, { accountId, amountCents: 1n, currency: 'USD' });
    await voidHold(database.pool, { holdId });
    expect(await addSlots(database.pool, { accountId, slots: 2 })).toHaveLength(2);
  });
});

describe('an account with slots', () => {
  it.each(['floorCents', 'ceilingCents'] as const)('is given no %s, and neither is a slot', async (limit) => {
    for (const accountId of await openSlotted(2)) {
      await expect(changeAccount(database.pool, { accountId, [limit]: 5n })).rejects.toMatchObject({
        code: 'LEDGER_SLOTS_REFUSED',
      });
    }
  });

  it('may have lifted what it does not have', async () => {
    const [accountId = ''] = await openSlotted(2);
    expect(await changeAccount(database.pool, { accountId, floorCents: null })).toMatchObject({ status: 'changed' });
  });

  it('lets nothing be held on it, or on a slot', async () => {
    for (const accountId of await openSlotted(2)) {
      await expect(placeHold(database.pool, { accountId, amountCents: 1n, currency: 'USD' })).rejects.toMatchObject({
        code: 'LEDGER_SLOTS_REFUSED',
      });
    }
  });

  it('is frozen and opened again with all of its slots, each of which refuses by the name of the account', async () => {
    const slots = await openSlotted(3);
    const accountId = slots[0] ?? '';
    await changeAccount(database.pool, { accountId, status: 'frozen', reason: 'audit' });
    expect(await statusesOf(slots)).toEqual(['frozen']);
    await onSlots(3, [0, 1, 2], async (...txs) => {
      for (const tx of txs) {
        const refusal = { code: 'LEDGER_ACCOUNT_FROZEN', message: `Account ${accountId} is frozen.` };
        await expect(post(tx, transfer(accountId, accounts.revenue))).rejects.toMatchObject(refusal);
        const outcomes = await postAll(
          tx,
          Array.from({ length: 4 }, () => transfer(accountId, accounts.revenue)),
        );
        expect(outcomes).toEqual(Array.from({ length: 4 }, () => ({ status: 'rejected', ...refusal })));
      }
      await changeAccount(database.pool, { accountId, status: 'open' });
      for (const tx of txs) await post(tx, transfer(accountId, accounts.revenue));
    });
    expect(await statusesOf(slots)).toEqual(['open']);
  });

  it('is closed when its balance is zero, whatever its slots have, and not before', async () => {
    const slots = await openSlotted(2);
    const accountId = slots[0] ?? '';
    await onSlots(2, [0, 1], async (zero, one) => {
      await post(zero, transfer(accountId, accounts.revenue));
      await expect(changeAccount(database.pool, { accountId, status: 'closed' })).rejects.toMatchObject({
        code: 'LEDGER_ACCOUNT_IN_USE',
      });
      await post(one, transfer(accounts.revenue, accountId));
    });
    await changeAccount(database.pool, { accountId, status: 'closed' });
    expect(await statusesOf(slots)).toEqual(['closed']);
  });

  it('is changed under its own name alone', async () => {
    const [accountId, slot = ''] = await openSlotted(2);
    await expect(changeAccount(database.pool, { accountId: slot, status: 'frozen' })).rejects.toMatchObject({
      code: 'LEDGER_SLOTS_REFUSED',
      message: expect.stringContaining(`is a slot of account ${accountId}`),
    });
  });

  it('is given no floor by a transaction that began before it had slots, whose snapshot does not show them', async () => {
    const accountId = await openOne();
    await withTransaction(database.pool, async (tx) => {
      await tx.query('set transaction isolation level repeatable read');
      await tx.query('select count(*) from payments.events');
      await addSlots(database.pool, { accountId, slots: 2 });
      await expect(changeAccount(tx, { accountId, floorCents: 0n })).rejects.toMatchObject({ code: 'DB_CONFLICT' });
      throw new Error('undone');
    }).catch((error: Error) => expect(error.message).toBe('undone'));
    expect(await shown(accountId)).toMatchObject({ status: 'open' });
  });

  it('is given no slots by a transaction that began before it had a floor', async () => {
    const accountId = await openOne();
    await withTransaction(database.pool, async (tx) => {
      await tx.query('set transaction isolation level repeatable read');
      await tx.query('select count(*) from payments.events');
      await changeAccount(database.pool, { accountId, floorCents: 0n });
      await expect(addSlots(tx, { accountId, slots: 2 })).rejects.toMatchObject({ code: 'DB_CONFLICT' });
      throw new Error('undone');
    }).catch((error: Error) => expect(error.message).toBe('undone'));
  });

  it.each(['one by one', 'in bulk'])('never comes to more than its sum can hold: %s', async (how) => {
    const [accountId = ''] = await openSlotted(2);
    const other = await openOne();
    const most = transfer(accountId, other, { amountCents: MOST_CENTS });
    const oneMore = transfer(accountId, other, { amountCents: 1n });
    await onSlots(2, [1], async (tx) => {
      await post(tx, most);
      if (how === 'one by one') {
        await expect(post(tx, oneMore)).rejects.toMatchObject({ code: 'LEDGER_AMOUNT_OVERFLOW' });
        return;
      }
      const neighbour = () => transfer(other, accounts.revenue);
      const outcomes = await postAll(tx, [neighbour(), oneMore, neighbour(), neighbour()]);
      expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.code : outcome.status))).toEqual([
        'posted',
        'LEDGER_AMOUNT_OVERFLOW',
        'posted',
        'posted',
      ]);
    });
    expect(await shown(accountId)).toMatchObject({ balance: MOST_CENTS });
  });

  it('lets other accounts beside it go up to 64 bits', async () => {
    const [accountId = ''] = await openSlotted(2);
    const [full, rest] = [await openOne(), await openOne()];
    await post(database.pool, transfer(full, rest, { amountCents: 2n ** 63n - 2n }));
    expect(await post(database.pool, transfer(full, accountId, { amountCents: 1n }))).toMatchObject({
      balancesAfterCents: [2n ** 63n - 1n, -1n],
    });
  });
});

describe('posting to an account with slots', () => {
  it('places the entries in the slot of the connection, and the log says in which', async () => {
    const slots = await openSlotted(3);
    const accountId = slots[0] ?? '';
    await onSlots(3, [0, 1, 2], async (...txs) => {
      for (const [nth, tx] of txs.entries()) {
        const posted = await post(tx, transfer(accountId, accounts.revenue));
        expect((await accountsOf(posted.transactionId))[0]).toBe(slots[nth]);
        expect(posted).toMatchObject({
          accountSeqs: [1n, expect.anything()],
          balancesAfterCents: [100n, expect.anything()],
        });
        const { rows } = await database.pool.query(
          `select payload -> 'entries' -> 0 ->> 'account_id' as id from payments.events where event_id = $1`,
          [posted.transactionId],
        );
        expect(rows).toEqual([{ id: slots[nth] }]);
      }
    });
    expect(await shown(accountId)).toMatchObject({ balance: 300n, available: 300n, entries: 3n });
  });

  it.each([1, 3, 50])('takes one slot for all that a call of %i posts to it', async (size) => {
    const slots = await openSlotted(4);
    const accountId = slots[0] ?? '';
    await onSlots(4, [2], async (tx) => {
      const outcomes = await postAll(
        tx,
        Array.from({ length: size }, (_, nth) =>
          nth % 2 === 0
            ? transfer(accountId, accounts.revenue)
            : {
                entries: [
                  ...transfer(accounts.clearing, accountId).entries,
                  ...transfer(accountId, accounts.revenue).entries,
                ],
              },
        ),
      );
      expect(new Set(outcomes.map(({ status }) => status))).toEqual(new Set(['posted']));
    });
    const { rows } = await database.pool.query(
      'select distinct account_id as id from payments.entries where account_id = any ($1)',
      [slots],
    );
    expect(rows).toEqual([{ id: slots[2] }]);
  });

  it('places several accounts that have slots, however the ids are spelt, and leaves the others', async () => {
    const [first, second] = [await openSlotted(2), await openSlotted(3)];
    await onSlots(6, [5], async (tx) => {
      const entries = [
        { accountId: (first[0] ?? '').toUpperCase(), amountCents: 7n, currency: 'USD', description: 'kept' },
        { accountId: second[0] ?? '', amountCents: -4n, currency: 'USD', metadata: { kept: true } },
        { accountId: accounts.revenue.toUpperCase(), amountCents: -3n, currency: 'USD' },
      ];
      const one = await post(tx, { entries });
      const four = await postAll(
        tx,
        Array.from({ length: 4 }, () => ({ entries })),
      );
      for (const outcome of [one, ...four]) {
        const transactionId = outcome.status === 'rejected' ? '' : outcome.transactionId;
        expect(await accountsOf(transactionId)).toEqual([first[1], second[2], accounts.revenue]);
        const { rows } = await database.pool.query(
          'select description, metadata from payments.entries where transaction_id = $1 order by id',
          [transactionId],
        );
        expect(rows).toEqual([
          { description: 'kept', metadata: {} },
          { description: null, metadata: { kept: true } },
          { description: null, metadata: {} },
        ]);
      }
    });
  });

  it.each([1, 4])('answers a retry as a duplicate, whichever slot it would take, in calls of %i', async (size) => {
    const [accountId = ''] = await openSlotted(2);
    const requests = Array.from({ length: size }, () =>
      transfer(accountId, accounts.revenue, { idempotencyKey: randomUUID() }),
    );
    await onSlots(2, [0, 1], async (zero, one) => {
      const posted = await postAll(zero, requests);
      const again = await postAll(one, requests);
      expect(again).toEqual(posted.map((outcome) => ({ ...outcome, status: 'duplicate' })));
    });
    expect(await shown(accountId)).toMatchObject({ entries: BigInt(size) });
  });

  it('may name a slot itself', async () => {
    const slots = await openSlotted(3);
    const { transactionId } = await post(database.pool, transfer(slots[2] ?? '', accounts.revenue));
    expect(await accountsOf(transactionId)).toEqual([slots[2], accounts.revenue]);
    expect(await shown(slots[0] ?? '')).toMatchObject({ balance: 100n });
  });

  it('is announced under the name of the account', async () => {
    const [accountId = ''] = await openSlotted(2);
    await onSlots(2, [1], async (tx) => {
      const { transactionId } = await post(tx, transfer(accountId, accounts.revenue, { announce: 'slots.test' }));
      const { rows } = await database.pool.query(
        `select payload -> 'entries' -> 0 ->> 'account_id' as id from public.outbox where payload ->> 'transaction_id' = $1`,
        [transactionId],
      );
      expect(rows).toEqual([{ id: accountId }]);
    });
  });

  it.each([1, 4])('refuses an entry in another currency by the name of the account, in calls of %i', async (size) => {
    const [accountId = ''] = await openSlotted(2);
    await onSlots(2, [1], async (tx) => {
      const wrong = transfer(accountId, accounts.yen, { currency: 'JPY' });
      const outcomes = await postAll(
        tx,
        Array.from({ length: size }, () => wrong),
      );
      for (const outcome of outcomes) {
        expect(outcome).toMatchObject({
          code: 'LEDGER_CURRENCY_MISMATCH',
          message: expect.stringContaining(`account ${accountId} holds USD`),
        });
      }
    });
  });

  it('keeps linked transactions together', async () => {
    const [accountId = ''] = await openSlotted(2);
    await onSlots(2, [1], async (tx) => {
      const outcomes = await postAll(tx, [
        { ...transfer(accountId, accounts.revenue), linked: true },
        transfer(accountId, UNKNOWN),
      ]);
      expect(outcomes.map((outcome) => outcome.status)).toEqual(['rejected', 'rejected']);
      expect(outcomes[0]).toMatchObject({ code: 'LEDGER_LINK_FAILED' });
    });
    expect(await shown(accountId)).toMatchObject({ balance: 0n });
  });
});

describe('reversing what was posted to an account with slots', () => {
  /** A sale in slot 1 of two, and a connection whose own slot is 0. */
  async function withSale(
    work: (sale: { accountId: string; slots: string[]; reverses: string }, tx: Tx) => Promise<void>,
  ) {
    const slots = await openSlotted(2);
    const accountId = slots[0] ?? '';
    await onSlots(2, [0, 1], async (zero, one) => {
      const { transactionId: reverses } = await post(one, transfer(accountId, accounts.revenue));
      await work({ accountId, slots, reverses }, zero);
    });
  }

  it('takes it back from the slot that it is in', async () => {
    await withSale(async ({ slots, reverses }, tx) => {
      const { transactionId } = await post(tx, { reverses });
      expect(await accountsOf(transactionId)).toEqual([slots[1], accounts.revenue]);
    });
  });

  it('takes back parts of it that name the account, up to what is left', async () => {
    await withSale(async ({ accountId, slots, reverses }, tx) => {
      const part = (amountCents: bigint) => ({ ...transfer(accounts.revenue, accountId, { amountCents }), reverses });
      const { transactionId } = await post(tx, part(60n));
      expect(await accountsOf(transactionId)).toEqual([accounts.revenue, slots[1]]);
      await expect(post(tx, part(41n))).rejects.toMatchObject({ code: 'LEDGER_REVERSAL_EXCEEDED' });
      await post(tx, part(30n));
      const { transactionId: rest } = await post(tx, { reverses });
      expect((await accountsOf(rest)).toSorted()).toEqual([accounts.revenue, slots[1] ?? ''].toSorted());
      expect(await shown(accountId)).toMatchObject({ balance: 0n, entries: 4n });
    });
  });

  it('answers a retried part as a duplicate', async () => {
    await withSale(async ({ accountId, reverses }, tx) => {
      const part = {
        ...transfer(accounts.revenue, accountId, { amountCents: 60n, idempotencyKey: randomUUID() }),
        reverses,
      };
      const posted = await post(tx, part);
      expect(await post(tx, part)).toEqual({ ...posted, status: 'duplicate' });
    });
  });

  it('takes back parts that name the slot itself', async () => {
    await withSale(async ({ slots, reverses }, tx) => {
      const { transactionId } = await post(tx, { ...transfer(accounts.revenue, slots[1] ?? ''), reverses });
      expect(await accountsOf(transactionId)).toEqual([accounts.revenue, slots[1]]);
    });
  });

  it('takes back from the account itself what was posted before it had slots', async () => {
    const accountId = await openOne();
    const { transactionId: reverses } = await post(database.pool, transfer(accountId, accounts.revenue));
    await addSlots(database.pool, { accountId, slots: 2 });
    await onSlots(2, [1], async (tx) => {
      const part = await post(tx, { ...transfer(accounts.revenue, accountId, { amountCents: 1n }), reverses });
      expect(await accountsOf(part.transactionId)).toEqual([accounts.revenue, accountId]);
    });
  });

  it('takes a part from the slot on which most is left, where the transaction named several itself', async () => {
    const [accountId = '', one = '', two = ''] = await openSlotted(3);
    const leg = (id: string, amountCents: bigint) => ({ accountId: id, amountCents, currency: 'USD' });
    const { transactionId: reverses } = await post(database.pool, {
      entries: [leg(one, 30n), leg(two, 70n), leg(accounts.revenue, -100n)],
    });
    const part = (amountCents: bigint) => ({ ...transfer(accounts.revenue, accountId, { amountCents }), reverses });
    const first = await post(database.pool, part(60n));
    expect(await accountsOf(first.transactionId)).toEqual([accounts.revenue, two]);
    const second = await post(database.pool, part(30n));
    expect(await accountsOf(second.transactionId)).toEqual([accounts.revenue, one]);
    await post(database.pool, { reverses });
    expect(await shown(accountId)).toMatchObject({ balance: 0n });
  });

  it('refuses a part that names an account with slots which the transaction is not on', async () => {
    const [other = ''] = await openSlotted(2);
    await withSale(async ({ reverses }, tx) => {
      await expect(post(tx, { ...transfer(accounts.revenue, other), reverses })).rejects.toMatchObject({
        code: 'LEDGER_REVERSAL_EXCEEDED',
        message: expect.stringContaining(`account ${other} has 0 left`),
      });
    });
  });
});

describe('a call that reverses beside other transactions', () => {
  it('locks the account itself in its turn, where that is what is reversed', async () => {
    const [low = '', high = ''] = (await Promise.all([openOne(), openOne()])).toSorted();
    const [other, holder] = [await openOne(), await database.pool.connect()];
    const { transactionId } = await post(database.pool, transfer(low, high));
    await addSlots(database.pool, { accountId: low, slots: 2 });
    const lock = (id: string) =>
      holder.query('select from payments.balances where account_id = $1 for no key update nowait', [id]);
    try {
      await onSlots(2, [1], async (tx) => {
        await holder.query('begin');
        await lock(low);
        const call = postAll(tx, [{ reverses: transactionId }, transfer(high, other)]);
        await eventually('the call waits for the lock', async () => {
          const { rows } = await database.pool.query(
            `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
          );
          return rows.length > 0;
        });
        // In the order of the ids, this one comes after the one that the call waits for.
        await lock(high);
        await holder.query('commit');
        expect((await call).map(({ status }) => status)).toEqual(['posted', 'posted']);
      });
    } finally {
      holder.release();
    }
  });
});

describe('two who post one by one', () => {
  it.each([1, 3])('do not wait for each other in different slots, in calls of %i', async (size) => {
    const [accountId = ''] = await openSlotted(2);
    const others = await Promise.all(Array.from({ length: 2 }, () => openOne()));
    const call = (nth: number) => Array.from({ length: size }, () => transfer(accountId, others[nth] ?? ''));
    await onSlots(2, [0, 1], async (holder, other) => {
      await holder.query('begin');
      await postAll(holder, call(0));
      // Done while the other transaction is open: it had nothing to wait for.
      await other.query(`begin; set local lock_timeout = '2s'`);
      await postAll(other, call(1));
      await other.query('commit');
      expect(await shown(accountId)).toMatchObject({ balance: 100n * BigInt(size) });
      await holder.query('commit');
    });
    expect(await shown(accountId)).toMatchObject({ balance: 200n * BigInt(size) });
  });

  it('wait for each other where the account has no slots', async () => {
    const accountId = await openOne();
    await onSlots(2, [0, 1], async (holder, other) => {
      await holder.query('begin');
      await post(holder, transfer(accountId, accounts.revenue));
      await other.query(`begin; set local lock_timeout = '100ms'`);
      await expect(post(other, transfer(accountId, accounts.clearing))).rejects.toMatchObject({
        cause: { code: '55P03' },
      });
      await other.query('rollback');
      await holder.query('commit');
    });
  });
});

const posting = fc.record({
  slot: fc.nat({ max: 3 }),
  amountCents: fc.bigInt({ min: -500n, max: 500n }).filter((cents) => cents !== 0n),
  daysOff: fc.option(fc.integer({ min: -3, max: 3 }), { nil: undefined }),
});

describe('the history of an account with slots', () => {
  it('is that of one account in a trial balance, now and as of an instant', async () => {
    const bookId = await openBook(database.pool, 'trial balance of slots');
    const [hot = '', other = ''] = await openAccounts(
      database.pool,
      [
        { type: 'receivable', currency: 'USD', name: 'hot' },
        { type: 'payable', currency: 'USD', name: 'other' },
      ],
      { bookId },
    );
    const [, first = '', second = ''] = await addSlots(database.pool, { accountId: hot, slots: 4, bookId });
    await post(database.pool, transfer(first, other, { amountCents: 500n }), { bookId });
    await post(database.pool, transfer(other, second, { amountCents: 200n }), { bookId });
    const expected = [
      { type: 'payable', accounts: 1n, debitCents: 0n, creditCents: 300n, balanceCents: -300n },
      { type: 'receivable', accounts: 1n, debitCents: 300n, creditCents: 0n, balanceCents: 300n },
    ];
    for (const asOf of [
      undefined,
      ...(['recorded', 'effective'] as const).map((by) => ({ at: '2999-01-01T00:00:00Z', by })),
    ]) {
      const [usd] = await trialBalance(database.pool, { bookId, asOf });
      expect(usd?.lines, asOf?.by).toEqual(expected);
    }
  });

  it('is that of one account: balances at any time, and statements by any order, paged anyhow', async () => {
    await onSlots(4, [0, 1, 2, 3], async (...txs) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(posting, { maxLength: 20, size: 'max' }),
          fc.constantFrom<HistoryOrder>('recorded', 'effective'),
          fc.integer({ min: 1, max: 4 }),
          fc.tuple(fc.option(fc.nat(), { nil: undefined }), fc.option(fc.nat(), { nil: undefined }), fc.nat()),
          async (postings, by, pageLines, [fromNth, toNth, atNth]) => {
            const slots = await openSlotted(4);
            const accountId = slots[0] ?? '';
            const now = Date.now();
            for (const { slot, amountCents, daysOff } of postings) {
              const effectiveAt = daysOff === undefined ? {} : { effectiveAt: new Date(now + daysOff * 86_400_000) };
              await post(txs[slot] as Tx, transfer(accountId, accounts.revenue, { amountCents, ...effectiveAt }));
            }
            const entries = (await allEntries(database.pool, 1)).filter((entry) => slots.includes(entry.accountId));
            const at = pickInstant(entries, atNth, 'recordedAt');
            const recorded = await recordedBalance(database.pool, accountId, { at: instantOf(at) });
            const then = entries.filter(({ recordedAt }) => recordedAt <= at);
            expect(recorded).toMatchObject({ balance: { signedCents: sum(then) }, entries: BigInt(then.length) });
            const position = entries[atNth % (entries.length || 1)]?.eventPosition ?? 0n;
            expect((await recordedBalance(database.pool, accountId, { position })).balance.cents).toBe(
              sum(entries.filter(({ eventPosition }) => eventPosition <= position)),
            );
            const day = pickInstant(entries, atNth, 'effectiveAt');
            const effective = await effectiveBalance(database.pool, accountId, instantOf(day));
            const known = entries.filter(({ effectiveAt }) => effectiveAt <= day);
            expect(effective).toMatchObject({ balance: { signedCents: sum(known) }, entries: BigInt(known.length) });
            expect(await shown(accountId)).toMatchObject({ balance: sum(entries), entries: BigInt(entries.length) });
            await expectStatement(accountId, entries, { by, pageLines, fromNth, toNth });
          },
        ),
        { numRuns: RUNS, verbose: 1 },
      );
    });
  });

  it('shows on every page of a statement what was known at the first, whatever is posted and however many slots are added', async () => {
    const [accountId = ''] = await openSlotted(2);
    const pay = (tx: Tx, amountCents: bigint) => post(tx, transfer(accountId, accounts.revenue, { amountCents }));
    await onSlots(6, [2, 3, 5], async (zero, one, later) => {
      for (const [nth, tx] of [zero, one, one, zero].entries()) await pay(tx, BigInt(nth + 1));
      const seen = [];
      for await (const page of statementPages(database.pool, { accountId, pageLines: 1 })) {
        seen.push(...page.lines.map(({ amount, balance }) => [amount.cents, balance.cents]));
        expect(page.closing.cents).toBe(10n);
        await pay(zero, 50n);
        await addSlots(database.pool, { accountId, slots: 3 });
        await pay(later, 60n);
      }
      expect(seen).toEqual([
        [1n, 1n],
        [2n, 3n],
        [3n, 6n],
        [4n, 10n],
      ]);
    });
  });

  it("is that of the slot alone where the slot's own id is given", async () => {
    const slots = await openSlotted(2);
    await onSlots(2, [0, 1], async (zero, one) => {
      await post(zero, transfer(slots[0] ?? '', accounts.revenue, { amountCents: 3n }));
      await post(one, transfer(slots[0] ?? '', accounts.revenue, { amountCents: 4n }));
    });
    expect(await recordedBalance(database.pool, slots[1] ?? '')).toMatchObject({ balance: { cents: 4n }, entries: 1n });
    expect(await shown(slots[1] ?? '')).toBeUndefined();
  });
});

function pickInstant(entries: readonly KeptEntry[], nth: number, which: 'recordedAt' | 'effectiveAt'): bigint {
  return entries[nth % (entries.length || 1)]?.[which] ?? 0n;
}

async function expectStatement(
  accountId: string,
  entries: readonly KeptEntry[],
  {
    by,
    pageLines,
    fromNth,
    toNth,
  }: { by: HistoryOrder; pageLines: number; fromNth: number | undefined; toNth: number | undefined },
): Promise<void> {
  const which = by === 'recorded' ? 'recordedAt' : 'effectiveAt';
  const ends = [fromNth, toNth].map((nth) => (nth === undefined ? undefined : pickInstant(entries, nth, which)));
  const isTurned = ends[0] !== undefined && ends[1] !== undefined && ends[0] > ends[1];
  const [from, to] = isTurned ? ends.toReversed() : ends;
  const isBefore = (entry: KeptEntry) => from !== undefined && entry[which] < from;
  const inRange = entries.filter((entry) => !isBefore(entry) && (to === undefined || entry[which] < to));
  const ordered = by === 'recorded' ? inRange : inRange.toSorted((a, b) => Number(a.effectiveAt - b.effectiveAt));
  const opening = sum(entries.filter(isBefore));
  const lines = [];
  for await (const page of statementPages(database.pool, {
    accountId,
    by,
    from: from === undefined ? undefined : instantOf(from),
    to: to === undefined ? undefined : instantOf(to),
    pageLines,
  })) {
    expect(page).toMatchObject({ opening: { cents: opening }, closing: { cents: opening + sum(inRange) } });
    lines.push(...page.lines);
  }
  let balance = opening;
  const expected = ordered.map(({ id, amountCents }) => {
    balance += amountCents;
    return { id, balance };
  });
  expect(lines.map((line) => ({ id: line.entryId, balance: line.balance.cents }))).toEqual(expected);
}
