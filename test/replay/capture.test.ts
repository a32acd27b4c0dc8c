import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { openAccounts } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { findCapture, turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver } from '../../src/replay/cut-over.ts';
import { compareWallets, driftByCause } from '../../src/replay/report.ts';
import { booksHold } from '../support/backfill.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  setBalance,
  widenColumns,
} from '../support/legacy.ts';
import { waitsForLock } from '../support/locks.ts';

let database: TestDatabase;
const { connect, end } = testClients(() => database.url);

beforeEach(async () => {
  database = await createLegacyTestDatabase(undefined, { isCaptured: false });
});
afterEach(async () => {
  await end();
  await database.drop();
});

const run = () => runBackfill(database.pool, { settleMs: 0 });
const captured = async (): Promise<{ operation: string; old: bigint | null; new: bigint | null }[]> => {
  const { rows } = await database.pool.query(
    `select operation, (old).delta as old, (new).delta as new from replay.captured_rows order by id`,
  );
  return rows;
};
/** Transactions and notes of the log, as cents by account. */
const booked = async (): Promise<string[][]> => {
  const { rows } = await database.pool.query<{ legs: string[] }>(
    `select case when e.type = 'note.recorded' then array['note ' || (e.payload ->> 'note')] else array(
              select format('%s %s', a.name, n.amount_cents) from payments.entries n join payments.accounts a on a.id = n.account_id
              where n.transaction_id = e.event_id order by n.id) end as legs
     from payments.events e where e.type in ('transaction.posted', 'note.recorded') order by e.position`,
  );
  return rows.map(({ legs }) => legs);
};
const ADJUSTMENT = { type: 'adjustment', referenceType: 'system' } as const;

