import type { People } from './people.ts';

/** Something that the application does for somebody, in statements by the old names; the last gives or writes rows. */
export interface Use {
  readonly who: 'nobody' | 'inA' | 'attendee' | 'host' | 'sponsor';
  readonly what: string;
  readonly statements: readonly string[];
}

/** Rows to do it with, chosen by the superuser. */
export interface Things {
  readonly eventOfA: string;
  readonly postOfA: string;
  readonly publicEvent: string;
  readonly publicPost: string;
  readonly publicTier: string;
  readonly eventOfHost: string;
  readonly postOfHost: string;
  readonly package: string;
  readonly packageEvent: string;
  readonly sponsor: string;
}

export const THINGS = `
  with own as (select e.id from events e where e.owner_context_id = $1 and e.owner_context_type = 'organization')
  select
    (select id from own where exists (select from orders o where o.event_id = own.id) order by id limit 1) as "eventOfA",
    (select p.id from event_posts p join own on own.id = p.event_id where exists (select from event_comments c where c.post_id = p.id)
     order by p.id limit 1) as "postOfA",
    e.id as "publicEvent",
    (select p.id from event_posts p join tickets t on t.event_id = p.event_id and t.owner_user_id = $2 and t.status in ('issued', 'redeemed')
     join events x on x.id = p.event_id and x.visibility = 'public' order by p.id limit 1) as "publicPost",
    (select t.id from ticket_tiers t join events x on x.id = t.event_id and x.visibility = 'public'
     where t.status = 'active' and t.total_quantity - t.reserved_quantity - greatest(t.issued_quantity, t.sold_quantity, 0) > 2
     order by t.id limit 1) as "publicTier",
    (select x.id from events x where x.created_by = $3 and x.owner_context_type = 'individual'
     order by (select count(*) from orders o where o.event_id = x.id) desc, x.id limit 1) as "eventOfHost",
    (select p.id from event_posts p join events x on x.id = p.event_id where x.created_by = $3 and x.owner_context_type = 'individual'
     and exists (select from event_comments c where c.post_id = p.id) order by p.id limit 1) as "postOfHost",
    (select p.id from sponsorship_packages p where p.visibility = 'public' and p.is_active order by p.id limit 1) as package,
    (select p.event_id from sponsorship_packages p where p.visibility = 'public' and p.is_active order by p.id limit 1) as "packageEvent",
    (select m.sponsor_id from sponsor_members m where m.user_id = $4 order by m.role, m.sponsor_id limit 1) as sponsor
  from events e where e.visibility = 'public' order by e.id limit 1`;

