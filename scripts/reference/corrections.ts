// Where a package is wrong, or says it worse than we may. Each correction tells what it replaces: once the package says anything else,
// `npm run reference` stops, and somebody looks whether it is still needed.

export interface CountryCorrection {
  readonly says: Readonly<Record<string, unknown>>;
  readonly is: { readonly name?: string; readonly phone?: readonly number[] };
}

/** Names that lost their letters, a new name, a part that stands for the whole, and prefixes that are missing or not in use. */
export const COUNTRY_CORRECTIONS: Readonly<Record<string, CountryCorrection>> = {
  AX: { says: { name: 'Aland' }, is: { name: 'Åland Islands' } },
  BL: { says: { name: 'Saint Barthelemy' }, is: { name: 'Saint Barthélemy' } },
  BQ: {
    says: { name: 'Bonaire', phone: [5997] },
    is: { name: 'Bonaire, Sint Eustatius and Saba', phone: [5997, 5993, 5994] },
  },
  CI: { says: { name: 'Ivory Coast' }, is: { name: "Côte d'Ivoire" } },
  CW: { says: { name: 'Curacao' }, is: { name: 'Curaçao' } },
  JM: { says: { phone: [1876] }, is: { phone: [1876, 1658] } },
  RE: { says: { name: 'Reunion' }, is: { name: 'Réunion' } },
  ST: { says: { name: 'Sao Tome and Principe' }, is: { name: 'São Tomé and Príncipe' } },
  TL: { says: { name: 'East Timor' }, is: { name: 'Timor-Leste' } },
  // +379 is assigned to it and not in use: it is called by Rome's numbers.
  VA: { says: { phone: [379] }, is: { phone: [39] } },
};

/** A rate in percent and its first day, null where nobody noted it. The newest comes first. */
export type Change = readonly [ratePercent: string, from: string | null];

export interface TaxCorrection {
  readonly says: readonly Change[];
  readonly is: readonly Change[];
}

/** Changes of law that the package has not, or has on another day. */
export const TAX_CORRECTIONS: Readonly<Record<string, TaxCorrection>> = {
  BH: {
    says: [['5', null]],
    is: [
      ['10', '2022-01-01'],
      ['5', null],
    ],
  },
  BS: {
    says: [['12', null]],
    is: [
      ['10', '2022-01-01'],
      ['12', '2018-07-01'],
    ],
  },
  EC: {
    says: [['12', null]],
    is: [
      ['15', '2024-04-01'],
      ['12', null],
    ],
  },
  KZ: {
    says: [['12', null]],
    is: [
      ['16', '2026-01-01'],
      ['12', null],
    ],
  },
  LI: {
    says: [['7.7', null]],
    is: [
      ['8.1', '2024-01-01'],
      ['7.7', null],
    ],
  },
  LK: {
    says: [['12', null]],
    is: [
      ['18', '2024-01-01'],
      ['15', '2022-09-01'],
      ['12', null],
    ],
  },
  PK: {
    says: [['17', null]],
    is: [
      ['18', '2023-02-14'],
      ['17', null],
    ],
  },
  RO: {
    says: [
      ['21', '2025-08-02'],
      ['19', null],
    ],
    is: [
      ['21', '2025-08-01'],
      ['19', null],
    ],
  },
  RU: {
    says: [['20', null]],
    is: [
      ['22', '2026-01-01'],
      ['20', null],
    ],
  },
  // Before it had a tax on turnover, goods and services apart.
  SR: {
    says: [
      ['15', '2023-01-01'],
      ['10', null],
    ],
    is: [['10', '2023-01-01']],
  },
  // By law it is 10 %, reduced to 7 % by decrees that were prolonged each time.
  TH: {
    says: [
      ['10', '2023-09-01'],
      ['7', null],
    ],
    is: [['7', null]],
  },
};

/** Jurisdictions that are left out: a rate that nobody owes, or of which it is in doubt who owes it today, is worse than none. */
export const TAX_OMISSIONS: Readonly<Record<string, string>> = {
  AW: 'taxes turnover three times over, which is no value-added tax',
  CW: 'taxes turnover, which is no value-added tax',
  ID: 'has had 12 % by law since 2025, of eleven twelfths of the price of most things; the package has neither',
  KW: 'levies no value-added tax',
  MY: 'taxes sales and services apart, at rates that one number does not say',
  QA: 'levies no value-added tax',
  // Of the states the package's rates are years old; and of the country, that nothing is owed would be said to whoever owes in one.
  US: 'has no tax of the country, and what is owed depends on state, county and city',
  VN: 'has had 10 % lowered to 8 % for most things, by decrees that were prolonged each time',
  XK: 'has no code in ISO 3166-1',
  ZW: 'has changed its rate for 2026, which the package has not',
};

// ISO 4217 has codes for metals, for units of account and for tests. They have no minor unit, so no amount can be in them.
export const CURRENCIES_WITHOUT_MINOR_UNIT: readonly string[] = [
  'XAG',
  'XAU',
  'XBA',
  'XBB',
  'XBC',
  'XBD',
  'XDR',
  'XPD',
  'XPT',
  'XSU',
  'XTS',
  'XUA',
  'XXX',
];
