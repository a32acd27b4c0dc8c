import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import { compareWallets, driftByCause } from '../../src/replay/report.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  type LegacyWallet,
  type OwnerKind,
  type RowFields,
} from '../support/legacy.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const RUNS = FULL ? 150 : 12;
/** After it, what was found so far is told with its seed, instead of being shrunk any further. */
const TIME_LIMIT_MS = FULL ? 570_000 : 90_000;
const INVOICES = 2;
const TYPES = ['purchase', 'refund', 'spend', 'adjustment', 'promo'] as const;

const credits = fc.oneof(fc.integer({ min: -500, max: 500 }), fc.integer({ min: -2_147_483_648, max: 2_147_483_647 }));
const row = fc.record({
  type: fc.constantFrom(...TYPES, 'purchase', 'refund'),
  size: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 1, max: 9 }) },
    { weight: 1, arbitrary: fc.constantFrom(0, 2_147_483_647) },
  ),
  /** Of the sign that its type has, mostly. */
  sign: fc.constantFrom(1, 1, 1, 1, 1, -1),
  usdCents: fc.option(fc.integer({ min: 0, max: 1_000 }), { nil: undefined }),
  /** What it refers to: its wallet's own invoice mostly, else one of the first wallet's, a text, or nothing. */
  reference: fc.oneof(
    { weight: 6, arbitrary: fc.record({ own: fc.nat({ max: INVOICES - 1 }) }) },
    { weight: 1, arbitrary: fc.record({ firsts: fc.nat({ max: INVOICES - 1 }) }) },
    { weight: 1, arbitrary: fc.record({ text: fc.string({ unit: 'grapheme', maxLength: 12 }) }) },
    { weight: 1, arbitrary: fc.constant({}) },
  ),
  referenceType: fc.constantFrom(undefined, 'system', 'invoice', 'campaign', 'Ω'),
  spendKey: fc.constantFrom(undefined, 'k1', 'k2'),
  /** Few instants, so that many rows share one. */
  minute: fc.nat({ max: 4 }),
  isLate: fc.boolean(),
});
const wallet = fc.record({
  kind: fc.constantFrom<OwnerKind>('user', 'organization'),
  balance: credits,
  rows: fc.array(row, { maxLength: 14, size: 'max' }),
});
type Plan = typeof wallet extends fc.Arbitrary<infer T> ? T : never;
type RowPlan = Plan['rows'][number];

function usualSign(type: string): number {
  return type === 'refund' || type === 'spend' ? -1 : 1;
}

interface Invoices {
  readonly own: readonly string[];
  readonly firsts: readonly string[];
}

/** A row that the old tables would take: an organization's has its checks and its unique indexes. */
function toFields(plan: RowPlan, kind: OwnerKind, invoices: Invoices): RowFields {
  const { reference, minute, size, sign, ...rest } = plan;
  const at = `2024-06-01T00:0${minute}:00Z`;
  const invoice =
    'own' in reference
      ? invoices.own[reference.own]
      : 'firsts' in reference
        ? invoices.firsts[reference.firsts]
        : undefined;
  if (kind === 'user') {
    // PostgreSQL's texts hold anything but U+0000.
    const delta = size * sign * usualSign(plan.type) || 0;
    return {
      ...rest,
      delta,
      at,
      invoice,
      referenceId: 'text' in reference ? reference.text.replaceAll('\0', '') : undefined,
    };
  }
  const type = plan.type === 'promo' ? 'adjustment' : plan.type;
  const delta = (size || 1) * (type === 'adjustment' ? sign : usualSign(type));
  return { type, delta, at, referenceType: plan.referenceType, spendKey: plan.spendKey, invoice };
}

async function write(
  database: TestDatabase,
  wallets: readonly [LegacyWallet, Plan][],
  isLate: boolean,
): Promise<number> {
  const { pool } = database;
  let written = 0;
  for (const [holder, plan] of wallets) {
    const firsts = await invoicesOf(database, wallets[0]?.[0] ?? holder);
    const invoices = { firsts, own: await invoicesOf(database, holder) };
    for (const rowPlan of plan.rows.filter((each) => each.isLate === isLate)) {
      const fields = toFields(rowPlan, plan.kind, invoices);
      const taken = await givenRow(pool, holder, fields).then(
        () => 1,
        (error: { code?: string }) => {
          // The old tables' own unique index: one purchase and one refund an invoice, of organizations.
          if (error.code === '23505') return 0;
          throw error;
        },
      );
      written += taken;
    }
  }
  return written;
}

async function invoicesOf({ pool }: TestDatabase, holder: LegacyWallet): Promise<string[]> {
  const { rows } = await pool.query<{ id: string }>(
    'select id from invoices where $1 in (wallet_id, org_wallet_id) order by amount_usd_cents',
    [holder.id],
  );
  return rows.map(({ id }) => id);
}

/** What holders have beyond what the accounts of the flows account for. */
async function unexplained({ pool }: TestDatabase): Promise<bigint> {
  const { rows } = await pool.query<{ cents: bigint }>(
    `select ((select coalesce(sum(balance_credits), 0) from wallets) + (select coalesce(sum(balance_credits), 0) from org_wallets)
             + coalesce(sum(-b.balance_cents) filter (where a.type not in ('cash', 'suspense')), 0))::bigint as cents
     from payments.accounts a join payments.balances b on b.account_id = a.id`,
  );
  return rows[0]?.cents ?? 0n;
}

