import { MICROS_PER_DAY, MICROS_PER_SECOND, timestamp } from '../../economy/calendar.ts';
import { during, eventOf, happen, someEvent, tierOf } from './event-facts.ts';
import { MOST_OF_A_TIER, type OrderFacts, orderOf, orders, someTicket, ticketOf, ticketsOf } from './orders.ts';
import { each, json, part, type Recipes, type Row } from './recipe.ts';
import { FIRST_NAMES, LAST_NAMES } from './words.ts';
import { itemOf } from './world.ts';

const CODE_ALPHABET = 'ABCDEFGHJKLMNPQRSTUVWXYZ23456789';
const CODE_LENGTH = 8;
const CODES = BigInt(CODE_ALPHABET.length) ** BigInt(CODE_LENGTH);
const CODE_STEP = 668_265_263_333n;

// An odd step meets each of 2^40 codes once: they look drawn and never repeat.
function codeOf(ticket: number): string {
  let rest = (BigInt(ticket + 1) * CODE_STEP) % CODES;
  let code = '';
  for (let at = 0; at < CODE_LENGTH; at += 1) {
    code += CODE_ALPHABET[Number(rest & 31n)];
    rest >>= 5n;
  }
  return code;
}

const orderOfParent = (row: Row): OrderFacts => {
  const order = orderOf(row.world, row.parent);
  row.at = order.at;
  return order;
};

const someOrder = (row: Row): OrderFacts => {
  const order = orderOf(row.world, row.random.below(orders(row.world)));
  row.at = order.at;
  return order;
};

/** A tier of a popular event, some time while it sells. */
const someTier = (row: Row) => {
  const event = someEvent(row);
  during(row, event);
  return { event, tier: tierOf(row.world, event, row.random.below(event.tiers)) };
};

