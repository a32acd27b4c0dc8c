import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { expireHolds, type NewHold, placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { dropVerified, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { disguised } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let accounts: TestAccounts;

beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
  accounts = await openTestAccounts(database.pool);
});
afterAll(() => dropVerified(database));

/** A wallet that may not go below zero, with so many cents in it. */
async function walletWith(cents: bigint): Promise<string> {
  const [wallet = ''] = await openAccounts(database.pool, [
    { type: 'cash', currency: 'USD', name: 'wallet', userId: randomUUID(), floorCents: 0n },
  ]);
  if (cents > 0n) await post(database.pool, transfer(accounts.clearing, wallet, { amountCents: cents }));
  return wallet;
}

const hold = (accountId: string, amountCents: bigint, fields: Partial<NewHold> = {}): NewHold => ({
  accountId,
  amountCents,
  currency: 'USD',
  ...fields,
});

/** What its holder sees: the balance, and what of it is available. */
async function standOf(wallet: string) {
  const { rows } = await database.pool.query<{ balance: bigint; available: bigint }>(
    'select balance_cents as balance, available_cents as available from payments.account_balances where account_id = $1',
    [wallet],
  );
  return rows[0];
}

const soon = (ms = 60_000) => new Date(Date.now() + ms);
const untilPast = (instant: Date) =>
  eventually('the server has passed the expiry', async () => {
    const { rows } = await database.pool.query<{ past: boolean }>('select clock_timestamp() > $1 as past', [instant]);
    return rows[0]?.past === true;
  });