async function holds(database: TestDatabase): Promise<void> {
  const { checks } = await verifyBooksAndWallets(database.pool);
  expect(checks.filter((check) => !check.holds)).toEqual([]);
  expect(await compareWallets(database.pool)).toMatchObject({ differing: 0n });
  const drift = await driftByCause(database.pool);
  expect(drift.reduce((sum, { cents }) => sum + cents, 0n)).toBe(await unexplained(database));
}

describe('whatever the old history was', () => {
  it(
    'every wallet keeps its balance, the books hold, suspense is what is unexplained, and a second run imports nothing',
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(wallet, { maxLength: 4, size: 'max' }),
          fc.integer({ min: 1, max: 8 }),
          async (plans, chunkRows) => {
            const database = await createLegacyTestDatabase();
            try {
              const wallets: [LegacyWallet, Plan][] = [];
              for (const plan of plans) {
                const holder = await givenWallet(database.pool, plan);
                wallets.push([holder, plan]);
                for (let nth = 0; nth < INVOICES; nth += 1) await givenInvoice(database.pool, holder, nth * 5);
              }
              const first = await write(database, wallets, false);
              expect(await runBackfill(database.pool, { chunkRows, settleMs: 0 })).toMatchObject({
                finished: true,
                imported: BigInt(first),
              });
              await holds(database);

              const late = await write(database, wallets, true);
              expect(await runBackfill(database.pool, { chunkRows, settleMs: 0 })).toMatchObject({
                finished: true,
                imported: BigInt(late),
              });
              await holds(database);
              expect(await runBackfill(database.pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 0n });
              await holds(database);
              await agreesWithTheModel(database);
            } finally {
              await database.drop();
            }
          },
        ),
        {
          numRuns: RUNS,
          interruptAfterTimeLimit: TIME_LIMIT_MS,
          markInterruptAsFailure: true,
          ...seedFromEnvironment(),
        },
      );
    },
    TIME_LIMIT_MS + 30_000,
  );
});

function seedFromEnvironment(): { seed?: number } {
  const seed = process.env['LIVENTIX_SEED'];
  return seed === undefined ? {} : { seed: Number(seed) };
}

/** The causes of the rows, found here once more by going through the log in its order, one row at a time. */
async function agreesWithTheModel({ pool }: TestDatabase): Promise<void> {
  const { rows } = await pool.query<LoggedRow>(
    `select 'user' as kind, t.type, t.credits_delta as delta, t.reference_type as "referenceType", i.id as invoice,
            coalesce(t.usd_cents > i.amount_usd_cents, false) as "claimsMore", null as key, t.wallet_id as wallet,
            e.payload -> 'metadata' ->> 'cause' as cause, e.position
     from wallet_transactions t
     left join invoices i on i.id::text = lower(t.reference_id) and i.wallet_id = t.wallet_id
     join payments.events e on e.payload -> 'metadata' -> 'legacy' ->> 'id' = t.id::text
     union all
     select 'organization', t.transaction_type, t.credits_delta, t.reference_type, i.id, false, t.metadata ->> 'idempotency_key', t.wallet_id,
            e.payload -> 'metadata' ->> 'cause', e.position
     from org_wallet_transactions t
     left join invoices i on i.id = t.invoice_id and i.org_wallet_id = t.wallet_id
     join payments.events e on e.payload -> 'metadata' -> 'legacy' ->> 'id' = t.id::text
     order by position`,
  );
  const seen = new Set<string>();
  expect(rows.map(({ cause }) => cause)).toEqual(rows.map((logged) => causeOf(logged, seen)));
}

interface LoggedRow {
  readonly kind: OwnerKind;
  readonly type: string;
  readonly delta: number;
  readonly referenceType: string | null;
  readonly invoice: string | null;
  /** More than its invoice says. */
  readonly claimsMore: boolean;
  readonly key: string | null;
  readonly wallet: string;
  readonly cause: string | null;
}

function causeOf(logged: LoggedRow, seen: Set<string>): string | null {
  const isFirst = (what: string) => !seen.has(what) && Boolean(seen.add(what));
  const { kind, type, delta, invoice } = logged;
  if (delta === 0) return 'zero_row';
  if ((type === 'purchase' && delta < 0) || (['refund', 'spend'].includes(type) && delta > 0)) return 'wrong_sign';
  if (type === 'purchase' && (invoice === null || logged.claimsMore)) return 'unreferenced_credit';
  if (type === 'refund' && invoice === null) return 'orphan';
  if (kind === 'user' && type === 'adjustment' && delta > 0 && logged.referenceType !== 'system')
    return 'unreferenced_credit';
  if (type === 'purchase') return isFirst(`purchase ${invoice}`) ? null : 'duplicate_credit';
  if (type === 'refund') return isFirst(`refund ${invoice}`) ? null : 'cumulative_refund';
  if (type === 'spend' && logged.key !== null)
    return isFirst(`${logged.wallet} ${logged.key}`) ? null : 'duplicate_spend';
  return null;
}
