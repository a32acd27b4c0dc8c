import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { approveDrift } from '../../src/replay/approve.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { compareWallet, faultOf } from '../../src/replay/compare-wallet.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { finishCutOver } from '../../src/replay/finish.ts';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { turnMirrorOn } from '../../src/replay/mirror.ts';
import { takeProof } from '../../src/replay/proof/proof.ts';
import { reconcile, standingOf } from '../../src/replay/reconcile.ts';
import { compareWallets } from '../../src/replay/report.ts';
import { SOURCES } from '../../src/replay/sources.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { booksHold, howManyWait } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, type LegacyWallet, setBalance } from '../support/legacy.ts';
import { waitsForLock } from '../support/locks.ts';

let database: TestDatabase;
const { connect, end } = testClients(() => database.url);

beforeEach(async () => {
  database = await createLegacyTestDatabase();
});
afterEach(async () => {
  await end();
  await database.drop();
});

const ADJUSTMENT = { type: 'adjustment', referenceType: 'system' } as const;
const run = () => runBackfill(database.pool, { settleMs: 0 });
const flip = (...[wallet]: [LegacyWallet?]) =>
  cutOver(database.pool, {
    owners: wallet === undefined ? 'all' : { kind: wallet.kind, id: wallet.ownerId },
    settleMs: 0,
  });
const cashOf = async ({ ownerId }: LegacyWallet) => {
  const [cash = ''] = await openAccounts(database.pool, [
    { type: 'cash', currency: 'USD', name: 'wallet', userId: ownerId },
  ]);
  return cash;
};
/** A row and the balance that goes with it, as old code writes them. */
const write = (wallet: LegacyWallet, delta: number) =>
  withTransaction(database.pool, async (tx) => {
    const row = await givenRow(tx, wallet, { ...ADJUSTMENT, delta });
    await tx.query('update wallets set balance_credits = balance_credits + $2 where id = $1', [wallet.id, delta]);
    return row;
  });
const ledgerCents = async ({ ownerId }: LegacyWallet) => {
  const { rows } = await database.pool.query<{ cents: bigint }>(
    `select balance_cents as cents from payments.account_balances where user_id = $1 and type = 'cash'`,
    [ownerId],
  );
  return rows[0]?.cents;
};

/** What reconcile says of the first wallets. */
const standings = () =>
  withTransaction(database.pool, async (tx) => (await reconcile(tx, 1).next()).value ?? [], {
    mode: 'isolation level repeatable read',
  });

describe('an account that the ledger does not post to', () => {
  it('keeps back what was captured of its wallet, says so, and nothing of others; it comes in when the account is open again', async () => {
    const { pool } = database;
    const [frozen, other] = [await givenWallet(pool), await givenWallet(pool)];
    await run();
    const account = await cashOf(frozen);
    await changeAccount(pool, { accountId: account, status: 'frozen' });
    for (const wallet of [frozen, other, frozen, other]) await write(wallet, 5);
    expect(await run()).toMatchObject({
      finished: true,
      imported: 2n,
      heldBack: {
        wallets: 1n,
        first: expect.stringMatching(new RegExp(`^wallet ${frozen.id}: .*${account}.* frozen`)),
      },
    });
    expect([await ledgerCents(frozen), await ledgerCents(other)]).toEqual([0n, 10n]);
    expect(await run()).toMatchObject({ imported: 0n, heldBack: { wallets: 1n } });
    await changeAccount(pool, { accountId: account, status: 'open' });
    expect(await run()).toMatchObject({ imported: 2n, heldBack: { wallets: 0n, first: null } });
    expect(await ledgerCents(frozen)).toBe(10n);
    await booksHold(pool);
  });

  it('keeps back what its wallet has beyond its rows, and not what others have', async () => {
    const { pool } = database;
    const [frozen, other] = [await givenWallet(pool), await givenWallet(pool)];
    await run();
    await changeAccount(pool, { accountId: await cashOf(frozen), status: 'frozen' });
    await setBalance(pool, frozen, 7);
    await setBalance(pool, other, 7);
    expect(await run()).toMatchObject({ finished: true, heldBack: { wallets: 1n } });
    expect([await ledgerCents(frozen), await ledgerCents(other)]).toEqual([0n, 7n]);
  });

  it.each([
    [{ status: 'frozen' } as const, /it is frozen/],
    [{ floorCents: 0n }, /floor/],
  ])('keeps its owner from the cut-over, where old code would be refused: %o', async (change, reason) => {
    const { pool } = database;
    const [restricted, other] = [await givenWallet(pool), await givenWallet(pool)];
    await write(restricted, 5);
    await run();
    await changeAccount(pool, { accountId: await cashOf(restricted), ...change });
    const refused = [{ walletId: restricted.id, reason: expect.stringMatching(reason) }];
    expect(await flip()).toMatchObject({ flipped: 1n, refused });
    await write(restricted, -3);
    expect(await flip()).toMatchObject({ flipped: 0n, already: 1n, refused: [{ walletId: restricted.id }] });
    await write(other, 3);
    expect(await ledgerCents(other)).toBe(3n);
  });

  it('is not made of one that the old tables mirror: slots are refused', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await run();
    await flip();
    const request = { accountId: await cashOf(wallet), slots: 4 };
    await expect(addSlots(pool, request)).rejects.toMatchObject({
      code: 'LEDGER_SLOTS_REFUSED',
      message: expect.stringContaining('the old tables mirror it'),
    });
    await rollBack(pool, { owners: 'all' });
    await addSlots(pool, request);
  });
});

