import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { MAIN_BOOK, openAccounts, post } from '../../src/ledger/ledger.ts';
import { approveDrift } from '../../src/replay/approve.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { finishCutOver } from '../../src/replay/finish.ts';
import { driftByCause } from '../../src/replay/report.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { booksHold } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  createLegacyTestDatabase,
  givenRow,
  givenWallet,
  type LegacyWallet,
  type OwnerKind,
  setBalance,
} from '../support/legacy.ts';
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
const TABLES = {
  user: ['wallets', 'wallet_transactions'],
  organization: ['org_wallets', 'org_wallet_transactions'],
} as const;
const KINDS: readonly OwnerKind[] = ['user', 'organization'];

/** A wallet that the ledger keeps, with one row that explains its balance. */
const cutOverWallet = async (kind: OwnerKind, balance = 100): Promise<LegacyWallet> => {
  const { pool } = database;
  const wallet = await givenWallet(pool, { kind, balance });
  if (balance !== 0) await givenRow(pool, wallet, { ...ADJUSTMENT, delta: balance });
  await runBackfill(pool, { settleMs: 0 });
  expect(await flip(wallet)).toMatchObject({ flipped: 1n, refused: [] });
  return wallet;
};
const flip = (wallet: LegacyWallet) =>
  cutOver(database.pool, { owners: { kind: wallet.kind, id: wallet.ownerId }, settleMs: 0 });
const flipBack = (wallet: LegacyWallet) =>
  rollBack(database.pool, { owners: { kind: wallet.kind, id: wallet.ownerId } });

const accountsOf = async ({ kind, ownerId }: LegacyWallet) => {
  const owner = kind === 'user' ? { userId: ownerId } : { organizationId: ownerId };
  const [clearing = '', cash = ''] = await openAccounts(database.pool, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', ...owner },
  ]);
  return { clearing, cash };
};

/** What both sides say about a wallet. */
const sides = async ({ id, kind, ownerId }: LegacyWallet) => {
  const [wallets, rows] = TABLES[kind];
  const { rows: found } = await database.pool.query<{ old: bigint; ledger: bigint; rows: number[] }>(
    `select (select balance_credits::bigint from ${wallets} where id = $1) as old,
            (select balance_cents from payments.account_balances where $2 in (user_id, organization_id) and type = 'cash') as ledger,
            array(select credits_delta::integer from ${rows} where wallet_id = $1 order by created_at, id) as rows`,
    [id, ownerId],
  );
  return found[0];
};
/** The last events of the log, as cents by account. */
const lastBooked = async (count: number): Promise<string[][]> => {
  const { rows } = await database.pool.query<{ legs: string[] }>(
    `select array(select format('%s %s', a.name, n.amount_cents)
              from payments.entries n join payments.accounts a on a.id = payments.account_of(n.book_id, n.account_id)
              where n.transaction_id = e.event_id order by n.id) as legs
     from payments.events e where e.type = 'transaction.posted' order by e.position desc limit $1`,
    [count],
  );
  return rows.map(({ legs }) => legs).toReversed();
};

describe('before the cut-over', () => {
  it('is too early while the backfill has not finished, and unknown for an owner without a wallet', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await expect(flip(wallet)).rejects.toMatchObject({ code: 'CUTOVER_TOO_EARLY' });
    await runBackfill(pool);
    await expect(cutOver(pool, { owners: { kind: 'user', id: wallet.id } })).rejects.toMatchObject({
      code: 'CUTOVER_OWNER_UNKNOWN',
    });
  });

  it('a posting beside the replay keeps its owner from it, until it is reversed', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await runBackfill(pool);
    const { clearing, cash } = await accountsOf(wallet);
    await post(pool, transfer(clearing, cash));
    await setBalance(pool, wallet, 9);
    expect(await flip(wallet)).toMatchObject({
      flipped: 0n,
      refused: [
        {
          walletId: wallet.id,
          reason: expect.stringContaining('not in the old tables come to'),
        },
      ],
    });
    await post(pool, transfer(cash, clearing));
    expect(await flip(wallet)).toMatchObject({ flipped: 1n, refused: [] });
    expect(await sides(wallet)).toMatchObject({ old: 9n, ledger: 9n });
    await booksHold(pool);
  });
});

