import { defineMachine } from '../machine.ts';

/** A ticket, from its sale to the door. States: mission, S2. */
export const ticket = defineMachine({
  name: 'ticket',
  about: 'A ticket that was sold, until somebody comes in with it or nobody can any more.',
  table: 'public.tickets',
  states: {
    issued: 'whoever has it may come in',
    redeemed: 'somebody came in with it',
    transferred: 'it was given away: another ticket stands for it',
    refunded: 'its price was given back',
    cancelled: 'it is void, and nothing was given back',
  },
  initial: ['issued'],
  events: {
    redeem: 'it was scanned at the door',
    transfer: 'its holder gave it away',
    refund: 'its price goes back to the buyer',
    cancel: 'it was declared void',
  },
  roles: {
    holder: 'row.owner_user_id = caller',
    organiser: 'states.is_organiser(row.event_id, caller)',
    scanner: 'states.is_scanner(row.event_id, caller)',
  },
  guards: [],
  edges: [
    { from: 'issued', event: 'redeem', to: 'redeemed', by: ['scanner', 'organiser'] },
    { from: 'issued', event: 'transfer', to: 'transferred', by: ['holder'] },
    { from: 'issued', event: 'refund', to: 'refunded', by: ['organiser'] },
    { from: 'issued', event: 'cancel', to: 'cancelled', by: ['organiser'] },
  ],
  why: 'Everything comes from issued and is final: who came in cannot sell on what he used, and what was given away, paid back or declared void opens no door.',
  organization: { column: 'event_id', ofEvent: true },
  old: {
    column: 'status',
    labels: {
      issued: ['issued'],
      redeemed: ['redeemed'],
      transferred: ['transferred'],
      refunded: ['refunded'],
      void: ['cancelled'],
    },
    why: 'void is the old word for cancelled.',
  },
  money: {
    accounts: {
      clearing: { type: 'receivable', name: "'clearing'", currency: 'states.currency_of_order(row.order_id)' },
      organiser: {
        type: 'payable',
        name: "'ticket_sales'",
        currency: 'states.currency_of_order(row.order_id)',
        owner: 'states.owner_of_event(row.event_id)',
      },
      fees: { type: 'revenue', name: "'ticket_fees'", currency: 'states.currency_of_order(row.order_id)' },
    },
    // A ticket's share of what its order says was paid; the shares of all tickets of an order are the order, to the cent.
    bookings: {
      refund: {
        reference: 'refund',
        referenceId: 'row.order_id',
        lines: [
          {
            side: 'debit',
            account: 'organiser',
            cents: "states.share_of_order(row.order_id, row.id, row.tier_id, 'subtotal')",
          },
          { side: 'debit', account: 'fees', cents: "states.share_of_order(row.order_id, row.id, row.tier_id, 'fees')" },
          { side: 'credit', account: 'clearing' },
        ],
      },
    },
  },
});