describe('what changed while nothing was captured', () => {
  it('is found when a capture begins anew: rows changed, deleted, moved and come back, wallets that went', async () => {
    const { pool } = database;
    const [one, two, gone] = [await givenWallet(pool), await givenWallet(pool), await givenWallet(pool)];
    const [changed, deleted, moved, zeroed, same] = [
      await write(one, 10),
      await write(one, 20),
      await write(one, 40),
      await write(one, 80),
      await write(one, 160),
    ];
    await write(gone, 5);
    await run();
    await turnCaptureOff(pool);
    const update = (set: string, id: string) => pool.query(`update wallet_transactions set ${set} where id = $1`, [id]);
    await update('credits_delta = 11', changed.id);
    await pool.query('delete from wallet_transactions where id = $1', [deleted.id]);
    await update(`wallet_id = '${two.id}'`, moved.id);
    await update('credits_delta = 0', zeroed.id);
    await update(`memo = 'another'`, same.id);
    await pool.query('delete from wallets where id = $1', [gone.id]);
    await givenRow(pool, two, { ...ADJUSTMENT, delta: 3 });
    await setBalance(pool, one, 171);
    await setBalance(pool, two, 43);
    await turnCaptureOn(pool);
    // What changes between the capture and the run is captured, and passed over by the chunks.
    await update(`memo = 'a third'`, same.id);
    expect(await run()).toMatchObject({ finished: true, imported: 1n, corrected: 5n + 1n });
    expect([await ledgerCents(one), await ledgerCents(two), await ledgerCents(gone)]).toEqual([171n, 43n, 0n]);
    expect(await pool.query('select from replay.drift where cents <> 0')).toMatchObject({ rowCount: 0 });
    await booksHold(pool);
    expect((await takeProof(pool, 'a test')).verdict.faults).toEqual([]);
    expect(await run()).toMatchObject({ imported: 0n, corrected: 0n });
    expect(await flip()).toMatchObject({ flipped: 2n, refused: [] });
    await finishCutOver(pool);
    await booksHold(pool);
  });

  it('is found in everything that is booked of a row, and comes before what was captured of it since', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    const [typed, twice, gone, back] = [
      await write(wallet, 10),
      await write(wallet, 20),
      await write(wallet, 40),
      await write(wallet, 80),
    ];
    await run();
    await turnCaptureOff(pool);
    await pool.query(`update wallet_transactions set type = 'promo', reference_id = 'x' where id = $1`, [typed.id]);
    await pool.query('update wallet_transactions set credits_delta = 21 where id = $1', [twice.id]);
    await pool.query('delete from wallet_transactions where id = any ($1)', [[gone.id, back.id]]);
    await turnCaptureOn(pool);
    await pool.query('update wallet_transactions set credits_delta = 22 where id = $1', [twice.id]);
    await givenRow(pool, wallet, { ...ADJUSTMENT, id: back.id, delta: 81 });
    await setBalance(pool, wallet, 10 + 22 + 81);
    expect(await run()).toMatchObject({ finished: true, corrected: 6n });
    expect(await ledgerCents(wallet)).toBe(113n);
    const { rows } = await pool.query<{ id: string; operations: string[] }>(
      `select payload #>> '{metadata,legacy,id}' as id, array_agg(payload #>> '{metadata,legacy,operation}' order by position) as operations
       from payments.events where payload #> '{metadata,legacy}' ? 'version' group by 1`,
    );
    expect(new Map(rows.map(({ id, operations }) => [id, operations]))).toEqual(
      new Map([
        [typed.id, ['resync']],
        [twice.id, ['resync', 'update']],
        [gone.id, ['resync']],
        [back.id, ['resync', 'insert']],
      ]),
    );
    expect((await takeProof(pool, 'a test')).verdict.faults).toEqual([]);
    await booksHold(pool);
  });

  it('is not what mirrored the ledger: that has come back with its owner, and is no finding', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await run();
    await flip();
    await write(wallet, 9);
    const [clearing = ''] = await openAccounts(pool, [{ type: 'receivable', currency: 'USD', name: 'clearing' }]);
    await post(pool, transfer(clearing, await cashOf(wallet), { amountCents: 4n }));
    await rollBack(pool, { owners: 'all' });
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    expect(await run()).toMatchObject({ imported: 0n, corrected: 0n });
    expect((await standings()).map(standingOf)).toEqual(['equal']);
    expect(await ledgerCents(wallet)).toBe(13n);
    await booksHold(pool);
  });
});