it('an account that is kept in slots keeps its owner from the cut-over', async () => {
  const { pool } = database;
  const wallet = await givenWallet(pool);
  await runBackfill(pool);
  const { cash } = await accountsOf(wallet);
  await addSlots(pool, { accountId: cash, slots: 2 });
  expect(await flip(wallet)).toMatchObject({
    flipped: 0n,
    refused: [{ reason: expect.stringContaining('kept in slots') }],
  });
});

describe.each(KINDS)('a wallet of a %s that the ledger keeps', (kind) => {
  const [wallets, rowsTable] = TABLES[kind];

  it('takes in what was captured and not drained, and the difference of the balance, when it is cut over', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { kind, balance: 5 });
    await runBackfill(pool);
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 7 });
    await setBalance(pool, wallet, 20);
    expect(await flip(wallet)).toMatchObject({
      finished: true,
      flipped: 1n,
      refused: [],
      longestMs: expect.any(Number),
    });
    expect(await flip(wallet)).toMatchObject({ flipped: 0n, already: 1n });
    expect(await sides(wallet)).toEqual({ old: 20n, ledger: 20n, rows: [7] });
    await booksHold(pool);
  });

  it('has in the old tables what is posted to the ledger, in the same transaction, as a row and a balance', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const { clearing, cash } = await accountsOf(wallet);
    await post(pool, { ...transfer(clearing, cash, { amountCents: 30n }), referenceType: 'credit_purchase' });
    expect(await sides(wallet)).toEqual({ old: 130n, ledger: 130n, rows: [100, 30] });
    const client = await connect();
    await client.query('begin');
    await post(client, transfer(cash, clearing, { amountCents: 50n }));
    await client.query('rollback');
    expect(await sides(wallet)).toEqual({ old: 130n, ledger: 130n, rows: [100, 30] });
    await booksHold(pool);
  });

  // Not through a call, which goes on in order where it could not be done in bulk.
  it.each(['post_in_bulk', 'post_in_order'])(
    'has in the old tables what %s posts in one call, be it several times to it',
    async (way) => {
      const { pool } = database;
      const [wallet, other] = [await cutOverWallet(kind), await cutOverWallet('user')];
      const [{ clearing, cash }, { cash: others }] = [await accountsOf(wallet), await accountsOf(other)];
      const transfers = [
        [clearing, cash, 1],
        [clearing, others, 20],
        [clearing, cash, 300],
        [cash, others, 4],
        [cash, clearing, 50],
      ] as const;
      const requests = transfers.map(([debit, credit, cents]) => ({
        entries: [
          { account_id: debit, amount_cents: cents, currency: 'USD' },
          { account_id: credit, amount_cents: -cents, currency: 'USD' },
        ],
      }));
      const { rows: outcomes } = await pool.query(
        `select status from payments.${way}($1, $2, payments.open_since($1)) order by ordinal`,
        [MAIN_BOOK, JSON.stringify(requests)],
      );
      expect(outcomes).toEqual(requests.map(() => ({ status: 'posted' })));
      expect(await sides(wallet)).toMatchObject({ old: 347n, ledger: 347n });
      expect((await sides(wallet))?.rows.toSorted()).toEqual([-4, -50, 1, 100, 300]);
      expect(await sides(other)).toMatchObject({ old: 124n, ledger: 124n });
      expect(await driftByCause(pool)).toEqual([]);
      expect(await flipBack(wallet)).toMatchObject({ flipped: 1n, refused: [] });
      await booksHold(pool);
    },
  );

  it('posts the row that old code inserts, and takes the balance that it writes afterwards as said', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const { rows } = await pool.query(
      `insert into ${rowsTable} (wallet_id, ${kind === 'user' ? 'type' : 'transaction_type'}, credits_delta) values ($1, 'spend', -40) returning credits_delta`,
      [wallet.id],
    );
    expect(rows).toEqual([{ credits_delta: -40 }]);
    expect(await sides(wallet)).toEqual({ old: 60n, ledger: 60n, rows: [100, -40] });
    const updated = await pool.query(
      `update ${wallets} set balance_credits = 60 where id = $1 returning balance_credits`,
      [wallet.id],
    );
    expect(updated.rows).toEqual([{ balance_credits: 60 }]);
    expect(await lastBooked(1)).toEqual([['ad_campaigns -40', 'wallet 40']]);
    expect(await driftByCause(pool)).toEqual([]);
    await booksHold(pool);
  });

  it('posts what is written over its balance to suspense', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    await setBalance(pool, wallet, 75);
    expect(await lastBooked(1)).toEqual([['balance_without_row -25', 'wallet 25']]);
    expect(await sides(wallet)).toEqual({ old: 75n, ledger: 75n, rows: [100] });
    await booksHold(pool);
  });

  it.each([
    ['row, then balance', true],
    ['balance, then row', false],
  ] as const)('takes %s of one transaction for one movement, moved or overwritten', async (_, rowFirst) => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    for (const balance of ['balance_credits + 9', '118']) {
      const client = await connect();
      const write = () => givenRow(client, wallet, { ...ADJUSTMENT, delta: 9 });
      await client.query('begin');
      if (rowFirst) await write();
      await client.query(`update ${wallets} set balance_credits = ${balance} where id = $1`, [wallet.id]);
      if (!rowFirst) await write();
      await client.query('commit');
    }
    expect(await sides(wallet)).toEqual({ old: 118n, ledger: 118n, rows: [100, 9, 9] });
    const drift = await driftByCause(pool);
    expect(drift.reduce((sum, { cents }) => sum + cents, 0n)).toBe(0n);
    await booksHold(pool);
  });

  it('keeps its balance where a row of it is changed or deleted, and corrects the books against suspense', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const row = await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 20 });
    await pool.query(`update ${rowsTable} set credits_delta = 50 where id = $1`, [row.id]);
    expect(await sides(wallet)).toEqual({ old: 120n, ledger: 120n, rows: [100, 50] });
    await pool.query(`delete from ${rowsTable} where id = $1`, [row.id]);
    expect(await sides(wallet)).toEqual({ old: 120n, ledger: 120n, rows: [100] });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 20, id: row.id });
    expect(await sides(wallet)).toEqual({ old: 140n, ledger: 140n, rows: [100, 20] });
    expect(await flipBack(wallet)).toMatchObject({ flipped: 1n, refused: [] });
    await booksHold(pool);
  });

  it('works under row locks and upserts of old code', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const client = await connect();
    await client.query('begin');
    await client.query(`select balance_credits from ${wallets} where id = $1 for update`, [wallet.id]);
    await givenRow(client, wallet, { ...ADJUSTMENT, delta: 1 });
    const owner = kind === 'user' ? 'user_id' : 'org_id';
    const upserted = await client.query(
      `insert into ${wallets} (${owner}, balance_credits) values ($1, 101)
       on conflict (${owner}) do update set balance_credits = excluded.balance_credits returning id, balance_credits`,
      [wallet.ownerId],
    );
    expect(upserted.rows).toEqual([{ id: wallet.id, balance_credits: 101 }]);
    await client.query('commit');
    expect(await sides(wallet)).toEqual({ old: 101n, ledger: 101n, rows: [100, 1] });
    await booksHold(pool);
  });

  it('is refused another owner or id, and its deletion leaves nothing on its account', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const other = await givenWallet(pool, { kind });
    await pool.query(`delete from ${wallets} where id = $1`, [other.id]);
    const owner = kind === 'user' ? 'user_id' : 'org_id';
    await expect(
      pool.query(`update ${wallets} set ${owner} = $1 where id = $2`, [other.ownerId, wallet.id]),
    ).rejects.toMatchObject({
      code: 'LV033',
      message: expect.stringContaining(wallet.id),
    });
    await pool.query(`delete from ${wallets} where id = $1`, [wallet.id]);
    expect(await sides(wallet)).toMatchObject({ old: null, ledger: 0n });
    await runBackfill(pool, { settleMs: 0 });
    await booksHold(pool);
    // One that is made anew under its id is the old tables' then.
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ flipped: 0n, refused: [] });
    const { rows } = await pool.query('select mode from replay.wallets where wallet_id = $1', [wallet.id]);
    expect(rows).toEqual([{ mode: 'legacy' }]);
  });

  it('goes back with every row and balance that came since, and is captured again', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    const { clearing, cash } = await accountsOf(wallet);
    await post(pool, transfer(clearing, cash, { amountCents: 30n }));
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: -10 });
    await setBalance(pool, wallet, 121);
    const before = await sides(wallet);
    expect(await flipBack(wallet)).toMatchObject({ flipped: 1n, refused: [] });
    expect(await sides(wallet)).toEqual(before);
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 4 });
    await setBalance(pool, wallet, 125);
    expect((await pool.query('select from replay.captured_rows')).rowCount).toBe(1);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ imported: 1n });
    expect(await sides(wallet)).toMatchObject({ old: 125n, ledger: 125n });
    await booksHold(pool);
    expect(await flip(wallet)).toMatchObject({ flipped: 1n, refused: [] });
    await post(pool, transfer(cash, clearing, { amountCents: 5n }));
    expect(await sides(wallet)).toMatchObject({ old: 120n, ledger: 120n });
    await booksHold(pool);
  });

  it('is read again, and nothing of it booked twice, where the capture ended and begins anew', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet(kind);
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 20 });
    const { clearing, cash } = await accountsOf(wallet);
    await post(pool, transfer(clearing, cash, { amountCents: 5n }));
    expect(await flipBack(wallet)).toMatchObject({ flipped: 1n });
    await turnCaptureOff(pool);
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3 });
    await setBalance(pool, wallet, 128);
    await turnCaptureOn(pool);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ imported: 1n, corrected: 0n });
    await booksHold(pool);
    expect(await flip(wallet)).toMatchObject({ flipped: 1n, refused: [] });
  });

  it('of an owner who came after all were cut over is the ledger’s from the beginning', async () => {
    const { pool } = database;
    await cutOverWallet(kind);
    expect(await cutOver(pool, { owners: 'all', settleMs: 0 })).toMatchObject({
      finished: true,
      flipped: 0n,
      already: 1n,
    });
    const late = await givenWallet(pool, { kind, balance: 3 });
    await givenRow(pool, late, { ...ADJUSTMENT, delta: 4 });
    expect(await sides(late)).toEqual({ old: 7n, ledger: 7n, rows: [4] });
    expect((await pool.query('select from replay.captured_rows')).rowCount).toBe(0);
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ flipped: 2n, refused: [] });
    const later = await givenWallet(pool, { kind, balance: 3 });
    expect(await sides(later)).toMatchObject({ ledger: null });
  });
});

