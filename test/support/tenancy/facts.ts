/**
 * Whose rows are whose, as the catalogue of the legacy database says it, written down a second time and in another way than the mapping:
 * tests hold the one against the other. Expressions on a row `t` of the table by its old name, asked by the superuser.
 */
export interface Facts {
  /** The organization that a row belongs to. */
  readonly organization?: string;
  /** The users that a row belongs to. */
  readonly users?: readonly string[];
  /** The sponsor that a row belongs to. */
  readonly sponsor?: string;
  /** When it may be seen by others, with `ME` for who asks, and `MINE` for his organizations. */
  readonly open?: string;
}

const eventOf = (event: string) =>
  `(select e.owner_context_id from events e where e.id = ${event} and e.owner_context_type = 'organization')`;
const hostOf = (event: string) =>
  `(select e.created_by from events e where e.id = ${event} and e.owner_context_type = 'individual')`;
const LIVE = `t1.status in ('issued', 'transferred', 'redeemed')`;
const ticketTo = (event: string, live = false) =>
  `exists (select from tickets t1 where t1.event_id = ${event} and t1.owner_user_id = ME${live ? ` and ${LIVE}` : ''})`;
const isPublic = (event: string) => `exists (select from events e where e.id = ${event} and e.visibility = 'public')`;
const seesEvent = (event: string) => `(${isPublic(event)} or ${ticketTo(event)})`;
const through = (table: string, column: string, reference: string) =>
  `(select x.${column} from ${table} x where x.id = ${reference})`;

const ofEvent = (event = 't.event_id'): Facts => ({ organization: eventOf(event), users: [hostOf(event)] });
const postEvent = (post = 't.post_id') => through('event_posts', 'event_id', post);
const seesPost = (post: string) =>
  `(${isPublic(postEvent(post))} or ${ticketTo(postEvent(post), true)} or ${hostOf(postEvent(post))} = ME)`;

const ofUser = (...columns: string[]): Facts => ({ users: columns.map((column) => `t.${column}`) });
const and = (facts: Facts, more: Facts): Facts => ({
  ...facts,
  ...more,
  users: [...(facts.users ?? []), ...(more.users ?? [])],
});
const SPONSOR: Facts = { sponsor: 't.sponsor_id' };
const ofOrganization = (organization: string): Facts => ({ organization });
const ofCampaign = ofOrganization(through('campaigns', 'org_id', 't.campaign_id'));
const ofWallets: Facts = {
  organization: through('org_wallets', 'org_id', 't.org_wallet_id'),
  users: [through('wallets', 'user_id', 't.wallet_id')],
};
const ANYBODY: Facts = { open: 'true' };
const NOBODY: Facts = {};
const seen = ofUser('user_id');
const isInConversation = (conversation: string) =>
  `exists (
    select from conversation_participants c where c.conversation_id = ${conversation}
      and case c.participant_type when 'user' then c.participant_user_id = ME else c.participant_org_id = any (MINE) end)`;
const threadEvent = through('proposal_threads', 'event_id', 't.thread_id');
const deliverableEvent = through('deliverables', 'event_id', 't.deliverable_id');
const orderEvent = through('orders', 'event_id', 't.order_id');
const tierEvent = through('ticket_tiers', 'event_id', 't.tier_id');
const jobEvent = through('message_jobs', 'event_id', 't.job_id');
const commentPost = through('event_comments', 'post_id', 't.comment_id');