export const TICKETING: Recipes = {
  orders: part(
    2_000,
    (row) => {
      const order = orderOf(row.world, row.index);
      row.at = order.at;
      const wasPaid = order.status === 'paid' || order.status === 'refunded';
      const name = `${row.random.pick(FIRST_NAMES)} ${row.random.pick(LAST_NAMES)}`;
      return {
        user_id: order.buyerId,
        event_id: order.event.id,
        status: order.status,
        subtotal_cents: order.subtotalCents,
        fees_cents: order.feesCents,
        total_cents: order.subtotalCents + order.feesCents,
        currency: order.event.city.currency,
        stripe_session_id: row.random.oneIn(8) ? null : `cs_${row.random.token()}`,
        stripe_payment_intent_id: wasPaid ? `pi_${row.random.token()}` : null,
        payout_destination_owner: row.random.oneIn(10) ? null : order.event.ownerType,
        payout_destination_id: order.event.ownerId,
        paid_at: wasPaid ? timestamp(order.at + 45 * MICROS_PER_SECOND) : null,
        hold_ids: '{}',
        tickets_issued_count: 0,
        checkout_session_id: row.random.oneIn(3) ? null : row.random.token(),
        contact_name: row.random.oneIn(4) ? null : name,
      };
    },
    24,
  ),
  order_items: each(
    orders,
    (world, parent) => orderOf(world, parent).lines.length,
    (row) => {
      const order = orderOfParent(row);
      const line = itemOf(order.lines, row.nth);
      return { order_id: order.id, tier_id: line.tierId, quantity: line.quantity, unit_price_cents: line.priceCents };
    },
  ),
  tickets: each(
    orders,
    (world, parent) => ticketsOf(orderOf(world, parent)),
    (row) => {
      const order = orderOfParent(row);
      const ticket = ticketOf(row.world, order, row.nth);
      return {
        id: ticket.id,
        event_id: order.event.id,
        tier_id: ticket.tierId,
        order_id: order.id,
        owner_user_id: ticket.ownerId,
        status: ticket.status,
        qr_code: codeOf(row.index),
        redeemed_at: ticket.redeemedAt === null ? null : timestamp(ticket.redeemedAt),
        serial_no: ticket.serialNo,
        created_at: timestamp(order.at + 46 * MICROS_PER_SECOND),
      };
    },
  ),
  refunds: each(
    orders,
    (world, parent) => (orderOf(world, parent).status === 'refunded' ? 1 : 0),
    (row) => {
      const order = orderOfParent(row);
      row.at += 2 * MICROS_PER_DAY;
      const cents = order.subtotalCents + order.feesCents - order.discountCents;
      return { order_id: order.id, amount_cents: cents, created_by: itemOf(order.event.managers, row.nth) };
    },
  ),
  checkout_sessions: part(800, (row) => {
    const order = someOrder(row);
    const chargedCents = order.subtotalCents + order.feesCents - order.discountCents;
    const promotion = order.discountCents > 0 ? { promo_code: 'TEN', discount_cents: order.discountCents } : {};
    return {
      order_id: row.random.oneIn(4) ? null : order.id,
      user_id: row.random.oneIn(10) ? null : order.buyerId,
      event_id: order.event.id,
      status: order.status === 'paid' ? 'completed' : row.random.pick(['pending', 'expired']),
      hold_ids: '{}',
      pricing_snapshot: json({
        total_cents: order.subtotalCents + order.feesCents,
        charged_cents: chargedCents,
        ...promotion,
      }),
      expires_at: timestamp(row.at + 900 * MICROS_PER_SECOND),
    };
  }),
  ticket_holds: part(600, (row) => {
    const { tier } = someTier(row);
    const isAnonymous = row.random.oneIn(3);
    return {
      tier_id: tier.id,
      quantity: row.random.between(1, MOST_OF_A_TIER),
      session_id: row.random.token(),
      user_id: isAnonymous ? null : row.world.busyPerson(row.random),
      status: row.random.pick(['active', 'consumed', 'consumed', 'expired', 'expired', 'released']),
      order_id: null,
      expires_at: timestamp(row.at + 900 * MICROS_PER_SECOND),
    };
  }),
  inventory_operations: part(700, (row) => {
    const order = someOrder(row);
    const line = itemOf(order.lines, row.random.below(2));
    return {
      tier_id: line.tierId,
      operation_type: row.random.pick(['reserve', 'purchase', 'purchase', 'release', 'refund']),
      quantity: line.quantity,
      order_id: order.id,
      user_id: order.buyerId,
    };
  }),
  scan_logs: part(1_400, (row) => {
    const ticket = someTicket(row);
    const { event } = ticket.order;
    happen(row, event.quietFrom - MICROS_PER_DAY, event.quietFrom);
    const isKnown = !row.random.oneIn(25);
    return {
      event_id: event.id,
      ticket_id: isKnown ? ticket.id : null,
      scanner_user_id: itemOf(event.managers, row.random.below(event.managers.length)),
      result: isKnown ? row.random.pick(['valid', 'valid', 'duplicate', 'expired']) : 'invalid',
    };
  }),
  pgbench_tiers: part(60, (row) => ({ pos: row.index + 1, id: someTier(row).tier.id })),
  guest_ticket_sessions: part(100, (row) => {
    const { event } = someTier(row);
    return {
      scope: json({ event_ids: [event.id] }),
      method: row.random.pick(['email', 'phone']),
      token_hash: row.random.token(),
    };
  }),
  guest_otp_codes: part(100, (row) => ({
    event_id: someTier(row).event.id,
    method: row.random.pick(['email', 'phone']),
    otp_hash: row.random.token(),
  })),
  message_jobs: part(120, (row) => {
    const event = eventOf(row.world, row.world.popular(row.random, row.world.count('events')));
    during(row, event);
    return {
      event_id: event.id,
      created_by: itemOf(event.managers, row.random.below(event.managers.length)),
      template_id: null,
    };
  }),
  message_job_recipients: part(900, (row) => {
    const jobs = row.world.count('message_jobs');
    row.at = someOrder(row).at;
    return {
      job_id: row.world.idOf('message_jobs', row.world.popular(row.random, jobs)),
      user_id: row.world.busyPerson(row.random),
    };
  }),
};