describe('a hold', () => {
  it('reserves its amount: available is the balance less active holds, the balance stays', async () => {
    const wallet = await walletWith(1_000n);
    const placed = await placeHold(database.pool, hold(wallet, 400n));
    expect(placed).toMatchObject({ status: 'placed', state: 'active', remainingCents: 400n, availableCents: 600n });
    expect(await standOf(wallet)).toEqual({ balance: 1_000n, available: 600n });
  });

  it('keeps others from spending it, and from holding it again', async () => {
    const wallet = await walletWith(1_000n);
    await placeHold(database.pool, hold(wallet, 400n));
    await expect(post(database.pool, transfer(wallet, accounts.revenue, { amountCents: 601n }))).rejects.toMatchObject({
      code: 'LEDGER_FLOOR_PASSED',
      message: `Account ${wallet} would have -1 USD available, below its floor of 0.`,
    });
    await expect(placeHold(database.pool, hold(wallet, 601n))).rejects.toMatchObject({ code: 'LEDGER_FLOOR_PASSED' });
    await post(database.pool, transfer(wallet, accounts.revenue, { amountCents: 600n }));
    expect(await standOf(wallet)).toEqual({ balance: 400n, available: 0n });
  });

  it('is captured in part, more than once, up to its amount, and ends with the last cent', async () => {
    const wallet = await walletWith(1_000n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 500n));
    const capture = (cents: bigint) =>
      post(database.pool, transfer(wallet, accounts.revenue, { amountCents: cents, capture: { holdId } }));
    await capture(200n);
    expect(await standOf(wallet)).toEqual({ balance: 800n, available: 500n });
    await expect(capture(301n)).rejects.toMatchObject({
      code: 'LEDGER_HOLD_EXCEEDED',
      message: `Hold ${holdId} has 300 left, less than the 301 to be captured.`,
    });
    await capture(300n);
    expect(await standOf(wallet)).toEqual({ balance: 500n, available: 500n });
    await expect(capture(1n)).rejects.toMatchObject({ code: 'LEDGER_HOLD_RESOLVED' });
    await expect(voidHold(database.pool, { holdId })).rejects.toMatchObject({ code: 'LEDGER_HOLD_RESOLVED' });
  });

  it('is released with its final capture', async () => {
    const wallet = await walletWith(1_000n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 500n));
    await post(
      database.pool,
      transfer(wallet, accounts.revenue, { amountCents: 120n, capture: { holdId, final: true } }),
    );
    expect(await standOf(wallet)).toEqual({ balance: 880n, available: 880n });
    expect(await stepsOf(holdId)).toEqual([
      { kind: 'placed', captured: 0n, remaining: 500n, held_after: 500n },
      { kind: 'captured', captured: 120n, remaining: 0n, held_after: 0n },
    ]);
  });

  it('is captured among several entries: what leaves its account, whoever gets it', async () => {
    const wallet = await walletWith(1_000n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 1_000n));
    await post(database.pool, {
      entries: [
        { accountId: wallet, amountCents: 700n, currency: 'USD' },
        { accountId: accounts.revenue, amountCents: -970n, currency: 'USD' },
        { accountId: wallet, amountCents: 300n, currency: 'USD' },
        { accountId: accounts.clearing, amountCents: -30n, currency: 'USD' },
      ],
      capture: { holdId },
    });
    expect(await standOf(wallet)).toEqual({ balance: 0n, available: 0n });
  });

  it('is voided once; again changes nothing', async () => {
    const wallet = await walletWith(1_000n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 500n));
    expect(await voidHold(database.pool, { holdId, reason: 'the event was cancelled' })).toMatchObject({
      status: 'voided',
      state: 'voided',
      availableCents: 1_000n,
    });
    expect(await voidHold(database.pool, { holdId })).toMatchObject({ status: 'duplicate', state: 'voided' });
    await expect(
      post(database.pool, transfer(wallet, accounts.revenue, { capture: { holdId } })),
    ).rejects.toMatchObject({
      code: 'LEDGER_HOLD_RESOLVED',
      message: `Hold ${holdId} is voided: nothing of it is left to capture.`,
    });
  });

  it('reserves nothing from its expiry on, for readers, posters and other holds, with no worker at work', async () => {
    const wallet = await walletWith(1_000n);
    const expiresAt = soon(300);
    const { holdId } = await placeHold(database.pool, hold(wallet, 900n, { expiresAt }));
    await untilPast(expiresAt);
    expect(await standOf(wallet)).toEqual({ balance: 1_000n, available: 1_000n });
    await expect(
      post(database.pool, transfer(wallet, accounts.revenue, { capture: { holdId } })),
    ).rejects.toMatchObject({ code: 'LEDGER_HOLD_EXPIRED' });
    await post(database.pool, transfer(wallet, accounts.revenue, { amountCents: 600n }));
    expect(await placeHold(database.pool, hold(wallet, 400n))).toMatchObject({ availableCents: 0n });
    // Written down on the way, because somebody needed the money.
    expect((await stepsOf(holdId)).map(({ kind }) => kind)).toEqual(['placed', 'expired']);
  });

  it('is written down as expired by the worker, once', async () => {
    const wallet = await walletWith(1_000n);
    const expiresAt = soon(200);
    const first = await placeHold(database.pool, hold(wallet, 100n, { expiresAt }));
    const second = await placeHold(database.pool, hold(wallet, 100n, { expiresAt: soon() }));
    await untilPast(expiresAt);
    expect(await expireHolds(database.pool)).toBe(1);
    expect(await expireHolds(database.pool)).toBe(0);
    expect((await stepsOf(first.holdId)).map(({ kind }) => kind)).toEqual(['placed', 'expired']);
    expect((await stepsOf(second.holdId)).map(({ kind }) => kind)).toEqual(['placed']);
    await expect(voidHold(database.pool, { holdId: first.holdId })).rejects.toMatchObject({
      code: 'LEDGER_HOLD_RESOLVED',
    });
  });

  it('is written down with no more others at once than were asked for, be they of one account', async () => {
    await expireHolds(database.pool);
    const wallet = await walletWith(1_000n);
    const expiresAt = soon(1_000);
    for (const cents of [1n, 2n, 3n]) await placeHold(database.pool, hold(wallet, cents, { expiresAt }));
    await untilPast(expiresAt);
    for (const expired of [2, 1, 0]) expect(await expireHolds(database.pool, { limit: 2 })).toBe(expired);
  });

  it('is written down beside one of an account whose balance somebody removed', async () => {
    await expireHolds(database.pool);
    const [sound, broken] = [await walletWith(100n), await walletWith(100n)];
    const expiresAt = soon(300);
    await placeHold(database.pool, hold(broken, 10n, { expiresAt }));
    await placeHold(database.pool, hold(sound, 10n, { expiresAt }));
    await untilPast(expiresAt);
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query(disguised(`delete from payments.balances where account_id = '${broken}'`));
      expect(await expireHolds(tx)).toBe(1);
      expect(await expireHolds(tx)).toBe(0);
    } finally {
      await tx.query('rollback');
      tx.release();
    }
    expect(await expireHolds(database.pool)).toBe(2);
  });

  it('is written down beside one of an account that somebody keeps locked, which has its turn later', async () => {
    await expireHolds(database.pool);
    const [free, locked] = [await walletWith(100n), await walletWith(100n)];
    const expiresAt = soon(1_000);
    const ids: string[] = [];
    // Of the locked one more are due, and sooner, than one call writes down.
    for (const wallet of [locked, locked, locked, free]) {
      ids.push((await placeHold(database.pool, hold(wallet, 10n, { expiresAt }))).holdId);
    }
    const expire = (db: Queryable) => expireHolds(db, { limit: 2 });
    await untilPast(expiresAt);
    const states = async () => {
      const { rows } = await database.pool.query<{ state: string }>(
        'select state from payments.holds where hold_id = any ($1) order by array_position($1, hold_id)',
        [ids],
      );
      return rows.map(({ state }) => state);
    };
    await withTransaction(database.pool, async (tx) => {
      await post(tx, transfer(accounts.clearing, locked));
      expect(await expire(database.pool)).toBe(1);
      expect(await states()).toEqual(['active', 'active', 'active', 'expired']);
      // Nothing but what is locked is left: now it is waited for.
      await expect(
        withTransaction(database.pool, async (other) => {
          await other.query(`set local lock_timeout = '50ms'`);
          return expire(other);
        }),
      ).rejects.toMatchObject({ cause: { code: '55P03' } });
    });
    for (const expired of [2, 1, 0]) expect(await expire(database.pool)).toBe(expired);
    expect(await states()).toEqual(['expired', 'expired', 'expired', 'expired']);
  });

  it('is placed once by one key, and refused with another body', async () => {
    const wallet = await walletWith(1_000n);
    const request = hold(wallet, 300n, { idempotencyKey: randomUUID() });
    const first = await placeHold(database.pool, request);
    expect(await placeHold(database.pool, request)).toEqual({ ...first, status: 'duplicate' });
    expect(await standOf(wallet)).toEqual({ balance: 1_000n, available: 700n });
    await expect(placeHold(database.pool, { ...request, amountCents: 301n })).rejects.toMatchObject({
      code: 'LEDGER_IDEMPOTENCY_CONFLICT',
    });
  });

  it('reserves what others owe us in the other direction', async () => {
    const [receivable = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'held', floorCents: 0n },
    ]);
    await post(database.pool, transfer(receivable, accounts.revenue, { amountCents: 500n }));
    const { holdId } = await placeHold(database.pool, hold(receivable, 400n));
    expect(await standOf(receivable)).toEqual({ balance: 500n, available: 100n });
    await expect(
      post(database.pool, transfer(accounts.clearing, receivable, { amountCents: 101n })),
    ).rejects.toMatchObject({
      code: 'LEDGER_FLOOR_PASSED',
    });
    await post(database.pool, transfer(accounts.clearing, receivable, { amountCents: 400n, capture: { holdId } }));
    expect(await standOf(receivable)).toEqual({ balance: 100n, available: 100n });
  });

  it('may be placed on an account without a floor beyond what it has', async () => {
    const placed = await placeHold(database.pool, hold(accounts.revenue, 1_000_000_000n));
    await voidHold(database.pool, placed);
  });

  it('leaves the book readable where balance and holds together pass 64 bits', async () => {
    const [account = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'much_on_hold', userId: randomUUID() },
    ]);
    const amountCents = 9n * 10n ** 18n;
    await placeHold(database.pool, { accountId: account, amountCents, currency: 'USD' });
    await post(database.pool, transfer(account, accounts.revenue, { amountCents }));
    const { rows } = await database.pool.query<{ balance: bigint; available: bigint }>(
      'select balance_cents as balance, available_cents as available from payments.account_balances where account_id = $1',
      [account],
    );
    expect(rows).toEqual([{ balance: -amountCents, available: -(2n ** 63n - 1n) }]);
    await post(database.pool, transfer(accounts.revenue, account, { amountCents }));
  });

  it('refuses what would carry what is held past 64 bits', async () => {
    const max = 2n ** 63n - 1n;
    const placed = await placeHold(database.pool, hold(accounts.yen, max, { currency: 'JPY' }));
    await expect(placeHold(database.pool, hold(accounts.yen, 2n, { currency: 'JPY' }))).rejects.toMatchObject({
      code: 'LEDGER_AMOUNT_OVERFLOW',
    });
    await voidHold(database.pool, placed);
  });

  it('that does not exist is neither captured nor voided', async () => {
    const holdId = randomUUID();
    await expect(voidHold(database.pool, { holdId })).rejects.toMatchObject({ code: 'LEDGER_HOLD_UNKNOWN' });
    await expect(
      post(database.pool, transfer(accounts.clearing, accounts.wallet, { capture: { holdId } })),
    ).rejects.toMatchObject({ code: 'LEDGER_HOLD_UNKNOWN' });
  });

  it('is not captured by entries that do not spend from its account', async () => {
    const wallet = await walletWith(100n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 50n));
    await expect(
      post(database.pool, transfer(accounts.clearing, wallet, { amountCents: 10n, capture: { holdId } })),
    ).rejects.toMatchObject({ code: 'LEDGER_INVALID' });
    await expect(
      post(database.pool, transfer(accounts.clearing, accounts.revenue, { capture: { holdId } })),
    ).rejects.toMatchObject({ code: 'LEDGER_INVALID' });
  });

  it('is captured by neighbours of one call in their order, and no further than its amount', async () => {
    const wallet = await walletWith(100n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 100n));
    const capture = transfer(wallet, accounts.revenue, { amountCents: 40n, capture: { holdId } });
    const outcomes = await postAll(database.pool, [capture, capture, capture, transfer(accounts.clearing, wallet)]);
    expect(outcomes).toMatchObject([
      { status: 'posted' },
      { status: 'posted' },
      { status: 'rejected', code: 'LEDGER_HOLD_EXCEEDED' },
      { status: 'posted' },
    ]);
  });
});