describe('a capture', () => {
  it('is turned on once, and without one a backfill does not begin', async () => {
    const { pool } = database;
    await expect(run()).rejects.toMatchObject({ code: 'CAPTURE_OFF', message: expect.stringContaining('capture on') });
    expect((await pool.query('select from payments.events')).rowCount).toBe(0);
    expect(await turnCaptureOn(pool)).toBe(true);
    expect(await turnCaptureOn(pool)).toBe(false);
    expect(await findCapture(pool)).toMatchObject({ bookId: 1, isWhole: true });
    await expect(turnCaptureOn(pool, { bookId: 2 })).rejects.toMatchObject({ code: 'CAPTURE_OTHER_BOOK' });
    expect(await turnCaptureOff(pool)).toBe(true);
    expect(await turnCaptureOff(pool)).toBe(false);
    const left = await pool.query(
      `select from pg_trigger where tgname like 'liventix%' and tgrelid::regclass::text like '%wallet%'`,
    );
    expect(left.rowCount).toBe(0);
  });

  it('has for each change the row before and after, whoever makes it, and nothing that the replay does not read', async () => {
    const { pool } = database;
    await turnCaptureOn(pool);
    const wallet = await givenWallet(pool);
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    await pool.query('update wallet_transactions set credits_delta = 7 where id = $1', [row.id]);
    await pool.query(`update wallet_transactions set memo = 'another' where id = $1`, [row.id]);
    await pool.query('update wallets set low_balance_threshold = 3');
    const replica = await connect();
    const admin = await connect(database.adminUrl);
    await admin.query(`set session_replication_role = replica`);
    await admin.query('update wallet_transactions set credits_delta = 8 where id = $1', [row.id]);
    await replica.query('delete from wallet_transactions where id = $1', [row.id]);
    expect(await captured()).toEqual([
      { operation: 'insert', old: null, new: 5n },
      { operation: 'update', old: 5n, new: 7n },
      // Another memo: the row is younger than the horizon from then on.
      { operation: 'update', old: 7n, new: 7n },
      { operation: 'update', old: 7n, new: 8n },
      { operation: 'delete', old: 8n, new: null },
    ]);
    const { rows } = await pool.query('select operation, new_balance from replay.captured_wallets');
    expect(rows).toEqual([{ operation: 'insert', new_balance: 0n }]);
  });

  it('keeps no row of a change that rolled back', async () => {
    const { pool } = database;
    await turnCaptureOn(pool);
    const wallet = await givenWallet(pool);
    const client = await connect();
    await client.query('begin');
    await givenRow(client, wallet, { ...ADJUSTMENT, delta: 5 });
    await client.query('rollback');
    expect(await captured()).toEqual([]);
  });

  it.each(['wallets', 'wallet_transactions', 'org_wallets', 'org_wallet_transactions'])(
    'refuses TRUNCATE of %s, and allows it when it is over',
    async (table) => {
      const { pool } = database;
      await turnCaptureOn(pool);
      await expect(pool.query(`truncate ${table} cascade`)).rejects.toMatchObject({
        code: 'LV032',
        message: expect.stringMatching(/TRUNCATE of [\w.]+ is refused .* Delete the rows instead/),
      });
      await turnCaptureOff(pool);
      await pool.query(`truncate ${table} cascade`);
    },
  );

  it('does not keep the old columns from being altered', async () => {
    const { pool } = database;
    await turnCaptureOn(pool);
    await pool.query(
      'alter table wallets alter balance_credits type bigint, add colour text, drop auto_reload_enabled',
    );
    await pool.query('alter table org_wallet_transactions drop description');
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    expect(await run()).toMatchObject({ imported: 1n });
    await booksHold(pool);
  });

  it.each(['replay', 'ledger'])(
    'does not keep sessions from columns that were altered, of a wallet that the %s keeps',
    async (mode) => {
      const { pool } = database;
      await turnCaptureOn(pool);
      const wallets = [await givenWallet(pool), await givenWallet(pool, { kind: 'organization' })];
      const session = await connect();
      const write = async () => {
        for (const wallet of wallets) {
          await setBalance(session, wallet, 5);
          await givenRow(session, wallet, { ...ADJUSTMENT, delta: 5 });
          await setBalance(session, wallet, 0);
          await givenRow(session, wallet, { ...ADJUSTMENT, delta: -5 });
        }
      };
      await run();
      if (mode === 'ledger') await cutOver(pool, { owners: 'all', settleMs: 0 });
      await write();
      await widenColumns(pool);
      await write();
      await run();
      await booksHold(pool);
    },
  );

  it('gives way to whoever holds a wallet table, says so, and changes nothing where that never ends', async () => {
    const { pool } = database;
    const holder = await connect();
    await holder.query('begin; lock table org_wallet_transactions in row exclusive mode');
    const stop = new AbortController();
    const tries: number[] = [];
    const onBusy = (nth: number) => {
      tries.push(nth);
      if (nth === 3) stop.abort();
    };
    await expect(turnCaptureOn(pool, { stop: stop.signal, onBusy })).rejects.toMatchObject({
      code: 'CAPTURE_BUSY',
      message: expect.stringMatching(/was in use each of 3 times.*Nothing was changed/),
    });
    expect(tries).toEqual([1, 2, 3]);
    expect(await findCapture(pool)).toBeUndefined();
    const patient = turnCaptureOn(pool, { onBusy: () => holder.query('commit') });
    expect(await patient).toBe(true);
  });

  it('waits for every transaction that is older, and names the one that does not end', async () => {
    const { pool } = database;
    const older = await connect();
    await older.query('begin; select pg_current_xact_id()');
    await expect(turnCaptureOn(pool, { patienceMs: 0 })).rejects.toMatchObject({
      code: 'CAPTURE_BUSY',
      message: expect.stringMatching(/is on, but a transaction that is older has not ended: pid \d+/),
    });
    await expect(runBackfill(pool, { stop: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CAPTURE_BUSY' });
    // It writes what no survey will see, and what no horizon would let in.
    const wallet = await givenWallet(older, { balance: 4 });
    await givenRow(older, wallet, { ...ADJUSTMENT, delta: 4 });
    await older.query('savepoint inner_one');
    await givenRow(older, wallet, { ...ADJUSTMENT, delta: 3 });
    await older.query('release inner_one');
    await setBalance(older, wallet, 7);
    const begun = run();
    await older.query('commit');
    expect(await begun).toMatchObject({ finished: true, imported: 2n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([]);
  });

  it('asks for older transactions until there is none, and never again: in the end 32 bits do not tell them any more', async () => {
    const { pool } = database;
    await turnCaptureOn(pool);
    // As one that is two thousand million transactions younger looks like.
    const writer = await connect();
    await writer.query('begin; select pg_current_xact_id()');
    await pool.query(`update replay.capture set horizon = (pg_current_xact_id()::text::bigint + 1000)::text::xid8`);
    expect(await turnCaptureOn(pool, { patienceMs: 0 })).toBe(false);
    await pool.query('update replay.capture set settled_at = null');
    await expect(turnCaptureOn(pool, { patienceMs: 0 })).rejects.toMatchObject({ code: 'CAPTURE_BUSY' });
  });

  const TAMPERINGS = [
    'drop trigger liventix_capture on wallet_transactions',
    'alter table wallets disable trigger liventix_capture',
    'alter table wallets disable trigger liventix_capture; alter table wallets enable always trigger liventix_capture',
    'alter table org_wallets enable replica trigger liventix_capture',
    'drop trigger liventix_capture_truncate on org_wallets',
    `drop trigger liventix_capture on wallets;
     create trigger liventix_capture after insert or update or delete on wallets
       for each row execute function replay.capture_wallet('wallet_transactions');
     alter table wallets enable always trigger liventix_capture`,
  ];
  it.each(TAMPERINGS)('that was tampered with is told from a whole one: %s', async (tampering) => {
    const { pool } = database;
    await turnCaptureOn(pool);
    await pool.query(tampering);
    expect(await findCapture(pool)).toMatchObject({ isWhole: false });
    const interrupted = { code: 'CAPTURE_INTERRUPTED', message: expect.stringContaining('backfill abort') };
    await expect(run()).rejects.toMatchObject(interrupted);
    await expect(turnCaptureOn(pool)).rejects.toMatchObject(interrupted);
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    expect(await run()).toMatchObject({ finished: true });
  });

  it('is for the tables where they are: in public, or moved beside views of their names', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    await turnCaptureOn(pool);
    await run();
    await pool.query(`
      alter table public.wallet_transactions set schema payments;
      create view public.wallet_transactions with (security_invoker = true) as select * from payments.wallet_transactions;
      alter table public.wallets set schema payments;
      create view public.wallets with (security_invoker = true) as select * from payments.wallets;
      alter table public.invoices set schema payments`);
    const invoice = await pool.query<{ id: string }>(
      `insert into payments.invoices (wallet_id, amount_usd_cents, credits_purchased, status) values ($1, 9, 9, 'paid') returning id`,
      [wallet.id],
    );
    await givenRow(pool, wallet, { type: 'purchase', delta: 9, invoice: invoice.rows[0]?.id });
    await setBalance(pool, wallet, 14);
    expect(await findCapture(pool)).toMatchObject({ isWhole: true });
    expect(await run()).toMatchObject({ imported: 1n });
    expect(await driftByCause(pool)).toEqual([]);
    await booksHold(pool);
  });
});

describe('a row that is changed after it was booked', () => {
  beforeEach(() => turnCaptureOn(database.pool));

  it('is corrected by an event of its own, with what it was and what it is, and never rewritten', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await run();
    await pool.query('update wallet_transactions set credits_delta = 60 where id = $1', [row.id]);
    await setBalance(pool, wallet, 60);
    expect(await run()).toMatchObject({ imported: 0n, corrected: 1n });
    expect(await booked()).toEqual([
      ['administrators 100', 'wallet -100'],
      ['wallet 40', 'changed_row -40'],
    ]);
    const { rows } = await pool.query(
      `select payload -> 'metadata' as told from payments.events order by position desc limit 1`,
    );
    expect(rows[0].told).toMatchObject({
      cause: 'changed_row',
      legacy: {
        table: 'wallet_transactions',
        id: row.id,
        version: 2,
        operation: 'update',
        old: { delta: 100 },
        new: { delta: 60 },
      },
    });
    await booksHold(pool);
  });

  it('twice before it is drained, and back again, is corrected each time', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await run();
    for (const delta of [60, 100])
      await pool.query('update wallet_transactions set credits_delta = $2 where id = $1', [row.id, delta]);
    expect(await run()).toMatchObject({ corrected: 2n });
    expect(await booked()).toEqual([
      ['administrators 100', 'wallet -100'],
      ['wallet 40', 'changed_row -40'],
      ['wallet -40', 'changed_row 40'],
    ]);
    expect(await driftByCause(pool)).toEqual([{ cause: 'changed_row', count: 2n, cents: 0n }]);
    await booksHold(pool);
  });

  it('in what moves no money is a note', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 1 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 1 });
    await run();
    await pool.query(`update wallet_transactions set type = 'promo' where id = $1`, [row.id]);
    expect(await run()).toMatchObject({ corrected: 1n });
    expect((await booked()).slice(1)).toEqual([['note changed_row']]);
    await booksHold(pool);
  });

  it('by being deleted is taken back against suspense, and the balance that stays is drift', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await run();
    await pool.query('delete from wallet_transactions where id = $1', [row.id]);
    expect(await run()).toMatchObject({ corrected: 1n });
    expect((await booked()).slice(1)).toEqual([
      ['wallet 100', 'deleted_row -100'],
      ['opening_balance 100', 'wallet -100'],
    ]);
    await booksHold(pool);
  });

  it('by going to another wallet leaves the one and comes to the other', async () => {
    const { pool } = database;
    const [from, to] = [await givenWallet(pool, { balance: 0 }), await givenWallet(pool, { balance: 100 })];
    const row = await givenRow(pool, from, { ...ADJUSTMENT, delta: 100 });
    await setBalance(pool, from, 100);
    await setBalance(pool, to, 0);
    await run();
    await pool.query('update wallet_transactions set wallet_id = $2 where id = $1', [row.id, to.id]);
    await setBalance(pool, from, 0);
    await setBalance(pool, to, 100);
    expect(await run()).toMatchObject({ corrected: 2n });
    expect((await booked()).slice(1)).toEqual([
      ['wallet 100', 'deleted_row -100'],
      ['wallet -100', 'changed_row 100'],
    ]);
    await booksHold(pool);
  });

  it('by being deleted and written again under its id, its key and by another row under its key, stops nothing', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 3 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3, key: 'evt_1' });
    await run();
    await pool.query('delete from wallet_transactions');
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3, key: 'evt_1', id: row.id });
    await pool.query('delete from wallet_transactions');
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3, key: 'evt_1' });
    expect(await run()).toMatchObject({ imported: 1n, corrected: 3n });
    const { rows } = await pool.query(
      `select payload -> 'metadata' -> 'legacy' ->> 'key' as key from payments.events order by position desc limit 1`,
    );
    expect(rows).toEqual([{ key: 'evt_1' }]);
    await booksHold(pool);
  });

  it('with its wallet and its owner, who was deleted, leaves nothing on the account', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 120 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await run();
    await pool.query('delete from auth.users where id = $1', [wallet.ownerId]);
    expect(await run()).toMatchObject({ corrected: 1n });
    await booksHold(pool);
    const { rows } = await pool.query(
      `select sum(balance_cents)::integer as cents from payments.account_balances where type = 'cash'`,
    );
    expect(rows).toEqual([{ cents: 0 }]);
    expect(await driftByCause(pool)).toMatchObject([
      { cause: 'deleted_row', cents: -100n },
      { cause: 'unexplained', cents: 0n },
    ]);
  });

  it('by a transaction that began before the last one that changed it ends as it was left', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 10 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 10 });
    await run();
    const older = await connect();
    await older.query('begin; select pg_current_xact_id()');
    await pool.query('update wallet_transactions set credits_delta = 20 where id = $1', [row.id]);
    await older.query('update wallet_transactions set credits_delta = 30 where id = $1', [row.id]);
    await setBalance(older, wallet, 30);
    await older.query('commit');
    expect(await run()).toMatchObject({ corrected: 2n });
    expect((await booked()).slice(1)).toEqual([
      ['wallet -10', 'changed_row 10'],
      ['wallet -10', 'changed_row 10'],
    ]);
    await booksHold(pool);
  });
});

