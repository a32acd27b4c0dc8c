import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import type { Act, Turn } from './act.ts';
import { personalActs } from './personal-acts.ts';
import { inTransaction } from './table-acts.ts';

/** Rows that scenarios are about. */
export interface Cast {
  /** With the event of a post beside it: both have counters. */
  readonly posts: readonly { readonly postId: string; readonly eventId: string }[];
  readonly people: readonly string[];
  readonly organizations: readonly string[];
  readonly tiers: readonly string[];
  readonly wallets: readonly string[];
}

const some = <T>(from: readonly T[], turn: Turn): T => {
  const picked = from[turn.pick(from.length)];
  if (picked === undefined) throw new Error('there is nobody to play this part');
  return picked;
};

type Text = (of: (table: string) => string) => string;

/** What the old application does across tables, as far as one statement says it. */
export function scenariosOf(cast: Cast): readonly Act[] {
  const of =
    (turn: Turn) =>
    (table: string): string =>
      turn.isQualified ? `public.${table}` : table;
  const ask = (
    kind: string,
    name: string,
    values: (turn: Turn) => unknown[],
    text: Text,
    writes: string[] = [],
  ): Act => ({
    name: `${kind} ${name}`,
    kind,
    as: 'owner',
    writes,
    run: async (client, turn) => {
      const query = { text: text(of(turn)), values: values(turn) };
      await client.query(turn.isQualified ? { ...query, name: `${kind} ${name}` } : query);
    },
  });
  const event = (turn: Turn) => [some(cast.posts, turn).eventId];
  const person = (turn: Turn) => [some(cast.people, turn)];
  return [
    ask(
      'join',
      'event and host',
      event,
      (t) =>
        `select e.*, p.display_name from ${t('events')} e join ${t('user_profiles')} p on p.user_id = e.created_by where e.id = $1`,
    ),
    ask(
      'join',
      'tickets and tiers',
      event,
      (t) =>
        `select t.*, r.name from ${t('tickets')} t join ${t('ticket_tiers')} r on r.id = t.tier_id where t.event_id = $1 order by t.id limit 20`,
    ),
    ask(
      'join',
      'posts and comments',
      event,
      (t) =>
        `select p.id, count(c.id) from ${t('event_posts')} p left join ${t('event_comments')} c on c.post_id = p.id where p.event_id = $1 group by p.id`,
    ),
    ask(
      'join',
      'organizations of a person',
      person,
      (t) =>
        `select o.*, m.role from ${t('org_memberships')} m join ${t('organizations')} o on o.id = m.org_id where m.user_id = $1`,
    ),
    ask(
      'join',
      'orders and their items',
      event,
      (t) =>
        `select o.id, o.status, i.quantity from ${t('orders')} o join ${t('order_items')} i on i.order_id = o.id where o.event_id = $1 limit 20`,
    ),
    ask(
      'call',
      'get_event_posts',
      (turn) => [event(turn)],
      () => 'select * from get_event_posts($1::uuid[], 3)',
    ),
    ask(
      'call',
      'can_view_event',
      (turn) => [...person(turn), ...event(turn)],
      () => 'select public.can_view_event($1, $2)',
    ),
    ask('call', 'get_user_organizations', person, () => 'select * from get_user_organizations($1)'),
    ask(
      'call',
      'get_available_credits',
      (turn) => [some(cast.wallets, turn)],
      () => 'select get_available_credits(p_wallet_id => $1)',
    ),
    ask(
      'call',
      'get_tier_inventory_status',
      (turn) => [some(cast.tiers, turn)],
      () => 'select public.get_tier_inventory_status($1)',
    ),
    ask(
      'call',
      'calculate_platform_fee',
      (turn) => [some(cast.organizations, turn)],
      () => 'select calculate_platform_fee(1000, $1)',
    ),
    ask(
      'call',
      'reserve_tickets_atomic',
      (turn) => [some(cast.tiers, turn)],
      () => `select reserve_tickets_atomic($1, 1, gen_random_uuid()::text)`,
      ['ticket_tiers', 'ticket_holds', 'inventory_operations'],
    ),
    ask(
      'call',
      'recompute_wallet_balance',
      (turn) => [some(cast.wallets, turn)],
      () => 'select recompute_wallet_balance($1)',
      ['wallets'],
    ),
    ask(
      'insert by JSON',
      'notifications',
      (turn) => [JSON.stringify([{ user_id: some(cast.people, turn), title: 'A', message: 'B', type: 'info' }])],
      (t) =>
        `with source as (
         insert into ${t('notifications')} (user_id, title, message, type)
         select user_id, title, message, type from json_to_recordset($1::json) as _ (user_id uuid, title text, message text, type text) returning *
       ) select coalesce(json_agg(source), '[]') from source`,
      ['notifications'],
    ),
    ...[true, false].map((isForward) => countView(cast, isForward, of)),
    { name: 'sign up', kind: 'sign up', as: 'owner', writes: ['user_profiles'], run: signUp },
    {
      name: 'event with posts, deleted',
      kind: 'cascade',
      as: 'owner',
      writes: ['events', 'event_posts'],
      run: (client, turn) => cascade(client, cast, turn, of(turn)),
    },
    ...personalActs(cast.people, of),
  ];
}

