import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { dropOurTriggers, findCapture, turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { compareWallets, driftByCause } from '../../src/replay/report.ts';
import { backfill, booksHold, failure, howManyWait } from '../support/backfill.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, setBalance } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';

let database: TestDatabase;
const { connect, end } = testClients(() => database.url);
beforeEach(async () => {
  database = await createLegacyTestDatabase(undefined, { isCaptured: false });
});
afterEach(async () => {
  await end();
  await database.drop();
});

const ADJUSTMENT = { type: 'adjustment', referenceType: 'system' } as const;
const run = () => runBackfill(database.pool, { settleMs: 0 });
const asAdmin = async (sql: string) => {
  const admin = await connect(database.adminUrl);
  await admin.query(sql);
};

it('rows of a time that cannot be right are booked once, read or captured, with the others in their order', async () => {
  const { pool } = database;
  const times = ['294276-12-31T23:59:59Z', '4713-01-02 00:00:00+00 BC', 'infinity', '-infinity'];
  const wallets = await Promise.all(times.map((at) => givenWallet(pool, { balance: 33 }).then((to) => ({ to, at }))));
  for (const { to, at } of wallets) {
    await givenRow(pool, to, { ...ADJUSTMENT, delta: 1 });
    await givenRow(pool, to, { ...ADJUSTMENT, delta: 2, at });
  }
  await turnCaptureOn(pool);
  for (const { to, at } of wallets) {
    await givenRow(pool, to, { ...ADJUSTMENT, delta: 10, at });
    await givenRow(pool, to, { ...ADJUSTMENT, delta: 20 });
  }
  expect(await run()).toMatchObject({ finished: true, imported: 16n });
  expect(await run()).toMatchObject({ finished: true, imported: 0n, corrected: 0n });
  await booksHold(pool);
  expect(await driftByCause(pool)).toEqual([]);
});

describe('a wallet without an owner', () => {
  it('is named as different, read or captured, and nothing of others is held up', async () => {
    const { pool } = database;
    await pool.query('alter table wallets alter user_id drop not null');
    const [bare, other] = [await givenWallet(pool, { balance: 5 }), await givenWallet(pool, { balance: 7 })];
    await pool.query('update wallets set user_id = null where id = $1', [bare.id]);
    for (const wallet of [bare, other]) await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 2 });
    await turnCaptureOn(pool);
    for (const wallet of [bare, other]) await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3 });
    const first = await liventix(['backfill', 'run'], { DATABASE_URL: database.url });
    expect(first).toMatchObject({ exitCode: 1, stderr: '' });
    expect(first.stdout).toContain(`wallets ${bare.id} holds 5, its account does not exist`);
    expect(await run()).toMatchObject({ finished: true, imported: 0n });
    expect(await compareWallets(pool)).toMatchObject({ differing: 1n, changing: 0n, compared: 2n });
    expect(await liventix(['books', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 1 });
  });
});

describe('a role that lacks a right', () => {
  const TABLES = ['wallets', 'wallet_transactions', 'org_wallets', 'org_wallet_transactions', 'invoices'];
  /** Without row-level security, which is a reason of its own. */
  const takeAway = (table: string) =>
    asAdmin(
      `alter table public.${table} owner to current_user; alter table public.${table} disable row level security;
       revoke all on public.${table} from liventix`,
    );

  it('to read one of the tables is told so, with the grant, before anything is written', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    await turnCaptureOn(pool);
    for (const table of TABLES) {
      await takeAway(table);
      expect(await backfill(database)).toEqual(
        failure('DB_PERMISSION_DENIED', `public\\.${table}\\. .*grant select on public\\.${table} to liventix`),
      );
      expect((await pool.query('select from payments.events')).rowCount).toBe(0);
      await asAdmin(`grant select on public.${table} to liventix`);
    }
    expect(await backfill(database)).toMatchObject({ exitCode: 0 });
  });

  it('to make triggers on one of the tables is told so, and none is made on the others', async () => {
    for (const table of TABLES.slice(0, 4)) {
      await takeAway(table);
      await asAdmin(`grant select, trigger, update on public.${table} to liventix`);
      expect(await liventix(['backfill', 'capture', 'on'], { DATABASE_URL: database.url })).toEqual(
        failure('DB_PERMISSION_DENIED', `\\b${table}\\b`),
      );
      const { rowCount } = await database.pool.query(`select from pg_trigger where tgname like 'liventix_capture%'`);
      expect(rowCount).toBe(0);
      await asAdmin(`alter table public.${table} owner to liventix`);
    }
    expect(await turnCaptureOn(database.pool)).toBe(true);
  });
});

