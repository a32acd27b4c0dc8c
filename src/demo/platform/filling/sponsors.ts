import { MICROS_PER_DAY, type Micros, timestamp } from '../../economy/calendar.ts';
import { type EventFacts, eventOf, events, happen, ofParent, someEvent } from './event-facts.ts';
import { countOf, dealt, each, json, list, part, type Recipes, type Row } from './recipe.ts';
import type { Member } from './tenants.ts';
import { BRANDS, CATEGORIES, INDUSTRIES } from './words.ts';
import { itemOf, type World } from './world.ts';

export interface SponsorFacts {
  readonly id: string;
  readonly name: string;
  readonly createdAt: Micros;
  /** Where its members stand among the people. */
  readonly firstMember: number;
  /** The owner is the first. */
  readonly members: readonly Member[];
}

const FIRST_SPONSOR: Micros = Date.UTC(2024, 0, 15) * 1_000;
const ROLES = ['owner', 'admin', 'editor', 'viewer'] as const;
const MOST_MEMBERS = ROLES.length;

export const sponsors = countOf('sponsors');

function sponsorOf(world: World, index: number): SponsorFacts {
  return world.recall('sponsors', index, (random, id) => {
    const createdAt = FIRST_SPONSOR + random.below(200) * MICROS_PER_DAY;
    // One apart from the sponsor before: so some work for two sponsors, in another role.
    const drawn = random.below(world.people.length);
    const firstMember = index % 2 === 0 ? drawn : sponsorOf(world, index - 1).firstMember + 1;
    const wanted = Math.min(random.between(2, MOST_MEMBERS), world.people.length);
    const members = Array.from({ length: wanted }, (_, nth) => ({
      userId: itemOf(world.people, firstMember + nth),
      role: itemOf(ROLES, nth),
    }));
    return { id, name: `${itemOf(BRANDS, index)} ${random.pick(INDUSTRIES)}`, createdAt, firstMember, members };
  });
}

export const someSponsor = ({ world, random }: Pick<Row, 'world' | 'random'>): SponsorFacts =>
  sponsorOf(world, world.popular(random, sponsors(world)));

/** The n-th of those that an event has to do with. */
export const nthSponsor = (
  { world, parent, nth }: Pick<Row, 'world' | 'parent' | 'nth'>,
  table: string,
): SponsorFacts => sponsorOf(world, world.nthOf(table, parent, nth, sponsors(world)));

const TIERS = ['gold', 'silver', 'bronze'] as const;

export interface PackageFacts {
  readonly id: string;
  readonly event: EventFacts;
  readonly tier: (typeof TIERS)[number];
  readonly priceCents: number;
}

/** Of the second half of the events only every other one is sponsored. */
export const packagesOf = (world: World, event: number): number =>
  event < events(world) / 2 || event % 2 === 0 ? 1 + (event % TIERS.length) : 0;

function packageOf(world: World, event: EventFacts, nth: number): PackageFacts {
  return world.recall('sponsorship_packages', event.index * TIERS.length + nth, (random, id) => {
    return { id, event, tier: itemOf(TIERS, nth), priceCents: random.between(5, 200) * 10_000 };
  });
}

export function somePackage(random: Row['random'], world: World): PackageFacts {
  const drawn = someEvent({ world, random });
  const event = packagesOf(world, drawn.index) > 0 ? drawn : eventOf(world, 0);
  return packageOf(world, event, random.below(packagesOf(world, event.index)));
}

const forSponsor = (row: Row): SponsorFacts => {
  const sponsor = sponsorOf(row.world, row.parent);
  row.at = sponsor.createdAt;
  return sponsor;
};

const asMany = (most: number) => (world: World) => Math.min(most, sponsors(world));

