import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AccountChange, changeAccount } from '../../src/ledger/accounts.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { type NewAccount, openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { balanceOf, dropVerified, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let accounts: TestAccounts;

beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => dropVerified(database));

async function open(fields: Partial<NewAccount> = {}): Promise<string> {
  const [id = ''] = await openAccounts(database.pool, [
    { type: 'cash', currency: 'USD', name: 'limited', userId: randomUUID(), ...fields },
  ]);
  return id;
}
const fund = (account: string, amountCents: bigint) =>
  post(database.pool, transfer(accounts.clearing, account, { amountCents }));
const spend = (account: string, amountCents: bigint) => transfer(account, accounts.revenue, { amountCents });

describe('a floor', () => {
  it('refuses what would carry the balance below it, to the cent', async () => {
    const wallet = await open({ floorCents: 100n });
    await fund(wallet, 500n);
    await expect(post(database.pool, spend(wallet, 401n))).rejects.toMatchObject({
      code: 'LEDGER_FLOOR_PASSED',
      message: `Account ${wallet} would have 99 USD available, below its floor of 100.`,
    });
    await post(database.pool, spend(wallet, 400n));
    expect(await balanceOf(database.pool, wallet)).toBe(-100n);
  });

  it('reads as the holder does on both sides: of what we owe and of what we are owed', async () => {
    const receivable = await open({ type: 'receivable', floorCents: 0n });
    await post(database.pool, transfer(receivable, accounts.revenue, { amountCents: 10n }));
    await expect(
      post(database.pool, transfer(accounts.clearing, receivable, { amountCents: 11n })),
    ).rejects.toMatchObject({ code: 'LEDGER_FLOOR_PASSED' });
  });

  it('looks at what a transaction comes to, not at its entries one by one', async () => {
    const wallet = await open({ floorCents: 0n });
    const outcome = await post(database.pool, {
      entries: [
        { accountId: wallet, amountCents: 50n, currency: 'USD' },
        { accountId: accounts.clearing, amountCents: 10n, currency: 'USD' },
        { accountId: wallet, amountCents: -60n, currency: 'USD' },
      ],
    });
    expect(outcome.balancesAfterCents[0]).toBe(50n);
    expect(await balanceOf(database.pool, wallet)).toBe(-10n);
  });

  it('lets a balance that is below it already come back, and go no further', async () => {
    const wallet = await open();
    await post(database.pool, spend(wallet, 500n));
    await changeAccount(database.pool, { accountId: wallet, floorCents: 0n });
    await fund(wallet, 100n);
    await expect(post(database.pool, spend(wallet, 1n))).rejects.toMatchObject({ code: 'LEDGER_FLOOR_PASSED' });
  });

  it('refuses only who comes too late in a call, in the order of the call', async () => {
    const wallet = await open({ floorCents: 0n });
    await fund(wallet, 100n);
    const outcomes = await postAll(database.pool, [
      spend(wallet, 60n),
      spend(wallet, 60n),
      spend(wallet, 40n),
      transfer(accounts.clearing, wallet, { amountCents: 5n }),
      spend(wallet, 5n),
      spend(wallet, 1n),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual([
      'posted',
      'rejected',
      'posted',
      'posted',
      'posted',
      'rejected',
    ]);
    expect(await balanceOf(database.pool, wallet)).toBe(0n);
  });

  it('answers the same key in one call after it was refused as if it came anew', async () => {
    const wallet = await open({ floorCents: 0n });
    const late = { ...spend(wallet, 10n), idempotencyKey: randomUUID() };
    const deposit = transfer(accounts.clearing, wallet, { amountCents: 10n });
    const outcomes = await postAll(database.pool, [late, deposit, late, late]);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'posted', 'posted', 'duplicate']);
  });

  it('holds for 16 who spend at once', async () => {
    const wallet = await open({ floorCents: 0n });
    await fund(wallet, 100n);
    const results = await Promise.allSettled(Array.from({ length: 16 }, () => post(database.pool, spend(wallet, 30n))));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    expect(await balanceOf(database.pool, wallet)).toBe(-10n);
  });

  it("is held by the database for the tables' owner too", async () => {
    const wallet = await open({ floorCents: 0n });
    const client = await database.pool.connect();
    try {
      await client.query('begin');
      await client.query(
        `insert into payments.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, leaf_hash)
         values (nextval('payments.events_position_seq'), now(), now(), '${randomUUID()}', 1, 'transaction.posted', 'me', '{}', '')`,
      );
      const insert = client.query(
        `with e as (select * from payments.events order by position desc limit 1)
         insert into payments.entries (book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency,
           balance_after_cents, effective_at, created_at, created_by, metadata)
         select 1, position * 1024 + leg, position, event_id, account, 1000 + leg, cents, 'USD', after, now(), now(), 'me', '{}'
         from e cross join (values (1, '${wallet}'::uuid, 1, 1), (2, '${accounts.revenue}', -1, 0)) as l (leg, account, cents, after)`,
      );
      await expect(insert).rejects.toMatchObject({ code: 'LV014' });
    } finally {
      await client.query('rollback');
      client.release();
    }
  });
});

