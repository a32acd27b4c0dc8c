import pg from 'pg';
import type { Catalogue, Policy } from './catalogue.ts';
import { type Existing, nameOn } from './existing.ts';

const { escapeIdentifier: name } = pg;

/** What a policy asks of a row; of the one that is there and of the one that comes, where the two differ. */
type Question = string | { readonly using: string; readonly check: string };

/**
 * The statements that make the policies of the catalogue that do not exist, but not those for roles that do not. Each
 * asks what the catalogue says it is decided by, its faults included.
 */
export function policiesSql(catalogue: Catalogue, existing: Existing): string[] {
  return catalogue.policies
    .filter((policy) => !existing.policies.has(nameOn(policy.table, policy.name)))
    .filter((policy) => policy.roles.every((role) => role === 'public' || existing.roles.has(role)))
    .map(policySql);
}

function policySql(policy: Policy): string {
  const { using, check } = clauses(QUESTIONS[policy.table]?.[policy.name]);
  if (using === undefined || check === undefined) {
    throw new Error(`The policy ${policy.name} on ${policy.table} asks nothing.`);
  }
  return [
    `create policy ${name(policy.name)} on public.${name(policy.table)}`,
    `for ${policy.command} to ${policy.roles.join(', ')}`,
    policy.has_using ? `using (${using})` : '',
    policy.has_with_check ? `with check (${check})` : '',
  ].join(' ');
}

const clauses = (question: Question | undefined) =>
  typeof question === 'object' ? question : { using: question, check: question };

const ANYONE = 'true';
const NOBODY = 'false';
const SERVICE = `auth.role() = 'service_role'`;

const isUser = (column: string) => `${column} = auth.uid()`;
const either = (...questions: readonly string[]) => questions.map((question) => `(${question})`).join(' or ');
const both = (...questions: readonly string[]) => questions.map((question) => `(${question})`).join(' and ');

const isManagerOf = (event: string) => `public.is_event_manager(${event})`;
const MANAGER = isManagerOf('event_id');
const mayPostIn = (event: string) => `public.can_current_user_post(${event})`;

const EDITORS = ['owner', 'admin', 'editor'];
const ADMINS = ['owner', 'admin'];
const texts = (values: readonly string[]) => values.map((value) => `'${value}'`).join(', ');

/** Membership of an organization, in any role or in one of the given ones; the table's own policies let it be seen. */
const isMemberOf = (organization: string, roles?: readonly string[]) =>
  `exists (
    select from public.org_memberships m
    where m.org_id = ${organization} and m.user_id = auth.uid()${roles === undefined ? '' : ` and m.role in (${texts(roles)})`}
  )`;

/** The same, asked of the function that sees every membership. */
const hasOrgRole = (organization: string, roles: readonly string[]) =>
  `public.is_org_role(${organization}, array[${texts(roles)}])`;

const isMemberOfSponsor = (table: string) =>
  `exists (
    select from public.sponsor_members m where m.sponsor_id = ${table}.sponsor_id and m.user_id = auth.uid()
  )`;

const ofEvent = (table: string, question: string) =>
  `exists (select from public.events e where e.id = ${table}.event_id and (${question}))`;
const PUBLIC_EVENT = `e.visibility = 'public'`;
const isMemberOfOwner = (roles?: readonly string[]) =>
  both(`e.owner_context_type = 'organization'`, isMemberOf('e.owner_context_id', roles));

const ofPost = (table: string, question: string) =>
  `exists (
    select from public.event_posts p join public.events e on e.id = p.event_id
    where p.id = ${table}.post_id and (${question})
  )`;
const isManagerOfPost = (table: string) =>
  `exists (select from public.event_posts p where p.id = ${table}.post_id and ${isManagerOf('p.event_id')})`;
const MAY_SEE_POST = either(PUBLIC_EVENT, mayPostIn('p.event_id'));

const ofCampaign = (table: string, roles?: readonly string[]) =>
  `exists (
    select from public.campaigns c where c.id = ${table}.campaign_id and ${isMemberOf('c.org_id', roles)}
  )`;

const isManagerOfTier = (table: string) =>
  `exists (
    select from public.ticket_tiers t join public.events e on e.id = t.event_id
    where t.id = ${table}.tier_id and ${isManagerOf('e.id')}
  )`;

const ofImport = (roles: readonly string[]) =>
  `exists (
    select from public.org_contact_imports i
    where i.id = org_contact_import_entries.import_id and ${hasOrgRole('i.org_id', roles)}
  )`;