describe('racing for one hold', () => {
  it.each([1, 2, 3, 4, 5])('captures, voids and expiries end it once, and money moves once (round %i)', async () => {
    const wallet = await walletWith(1_000n);
    const expiresAt = soon(300);
    const { holdId } = await placeHold(database.pool, hold(wallet, 1_000n, { expiresAt }));
    // They race about the time at which it expires.
    await untilPast(new Date(expiresAt.getTime() - 10));
    const rivals = Array.from({ length: 16 }, (_, nth) => () => {
      if (nth % 3 === 0) return withTransaction(database.pool, (tx) => voidHold(tx, { holdId }));
      if (nth % 3 === 1) return withTransaction(database.pool, (tx) => expireHolds(tx));
      return withTransaction(database.pool, (tx) =>
        post(tx, transfer(wallet, accounts.revenue, { amountCents: 1_000n, capture: { holdId } })),
      );
    });
    const results = await Promise.allSettled(rivals.map((rival) => rival()));
    const refusals = results.flatMap((result) => (result.status === 'rejected' ? [result.reason.code] : []));
    expect(refusals.filter((code) => !['LEDGER_HOLD_RESOLVED', 'LEDGER_HOLD_EXPIRED'].includes(code))).toEqual([]);
    await untilPast(expiresAt);
    await expireHolds(database.pool);
    const steps = await stepsOf(holdId);
    expect(steps).toHaveLength(2);
    const captured = steps[1]?.kind === 'captured';
    expect(await standOf(wallet)).toEqual(
      captured ? { balance: 0n, available: 0n } : { balance: 1_000n, available: 1_000n },
    );
  });

  it('the unique index refuses a second resolution, whoever writes it', async () => {
    const wallet = await walletWith(100n);
    const { holdId } = await placeHold(database.pool, hold(wallet, 100n));
    await voidHold(database.pool, { holdId });
    const second = database.pool.query(
      `insert into payments.hold_entries (book_id, event_position, hold_id, hold_seq, account_id, account_hold_seq, kind,
         held_cents, held_after_cents, captured_cents, remaining_cents, created_at)
       select book_id, (select min(position) from payments.events where type = 'hold.placed' and event_id <> hold_id) + 0, hold_id, hold_seq + 1, account_id,
         account_hold_seq + 1, 'expired', 0, 0, 0, 0, now() from payments.hold_entries where hold_id = '${holdId}' and kind = 'voided'`,
    );
    await expect(second).rejects.toMatchObject({ code: '23505' });
  });
});