export const SPONSORS: Recipes = {
  sponsors: part(
    80,
    (row) => {
      const sponsor = sponsorOf(row.world, row.index);
      row.at = sponsor.createdAt;
      return { name: sponsor.name, created_by: sponsor.members[0]?.userId ?? null };
    },
    6,
  ),
  sponsor_members: each(
    sponsors,
    (world, parent) => sponsorOf(world, parent).members.length,
    (row) => {
      const sponsor = forSponsor(row);
      const { userId, role } = itemOf(sponsor.members, row.nth);
      return { sponsor_id: sponsor.id, user_id: userId, role };
    },
  ),
  sponsor_profiles: each(
    sponsors,
    () => 1,
    (row) => ({
      sponsor_id: forSponsor(row).id,
      annual_budget_cents: row.random.oneIn(5) ? null : row.random.between(1, 500) * 1_000_000,
      preferred_categories: list([row.random.pick(CATEGORIES)]),
      reputation_score: row.random.below(100),
      objectives_embedding: null,
    }),
  ),
  sponsor_public_profiles: each(
    sponsors,
    (_, parent) => (parent % 4 === 3 ? 0 : 1),
    (row) => {
      const sponsor = forSponsor(row);
      return { sponsor_id: sponsor.id, slug: `${sponsor.name.toLowerCase().replaceAll(' ', '-')}-${row.index + 1}` };
    },
  ),
  sponsorship_packages: each(events, packagesOf, (row) => {
    const event = eventOf(row.world, row.parent);
    const { id, tier, priceCents } = packageOf(row.world, event, row.nth);
    row.at = event.createdAt + MICROS_PER_DAY;
    return {
      id,
      event_id: event.id,
      tier,
      title: `${tier} of ${event.title}`,
      price_cents: priceCents,
      currency: event.city.currency,
      // What is sold is counted once the orders are there.
      inventory: 1,
      sold: 0,
      version: 1,
      benefits: json({ logo: true, tickets: row.random.between(2, 20) }),
      visibility: row.random.oneIn(8) ? 'private' : 'public',
      created_by: itemOf(event.managers, 0),
      is_active: true,
      stat_snapshot_id: null,
      template_id: null,
      quality_score: row.random.oneIn(4) ? null : row.random.below(101),
    };
  }),
  package_variants: each(
    events,
    (world, parent) => (parent % 2 === 0 && packagesOf(world, parent) > 0 ? 2 : 0),
    (row) => {
      const chosen = packageOf(row.world, eventOf(row.world, row.parent), 0);
      row.at = chosen.event.createdAt + 2 * MICROS_PER_DAY;
      return {
        package_id: chosen.id,
        label: itemOf(['standard', 'extended'], row.nth),
        price_cents: chosen.priceCents * (1 + row.nth),
        inventory: row.random.between(1, 5),
        stat_snapshot_id: null,
      };
    },
  ),
  sponsorship_matches: dealt(700, events, asMany(12), (row) => {
    const event = ofParent(row);
    return {
      event_id: event.id,
      sponsor_id: nthSponsor(row, 'sponsorship_matches').id,
      overlap_metrics: json({ audience: row.random.below(100) / 100 }),
      viewed_at: row.random.oneIn(2) ? timestamp(row.at + MICROS_PER_DAY) : null,
      status: row.random.pick(['pending', 'suggested', 'accepted', 'rejected']),
    };
  }),
  match_features: dealt(400, events, asMany(12), (row) => ({
    event_id: ofParent(row).id,
    sponsor_id: nthSponsor(row, 'sponsorship_matches').id,
    features: json({ reach: row.random.below(10_000), fit: row.random.below(100) / 100 }),
    version: 1,
  })),
  match_feedback: part(120, (row) => {
    const event = someEvent(row);
    const sponsor = someSponsor(row);
    happen(row, event.createdAt, event.quietFrom);
    const member = itemOf(sponsor.members, row.random.below(MOST_MEMBERS));
    return { event_id: event.id, sponsor_id: sponsor.id, user_id: member.userId };
  }),
  fit_recalc_queue: dealt(200, events, asMany(6), (row) => {
    const event = ofParent(row);
    const processed = row.random.oneIn(2);
    return {
      id: row.index + 1,
      event_id: event.id,
      sponsor_id: nthSponsor(row, 'fit_recalc_queue').id,
      reason: row.random.pick(['event_insights', 'sponsor_profile']),
      processed_at: processed ? timestamp(row.at + MICROS_PER_DAY) : null,
    };
  }),
};
