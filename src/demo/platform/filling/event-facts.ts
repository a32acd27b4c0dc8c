import { MICROS_PER_DAY, MICROS_PER_SECOND, type Micros } from '../../economy/calendar.ts';
import type { Random } from '../../economy/random.ts';
import { countOf, type Row } from './recipe.ts';
import { type Organization, organizationOf, ownEvents } from './tenants.ts';
import { CITIES, type City, KINDS_OF_EVENT, MOODS } from './words.ts';
import { itemOf, type World } from './world.ts';

export interface EventFacts {
  readonly index: number;
  readonly id: string;
  readonly ownerType: 'organization' | 'individual';
  /** An organization in every case: the foreign key asks for one. */
  readonly ownerId: string;
  readonly createdBy: string;
  /** Who may act for it. */
  readonly managers: readonly string[];
  readonly title: string;
  readonly city: City;
  readonly tiers: number;
  readonly createdAt: Micros;
  readonly startAt: Micros;
  readonly endAt: Micros;
  /** Nothing that visitors do comes after it. */
  readonly quietFrom: Micros;
}

export const FIRST_CREATED: Micros = Date.UTC(2024, 1, 10) * 1_000;
const CREATED_WITHIN_DAYS = 590;
/** What is to come stays to come, for readers who look for it. */
const TO_COME: Micros = Date.UTC(2031, 4, 1) * 1_000;
export const RECORDS_END: Micros = Date.UTC(2026, 1, 15) * 1_000;
const INDIVIDUAL_IN_HUNDRED = 15;
const OWNER_OF_OTHERS_IN = 10;
const TO_COME_IN = 15;
const MOST_TIERS = 4;

export const events = countOf('events');

export function eventOf(world: World, index: number): EventFacts {
  return world.recall('events', index, (random, id) => {
    const owner = ownerOf(world, random, index);
    const createdAt = FIRST_CREATED + random.below(CREATED_WITHIN_DAYS * 86_400) * MICROS_PER_SECOND;
    const isToCome = random.oneIn(TO_COME_IN);
    const daysAhead = random.between(14, 75);
    const startAt = isToCome ? TO_COME + daysAhead * MICROS_PER_DAY : createdAt + daysAhead * MICROS_PER_DAY;
    const endAt = startAt + random.between(2, 30) * 3_600 * MICROS_PER_SECOND;
    const quietFrom = Math.min(endAt, RECORDS_END);
    const city = random.pick(CITIES);
    const title = `${random.pick(MOODS)} ${random.pick(KINDS_OF_EVENT)} ${city.name}`;
    const tiers = random.between(1, MOST_TIERS);
    return { index, id, ...owner, title, city, tiers, createdAt, startAt, endAt, quietFrom };
  });
}

/** An event, the popular ones more often. */
export function someEvent(row: Pick<Row, 'world' | 'random'>): EventFacts {
  return eventOf(row.world, row.world.popular(row.random, row.world.count('events')));
}

/** Sets the row's time within what is said, and returns it. */
export function happen(row: Row, from: Micros, to: Micros): Micros {
  row.at = from + Math.floor(row.random.fraction() * Math.max(0, to - from));
  return row.at;
}

export const during = (row: Row, event: EventFacts) => happen(row, event.createdAt, event.quietFrom);

function ownerOf(world: World, random: Random, index: number) {
  const isIndividual = random.below(100) < INDIVIDUAL_IN_HUNDRED;
  const organization = organizationOf(world, world.popular(random, world.given.organizations.length));
  // The first event of all, which most happens to, is an organization's.
  if (!isIndividual || index === 0) return asOrganization(organization, random);
  // As old code left some: an individual's by its label, and yet under the organization that its creator works for.
  if (random.oneIn(OWNER_OF_OTHERS_IN))
    return { ...asOrganization(organization, random), ownerType: 'individual' as const };
  const owners = ownEvents(world);
  const userId = itemOf(owners, random.below(owners.length));
  return { ownerType: 'individual' as const, ownerId: userId, createdBy: userId, managers: [userId] };
}

function asOrganization(organization: Organization, random: Random) {
  const managers = organization.members.filter(({ role }) => role !== 'viewer').map(({ userId }) => userId);
  const createdBy = itemOf(managers, random.below(managers.length));
  return { ownerType: 'organization' as const, ownerId: organization.id, createdBy, managers };
}

export interface TierFacts {
  readonly id: string;
  readonly name: string;
  readonly priceCents: number;
}

const TIER_NAMES = ['General admission', 'Early bird', 'VIP', 'Student'] as const;
const FREE_IN = 6;

export function tierOf(world: World, event: EventFacts, nth: number): TierFacts {
  return world.recall('ticket_tiers', event.index * MOST_TIERS + nth, (random, id) => {
    const priceCents = random.oneIn(FREE_IN) ? 0 : random.between(5, 150) * 100;
    return { id, name: itemOf(TIER_NAMES, nth), priceCents };
  });
}

/** A row dealt to an event. */
export const ofParent = (row: Row): EventFacts => {
  const event = eventOf(row.world, row.parent);
  during(row, event);
  return event;
};