it('a row of no wallet is no fault of who writes it, and a note in the log', async () => {
  const { pool } = database;
  await pool.query('alter table wallet_transactions alter wallet_id drop not null');
  await run();
  await pool.query(`insert into wallet_transactions (type, credits_delta) values ('adjustment', 5)`);
  expect(await run()).toMatchObject({ finished: true, imported: 1n });
  const notes = await pool.query(`select from payments.events where payload ->> 'note' = 'orphan'`);
  expect(notes.rowCount).toBe(1);
  await booksHold(pool);
});

it('a row of a type that nobody knows is booked against suspense, and one without an amount is a note', async () => {
  const { pool } = database;
  await pool.query(
    `alter table wallet_transactions drop constraint wallet_txn_type_chk, alter credits_delta drop not null`,
  );
  await turnCaptureOff(pool);
  const [read, drained] = [await givenWallet(pool, { balance: 5 }), await givenWallet(pool, { balance: 5 })];
  const insertInto = (wallet: LegacyWallet) =>
    pool.query(
      `insert into wallet_transactions (wallet_id, type, credits_delta) values ($1, 'gift', 5), ($1, 'adjustment', null)`,
      [wallet.id],
    );
  await insertInto(read);
  await turnCaptureOn(pool);
  await insertInto(drained);
  expect(await run()).toMatchObject({ finished: true, imported: 4n });
  expect([await ledgerCents(read), await ledgerCents(drained)]).toEqual([5n, 5n]);
  const { rows } = await pool.query<{ drift: bigint; notes: bigint }>(
    `select (select -sum(b.balance_cents)::bigint from payments.account_balances b where b.name = 'unexplained') as drift,
            (select count(*) from payments.events where payload ->> 'note' = 'zero_row') as notes`,
  );
  expect(rows).toEqual([{ drift: -10n, notes: 2n }]);
  await booksHold(pool);
  const reason = expect.stringMatching(/^5 cents of it are unexplained/);
  expect(await flip()).toMatchObject({ flipped: 0n, refused: [{ reason }, { reason }] });
  expect((await standings()).map(standingOf)).toEqual(['unexplained', 'unexplained']);
  expect(await approveDrift(pool, { owners: 'all', reason: 'gifts of 2019' })).toEqual({ wallets: 2n, cents: 10n });
  expect(await approveDrift(pool, { owners: 'all', reason: 'again' })).toEqual({ wallets: 0n, cents: 0n });
  expect((await standings()).map(standingOf)).toEqual(['explained', 'explained']);
  expect(await flip()).toMatchObject({ flipped: 2n, refused: [] });
});