describe('found by a review', () => {
  it('new code posts to two mirrored wallets at once, and neither waits for the other', async () => {
    const { pool } = database;
    const [first, second] = [await cutOverWallet('user'), await cutOverWallet('organization')];
    const others = await openAccounts(
      pool,
      ['x1', 'x2'].map((name) => ({ type: 'revenue', currency: 'USD', name })),
    );
    const open = await connect();
    await open.query('begin');
    await post(open, transfer(others[0] ?? '', (await accountsOf(first)).cash));
    await post(pool, transfer(others[1] ?? '', (await accountsOf(second)).cash));
    await open.query('commit');
    await booksHold(pool);
  });

  it.each([
    ['rows, then their sum', ['5', '7', '+12']],
    ['their sum, then rows', ['+12', '5', '7']],
    ['rows, then each', ['5', '7', '+5', '+7']],
    ['each, then rows', ['+5', '+7', '5', '7']],
  ] as const)('several rows and balances of one transaction are one movement each: %s', async (_, writes) => {
    const { pool } = database;
    const wallet = await cutOverWallet('user');
    const client = await connect();
    await client.query('begin');
    for (const write of writes) {
      if (write.startsWith('+')) await client.query(`update wallets set balance_credits = balance_credits ${write}`);
      else await givenRow(client, wallet, { ...ADJUSTMENT, delta: Number(write) });
    }
    await client.query('commit');
    expect(await sides(wallet)).toMatchObject({ old: 112n, ledger: 112n });
    await booksHold(pool);
  });

  it('a wallet that old code makes for somebody who has money in the ledger shows that money', async () => {
    const { pool } = database;
    await cutOverWallet('user');
    await cutOver(pool, { owners: 'all', settleMs: 0 });
    const former = await givenWallet(pool);
    await pool.query('delete from wallets where id = $1', [former.id]);
    const { clearing, cash } = await accountsOf(former);
    await post(pool, transfer(clearing, cash, { amountCents: 500n }));
    await pool.query('insert into wallets (id, user_id) values (gen_random_uuid(), $1)', [former.ownerId]);
    const { rows } = await pool.query<{ id: string }>('select id from wallets where user_id = $1', [former.ownerId]);
    const again = { ...former, id: rows[0]?.id ?? '' };
    expect(await sides(again)).toEqual({ old: 500n, ledger: 500n, rows: [500] });
    await post(pool, transfer(clearing, cash, { amountCents: 1n }));
    expect(await sides(again)).toEqual({ old: 501n, ledger: 501n, rows: [500, 1] });
    await booksHold(pool);
  });

  it('a row that goes from an owner of the old tables to one of the ledger is his, and leaves the other', async () => {
    const { pool } = database;
    const kept = await cutOverWallet('user', 10);
    const old = await givenWallet(pool, { balance: 100 });
    const row = await givenRow(pool, old, { ...ADJUSTMENT, delta: 100 });
    await runBackfill(pool, { settleMs: 0 });
    await pool.query('update wallet_transactions set wallet_id = $2 where id = $1', [row.id, kept.id]);
    await setBalance(pool, old, 0);
    await runBackfill(pool, { settleMs: 0 });
    expect(await sides(kept)).toMatchObject({ old: 110n, ledger: 110n });
    expect(await sides(old)).toMatchObject({ old: 0n, ledger: 0n });
    await booksHold(pool);
  });

  describe('a row that goes so beside a drain that has not committed', () => {
    const DRAIN = 'begin; select replay.drain_rows(1, null)';
    const CHANGE = 'update wallet_transactions set';
    const given = async () => {
      const [kept, old] = [await cutOverWallet('user', 10), await givenWallet(database.pool)];
      return { kept, old, drainer: await connect() };
    };
    const move = (row: string, { id }: LegacyWallet) =>
      database.pool.query(`${CHANGE} wallet_id = $2 where id = $1`, [row, id]);
    const isNeitherLostNorDoubled = async (kept: LegacyWallet, old: LegacyWallet, cents: bigint) => {
      const { pool } = database;
      await setBalance(pool, old, 0);
      await runBackfill(pool, { settleMs: 0 });
      expect(await sides(kept)).toMatchObject({ old: 10n + cents, ledger: 10n + cents });
      expect(await sides(old)).toMatchObject({ old: 0n, ledger: 0n });
      expect(await flipBack(kept)).toMatchObject({ flipped: 1n, refused: [] });
      await booksHold(pool);
    };

    it('which brings it into the log is neither lost nor doubled', async () => {
      const { pool } = database;
      const { kept, old, drainer } = await given();
      const row = await givenRow(pool, old, { ...ADJUSTMENT, delta: 100 });
      await drainer.query(DRAIN);
      const moved = move(row.id, kept);
      await waitsForLock(pool, CHANGE);
      await drainer.query('commit');
      await moved;
      await isNeitherLostNorDoubled(kept, old, 100n);
    });

    it.each([
      ['which takes it from the other is changed after it', true],
      ['which takes it from the other after a change is taken once that has committed', false],
    ])('%s', async (_, drainFirst) => {
      const { pool } = database;
      const { kept, old, drainer } = await given();
      const row = await givenRow(pool, old, { ...ADJUSTMENT, delta: 100 });
      await runBackfill(pool, { settleMs: 0 });
      await move(row.id, kept);
      const changer = await connect();
      const change = () => changer.query(`begin; ${CHANGE} credits_delta = 70 where id = '${row.id}'`);
      const drain = () => drainer.query(DRAIN);
      const [first, second] = drainFirst ? [drain, change] : [change, drain];
      await first();
      const waiting = second();
      await waitsForLock(pool, drainFirst ? CHANGE : DRAIN);
      await (drainFirst ? drainer : changer).query('commit');
      await waiting;
      await (drainFirst ? changer : drainer).query('commit');
      // The balance stays as it is where a row is changed.
      await isNeitherLostNorDoubled(kept, old, 100n);
    });
  });

  it('a posting with a snapshot of before the cut-over runs again, and is mirrored', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await runBackfill(pool);
    const { clearing, cash } = await accountsOf(wallet);
    const early = await connect();
    await early.query('begin isolation level repeatable read; select from payments.balances');
    expect(await flip(wallet)).toMatchObject({ flipped: 1n });
    await expect(post(early, transfer(clearing, cash))).rejects.toMatchObject({ code: 'DB_CONFLICT' });
    await early.query('rollback');
  });

  it('a backfill of an earlier capture is no leave to cut over', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await runBackfill(pool);
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    await expect(flip(wallet)).rejects.toMatchObject({ code: 'CUTOVER_TOO_EARLY' });
  });
});

