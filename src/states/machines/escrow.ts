import { defineMachine } from '../machine.ts';

/** What a sponsor pays for, from the payment to the organiser's share. Edges: mission, S1. */
export const escrow = defineMachine({
  name: 'escrow',
  about: 'The money of a sponsorship order, from the sponsor to the organiser.',
  table: 'public.sponsorship_orders',
  states: {
    pending: 'nothing is paid yet',
    funded: 'the sponsor has paid, and may still have it back',
    locked: 'the organiser has accepted, and delivers',
    released: 'the organiser has it',
    disputed: 'sponsor and organiser do not agree, and nobody gets anything',
    refunded: 'the sponsor has it back, or never paid',
  },
  initial: ['pending'],
  events: {
    pay: 'the processor has the sponsor’s payment',
    cancel: 'the order was given up before it was paid',
    lock: 'the organiser accepted the order',
    refund: 'the sponsor gets the payment back',
    release: 'the organiser gets the share',
    dispute: 'one of the two does not agree',
  },
  roles: {
    sponsor: 'states.is_sponsor(row.sponsor_id, caller)',
    organiser: 'states.is_organiser(row.event_id, caller)',
  },
  guards: [
    { name: 'has_an_amount', says: 'its amount_cents is above 0', column: 'amount_cents', is: '>', than: 0 },
    {
      name: 'has_a_fee',
      says: 'its application_fee_cents is 0 or more',
      column: 'application_fee_cents',
      is: '>=',
      than: 0,
    },
    {
      name: 'fee_within_amount',
      says: 'its application_fee_cents is no more than its amount_cents',
      column: 'application_fee_cents',
      is: '<=',
      than: { column: 'amount_cents' },
    },
  ],
  // Only the processor, through the platform, knows of payments; only an administrator, through the platform, ends a dispute. And nobody but the
  // platform lets the organiser have the money: the old platform lets everybody make himself a member of a sponsor.
  edges: [
    { from: 'pending', event: 'pay', to: 'funded', guards: ['has_an_amount', 'has_a_fee', 'fee_within_amount'] },
    { from: 'pending', event: 'cancel', to: 'refunded', by: ['sponsor', 'organiser'] },
    { from: 'funded', event: 'lock', to: 'locked', by: ['organiser'] },
    { from: 'funded', event: 'refund', to: 'refunded', by: ['organiser'] },
    { from: 'locked', event: 'release', to: 'released', guards: ['has_a_fee', 'fee_within_amount'] },
    { from: 'locked', event: 'dispute', to: 'disputed', by: ['sponsor', 'organiser'] },
    { from: 'disputed', event: 'release', to: 'released', guards: ['has_a_fee', 'fee_within_amount'] },
    { from: 'disputed', event: 'refund', to: 'refunded' },
  ],
  why: 'The edges are the plan’s. An order that was never paid ends as refunded, because the plan has no other end for it; nothing is booked. A sponsor disputes and does not release: the old platform lets every signed-in user make himself a member of any sponsor, so that whoever is asked to release asks the platform, which knows better who is who.',
  organization: { column: 'event_id', ofEvent: true },
  old: {
    column: 'escrow_state',
    labels: {
      pending: ['pending'],
      funded: ['funded'],
      locked: ['locked', 'disputed'],
      released: ['released'],
      refunded: ['refunded'],
    },
    withoutLabel: `case row.status::text
    when 'completed' then 'released'
    when 'refunded' then 'refunded'
    when 'cancelled' then 'refunded'
    when 'live' then case when row.stripe_payment_intent_id is null then 'pending' else 'locked' end
    when 'accepted' then case when row.stripe_payment_intent_id is null then 'pending' else 'funded' end
    else 'pending'
  end`,
    colliding: ['sponsorship_orders_state_consistency'],
    why: 'Old code knows no dispute, and sees an order that is locked. Most old orders have no escrow_state: their status says how far they came, and only what has a payment intent was paid. The check that ties escrow_state to status refuses most edges, because old code moves the two one by one; status stays old code’s own.',
  },
  money: {
    accounts: {
      clearing: { type: 'receivable', name: "'clearing'", currency: 'upper(row.currency)' },
      escrow: {
        type: 'escrow',
        name: "'sponsorship_order:' || row.id",
        currency: 'upper(row.currency)',
        owner: "jsonb_build_object('organization_id', row.sponsor_id)",
        neverBelowZero: true,
      },
      organiser: {
        type: 'payable',
        name: "'sponsorships'",
        currency: 'upper(row.currency)',
        owner: 'states.owner_of_event(row.event_id)',
      },
      fees: { type: 'revenue', name: "'sponsorship_fees'", currency: 'upper(row.currency)' },
    },
    bookings: {
      pay: {
        reference: 'sponsorship_order',
        lines: [
          { side: 'debit', account: 'clearing', cents: 'row.amount_cents' },
          { side: 'credit', account: 'escrow', cents: 'row.amount_cents' },
        ],
      },
      release: {
        reference: 'payout',
        lines: [
          { side: 'debit', account: 'escrow', cents: 'row.amount_cents' },
          { side: 'credit', account: 'organiser', cents: 'row.amount_cents - row.application_fee_cents' },
          { side: 'credit', account: 'fees', cents: 'row.application_fee_cents' },
        ],
      },
      refund: { reference: 'refund', reverses: 'pay' },
    },
    kept: {
      account: 'escrow',
      cents: 'row.amount_cents',
      inStates: ['funded', 'locked', 'disputed'],
      frozenIn: ['disputed'],
      filledBy: 'pay',
      fixed: ['amount_cents', 'application_fee_cents', 'currency', 'sponsor_id', 'event_id'],
    },
  },
});