/** Of partitions, what is said of their table. */
export const FACTS: Readonly<Record<string, Facts>> = {
  ad_clicks: ofCampaign,
  ad_creatives: ofCampaign,
  ad_impressions: ofCampaign,
  ad_spend_ledger: ofWallets,
  analytics_events: and(ofEvent(), seen),
  audience_consents: ofEvent(),
  campaign_placements: ofCampaign,
  campaign_targeting: ofCampaign,
  campaigns: ofOrganization('t.org_id'),
  checkout_sessions: and(ofEvent(), seen),
  circuit_breaker_state: NOBODY,
  conversation_participants: {
    open: `(${isInConversation('t.conversation_id')} or ${through('direct_conversations', 'created_by', 't.conversation_id')} = ME)`,
  },
  credit_lots: ofWallets,
  credit_packages: ANYBODY,
  cultural_guides: { ...ofEvent(), open: seesEvent('t.event_id') },
  dead_letter_webhooks: NOBODY,
  deliverable_proofs: and(ofEvent(deliverableEvent), {
    ...ofUser('submitted_by'),
    sponsor: through('deliverables', 'sponsor_id', 't.deliverable_id'),
  }),
  deliverables: and(ofEvent(), SPONSOR),
  direct_conversations: { users: ['t.created_by'], open: isInConversation('t.id') },
  direct_messages: { open: isInConversation('t.conversation_id') },
  event_audience_insights: { ...ofEvent(), open: seesEvent('t.event_id') },
  event_comment_reactions: and(ofEvent(postEvent(commentPost)), { ...seen, open: seesPost(commentPost) }),
  event_comments: and(ofEvent(postEvent()), { ...ofUser('author_user_id'), open: seesPost('t.post_id') }),
  event_impressions: and(ofEvent(), seen),
  event_impressions_p: and(ofEvent(), seen),
  event_invites: and(ofEvent(), seen),
  event_posts: and(ofEvent(), { ...ofUser('author_user_id'), open: seesEvent('t.event_id') }),
  event_reactions: and(ofEvent(postEvent()), { ...seen, open: seesPost('t.post_id') }),
  event_roles: and(ofEvent(), seen),
  event_scanners: and(ofEvent(), seen),
  event_series: ofOrganization('t.organization_id'),
  event_share_assets: { ...ofEvent(), open: seesEvent('t.event_id') },
  event_sponsorships: and(ofEvent(), SPONSOR),
  event_stat_snapshots: { ...ofEvent(), open: seesEvent('t.event_id') },
  event_video_counters: { ...ofEvent(), open: seesEvent('t.event_id') },
  events: { ...ofEvent('t.id'), open: seesEvent('t.id') },
  fit_recalc_queue: and(ofEvent(), SPONSOR),
  follows: {
    organization: `case when t.follower_type = 'organization' then t.follower_org_id end`,
    users: [`case when t.follower_type = 'user' then t.follower_user_id end`],
  },
  guest_codes: ofEvent(),
  guest_otp_codes: NOBODY,
  guest_ticket_sessions: NOBODY,
  hashtags: ANYBODY,
  idempotency_keys: seen,
  inventory_operations: and(ofEvent(tierEvent), seen),
  invoices: ofWallets,
  kv_store_d42c04e8: NOBODY,
  match_features: and(ofEvent(), SPONSOR),
  match_feedback: and(ofEvent(), { ...SPONSOR, ...seen }),
  media_assets: {
    users: ['t.owner_user_id'],
    open: `exists (select from post_media m where m.media_id = t.id and (${seesPost('m.post_id')} or ${eventOf(postEvent('m.post_id'))} = any (MINE)))`,
  },
  message_job_recipients: and(ofEvent(jobEvent), seen),
  message_jobs: ofEvent(),
  message_templates: ofOrganization('t.org_id'),
  mv_refresh_log: NOBODY,
  negative_feedback: seen,
  notifications: seen,
  order_items: and(ofEvent(orderEvent), { users: [through('orders', 'user_id', 't.order_id')] }),
  orders: and(ofEvent(), seen),
  org_contact_import_entries: ofOrganization(through('org_contact_imports', 'org_id', 't.import_id')),
  org_contact_imports: ofOrganization('t.org_id'),
  org_invitations: and(ofOrganization('t.org_id'), ofUser('accepted_user_id')),
  org_memberships: and(ofOrganization('t.org_id'), seen),
  org_wallet_transactions: ofOrganization(through('org_wallets', 'org_id', 't.wallet_id')),
  org_wallets: ofOrganization('t.org_id'),
  // What an organization is called, and looks like, is there for everybody.
  organizations: ANYBODY,
  package_templates: ofOrganization('t.org_id'),
  package_variants: ofEvent(through('sponsorship_packages', 'event_id', 't.package_id')),
  payout_accounts: {
    organization: `case when t.context_type = 'organization' then t.context_id end`,
    users: [`case when t.context_type = 'individual' then t.context_id end`],
  },
  payout_configurations: ofOrganization('t.organization_id'),
  payout_queue: ofEvent(through('sponsorship_orders', 'event_id', 't.order_id')),
  pgbench_tiers: NOBODY,
  post_clicks: and(ofEvent(), seen),
  post_hashtags: and(ofEvent(postEvent()), {
    users: [through('event_posts', 'author_user_id', 't.post_id')],
    open: seesPost('t.post_id'),
  }),
  post_impressions: and(ofEvent(postEvent()), seen),
  post_media: and(ofEvent(postEvent()), {
    users: [through('event_posts', 'author_user_id', 't.post_id')],
    open: seesPost('t.post_id'),
  }),
  post_mentions: and(ofEvent(postEvent()), {
    users: [through('event_posts', 'author_user_id', 't.post_id'), 't.mentioned_user_id'],
    open: seesPost('t.post_id'),
  }),
  post_video_counters: { ...ofEvent(postEvent()), open: seesPost('t.post_id') },
  post_views: and(ofEvent(), seen),
  promos: ANYBODY,
  proposal_messages: and(ofEvent(threadEvent), {
    ...ofUser('sender_user_id'),
    sponsor: through('proposal_threads', 'sponsor_id', 't.thread_id'),
  }),
  proposal_threads: and(ofEvent(), SPONSOR),
  rate_limits: seen,
  refunds: and(ofEvent(orderEvent), { users: [through('orders', 'user_id', 't.order_id')] }),
  reports: ofUser('reported_by'),
  request_logs: NOBODY,
  role_invites: and(ofEvent(), ofUser('accepted_user_id')),
  scan_logs: and(ofEvent(), {
    ...ofUser('scanner_user_id'),
    open: 'exists (select from event_scanners s where s.event_id = t.event_id and s.user_id = ME)',
  }),
  // Made to be passed on.
  share_links: ANYBODY,
  sponsor_members: and(SPONSOR, { users: ['t.user_id', through('sponsors', 'created_by', 't.sponsor_id')] }),
  sponsor_profiles: { ...SPONSOR, open: `t.public_visibility <> 'hidden'` },
  sponsor_public_profiles: ANYBODY,
  sponsors: { sponsor: 't.id', users: ['t.created_by'] },
  sponsorship_matches: and(ofEvent(), SPONSOR),
  sponsorship_orders: and(ofEvent(), SPONSOR),
  sponsorship_packages: { ...ofEvent(), open: `t.visibility = 'public'` },
  sponsorship_payouts: ofOrganization('t.organizer_id'),
  sponsorship_slas: and(ofEvent(), SPONSOR),
  ticket_analytics: and(ofEvent(), seen),
  ticket_analytics_p: and(ofEvent(), seen),
  ticket_holds: and(ofEvent(tierEvent), seen),
  ticket_tiers: { ...ofEvent(), open: seesEvent('t.event_id') },
  tickets: and(ofEvent(), ofUser('owner_user_id')),
  user_embeddings: seen,
  user_event_interactions: and(ofEvent(), seen),
  // Whoever takes part shows who he is.
  user_profiles: ANYBODY,
  wallet_transactions: { users: [through('wallets', 'user_id', 't.wallet_id')] },
  wallets: seen,
};

/** Of a table, or of the table that it is a partition of. */
export const factsOf = (table: string): Facts => FACTS[table.replace(/_(?:\d{6}|default)$/u, '')] ?? NOBODY;
