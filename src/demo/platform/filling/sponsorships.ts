import { MICROS_PER_DAY, type Micros, timestamp } from '../../economy/calendar.ts';
import { eventOf, events, happen, ofParent } from './event-facts.ts';
import { countOf, dealt, each, json, part, type Recipes, type Row } from './recipe.ts';
import {
  nthSponsor,
  type PackageFacts,
  packagesOf,
  type SponsorFacts,
  somePackage,
  someSponsor,
  sponsors,
} from './sponsors.ts';
import { REMARKS } from './words.ts';
import { itemOf, type World } from './world.ts';

interface SponsorshipFacts {
  readonly id: string;
  readonly package: PackageFacts;
  readonly sponsor: SponsorFacts;
  readonly at: Micros;
  readonly status: string;
  readonly escrowState: string | null;
}

/** What the check lets stand beside each other, the common ones more often; most orders have no escrow state at all (hazard 17). */
const STATES = [
  ['pending', null],
  ['pending', 'pending'],
  ['pending', 'funded'],
  ['pending', 'locked'],
  ['accepted', null],
  ['accepted', null],
  ['live', null],
  ['live', null],
  ['completed', null],
  ['completed', 'locked'],
  ['completed', 'released'],
  ['completed', 'released'],
  ['refunded', null],
  ['cancelled', null],
  ['cancelled', 'refunded'],
  ['cancelled', 'released'],
  ['cancelled', 'pending'],
] as const;
const MOST_DELIVERABLES = 2;
const FEE_PERCENT = 5;

const orders = countOf('sponsorship_orders');

function sponsorshipOf(world: World, index: number): SponsorshipFacts {
  return world.recall('sponsorship_orders', index, (random, id) => {
    const bought = somePackage(random, world);
    const [status, escrowState] = itemOf(STATES, index < STATES.length ? index : random.below(STATES.length));
    const { createdAt, quietFrom } = bought.event;
    const at =
      createdAt + MICROS_PER_DAY + Math.floor(random.fraction() * Math.max(0, quietFrom - createdAt - MICROS_PER_DAY));
    return { id, package: bought, sponsor: someSponsor({ world, random }), at, status, escrowState };
  });
}

const ofOrder = (row: Row): SponsorshipFacts => {
  const order = sponsorshipOf(row.world, row.parent);
  row.at = order.at;
  return order;
};

const deliverable = (order: number, nth: number) => order * MOST_DELIVERABLES + nth;
const deliverablesOf = (_: World, order: number) => 1 + (order % MOST_DELIVERABLES);
const isPaidOut = (order: SponsorshipFacts) => order.status === 'completed' && order.escrowState !== 'locked';
const feeOf = (cents: number) => Math.floor((cents * FEE_PERCENT) / 100);

const asMany = (most: number) => (world: World) => Math.min(most, sponsors(world));
const METRICS = ['impressions', 'clicks', 'leads', 'mentions'] as const;

const threads = countOf('proposal_threads');
const MOST_MESSAGES = 5;

interface ThreadFacts {
  readonly id: string;
  readonly sponsor: SponsorFacts;
  readonly event: number;
  readonly at: Micros;
}

/** The n-th thread is about the n-th event, counted round: with so few threads, each has its own. */
const threadOf = (world: World, index: number): ThreadFacts =>
  world.recall('proposal_threads', index, (random, id) => {
    const event = index % events(world);
    const round = Math.floor(index / events(world));
    const sponsor = nthSponsor({ world, parent: event, nth: round }, 'proposal_threads');
    const { createdAt, quietFrom } = eventOf(world, event);
    return { id, sponsor, event, at: createdAt + Math.floor(random.fraction() * (quietFrom - createdAt)) };
  });

