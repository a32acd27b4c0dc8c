import type { Row } from './table.ts';

/** By name, of what was called otherwise when its slug was made: that one stays. */
const KEPT_SLUGS: Readonly<Record<string, string>> = {};

const slugOf = (name: string) =>
  KEPT_SLUGS[name] ??
  name
    .toLowerCase()
    .replaceAll('&', 'and')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');

/** What sponsors do. */
const INDUSTRIES = [
  'Accounting',
  'Advertising & Marketing',
  'Aerospace',
  'Agriculture',
  'Alcoholic Beverages',
  'Apparel & Footwear',
  'Architecture',
  'Arts & Culture',
  'Automotive',
  'Banking',
  'Beauty & Cosmetics',
  'Biotechnology',
  'Charity & Nonprofit',
  'Chemicals',
  'Construction',
  'Consulting',
  'Consumer Electronics',
  'Cryptocurrency & Blockchain',
  'Cybersecurity',
  'E-Commerce',
  'Education',
  'Energy & Utilities',
  'Environment & Renewables',
  'Fitness & Wellness',
  'Food & Beverage',
  'Furniture & Home',
  'Gaming & Esports',
  'Government & Public Sector',
  'Healthcare',
  'Hospitality',
  'Human Resources & Recruiting',
  'Insurance',
  'Internet & Media',
  'Investment',
  'Jewelry & Luxury Goods',
  'Legal Services',
  'Logistics & Transport',
  'Manufacturing',
  'Music',
  'Payments & Fintech',
  'Pets',
  'Pharmaceuticals',
  'Real Estate',
  'Restaurants',
  'Retail',
  'Software',
  'Sports',
  'Telecommunications',
  'Toys & Children',
  'Travel & Tourism',
] as const;

/** What events are about: each topic with its parts. */
const EVENT_CATEGORIES: Readonly<Record<string, readonly string[]>> = {
  Music: ['Concerts', 'Festivals', 'DJ & Electronic', 'Classical & Opera', 'Open Mic'],
  'Nightlife & Parties': ['Club Nights', 'Fetes & Carnival', 'Day Parties'],
  Sports: ['Matches', 'Races & Runs', 'Motorsport', 'Esports'],
  'Arts & Theatre': ['Exhibitions', 'Theatre & Musicals', 'Dance', 'Comedy', 'Literature'],
  'Film & Media': ['Screenings', 'Podcasts & Live Recordings'],
  'Food & Drink': ['Tastings', 'Food Festivals', 'Cooking Classes'],
  Business: ['Conferences', 'Networking', 'Trade Shows', 'Startups & Pitches'],
  Technology: ['Hackathons', 'Meetups'],
  Education: ['Workshops', 'Talks & Lectures', 'School & Campus'],
  'Health & Wellness': ['Fitness', 'Yoga & Meditation', 'Retreats'],
  'Community & Culture': ['Cultural Heritage', 'Religion & Spirituality', 'Politics & Activism', 'Pride'],
  'Charity & Causes': ['Fundraisers', 'Volunteering'],
  'Family & Kids': [],
  'Fashion & Beauty': [],
  'Travel & Outdoor': ['Tours', 'Cruises'],
  Other: [],
};

/** Hashtags that neither trend nor are suggested, by reason. */
const HASHTAG_STOPLIST: Readonly<Record<string, readonly string[]>> = {
  'says nothing': [
    'a',
    'all',
    'and',
    'day',
    'event',
    'events',
    'for',
    'fun',
    'good',
    'happy',
    'in',
    'life',
    'live',
    'love',
    'me',
    'my',
    'new',
    'now',
    'of',
    'on',
    'photo',
    'pic',
    'post',
    'test',
    'the',
    'this',
    'today',
    'tonight',
    'video',
    'you',
  ],
  'asks for reach': [
    'explore',
    'explorepage',
    'f4f',
    'follow',
    'follow4follow',
    'followback',
    'followforfollow',
    'followme',
    'foryou',
    'foryoupage',
    'fyp',
    'instagood',
    'instalike',
    'l4l',
    'like4like',
    'likeforlike',
    'likes',
    'share',
    'tagsforlikes',
    'trending',
    'viral',
  ],
  'sells something': [
    'buynow',
    'cheap',
    'clickhere',
    'discount',
    'earnmoney',
    'freemoney',
    'giveaway',
    'linkinbio',
    'makemoney',
    'onlyfans',
    'promo',
    'sale',
    'workfromhome',
  ],
};

export const industries = (): Row[] => INDUSTRIES.map((name) => ({ slug: slugOf(name), name }));

export const eventCategories = (): Row[] =>
  Object.entries(EVENT_CATEGORIES).flatMap(([parent, parts]) => [
    { slug: slugOf(parent), name: parent, parent_slug: null },
    ...parts.map((name) => ({ slug: slugOf(name), name, parent_slug: slugOf(parent) })),
  ]);

export const hashtagStoplist = (): Row[] =>
  Object.entries(HASHTAG_STOPLIST).flatMap(([reason, tags]) => tags.map((tag) => ({ tag, reason })));
