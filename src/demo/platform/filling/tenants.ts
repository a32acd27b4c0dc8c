import { HISTORY_STARTS, MICROS_PER_DAY, MICROS_PER_SECOND, timestamp } from '../../economy/calendar.ts';
import { dealt, each, json, list, part, type Recipes, type Row } from './recipe.ts';
import { CATEGORIES } from './words.ts';
import { itemOf, type World } from './world.ts';

export interface Organization {
  readonly index: number;
  readonly id: string;
  readonly ownerId: string;
  /** The owner is the first. */
  readonly members: readonly Member[];
}

export interface Member {
  readonly userId: string;
  readonly role: 'owner' | 'admin' | 'editor' | 'viewer';
}

/** Of those who are not the owner, by turns: an organization of one more has an administrator. */
const ROLES = ['admin', 'editor', 'viewer', 'viewer', 'editor'] as const;
const LEAST_MEMBERS = 3;
/** So many people work for organizations as there are organizations, times this: most of them for several. */
const STAFF_PER_ORGANIZATION = 2;
const LEAST_STAFF = 8;
const EVENTS_PER_INDIVIDUAL = 20;

const organizations = (world: World) => world.given.organizations.length;

export function organizationOf(world: World, index: number): Organization {
  return world.recall('members', index, (random) => {
    const { id, ownerId } = itemOf(world.given.organizations, index);
    const staff = staffOf(world);
    const first = random.below(staff.length);
    const wanted = LEAST_MEMBERS + random.below(LEAST_MEMBERS * 2);
    const others = Array.from({ length: staff.length }, (_, nth) => itemOf(staff, first + nth))
      .filter((userId) => userId !== ownerId)
      .slice(0, wanted);
    const members = others.map((userId, nth) => ({ userId, role: itemOf(ROLES, nth) }));
    return { index, id, ownerId, members: [{ userId: ownerId, role: 'owner' as const }, ...members] };
  });
}

/** An organization, the large ones more often. */
export const someOrganization = ({ world, random }: Pick<Row, 'world' | 'random'>): Organization =>
  organizationOf(world, world.popular(random, organizations(world)));

// The last of the people: the first are the busiest buyers.
function staffOf(world: World): readonly string[] {
  const wanted = Math.max(LEAST_STAFF, organizations(world) * STAFF_PER_ORGANIZATION);
  return world.recall('staff', 0, () => world.people.slice(-Math.min(wanted, Math.ceil(world.people.length / 2))));
}

/** Those who hold events for themselves. Each has an organization under their own id, which the events' foreign key asks for. */
export function ownEvents(world: World): readonly string[] {
  return world.recall('individuals', 0, () => {
    const wanted = Math.ceil(world.count('events') / EVENTS_PER_INDIVIDUAL);
    const taken = Math.max(1, Math.min(wanted, Math.floor(world.people.length / 4)));
    const apart = Math.floor(world.people.length / taken);
    return Array.from({ length: taken }, (_, nth) => itemOf(world.people, nth * apart));
  });
}

const individuals = (world: World) => ownEvents(world).length;
const within = (row: Row, days: number) => {
  row.at = HISTORY_STARTS + row.random.below(days * 86_400) * MICROS_PER_SECOND;
};
const member = (row: Row, organization: Organization) =>
  itemOf(organization.members, row.random.below(organization.members.length)).userId;

export const TENANTS: Recipes = {
  organizations: each(
    individuals,
    () => 1,
    (row) => {
      const userId = itemOf(ownEvents(row.world), row.index);
      within(row, 30);
      return { id: userId, name: 'Personal', handle: `personal-${userId}`, created_by: userId, social_links: '[]' };
    },
  ),
  org_memberships: each(
    (world) => organizations(world) + individuals(world),
    (world, parent) => (parent < organizations(world) ? organizationOf(world, parent).members.length - 1 : 1),
    (row) => {
      within(row, 60);
      const own = row.parent - organizations(row.world);
      if (own >= 0) {
        const userId = itemOf(ownEvents(row.world), own);
        return { org_id: userId, user_id: userId, role: 'owner' };
      }
      const organization = organizationOf(row.world, row.parent);
      const { userId, role } = itemOf(organization.members, row.nth + 1);
      return { org_id: organization.id, user_id: userId, role };
    },
  ),
  org_invitations: part(100, (row) => {
    const organization = someOrganization(row);
    within(row, 700);
    const status = row.random.pick(['pending', 'accepted', 'expired', 'revoked']);
    const accepted = status === 'accepted';
    return {
      org_id: organization.id,
      email: `colleague-${row.index}@mail.example.test`,
      role: row.random.pick(['admin', 'editor', 'viewer']),
      invited_by: organization.ownerId,
      accepted_user_id: accepted ? member(row, organization) : null,
      status,
      accepted_at: accepted ? timestamp(row.at + MICROS_PER_DAY) : null,
      expires_at: timestamp(row.at + 7 * MICROS_PER_DAY),
    };
  }),
  org_contact_imports: part(40, (row) => {
    const organization = someOrganization(row);
    within(row, 700);
    return { org_id: organization.id, name: `Guest list ${row.index + 1}`, imported_by: member(row, organization) };
  }),
  org_contact_import_entries: part(500, (row) => {
    within(row, 700);
    const imports = row.world.count('org_contact_imports');
    return {
      import_id: row.world.idOf('org_contact_imports', row.world.popular(row.random, imports)),
      tags: list([row.random.pick(CATEGORIES)]),
      consent: row.random.pick(['unknown', 'opted_in', 'opted_out']),
    };
  }),
  payout_accounts: each(
    (world) => organizations(world) + individuals(world),
    () => 1,
    (row) => {
      within(row, 700);
      const own = row.parent - organizations(row.world);
      const enabled = !row.random.oneIn(6);
      return {
        context_type: own < 0 ? 'organization' : 'individual',
        context_id: own < 0 ? organizationOf(row.world, row.parent).id : itemOf(ownEvents(row.world), own),
        stripe_connect_id: row.random.oneIn(10) ? null : `acct_${row.random.token()}`,
        charges_enabled: enabled,
        payouts_enabled: enabled,
        details_submitted: enabled,
      };
    },
  ),
  payout_configurations: each(
    organizations,
    () => 1,
    (row) => {
      within(row, 700);
      return {
        organization_id: organizationOf(row.world, row.parent).id,
        stripe_connect_account_id: `acct_${row.random.token()}`,
        platform_fee_percentage: 0.05,
        minimum_payout_amount_cents: 1_000,
      };
    },
  ),
  package_templates: part(60, (row) => {
    within(row, 300);
    return {
      org_id: someOrganization(row).id,
      title: row.random.pick(['Gold', 'Silver', 'Stage', 'Bar']),
      default_price_cents: row.random.between(5, 200) * 10_000,
      default_benefits: json({ logo: true, tickets: row.random.between(2, 20) }),
    };
  }),
  message_templates: part(60, (row) => {
    const organization = someOrganization(row);
    within(row, 300);
    return { org_id: organization.id, name: `Template ${row.index + 1}`, created_by: member(row, organization) };
  }),
  user_embeddings: dealt(
    200,
    (world) => world.people.length,
    () => 1,
    (row) => {
      within(row, 700);
      const [open, close] = row.world.given.vectorBrackets;
      const numbers = Array.from({ length: DIMENSIONS }, () => (row.random.below(257) - 128) / 128);
      return { user_id: itemOf(row.world.people, row.parent), embedding: `${open}${numbers.join(',')}${close}` };
    },
  ),
};

const DIMENSIONS = 384;