const isInConversation = (conversation: string) =>
  `exists (
    select from public.conversation_participants p
    where p.conversation_id = ${conversation} and p.participant_user_id = auth.uid()
  )`;

const isOwnJob = `exists (
    select from public.message_jobs j
    where j.id = message_job_recipients.job_id and (j.created_by = auth.uid() or ${isManagerOf('j.event_id')})
  )`;

const MEMBERS = [...EDITORS, 'viewer'];

/** By table, then by policy. */
const QUESTIONS: Readonly<Record<string, Readonly<Record<string, Question>>>> = {
  ad_clicks: {
    ad_clicks_insert_service: 'public.is_service_role()',
    ad_clicks_select: ofCampaign('ad_clicks'),
  },
  ad_creatives: {
    ad_creatives_manage: ofCampaign('ad_creatives', EDITORS),
    ad_creatives_select: ofCampaign('ad_creatives'),
  },
  ad_impressions: {
    ad_impressions_insert_service: 'public.is_service_role()',
    ad_impressions_select: ofCampaign('ad_impressions'),
  },
  analytics_events: {
    allow_analytics_insert: ANYONE,
    allow_analytics_read_own: either(isUser('user_id'), MANAGER, SERVICE),
    allow_analytics_update_system: SERVICE,
  },
  campaign_placements: {
    campaign_placements_manage: ofCampaign('campaign_placements', EDITORS),
    campaign_placements_select: ofCampaign('campaign_placements'),
  },
  campaign_targeting: {
    campaign_targeting_manage: ofCampaign('campaign_targeting', EDITORS),
    campaign_targeting_select: ofCampaign('campaign_targeting'),
  },
  circuit_breaker_state: { cb_all: NOBODY },
  conversation_participants: {
    conversation_participant_insert: isUser('participant_user_id'),
    conversation_participant_view: isUser('participant_user_id'),
  },
  credit_packages: { credit_packages_select_all: 'is_active' },
  cultural_guides: {
    cultural_guides_select_with_event: ofEvent('cultural_guides', either(PUBLIC_EVENT, isManagerOf('e.id'))),
    cultural_guides_write_manager: ofEvent('cultural_guides', isManagerOf('e.id')),
  },
  deliverables: {
    'Event owners and sponsors can view deliverables': either(
      ofEvent('deliverables', either(isUser('e.created_by'), isMemberOfOwner())),
      isMemberOfSponsor('deliverables'),
    ),
  },
  direct_conversations: {
    conversation_insert: isUser('created_by'),
    // Whoever takes part may hand the conversation to anybody.
    conversation_update: { using: isInConversation('direct_conversations.id'), check: ANYONE },
    conversation_view: isInConversation('direct_conversations.id'),
  },
  direct_messages: {
    direct_messages_insert: both(isUser('sender_user_id'), isInConversation('direct_messages.conversation_id')),
    direct_messages_view: isInConversation('direct_messages.conversation_id'),
  },
  event_audience_insights: { 'Users can view event insights': ANYONE },
  event_comment_reactions: {
    comment_reacts_delete_own: isUser('user_id'),
    comment_reacts_insert_own: isUser('user_id'),
    comment_reacts_read_all: ANYONE,
  },
  event_comments: {
    event_comments_delete_author_or_manager: either(
      isUser('author_user_id'),
      isManagerOfPost('event_comments'),
      SERVICE,
    ),
    event_comments_insert_authorized: either(
      both(isUser('author_user_id'), ofPost('event_comments', mayPostIn('e.id'))),
      SERVICE,
    ),
    event_comments_select_public_or_access: either(ofPost('event_comments', MAY_SEE_POST), SERVICE),
    event_comments_update_author_or_manager: either(
      isUser('author_user_id'),
      isManagerOfPost('event_comments'),
      SERVICE,
    ),
  },
  event_impressions: {
    'Allow anonymous impression tracking': 'user_id is null',
    'Users can insert their own event impressions': isUser('user_id'),
    'Users can read their own event impressions': isUser('user_id'),
  },
  event_invites: {
    event_invites_manage_creator: ofEvent('event_invites', isUser('e.created_by')),
    event_invites_manage_individual_owner: ofEvent(
      'event_invites',
      both(`e.owner_context_type = 'individual'`, isUser('e.owner_context_id')),
    ),
    event_invites_manage_org_admin: ofEvent('event_invites', isMemberOfOwner(ADMINS)),
    'invited can read own': isUser('user_id'),
  },
  event_posts: {
    event_posts_delete_author_or_manager: either(isUser('author_user_id'), MANAGER, SERVICE),
    event_posts_insert_authorized: either(both(isUser('author_user_id'), mayPostIn('event_id')), SERVICE),
    event_posts_read_public_events: ofEvent('event_posts', PUBLIC_EVENT),
    event_posts_select_public_or_access: either(ofEvent('event_posts', PUBLIC_EVENT), mayPostIn('event_id'), SERVICE),
    event_posts_update_author_or_manager: either(isUser('author_user_id'), MANAGER, SERVICE),
  },
  event_reactions: {
    event_reactions_delete_self: isUser('user_id'),
    event_reactions_insert_self: isUser('user_id'),
    event_reactions_select_all: ANYONE,
    reactions_delete_self: either(isUser('user_id'), SERVICE),
    reactions_insert_access: either(both(isUser('user_id'), ofPost('event_reactions', MAY_SEE_POST)), SERVICE),
    reactions_read_public_or_access: either(ofPost('event_reactions', MAY_SEE_POST), SERVICE),
  },
  event_roles: {
    modify_event_roles_as_admin: MANAGER,
    select_my_event_roles: either(isUser('user_id'), MANAGER),
  },
  event_series: {
    series_insert_org: isMemberOf('event_series.organization_id', EDITORS),
    series_read_org: isMemberOf('event_series.organization_id'),
    series_update_org: isMemberOf('event_series.organization_id', EDITORS),
  },
  event_share_assets: {
    share_assets_manage_org: { using: ofEvent('event_share_assets', isMemberOfOwner()), check: ANYONE },
    share_assets_read_public: ofEvent('event_share_assets', PUBLIC_EVENT),
  },
  event_sponsorships: { event_sponsorships_read: either(MANAGER, isMemberOfSponsor('event_sponsorships')) },
  event_stat_snapshots: { 'Users can view stat snapshots': ANYONE },
  event_video_counters: { counters_select_manager: MANAGER, counters_update_system: ANYONE },
  follows: {
    follows_delete_policy: isUser('follower_user_id'),
    follows_insert_policy: isUser('follower_user_id'),
    follows_select_policy: isUser('follower_user_id'),
    follows_update_policy: isUser('follower_user_id'),
  },
  guest_codes: { guest_codes_manage_host: MANAGER, guest_codes_validate_public: ANYONE },
  // For anybody, whatever their names say.
  guest_otp_codes: { 'Service role can manage guest OTP codes': ANYONE },
  guest_ticket_sessions: { 'Service role can manage guest sessions': ANYONE },
  idempotency_keys: {
    'Service role can manage idempotency keys': ANYONE,
    'Users can only access own idempotency keys': isUser('user_id'),
  },
  inventory_operations: {
    inventory_operations_admin_read: isManagerOfTier('inventory_operations'),
    inventory_operations_system_write: NOBODY,
  },
  kv_store_d42c04e8: { kv_store_read_all: ANYONE, kv_store_write_all: ANYONE },
  message_job_recipients: {
    insert_recipients_for_my_job: isOwnJob,
    read_recipients_for_my_job: isOwnJob,
    service_update_recipients: ANYONE,
  },
  message_jobs: { crud_jobs_as_admin: MANAGER },
  message_templates: { crud_templates_as_admin: isMemberOf('message_templates.org_id', ADMINS) },
  mv_refresh_log: {
    'Authenticated users can read mv_refresh_log': ANYONE,
    'Public cannot access mv_refresh_log': NOBODY,
    'Service role has full access to mv_refresh_log': ANYONE,
  },
  negative_feedback: { 'Users can delete their own negative feedback': isUser('user_id') },
  notifications: {
    'Users can delete their notifications': isUser('user_id'),
    'Users can insert their notifications': isUser('user_id'),
    'Users can update their notifications': isUser('user_id'),
    'Users can view their notifications': isUser('user_id'),
  },
  org_contact_import_entries: {
    delete_contact_entries_for_editors: ofImport(EDITORS),
    insert_contact_entries_for_editors: ofImport(EDITORS),
    select_contact_entries_for_members: ofImport(MEMBERS),
    update_contact_entries_for_editors: ofImport(EDITORS),
  },
  org_contact_imports: {
    delete_contact_imports_for_editors: hasOrgRole('org_id', EDITORS),
    insert_contact_imports_for_editors: hasOrgRole('org_id', EDITORS),
    select_contact_imports_for_members: hasOrgRole('org_id', MEMBERS),
    update_contact_imports_for_editors: hasOrgRole('org_id', EDITORS),
  },
  org_invitations: {
    // Every invitation, and its token with it.
    anyone_can_read_by_token: ANYONE,
    org_admins_can_create_invitations: isMemberOf('org_invitations.org_id', ADMINS),
    org_admins_can_update_invitations: isMemberOf('org_invitations.org_id', ADMINS),
    org_members_can_view_invitations: isMemberOf('org_invitations.org_id'),
  },
  package_templates: { 'Org members can view their templates': isMemberOf('package_templates.org_id') },
  payout_accounts: {
    payout_accounts_delete_system_only: NOBODY,
    payout_accounts_insert_system_only: NOBODY,
    payout_accounts_select_self: either(
      both(`context_type = 'individual'`, isUser('context_id')),
      both(`context_type = 'organization'`, hasOrgRole('context_id', ADMINS)),
    ),
    payout_accounts_update_system_only: NOBODY,
  },
  payout_configurations: {
    'Organizers can view their payout configs': isMemberOf('payout_configurations.organization_id', ADMINS),
  },
  pgbench_tiers: {
    'Public cannot access pgbench_tiers': NOBODY,
    'Service role has full access to pgbench_tiers': ANYONE,
  },
  post_clicks: { post_clicks_insert_any: ANYONE, post_clicks_select_manager: MANAGER },
  post_impressions: { 'Users can read their own post impressions': isUser('user_id') },
  post_views: { post_views_insert_any: ANYONE, post_views_select_manager: MANAGER },
  promos: {
    promos_select_all: both(`starts_at is null or starts_at <= now()`, `ends_at is null or ends_at >= now()`),
  },
  rate_limits: {
    'Users can access own rate limits or IP entries': either(
      isUser('user_id'),
      'user_id is null and ip_hash is not null',
      SERVICE,
    ),
  },
  refunds: {
    refunds_delete_system_only: NOBODY,
    refunds_select_owner_or_manager: `exists (
      select from public.orders o
      where o.id = refunds.order_id and (o.user_id = auth.uid() or ${isManagerOf('o.event_id')})
    )`,
    refunds_update_system_only: NOBODY,
    refunds_write_system_only: NOBODY,
  },
  reports: {
    reports_deny_read: NOBODY,
    reports_insert_any: either('reported_by is null', isUser('reported_by')),
  },
  request_logs: { req_logs_all: NOBODY },
  role_invites: { modify_invites_as_admin: MANAGER, read_invites_as_admin: MANAGER },
  scan_logs: {
    scan_logs_select_event_team: either(
      MANAGER,
      `exists (
        select from public.event_scanners s where s.event_id = scan_logs.event_id and s.user_id = auth.uid()
      )`,
    ),
  },
  share_links: { share_links_insert_auth: ANYONE, share_links_public_read: ANYONE },
  sponsor_profiles: { 'Users can view sponsor profiles': ANYONE },
  sponsor_public_profiles: { 'Public sponsor profiles are viewable by everyone': ANYONE },
  sponsorship_matches: { 'Users can view sponsorship matches': ANYONE },
  sponsorship_payouts: {
    'Organizers can view their payouts': `exists (
      select from public.organizations o
      where o.id = sponsorship_payouts.organizer_id and ${isMemberOf('o.id')}
    )`,
  },
  ticket_analytics: {
    'Organizers can view event analytics': ofEvent('ticket_analytics', isUser('e.created_by')),
    'Users can insert their own analytics': isUser('user_id'),
    'Users can view their own analytics': isUser('user_id'),
  },
  ticket_holds: {
    ticket_holds_system_write: NOBODY,
    ticket_holds_user_read: either(isUser('user_id'), isManagerOfTier('ticket_holds')),
  },
  user_embeddings: {
    'System can manage embeddings': ANYONE,
    'Users can view their own embeddings': isUser('user_id'),
  },
  user_event_interactions: {
    'Event managers can view interactions for their events': ofEvent('user_event_interactions', isManagerOf('e.id')),
    'Users can insert their own interactions': isUser('user_id'),
    'Users can view their own interactions': isUser('user_id'),
  },
};