it('rows of unknown types do not make up for each other, nor for a balance', async () => {
  const { pool } = database;
  await pool.query('alter table wallet_transactions drop constraint wallet_txn_type_chk');
  const wallet = await givenWallet(pool, { balance: 0 });
  const [gift] = await Promise.all(
    [1_000, -1_000].map((delta) => givenRow(pool, wallet, { type: 'gift' as 'promo', delta })),
  );
  await run();
  const reason = expect.stringMatching(/^2000 cents of it are unexplained/);
  expect(await flip()).toMatchObject({ flipped: 0n, refused: [{ reason }] });
  await pool.query(`update wallet_transactions set type = 'promo' where id = $1`, [gift?.id]);
  await run();
  expect((await flip()).refused).toMatchObject([{ reason: expect.stringMatching(/^1000 cents of it/) }]);
  expect(await approveDrift(pool, { owners: 'all', reason: 'seen' })).toEqual({ wallets: 1n, cents: 1_000n });
  expect(await flip()).toMatchObject({ flipped: 1n, refused: [] });
  await booksHold(pool);
});

it('a row of no wallet that waits hides no difference of others', async () => {
  const { pool } = database;
  await pool.query('alter table wallet_transactions alter wallet_id drop not null');
  const wallet = await givenWallet(pool);
  await run();
  await pool.query(`insert into wallet_transactions (type, credits_delta) values ('adjustment', 5)`);
  await pool.query(`alter table wallets disable trigger liventix_capture; update wallets set balance_credits = 9`);
  expect(await compareWallets(pool)).toMatchObject({
    compared: 1n,
    differing: 1n,
    first: [expect.stringContaining(wallet.id)],
  });
});

it('rows without an amount, and nothing else, are drained, and written to a wallet that the ledger keeps', async () => {
  const { pool } = database;
  await pool.query('alter table wallet_transactions alter credits_delta drop not null');
  const wallet = await givenWallet(pool);
  await run();
  const insert = () =>
    pool.query(`insert into wallet_transactions (wallet_id, type, credits_delta) values ($1, 'adjustment', null)`, [
      wallet.id,
    ]);
  await insert();
  expect(await run()).toMatchObject({ imported: 1n });
  await flip();
  await insert();
  await booksHold(pool);
});

it('what a wallet differed by from the beginning is unexplained, also where it could not be looked at before the first run ended', async () => {
  const { pool } = database;
  await turnCaptureOff(pool);
  const wallet = await givenWallet(pool, { balance: 93 });
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
  await turnCaptureOn(pool);
  // Written to all the while.
  const writes: Promise<unknown>[] = [];
  const writer = setInterval(() => {
    writes.push(setBalance(pool, wallet, 90 + (writes.length % 2)).catch(() => undefined));
  }, 20);
  expect(await runBackfill(pool, { settleMs: 500 })).toMatchObject({ finished: true });
  clearInterval(writer);
  // On a busy machine some are under way still.
  await Promise.all(writes);
  await setBalance(pool, wallet, 94);
  expect(await run()).toMatchObject({ finished: true });
  const { rows } = await pool.query('select cause, cents from replay.drift where cents <> 0 order by cause');
  expect(rows).toEqual([{ cause: 'unexplained', cents: -6n }]);
});

it('whoever ends the capture while owners are cut over waits, or stops the cut-over', async () => {
  const { pool } = database;
  const wallet = await givenWallet(pool);
  await run();
  const flip = await connect();
  await flip.query(`begin; select from replay.capture for share; update replay.wallets set mode = 'ledger'`);
  const ended = turnCaptureOff(pool);
  ended.catch(() => undefined);
  await eventually('it waits', () => howManyWait(pool, 1));
  await flip.query('commit');
  await expect(ended).rejects.toMatchObject({ code: 'CAPTURE_NEEDED' });
  await rollBack(pool, { owners: 'all' });
  await turnCaptureOff(pool);
  await expect(cutOver(pool, { owners: { kind: 'user', id: wallet.ownerId } })).rejects.toMatchObject({
    code: 'CAPTURE_OFF',
  });
});

it('a signature is for one side: who lacks now what he had too much is not signed for', async () => {
  const { pool } = database;
  await turnCaptureOff(pool);
  const wallet = await givenWallet(pool, { balance: 93 });
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
  await turnCaptureOn(pool);
  await run();
  expect(await approveDrift(pool, { owners: 'all', reason: 'ticket 4711' })).toEqual({ wallets: 1n, cents: 7n });
  await pool.query(`update replay.drift set cents = 7 where cause = 'unexplained'`);
  expect(await flip()).toMatchObject({ refused: [{ reason: expect.stringMatching(/^7 cents .* unexplained/) }] });
});

