import { MICROS_PER_DAY, type Micros, timestamp } from '../../economy/calendar.ts';
import { type EventFacts, eventOf, happen, someEvent, tierOf } from './event-facts.ts';
import { countOf, dealt, exactly, json, part, people, type Recipes, type Row } from './recipe.ts';
import { someOrganization } from './tenants.ts';
import { CATEGORIES, KINDS_OF_EVENT, MOODS, REMARKS } from './words.ts';
import { itemOf, type World } from './world.ts';

export interface PostFacts {
  readonly id: string;
  readonly event: EventFacts;
  readonly authorId: string;
  readonly at: Micros;
}

const posts = countOf('event_posts');
const DAYS_OF_TALK = 20;
const DELETED_IN = 40;
const HASHTAGS = [...CATEGORIES, ...MOODS, ...KINDS_OF_EVENT].map((word) => word.toLowerCase());

function postOf(world: World, index: number): PostFacts {
  return world.recall('event_posts', index, (random, id) => {
    const event = someEvent({ world, random });
    const isOfOrganiser = random.below(5) < 3;
    const authorId = isOfOrganiser
      ? itemOf(event.managers, random.below(event.managers.length))
      : world.busyPerson(random);
    return {
      id,
      event,
      authorId,
      at: event.createdAt + Math.floor(random.fraction() * (event.quietFrom - event.createdAt)),
    };
  });
}

/** A post, the popular ones more often, and the row's time after it. */
export function somePost(row: Row): PostFacts {
  const post = postOf(row.world, row.world.popular(row.random, posts(row.world)));
  happen(row, post.at, post.at + DAYS_OF_TALK * MICROS_PER_DAY);
  return post;
}

const postOfParent = (row: Row): PostFacts => {
  const post = postOf(row.world, row.parent);
  happen(row, post.at, post.at + DAYS_OF_TALK * MICROS_PER_DAY);
  return post;
};

interface CommentFacts {
  readonly id: string;
  readonly post: PostFacts;
  readonly at: Micros;
}

const commentOf = (world: World, index: number): CommentFacts =>
  world.recall('event_comments', index, (random, id) => {
    const post = postOf(world, world.popular(random, posts(world)));
    return { id, post, at: post.at + Math.floor(random.fraction() * DAYS_OF_TALK * MICROS_PER_DAY) };
  });

/** What somebody follows, reports or would rather not see. */
function target(row: Row, type: string, nth: number): string {
  const count = row.world.count('events');
  const first = row.world.popular(row.random, count);
  if (type === 'event') return eventOf(row.world, (first + nth) % count).id;
  if (type === 'post') return postOf(row.world, (first + nth) % posts(row.world)).id;
  if (type === 'organizer') return someOrganization(row).id;
  return row.world.busyPerson(row.random);
}