/** The columns that are counted up, of tables that nothing else changes there. */
export const COUNTERS = { post_video_counters: 'completions', event_video_counters: 'clicks_details' } as const;

/** Two counters, in either order, of rows that each order has for itself: none may be lost. */
function countView({ posts }: Cast, isForward: boolean, of: (turn: Turn) => (table: string) => string): Act {
  const own = posts.filter((_, at) => (at % 2 === 0) === isForward);
  return {
    name: `count a view ${isForward ? 'by post, then event' : 'by event, then post'}`,
    kind: 'count',
    as: 'owner',
    writes: Object.keys(COUNTERS),
    run: async (client, turn) => {
      const { postId, eventId } = some(own, turn);
      const updates = [
        {
          text: `update ${of(turn)('post_video_counters')} set completions = coalesce(completions, 0) + 1 where post_id = $1`,
          values: [postId],
        },
        {
          text: `update ${of(turn)('event_video_counters')} set clicks_details = coalesce(clicks_details, 0) + 1 where event_id = $1`,
          values: [eventId],
        },
      ];
      await inTransaction(client, async () => {
        for (const each of isForward ? updates : updates.toReversed()) await client.query(each);
      });
      for (const table of Object.keys(COUNTERS)) turn.written.counted(table);
    },
  };
}

/** A trigger of another schema's table writes the profile. */
async function signUp(client: pg.ClientBase, turn: Turn): Promise<void> {
  const id = randomUUID();
  await client.query('insert into auth.users (id, email) values ($1, $2)', [id, `${id}@example.org`]);
  turn.written.inserted({ table: 'user_profiles', column: 'user_id' }, id);
}

/** The server looks for whoever references what goes. */
async function cascade(client: pg.ClientBase, cast: Cast, turn: Turn, t: (table: string) => string): Promise<void> {
  const { eventId } = some(cast.posts, turn);
  const [event, post] = [randomUUID(), randomUUID()];
  await client.query(
    `insert into ${t('events')} (id, owner_context_type, owner_context_id, created_by, title, start_at, end_at)
     select $1, owner_context_type, owner_context_id, created_by, title, start_at, end_at from ${t('events')} where id = $2`,
    [event, eventId],
  );
  await client.query(
    `insert into ${t('event_posts')} (id, event_id, author_user_id, text) select $1, id, created_by, 'soon' from ${t('events')} where id = $2`,
    [post, event],
  );
  const { rowCount } = await client.query(`delete from ${t('events')} where id = $1`, [event]);
  const { rows } = await client.query(`select from ${t('event_posts')} where id = $1`, [post]);
  if (rowCount !== 1 || rows.length > 0) throw new Error(`the event ${event} did not go with its post`);
}
