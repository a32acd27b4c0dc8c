import { during, type EventFacts, eventOf, someEvent } from './event-facts.ts';
import { someTicket } from './orders.ts';
import { somePost } from './posts.ts';
import { json, part, type Recipes, type Row, rest } from './recipe.ts';

const MOST_DWELL_MS = 90_000;
const ANONYMOUS_IN = 3;

function viewer(row: Row) {
  if (row.random.oneIn(ANONYMOUS_IN)) return { user_id: null, session_id: row.random.token() };
  const sessionId = row.random.oneIn(ANONYMOUS_IN) ? null : row.random.token();
  return { user_id: row.world.busyPerson(row.random), session_id: sessionId };
}

const dwell = (row: Row) => ({ dwell_ms: row.random.below(MOST_DWELL_MS), completed: row.random.oneIn(4) });

const visited = (row: Row): EventFacts => {
  const event = someEvent(row);
  during(row, event);
  return event;
};

const eventImpression = (row: Row) => ({ event_id: visited(row).id, ...viewer(row), ...dwell(row) });

const ticketAnalytics = (row: Row) => {
  const ticket = someTicket(row);
  const { event, at } = ticket.order;
  row.at = at + Math.floor(row.random.fraction() * Math.max(0, event.quietFrom - at));
  return { ticket_id: ticket.id, event_id: event.id, user_id: ticket.ownerId, metadata: '{}' };
};

/** What visitors leave behind: most of the rows. The partitioned tables are copies, begun and never finished, of the plain ones. */
export const TRAFFIC: Recipes = {
  event_impressions: rest(22, eventImpression),
  event_impressions_p: rest(12, eventImpression, 'event_impressions'),
  ticket_analytics: rest(8, ticketAnalytics),
  ticket_analytics_p: rest(5, ticketAnalytics, 'ticket_analytics'),
  post_impressions: rest(15, (row) => ({ post_id: somePost(row).id, ...viewer(row), ...dwell(row) })),
  post_views: rest(8, (row) => {
    const post = somePost(row);
    const watched = row.random.below(101);
    return {
      post_id: post.id,
      event_id: post.event.id,
      ...viewer(row),
      ...dwell(row),
      watch_percentage: watched,
      qualified: watched > 50,
    };
  }),
  analytics_events: rest(8, (row) => {
    const event = visited(row);
    return {
      event_type: row.random.pick(['page_view', 'page_view', 'ticket_click', 'share', 'checkout_start']),
      event_id: row.random.oneIn(12) ? null : event.id,
      ticket_id: null,
      ...viewer(row),
      metadata: json({ v: row.random.below(4) }),
      path: `/events/${event.index}`,
      url: null,
      referrer: null,
      utm_term: null,
      utm_content: null,
    };
  }),
  user_event_interactions: rest(7, (row) => ({
    event_id: visited(row).id,
    user_id: row.world.busyPerson(row.random),
    weight: row.random.between(1, 5),
    metadata: '{}',
  })),
  post_clicks: part(1_200, (row) => {
    const post = somePost(row);
    return {
      post_id: post.id,
      event_id: post.event.id,
      ...viewer(row),
      target: row.random.pick(['event', 'tickets', 'link']),
    };
  }),
};

/** For those whose rows belong to no event in particular: some time while the platform is busy. */
export const someTime = (row: Row): void => {
  during(row, eventOf(row.world, row.random.below(row.world.count('events'))));
};