describe('two sides of one wallet', () => {
  it('are compared in full, and then what came since, with the rows that are named', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    const [first, second] = [await write(wallet, 5), await write(wallet, 6)];
    await run();
    const [source] = SOURCES;
    if (source === undefined) throw new Error('there is a source');
    const which = { bookId: 1, source, tables: await getLegacyTables(pool), walletId: wallet.id };
    const whole = await compareWallet(pool, which);
    expect(faultOf(whole)).toBeUndefined();
    const behindTheCapture = (sql: string) =>
      pool.query(`alter table wallet_transactions disable trigger liventix_capture; ${sql};
        alter table wallet_transactions enable always trigger liventix_capture`);
    await behindTheCapture(`update wallet_transactions set credits_delta = 7 where id = '${second.id}'`);
    const part = (ids: string[]) => compareWallet(pool, which, { whole, ids });
    expect(faultOf(await part([first.id]))).toBeUndefined();
    expect(faultOf(await part([first.id, second.id]))).toBe(
      `1 of its rows differ, the first wallet_transactions ${second.id}: 7 credits, in the log 6`,
    );
    expect(faultOf(await compareWallet(pool, which))).toMatch(/^1 of its rows differ/);
    await behindTheCapture(`update wallet_transactions set credits_delta = 6 where id = '${second.id}'`);
    const third = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 7 });
    expect(await compareWallet(pool, which)).toMatchObject({ differingRows: 0n, pendingIds: [third.id] });
    await pool.query('select replay.drain_rows(1, null)');
    await behindTheCapture(`delete from wallet_transactions where id = '${third.id}'`);
    expect(faultOf(await part([]))).toMatch(/^1 of its rows differ, the first wallet_transactions/);
  });
});

it('writers of old code post beside each other on wallets that the ledger keeps', async () => {
  const { pool } = database;
  const [one, two] = [await givenWallet(pool), await givenWallet(pool)];
  await run();
  await flip();
  const connectOnSlot = async () => {
    const client = await connect();
    const { rows } = await client.query<{ slot: number }>('select pg_backend_pid() % 16 as slot');
    return { client, slot: rows[0]?.slot };
  };
  const first = await connectOnSlot();
  let second = await connectOnSlot();
  while (second.slot === first.slot) second = await connectOnSlot();
  await first.client.query('begin');
  await givenRow(first.client, one, { ...ADJUSTMENT, delta: 5 });
  await givenRow(second.client, two, { ...ADJUSTMENT, delta: 6 });
  expect(await howManyWait(pool, 1)).toBe(false);
  await first.client.query('commit');
  expect([await ledgerCents(one), await ledgerCents(two)]).toEqual([5n, 6n]);
  await booksHold(pool);
});

it('a mirror that somebody disabled is put right by the next cut-over', async () => {
  const { pool } = database;
  const wallet = await givenWallet(pool);
  await run();
  await flip();
  await pool.query('alter table payments.entries disable trigger entries_mirrored');
  expect(await flip()).toMatchObject({ already: 1n, refused: [] });
  const { rows } = await pool.query(`select tgenabled from pg_trigger where tgname = 'entries_mirrored'`);
  expect(rows).toEqual([{ tgenabled: 'A' }]);
  await write(wallet, 1);
  await booksHold(pool);
});

