import { defineMachine } from '../machine.ts';

/** An advertising campaign. States: mission, S4. */
export const campaign = defineMachine({
  name: 'campaign',
  about: 'An advertising campaign of an organization, which its wallet pays for.',
  table: 'public.campaigns',
  states: {
    draft: 'it is being written',
    scheduled: 'it starts by itself, at its date',
    active: 'it is shown, and spends',
    paused: 'it is not shown for now',
    completed: 'it has come to its end, or spent its budget',
    cancelled: 'it was called off',
  },
  initial: ['draft', 'scheduled', 'active'],
  events: {
    schedule: 'it got a date',
    unschedule: 'it is written once more',
    activate: 'it starts',
    pause: 'it is stopped for now',
    resume: 'it goes on',
    complete: 'its end or its budget is reached',
    cancel: 'it is called off',
  },
  roles: { advertiser: 'states.is_advertiser(row.org_id, caller)' },
  guards: [
    {
      name: 'has_budget_left',
      says: 'it has spent less than its budget',
      column: 'spent_credits',
      is: '<',
      than: { column: 'total_budget_credits' },
    },
  ],
  edges: [
    { from: 'draft', event: 'schedule', to: 'scheduled', by: ['advertiser'] },
    { from: 'draft', event: 'activate', to: 'active', by: ['advertiser'], guards: ['has_budget_left'] },
    { from: 'draft', event: 'cancel', to: 'cancelled', by: ['advertiser'] },
    { from: 'scheduled', event: 'unschedule', to: 'draft', by: ['advertiser'] },
    { from: 'scheduled', event: 'activate', to: 'active', by: ['advertiser'], guards: ['has_budget_left'] },
    { from: 'scheduled', event: 'cancel', to: 'cancelled', by: ['advertiser'] },
    { from: 'active', event: 'pause', to: 'paused', by: ['advertiser'] },
    { from: 'active', event: 'complete', to: 'completed', by: ['advertiser'] },
    { from: 'active', event: 'cancel', to: 'cancelled', by: ['advertiser'] },
    { from: 'paused', event: 'resume', to: 'active', by: ['advertiser'], guards: ['has_budget_left'] },
    { from: 'paused', event: 'complete', to: 'completed', by: ['advertiser'] },
    { from: 'paused', event: 'cancel', to: 'cancelled', by: ['advertiser'] },
  ],
  why: 'What was never shown cannot be completed, and what was shown goes back to no draft: its figures count. The old form saves a draft, a date, or launches at once, so that it begins as each of the three.',
  organization: { column: 'org_id' },
  old: {
    column: 'status',
    labels: {
      draft: ['draft'],
      scheduled: ['scheduled'],
      active: ['active'],
      paused: ['paused'],
      completed: ['completed'],
      archived: ['cancelled', 'completed'],
    },
    why: 'archived says that it was put away: a completed campaign that old code archives stays completed, and any other is called off by it. What was archived before the machine cannot tell any more, and is cancelled.',
  },
  money: {
    accounts: {
      wallet: {
        type: 'cash',
        name: "'wallet'",
        currency: "'USD'",
        owner: "jsonb_build_object('organization_id', row.org_id)",
      },
      revenue: { type: 'revenue', name: "'ad_campaigns'", currency: "'USD'" },
    },
    // What it spent and nobody booked yet: a credit is a cent.
    bookings: Object.fromEntries(
      (['pause', 'complete', 'cancel'] as const).map((event) => [
        event,
        {
          reference: 'campaign_spend',
          lines: [
            { side: 'debit', account: 'wallet', cents: 'states.unbooked_spend(row.id, row.org_id, row.spent_credits)' },
            { side: 'credit', account: 'revenue' },
          ],
        },
      ]),
    ),
  },
});
