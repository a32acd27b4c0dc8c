import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { expireHolds, placeHold, voidHold } from '../../src/ledger/holds.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { runChecks } from '../../src/ledger/verify.ts';
import { transfer, verifyBooksIndependently } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { eventually } from '../support/eventually.ts';
import { expectSound, undone } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
/** Books of every shape: two diverse ones whose events take turns in the log, all types of events, seals, closed periods. */
let other: number;
beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
  const { pool } = database;
  await fillDiverseBook(pool, 1);
  other = await openBook(pool, 'other');
  await fillDiverseBook(pool, other);
  for (const bookId of [1, other]) {
    await fillStates(bookId);
    await fillSlots(bookId);
    await sealBook(pool, bookId);
  }
  await fillTurns();
  for (const bookId of [1, other]) {
    for (const until of ['2025-12-15T00:00:00Z', '2026-02-01T00:00:00Z', '2026-02-10T00:00:00+02:00']) {
      await closePeriod(pool, { until, bookId });
    }
    await sealBook(pool, bookId);
  }
});
afterAll(() => database.drop());

/** Limits, holds that end in each way, captures and reversals in parts. */
async function fillStates(bookId: number): Promise<void> {
  const { pool } = database;
  const at = { bookId };
  const [bank = '', wallet = '', stall = ''] = await openAccounts(
    pool,
    [
      { type: 'receivable', currency: 'USD', name: 'bank', ceilingCents: 1_000_000n },
      { type: 'cash', currency: 'USD', name: 'buyer', userId: randomUUID(), floorCents: -100n },
      { type: 'payable', currency: 'USD', name: 'stall', organizationId: randomUUID() },
    ],
    at,
  );
  const paid = await post(
    pool,
    transfer(bank, wallet, { amountCents: 5_000n, effectiveAt: new Date('2026-01-05T00:00:00Z') }),
    at,
  );
  const place = async (amountCents: bigint, more: object = {}) =>
    (
      await placeHold(
        pool,
        { accountId: wallet, amountCents, currency: 'USD', metadata: { n: 1.5, s: 'ü' }, ...more },
        at,
      )
    ).holdId;
  const [inParts, whole, dropped] = [
    await place(300n),
    await place(200n, { referenceType: 'deal', referenceId: '7' }),
    await place(100n),
  ];
  const expiring = await place(50n, { expiresAt: new Date(Date.now() + 200) });
  await post(pool, transfer(wallet, stall, { amountCents: 100n, capture: { holdId: inParts } }), at);
  await post(pool, transfer(wallet, stall, { amountCents: 50n, capture: { holdId: inParts, final: true } }), at);
  await post(pool, transfer(wallet, stall, { amountCents: 200n, capture: { holdId: whole } }), at);
  await voidHold(pool, { holdId: dropped, reason: 'no longer' }, at);
  await eventually('the hold has expired', async () => {
    await expireHolds(pool, at);
    const { rows } = await pool.query<{ state: string }>('select state from payments.holds where hold_id = $1', [
      expiring,
    ]);
    return rows[0]?.state === 'expired';
  });
  await post(pool, transfer(bank, wallet, { amountCents: 2_000n }), at);
  await post(pool, { ...transfer(wallet, bank, { amountCents: 1_000n }), reverses: paid.transactionId }, at);
  await post(pool, { reverses: paid.transactionId, idempotencyKey: 'back' }, at);
  await changeAccount(pool, { accountId: stall, ceilingCents: 9_000n, reason: 'on trial' }, at);
  await changeAccount(pool, { accountId: stall, status: 'frozen' }, at);
  await changeAccount(pool, { accountId: stall, status: 'open', ceilingCents: null }, at);
  // Kept in slots that each have something when all together have nothing, and closed then.
  const [hot = ''] = await openAccounts(pool, [{ type: 'payable', currency: 'USD', name: 'closing' }], at);
  const [whole0 = '', slot1 = ''] = await addSlots(pool, { accountId: hot, slots: 3, bookId });
  await post(pool, transfer(whole0, slot1), at);
  await changeAccount(pool, { accountId: hot, status: 'closed' }, at);
  // Beyond a limit that was set later, and on the way back.
  await changeAccount(pool, { accountId: wallet, floorCents: 1_000_000n }, at);
  await post(pool, transfer(bank, wallet, { amountCents: 10n }), at);
}