describe('while the mirror was gone', () => {
  const given = async () => {
    const wallet = await givenWallet(database.pool);
    await write(wallet, 10);
    await run();
    await flip();
    return wallet;
  };
  const mirrorGone = () => database.pool.query('drop trigger entries_mirrored on payments.entries');
  const gain = async (wallet: LegacyWallet, amountCents: bigint, db: Queryable = database.pool) => {
    const { pool } = database;
    const [clearing = ''] = await openAccounts(pool, [{ type: 'receivable', currency: 'USD', name: 'clearing' }]);
    await post(db, transfer(clearing, await cashOf(wallet), { amountCents }));
  };
  /** What the old tables say: the balance, and the rows. */
  const old = async ({ id }: LegacyWallet) => {
    const { rows } = await database.pool.query<{ balance: number; rows: number[] }>(
      `select balance_credits as balance, array(
         select t.credits_delta from wallet_transactions t where t.wallet_id = w.id order by t.credits_delta) as rows
       from wallets w where id = $1`,
      [id],
    );
    return rows[0];
  };

  it('what was posted is written to the old tables by the next cut-over, and told until then', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    await expect(finishCutOver(pool)).rejects.toMatchObject({ code: 'FINISH_REFUSED' });
    expect(await old(wallet)).toEqual({ balance: 10, rows: [10] });
    expect(await flip()).toMatchObject({ already: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 15, rows: [5, 10] });
    await gain(wallet, 1n);
    expect(await old(wallet)).toEqual({ balance: 16, rows: [1, 5, 10] });
    await booksHold(pool);
    expect((await takeProof(pool, 'a test')).verdict.faults).toEqual([]);
  });

  it('a row that is missing is found where the balance has come right since, and keeps the old tables from their end', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    await turnMirrorOn(pool, { bookId: 1 });
    await gain(wallet, 1n);
    expect(await old(wallet)).toEqual({ balance: 16, rows: [1, 10] });
    await expect(finishCutOver(pool)).rejects.toMatchObject({
      code: 'FINISH_REFUSED',
      message: expect.stringMatching(
        /^1 owners have transactions that no row of the old tables mirrors, the first: user /,
      ),
    });
    expect(await flip(wallet)).toMatchObject({ already: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 16, rows: [1, 5, 10] });
    await finishCutOver(pool);
  });

  it('every wallet that the ledger kept is looked at, once, whose balance has come right too', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    const other = await givenWallet(pool);
    await cutOver(pool, { owners: { kind: 'user', id: other.ownerId }, settleMs: 0 });
    await gain(wallet, 1n);
    expect(await old(wallet)).toEqual({ balance: 16, rows: [1, 10] });
    expect(await flip()).toMatchObject({ already: 2n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 16, rows: [1, 5, 10] });
    expect(await pool.query('select from replay.unmirrored')).toMatchObject({ rowCount: 0 });
    await finishCutOver(pool);
  });

  it('what came right since is not mirrored into the balance a second time', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    await turnMirrorOn(pool, { bookId: 1 });
    await write(wallet, 2);
    await mirrorGone();
    await gain(wallet, 7n);
    expect(await old(wallet)).toEqual({ balance: 17, rows: [2, 10] });
    expect(await flip()).toMatchObject({ already: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 24, rows: [2, 5, 7, 10] });
    expect(await ledgerCents(wallet)).toBe(24n);
    expect(await pool.query('select from replay.drift where cents <> 0')).toMatchObject({ rowCount: 0 });
    await booksHold(pool);
  });

  it.each([
    ['a row and then the balance that it read before', ['row', 'balance']],
    ['the balance and then its row', ['balance', 'row']],
  ])('old code writes on top of what was posted, as if it had been mirrored: %s', async (_, statements) => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 600n);
    // Each time with a balance that lacks other postings.
    for (const [balance, posted] of [
      [5, 605n],
      [600, 600n],
    ] as const) {
      await withTransaction(pool, async (tx) => {
        for (const statement of statements) {
          if (statement === 'row') await givenRow(tx, wallet, { ...ADJUSTMENT, delta: -5 });
          else await tx.query('update wallets set balance_credits = $2 where id = $1', [wallet.id, balance]);
        }
      });
      expect(await ledgerCents(wallet)).toBe(posted);
      expect(await old(wallet)).toMatchObject({ balance: Number(posted) });
    }
    expect(await flip()).toMatchObject({ already: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 600, rows: [-5, -5, 10, 600] });
    await gain(wallet, 1n);
    expect(await old(wallet)).toMatchObject({ balance: 601 });
    await booksHold(pool);
    await finishCutOver(pool);
  });

  it('old code writes on top of what was posted since it wrote last, and of nothing where it wrote unseen', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 7n);
    await write(wallet, 1);
    await gain(wallet, 20n);
    await write(wallet, 2);
    expect([await ledgerCents(wallet), await old(wallet)]).toEqual([40n, { balance: 40, rows: [1, 2, 10] }]);
    await gain(wallet, 30n);
    await pool.query('alter table wallets disable trigger user');
    await setBalance(pool, wallet, 41);
    await pool.query(
      'alter table wallets enable always trigger liventix_capture, enable always trigger liventix_balance',
    );
    await write(wallet, 4);
    expect([await ledgerCents(wallet), await old(wallet)]).toMatchObject([45n, { balance: 45 }]);
  });

  it('old code that read a balance before the mirror came back does so too, until that has caught up', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 7n);
    await turnMirrorOn(pool, { bookId: 1 });
    await withTransaction(pool, async (tx) => {
      await givenRow(tx, wallet, { ...ADJUSTMENT, delta: -5 });
      await setBalance(tx, wallet, 10 - 5);
    });
    expect([await ledgerCents(wallet), await old(wallet)]).toEqual([12n, { balance: 12, rows: [-5, 10] }]);
    expect(await flip()).toMatchObject({ caughtUp: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 12, rows: [-5, 7, 10] });
    await booksHold(pool);
  });

  it('old code that writes a balance beside a posting that is not committed yet writes it on top of that', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    const oldCode = await connect();
    let written = Promise.resolve();
    await withTransaction(pool, async (tx) => {
      await gain(wallet, 7n, tx);
      written = setBalance(oldCode, wallet, 10 - 5);
      await waitsForLock(pool, 'set balance_credits');
    });
    await written;
    expect([await ledgerCents(wallet), await old(wallet)]).toMatchObject([12n, { balance: 12 }]);
  });

  it('a wallet that is made for somebody who has money already has all of it', async () => {
    const { pool } = database;
    const wallet = await given();
    const gone = await givenWallet(pool, { balance: 600 });
    await run();
    await flip();
    await mirrorGone();
    await gain(gone, 100n);
    await pool.query('delete from wallets where id = $1', [gone.id]);
    await gain(gone, 30n);
    const before = await ledgerCents(gone);
    await pool.query('insert into wallets (id, user_id, balance_credits) values (gen_random_uuid(), $1, 5)', [
      gone.ownerId,
    ]);
    const { rows } = await pool.query('select balance_credits::bigint as balance from wallets where user_id = $1', [
      gone.ownerId,
    ]);
    expect(rows).toEqual([{ balance: (before ?? 0n) + 5n }]);
    expect(await ledgerCents(gone)).toBe((before ?? 0n) + 5n);
    expect(await flip()).toMatchObject({ refused: [] });
    expect(await ledgerCents(wallet)).toBe(10n);
  });

  it('a balance that the old column cannot hold, with what was posted, is refused with what to do', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 3_000_000_000n);
    await expect(setBalance(pool, wallet, 5)).rejects.toMatchObject({
      code: 'LV034',
      message: expect.stringMatching(/Post the opposite first/),
    });
  });

  it('what old code wrote unseen beside it is not decided upon, and posted nowhere', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    await pool.query('alter table wallets disable trigger user');
    await setBalance(pool, wallet, 13);
    await pool.query(
      'alter table wallets enable always trigger liventix_capture, enable always trigger liventix_balance',
    );
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({
      flipped: 0n,
      refused: [{ reason: expect.stringMatching(/^it holds 13, its account 15.*--also-differing/) }],
    });
    expect(await ledgerCents(wallet)).toBe(15n);
    expect(await rollBack(pool, { owners: 'all', alsoDiffering: true })).toMatchObject({ flipped: 1n });
    expect(await old(wallet)).toEqual({ balance: 18, rows: [5, 10] });
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    await run();
    expect(await ledgerCents(wallet)).toBe(18n);
    await booksHold(pool);
  });

  it('a posting to somebody whose wallet is gone keeps nothing from its end', async () => {
    const { pool } = database;
    const [wallet, gone] = [await given(), await givenWallet(pool)];
    await run();
    await flip();
    const cash = await cashOf(gone);
    await pool.query('delete from wallets where id = $1', [gone.id]);
    const [clearing = ''] = await openAccounts(pool, [{ type: 'receivable', currency: 'USD', name: 'clearing' }]);
    await post(pool, transfer(clearing, cash, { amountCents: 5n }));
    await finishCutOver(pool);
    expect(await ledgerCents(wallet)).toBe(10n);
  });

  it('a posting that the old column cannot hold keeps its own wallet back, and no other', async () => {
    const { pool } = database;
    const [large, small] = [await given(), await givenWallet(pool)];
    await mirrorGone();
    await gain(large, 3_000_000_000n);
    await run();
    expect(await flip()).toMatchObject({
      already: 1n,
      refused: [{ walletId: large.id, reason: expect.stringMatching(/more than its old column takes/) }],
    });
    expect(await ledgerCents(small)).toBe(0n);
  });

  it('nothing is lost by going back', async () => {
    const { pool } = database;
    const wallet = await given();
    await mirrorGone();
    await gain(wallet, 5n);
    expect(await rollBack(pool, { owners: 'all', dryRun: true })).toMatchObject({ flipped: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 10, rows: [10] });
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ flipped: 1n, refused: [] });
    expect(await old(wallet)).toEqual({ balance: 15, rows: [5, 10] });
    await write(wallet, 2);
    await run();
    expect(await ledgerCents(wallet)).toBe(17n);
    await booksHold(pool);
  });
});

