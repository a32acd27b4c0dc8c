import { MICROS_PER_DAY, type Micros, timestamp } from '../../economy/calendar.ts';
import { happen, someEvent } from './event-facts.ts';
import { someTicket } from './orders.ts';
import { somePost } from './posts.ts';
import { countOf, each, exactly, json, list, part, type Recipes, type Row, rest } from './recipe.ts';
import { type Organization, organizationOf, someOrganization } from './tenants.ts';
import { CATEGORIES } from './words.ts';
import { itemOf, type World } from './world.ts';

interface CampaignFacts {
  readonly index: number;
  readonly id: string;
  readonly orgId: string;
  readonly createdBy: string;
  readonly spent: number;
  readonly startsAt: Micros;
  readonly endsAt: Micros;
}

const FIRST_START: Micros = Date.UTC(2024, 2, 20) * 1_000;
const MOST_CREATIVES = 3;
const PLACEMENTS = ['feed', 'story', 'event_banner', 'search_results'] as const;

const campaigns = countOf('campaigns');

/** Those that organizations' wallets were charged for come first, under the ids that the charges name. */
function campaignOf(world: World, index: number): CampaignFacts {
  return world.recall('campaigns', index, (random, id) => {
    const known = world.given.campaigns[index];
    const organization =
      known === undefined ? someOrganization({ world, random }) : organizationById(world, known.orgId);
    const startsAt = FIRST_START + random.below(500) * MICROS_PER_DAY;
    return {
      index,
      id: known?.id ?? id,
      orgId: known?.orgId ?? organization.id,
      createdBy: itemOf(organization.members, random.below(2)).userId,
      spent: Math.max(0, known?.spent ?? random.below(5_000)),
      startsAt,
      endsAt: startsAt + random.between(7, 90) * MICROS_PER_DAY,
    };
  });
}

function organizationById(world: World, id: string): Organization {
  const index = world.given.organizations.findIndex((one) => one.id === id);
  return organizationOf(world, Math.max(0, index));
}

const creativesOf = (_: World, campaign: number) => 1 + (campaign % MOST_CREATIVES);
const creative = (world: World, campaign: number, nth: number) =>
  world.idOf('ad_creatives', campaign * MOST_CREATIVES + nth);

const ofCampaign = (row: Row): CampaignFacts => {
  const campaign = campaignOf(row.world, row.parent);
  row.at = campaign.startsAt - MICROS_PER_DAY;
  return campaign;
};

interface Shown {
  readonly id: string;
  readonly campaign: CampaignFacts;
  readonly creativeId: string | null;
  readonly userId: string | null;
  readonly sessionId: string;
  readonly at: Micros;
}

const shownOf = (world: World, index: number): Shown =>
  world.recall('ad_impressions', index, (random, id) => {
    const campaign = campaignOf(world, world.popular(random, campaigns(world)));
    // Before creatives were kept, nobody wrote which one was shown.
    const creativeId = random.oneIn(10)
      ? null
      : creative(world, campaign.index, random.below(creativesOf(world, campaign.index)));
    const at = campaign.startsAt + Math.floor(random.fraction() * (campaign.endsAt - campaign.startsAt));
    return {
      id,
      campaign,
      creativeId,
      userId: random.oneIn(3) ? null : world.busyPerson(random),
      sessionId: random.token(),
      at,
    };
  });

export const ADVERTISING: Recipes = {
  campaigns: {
    amount: {
      kind: 'each',
      of: () => 1,
      many: (world) => Math.max(6, world.given.campaigns.length, wantedCampaigns(world)),
    },
    fields: (row) => {
      const campaign = campaignOf(row.world, row.index);
      row.at = campaign.startsAt - 3 * MICROS_PER_DAY;
      const status = row.random.pick(['draft', 'scheduled', 'active', 'paused', 'completed', 'completed', 'archived']);
      const total = campaign.spent + row.random.below(10) * 500;
      return {
        id: campaign.id,
        org_id: campaign.orgId,
        created_by: campaign.createdBy,
        name: `Campaign ${row.index + 1}`,
        status,
        total_budget_credits: total,
        daily_budget_credits: row.random.oneIn(3) ? null : Math.floor(total / 10),
        spent_credits: campaign.spent,
        start_date: timestamp(campaign.startsAt),
        end_date: row.random.oneIn(6) ? null : timestamp(campaign.endsAt),
        archived_at: status === 'archived' ? timestamp(campaign.endsAt) : null,
        frequency_cap_per_user: row.random.between(1, 5),
      };
    },
  },
  campaign_placements: each(
    campaigns,
    () => 2,
    (row) => ({
      campaign_id: ofCampaign(row).id,
      placement: itemOf(PLACEMENTS, row.parent + row.nth),
    }),
  ),
  campaign_targeting: each(
    campaigns,
    () => 1,
    (row) => ({
      campaign_id: ofCampaign(row).id,
      locations: json([{ city: row.random.pick(['Atlanta', 'Berlin', 'Toronto']) }]),
      categories: list([row.random.pick(CATEGORIES)]),
    }),
  ),
  ad_creatives: each(campaigns, creativesOf, (row) => {
    const campaign = ofCampaign(row);
    const mediaType = row.random.pick(['image', 'video', 'existing_post']);
    return {
      id: creative(row.world, row.parent, row.nth),
      campaign_id: campaign.id,
      headline: row.random.pick(['Tickets out now', 'Last call', 'Two for one']),
      cta_label: 'Learn More',
      media_type: mediaType,
      post_id: mediaType === 'existing_post' ? postId(row) : null,
    };
  }),
  ad_impressions: rest(9, (row) => {
    const shown = shownOf(row.world, row.index);
    row.at = shown.at;
    const placement = row.random.pick(PLACEMENTS);
    return {
      campaign_id: shown.campaign.id,
      creative_id: shown.creativeId,
      user_id: shown.userId,
      session_id: shown.sessionId,
      placement,
      event_id: placement === 'event_banner' ? someEvent(row).id : null,
      post_id: null,
    };
  }),
  ad_clicks: part(700, (row) => {
    const shown = shownOf(row.world, row.random.below(row.world.count('ad_impressions')));
    row.at = shown.at + 2_000_000;
    const converted = row.random.oneIn(12);
    const isKnown = !row.random.oneIn(15);
    return {
      campaign_id: shown.campaign.id,
      creative_id: shown.creativeId,
      impression_id: isKnown ? shown.id : null,
      user_id: shown.userId,
      session_id: shown.sessionId,
      converted,
      conversion_value_cents: converted ? row.random.between(5, 150) * 100 : null,
      ticket_id: converted ? someTicket(row).id : null,
    };
  }),
  credit_packages: exactly(5, (row) => {
    row.at = FIRST_START;
    const credits = itemOf([500, 1_000, 2_500, 5_000, 10_000], row.index);
    return {
      name: `${credits} credits`,
      credits,
      price_usd_cents: credits,
      is_default: row.index === 1,
      sort_order: row.index,
    };
  }),
  promos: exactly(4, (row) => {
    row.at = FIRST_START;
    return { code: itemOf(['TEN', 'LAUNCH20', 'WELCOME', 'SPRING'], row.index), discount_type: 'percent', value: 10 };
  }),
};

const PARTS_OF_CAMPAIGNS = 200;
const wantedCampaigns = (world: World) => Math.floor((world.rows * PARTS_OF_CAMPAIGNS) / 100_000);

function postId(row: Row): string {
  const at = row.at;
  const { id } = somePost(row);
  happen(row, at, at);
  return id;
}
