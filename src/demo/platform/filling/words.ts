type Words = readonly [string, ...string[]];

export const FIRST_NAMES: Words = ['Amara', 'Ben', 'Chidi', 'Dana', 'Elif', 'Farid', 'Grace', 'Hugo', 'Ines', 'Jonas'];
export const LAST_NAMES: Words = ['Adeyemi', 'Brandt', 'Costa', 'Diallo', 'Evans', 'Fischer', 'Gallo', 'Hansen', 'Ito'];
export const KINDS_OF_EVENT: Words = [
  'Night',
  'Festival',
  'Market',
  'Concert',
  'Run',
  'Summit',
  'Workshop',
  'Carnival',
];
export const MOODS: Words = ['Open-air', 'Late', 'Golden', 'Harbour', 'Neon', 'Quiet', 'Summer', 'Winter', 'Rooftop'];
/** Topics of `ref.event_categories`, by their slugs. */
export const CATEGORIES: Words = [
  'music',
  'food-and-drink',
  'sports',
  'business',
  'arts-and-theatre',
  'film-and-media',
  'health-and-wellness',
  'community-and-culture',
];
export const BRANDS: Words = ['Aster', 'Boreal', 'Cobalt', 'Drift', 'Ember', 'Fathom', 'Grove', 'Halcyon'];
/** Of `ref.industries`, by their slugs. */
export const INDUSTRIES: Words = [
  'food-and-beverage',
  'apparel-and-footwear',
  'software',
  'payments-and-fintech',
  'automotive',
  'internet-and-media',
];
export const REMARKS: Words = [
  'See you there!',
  'Is there parking nearby?',
  'The line-up is out.',
  'Doors open an hour earlier than last year.',
  'Best night of the year, thank you all.',
  'Can I bring a guest?',
  'Straße gesperrt: please take the tram 🚋',
];

export interface City {
  readonly name: string;
  readonly country: string;
  readonly timezone: string;
  readonly currency: 'USD' | 'EUR' | 'GBP' | 'CAD';
  readonly lat: number;
  readonly lng: number;
}

export const CITIES: readonly [City, ...City[]] = [
  { name: 'New York', country: 'US', timezone: 'America/New_York', currency: 'USD', lat: 40.71, lng: -74.01 },
  { name: 'Atlanta', country: 'US', timezone: 'America/New_York', currency: 'USD', lat: 33.75, lng: -84.39 },
  { name: 'Los Angeles', country: 'US', timezone: 'America/Los_Angeles', currency: 'USD', lat: 34.05, lng: -118.24 },
  { name: 'Toronto', country: 'CA', timezone: 'America/Toronto', currency: 'CAD', lat: 43.65, lng: -79.38 },
  { name: 'London', country: 'GB', timezone: 'Europe/London', currency: 'GBP', lat: 51.51, lng: -0.13 },
  { name: 'Berlin', country: 'DE', timezone: 'Europe/Berlin', currency: 'EUR', lat: 52.52, lng: 13.4 },
];