describe('a ceiling', () => {
  it('refuses what would carry the balance above it, whatever is on hold', async () => {
    const wallet = await open({ floorCents: 0n, ceilingCents: 100n });
    await fund(wallet, 60n);
    await placeHold(database.pool, { accountId: wallet, amountCents: 50n, currency: 'USD' });
    await expect(fund(wallet, 41n)).rejects.toMatchObject({
      code: 'LEDGER_CEILING_PASSED',
      message: `Account ${wallet} would come to 101 USD, above its ceiling of 100.`,
    });
    await fund(wallet, 40n);
  });

  it('is lifted by null, and leaves the floor alone', async () => {
    const wallet = await open({ floorCents: 0n, ceilingCents: 10n });
    await changeAccount(database.pool, { accountId: wallet, ceilingCents: null });
    await fund(wallet, 1_000n);
    await expect(post(database.pool, spend(wallet, 1_001n))).rejects.toMatchObject({ code: 'LEDGER_FLOOR_PASSED' });
  });
});

describe('changing an account', () => {
  it('freezes it: nothing is posted to it and nothing held on it, in calls of any size, until it is opened again', async () => {
    const wallet = await open();
    await fund(wallet, 100n);
    await changeAccount(database.pool, { accountId: wallet, status: 'frozen', reason: 'chargeback' });
    const refused = { status: 'rejected', code: 'LEDGER_ACCOUNT_FROZEN', message: `Account ${wallet} is frozen.` };
    const good = transfer(accounts.clearing, accounts.wallet);
    expect(await postAll(database.pool, [spend(wallet, 1n)])).toMatchObject([refused]);
    expect(await postAll(database.pool, [good, good, spend(wallet, 1n), good, good])).toMatchObject([
      { status: 'posted' },
      { status: 'posted' },
      refused,
      { status: 'posted' },
      { status: 'posted' },
    ]);
    await expect(
      placeHold(database.pool, { accountId: wallet, amountCents: 1n, currency: 'USD' }),
    ).rejects.toMatchObject({ code: 'LEDGER_ACCOUNT_FROZEN' });
    await changeAccount(database.pool, { accountId: wallet, status: 'open' });
    await post(database.pool, spend(wallet, 100n));
  });

  it('closes it only when nothing is on it, in balance or on hold', async () => {
    const wallet = await open();
    await fund(wallet, 100n);
    const close = () => changeAccount(database.pool, { accountId: wallet, status: 'closed' });
    await expect(close()).rejects.toMatchObject({ code: 'LEDGER_ACCOUNT_IN_USE' });
    await post(database.pool, spend(wallet, 100n));
    await close();
    await expect(fund(wallet, 1n)).rejects.toMatchObject({ code: 'LEDGER_ACCOUNT_CLOSED' });
  });

  it('is written down: who, when, why, and what it came to', async () => {
    const wallet = await open({ floorCents: 0n });
    await changeAccount(database.pool, { accountId: wallet, ceilingCents: 500n, reason: 'KYC level 1' });
    await changeAccount(database.pool, { accountId: wallet, status: 'frozen' });
    const { rows } = await database.pool.query(
      `select change_seq, status, floor_cents, ceiling_cents, reason, changed_by
       from payments.account_changes where account_id = $1 order by change_seq`,
      [wallet],
    );
    expect(rows).toEqual([
      { change_seq: 1n, status: 'open', floor_cents: 0n, ceiling_cents: null, reason: null, changed_by: 'liventix' },
      {
        change_seq: 2n,
        status: 'open',
        floor_cents: 0n,
        ceiling_cents: 500n,
        reason: 'KYC level 1',
        changed_by: 'liventix',
      },
      { change_seq: 3n, status: 'frozen', floor_cents: 0n, ceiling_cents: 500n, reason: null, changed_by: 'liventix' },
    ]);
  });

  it('is done once by one key', async () => {
    const wallet = await open();
    const change: AccountChange = { accountId: wallet, floorCents: 5n, idempotencyKey: randomUUID() };
    const first = await changeAccount(database.pool, change);
    expect(await changeAccount(database.pool, change)).toEqual({ ...first, status: 'duplicate' });
    await expect(changeAccount(database.pool, { ...change, floorCents: 6n })).rejects.toMatchObject({
      code: 'LEDGER_IDEMPOTENCY_CONFLICT',
    });
  });

  const refusals: [string, (id: string) => object, string][] = [
    ['nothing to change', (id) => ({ account_id: id }), 'LV001'],
    ['a floor of 19 digits', (id) => ({ account_id: id, floor_cents: '1000000000000000000' }), 'LV001'],
    ['a floor above the ceiling', (id) => ({ account_id: id, floor_cents: 2, ceiling_cents: 1 }), 'LV001'],
  ];
  it.each(refusals)('refuses %s, and writes nothing', async (_what, build, sqlstate) => {
    const wallet = await open();
    const before = await countEvents();
    const body = build(wallet);
    const call = database.pool.query('select payments.change_account(1, $1)', [JSON.stringify(body)]);
    await expect(call).rejects.toMatchObject({ code: sqlstate });
    expect(await countEvents()).toBe(before);
  });

  it('opens no account with a floor above its ceiling', async () => {
    const account = { type: 'cash', currency: 'USD', name: 'never', floor_cents: 2, ceiling_cents: 1 };
    const call = database.pool.query('select payments.open_accounts(1, $1)', [JSON.stringify([account])]);
    await expect(call).rejects.toMatchObject({ code: 'LV001' });
  });
});

async function countEvents(): Promise<bigint> {
  const { rows } = await database.pool.query<{ n: bigint }>('select count(*) as n from payments.events');
  return rows[0]?.n ?? -1n;
}