/** Accounts of either normal side with slots: given before and after entries, limits and holds; frozen, and opened again. */
async function fillSlots(bookId: number): Promise<void> {
  const { pool } = database;
  const at = { bookId };
  const [hot = '', sales = '', stand = ''] = await openAccounts(
    pool,
    [
      { type: 'receivable', currency: 'USD', name: 'hot', userId: randomUUID() },
      { type: 'revenue', currency: 'USD', name: 'hot', organizationId: randomUUID() },
      { type: 'cash', currency: 'USD', name: 'beside', floorCents: -100n },
    ],
    at,
  );
  const paid = await post(pool, transfer(hot, stand), at);
  // A limit that was lifted, and a hold that ended, before there are slots.
  await changeAccount(pool, { accountId: sales, ceilingCents: 9_000n }, at);
  await changeAccount(pool, { accountId: sales, ceilingCents: null }, at);
  await post(pool, transfer(stand, sales), at);
  const { holdId } = await placeHold(pool, { accountId: sales, amountCents: 40n, currency: 'USD' }, at);
  await voidHold(pool, { holdId }, at);
  for (const [accountId, counts] of [
    [hot, [3, 5]],
    [sales, [2]],
  ] as const) {
    for (const slots of counts) {
      const ids = await addSlots(pool, { accountId, slots, bookId });
      for (const id of ids) await post(pool, transfer(id, accountId === hot ? sales : hot), at);
      await Promise.all(Array.from({ length: 10 }, () => post(pool, transfer(hot, sales), at)));
    }
    await changeAccount(pool, { accountId, status: 'frozen', reason: 'counted' }, at);
    await changeAccount(pool, { accountId, status: 'open' }, at);
  }
  await post(pool, { reverses: paid.transactionId }, at);
}

/** Two books that take turns in the log, gaps in it, and an event that commits after a seal that passed it over. */
async function fillTurns(): Promise<void> {
  const { pool } = database;
  const open = async (bookId: number, names: readonly string[]) => {
    const accounts = names.map((name) => ({ type: 'receivable', currency: 'USD', name }));
    const [debit = '', credit = ''] = await openAccounts(pool, accounts, { bookId });
    return { bookId, debit, credit };
  };
  const books = [await open(1, ['turns', 'turned']), await open(other, ['turns', 'turned'])];
  // On accounts of its own, or the others would wait for it.
  const [slow, late] = [await open(1, ['slow', 'slower']), await pool.connect()];
  try {
    await late.query('begin');
    await post(late, transfer(slow.debit, slow.credit), { bookId: 1 });
    for (let turn = 0; turn < 15; turn += 1) {
      if (turn % 4 === 0) await pool.query(`select nextval('payments.events_position_seq')`);
      for (const { bookId, debit, credit } of books) await post(pool, transfer(debit, credit), { bookId });
      if (turn % 5 === 4) for (const { bookId } of books) await sealBook(pool, bookId);
    }
    await late.query('commit');
  } finally {
    late.release();
  }
  for (const { bookId, debit, credit } of books) {
    await postAll(
      pool,
      Array.from({ length: 1_100 }, () => transfer(debit, credit)),
      { bookId },
    );
    await sealBook(pool, bookId);
    await post(pool, transfer(debit, credit), { bookId });
  }
}