export const SPONSORSHIPS: Recipes = {
  sponsorship_orders: part(
    500,
    (row) => {
      const order = sponsorshipOf(row.world, row.index);
      row.at = order.at;
      const cents = order.package.priceCents;
      const wasPaid = order.status !== 'pending' || ['funded', 'locked'].includes(order.escrowState ?? '');
      return {
        package_id: order.package.id,
        sponsor_id: order.sponsor.id,
        event_id: order.package.event.id,
        amount_cents: cents,
        application_fee_cents: feeOf(cents),
        status: order.status,
        escrow_state: order.escrowState,
        currency: order.package.event.city.currency,
        stripe_payment_intent_id: wasPaid ? `pi_${row.random.token()}` : null,
        stripe_transfer_id: isPaidOut(order) ? `tr_${row.random.token()}` : null,
        created_by_user_id: order.sponsor.members[0]?.userId ?? null,
        version_number: row.random.between(1, 4),
        review_score: row.random.oneIn(2) ? null : row.random.below(501) / 100,
        payout_status: isPaidOut(order) ? 'completed' : 'pending',
        payout_attempts: isPaidOut(order) ? 1 : 0,
        roi_report_id: null,
        invoice_id: null,
        milestone: '{}',
      };
    },
    24,
  ),
  sponsorship_payouts: each(
    orders,
    (world, parent) => (isPaidOut(sponsorshipOf(world, parent)) ? 1 : 0),
    (row) => {
      const order = ofOrder(row);
      row.at = order.package.event.quietFrom;
      return {
        order_id: order.id,
        organizer_id: order.package.event.ownerId,
        amount_cents: order.package.priceCents,
        application_fee_cents: feeOf(order.package.priceCents),
        status: 'completed',
        failure_reason: null,
        processed_at: timestamp(row.at + MICROS_PER_DAY),
      };
    },
  ),
  payout_queue: part(60, (row) => {
    const order = sponsorshipOf(row.world, row.random.below(orders(row.world)));
    happen(row, order.at, order.package.event.quietFrom);
    return { order_id: order.id, priority: row.random.below(3), attempts: row.random.below(4), max_attempts: 3 };
  }),
  deliverables: each(orders, deliverablesOf, (row) => {
    const order = ofOrder(row);
    return {
      id: row.world.idOf('deliverables', deliverable(row.parent, row.nth)),
      event_id: order.package.event.id,
      sponsor_id: order.sponsor.id,
      order_id: row.random.oneIn(10) ? null : order.id,
      package_id: order.package.id,
      package_variant_id: null,
      type: row.random.pick(['banner', 'social_post', 'stage_mention']),
      spec: json({ count: row.random.between(1, 6) }),
      due_at: timestamp(order.package.event.startAt),
    };
  }),
  deliverable_proofs: each(
    orders,
    (_, parent) => (parent % 3 === 0 ? 0 : 1),
    (row) => {
      const order = ofOrder(row);
      row.at = order.package.event.quietFrom;
      const approved = row.random.oneIn(2);
      return {
        deliverable_id: row.world.idOf('deliverables', deliverable(row.parent, 0)),
        asset_url: `https://media.example.test/${row.random.token()}`,
        metrics: json({ reach: row.random.below(10_000) }),
        submitted_by: itemOf(order.sponsor.members, row.random.below(4)).userId,
        approved_at: approved ? timestamp(row.at + MICROS_PER_DAY) : null,
        rejected_reason: approved || row.random.oneIn(2) ? null : 'The logo is cut off.',
      };
    },
  ),
  sponsorship_slas: dealt(150, events, asMany(4), (row) => ({
    event_id: ofParent(row).id,
    sponsor_id: nthSponsor(row, 'event_sponsorships').id,
    deliverable_id: null,
    metric: itemOf(METRICS, row.nth),
    target: row.random.between(1, 100) * 100,
    breach_policy: json({ refund_percent: 10 }),
  })),
  event_sponsorships: dealt(250, events, asMany(4), (row) => {
    const event = ofParent(row);
    const isOffered = packagesOf(row.world, event.index) > 0;
    return {
      event_id: event.id,
      sponsor_id: nthSponsor(row, 'event_sponsorships').id,
      tier: isOffered ? row.random.pick(['gold', 'silver', 'bronze']) : 'partner',
      amount_cents: row.random.between(5, 200) * 10_000,
      benefits: json({ logo: true }),
      contract_id: null,
      sla_id: null,
    };
  }),
  proposal_threads: part(200, (row) => {
    const { sponsor, event: index, at } = threadOf(row.world, row.index);
    const event = eventOf(row.world, index);
    row.at = at;
    const isFirst = row.index < events(row.world);
    return {
      event_id: event.id,
      sponsor_id: sponsor.id,
      status:
        isFirst && row.random.oneIn(2)
          ? row.random.pick(['draft', 'sent', 'counter'])
          : row.random.pick(['accepted', 'rejected', 'expired']),
      created_by: row.random.oneIn(2) ? itemOf(event.managers, 0) : (sponsor.members[0]?.userId ?? null),
    };
  }),
  proposal_messages: each(
    threads,
    (_, parent) => 1 + (parent % MOST_MESSAGES),
    (row) => {
      const thread = threadOf(row.world, row.parent);
      const event = eventOf(row.world, thread.event);
      const isOfSponsor = row.nth % 2 === 1;
      row.at = thread.at + (row.nth * MICROS_PER_DAY) / 4;
      return {
        thread_id: thread.id,
        sender_type: isOfSponsor ? 'sponsor' : 'organizer',
        sender_user_id: isOfSponsor ? itemOf(thread.sponsor.members, row.nth).userId : itemOf(event.managers, 0),
        body: row.random.pick(REMARKS),
        offer: json({ amount_cents: row.random.between(5, 200) * 10_000 }),
        attachments: null,
      };
    },
  ),
};
