import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { driftByCause } from '../../src/replay/report.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  countLegacyRows,
  createLegacyTestDatabase,
  FREE_TEXT,
  givenInvoice,
  givenRow,
  givenWallet,
  type LegacyRow,
  type LegacyWallet,
  type OwnerKind,
  type RowFields,
} from '../support/legacy.ts';

const KINDS: readonly OwnerKind[] = ['user', 'organization'];
const EVERY_CAUSE = [
  'balance_without_row',
  'changed_row',
  'cumulative_refund',
  'deleted_row',
  'duplicate_credit',
  'duplicate_spend',
  'lost_update',
  'opening_balance',
  'orphan',
  'unexplained',
  'unreferenced_credit',
  'wrong_sign',
];

/**
 * Rows come into the log from the tables, which are read as they were before the capture, or one by one as they are captured. On the
 * older server the short run looks at the first alone.
 */
const WAYS = (['read', 'captured'] as const).filter(
  (way) => way === 'read' || process.env['LIVENTIX_DRILLS'] === 'full' || inject('postgresMajor') > 15,
);
describe.each(WAYS)('rows that are %s', (way) => {
  let database: TestDatabase;
  /** The last event, and how many rows, that an earlier test of the same database has looked at. */
  let seen = { position: 0n, rows: 0n };
  const begin = async () => {
    database = await createLegacyTestDatabase(undefined, { isCaptured: way === 'captured' });
    seen = { position: 0n, rows: 0n };
    if (way === 'captured') await replay();
  };
  const end = () => database.drop();
  /** For tests whose rows a later run may follow: each brings its own holders. */
  const inOneDatabase = () => {
    beforeAll(begin);
    afterAll(end);
  };
  const inADatabaseOfItsOwn = () => {
    beforeEach(begin);
    afterEach(end);
  };

  const wallet = (kind: OwnerKind, balance: number) => givenWallet(database.pool, { kind, balance });
  const invoiced = (of: LegacyWallet, paidCents: number) => givenInvoice(database.pool, of, paidCents);
  const row = (of: LegacyWallet, fields: RowFields) => givenRow(database.pool, of, fields);

  /** One transaction, or one note, as the books tell it. */
  interface Booked {
    readonly at: string;
    readonly reference: string | null;
    readonly referenceId: string | null;
    readonly key: string | null;
    readonly cause: string | null;
    readonly note: string | null;
    /** `type/name cents`, and the owner when there is one. */
    readonly entries: readonly string[];
  }

  /** What a row of the old history is booked as, unless the test says otherwise. */
  const booked = (of: LegacyRow, fields: Partial<Booked>): Booked => ({
    at: of.at,
    reference: null,
    referenceId: null,
    key: null,
    cause: null,
    note: null,
    entries: [],
    ...fields,
  });

  /**
   * Runs the backfill and answers what it wrote, in the order of the log. Whatever the history was: the books balance,
   * every wallet's new balance is its old one, no row is dropped, free text stays out of the log, and another run
   * changes nothing.
   */
  async function replay(): Promise<Booked[]> {
    const { pool } = database;
    const rows = await countLegacyRows(pool);
    await turnCaptureOn(pool);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({
      finished: true,
      imported: rows - seen.rows,
      legacyTransactions: rows,
    });
    const verification = await verifyBooksAndWallets(pool);
    expect(verification.checks.filter((check) => !check.holds)).toEqual([]);
    expect(verification.checks.map(({ check }) => check)).toContain('every legacy wallet equals its account');
    const log = await readLog();
    const { rows: leaks } = await pool.query(`select payload from payments.events e where e::text ilike '%lovelace%'`);
    expect(FREE_TEXT).toMatch(/lovelace/i);
    expect(leaks).toEqual([]);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 0n });
    expect(await readLog()).toEqual(log);
    const last = await pool.query<{ position: bigint }>('select max(position) as position from payments.events');
    seen = { position: last.rows[0]?.position ?? 0n, rows };
    if (way === 'read') await turnCaptureOff(pool);
    return log;
  }

  /** What suspense holds, by cause. */
  const suspense = async (): Promise<Record<string, bigint>> =>
    Object.fromEntries((await driftByCause(database.pool)).map(({ cause, cents }) => [cause, cents]));

  async function readLog(): Promise<Booked[]> {
    const { rows } = await database.pool.query<Booked>(
      `select e.effective_at::text as at, e.payload ->> 'reference_type' as reference, e.payload ->> 'reference_id' as "referenceId",
            e.idempotency_scope || ' ' || e.idempotency_key as key, e.payload -> 'metadata' ->> 'cause' as cause, e.payload ->> 'note' as note,
            array(select format('%s/%s %s', a.type, a.name, n.amount_cents)
                    || coalesce(' user ' || a.user_id, '') || coalesce(' organization ' || a.organization_id, '')
                  from payments.entries n join payments.accounts a on a.id = n.account_id and a.currency = n.currency
                  where n.transaction_id = e.event_id and n.effective_at = e.effective_at and n.currency = 'USD'
                    and (n.reference_type, n.reference_id) is not distinct from (e.payload ->> 'reference_type', e.payload ->> 'reference_id')
                  order by n.id) as entries
     from payments.events e where e.type <> 'account.opened' and e.position > $1 order by e.position`,
      [seen.position],
    );
    return rows;
  }

  const spendKeyOf = ({ id }: LegacyWallet, key: string) => `org_wallet_transactions:spend ${id}:${key}`;
  const into = (of: LegacyWallet, credits: number) => `cash/wallet ${-credits} ${of.kind} ${of.ownerId}`;

  describe.each(KINDS)("a %s's wallet", (kind) => {
    inOneDatabase();
    const scope = kind === 'user' ? 'wallet_transactions' : 'org_wallet_transactions';

    it('books a purchase at par: clearing against the wallet, under the processor’s key', async () => {
      const holder = await wallet(kind, 1_000);
      const invoice = await invoiced(holder, 1_000);
      const purchase = await row(holder, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice, key: 'evt_1' });
      expect(await replay()).toEqual([
        booked(purchase, {
          reference: 'credit_purchase',
          referenceId: invoice,
          key: `${scope} evt_1`,
          entries: ['receivable/clearing 1000', into(holder, 1_000)],
        }),
      ]);
    });

    it('books the credits beyond what was paid as promotion', async () => {
      const holder = await wallet(kind, 1_200);
      const invoice = await invoiced(holder, 1_000);
      const purchase = await row(holder, { type: 'purchase', delta: 1_200, usdCents: 1_000, invoice });
      expect(await replay()).toEqual([
        booked(purchase, {
          reference: 'credit_purchase',
          referenceId: invoice,
          entries: ['receivable/clearing 1000', 'contra_revenue/promotions 200', into(holder, 1_200)],
        }),
      ]);
    });

    it('books what was paid beyond the credits back from promotion', async () => {
      const holder = await wallet(kind, 900);
      const invoice = await invoiced(holder, 1_000);
      const purchase = await row(holder, { type: 'purchase', delta: 900, usdCents: 1_000, invoice });
      expect(await replay()).toEqual([
        booked(purchase, {
          reference: 'credit_purchase',
          referenceId: invoice,
          entries: ['receivable/clearing 1000', 'contra_revenue/promotions -100', into(holder, 900)],
        }),
      ]);
    });

    it('books credits that cost nothing as promotion alone', async () => {
      const holder = await wallet(kind, 50);
      const invoice = await invoiced(holder, 0);
      const purchase = await row(holder, { type: 'purchase', delta: 50, usdCents: 0, invoice });
      expect(await replay()).toEqual([
        booked(purchase, {
          reference: 'credit_purchase',
          referenceId: invoice,
          entries: ['contra_revenue/promotions 50', into(holder, 50)],
        }),
      ]);
    });

    it('books a refund: the wallet against clearing', async () => {
      const holder = await wallet(kind, 700);
      const invoice = await invoiced(holder, 1_000);
      await row(holder, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice });
      const refund = await row(holder, { type: 'refund', delta: -300, invoice, key: 'evt_2' });
      expect((await replay())[1]).toEqual(
        booked(refund, {
          reference: 'refund',
          referenceId: invoice,
          key: `${scope} evt_2`,
          entries: ['receivable/clearing -300', into(holder, -300)],
        }),
      );
    });

    it('books spend as revenue of ad campaigns, against the campaign', async () => {
      const campaign = randomUUID();
      const holder = await wallet(kind, -40);
      const spend = await row(holder, {
        type: 'spend',
        delta: -40,
        referenceType: 'campaign',
        referenceId: campaign,
        spendKey: 'k1',
      });
      expect(await replay()).toEqual([
        booked(spend, {
          reference: 'campaign_spend',
          referenceId: campaign,
          key: kind === 'user' ? null : spendKeyOf(holder, 'k1'),
          entries: ['revenue/ad_campaigns -40', into(holder, -40)],
        }),
      ]);
    });

    it('books an adjustment in either direction against the administrators', async () => {
      const administrator = randomUUID();
      const holder = await wallet(kind, 70);
      const reference = { referenceType: 'system', referenceId: administrator };
      const up = await row(holder, { type: 'adjustment', delta: 100, ...reference });
      const down = await row(holder, { type: 'adjustment', delta: -30, ...reference });
      const shared = { reference: 'adjustment', referenceId: administrator };
      expect(await replay()).toEqual([
        booked(up, { ...shared, entries: ['adjustments/administrators 100', into(holder, 100)] }),
        booked(down, { ...shared, entries: ['adjustments/administrators -30', into(holder, -30)] }),
      ]);
    });

    it('books a refund without an invoice of its wallet as orphan', async () => {
      const other = await wallet(kind, 0);
      const holder = await wallet(kind, -6);
      const foreign = await invoiced(other, 10);
      const refunds: [LegacyRow, string | null][] = [];
      for (const invoice of [undefined, foreign, randomUUID()]) {
        refunds.push([await row(holder, { type: 'refund', delta: -2, invoice }), invoice ?? null]);
      }
      expect(await replay()).toEqual(
        refunds.map(([refund, referenceId]) =>
          booked(refund, {
            reference: 'refund',
            referenceId,
            cause: 'orphan',
            entries: ['suspense/orphan -2', into(holder, -2)],
          }),
        ),
      );
    });

    it('books a credit whose invoice is missing, of another wallet or nonexistent as unreferenced', async () => {
      const other = await wallet(kind, 0);
      const holder = await wallet(kind, 30);
      const foreign = await invoiced(other, 10);
      const credits: [LegacyRow, string | null][] = [];
      for (const invoice of [undefined, foreign, randomUUID()]) {
        credits.push([await row(holder, { type: 'purchase', delta: 10, usdCents: 10, invoice }), invoice ?? null]);
      }
      expect(await replay()).toEqual(
        credits.map(([credit, referenceId]) =>
          booked(credit, {
            reference: 'credit_purchase',
            referenceId,
            cause: 'unreferenced_credit',
            entries: ['suspense/unreferenced_credit 10', into(holder, 10)],
          }),
        ),
      );
    });

    it('does not take an invoice of the other kind of wallet for its own', async () => {
      const other = await wallet(kind === 'user' ? 'organization' : 'user', 0);
      const holder = await wallet(kind, 10);
      const invoice = await invoiced(other, 10);
      await row(holder, { type: 'purchase', delta: 10, usdCents: 10, invoice });
      expect(await replay()).toMatchObject([{ cause: 'unreferenced_credit' }]);
    });

    it('books a balance that no row ever moved as its opening balance, as of the wallet’s creation', async () => {
      const holder = await givenWallet(database.pool, { kind, balance: 500, createdAt: '2023-05-06T07:08:09.123456Z' });
      expect(await replay()).toEqual([
        booked(
          { id: holder.id, at: '2023-05-06 07:08:09.123456+00' },
          {
            reference: 'adjustment',
            referenceId: holder.id,
            cause: 'opening_balance',
            entries: ['suspense/opening_balance 500', into(holder, 500)],
          },
        ),
      ]);
    });

    it('books a movement that the balance lacks as a lost update, as of the last row', async () => {
      const holder = await wallet(kind, 100);
      const invoice = await invoiced(holder, 100);
      await row(holder, { type: 'purchase', delta: 100, usdCents: 100, invoice });
      const spend = await row(holder, { type: 'spend', delta: -30 });
      expect((await replay())[2]).toEqual(
        booked(spend, {
          reference: 'adjustment',
          referenceId: holder.id,
          cause: 'lost_update',
          entries: ['suspense/lost_update 30', into(holder, 30)],
        }),
      );
    });

    it('books a difference that is no row’s as unexplained, and as a balance without a row where it was seen to come', async () => {
      const holder = await wallet(kind, 93);
      const invoice = await invoiced(holder, 100);
      const purchase = await row(holder, { type: 'purchase', delta: 100, usdCents: 100, invoice });
      const cause = way === 'captured' ? 'balance_without_row' : 'unexplained';
      expect((await replay())[1]).toEqual(
        booked(purchase, {
          reference: 'adjustment',
          referenceId: holder.id,
          cause,
          entries: [`suspense/${cause} -7`, into(holder, -7)],
        }),
      );
    });

    it('books a balance from which its rows spend what was never there as opened with it', async () => {
      const holder = await wallet(kind, 25);
      await row(holder, { type: 'spend', delta: -40 });
      await row(holder, { type: 'adjustment', referenceType: 'system', delta: 10 });
      // Seen to come, it came with the wallet, and no row of its size is missing from it.
      const cause = way === 'captured' ? 'balance_without_row' : 'opening_balance';
      expect((await replay()).at(-1)).toMatchObject({ cause, entries: [`suspense/${cause} 55`, into(holder, 55)] });
    });

    it('writes nothing for a wallet that is empty and has no rows', async () => {
      await wallet(kind, 0);
      expect(await replay()).toEqual([]);
    });
  });

  describe("an organization's wallet", () => {
    inOneDatabase();

    it('takes what was paid from the invoice, which the row does not say', async () => {
      const holder = await wallet('organization', 110);
      const invoice = await invoiced(holder, 100);
      await row(holder, { type: 'purchase', delta: 110, invoice });
      expect(await replay()).toMatchObject([
        { entries: ['receivable/clearing 100', 'contra_revenue/promotions 10', into(holder, 110)] },
      ]);
    });

    it('books a spend under a key that was spent already as a duplicate, and one under another wallet’s key as spend', async () => {
      const campaign = randomUUID();
      const holder = await wallet('organization', -20);
      const other = await wallet('organization', -10);
      const spend = {
        type: 'spend',
        delta: -10,
        referenceType: 'campaign',
        referenceId: campaign,
        spendKey: 'k',
      } as const;
      const first = await row(holder, spend);
      const second = await row(holder, spend);
      const others = await row(other, spend);
      const shared = { reference: 'campaign_spend', referenceId: campaign };
      expect(await replay()).toEqual([
        booked(first, {
          ...shared,
          key: spendKeyOf(holder, 'k'),
          entries: ['revenue/ad_campaigns -10', into(holder, -10)],
        }),
        booked(second, {
          ...shared,
          cause: 'duplicate_spend',
          entries: ['suspense/duplicate_spend -10', into(holder, -10)],
        }),
        booked(others, {
          ...shared,
          key: spendKeyOf(other, 'k'),
          entries: ['revenue/ad_campaigns -10', into(other, -10)],
        }),
      ]);
    });

    it('does not take spends without a key for duplicates of each other', async () => {
      const holder = await wallet('organization', -20);
      await row(holder, { type: 'spend', delta: -10 });
      await row(holder, { type: 'spend', delta: -10 });
      expect((await replay()).map(({ cause }) => cause)).toEqual([null, null]);
    });
  });

  describe("a user's wallet", () => {
    inOneDatabase();

    it('takes no more for paid than the invoice says: who claims more has no invoice for it', async () => {
      const holder = await wallet('user', 1_000_100);
      const invoice = await invoiced(holder, 100);
      const forged = await row(holder, { type: 'purchase', delta: 1_000_000, usdCents: 1_000_000, invoice });
      const genuine = await row(holder, { type: 'purchase', delta: 100, usdCents: 100, invoice });
      const shared = { reference: 'credit_purchase', referenceId: invoice };
      expect(await replay()).toEqual([
        booked(forged, {
          ...shared,
          cause: 'unreferenced_credit',
          entries: ['suspense/unreferenced_credit 1000000', into(holder, 1_000_000)],
        }),
        booked(genuine, { ...shared, entries: ['receivable/clearing 100', into(holder, 100)] }),
      ]);
    });

    it('takes what was paid from the invoice where the row does not say it', async () => {
      const holder = await wallet('user', 110);
      const invoice = await invoiced(holder, 100);
      await row(holder, { type: 'purchase', delta: 110, invoice });
      expect(await replay()).toMatchObject([
        { entries: ['receivable/clearing 100', 'contra_revenue/promotions 10', into(holder, 110)] },
      ]);
    });

    it('takes the row’s word over the invoice’s for what was paid: a historical amount is never recomputed', async () => {
      const holder = await wallet('user', 110);
      const invoice = await invoiced(holder, 100);
      await row(holder, { type: 'purchase', delta: 110, usdCents: 90, invoice });
      expect(await replay()).toMatchObject([
        { entries: ['receivable/clearing 90', 'contra_revenue/promotions 20', into(holder, 110)] },
      ]);
    });

    it('knows the invoice by its id, whatever reference_type says and in capitals too', async () => {
      const holder = await wallet('user', 200);
      for (const referenceType of [undefined, 'Rechnung']) {
        const invoice = await invoiced(holder, 100);
        await row(holder, {
          type: 'purchase',
          delta: 100,
          usdCents: 100,
          referenceType,
          referenceId: invoice.toUpperCase(),
        });
      }
      expect((await replay()).map(({ cause }) => cause)).toEqual([null, null]);
    });

    it('books a promotion, and credits that lapsed as revenue', async () => {
      const holder = await wallet('user', 30);
      const granted = await row(holder, { type: 'promo', delta: 50 });
      const lapsed = await row(holder, { type: 'promo', delta: -20 });
      expect(await replay()).toEqual([
        booked(granted, { reference: 'adjustment', entries: ['contra_revenue/promotions 50', into(holder, 50)] }),
        booked(lapsed, { reference: 'adjustment', entries: ['revenue/ad_campaigns -20', into(holder, -20)] }),
      ]);
    });

    it('books the second credit of one invoice as a duplicate, by time and then by id', async () => {
      const holder = await wallet('user', 300);
      const invoice = await invoiced(holder, 100);
      const at = '2024-03-01T00:00:00Z';
      const fields = { type: 'purchase', delta: 100, usdCents: 100, invoice, at } as const;
      await row(holder, { ...fields, key: 'evt_third', id: 'ffffffff-0000-4000-8000-000000000000' });
      await row(holder, { ...fields, key: 'evt_second', id: '22222222-0000-4000-8000-000000000000' });
      await row(holder, {
        ...fields,
        key: 'evt_first',
        id: 'aaaaaaaa-0000-4000-8000-000000000000',
        at: '2024-02-29T00:00:00Z',
      });
      const shared = { reference: 'credit_purchase', referenceId: invoice };
      const duplicate = { cause: 'duplicate_credit', entries: ['suspense/duplicate_credit 100', into(holder, 100)] };
      // By time, where the tables are read; by who wrote first, where he is captured.
      const inOrder = ['evt_first', 'evt_second', 'evt_third'];
      const written = ['evt_third', 'evt_second', 'evt_first'];
      expect(await replay()).toMatchObject(
        (way === 'read' ? inOrder : written).map((key, nth) => ({
          ...shared,
          ...(nth === 0 ? { cause: null, entries: ['receivable/clearing 100', into(holder, 100)] } : duplicate),
          key: `wallet_transactions ${key}`,
        })),
      );
    });

    it('books of a cumulative refund what is new to clearing, and the rest to suspense', async () => {
      const holder = await wallet('user', 1_000 - 300 - 500 - 500);
      const invoice = await invoiced(holder, 1_000);
      await row(holder, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice });
      const refunds = [];
      for (const delta of [-300, -500, -500]) refunds.push(await row(holder, { type: 'refund', delta, invoice }));
      const [first, partly, fully] = refunds as [LegacyRow, LegacyRow, LegacyRow];
      const shared = { reference: 'refund', referenceId: invoice };
      expect((await replay()).slice(1)).toEqual([
        booked(first, { ...shared, entries: ['receivable/clearing -300', into(holder, -300)] }),
        booked(partly, {
          ...shared,
          cause: 'cumulative_refund',
          entries: ['receivable/clearing -200', 'suspense/cumulative_refund -300', into(holder, -500)],
        }),
        booked(fully, {
          ...shared,
          cause: 'cumulative_refund',
          entries: ['suspense/cumulative_refund -500', into(holder, -500)],
        }),
      ]);
    });

    it('books a refund report that is below an earlier one to suspense alone', async () => {
      const holder = await wallet('user', 1_000 - 500 - 300);
      const invoice = await invoiced(holder, 1_000);
      await row(holder, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice });
      await row(holder, { type: 'refund', delta: -500, invoice });
      await row(holder, { type: 'refund', delta: -300, invoice });
      expect((await replay())[2]?.entries).toEqual(['suspense/cumulative_refund -300', into(holder, -300)]);
    });

    it('books a balance that was put right against what suspense holds for the row that was wrong', async () => {
      const holder = await wallet('user', 100);
      const invoice = await invoiced(holder, 100);
      for (const key of ['right', 'wrong']) {
        await row(holder, { type: 'purchase', delta: 100, usdCents: 100, invoice, key: key + way });
      }
      const refunded = await wallet('user', 50);
      const other = await invoiced(refunded, 100);
      await row(refunded, { type: 'purchase', delta: 100, usdCents: 100, invoice: other });
      for (const delta of [-20, -50]) await row(refunded, { type: 'refund', delta, invoice: other });
      const before = await suspense();
      await replay();
      expect(await suspense()).toEqual({
        ...before,
        duplicate_credit: before['duplicate_credit'] ?? 0n,
        cumulative_refund: before['cumulative_refund'] ?? 0n,
      });
    });

    it('counts the refunds of each invoice by themselves', async () => {
      const holder = await wallet('user', 1_000);
      for (let nth = 0; nth < 2; nth += 1) {
        const invoice = await invoiced(holder, 1_000);
        await row(holder, { type: 'purchase', delta: 1_000, usdCents: 1_000, invoice });
        await row(holder, { type: 'refund', delta: -500, invoice });
      }
      expect((await replay()).map(({ cause }) => cause)).toEqual([null, null, null, null]);
    });

    it.each([
      ['purchase', -10, 'credit_purchase'],
      ['refund', 10, 'refund'],
      ['spend', 10, 'campaign_spend'],
    ] as const)('books a %s of %i credits as of the wrong sign', async (type, delta, reference) => {
      const holder = await wallet('user', delta);
      const invoice = await invoiced(holder, 10);
      const wrong = await row(holder, { type, delta, usdCents: 10, invoice });
      expect(await replay()).toEqual([
        booked(wrong, {
          reference,
          referenceId: invoice,
          cause: 'wrong_sign',
          entries: [`suspense/wrong_sign ${delta}`, into(holder, delta)],
        }),
      ]);
    });

    it('does not count a row of the wrong sign as the first credit or refund of its invoice', async () => {
      const holder = await wallet('user', -10 + 100 + 20 - 30);
      const invoice = await invoiced(holder, 100);
      for (const [type, delta] of [
        ['purchase', -10],
        ['purchase', 100],
        ['refund', 20],
        ['refund', -30],
      ] as const) {
        await row(holder, { type, delta, invoice });
      }
      expect((await replay()).map(({ cause }) => cause)).toEqual(['wrong_sign', null, 'wrong_sign', null]);
    });

    it('notes a row of zero credits, and books nothing for it', async () => {
      const holder = await wallet('user', 0);
      const nothing = [];
      for (const type of ['purchase', 'spend', 'refund', 'adjustment', 'promo'] as const) {
        nothing.push(await row(holder, { type, delta: 0 }));
      }
      expect(await replay()).toEqual(nothing.map((zero) => booked(zero, { cause: 'zero_row', note: 'zero_row' })));
      expect(await driftByCause(database.pool)).toContainEqual({ cause: 'zero_row', count: 5n, cents: 0n });
    });

    it.each(['pi_3Nabc', '', "x'; drop table payments.entries; --", '{"a":1}', '12345678-1234-1234-1234-12345678901'])(
      'books a credit that refers to the text %j, which is no id, as unreferenced',
      async (referenceId) => {
        const holder = await wallet('user', 10);
        const credit = await row(holder, {
          type: 'purchase',
          delta: 10,
          usdCents: 10,
          referenceType: 'invoice',
          referenceId,
        });
        expect(await replay()).toEqual([
          booked(credit, {
            reference: 'credit_purchase',
            referenceId,
            cause: 'unreferenced_credit',
            entries: ['suspense/unreferenced_credit 10', into(holder, 10)],
          }),
        ]);
      },
    );

    it('books a positive adjustment that no administrator made as unreferenced', async () => {
      const holder = await wallet('user', 10);
      await row(holder, { type: 'adjustment', delta: 10, referenceType: 'gift' });
      expect(await replay()).toMatchObject([
        { cause: 'unreferenced_credit', entries: ['suspense/unreferenced_credit 10', into(holder, 10)] },
      ]);
    });

    it('replays rows at the ends of their integers, alone and beside each other', async () => {
      const [least, most] = [-2_147_483_648, 2_147_483_647];
      const holder = await wallet('user', -1);
      const invoice = await invoiced(holder, most);
      await row(holder, { type: 'purchase', delta: most, usdCents: least, invoice });
      await row(holder, { type: 'refund', delta: least, invoice });
      const poor = await wallet('user', 0);
      const other = await invoiced(poor, most);
      await row(poor, { type: 'refund', delta: least, invoice: other });
      await row(poor, { type: 'refund', delta: least, invoice: other });
      await row(poor, { type: 'adjustment', delta: least });
      await row(poor, { type: 'spend', delta: least });
      expect((await replay()).map(({ cause }) => cause)).toEqual([
        null,
        null,
        null,
        'cumulative_refund',
        null,
        null,
        way === 'captured' ? 'balance_without_row' : 'opening_balance',
      ]);
    });

    it('replays a forged row whose texts are as long as the old indexes let through', async () => {
      const holder = await wallet('user', 30);
      const random = (length: number) => Array.from({ length }, () => randomUUID()[0]).join('');
      await row(holder, { type: 'purchase', delta: 10, key: random(2_680) });
      await row(holder, { type: 'purchase', delta: 10, referenceType: 'x', referenceId: random(2_670) });
      await row(holder, { type: 'purchase', delta: 10, referenceType: random(2_670), referenceId: 'x' });
      expect(await replay()).toHaveLength(3);
    });
  });

  describe('a row whose wallet is gone', () => {
    inADatabaseOfItsOwn();

    it('is noted as orphan, beside the refunds that are, and the books still balance', async () => {
      const { pool } = database;
      await pool.query('alter table wallet_transactions drop constraint wallet_transactions_wallet_id_fkey');
      const holder = await wallet('user', -5);
      const refund = await row(holder, { type: 'refund', delta: -5 });
      const gone = await wallet('user', 0);
      const orphan = await row(gone, { type: 'spend', delta: -10 });
      await pool.query('delete from wallets where id = $1', [gone.id]);
      const log = await replay();
      expect(log[0]).toEqual(
        booked(refund, { reference: 'refund', cause: 'orphan', entries: ['suspense/orphan -5', into(holder, -5)] }),
      );
      if (way === 'read') {
        expect(log.slice(1)).toEqual([booked(orphan, { note: 'orphan' })]);
        expect(await driftByCause(pool)).toEqual([{ cause: 'orphan', count: 2n, cents: -5n }]);
        return;
      }
      // Its wallet was there when it was written: it is booked, and what the wallet owed goes to suspense with it.
      expect(log.slice(1)).toMatchObject([
        { reference: 'campaign_spend', entries: ['revenue/ad_campaigns -10', into(gone, -10)] },
        { reference: 'adjustment', cause: 'orphan', entries: ['suspense/orphan 10', into(gone, 10)] },
      ]);
    });
  });

  describe('every history', () => {
    inADatabaseOfItsOwn();

    it('finds the suspense accounts of all causes open before it begins', async () => {
      await replay();
      const { rows } = await database.pool.query<{ name: string }>(
        `select name from payments.accounts where type = 'suspense' order by name`,
      );
      expect(rows.map(({ name }) => name)).toEqual(EVERY_CAUSE);
    });

    it('gives a user and an organization of the same id accounts of their own', async () => {
      const { pool } = database;
      const user = await wallet('user', 3);
      await pool.query('insert into organizations (id, name, created_by) values ($1, $2, $1)', [
        user.ownerId,
        FREE_TEXT,
      ]);
      await pool.query('insert into org_wallets (org_id, balance_credits) values ($1, 4)', [user.ownerId]);
      await replay();
      const { rows } = await pool.query(
        `select user_id, organization_id, balance_cents from payments.account_balances where type = 'cash' order by balance_cents`,
      );
      expect(rows).toEqual([
        { user_id: user.ownerId, organization_id: null, balance_cents: 3n },
        { user_id: null, organization_id: user.ownerId, balance_cents: 4n },
      ]);
    });

    it('keeps each wallet’s order: oldest first where it is read, as written where it is captured', async () => {
      const holder = await wallet('user', 6);
      const written = { type: 'adjustment', referenceType: 'system' } as const;
      await row(holder, { ...written, delta: 3, at: '2024-01-03T00:00:00Z' });
      await row(holder, { ...written, delta: 1, at: '2024-01-01T00:00:00Z' });
      await row(holder, { ...written, delta: 2, at: '2024-01-02T00:00:00Z' });
      expect((await replay()).map(({ entries }) => entries[1])).toEqual(
        (way === 'read' ? [1, 2, 3] : [3, 1, 2]).map((credits) => into(holder, credits)),
      );
    });

    it.each(KINDS)(
      'replays the wallet of a %s and its row whose id is all zeros, at the beginning of time and at its end',
      async (kind) => {
        const id = '00000000-0000-0000-0000-000000000000';
        const holder = await givenWallet(database.pool, { kind, id, balance: 5 });
        const first = await row(holder, { type: 'adjustment', referenceType: 'system', delta: 2, id, at: '-infinity' });
        const ancient = await row(holder, {
          type: 'adjustment',
          referenceType: 'system',
          delta: 1,
          at: '0044-03-15 BC',
        });
        const last = await row(holder, { type: 'adjustment', referenceType: 'system', delta: 2, at: 'infinity' });
        expect((await replay()).map(({ at }) => at)).toEqual([first.at, ancient.at, last.at]);
      },
    );
  });
});