describe('a row that is changed before it was reached', () => {
  it.each([
    ['update', 'update wallet_transactions set credits_delta = 60', ['wallet 40', 'changed_row -40'], 60],
    ['delete', 'delete from wallet_transactions', ['wallet 100', 'deleted_row -100'], 0],
  ] as const)(
    'by %s is booked as it was when the capture began, and corrected',
    async (_, change, correction, balance) => {
      const { pool } = database;
      const wallet = await givenWallet(pool, { balance: 100 });
      const invoice = await givenInvoice(pool, wallet, 100);
      await givenRow(pool, wallet, { type: 'purchase', delta: 100, invoice, usdCents: 100 });
      await turnCaptureOn(pool);
      await pool.query(change);
      await setBalance(pool, wallet, balance);
      expect(await run()).toMatchObject({ imported: 1n, corrected: 1n });
      expect(await booked()).toEqual([['clearing 100', 'wallet -100'], correction]);
      await booksHold(pool);
    },
  );

  it('in what nobody replays is booked as it is, and nothing is corrected', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await turnCaptureOn(pool);
    await pool.query(`update wallet_transactions set memo = 'another'`);
    expect(await run()).toMatchObject({ finished: true, imported: 1n, corrected: 0n });
    expect(await booked()).toEqual([['administrators 100', 'wallet -100']]);
    await booksHold(pool);
  });

  it('in a transaction that was open when the capture began is read as that left it', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 100 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    const older = await connect();
    await older.query('begin; select pg_current_xact_id()');
    const on = turnCaptureOn(pool);
    await expect.poll(() => findCapture(pool)).toBeDefined();
    await older.query(
      'update wallet_transactions set credits_delta = 60; update wallets set balance_credits = 60; commit',
    );
    await on;
    expect(await run()).toMatchObject({ imported: 1n, corrected: 0n });
    expect(await booked()).toEqual([['administrators 60', 'wallet -60']]);
    expect(await captured()).toEqual([]);
    await booksHold(pool);
  });
});