/** What organisers, attendees, hosts, sponsors and visitors do; each did it before. */
export function usesOf(people: People, things: Things): readonly Use[] {
  const a = people.organizationA;
  const me = (who: Use['who']) => `'${people[who].userId}'`;
  const use = (who: Use['who'], what: string, ...statements: string[]): Use => ({ who, what, statements });
  return [
    use(
      'inA',
      'renames an event',
      `update public.events set title = 'New' where id = '${things.eventOfA}' returning id`,
    ),
    use(
      'inA',
      'makes an event',
      `insert into public.events (owner_context_type, owner_context_id, created_by, title, start_at, end_at)
       values ('organization', '${a}', ${me('inA')}, 'Tea', now(), now() + interval '1 hour') returning *`,
    ),
    use(
      'inA',
      'makes a series',
      `select * from public.create_event_series('${a}', ${me('inA')}, 'Tea', null, 'weekly', 1, '2031-01-31 18:00Z', '2031-02-28', 2, 'UTC', '{}')`,
    ),
    use('inA', 'sees what was sold', `select * from public.orders where event_id = '${things.eventOfA}'`),
    use(
      'inA',
      'sees whom to let in',
      `select t.*, r.name from public.tickets t join public.ticket_tiers r on r.id = t.tier_id where t.event_id = '${things.eventOfA}'`,
    ),
    use(
      'inA',
      'sells of a new tier',
      `insert into public.ticket_tiers (event_id, name) values ('${things.eventOfA}', 'Late') returning *`,
    ),
    use(
      'inA',
      'says what a tier is called',
      `update public.ticket_tiers set badge_label = 'B' where event_id = '${things.eventOfA}'`,
    ),
    use(
      'inA',
      'deletes a comment',
      `delete from public.event_comments where post_id = '${things.postOfA}' returning id`,
    ),
    use(
      'inA',
      'gives out a code',
      `insert into public.guest_codes (event_id, code, created_by) values ('${things.eventOfA}', 'ABC', ${me('inA')}) returning *`,
    ),
    use(
      'inA',
      'invites to an event',
      `insert into public.event_invites (event_id, email) values ('${things.eventOfA}', 'a@example.test') returning *`,
    ),
    use(
      'inA',
      'lets somebody scan',
      `insert into public.event_scanners (event_id, user_id) values ('${things.eventOfA}', ${me('attendee')})`,
    ),
    use(
      'inA',
      'asks somebody to help',
      `insert into public.role_invites (event_id, role, token, expires_at, invited_by, email)
       values ('${things.eventOfA}', 'scanner', 't', now() + interval '1 day', ${me('inA')}, 'd@example.test') returning *`,
    ),
    use(
      'inA',
      'writes to those who come',
      `insert into public.message_jobs (event_id, channel, created_by) values ('${things.eventOfA}', 'email', ${me('inA')})`,
      `insert into public.message_job_recipients (job_id, user_id) select j.id, ${me('attendee')} from public.message_jobs j where j.created_by = ${me('inA')} limit 1`,
    ),
    use(
      'inA',
      'advertises',
      `insert into public.campaigns (org_id, created_by, name, total_budget_credits, start_date) values ('${a}', ${me('inA')}, 'C', 100, now()) returning *`,
    ),
    use(
      'inA',
      'sees its campaigns at work',
      `select c.*, x.* from public.campaigns c join public.ad_impressions x on x.campaign_id = c.id where c.org_id = '${a}'`,
    ),
    use('inA', 'sees its wallet', `select * from public.org_wallets where org_id = '${a}'`),
    use(
      'inA',
      'offers a package',
      `insert into public.sponsorship_packages (event_id, tier, price_cents) values ('${things.eventOfA}', 'of its own', 100) returning *`,
    ),
    use(
      'inA',
      'invites a member',
      `insert into public.org_invitations (org_id, email, token, expires_at, invited_by)
       values ('${a}', 'b@example.test', 'tok', now() + interval '1 day', ${me('inA')}) returning *`,
    ),
    use(
      'inA',
      'takes a member in',
      `insert into public.org_memberships (org_id, user_id, role) values ('${a}', ${me('attendee')}, 'viewer') returning *`,
    ),
    use('inA', 'says who it is', `update public.organizations set description = 'Tea' where id = '${a}' returning *`),
    use(
      'inA',
      'imports contacts',
      `insert into public.org_contact_imports (org_id, name) values ('${a}', 'list')`,
      `insert into public.org_contact_import_entries (import_id, email) select id, 'c@example.test' from public.org_contact_imports where org_id = '${a}' limit 1 returning *`,
    ),
    use('inA', 'counts what it sold', `select * from public.get_org_analytics('${a}') where total_events > 0`),
    use('inA', 'makes sure of its wallet', `select * from public.ensure_org_wallet_exists('${a}')`),
    use(
      'attendee',
      'sees his tickets',
      `select t.*, e.title from public.tickets t join public.events e on e.id = t.event_id where t.owner_user_id = ${me('attendee')}`,
    ),
    use(
      'attendee',
      'sees his orders and what was in them',
      `select o.*, i.* from public.orders o join public.order_items i on i.order_id = o.id where o.user_id = ${me('attendee')}`,
    ),
    use(
      'attendee',
      'orders',
      `insert into public.orders (user_id, event_id) values (${me('attendee')}, '${things.publicEvent}') returning *`,
    ),
    use(
      'attendee',
      'holds tickets',
      `select * from public.reserve_tickets_atomic('${things.publicTier}', 1, 's', ${me('attendee')}) r where (r ->> 'success')::boolean`,
    ),
    use(
      'attendee',
      'comments',
      `insert into public.event_comments (post_id, author_user_id, text) values ('${things.publicPost}', ${me('attendee')}, 'Yes') returning id, text`,
    ),
    use(
      'attendee',
      'likes',
      `insert into public.event_reactions (post_id, user_id) values ('${things.publicPost}', ${me('attendee')}) on conflict do nothing`,
      `select * from public.event_reactions where post_id = '${things.publicPost}' and user_id = ${me('attendee')}`,
    ),
    use(
      'attendee',
      'follows',
      `insert into public.follows (follower_user_id, target_type, target_id) values (${me('attendee')}, 'user', ${me('host')}) returning id, status`,
    ),
    use(
      'attendee',
      'is told',
      `insert into public.notifications (user_id, title, message, type) values (${me('attendee')}, 'a', 'b', 'info')`,
      `update public.notifications set read_at = now() where user_id = ${me('attendee')}`,
    ),
    use(
      'attendee',
      'says who he is',
      `update public.user_profiles set bio = 'me' where user_id = ${me('attendee')} returning *`,
    ),
    use(
      'attendee',
      'has a wallet',
      `select public.ensure_wallet_exists_for_auth_user()`,
      `select * from public.wallets where user_id = ${me('attendee')}`,
    ),
    use(
      'attendee',
      'starts to talk',
      `insert into public.direct_conversations (id, created_by) values ('00000000-0000-4000-8000-0000000000c1', ${me('attendee')})`,
      `insert into public.conversation_participants (conversation_id, participant_type, participant_user_id, participant_org_id)
         values ('00000000-0000-4000-8000-0000000000c1', 'user', ${me('attendee')}, '${a}')`,
      `insert into public.direct_messages (conversation_id, sender_type, sender_user_id, body) values ('00000000-0000-4000-8000-0000000000c1', 'user', ${me('attendee')}, 'Hello') returning *`,
    ),
    use(
      'attendee',
      'is seen to look',
      `insert into public.event_impressions (event_id, user_id) values ('${things.publicEvent}', ${me('attendee')})`,
      `insert into public.user_event_interactions (user_id, event_id, interaction_type) values (${me('attendee')}, '${things.publicEvent}', 'event_view')`,
    ),
    use(
      'attendee',
      'founds an organization',
      `select public.create_organization_with_membership('Tea', 'tea-house', null, ${me('attendee')})`,
      `select * from public.org_memberships m where m.user_id = ${me('attendee')} and m.role = 'owner'`,
    ),
    use(
      'host',
      'renames his event',
      `update public.events set title = 'Mine' where id = '${things.eventOfHost}' returning *`,
    ),
    use('host', 'sees what he sold', `select * from public.orders where event_id = '${things.eventOfHost}'`),
    use(
      'host',
      'deletes a comment',
      `delete from public.event_comments where post_id = '${things.postOfHost}' returning id`,
    ),
    use(
      'sponsor',
      'sees what he sponsors',
      `select o.*, s.name from public.sponsorship_orders o join public.sponsors s on s.id = o.sponsor_id`,
    ),
    use(
      'sponsor',
      'sponsors',
      `insert into public.sponsorship_orders (package_id, sponsor_id, event_id, amount_cents)
       values ('${things.package}', '${things.sponsor}', '${things.packageEvent}', 100) returning *`,
    ),
    use(
      'sponsor',
      'looks for packages',
      `select c.* from public.v_sponsorship_package_cards c join public.sponsorship_packages p on p.id = c.package_id and p.visibility = 'public'`,
    ),
    use(
      'sponsor',
      'founds a sponsor',
      `insert into public.sponsors (id, name, created_by) values ('00000000-0000-4000-8000-0000000000d1', 'S', ${me('sponsor')})`,
      `insert into public.sponsor_members (sponsor_id, user_id, role) values ('00000000-0000-4000-8000-0000000000d1', ${me('sponsor')}, 'owner') returning *`,
    ),
    use(
      'nobody',
      'sees public events with their posts',
      `select e.title, p.text from public.events e join public.event_posts p on p.event_id = e.id`,
    ),
    use(
      'nobody',
      'sees who holds them',
      `select e.title, u.display_name, o.name from public.events e left join public.user_profiles u on u.user_id = e.created_by left join public.organizations o on o.id = e.owner_context_id`,
    ),
    use('nobody', 'sees what tickets cost', `select * from public.ticket_tiers`),
    use('nobody', 'reads the feed', `select * from public.get_home_feed_v2(null, 20, null, null::uuid)`),
    use('nobody', 'searches', `select * from public.search_all(p_q => '')`),
    use(
      'nobody',
      'is seen to look',
      `insert into public.event_impressions (event_id) values ('${things.publicEvent}')`,
      `insert into public.post_views (event_id, post_id) values ('${things.publicEvent}', '${things.publicPost}')`,
    ),
    use(
      'nobody',
      'reports',
      `insert into public.reports (target_type, target_id) values ('event', '${things.publicEvent}')`,
    ),
    use('nobody', 'sees what credits cost', `select * from public.credit_packages`),
  ];
}

/** What answers otherwise from now on, and has to: docs/tenancy.md says what to use instead. */
export const OTHERWISE: readonly Use[] = [
  { who: 'nobody', what: 'reads invitations by their tokens', statements: ['select * from public.org_invitations'] },
  { who: 'attendee', what: 'reads invitations by their tokens', statements: ['select * from public.org_invitations'] },
  { who: 'nobody', what: 'reads guest codes', statements: ['select * from public.guest_codes'] },
  { who: 'nobody', what: 'reads the key-value store', statements: ['select * from public.kv_store_d42c04e8'] },
  { who: 'nobody', what: 'reads checkouts', statements: ['select * from public.checkout_sessions'] },
  { who: 'nobody', what: 'reads one-time codes', statements: ['select * from public.guest_otp_codes'] },
  { who: 'nobody', what: 'counts who follows whom', statements: ['select * from public.follow_stats'] },
  { who: 'nobody', what: 'reads where organisers are paid', statements: ['select * from public.organizer_connect'] },
  {
    who: 'attendee',
    what: 'reads how sponsors and events match',
    statements: ['select * from public.sponsorship_matches'],
  },
];