it('what old code wrote to a wallet of the ledger while the capture was gone is booked after a way back that asks for it', async () => {
  const { pool } = database;
  const [wallet, other] = [await givenWallet(pool), await givenWallet(pool)];
  const row = await write(wallet, 10);
  await run();
  await flip();
  await pool.query('alter table wallet_transactions disable trigger user; alter table wallets disable trigger user');
  await write(wallet, 3);
  await pool.query('update wallet_transactions set credits_delta = 9 where id = $1', [row.id]);
  await setBalance(pool, wallet, 12);
  await pool.query('alter table wallet_transactions enable always trigger liventix_capture');
  // And once more, which is posted again: the log must take back what it has, not what nobody told it.
  await pool.query('update wallet_transactions set credits_delta = 8 where id = $1', [row.id]);
  await setBalance(pool, wallet, 11);
  await expect(flip()).rejects.toMatchObject({ code: 'CAPTURE_INTERRUPTED' });
  await expect(turnCaptureOff(pool)).rejects.toMatchObject({ code: 'CAPTURE_NEEDED' });
  expect(await rollBack(pool, { owners: 'all' })).toMatchObject({
    flipped: 1n,
    refused: [{ walletId: wallet.id, reason: expect.stringMatching(/^1 of its rows differ/) }],
  });
  expect(await rollBack(pool, { owners: 'all', alsoDiffering: true })).toMatchObject({ flipped: 1n, already: 1n });
  await turnCaptureOff(pool);
  await turnCaptureOn(pool);
  expect(await run()).toMatchObject({ finished: true, imported: 1n, corrected: 0n });
  expect([await ledgerCents(wallet), await ledgerCents(other)]).toEqual([11n, 0n]);
  expect(await flip()).toMatchObject({ flipped: 2n, refused: [] });
  expect((await takeProof(pool, 'a test')).verdict.faults).toEqual([]);
  await booksHold(pool);
});

