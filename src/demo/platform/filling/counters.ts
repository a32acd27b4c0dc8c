import type { Queryable } from '../../../db/pool.ts';

/** One row in so many has a counter that drifted from what it counts (hazard 16): by the first byte of its id. */
const drifted = (id: string) => `('x' || left(${id}::text, 2))::bit(8)::integer < 7`;

/**
 * The counters that triggers would have kept row by row, here once for all rows. Each sets columns from the rows
 * written, the same on every server.
 */
const STATEMENTS: readonly string[] = [
  `with sold as (
     select tier_id, count(*)::integer as tickets,
       count(*) filter (where status in ('issued', 'redeemed', 'transferred'))::integer as issued
     from public.tickets group by tier_id
   ), held as (
     select tier_id, sum(quantity)::integer as held from public.ticket_holds where status = 'active' group by tier_id
   ), counted as (
     select t.id, coalesce(tickets, 0) + case when ${drifted('t.id')} then 2 else 0 end as sold,
       coalesce(issued, 0) as issued, coalesce(held, 0) as held
     from public.ticket_tiers t left join sold on sold.tier_id = t.id left join held on held.tier_id = t.id
   )
   update public.ticket_tiers t set
     sold_quantity = c.sold, issued_quantity = c.issued, reserved_quantity = c.held,
     total_quantity = room, quantity = room, status = case when room = c.sold + c.held then 'sold_out' else 'active' end
   from counted c cross join lateral (
     select case when right(c.id::text, 1) in ('0', '1') then null
       when right(c.id::text, 1) = '2' then c.sold + c.held
       else (c.sold + c.held) / 50 * 60 + 100 end as room
   ) rooms
   where c.id = t.id`,
  `update public.orders o set tickets_issued_count = t.tickets
   from (select order_id, count(*)::integer as tickets from public.tickets group by order_id) t
   where t.order_id = o.id`,
  `with likes as (
     select post_id, count(*)::integer as likes from public.event_reactions where kind = 'like' group by post_id
   ), comments as (
     select post_id, count(*)::integer as comments from public.event_comments group by post_id
   )
   update public.event_posts p set
     like_count = coalesce(likes, 0) + case when ${drifted('p.id')} then 1 else 0 end,
     comment_count = coalesce(comments, 0), reply_count = coalesce(comments, 0)
   from public.event_posts q left join likes on likes.post_id = q.id left join comments on comments.post_id = q.id
   where q.id = p.id`,
  `update public.sponsorship_packages p set sold = o.orders, inventory = greatest(p.inventory, o.orders)
   from (
     select package_id, count(*)::integer as orders from public.sponsorship_orders
     where status in ('accepted', 'live', 'completed') group by package_id
   ) o
   where o.package_id = p.id`,
  `update public.direct_conversations c set last_message_at = m.last
   from (select conversation_id, max(created_at) as last from public.direct_messages group by conversation_id) m
   where m.conversation_id = c.id`,
  `update public.org_contact_imports i set original_row_count = e.entries
   from (select import_id, count(*)::integer as entries from public.org_contact_import_entries group by import_id) e
   where e.import_id = i.id`,
  `update public.event_video_counters c set
     views_total = i.views, views_unique = i.viewers, completions = i.completions, avg_dwell_ms = i.dwell
   from (
     select event_id, count(*) as views, count(distinct user_id) as viewers, count(*) filter (where completed) as completions,
       floor(avg(dwell_ms)) as dwell
     from public.event_impressions group by event_id
   ) i
   where i.event_id = c.event_id`,
  `update public.post_video_counters c set
     views_total = v.views, views_unique = v.viewers, completions = v.completions, avg_dwell_ms = v.dwell
   from (
     select post_id, count(*) as views, count(distinct user_id) as viewers, count(*) filter (where completed) as completions,
       floor(avg(dwell_ms)) as dwell
     from public.post_views group by post_id
   ) v
   where v.post_id = c.post_id`,
  `select setval('public.fit_recalc_queue_id_seq', max(id)) from public.fit_recalc_queue`,
  `select setval('public.mv_refresh_log_id_seq', max(id)) from public.mv_refresh_log`,
];

export async function settleCounters(
  tx: Queryable,
  afterEach: (made: { done: number; total: number }) => void,
): Promise<void> {
  for (const [index, statement] of STATEMENTS.entries()) {
    await tx.query(statement);
    afterEach({ done: index + 1, total: STATEMENTS.length });
  }
}
