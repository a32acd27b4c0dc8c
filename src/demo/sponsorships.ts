import { randomUUID } from 'node:crypto';
import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { install } from '../states/install.ts';
import type { EventOf } from '../states/machine.ts';
import { escrow } from '../states/machines/escrow.ts';
import { MACHINES } from '../states/machines.ts';
import { transition } from '../states/transition.ts';

/** What became of the sponsorship orders. */
export interface Sponsorships {
  /** Machines on their tables. */
  readonly machines: number;
  /** Orders that were there before the machines were. */
  readonly takenIn: number;
  readonly orders: number;
  /** Changes of state, each announced and booked with what it moved. */
  readonly transitions: number;
}

/** What happens to one order after the other, in turns. */
const FATES: readonly (readonly EventOf<typeof escrow>[])[] = [
  ['pay'],
  ['pay', 'refund'],
  ['pay', 'lock'],
  ['pay', 'lock', 'release'],
  ['pay', 'lock', 'dispute', 'refund'],
  ['pay', 'lock', 'dispute', 'release'],
];

/** Orders as old code left them: most without an escrow state. */
const OLD_ORDERS = [
  { status: 'pending', paid: false, escrowState: null },
  { status: 'accepted', paid: true, escrowState: null },
  { status: 'live', paid: true, escrowState: null },
  { status: 'completed', paid: true, escrowState: 'released' },
  { status: 'cancelled', paid: false, escrowState: null },
] as const;

/** Puts every machine on its table, in which old orders are already, and sends new ones through their lives. */
export async function sponsorEvents(pool: Pool, options: { orders: number }): Promise<Sponsorships> {
  const parties = await foundParties(pool);
  for (const old of OLD_ORDERS) await insertOrder(pool, parties, old);
  for (const machine of MACHINES) await install(pool, machine);
  let transitions = 0;
  for (let nth = 0; nth < options.orders; nth += 1) {
    const id = await insertOrder(pool, parties, { status: 'pending', paid: false, escrowState: null });
    for (const event of FATES[nth % FATES.length] ?? []) {
      await withTransaction(pool, (tx) => transition(tx, escrow, id, event));
      transitions += 1;
    }
  }
  return { machines: MACHINES.length, takenIn: OLD_ORDERS.length, orders: options.orders, transitions };
}

interface Parties {
  readonly eventId: string;
  readonly sponsorId: string;
  readonly packageId: string;
}

/** An event of an organization, and a sponsor who may pay for it. */
async function foundParties(db: Queryable): Promise<Parties> {
  const [eventId, sponsorId, packageId] = [randomUUID(), randomUUID(), randomUUID()];
  await db.query(
    `with organiser as (
       select id, created_by from public.organizations order by id limit 1
     ), event as (
       insert into public.events (id, owner_context_type, owner_context_id, created_by, title, start_at, end_at)
       select $1, 'organization', id, created_by, 'An evening', now() + interval '1 day', now() + interval '2 days' from organiser
       returning id
     ), sponsor as (
       insert into public.sponsors (id, name, created_by) select $2, 'Sponsors', created_by from organiser
     )
     insert into public.sponsorship_packages (id, event_id, tier, price_cents) select $3, id, 'gold', 100000 from event`,
    [eventId, sponsorId, packageId],
  );
  return { eventId, sponsorId, packageId };
}

interface Order {
  readonly status: string;
  readonly paid: boolean;
  readonly escrowState: string | null;
}

async function insertOrder(db: Queryable, parties: Parties, { status, paid, escrowState }: Order): Promise<string> {
  const id = randomUUID();
  await db.query(
    `insert into public.sponsorship_orders
       (id, package_id, sponsor_id, event_id, amount_cents, application_fee_cents, status, escrow_state, stripe_payment_intent_id)
     values ($1, $2, $3, $4, 100000, 10000, $5, $6, $7)`,
    [id, parties.packageId, parties.sponsorId, parties.eventId, status, escrowState, paid ? `pi_${id}` : null],
  );
  return id;
}