it('a wallet that was made again for the same owner is cut over and retired without the first one', async () => {
  const { pool } = database;
  const first = await givenWallet(pool, { balance: 30 });
  await write(first, 5);
  await run();
  await pool.query('delete from wallets where id = $1', [first.id]);
  await pool.query('insert into wallets (user_id, balance_credits) values ($1, 8)', [first.ownerId]);
  await run();
  expect(await flip()).toMatchObject({ flipped: 1n, refused: [] });
  expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ flipped: 1n, refused: [] });
  expect(await flip()).toMatchObject({ flipped: 1n, refused: [] });
  expect(await ledgerCents(first)).toBe(8n);
  await finishCutOver(pool);
  expect(await verifyBooksAndWallets(pool)).toMatchObject({ balance: true });
});

it('a wallet that old code is in the middle of writing to is cut over when it is done', async () => {
  const { pool } = database;
  const wallet = await givenWallet(pool);
  await run();
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
  const flipped = cutOver(pool, { owners: 'all', settleMs: 2_000 });
  await eventually('its row is in the log', async () => (await ledgerCents(wallet)) === 5n);
  await setBalance(pool, wallet, 5);
  expect(await flipped).toMatchObject({ flipped: 1n, refused: [] });
  expect(await pool.query('select from replay.drift where cents <> 0')).toMatchObject({ rowCount: 0 });
  await booksHold(pool);
});
