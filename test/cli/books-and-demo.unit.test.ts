import { expect, it } from 'vitest';
import { trialBalanceLines } from '../../src/cli/books.ts';
import { webhooksArrived } from '../../src/demo/demo.ts';

const webhooks = { messages: 300, deliveries: 570, delivered: 570, received: 571, verified: 571 };
const sponsorships = { machines: 4, takenIn: 0, orders: 10, transitions: 30 };
const everything = { path: '/everything', sent: 300, distinctMessages: 300 };
const tickets = { path: '/tickets', sent: 270, distinctMessages: 270 };

it.each([
  ['every endpoint received what was sent to it, one of them twice', [everything, tickets], true],
  [
    'an endpoint received one message twice and another never',
    [{ ...everything, distinctMessages: 299 }, tickets],
    false,
  ],
  [
    'one endpoint received what the other did not',
    [
      { ...everything, distinctMessages: 299 },
      { ...tickets, distinctMessages: 271 },
    ],
    false,
  ],
  ['the outbox sent to an endpoint that nobody listens at', [everything], false],
])('the demo judges its webhooks by endpoint: %s', (_case, endpoints, arrived) => {
  expect(webhooksArrived({ sponsorships, webhooks, endpoints })).toBe(arrived);
});

it('a trial balance is printed with debit, credit and balance, in the decimal places of its currency', () => {
  const sums = { debitCents: 1_234n, creditCents: 1_000n, balanceCents: 234n };
  const lines = trialBalanceLines({
    currency: 'BHD',
    decimalPlaces: 3,
    lines: [{ type: 'suspense', accounts: 1n, ...sums }],
    suspense: [{ cause: 'orphan', ...sums }],
    ...sums,
  });
  expect(lines.map((line) => line.split(/ {2,}/).map((cell) => cell.trim()))).toEqual([
    ['Trial balance, BHD', 'debit', 'credit', 'balance'],
    ['', 'suspense', '1.234', '1.000', '0.234'],
    ['', 'total', '1.234', '1.000', '0.234'],
    ['Of suspense, by cause'],
    ['', 'orphan', '1.234', '1.000', '0.234'],
  ]);
});