describe('the independent verification', () => {
  it('holds on books of every shape, as the ordinary one does', () => expectSound(database.pool));

  it('looks at all that there is', async () => {
    const examined = new Map(
      (await verifyBooksIndependently(database.pool)).map((result) => [result.check, result.examined]),
    );
    const ordinary = await undone(database.pool, (tx) => runChecks(tx));
    for (const result of ordinary)
      expect([result.check, examined.get(result.check)]).toEqual([result.check, result.examined]);
    const { rows } = await database.pool.query<{ type: string }>(
      'select distinct type from payments.events order by type',
    );
    expect(rows.map(({ type }) => type)).toEqual([
      'account.changed',
      'account.opened',
      'book.opened',
      'hold.expired',
      'hold.placed',
      'hold.voided',
      'period.closed',
      'transaction.posted',
    ]);
  });

  it('names what it checks as the ordinary one does, where it is the same, and in that order', async () => {
    const ordinary = (await undone(database.pool, (tx) => runChecks(tx))).map(({ check }) => check);
    const independent = (await verifyBooksIndependently(database.pool)).map(({ check }) => check);
    expect(independent.filter((check) => ordinary.includes(check))).toEqual(ordinary);
    expect(independent).toHaveLength(new Set(independent).size);
  });

  it('verifies one book alone, whatever became of another', async () => {
    await undone(database.pool, async (tx) => {
      await tx.query(
        `alter table payments.entries disable trigger user;
         update payments.entries set description = 'other' where book_id = ${other} and id = (select min(id) from payments.entries where book_id = ${other});
         alter table payments.entries enable always trigger entries_append_only;
         alter table payments.entries enable always trigger entries_whole_transactions`,
      );
      const failing = async (bookId?: number) =>
        (await verifyIndependently(tx, bookId === undefined ? {} : { bookId }))
          .filter(({ holds }) => !holds)
          .map(({ check }) => check);
      expect(await failing(1)).toEqual([]);
      expect(await failing(other)).toEqual(['the entries are what the log posted']);
      expect(await failing()).toEqual(['the entries are what the log posted']);
    });
  });

  it('calls no function of the ledger: it comes to the same where there is none any more', async () => {
    await undone(database.pool, async (tx) => {
      await tx.query(`do $$
        declare
          v_function regprocedure;
        begin
          for v_function in select p.oid from pg_proc p where p.pronamespace = 'payments'::regnamespace loop
            execute format('alter function %s rename to %I', v_function, 'gone_' || v_function::oid);
          end loop;
        end $$`);
      const results = await verifyIndependently(tx);
      expect(results.filter(({ holds }) => !holds).map(({ check }) => check)).toEqual([
        'every guard of the ledger is in place',
      ]);
      await expect(runChecks(tx)).rejects.toThrow(/does not exist/);
    });
  });

  it('reads what PostgreSQL prints, whatever it was told to print otherwise', async () => {
    await undone(database.pool, async (tx) => {
      await tx.query(
        `set local datestyle = 'German'; set local timezone = 'Asia/Kolkata'; set local bytea_output = 'escape'`,
      );
      expect((await verifyIndependently(tx)).filter(({ holds }) => !holds)).toEqual([]);
    });
  });

  it('tells how many events are done, of how many', async () => {
    await undone(database.pool, async (tx) => {
      const told: [number, bigint][] = [];
      const begun: string[] = [];
      const results = await verifyIndependently(
        tx,
        {},
        { onProgress: (done, total) => told.push([done, total]), onBegin: (check) => begun.push(check) },
      );
      const events = results.find(({ check }) => check === 'no event changed since it was written')?.examined ?? 0n;
      expect(told.at(-1)).toEqual([Number(events), events]);
      expect(told.length).toBeGreaterThan(1);
      expect(begun).toContain('no event changed since it was written');
    });
  });

  it('names a book that was given another name, and one that is gone', async () => {
    await undone(database.pool, async (tx) => {
      await tx.query(`update payments.books set name = 'renamed' where book_id = ${other}`);
      const failed = (await verifyIndependently(tx)).filter(({ holds }) => !holds);
      expect(failed).toMatchObject([
        {
          check: 'the books are what the log opened',
          first: [`book ${other} is called "renamed", its event in the log opened it as "other"`],
        },
      ]);
    });
  });
});
