import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import type { Pool } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { type NewTransaction, openAccounts, postAll } from '../ledger/ledger.ts';

const ORGANISER = '00000000-0000-4000-8000-00000000d001';
const SPONSOR = '00000000-0000-4000-8000-00000000d002';
const CURRENCY = 'USD';
const ORDERS_A_CALL = 50;
/** Every so many ticket orders, a sponsor pays into escrow. */
const SPONSORSHIP_EVERY = 10;

/** Posts new business as the platform would: ticket orders and sponsorships, each announced in its own transaction. */
export async function sellTickets(pool: Pool, options: { orders: number; seed: number }): Promise<void> {
  const [clearing, organiser, fees, escrow] = await openAccounts(pool, [
    { type: 'receivable', currency: CURRENCY, name: 'clearing' },
    { type: 'payable', currency: CURRENCY, name: 'ticket_sales', organizationId: ORGANISER },
    { type: 'revenue', currency: CURRENCY, name: 'ticket_fees' },
    { type: 'escrow', currency: CURRENCY, name: 'sponsorships', organizationId: SPONSOR },
  ]);
  if (clearing === undefined || organiser === undefined || fees === undefined || escrow === undefined) {
    throw new AppError('INTERNAL', 'The database opened fewer accounts than were asked for.');
  }
  const random = xoroshiro128plus(options.seed);
  const orders = Array.from({ length: options.orders }, (_, index): NewTransaction => {
    const subtotalCents = BigInt(uniformInt(random, 1_000, 20_000));
    const feeCents = BigInt(uniformInt(random, 100, 900));
    return index % SPONSORSHIP_EVERY === 0
      ? {
          idempotencyKey: `demo-sponsorship-${index}`,
          referenceType: 'sponsorship_order',
          referenceId: `demo-${index}`,
          announce: 'sponsorship.funded',
          entries: [
            { accountId: clearing, amountCents: subtotalCents, currency: CURRENCY },
            { accountId: escrow, amountCents: -subtotalCents, currency: CURRENCY },
          ],
        }
      : {
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
