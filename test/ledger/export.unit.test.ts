import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { accountPath, decimalText, openingPath } from '../../src/ledger/export-format.ts';

type Account = Parameters<typeof accountPath>[0];

const account = (fields: Partial<Account>): Account => ({
  type: 'cash',
  normalSide: 'credit',
  currency: 'USD',
  name: 'wallet',
  userId: null,
  organizationId: null,
  ...fields,
});

describe('the name of an account in plain-text accounting', () => {
  it.each<[Partial<Account>, string]>([
    [{}, 'Liabilities:Cash:USD:Wallet'],
    [{ userId: '6f1c-0a' }, 'Liabilities:Cash:USD:Wallet:UserId-6f1c-0a'],
    [{ organizationId: '6f1c-0a' }, 'Liabilities:Cash:USD:Wallet:OrganizationId-6f1c-0a'],
    [{ type: 'revenue', name: 'ticket_sales' }, 'Income:Revenue:USD:Ticket-sales'],
    [{ type: 'contra_revenue', name: '2026:q1' }, 'Income:Contra-revenue:USD:2026:Q71Q1'],
    [{ name: 'stripe-eu.v2' }, 'Liabilities:Cash:USD:StripeQ2dQeuQ2eQv2'],
    [{ name: 'a::b' }, 'Liabilities:Cash:USD:A:QQ:B'],
    [{ name: 'Größe 🎟' }, 'Liabilities:Cash:USD:Q47QrQf6QQdfQeQ20QQ1f39fQ'],
    [{ type: 'loans', normalSide: 'debit' }, 'Assets:Loans:USD:Wallet'],
    [{ type: 'gift: cards', normalSide: 'credit' }, 'Liabilities:GiftQ3aQQ20Qcards:USD:Wallet'],
  ])('%j is %s', (fields, path) => {
    expect(accountPath(account(fields))).toBe(path);
  });

  it('has the root that the type of the chart belongs to', () => {
    const roots = ['escrow', 'receivable', 'payable', 'fees', 'taxes', 'adjustments', 'suspense'].map((type) => [
      type,
      accountPath(account({ type, normalSide: 'debit' })).split(':')[0],
    ]);
    expect(Object.fromEntries(roots)).toEqual({
      escrow: 'Liabilities',
      receivable: 'Assets',
      payable: 'Liabilities',
      fees: 'Expenses',
      taxes: 'Liabilities',
      adjustments: 'Expenses',
      suspense: 'Assets',
    });
  });

  const text = fc.oneof(fc.string({ unit: 'binary' }), fc.stringMatching(/^[qQxXaA0_:\- ]{0,6}$/));
  const anyAccount = fc.record<Account>({
    type: text,
    normalSide: fc.constantFrom('debit', 'credit'),
    currency: fc.constantFrom('USD', 'JPY'),
    name: fc.oneof(text, fc.constantFrom('user_id_1', 'a:user_id_1', 'a:b')),
    userId: fc.constant(null),
    organizationId: fc.constant(null),
  });
  const withOwner = fc.tuple(anyAccount, fc.constantFrom('none', 'user', 'organization')).map(([fields, owner]) => ({
    ...fields,
    userId: owner === 'user' ? '1' : null,
    organizationId: owner === 'organization' ? '1' : null,
  }));

  it('is one that both tools take, whatever ours is', () => {
    const component = /^[A-Z0-9][A-Za-z0-9-]*$/;
    fc.assert(
      fc.property(withOwner, (fields) => {
        const [root, ...rest] = accountPath(fields).split(':');
        expect(['Assets', 'Liabilities', 'Income', 'Expenses']).toContain(root);
        expect(rest.length).toBeGreaterThanOrEqual(3);
        for (const part of rest) expect(part).toMatch(component);
      }),
      { numRuns: 2_000 },
    );
  });

  it('can be read back, so no two accounts have the same', () => {
    fc.assert(
      fc.property(withOwner, (fields) => {
        const { normalSide, ...identity } = fields;
        expect(readBack(accountPath(fields))).toEqual(identity);
      }),
      { numRuns: 5_000 },
    );
  });

  it('is none that opening balances have', () => {
    fc.assert(
      fc.property(withOwner, (fields) => {
        expect(accountPath(fields)).not.toBe(openingPath(fields.currency));
      }),
    );
  });
});

/** What an account was, from its name alone: written from the description of the names, not from the code that makes them. */
function readBack(path: string): Omit<Account, 'normalSide'> {
  const [, type = '', currency = '', ...rest] = path.split(':');
  const owner = /^(UserId|OrganizationId)-(.*)$/.exec(rest.at(-1) ?? '');
  const names = owner === null ? rest : rest.slice(0, -1);
  return {
    type: readComponent(type),
    currency,
    name: names.map(readComponent).join(':'),
    userId: owner?.[1] === 'UserId' ? (owner[2] ?? '') : null,
    organizationId: owner?.[1] === 'OrganizationId' ? (owner[2] ?? '') : null,
  };
}

function readComponent(component: string): string {
  const first = component.startsWith('Q') ? component : component.charAt(0).toLowerCase() + component.slice(1);
  return first.replace(/Q([0-9a-f]*)Q|-/g, (found, code: string) => {
    if (found === '-') return '_';
    return code === '' ? '' : String.fromCodePoint(Number.parseInt(code, 16));
  });
}

describe('an amount', () => {
  it.each([
    [0n, 2, '0.00'],
    [5n, 2, '0.05'],
    [-5n, 2, '-0.05'],
    [-123_456n, 2, '-1234.56'],
    [1_234n, 0, '1234'],
    [-1n, 3, '-0.001'],
    [1n, 4, '0.0001'],
    [9_223_372_036_854_775_807n, 4, '922337203685477.5807'],
    [-9_223_372_036_854_775_807n, 0, '-9223372036854775807'],
  ])('%s with %i decimal places is written %s', (amountCents, places, text) => {
    expect(decimalText(amountCents, places)).toBe(text);
  });
});