describe('what nobody can explain', () => {
  it('keeps its owner from the cut-over until somebody has signed for it, and what comes on top does again', async () => {
    const { pool } = database;
    await turnCaptureOff(pool);
    const wallet = await givenWallet(pool, { balance: 93 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 100 });
    await turnCaptureOn(pool);
    await runBackfill(pool);
    const owners = { kind: 'user', id: wallet.ownerId } as const;
    expect(await flip(wallet)).toMatchObject({
      flipped: 0n,
      refused: [
        {
          walletId: wallet.id,
          reason: expect.stringMatching(
            /^7 cents .* unexplained .* backfill approve --user [0-9a-f-]{36} --reason '…'$/,
          ),
        },
      ],
    });
    expect(await cutOver(pool, { owners, maxUnexplainedCents: 7n, dryRun: true })).toMatchObject({ flipped: 1n });
    expect(await cutOver(pool, { owners, dryRun: true })).toMatchObject({ flipped: 0n, refused: [{}] });
    const request = { owners, reason: 'moved by hand, ticket 4711' };
    expect(await approveDrift(pool, request)).toEqual({ wallets: 1n, cents: 7n });
    expect(await approveDrift(pool, request)).toEqual({ wallets: 0n, cents: 0n });
    const { rows } = await pool.query(
      `select payload from payments.events where payload ->> 'note' = 'drift_approved'`,
    );
    expect(rows).toEqual([
      {
        payload: {
          note: 'drift_approved',
          metadata: { wallet_id: wallet.id, table: 'wallet_transactions', cents: -7, reason: request.reason },
        },
      },
    ]);
    expect(await flip(wallet)).toMatchObject({ flipped: 1n, refused: [] });
    await booksHold(pool);
  });
});

