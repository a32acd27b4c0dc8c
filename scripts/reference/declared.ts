import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { getAllTimezones } from 'countries-and-timezones';
import { getCountryData, countries as packagedCountries, type TCountryCode } from 'countries-list';
import { currencies as packagedCurrencies } from 'countries-list/currencies';
import ISO6391 from 'iso-639-1';
import packagedTaxRates from 'sales-tax/res/sales_tax_rates.json' with { type: 'json' };
import { COUNTRY_CORRECTIONS, CURRENCIES_WITHOUT_MINOR_UNIT } from './corrections.ts';
import { eventCategories, hashtagStoplist, industries } from './own-lists.ts';
import { inOrder, type Row, rowsOf, type Snapshot, TABLES, type Value } from './table.ts';
import { type Jurisdiction, taxRates } from './tax-rates.ts';

interface Source {
  /** Null where the list is our own. */
  readonly package: string | null;
  readonly note: string | null;
}

const SOURCES: Readonly<Record<string, Source>> = {
  currencies: {
    package: 'countries-list',
    note: 'ISO 4217, without codes that have no minor unit: metals, units of account, codes for tests.',
  },
  countries: {
    package: 'countries-list',
    note: 'ISO 3166-1, what is officially assigned. Some names and prefixes are ours.',
  },
  timezones: {
    package: 'countries-and-timezones',
    note: 'The IANA time zone database, with its links. Of several countries the first that it names, which says nothing of whose a place is.',
  },
  languages: { package: 'iso-639-1', note: 'ISO 639-1.' },
  tax_rates: {
    package: 'sales-tax',
    note: 'Standard rates alone, some of them corrected by us. No advice: ask what holds where an event takes place.',
  },
  industries: { package: null, note: null },
  event_categories: { package: null, note: null },
  hashtag_stoplist: { package: null, note: null },
};

/**
 * What the installed packages and our own lists say, and what is wrong with that.
 * @param landed what migrations brought; a source that says the same since keeps the day on which it was taken
 * @param today the day of sources that say something else, by ISO 8601
 */
export function declaredReference(landed: Snapshot | null, today: string): { snapshot: Snapshot; faults: string[] } {
  const tax = taxRates(packagedTaxRates as Readonly<Record<string, Jurisdiction>>);
  const { rows: countryRows, faults: countryFaults } = countries();
  const codes = new Set(countryRows.map(({ code }) => code));
  const rows: Record<string, Row[]> = {
    currencies: currencies(),
    countries: countryRows,
    timezones: timezones(codes),
    languages: languages(),
    tax_rates: tax.rows,
    industries: industries(),
    event_categories: eventCategories(),
    hashtag_stoplist: hashtagStoplist(),
  };
  // The last of the tables.
  rows['sources'] = sources(landed, rows, today);
  const tables = TABLES.map((table) => [table.name, inOrder(table, rowsOf(rows, table))] as const);
  return { snapshot: Object.fromEntries(tables), faults: [...countryFaults, ...tax.faults] };
}

function currencies(): Row[] {
  return Object.entries(packagedCurrencies)
    .filter(([code, { withdrawn }]) => withdrawn !== true && !CURRENCIES_WITHOUT_MINOR_UNIT.includes(code))
    .map(([code, { name, symbol, decimals }]) => ({ code, name, symbol, decimal_places: decimals }));
}

function countries(): { rows: Row[]; faults: string[] } {
  const faults: string[] = [];
  for (const [code, { says }] of Object.entries(COUNTRY_CORRECTIONS)) {
    const country: Readonly<Record<string, unknown>> = { ...packagedCountries[code as TCountryCode] };
    for (const [name, said] of Object.entries(says)) {
      if (isDeepStrictEqual(country[name], said)) continue;
      const [found, wanted] = [JSON.stringify(country[name]), JSON.stringify(said)];
      faults.push(`countries ${code}: the package says ${name} ${found}, the correction is of ${wanted}: look again`);
    }
  }
  const codes = Object.keys(packagedCountries) as TCountryCode[];
  const rows = codes
    .map((code) => ({ ...getCountryData(code), ...COUNTRY_CORRECTIONS[code]?.is }))
    .filter(({ iso2 }) => isAssigned(iso2))
    .map(({ iso2, iso3, name, phone, currency }) => ({
      code: iso2,
      alpha3: iso3,
      name,
      phone_prefixes: phone.map((digits) => `+${digits}`),
      currency_code: currency[0] ?? null,
    }));
  return { rows, faults };
}

/** ISO 3166-1 reserves the codes of Ascension and Tristan da Cunha and leaves that of Kosovo to its users: none is assigned. */
const isAssigned = (code: string) => !['AC', 'TA', 'XK'].includes(code);

/** Every name that the IANA database has, since rows of old carry them all, but for the one of a machine that was never set. */
function timezones(countryCodes: ReadonlySet<Value | undefined>): Row[] {
  return Object.values(getAllTimezones({ deprecated: true }))
    .filter(({ name }) => name !== 'Factory')
    .map(({ name, aliasOf = null, countries: [country] }) => ({
      name,
      alias_of: aliasOf,
      // The first one is where the place lies that gives the zone its name; the others have had the same time since 1970. Of a place that
      // two claim, the first is the one that IANA's zone1970.tab names first, by whose time its clocks go: RU, UA for Europe/Simferopol.
      country_code: country !== undefined && countryCodes.has(country) ? country : null,
    }));
}

function languages(): Row[] {
  return ISO6391.getLanguages(ISO6391.getAllCodes()).map(({ code, name, nativeName }) => ({
    code,
    name,
    native_name: nativeName,
  }));
}

interface Lockfile {
  readonly packages: Readonly<Record<string, { readonly version?: string; readonly license?: string }>>;
}

function sources(landed: Snapshot | null, rows: Snapshot, today: string): Row[] {
  const lockfile = JSON.parse(readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8')) as Lockfile;
  return TABLES.filter(({ name }) => name !== 'sources').map((table): Row => {
    const { package: name, note } = SOURCES[table.name] ?? { package: null, note: null };
    const locked = name === null ? undefined : lockfile.packages[`node_modules/${name}`];
    const source = { package: name, version: locked?.version ?? null, licence: locked?.license ?? null, note };
    const known = landed?.['sources']?.find(({ table_name }) => table_name === table.name);
    const taken = (taken_on: Value): Row => ({ table_name: table.name, ...source, taken_on });
    const isSame =
      known !== undefined &&
      isDeepStrictEqual(taken(known['taken_on'] ?? null), known) &&
      isDeepStrictEqual(inOrder(table, rowsOf(rows, table)), rowsOf(landed, table));
    return isSame ? known : taken(today);
  });
}
