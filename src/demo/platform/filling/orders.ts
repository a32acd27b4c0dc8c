import { MICROS_PER_SECOND, type Micros } from '../../economy/calendar.ts';
import type { Random } from '../../economy/random.ts';
import { type EventFacts, someEvent, tierOf } from './event-facts.ts';
import { countOf, type Row } from './recipe.ts';
import { itemOf, type World } from './world.ts';

export interface OrderFacts {
  readonly index: number;
  readonly id: string;
  readonly event: EventFacts;
  readonly buyerId: string;
  readonly at: Micros;
  readonly status: 'pending' | 'paid' | 'refunded' | 'canceled';
  /** One or two tiers, each once. */
  readonly lines: readonly OrderLine[];
  readonly subtotalCents: number;
  readonly feesCents: number;
  /** Hazard 14: what the promotion took off, which the order's total does not know. */
  readonly discountCents: number;
}

interface OrderLine {
  readonly tierId: string;
  readonly quantity: number;
  readonly priceCents: number;
}

const STATUSES = [...Array<'paid'>(16).fill('paid'), 'pending', 'pending', 'refunded', 'canceled'] as const;
export const MOST_OF_A_TIER = 4;
const MOST_TICKETS = 2 * MOST_OF_A_TIER;
const PROMOTED_IN = 12;
/** Tries to find an order that has tickets: most have. */
const MOST_TRIES = 40;

export const orders = countOf('orders');

export function orderOf(world: World, index: number): OrderFacts {
  return world.recall('orders', index, (random, id) => {
    const event = someEvent({ world, random });
    const buyerId = world.busyPerson(random);
    const at = event.createdAt + Math.floor(random.fraction() * (event.quietFrom - event.createdAt));
    // The first is paid in every database, so that somebody has tickets.
    const status = index === 0 ? 'paid' : itemOf(STATUSES, random.below(STATUSES.length));
    const lines = linesOf(world, event, random);
    const subtotalCents = lines.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0);
    const feesCents = Math.round(subtotalCents * 0.06);
    const discountCents = random.oneIn(PROMOTED_IN) ? Math.round(subtotalCents / 10) : 0;
    return { index, id, event, buyerId, at, status, lines, subtotalCents, feesCents, discountCents };
  });
}

function linesOf(world: World, event: EventFacts, random: Random): OrderLine[] {
  const first = random.below(event.tiers);
  const lines = event.tiers > 1 && random.oneIn(5) ? 2 : 1;
  return Array.from({ length: lines }, (_, nth) => {
    const tier = tierOf(world, event, (first + nth) % event.tiers);
    return { tierId: tier.id, quantity: random.between(1, MOST_OF_A_TIER), priceCents: tier.priceCents };
  });
}

export interface TicketFacts {
  readonly id: string;
  readonly order: OrderFacts;
  readonly tierId: string;
  readonly serialNo: number;
  readonly ownerId: string;
  readonly status: 'issued' | 'redeemed' | 'transferred' | 'refunded' | 'void';
  readonly redeemedAt: Micros | null;
}

const LIVES = [
  ...Array<'issued'>(12).fill('issued'),
  ...Array<'redeemed'>(6).fill('redeemed'),
  'transferred',
  'void',
] as const;
/** Of the tickets of refunded orders: they stayed as they were. */
const REFUND_MISSED_IN = 15;

export function ticketsOf(order: OrderFacts): number {
  const hasTickets = order.status === 'paid' || order.status === 'refunded';
  return hasTickets ? order.lines.reduce((sum, { quantity }) => sum + quantity, 0) : 0;
}

export function ticketOf(world: World, order: OrderFacts, nth: number): TicketFacts {
  return world.recall('tickets', order.index * MOST_TICKETS + nth, (random, id) => {
    const [first, second] = order.lines;
    const isOfSecond = first !== undefined && nth >= first.quantity;
    const tierId = (isOfSecond ? second : first)?.tierId ?? '';
    const serialNo = (isOfSecond ? nth - first.quantity : nth) + 1;
    const wasRefunded = order.status === 'refunded' && !random.oneIn(REFUND_MISSED_IN);
    const life = order.event.endAt > order.event.quietFrom ? 'issued' : itemOf(LIVES, random.below(LIVES.length));
    const status = wasRefunded ? 'refunded' : life;
    const ownerId = status === 'transferred' ? world.person(random) : order.buyerId;
    const redeemedAt = status === 'redeemed' ? order.event.startAt + random.below(3_600) * MICROS_PER_SECOND : null;
    return { id, order, tierId, serialNo, ownerId, status, redeemedAt };
  });
}

/** A ticket, those of popular events more often. */
export function someTicket({ world, random }: Pick<Row, 'world' | 'random'>): TicketFacts {
  let index = random.below(orders(world));
  for (let tries = 0; tries < MOST_TRIES; tries += 1) {
    const order = orderOf(world, index);
    const tickets = ticketsOf(order);
    if (tickets > 0) return ticketOf(world, order, random.below(tickets));
    index = (index + 1) % orders(world);
  }
  return ticketOf(world, orderOf(world, 0), 0);
}
