import { randomUUID } from 'node:crypto';
import type { Pool } from '../../src/db/pool.ts';
import { type NewAccount, type NewTransaction, openAccounts, postAll } from '../../src/ledger/ledger.ts';

const USER = '00000000-0000-4000-8000-0000000000a1';
const ORGANIZATION = '00000000-0000-4000-8000-0000000000b2';

/** What breaks a file that is written carelessly. */
export const ODD_TEXTS = [
  'says "quoted", it\'s 100% \\ and \\n',
  'two\nlines\r\nand a\ttab',
  'a ; comment? ; no',
  'payee | note | 5 | 6',
  '(code) and * and !',
  '* ! (x) = @ {} # ^link #tag',
  'date: 2026-13-45, date2:nope [2026-13-45=2026-99-99] [=1/1]',
  '=HYPERLINK("http://example.com";"x")',
  '@SUM(1)',
  '+1',
  '-1',
  "'already quoted",
  'naïve Ørsted Привет 日本語 🎟️👩‍👩‍👧',
  '\u202Eright to left\u2028 and \u0085 and \u00a0',
  'bell \u0007 escape \u001b delete \u007f',
  '  spaces around  ',
  ' ',
  '',
  '%2C %25 %zz',
  '2026-01-01 open Assets:Fake USD',
  'x'.repeat(5_000),
];

const NAMES = [
  'clearing',
  'a',
  'q',
  'qq',
  'q2dq',
  'x_y-z',
  'x-y_z',
  'x__y',
  'x.y',
  'x:y',
  'x::y',
  'x:',
  '0',
  '9:9',
  'n'.repeat(100),
];
const TYPES = [
  'cash',
  'escrow',
  'receivable',
  'payable',
  'revenue',
  'fees',
  'taxes',
  'contra_revenue',
  'adjustments',
  'suspense',
];

/**
 * A book of many shapes: all account types and two that somebody added, four currencies with 0, 2, 3 and 4 decimal
 * places, owners, names, texts, dates, one transaction of 1,000 legs, one in all currencies, amounts near 64 bits, a reversal.
 */
export async function fillDiverseBook(pool: Pool, bookId: number): Promise<void> {
  await pool.query(
    `insert into payments.account_types (type, normal_side, description)
     values ('gift_cards', 'credit', 'added'), ('Prepaid: costs?', 'debit', 'added') on conflict do nothing`,
  );
  const ids = await openAll(pool, bookId);
  const inCurrency = (currency: string) => ids.filter((account) => account.currency === currency);
  const dollars = inCurrency('USD');
  const at = (list: typeof ids, index: number) => list[index % list.length]?.id ?? '';
  const transfer = (index: number, list: typeof ids, amountCents: bigint): NewTransaction['entries'] => [
    { accountId: at(list, index), amountCents, currency: list[0]?.currency ?? '' },
    { accountId: at(list, index * 7 + 3), amountCents: -amountCents, currency: list[0]?.currency ?? '' },
  ];
  const everyCurrency = ['USD', 'JPY', 'BHD', 'CLF'].flatMap((currency) => transfer(5, inCurrency(currency), 12_345n));
  const transactions: NewTransaction[] = [
    ...ODD_TEXTS.map((text, index) => ({
      entries: transfer(index, dollars, BigInt(index + 1)),
      effectiveAt: new Date(Date.UTC(2026, index % 12, 1 + index)),
      description: text,
      referenceType: text.slice(0, 200),
      referenceId: text.slice(0, 200),
      metadata: { [text]: text, nested: { list: [1, text, null] } },
    })),
    ...ODD_TEXTS.map((text, index) => ({
      entries: transfer(index, inCurrency('JPY'), 7n).map((entry) => ({
        ...entry,
        description: text,
        metadata: { text },
      })),
      effectiveAt: new Date(Date.UTC(2025, 11, 31, 23, 59, 59, 999)),
      description: 'the legs say something of their own',
    })),
    { entries: everyCurrency, effectiveAt: new Date('2026-03-01T00:00:00Z'), description: 'an exchange' },
    { entries: transfer(9, inCurrency('BHD'), 1n), effectiveAt: new Date('1900-01-02T00:00:00Z') },
    { entries: transfer(9, inCurrency('CLF'), 1n), effectiveAt: new Date('2199-12-31T12:00:00Z') },
    {
      entries: transfer(1, inCurrency('CLF'), 9_000_000_000_000_000_000n),
      effectiveAt: new Date('2026-02-28T23:59:59Z'),
    },
    {
      entries: Array.from({ length: 500 }, (_, index) => transfer(index, dollars, BigInt(index) + 1n)).flat(),
      effectiveAt: new Date('2026-02-01T00:00:00Z'),
      description: 'a thousand legs',
    },
    // Back-dated: written last, and before most.
    { entries: transfer(2, dollars, 99n), effectiveAt: new Date('2020-06-15T10:00:00Z'), description: 'late' },
  ];
  const original = randomUUID();
  const reversed = [
    { transactionId: original, entries: transfer(4, dollars, 77n), effectiveAt: new Date('2026-04-01T00:00:00Z') },
    { reverses: original, effectiveAt: new Date('2026-04-02T00:00:00Z'), description: 'taken back' },
  ];
  const outcomes = await postAll(pool, [...transactions, ...reversed], { bookId });
  const refused = outcomes.filter(({ status }) => status !== 'posted');
  if (refused.length > 0) throw new Error(`not posted: ${JSON.stringify(refused)}`);
}

async function openAll(pool: Pool, bookId: number): Promise<{ id: string; currency: string }[]> {
  const accounts: NewAccount[] = [
    ...NAMES.flatMap((name) => [
      { type: 'cash', currency: 'USD', name },
      { type: 'cash', currency: 'USD', name, userId: USER },
      { type: 'cash', currency: 'USD', name, organizationId: ORGANIZATION },
      { type: 'revenue', currency: 'JPY', name },
    ]),
    // Named as an owner's would be.
    { type: 'cash', currency: 'USD', name: `a:user_id_${USER.replaceAll('-', '_')}` },
    ...[...TYPES, 'gift_cards', 'Prepaid: costs?'].flatMap((type) =>
      ['USD', 'JPY', 'BHD', 'CLF'].map((currency) => ({ type, currency, name: 'main' })),
    ),
  ];
  const ids = await openAccounts(pool, accounts, { bookId });
  return ids.map((id, index) => ({ id, currency: accounts[index]?.currency ?? '' }));
}