describe('a key that another transaction commits after it was looked for', () => {
  /**
   * Carries something out on a wallet whose hold has expired, and commits something else in between: once the key was looked
   * for and before the event is written, which waits for the expired hold.
   */
  async function overtaken<T>(
    wallet: string,
    carryOut: () => Promise<T>,
    meanwhile: () => Promise<unknown>,
  ): Promise<T> {
    const expiresAt = soon(500);
    const { holdId } = await placeHold(database.pool, hold(wallet, 100n, { expiresAt }));
    await untilPast(expiresAt);
    return withTransaction(database.pool, async (holder) => {
      const { rows } = await holder.query<{ pid: number }>(
        `select pg_backend_pid() as pid from payments.holds where hold_id = $1 for update`,
        [holdId],
      );
      const carriedOut = carryOut();
      carriedOut.catch(() => undefined);
      await eventually('it waits for the hold', () => isWaitedFor(rows[0]?.pid));
      await meanwhile();
      // The holder ends here, and lets it go on.
      return { carriedOut };
    }).then(({ carriedOut }) => carriedOut);
  }

  it('is refused to a hold, which is not placed', async () => {
    const [wallet, other] = [await walletWith(100n), await walletWith(100n)];
    const idempotencyKey = randomUUID();
    const placing = overtaken(
      wallet,
      () => placeHold(database.pool, hold(wallet, 50n, { idempotencyKey })),
      () => placeHold(database.pool, hold(other, 60n, { idempotencyKey })),
    );
    await expect(placing).rejects.toMatchObject({ code: 'LEDGER_IDEMPOTENCY_CONFLICT' });
    expect([await standOf(wallet), await standOf(other)]).toEqual([
      { balance: 100n, available: 100n },
      { balance: 100n, available: 40n },
    ]);
  });

  it('is refused to a change of an account, which stays as it was', async () => {
    const accountIds = await openAccounts(
      database.pool,
      ['one', 'other'].map((name) => ({ type: 'cash', currency: 'USD', name, userId: randomUUID() })),
    );
    const [wallet = '', other = ''] = accountIds;
    const idempotencyKey = randomUUID();
    const closing = overtaken(
      wallet,
      () => changeAccount(database.pool, { accountId: wallet, status: 'closed', idempotencyKey }),
      () => changeAccount(database.pool, { accountId: other, status: 'frozen', idempotencyKey }),
    );
    await expect(closing).rejects.toMatchObject({ code: 'LEDGER_IDEMPOTENCY_CONFLICT' });
    const { rows } = await database.pool.query<{ status: string }>(
      'select status from payments.balances where account_id = any ($1) order by array_position($1, account_id)',
      [accountIds],
    );
    expect(rows.map(({ status }) => status)).toEqual(['open', 'frozen']);
  });
});