export const POSTS: Recipes = {
  event_posts: part(
    1_000,
    (row) => {
      const { event, authorId, at } = postOf(row.world, row.index);
      row.at = at;
      return {
        event_id: event.id,
        author_user_id: authorId,
        ticket_tier_id: row.random.oneIn(8) ? tierOf(row.world, event, 0).id : null,
        text: row.random.oneIn(20) ? null : row.random.pick(REMARKS),
        media_urls: '{}',
        post_type: row.random.pick(['post', 'post', 'post', 'post', 'announcement', 'reshare', 'ad']),
        visibility: row.random.pick(['public', 'public', 'public', 'public', 'followers', 'private']),
        deleted_at: row.random.oneIn(DELETED_IN) ? timestamp(at + MICROS_PER_DAY) : null,
        like_count: 0,
        comment_count: 0,
        reply_count: 0,
        share_count: row.random.below(5),
        link_meta: '{}',
      };
    },
    24,
  ),
  event_comments: part(1_500, (row) => {
    const { post, at } = commentOf(row.world, row.index);
    row.at = at;
    return { post_id: post.id, author_user_id: row.world.busyPerson(row.random), text: row.random.pick(REMARKS) };
  }),
  event_comment_reactions: dealt(400, countOf('event_comments'), people, (row) => {
    const comment = commentOf(row.world, row.parent);
    happen(row, comment.at, comment.at + MICROS_PER_DAY);
    return {
      comment_id: comment.id,
      user_id: row.world.nthPerson('event_comment_reactions', row.parent, row.nth),
      kind: 'like',
    };
  }),
  event_reactions: dealt(2_500, posts, people, (row) => ({
    post_id: postOfParent(row).id,
    user_id: row.world.nthPerson('event_reactions', row.parent, row.nth),
    kind: row.random.oneIn(20) ? 'wow' : 'like',
  })),
  hashtags: exactly(HASHTAGS.length, (row) => ({ tag: itemOf(HASHTAGS, row.index) })),
  post_hashtags: dealt(
    700,
    posts,
    () => HASHTAGS.length,
    (row) => ({
      post_id: postOfParent(row).id,
      tag: itemOf(HASHTAGS, row.world.nthOf('post_hashtags', row.parent, row.nth, HASHTAGS.length)),
    }),
  ),
  media_assets: dealt(
    400,
    posts,
    () => 1,
    (row) => {
      const post = postOfParent(row);
      row.at = post.at;
      return { owner_user_id: post.authorId };
    },
  ),
  post_media: dealt(
    400,
    posts,
    () => 1,
    (row) => ({
      post_id: postOfParent(row).id,
      media_id: row.world.idOf('media_assets', row.index),
      position: 0,
    }),
  ),
  post_mentions: dealt(
    300,
    posts,
    () => 5,
    (row) => ({
      post_id: postOfParent(row).id,
      mentioned_user_id: row.world.nthPerson('post_mentions', row.parent, row.nth),
    }),
  ),
  post_video_counters: dealt(
    300,
    posts,
    () => 1,
    (row) => ({ post_id: postOfParent(row).id }),
  ),
  follows: dealt(2_000, people, mostFollowed, (row) => {
    row.at = eventOf(row.world, 0).createdAt + row.nth * MICROS_PER_DAY;
    return followOf(row);
  }),
  negative_feedback: dealt(
    150,
    people,
    () => 10,
    (row) => {
      const count = row.world.count('events');
      const event = eventOf(row.world, row.world.nthOf('negative_feedback', row.parent, row.nth, count));
      happen(row, event.createdAt, event.quietFrom);
      return { user_id: itemOf(row.world.people, row.parent), target_type: 'event', target_id: event.id };
    },
  ),
  reports: part(80, (row) => {
    somePost(row);
    const type = row.random.pick(['post', 'event', 'user']);
    return { target_type: type, target_id: target(row, type, 0), reported_by: row.world.person(row.random) };
  }),
  share_links: part(200, (row) => {
    const post = somePost(row);
    const type = row.random.pick(['event', 'post', 'org', 'user']);
    return {
      code: `s${row.index}-${row.random.token().slice(0, 6)}`,
      created_by: post.authorId,
      content_type: type,
      content_id: target(row, type === 'org' ? 'organizer' : type, 0),
      params: json({ ref: row.random.pick(['story', 'mail']) }),
      clicks: row.random.below(40),
    };
  }),
};

const FOLLOWED = ['event', 'organizer', 'user'] as const;
const MOST_OF_A_KIND = 100;

function mostFollowed(world: World): number {
  return (
    FOLLOWED.length *
    Math.min(MOST_OF_A_KIND, world.count('events'), world.given.organizations.length, world.people.length)
  );
}

// A user follows each thing once: the n-th of its kind after one that is theirs, which is often a popular one.
function followOf(row: Row) {
  const { world } = row;
  const type = itemOf(FOLLOWED, row.nth);
  const nth = Math.floor(row.nth / FOLLOWED.length);
  const first = (count: number) =>
    world.recall(`follows of ${type}`, row.parent, (random) => world.popular(random, count)) + nth;
  const organizations = world.given.organizations;
  const isOfOrganization = row.random.oneIn(25);
  const id = {
    event: () => eventOf(world, first(world.count('events')) % world.count('events')).id,
    organizer: () => itemOf(organizations, first(organizations.length)).id,
    user: () => itemOf(world.people, first(world.people.length)),
  }[type]();
  return {
    follower_user_id: itemOf(world.people, row.parent),
    follower_type: isOfOrganization ? 'organization' : 'user',
    follower_org_id: isOfOrganization ? someOrganization(row).id : null,
    target_type: type,
    target_id: id,
    status: row.random.pick(['accepted', 'accepted', 'accepted', 'accepted', 'pending', 'declined']),
  };
}
