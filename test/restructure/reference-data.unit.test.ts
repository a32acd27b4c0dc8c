import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { TAX_CORRECTIONS, TAX_OMISSIONS } from '../../scripts/reference/corrections.ts';
import { declaredReference } from '../../scripts/reference/declared.ts';
import { findFaults } from '../../scripts/reference/faults.ts';
import { type Landed, landedText, nextMigration } from '../../scripts/reference/landed.ts';
import { migrationSql } from '../../scripts/reference/migration-sql.ts';
import { type Row, type Snapshot, TABLES } from '../../scripts/reference/table.ts';
import { type Jurisdiction, taxRates } from '../../scripts/reference/tax-rates.ts';
import { CATEGORIES, INDUSTRIES } from '../../src/demo/platform/filling/words.ts';

const landed = JSON.parse(
  readFileSync(new URL('../../scripts/reference/landed.json', import.meta.url), 'utf8'),
) as Landed;
const after = landed.after as Snapshot;
const { snapshot: declared, faults } = declaredReference(after, '2999-01-01');
const rows = (table: string): readonly Row[] => declared[table] ?? [];

/** What is declared, but for a table of which some rows are otherwise. */
const but = (table: string, change: (row: Row) => Row | undefined, more: readonly Row[] = []): Snapshot => ({
  ...declared,
  [table]: [
    ...rows(table)
      .map(change)
      .filter((row) => row !== undefined),
    ...more,
  ],
});

describe('reference data', () => {
  it('is what the packages and our lists say', () => {
    expect(faults).toEqual([]);
    expect(findFaults(null, declared)).toEqual([]);
    expect(declared).toEqual(after);
  });

  it('tells of each table where it is from, and keeps the day on which that was taken while it says the same', () => {
    expect(rows('sources').map(({ table_name }) => table_name)).toEqual(
      TABLES.map(({ name }) => name)
        .filter((name) => name !== 'sources')
        .sort(),
    );
    expect(rows('sources').filter(({ taken_on }) => taken_on === '2999-01-01')).toEqual([]);
    expect(rows('sources').find(({ table_name }) => table_name === 'countries')).toMatchObject({
      package: 'countries-list',
      version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      licence: 'MIT',
    });
    expect(rows('sources').find(({ table_name }) => table_name === 'industries')).toMatchObject({ package: null });
  });

  it('has the categories and the industries that the filled platform uses', () => {
    const slugs = (table: string) => rows(table).map(({ slug }) => slug);
    expect(slugs('event_categories')).toEqual(expect.arrayContaining([...CATEGORIES]));
    expect(slugs('industries')).toEqual(expect.arrayContaining([...INDUSTRIES]));
  });

  it('takes a source anew on the day on which it says something else, and no other', () => {
    const { snapshot } = declaredReference(
      but('languages', (row) => (row['code'] === 'de' ? undefined : row)),
      '2999-01-01',
    );
    const taken = snapshot['sources']?.filter(({ taken_on }) => taken_on === '2999-01-01');
    expect(taken?.map(({ table_name }) => table_name)).toEqual(['languages']);
  });

  it('is written down with a line for each row, and read back as it was', () => {
    expect(JSON.parse(landedText(landed))).toEqual(landed);
    expect(landedText(landed)).toContain('\n{"code":"de","name":"German","native_name":"Deutsch"},\n');
  });
});