describe('a hold that is placed meanwhile', () => {
  it('is not voided by whoever looked for it before', async () => {
    const [wallet, holdId] = [await walletWith(100n), randomUUID()];
    const { voiding } = await withTransaction(database.pool, async (placer) => {
      // What keeps it waiting where it would go on to look for a lock.
      await placer.query('lock table payments.balances in access exclusive mode');
      const { rows } = await placer.query<{ pid: number }>('select pg_backend_pid() as pid');
      let hasAnswered = false;
      const voiding = voidHold(database.pool, { holdId }).finally(() => {
        hasAnswered = true;
      });
      voiding.catch(() => undefined);
      await eventually('it has answered, or waits', async () => hasAnswered || (await isWaitedFor(rows[0]?.pid)));
      await placeHold(placer, hold(wallet, 50n, { holdId }));
      return { voiding };
    });
    await expect(voiding).rejects.toMatchObject({ code: 'LEDGER_HOLD_UNKNOWN' });
    expect(await stepsOf(holdId)).toMatchObject([{ kind: 'placed' }]);
  });
});

async function isWaitedFor(pid: number | undefined): Promise<boolean> {
  const { rows } = await database.pool.query('select from pg_locks l where $1 = any (pg_blocking_pids(l.pid))', [pid]);
  return rows.length > 0;
}

async function stepsOf(holdId: string) {
  const { rows } = await database.pool.query<{ kind: string; captured: bigint; remaining: bigint; held_after: bigint }>(
    `select kind, captured_cents as captured, remaining_cents as remaining, held_after_cents as held_after
     from payments.hold_entries where hold_id = $1 order by hold_seq`,
    [holdId],
  );
  return rows;
}