describe('a transaction of old code', () => {
  it('that only reads, and never ends, does not keep the capture from being turned on', async () => {
    const idle = await connect();
    await idle.query('begin isolation level repeatable read; select from wallets; select from wallet_transactions');
    expect(await turnCaptureOn(database.pool, { patienceMs: 5_000 })).toBe(true);
  });

  it('that is open across a whole run is brought in by the next, once it has committed', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    await turnCaptureOn(pool);
    await run();
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 1 });
    await setBalance(pool, wallet, 6);
    const open = await connect();
    await open.query('begin');
    await givenRow(open, wallet, { ...ADJUSTMENT, delta: 2 });
    await open.query('update wallets set balance_credits = balance_credits + 2');
    expect(await run()).toMatchObject({ finished: true, imported: 1n });
    await booksHold(pool);
    await open.query('commit');
    expect(await run()).toMatchObject({ finished: true, imported: 1n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([]);
  });
});

describe('a capture that is not whole any more when a run ends', () => {
  /** Begins a run that waits for a table of ours, does something meanwhile, and answers what comes of the run. */
  const runBeside = async (table: string, meanwhile: () => Promise<unknown>) => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    for (let nth = 0; nth < 5; nth += 1) await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 1 });
    await turnCaptureOn(pool);
    const holder = await connect();
    await holder.query(`begin; lock table replay.${table}`);
    const running = run();
    await eventually('the run waits', () => howManyWait(pool, 1));
    await meanwhile();
    await holder.query('commit');
    return running;
  };
  /** As abort does, which is refused beside a run. */
  const endCapture = () =>
    withTransaction(database.pool, async (tx) => {
      await tx.query(
        'delete from replay.capture; delete from replay.captured_rows; delete from replay.captured_wallets',
      );
      await dropOurTriggers(tx);
    });
  const isReadAgain = async (imported: bigint) => {
    await turnCaptureOff(database.pool);
    await turnCaptureOn(database.pool);
    expect(await run()).toMatchObject({ finished: true, imported });
    await booksHold(database.pool);
  };

  it.each([
    'alter table wallet_transactions disable trigger liventix_capture',
    'drop trigger liventix_capture on wallet_transactions',
  ])('is said by that run, though neither count nor sum of the rows tells: %s', async (tampering) => {
    const running = runBeside('unreconciled', () =>
      database.pool.query(`${tampering}; update wallet_transactions set type = 'promo'`),
    );
    await expect(running).rejects.toMatchObject({ code: 'CAPTURE_INTERRUPTED' });
    await isReadAgain(0n);
  });

  it('because somebody ended it is said, and begun again every row is there', async () => {
    await expect(runBeside('findings', endCapture)).rejects.toMatchObject({
      code: 'CAPTURE_OFF',
    });
    await isReadAgain(5n);
  });

  it('because somebody ended it and began another is said, and run again every row is there', async () => {
    let begun: Promise<unknown> | undefined;
    const running = runBeside('findings', async () => {
      await endCapture();
      // It waits for the run, which is older.
      begun = turnCaptureOn(database.pool);
      await eventually('the other is installed', () => findCapture(database.pool));
    });
    await expect(running).rejects.toMatchObject({ code: 'CAPTURE_INTERRUPTED' });
    expect(await begun).toBe(true);
    expect(await run()).toMatchObject({ finished: true });
    await booksHold(database.pool);
  });
});

describe('a clock that was set back', () => {
  it('keeps no wallet from being compared until it has caught up', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    await turnCaptureOn(pool);
    await runBackfill(pool);
    await setBalance(pool, wallet, 9);
    // What was captured before says a time that is yet to come.
    await pool.query(`update replay.captured_wallets set captured_at = captured_at + interval '1 day'`);
    await runBackfill(pool, { settleMs: 1_000 });
    expect(await compareWallets(pool)).toMatchObject({ differing: 0n, changing: 0n, compared: 1n });
    expect(await driftByCause(pool)).toMatchObject([{ cause: 'balance_without_row', cents: 4n }]);
    await booksHold(pool);
  });
});
