import { MICROS_PER_DAY, timestamp } from '../../economy/calendar.ts';
import {
  during,
  type EventFacts,
  eventOf,
  events,
  FIRST_CREATED,
  ofParent,
  RECORDS_END,
  someEvent,
  tierOf,
} from './event-facts.ts';
import { dealt, each, json, list, part, people, type Recipes, type Row } from './recipe.ts';
import { organizationOf } from './tenants.ts';
import { CATEGORIES, KINDS_OF_EVENT, MOODS } from './words.ts';
import { itemOf } from './world.ts';

/** A row of something that an event has, somewhere in its time. */
const ofSomeEvent = (row: Row): EventFacts => {
  const event = someEvent(row);
  during(row, event);
  return event;
};

const manager = (row: Row, event: EventFacts) => itemOf(event.managers, row.random.below(event.managers.length));

const ROLES = ['organizer', 'scanner', 'staff', 'volunteer', 'vendor', 'guest'] as const;

export const EVENTS: Recipes = {
  event_series: part(60, (row) => {
    const organization = organizationOf(row.world, row.world.popular(row.random, row.world.given.organizations.length));
    row.at = FIRST_CREATED;
    return {
      name: `${row.random.pick(MOODS)} ${row.random.pick(KINDS_OF_EVENT)}s`,
      organization_id: organization.id,
      created_by: organization.ownerId,
      recurrence_interval: 1,
      series_end: '2026-12-31',
    };
  }),
  events: part(
    600,
    (row) => {
      const event = eventOf(row.world, row.index);
      row.at = event.createdAt;
      const isOver = event.endAt < RECORDS_END && !row.random.oneIn(20);
      const inSeries = event.ownerType === 'organization' && row.random.oneIn(12);
      return {
        owner_context_type: event.ownerType,
        owner_context_id: event.ownerId,
        created_by: event.createdBy,
        title: event.title,
        description: row.random.oneIn(25) ? null : `${event.title}: doors at six, music until late.`,
        category: row.random.oneIn(25) ? null : row.random.pick(CATEGORIES),
        start_at: timestamp(event.startAt),
        end_at: timestamp(event.endAt),
        timezone: event.city.timezone,
        city: event.city.name,
        country: event.city.country,
        lat: event.city.lat,
        lng: event.city.lng,
        visibility: row.random.pick([
          'public',
          'public',
          'public',
          'public',
          'public',
          'public',
          'unlisted',
          'private',
        ]),
        slug: row.random.oneIn(30) ? null : `${event.title.toLowerCase().replaceAll(' ', '-')}-${row.index + 1}`,
        completed_at: isOver ? timestamp(event.endAt) : null,
        series_id: inSeries ? row.world.idOf('event_series', row.random.below(row.world.count('event_series'))) : null,
        description_embedding: null,
        target_audience: row.random.oneIn(2) ? null : json({ ages: '18-34', interests: [row.random.pick(CATEGORIES)] }),
      };
    },
    24,
  ),
  ticket_tiers: each(
    events,
    (world, parent) => eventOf(world, parent).tiers,
    (row) => {
      const event = eventOf(row.world, row.parent);
      const tier = tierOf(row.world, event, row.nth);
      row.at = event.createdAt;
      return {
        id: tier.id,
        event_id: event.id,
        name: tier.name,
        price_cents: tier.priceCents,
        currency: event.city.currency,
        sales_start: timestamp(event.createdAt),
        sales_end: timestamp(event.startAt),
        status: 'active',
        sort_index: row.nth,
        // What is sold, reserved and left is counted once the tickets are there.
        quantity: null,
        total_quantity: null,
        sold_quantity: 0,
        reserved_quantity: 0,
        issued_quantity: 0,
      };
    },
  ),
  event_roles: dealt(700, events, people, (row) => {
    const event = ofParent(row);
    return {
      event_id: event.id,
      user_id: row.world.nthPerson('event_roles', row.parent, row.nth),
      role: row.random.pick(ROLES),
      created_by: manager(row, event),
    };
  }),
  event_scanners: dealt(300, events, people, (row) => {
    const event = ofParent(row);
    const userId = row.world.nthPerson('event_scanners', row.parent, row.nth);
    return {
      event_id: event.id,
      user_id: userId,
      status: row.random.oneIn(8) ? 'disabled' : 'enabled',
      invited_by: manager(row, event),
    };
  }),
  event_invites: part(300, (row) => ({
    event_id: ofSomeEvent(row).id,
    email: `invited-${row.index}@mail.example.test`,
  })),
  role_invites: part(200, (row) => {
    const event = ofSomeEvent(row);
    const status = row.random.pick(['pending', 'accepted', 'expired', 'revoked']);
    const accepted = status === 'accepted';
    return {
      event_id: event.id,
      email: `crew-${row.index}@mail.example.test`,
      invited_by: manager(row, event),
      status,
      accepted_user_id: accepted ? row.world.person(row.random) : null,
      accepted_at: accepted ? timestamp(row.at + MICROS_PER_DAY) : null,
      expires_at: timestamp(row.at + 7 * MICROS_PER_DAY),
    };
  }),
  event_share_assets: part(150, (row) => {
    const event = ofSomeEvent(row);
    return { event_id: event.id, created_by: manager(row, event) };
  }),
  event_stat_snapshots: part(300, (row) => ({
    event_id: ofSomeEvent(row).id,
    metric_key: row.random.pick(['views', 'orders', 'revenue_cents', 'attendees']),
    metric_value: row.random.below(100_000),
  })),
  event_audience_insights: dealt(
    200,
    events,
    () => 1,
    (row) => ({
      event_id: ofParent(row).id,
      attendee_count: row.random.below(5_000),
      geo_distribution: json({ US: row.random.below(100), GB: row.random.below(100) }),
      age_segments: json({ '18-24': row.random.below(100), '25-34': row.random.below(100) }),
    }),
  ),
  audience_consents: dealt(
    150,
    events,
    () => 3,
    (row) => ({
      event_id: ofParent(row).id,
      segment_key: `segment-${row.nth + 1}`,
      consent_basis: row.random.pick(['contract', 'consent', 'legitimate_interest']),
    }),
  ),
  cultural_guides: dealt(
    120,
    events,
    () => 1,
    (row) => ({
      event_id: ofParent(row).id,
      themes: list([row.random.pick(CATEGORIES)]),
    }),
  ),
  event_video_counters: dealt(
    300,
    events,
    () => 1,
    (row) => ({
      event_id: ofParent(row).id,
      ...Object.fromEntries(CLICKS.map((column) => [column, row.random.below(200)])),
    }),
  ),
  guest_codes: part(150, (row) => {
    const event = ofSomeEvent(row);
    return {
      event_id: event.id,
      code: `GUEST${String(row.index).padStart(6, '0')}`,
      tier_id: row.random.oneIn(2) ? null : tierOf(row.world, event, row.random.below(event.tiers)).id,
      max_uses: 5,
      used_count: row.random.below(6),
      created_by: manager(row, event),
    };
  }),
};

const CLICKS = ['clicks_tickets', 'clicks_details', 'clicks_organizer', 'clicks_share', 'clicks_comment'] as const;