describe('what the replay cannot take as it is', () => {
  it('is dated where the books are open, its own time beside it: a row and a difference of a closed period', async () => {
    const { pool } = database;
    const [early, late] = [await givenWallet(pool, { balance: 15 }), await givenWallet(pool, { balance: 10 })];
    await givenRow(pool, early, { ...ADJUSTMENT, delta: 10, at: '2024-02-01T00:00:00Z' });
    await closePeriod(pool, { until: '2024-06-01T00:00:00Z' });
    await turnCaptureOn(pool);
    await givenRow(pool, late, { ...ADJUSTMENT, delta: 10, at: '2024-03-01T00:00:00Z' });
    expect(await run()).toMatchObject({ imported: 2n });
    const { rows } = await pool.query(
      `select distinct effective_at at time zone 'UTC' = '2024-06-01' as moved, payload #>> '{metadata,legacy,created_at}' as own
       from payments.events where type = 'transaction.posted' order by own`,
    );
    expect(rows).toEqual([
      { moved: true, own: '2024-02-01T00:00:00+00:00' },
      { moved: true, own: '2024-03-01T00:00:00+00:00' },
      { moved: true, own: null },
    ]);
    await booksHold(pool);
  });

  it('has no time: a row is booked as if it were written now, once', async () => {
    const { pool } = database;
    await pool.query('alter table wallet_transactions alter created_at drop not null');
    const wallet = await givenWallet(pool, { balance: 10 });
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 10 });
    await pool.query('update wallet_transactions set created_at = null where id = $1', [row.id]);
    await turnCaptureOn(pool);
    expect(await run()).toMatchObject({ finished: true, imported: 1n });
    expect(await run()).toMatchObject({ finished: true, imported: 0n, corrected: 0n });
    await booksHold(pool);
  });

  it('is large: metadata of 10 MB and keys of a megabyte, in both ways', async () => {
    const { pool } = database;
    const org = await givenWallet(pool, { kind: 'organization', balance: -2 });
    const write = (key: string) =>
      pool.query(
        `insert into org_wallet_transactions (wallet_id, credits_delta, transaction_type, metadata)
         values ($1, -1, 'spend', jsonb_build_object('idempotency_key', repeat($2, 1000000), 'blob', repeat('x', 10000000)))`,
        [org.id, key],
      );
    await write('a');
    await turnCaptureOn(pool);
    await write('a');
    expect(await run()).toMatchObject({ imported: 2n });
    expect(await booked()).toEqual([
      ['ad_campaigns -1', 'wallet 1'],
      ['duplicate_spend -1', 'wallet 1'],
    ]);
    await booksHold(pool);
  });
});

