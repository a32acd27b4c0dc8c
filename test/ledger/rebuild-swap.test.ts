import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { post } from '../../src/ledger/ledger.ts';
import { compareWithRebuild, discardRebuild, rebuildProjections } from '../../src/ledger/rebuild/rebuild.ts';
import {
  dropVerified,
  liveState,
  type TestAccounts,
  transfer,
  verifyBooks,
  verifyBooksIndependently,
} from '../support/books.ts';
import { damage } from '../support/damage.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { waitsForLock } from '../support/locks.ts';
import { fillEveryProjection } from '../support/rebuild-book.ts';

const SWAP = { swap: { maxRows: 1_000n } };

let database: TestDatabase;
let accounts: TestAccounts;
beforeAll(async () => {
  database = await createDatabase();
  accounts = await fillEveryProjection(database.pool);
});
afterAll(() => dropVerified(database));

const faults = async () =>
  [...(await verifyBooks(database.pool)), ...(await verifyBooksIndependently(database.pool))].filter(
    ({ holds }) => !holds,
  );
const leftBehind = async () =>
  (await database.pool.query(`select from pg_namespace where nspname like '%rebuilt%'`)).rowCount;
const postsOn = () => post(database.pool, transfer(accounts.clearing, accounts.wallet));

/** Each as its table's owner can who means harm; and how many rows are not what the log gives then. */
const DAMAGES: readonly [what: string, sql: string, rows: bigint][] = [
  [
    'the amount of an entry is changed',
    'update payments.entries set amount_cents = amount_cents + 1 where id = (select max(id) from payments.entries)',
    1n,
  ],
  ['an entry is deleted', 'delete from payments.entries where id = (select max(id) from payments.entries)', 1n],
  [
    'an entry is added',
    `insert into payments.entries select (e).* from (
       select jsonb_populate_record(e, jsonb_build_object('id', e.id + 7, 'account_seq', 7000)) as e
       from payments.entries e order by e.id desc limit 1) x`,
    1n,
  ],
  [
    'two entries of an account change places',
    `update payments.entries e set account_seq = 100 + e.account_seq from payments.accounts a
     where a.id = e.account_id and a.name = 'w' and e.account_seq in (3, 4);
     update payments.entries e set account_seq = 107 - e.account_seq where e.account_seq in (103, 104)`,
    2n,
  ],
  [
    'every entry of two events is gone',
    'delete from payments.entries where event_position in (select distinct event_position from payments.entries order by 1 limit 2)',
    4n,
  ],
  ['a balance is wrong', 'update payments.balances set balance_cents = 1 where balance_cents > 0', 1n],
  ['a balance is gone', 'delete from payments.balances where balance_cents > 0', 1n],
  [
    'a balance holds what was released',
    `update payments.balances set held_cents = -100 where account_id = (select id from payments.accounts where name = 'w' and book_id = 1)`,
    1n,
  ],
  ['an account is gone', `delete from payments.accounts where name = 'w' and book_id = 1`, 1n],
  [
    'an account is added',
    `insert into payments.accounts (id, created_at, event_position, book_id, type, currency, name)
     values (gen_random_uuid(), now(), 1, 2, 'cash', 'USD', 'forged')`,
    1n,
  ],
  [
    'two accounts exchange their names',
    `update payments.accounts set name = 'x' where name = 'sales';
     update payments.accounts set name = 'sales' where name = 'wallet';
     update payments.accounts set name = 'wallet' where name = 'x'`,
    2n,
  ],
  ['a change of an account says another reason', `update payments.account_changes set reason = 'x'`, 2n],
  [
    'a hold is open again',
    `update payments.holds set state = 'active', remaining_cents = amount_cents where state = 'voided'`,
    1n,
  ],
  ['the holds are gone', 'delete from payments.holds', 2n],
  [
    'a hold is resolved twice',
    `drop index payments.hold_entries_one_resolution;
     insert into payments.hold_entries select (h).* from (
       select jsonb_populate_record(h, '{"event_position": 7000, "hold_seq": 70, "account_hold_seq": 70}') as h
       from payments.hold_entries h where h.kind = 'voided') x`,
    1n,
  ],
  ['a reversal leaves something', 'update payments.reversals set is_complete = false', 1n],
  ['a period is gone', 'delete from payments.periods', 1n],
  ['a period was closed by another', `update payments.periods set closed_by = 'x'`, 1n],
  ['a slot is gone', 'delete from payments.account_slots where slot_number = 2', 1n],
  [
    'a row is there twice, and its key is gone',
    `alter table payments.reversals drop constraint reversals_pkey, drop constraint reversals_seq_key;
     drop index payments.reversals_one_completes;
     insert into payments.reversals select * from payments.reversals`,
    1n,
  ],
];

/** What only exists while nothing stands against it, put back as `books verify` says. */
const PUT_BACK: Readonly<Record<string, string>> = {
  'a hold is resolved twice':
    'create unique index hold_entries_one_resolution on payments.hold_entries (hold_id, book_id) where remaining_cents = 0',
  'a row is there twice, and its key is gone': `
    alter table payments.reversals add constraint reversals_pkey primary key (transaction_id, book_id),
      add constraint reversals_seq_key unique (reverses, reversal_seq, book_id);
    create unique index reversals_one_completes on payments.reversals (reverses, book_id) where is_complete`,
};