describe('a change of a package', () => {
  const withoutHeader = (sql: string) => sql.replace(/^-- Generated .*\n\n/, '');
  const next = (snapshot: Snapshot, amend = false) =>
    nextMigration({ landed, declared: snapshot, amend, migrations: ['0001_a.sql', '0071_z.sql', '0054_b.sql'] });
  const renamed = but('languages', (row) => (row['code'] === 'de' ? { ...row, name: "Teuton's" } : row));

  it('makes the next migration, of what landed and what is declared now', () => {
    expect(next(renamed)).toEqual({ migration: '0072_reference_data', before: after, after: renamed });
  });

  it('makes none where nothing changed', () => {
    expect(next(declared)).toEqual(landed);
  });

  it('goes into the last migration while that is amended', () => {
    expect(next(renamed, true)).toEqual({ ...landed, after: renamed });
  });

  it('is written with what differs and nothing else', () => {
    expect(
      withoutHeader(migrationSql(declared, renamed, 'no schema')),
    ).toBe(`insert into ref.languages (code, name, native_name) values
  ('de', 'Teuton''s', 'Deutsch')
on conflict (code) do update set name = excluded.name, native_name = excluded.native_name, withdrawn_on = null;
`);
  });

  it('withdraws what is there no more, on the day on which that was taken, before it writes what is new', () => {
    const gone = but('languages', (row) => (row['code'] === 'de' ? undefined : row), [
      { code: 'xq', name: 'New', native_name: 'New' },
    ]);
    const taken = (gone['sources'] ?? []).map((row) =>
      row['table_name'] === 'languages' ? { ...row, taken_on: '2027-02-03' } : row,
    );
    const sql = withoutHeader(migrationSql(declared, { ...gone, sources: taken }, ''));
    expect(sql.split(/\n\n/).map((statement) => statement.split('\n').slice(0, 2))).toEqual([
      ["update ref.languages set withdrawn_on = '2027-02-03'", "where code in ('de') and withdrawn_on is null;"],
      ['insert into ref.languages (code, name, native_name) values', "  ('xq', 'New', 'New')"],
      [expect.stringContaining('insert into ref.sources '), expect.stringContaining("  ('languages', ")],
    ]);
  });

  it('leaves the decimal places of a currency alone, and is refused where it changes them', () => {
    const otherPlaces = but('currencies', (row) => (row['code'] === 'JPY' ? { ...row, decimal_places: 2 } : row));
    expect(migrationSql(null, declared, '')).not.toContain('decimal_places = excluded');
    expect(findFaults(declared, otherPlaces)).toEqual([
      expect.stringMatching(/^currencies JPY: decimal_places is 2 and was 0: /),
    ]);
  });

  it.each([
    [
      'a key that comes twice',
      but('industries', (row) => row, rows('industries').slice(0, 1)),
      /^industries \S+: twice$/,
    ],
    [
      'a currency withdrawn that a country has',
      but('currencies', (row) => (row['code'] === 'JPY' ? undefined : row)),
      /^countries JP: currency_code is JPY, which is not in currencies$/,
    ],
    ['a table without rows', but('tax_rates', () => undefined), /^tax_rates: no rows at all$/],
  ])('is refused with %s', (_, snapshot, fault) => {
    expect(findFaults(null, snapshot)).toEqual([expect.stringMatching(fault)]);
  });
});

describe('tax rates', () => {
  const given = (jurisdictions: Readonly<Record<string, Jurisdiction>>) => {
    const all = { ...jurisdictions };
    return taxRates(all).rows.map(({ id, tax_type, rate_percent, valid_until }) => [
      id,
      tax_type,
      rate_percent,
      valid_until,
    ]);
  };

  it.each([
    [0.19, '19'],
    [0.14975, '14.975'],
    [0.255, '25.5'],
    [0.07, '7'],
    [0.066, '6.6'],
    [0.0001, '0.01'],
    [0.000001, '0.0001'],
  ])('are exact: %d of one is %s per cent', (rate, percent) => {
    expect(given({ AA: { type: 'vat', rate } })).toEqual([['AA', 'vat', percent, null]]);
  });

  it('are refused where the database would have to round them', () => {
    for (const rate of [0.0012345, 1e-7]) expect(() => given({ AA: { type: 'vat', rate } })).toThrow('too many digits');
  });

  it('hold from the day after a change until the next one', () => {
    const before = { '2020-12-31T22:00:00.000Z': { rate: 0.16 }, '2020-06-30T22:00:00.000Z': { rate: 0.19 } };
    expect(given({ AA: { type: 'vat', rate: 0.19, before } })).toEqual([
      ['AA@2021-01-01', 'vat', '19', null],
      ['AA@2020-07-01', 'vat', '16', '2021-01-01'],
      ['AA', 'vat', '19', '2020-07-01'],
    ]);
  });

  it('of a region include those of its country, from each day on which either changes', () => {
    const country: Jurisdiction = {
      type: 'gst',
      rate: 0.05,
      before: { '2008-01-01T00:00:00.000Z': { rate: 0.06 } },
      states: {
        QC: { type: 'qst', rate: 0.09975 },
        NS: { type: 'hst', rate: 0.09, before: { '2025-04-01T00:00:00.000Z': { rate: 0.1 } } },
        ZZ: { type: 'vat', rate: -0.05 },
      },
    };
    expect(given({ AA: country }).slice(2)).toEqual([
      ['AA-QC@2008-01-01', 'gst_qst', '14.975', null],
      ['AA-QC', 'gst_qst', '15.975', '2008-01-01'],
      ['AA-NS@2025-04-01', 'hst', '14', null],
      ['AA-NS@2008-01-01', 'hst', '15', '2025-04-01'],
      ['AA-NS', 'hst', '16', '2008-01-01'],
      ['AA-ZZ@2008-01-01', 'none', '0', null],
      ['AA-ZZ', 'vat', '1', '2008-01-01'],
    ]);
  });

  it('are corrected only while the package says what the correction replaces', () => {
    const { faults: found } = taxRates({ EC: { type: 'vat', rate: 0.15 } });
    expect(found.filter((fault) => fault.startsWith('tax_rates EC'))).toEqual([
      'tax_rates EC: the package says [["15",null]], the correction is of [["12",null]]: look again',
    ]);
    // All others are not in that package at all.
    const others = [...Object.keys(TAX_CORRECTIONS), ...Object.keys(TAX_OMISSIONS)].filter((code) => code !== 'EC');
    expect(found).toHaveLength(others.length + 1);
  });
});