describe('the end', () => {
  it('is refused while an owner is kept by the old tables; the capture cannot end while one is kept by the ledger', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet('user');
    const other = await givenWallet(pool);
    await runBackfill(pool);
    await expect(finishCutOver(pool)).rejects.toMatchObject({
      code: 'FINISH_REFUSED',
      message: expect.stringContaining('1 wallets are still kept by the old tables'),
    });
    await expect(turnCaptureOff(pool)).rejects.toMatchObject({ code: 'CAPTURE_NEEDED' });
    await setBalance(pool, wallet, 101);
    expect(await sides(wallet)).toMatchObject({ ledger: 101n });
    expect(await flip(other)).toMatchObject({ flipped: 1n });
    await finishCutOver(pool, { dryRun: true });
    await setBalance(pool, wallet, 102);
    expect(await sides(wallet)).toMatchObject({ ledger: 102n });
    await finishCutOver(pool);
    await expect(turnCaptureOn(pool)).rejects.toMatchObject({ code: 'BACKFILL_RETIRED' });
    expect(await verifyBooksAndWallets(pool)).toMatchObject({ balance: true });
  });

  it('refuses old code that moves money in the old tables, which the ledger would never know, and nothing else', async () => {
    const { pool } = database;
    const kept = [await cutOverWallet('user'), await cutOverWallet('organization')];
    await finishCutOver(pool);
    const refused = { code: 'LV035', message: expect.stringContaining('the old tables are retired') };
    const replica = await connect(database.adminUrl);
    await replica.query('set session_replication_role = replica');
    for (const wallet of kept) {
      const [wallets, rowsTable] = TABLES[wallet.kind];
      await expect(setBalance(pool, wallet, 103)).rejects.toMatchObject(refused);
      await expect(givenRow(pool, wallet, { ...ADJUSTMENT, delta: 3 })).rejects.toMatchObject(refused);
      await expect(pool.query(`update ${rowsTable} set credits_delta = 3`)).rejects.toMatchObject(refused);
      await expect(givenWallet(pool, { kind: wallet.kind, balance: 5 })).rejects.toMatchObject(refused);
      await expect(replica.query(`update ${wallets} set balance_credits = 104`)).rejects.toMatchObject(refused);
      expect(await sides(wallet)).toMatchObject({ old: 100n, ledger: 100n });

      await givenWallet(pool, { kind: wallet.kind });
      await pool.query(`update ${wallets} set status = 'frozen'`);
      await pool.query(`update ${rowsTable} set reference_type = 'other'`);
      await pool.query(`delete from ${rowsTable} where wallet_id = $1`, [wallet.id]);
      await pool.query(`delete from ${wallets} where id = $1`, [wallet.id]);
      expect(await sides(wallet)).toMatchObject({ old: null, ledger: 100n });
    }
    await pool.query('truncate wallet_transactions cascade');
  });
});