describe('rebuild --swap, where', () => {
  it.each(DAMAGES)('%s, makes the live tables what the log gives', async (what, sql, rows) => {
    await damage(database.pool, sql);
    const { isEqual, swap, tables } = await rebuildProjections(database.pool, SWAP);
    expect({ isEqual, rows: swap?.rows }).toEqual({ isEqual: false, rows });
    expect(tables.reduce((sum, each) => sum + each.differing + each.missing + each.surplus, 0n)).toBe(rows);
    expect(tables.every((table) => table.isEqual === (table.first.length === 0))).toBe(true);

    if (PUT_BACK[what] !== undefined) await database.pool.query(PUT_BACK[what]);
    expect(await faults()).toEqual([]);
    await postsOn();
    expect(await leftBehind()).toBe(0);
  });
});

describe('a rebuild', () => {
  it('changes nothing without --swap, keeps what it found for one, and removes it when told', async () => {
    await damage(database.pool, 'update payments.balances set balance_cents = 1 where balance_cents > 0');
    const before = await liveState(database.pool);
    const first = await rebuildProjections(database.pool, { keep: true });
    expect(first).toMatchObject({ isEqual: false, resumedAt: 0n, swap: undefined, isKept: true });
    expect(await liveState(database.pool)).toBe(before);
    // Compared only, nothing of it is lost.
    expect((await compareWithRebuild(database.pool)).every(({ isEqual }) => isEqual)).toBe(false);
    expect(await leftBehind()).toBe(1);

    await postsOn();
    const second = await rebuildProjections(database.pool, { keep: true, ...SWAP });
    expect(second.resumedAt).toBeGreaterThan(0n);
    expect(second).toMatchObject({ swap: { tries: 1 }, isKept: false });
    expect(await faults()).toEqual([]);
    expect([await leftBehind(), await discardRebuild(database.pool)]).toEqual([0, false]);
  });

  it('says which rows differ, in what, and what the log says', async () => {
    await damage(database.pool, `update payments.accounts set name = 'x' where book_id = 2`);
    const tables = await compareWithRebuild(database.pool);
    expect(tables.find(({ table }) => table === 'accounts')).toMatchObject({
      differing: 1n,
      first: [expect.stringMatching(/^id [0-9a-f-]{36}, book_id 2: name is x, by the log w$/)],
    });
    await rebuildProjections(database.pool, SWAP);
  });

  it('of one book leaves the other as it is', async () => {
    await damage(
      database.pool,
      `update payments.accounts set name = 'x' where book_id = 2; update payments.balances set balance_cents = 1 where balance_cents > 0`,
    );
    const { swap } = await rebuildProjections(database.pool, { bookId: 2, ...SWAP });
    expect(swap?.rows).toBe(1n);
    expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toMatchObject([
      { table: 'balances', differing: 1n },
    ]);
    expect((await rebuildProjections(database.pool, SWAP)).swap?.rows).toBe(1n);
  });

  it('takes no lock where nothing differs', async () => {
    const held = await database.pool.connect();
    try {
      await held.query('begin');
      await held.query('lock table payments.entries in row exclusive mode');
      expect(await rebuildProjections(database.pool, SWAP)).toMatchObject({ isEqual: true, swap: undefined });
    } finally {
      await held.query('rollback');
      held.release();
    }
  });
});

describe('a transaction that posted before the rebuild and commits after it', () => {
  it('is projected later, and neither lost nor doubled', async () => {
    await damage(database.pool, 'update payments.balances set balance_cents = 1 where balance_cents > 0');
    const late = await database.pool.connect();
    await late.query('begin');
    const transactionId = randomUUID();
    await post(late, transfer(accounts.yen, accounts.yen, { transactionId, currency: 'JPY' }));
    // Others go past it meanwhile.
    const passed = await post(database.pool, transfer(accounts.clearing, accounts.wallet));
    const first = await rebuildProjections(database.pool, { keep: true, stepEvents: 7 });
    expect(first.isKept).toBe(true);
    await late.query('commit');
    late.release();

    const { swap } = await rebuildProjections(database.pool, { keep: true, ...SWAP });
    expect(swap?.rows).toBeGreaterThan(0n);
    const { rows } = await database.pool.query<{ entries: bigint }>(
      'select count(*) as entries from payments.entries where transaction_id = any ($1)',
      [[transactionId, passed.transactionId]],
    );
    expect(rows[0]?.entries).toBe(4n);
    expect(await faults()).toEqual([]);
  });

  it('is waited for by the swap, which lets others post meanwhile', async () => {
    await damage(database.pool, 'update payments.balances set balance_cents = 1 where balance_cents > 0');
    const open = await database.pool.connect();
    await open.query('begin');
    await post(open, transfer(accounts.clearing, accounts.wallet));
    let busy = 0;
    const rebuilding = rebuildProjections(database.pool, {
      ...SWAP,
      onBusy: (tries) => {
        busy = tries;
      },
    });
    await waitsForLock(database.pool, 'liventix.period');
    // On other accounts: the open transaction has locked those of its own.
    await post(database.pool, transfer(accounts.yen, accounts.yen, { currency: 'JPY' }));
    await open.query('commit');
    open.release();
    const { swap } = await rebuilding;
    expect(swap?.tries).toBe(busy + 1);
    expect(await faults()).toEqual([]);
  });
});
