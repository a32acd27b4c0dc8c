import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import type { Pool } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { type NewTransaction, openAccounts, postAll } from '../ledger/ledger.ts';

const ORGANISER = '00000000-0000-4000-8000-00000000d001';
const CURRENCY = 'USD';
const ORDERS_A_CALL = 50;

/** Posts new business as the platform would: ticket orders, each announced in its own transaction. */
export async function sellTickets(pool: Pool, options: { orders: number; seed: number }): Promise<void> {
  const [clearing, organiser, fees] = await openAccounts(pool, [
    { type: 'receivable', currency: CURRENCY, name: 'clearing' },
    { type: 'payable', currency: CURRENCY, name: 'ticket_sales', organizationId: ORGANISER },
    { type: 'revenue', currency: CURRENCY, name: 'ticket_fees' },
  ]);
  if (clearing === undefined || organiser === undefined || fees === undefined) {
    throw new AppError('INTERNAL', 'The database opened fewer accounts than were asked for.');
  }
  const random = xoroshiro128plus(options.seed);
  const orders = Array.from({ length: options.orders }, (_, index): NewTransaction => {
    const subtotalCents = BigInt(uniformInt(random, 1_000, 20_000));
    const feeCents = BigInt(uniformInt(random, 100, 900));
    return {
      idempotencyKey: `demo-order-${index}`,
      referenceType: 'ticket_order',
      referenceId: `demo-${index}`,
      announce: 'ticket.purchased',
      entries: [
        { accountId: clearing, amountCents: subtotalCents + feeCents, currency: CURRENCY },
        { accountId: organiser, amountCents: -subtotalCents, currency: CURRENCY },
        { accountId: fees, amountCents: -feeCents, currency: CURRENCY },
      ],
    };
  });
  for (let from = 0; from < orders.length; from += ORDERS_A_CALL) {
    await withTransaction(pool, (tx) => postAll(tx, orders.slice(from, from + ORDERS_A_CALL)));
  }
}
