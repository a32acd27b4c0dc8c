import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { post } from '../../src/ledger/ledger.ts';
import { balanceOf, openTestAccounts, type TestAccounts, transfer, verifyBooks } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let accounts: TestAccounts;
beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => database.drop());

interface Imported {
  readonly id: string;
  readonly cents: number;
  readonly key?: string;
}

/** What the backfill does: transactions that are decided already, into the wallet, in this order. */
async function importAll(events: readonly Imported[]): Promise<number> {
  const { rows } = await database.pool.query<{ imported: number }>(
    `select payments.import_events(1, array[$1, $2]::uuid[], array_agg(
       row('transaction.posted', (e.value ->> 'id')::uuid, now(), case when e.value ? 'key' then 'import' end, e.value ->> 'key', null,
         jsonb_build_object('entries', jsonb_build_array(
           jsonb_build_object('account_id', $1::uuid, 'amount_cents', (e.value ->> 'cents')::bigint, 'currency', 'USD'),
           jsonb_build_object('account_id', $2::uuid, 'amount_cents', -(e.value ->> 'cents')::bigint, 'currency', 'USD')))
       )::payments.new_event order by e.ordinality)) as imported
     from jsonb_array_elements($3::jsonb) with ordinality as e`,
    [accounts.clearing, accounts.wallet, JSON.stringify(events)],
  );
  return rows[0]?.imported ?? -1;
}
const transaction = (cents: number, key?: string): Imported => ({
  id: randomUUID(),
  cents,
  ...(key === undefined ? {} : { key }),
});
const history = async () => {
  const { rows } = await database.pool.query<{ id: string; cents: bigint; seq: bigint }>(
    'select transaction_id as id, amount_cents as cents, account_seq as seq from payments.entries where account_id = $1 order by account_seq',
    [accounts.clearing],
  );
  return rows;
};

describe('payments.import_events', () => {
  let before: Awaited<ReturnType<typeof history>>;
  let balance: bigint;
  beforeEach(async () => {
    before = await history();
    balance = await balanceOf(database.pool, accounts.clearing);
  });
  const unchanged = async () => {
    expect(await history()).toEqual(before);
    expect(await balanceOf(database.pool, accounts.clearing)).toBe(balance);
    expect((await verifyBooks(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
  };

  it('passes over what is in the log, and brings the rest in its order, each once', async () => {
    const [a, b, c, d] = [transaction(1), transaction(20), transaction(300), transaction(4_000)] as const;
    expect(await importAll([a, b])).toBe(2);
    expect(await importAll([d, b, c, a])).toBe(2);
    const added = (await history()).slice(before.length);
    expect(added.map(({ id }) => id)).toEqual([a.id, b.id, d.id, c.id]);
    expect(added.map(({ seq }) => Number(seq) - before.length)).toEqual([1, 2, 3, 4]);
    expect(await balanceOf(database.pool, accounts.clearing)).toBe(balance + 4_321n);
    expect((await verifyBooks(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
  });

  it('passes over what is in the log under its key too, whichever of the two indexes was made last', async () => {
    const [a, b] = [transaction(1, 'kept'), transaction(20)] as const;
    expect(await importAll([a])).toBe(1);
    for (const index of ['events_event_id_key', 'events_idempotency_key']) {
      await database.pool.query(`reindex index concurrently payments.${index}`);
      expect(await importAll([a])).toBe(0);
    }
    expect(await importAll([a, b])).toBe(1);
    expect((await verifyBooks(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
  });

  it('is refused where something else has an id of it: what it stands for would be lost', async () => {
    const [taken, free] = [transaction(777), transaction(5)];
    await post(database.pool, {
      ...transfer(accounts.clearing, accounts.wallet, { amountCents: 1n }),
      transactionId: taken.id,
    });
    before = await history();
    balance = await balanceOf(database.pool, accounts.clearing);
    await expect(importAll([free, taken])).rejects.toMatchObject({
      code: 'LV008',
      message: expect.stringContaining(taken.id),
    });
    await unchanged();
  });

  it('imports nothing where the log has everything, and of nothing', async () => {
    const a = transaction(5);
    await importAll([a]);
    [before, balance] = [await history(), await balanceOf(database.pool, accounts.clearing)];
    expect(await importAll([a])).toBe(0);
    expect(await importAll([])).toBe(0);
    await unchanged();
  });

  it.each([
    ['a key that is taken', 'events_idempotency_key', [transaction(6), transaction(7, 'taken')]],
    ['one key twice', 'events_idempotency_key', [transaction(6, 'new'), transaction(7, 'new')]],
    ['one id twice', 'events_event_id_key', Array<Imported>(2).fill(transaction(6))],
  ])('refuses %s, and writes nothing', async (_what, constraint, events) => {
    await importAll([transaction(1, 'taken')]).catch(() => undefined);
    [before, balance] = [await history(), await balanceOf(database.pool, accounts.clearing)];
    await expect(importAll(events)).rejects.toMatchObject({ code: '23505', constraint });
    await unchanged();
  });
});