describe('rows that were written behind the back of the capture', () => {
  it('are noticed at the end, and read when it is begun again; nothing is booked twice', async () => {
    const { pool } = database;
    const [wallet, frozen] = [await givenWallet(pool, { balance: 2 }), await givenWallet(pool, { balance: 0 })];
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 1 });
    await turnCaptureOn(pool);
    await run();
    // What waits of a wallet that is held back does not hide it.
    const [cash = ''] = await openAccounts(pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', userId: frozen.ownerId },
    ]);
    await changeAccount(pool, { accountId: cash, status: 'frozen' });
    const held = await givenRow(pool, frozen, { ...ADJUSTMENT, delta: 7 });
    await pool.query('update wallet_transactions set credits_delta = 0 where id = $1', [held.id]);
    expect(await run()).toMatchObject({ finished: true, imported: 0n, heldBack: { wallets: 1n } });
    // Nothing that the triggers could see: what a restored backup, or a superuser's hand in the catalog, does.
    const admin = await connect(database.adminUrl);
    await admin.query(`update pg_class set relhastriggers = false where oid = 'wallet_transactions'::regclass`);
    await givenRow(admin, wallet, { ...ADJUSTMENT, delta: 1 });
    await admin.query(`update pg_class set relhastriggers = true where oid = 'wallet_transactions'::regclass`);
    await expect(run()).rejects.toMatchObject({
      code: 'CAPTURE_INTERRUPTED',
      message: expect.stringMatching(/holds 2 rows, and the log 1/),
    });
    await changeAccount(pool, { accountId: cash, status: 'open' });
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    expect(await run()).toMatchObject({ finished: true, imported: 2n });
    expect(await compareWallets(pool)).toMatchObject({ differing: 0n });
    await booksHold(pool);
  });
});

it('changes that come while a run drains and compares are brought in, whoever waits for whom', async () => {
  const { pool } = database;
  await turnCaptureOn(pool);
  const wallet = await givenWallet(pool, { balance: 10 });
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 10 });
  await run();
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
  await setBalance(pool, wallet, 15);
  const poster = await connect();
  await poster.query('begin; select from payments.balances for no key update');
  const running = run();
  await waitsForLock(pool, 'drain_rows');
  // Old code does not wait for the ledger.
  await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3 });
  await setBalance(pool, wallet, 18);
  await poster.query('commit');
  expect(await running).toMatchObject({ finished: true, imported: 2n });
  await booksHold(pool);
  expect(await driftByCause(pool)).toEqual([]);
});