describe('a writer', () => {
  it('of an owner who is being cut over waits for it, and is posted', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await runBackfill(pool);
    const [holder, writer] = [await connect(), await connect()];
    await holder.query('begin; select from replay.wallets for update');
    const written = givenRow(writer, wallet, { ...ADJUSTMENT, delta: 5 });
    await eventually('the writer waits', async () => {
      const { rows } = await pool.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      );
      return rows.length === 1;
    });
    await holder.query(`update replay.wallets set mode = 'ledger'; commit`);
    await written;
    expect((await pool.query('select from replay.captured_rows')).rowCount).toBe(0);
    expect(await sides(wallet)).toMatchObject({ ledger: 5n });
  });

  it('that is at work keeps its owner from being cut over until it has committed, and nothing of it is lost', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool);
    await runBackfill(pool);
    const writer = await connect();
    await writer.query('begin');
    await givenRow(writer, wallet, { ...ADJUSTMENT, delta: 5 });
    await setBalance(writer, wallet, 5);
    const flipped = flip(wallet);
    await eventually('it was tried', async () => {
      const { rows } = await pool.query<{ n: bigint }>(
        `select count(*) as n from pg_trigger where tgname = 'entries_mirrored'`,
      );
      return rows[0]?.n === 1n;
    });
    await writer.query('commit');
    expect(await flipped).toMatchObject({ flipped: 1n, refused: [] });
    expect(await sides(wallet)).toEqual({ old: 5n, ledger: 5n, rows: [5] });
    await booksHold(pool);
  });

  it('of the ledger gives way to old code that holds the wallet, and both come through', async () => {
    const { pool } = database;
    const wallet = await cutOverWallet('user');
    const { clearing, cash } = await accountsOf(wallet);
    const old = await connect();
    await old.query('begin');
    await old.query('select from wallets where id = $1 for update', [wallet.id]);
    const posted = withTransaction(pool, (tx) => post(tx, transfer(clearing, cash, { amountCents: 30n })));
    await eventually('the posting waits for the wallet', async () => {
      const { rows } = await pool.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      );
      return rows.length === 1;
    });
    await givenRow(old, wallet, { ...ADJUSTMENT, delta: 1 });
    await old.query('commit');
    await posted;
    expect(await sides(wallet)).toMatchObject({ old: 131n, ledger: 131n });
    await booksHold(pool);
  });
});
