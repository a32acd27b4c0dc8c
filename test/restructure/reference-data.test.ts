import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Landed } from '../../scripts/reference/landed.ts';
import { migrationSql } from '../../scripts/reference/migration-sql.ts';
import { type Row, type Snapshot, TABLES } from '../../scripts/reference/table.ts';
import { migrate } from '../../src/db/migrate.ts';
import type { Queryable } from '../../src/db/pool.ts';
import { openAccounts } from '../../src/ledger/ledger.ts';
import { asSuperuser, createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { waitsForLock } from '../support/locks.ts';
import { migrateUntil } from '../support/migrate-until.ts';

/** In the order in which they are applied. */
const MIGRATIONS = readdirSync('migrations')
  .filter((name) => /_reference_data[_.]/.test(name))
  .sort()
  .map((name) => `migrations/${name}`);
const landed = JSON.parse(readFileSync('scripts/reference/landed.json', 'utf8')) as Landed;
const declared = landed.after as Snapshot;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

async function select(sql: string, db = database): Promise<Row[]> {
  return (await db.pool.query<Row>(sql)).rows;
}

/** Everything in schema ref, as text. */
async function contents(db: TestDatabase): Promise<Record<string, string[]>> {
  const tables = TABLES.map(async ({ name, columns: [key] }): Promise<[string, string[]]> => {
    const { rows } = await db.pool.query<{ row: string }>(`select t::text as row from ref.${name} t order by t.${key}`);
    return [name, rows.map(({ row }) => row)];
  });
  return Object.fromEntries(await Promise.all(tables));
}

describe('countries', () => {
  it('are the 249 of ISO 3166-1, each with both codes', async () => {
    expect(
      await select(
        'select count(*)::integer as n, count(distinct alpha3)::integer as codes from ref.countries where withdrawn_on is null',
      ),
    ).toEqual([{ n: 249, codes: 249 }]);
    expect(await select(`select * from ref.countries where code in ('CI', 'DO', 'US') order by code`)).toEqual([
      {
        code: 'CI',
        alpha3: 'CIV',
        name: "Côte d'Ivoire",
        phone_prefixes: ['+225'],
        currency_code: 'XOF',
        withdrawn_on: null,
      },
      {
        code: 'DO',
        alpha3: 'DOM',
        name: 'Dominican Republic',
        phone_prefixes: ['+1809', '+1829', '+1849'],
        currency_code: 'DOP',
        withdrawn_on: null,
      },
      {
        code: 'US',
        alpha3: 'USA',
        name: 'United States',
        phone_prefixes: ['+1'],
        currency_code: 'USD',
        withdrawn_on: null,
      },
    ]);
  });

  it('are called by the prefixes that are in use', async () => {
    expect(await select(`select phone_prefixes from ref.countries where code = 'VA'`)).toEqual([
      { phone_prefixes: ['+39'] },
    ]);
  });

  it('have a currency, all but Antarctica, and pay with the one of today', async () => {
    expect(await select('select code from ref.countries where currency_code is null')).toEqual([{ code: 'AQ' }]);
    const pairs = `select string_agg(code || currency_code, ' ' order by code) as pairs from ref.countries
      where code in ('BG', 'CH', 'CW', 'HR', 'JP', 'LI', 'PA', 'SL', 'SV', 'VE', 'ZW')`;
    expect(await select(pairs)).toEqual([
      { pairs: 'BGEUR CHCHF CWXCG HREUR JPJPY LICHF PAPAB SLSLE SVUSD VEVES ZWZWG' },
    ]);
  });

  it.each([
    ["'{49}'", 'a prefix without the sign'],
    ["'{+049}'", 'a prefix that begins with 0'],
    ["'{+49,+12345678}'", 'a prefix that is a number'],
    ["'{}'", 'no prefix'],
    ["'{+49,null}'", 'a prefix that is null'],
  ])('are refused with the prefixes %s: %s', async (prefixes) => {
    const refused = database.pool.query(`update ref.countries set phone_prefixes = ${prefixes} where code = 'DE'`);
    await expect(refused).rejects.toMatchObject({ constraint: 'countries_phone_prefixes_format' });
  });
});

describe('currencies', () => {
  it('have the decimal places that ISO 4217 gives them, two but for these', async () => {
    const places = `select decimal_places as places, string_agg(code, ' ' order by code) as codes
      from ref.currencies where decimal_places <> 2 and withdrawn_on is null group by decimal_places order by decimal_places`;
    expect(await select(places)).toEqual([
      { places: 0, codes: 'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF' },
      { places: 3, codes: 'BHD IQD JOD KWD LYD OMR TND' },
      { places: 4, codes: 'CLF UYW' },
    ]);
  });

  it('are those that 0001 brought, all of them still used, and none that is no money', async () => {
    const brought = readFileSync('migrations/0001_reference_currencies.sql', 'utf8').matchAll(/^ {2}\('([A-Z]{3})'/gm);
    const codes = [...brought].map(([, code]) => ({ code })).sort((a, b) => (String(a.code) < String(b.code) ? -1 : 1));
    expect(await select('select code from ref.currencies where withdrawn_on is null order by code')).toEqual(codes);
    expect(codes.filter(({ code }) => ['XXX', 'XTS', 'XAU', 'XDR'].includes(String(code)))).toEqual([]);
  });
});

describe('time zones', () => {
  it('are known to the server, which has its own database of them; all but aliases where its package leaves those out', async () => {
    const unknown = `select t.name, t.alias_of from ref.timezones t
      where t.withdrawn_on is null and t.name not in (select n.name from pg_timezone_names n)`;
    const { length: hasOldNames } = await select(`select from pg_timezone_names where name = 'US/Eastern'`);
    expect((await select(unknown)).filter(({ alias_of }) => hasOldNames === 1 || alias_of === null)).toEqual([]);
  });

  it('are all that the server has, but for files that are no zone and the newest where its database is newer', async () => {
    const unlisted = `select n.name from pg_timezone_names n
      where n.name not in (select t.name from ref.timezones t) and n.name !~ '^(posix|right)/' order by n.name`;
    const names = (await select(unlisted)).map(({ name }) => String(name));
    const zones = names.filter((name) => !['Factory', 'localtime', 'posixrules'].includes(name));
    expect(zones.length, zones.join(', ')).toBeLessThan(5);
  });

  it('have one canonical name for what is the same, at the same hour', async () => {
    const chains = `select a.name from ref.timezones a join ref.timezones c on c.name = a.alias_of where c.alias_of is not null`;
    expect(await select(chains)).toEqual([]);
    const apart = `select a.name from ref.timezones a join pg_timezone_names an on an.name = a.name
      join pg_timezone_names cn on cn.name = a.alias_of where an.utc_offset <> cn.utc_offset`;
    expect(await select(apart)).toEqual([]);
    const kinds = `select name, alias_of, country_code from ref.timezones
      where name in ('Asia/Calcutta', 'Asia/Kolkata', 'Europe/Amsterdam', 'Europe/Kyiv', 'Europe/Simferopol', 'UTC') order by name`;
    expect(await select(kinds)).toEqual([
      { name: 'Asia/Calcutta', alias_of: 'Asia/Kolkata', country_code: 'IN' },
      { name: 'Asia/Kolkata', alias_of: null, country_code: 'IN' },
      { name: 'Europe/Amsterdam', alias_of: 'Europe/Brussels', country_code: 'NL' },
      { name: 'Europe/Kyiv', alias_of: null, country_code: 'UA' },
      // As zone1970.tab has it, RU,UA: by whose time its clocks go.
      { name: 'Europe/Simferopol', alias_of: null, country_code: 'RU' },
      { name: 'UTC', alias_of: 'Etc/UTC', country_code: null },
    ]);
  });

  it('are in every country where somebody lives', async () => {
    const without = `select c.code from ref.countries c
      where not exists (select from ref.timezones t where t.country_code = c.code) order by c.code`;
    // Two islands of penguins.
    expect(await select(without)).toEqual([{ code: 'BV' }, { code: 'HM' }]);
  });
});

it('languages are those of ISO 639-1, in English and in themselves', async () => {
  const { length } = await select('select code from ref.languages');
  expect([183, 184]).toContain(length);
  expect(await select(`select name, native_name from ref.languages where code in ('de', 'es') order by code`)).toEqual([
    { name: 'German', native_name: 'Deutsch' },
    { name: 'Spanish', native_name: 'Español' },
  ]);
});

describe('tax rates', () => {
  const rateOn = (place: string, day: string) => {
    const [country, region] = place.split('-');
    return select(
      `select tax_type, trim_scale(rate_percent)::text as percent from ref.tax_rates
       where withdrawn_on is null and country_code = '${country}' and region_code is not distinct from ${region === undefined ? 'null' : `'${region}'`}
         and coalesce(valid_from <= '${day}', true) and coalesce('${day}' < valid_until, true)`,
    );
  };

  it.each([
    ['DE', '2026-01-01', 'vat', '19'],
    ['DE', '2020-12-31', 'vat', '16'],
    ['DE', '2020-06-30', 'vat', '19'],
    ['FR', '2026-01-01', 'vat', '20'],
    ['GB', '2026-01-01', 'vat', '20'],
    ['FI', '2024-09-01', 'vat', '25.5'],
    ['FI', '2024-08-31', 'vat', '24'],
    ['EE', '2025-07-01', 'vat', '24'],
    ['RO', '2025-07-31', 'vat', '19'],
    ['RO', '2025-08-01', 'vat', '21'],
    ['SK', '2025-01-01', 'vat', '23'],
    ['CH', '2024-01-01', 'vat', '8.1'],
    ['BS', '2022-01-01', 'vat', '10'],
    ['SR', '2023-01-01', 'vat', '10'],
    ['TH', '2026-01-01', 'vat', '7'],
    ['RU', '2026-01-01', 'vat', '22'],
    ['CA', '2026-01-01', 'gst', '5'],
    ['CA-ON', '2026-01-01', 'hst', '13'],
    ['CA-NS', '2026-01-01', 'hst', '14'],
    ['CA-QC', '2026-01-01', 'gst_qst', '14.975'],
    ['ES-GC', '2026-01-01', 'igic', '7'],
    ['ES-CE', '2026-01-01', 'none', '0'],
  ])('%s on %s: %s of %s per cent', async (place, day, type, percent) => {
    expect(await rateOn(place, day)).toEqual([{ tax_type: type, percent }]);
  });

  it.each(['US', 'US-CA', 'AW', 'CW', 'ID', 'VN', 'ZW'])(
    'are silent on %s, where one number is not what is owed',
    async (place) => {
      expect(await rateOn(place, '2026-11-30')).toEqual([]);
    },
  );

  it('that landed are withdrawn and not deleted: rows may refer to them', async () => {
    const withdrawn = `select string_agg(id, ' ' order by id) as ids from ref.tax_rates where withdrawn_on is not null`;
    expect(await select(withdrawn)).toEqual([{ ids: 'CW ID US VN ZW' }]);
  });

  it('are one on any day', async () => {
    const overlaps = `select a.id, b.id from ref.tax_rates a join ref.tax_rates b
      on a.id < b.id and a.country_code = b.country_code and a.region_code is not distinct from b.region_code
        and daterange(a.valid_from, a.valid_until) && daterange(b.valid_from, b.valid_until)`;
    expect(await select(overlaps)).toEqual([]);
  });

  it.each([
    ['100.5', 'tax_rates_rate_percent_range'],
    ['-1', 'tax_rates_rate_percent_range'],
    ["'NaN'", 'tax_rates_rate_percent_range'],
    ['19.00001', 'tax_rates_rate_percent_scale'],
    ['0', 'tax_rates_none_is_zero'],
  ])('are refused as %s per cent', async (percent, constraint) => {
    const refused = database.pool.query(`update ref.tax_rates set rate_percent = ${percent} where id = 'FR'`);
    await expect(refused).rejects.toMatchObject({ constraint });
  });
});

it('categories of events have a parent that is a topic, or none', async () => {
  const grandchildren = `select c.slug from ref.event_categories c join ref.event_categories p on p.slug = c.parent_slug
    where p.parent_slug is not null`;
  expect(await select(grandchildren)).toEqual([]);
  const topics = `select count(*) filter (where parent_slug is null)::integer as topics, count(*)::integer as n from ref.event_categories`;
  expect(await select(topics)).toEqual([{ topics: 16, n: 58 }]);
});

it('every table says of each column what it is for, or has a comment itself, and names every constraint', async () => {
  const silent = `select c.relname from pg_class c
    where c.relnamespace = 'ref'::regnamespace and c.relkind = 'r' and obj_description(c.oid) is null`;
  expect(await select(silent)).toEqual([]);
  const tables = `select relname from pg_class where relnamespace = 'ref'::regnamespace and relkind = 'r' order by relname`;
  expect((await select(tables)).map(({ relname }) => relname)).toEqual(TABLES.map(({ name }) => name).sort());
  // What PostgreSQL would have called one that has no name.
  const unnamed = `select conname from pg_constraint where connamespace = 'ref'::regnamespace and conname ~ '_check[0-9]*$'`;
  expect(await select(unnamed)).toEqual([]);
});

describe('nobody but the owner', () => {
  const stranger = () => `${database.name}_stranger`;
  beforeAll(() => database.pool.query(`create role ${stranger()}`));
  afterAll(() => database.pool.query(`drop role ${stranger()}`));

  // The owner is no member of Supabase's roles: the superuser plays them.
  const asRole = async (role: string, work: (client: pg.Client) => Promise<void>) => {
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    try {
      await admin.query(`set role ${role}`);
      await work(admin);
    } finally {
      await admin.end();
    }
  };
  const attacks = TABLES.flatMap(({ name, columns: [key] }) => [
    `insert into ref.${name} select * from ref.${name}`,
    `insert into ref.${name} (${key}) values ('de') on conflict (${key}) do update set ${key} = excluded.${key}`,
    `update ref.${name} set ${key} = ${key}`,
    `delete from ref.${name}`,
    `truncate ref.${name} cascade`,
    `alter table ref.${name} add column more text`,
    `create trigger t before insert on ref.${name} for each statement execute function tsvector_update_trigger()`,
  ]);

  it.each([
    ['a stranger', stranger],
    ...['anon', 'authenticated', 'service_role'].map((role): [string, () => string] => [role, () => role]),
  ])('writes: %s reads everything and is refused all else', async (_, role) => {
    await asRole(role(), async (client) => {
      for (const { name } of TABLES) {
        expect((await client.query(`select * from ref.${name}`)).rowCount).toBeGreaterThan(0);
      }
      for (const sql of [...attacks, 'create table ref.mine (n integer)', 'drop schema ref cascade']) {
        await expect(client.query(sql), sql).rejects.toMatchObject({ code: '42501' });
      }
    });
  });

  it('keeps it so where default privileges hand everything out, as on Supabase', async () => {
    const fresh = await createDatabase();
    try {
      const grants = TABLES.map(({ name }) => `grant all on ref.${name} to public, anon, authenticated, service_role;`);
      await asSuperuser(fresh, grants.join(' '));
      await fresh.pool.query(readFileSync('migrations/0054_reference_data.sql', 'utf8'));
      const may = `select r.rolname, c.relname, p.privilege from pg_roles r, pg_class c,
          unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p(privilege)
        where r.rolname in ('anon', 'authenticated', 'service_role') and c.relnamespace = 'ref'::regnamespace and c.relkind = 'r'
          and has_table_privilege(r.rolname, c.oid, p.privilege)`;
      expect(await select(may, fresh)).toEqual([]);
    } finally {
      await fresh.drop();
    }
  });
});

describe('the migration', () => {
  let copy: TestDatabase;
  beforeAll(async () => {
    copy = await createDatabase();
  });
  afterAll(() => copy.drop());

  it('changes nothing where it is applied again, and puts back what was changed by hand', async () => {
    const before = await contents(copy);
    await copy.pool.query(`
      update ref.countries set name = 'Nowhere', currency_code = 'JPY' where code = 'DE';
      update ref.currencies set symbol = '?', withdrawn_on = '2020-01-01' where code = 'EUR';
      delete from ref.tax_rates where country_code = 'FR';
      update ref.event_categories set parent_slug = null`);
    expect(await contents(copy)).not.toEqual(before);
    for (let time = 0; time < 2; time += 1) {
      const files = MIGRATIONS.flatMap((file) => ['-f', file]);
      execFileSync('psql', [copy.url, '-q', '-v', 'ON_ERROR_STOP=1', ...files], { stdio: 'pipe' });
      expect(await contents(copy)).toEqual(before);
    }
  });

  it('is followed, where a package changed, by one with the differences alone', async () => {
    const rows = (table: string) => declared[table] ?? [];
    const next: Snapshot = {
      ...declared,
      currencies: [...rows('currencies'), { code: 'QQQ', name: 'New Coin', symbol: 'Q', decimal_places: 2 }],
      countries: rows('countries')
        .filter(({ code }) => code !== 'AQ')
        .map((row) => (row['code'] === 'NZ' ? { ...row, name: "Aotearoa's", currency_code: 'QQQ' } : row)),
      timezones: rows('timezones').map((row) => (row['country_code'] === 'AQ' ? { ...row, country_code: null } : row)),
      sources: rows('sources').map((row) =>
        row['table_name'] === 'countries' ? { ...row, version: '9.9.9', taken_on: '2027-02-03' } : row,
      ),
    };
    const before = await contents(copy);
    const sql = migrationSql(declared, next, 'no schema');
    await copy.pool.query(sql);
    const changed = Object.entries(await contents(copy)).flatMap(([table, texts]) =>
      texts.filter((text) => before[table]?.includes(text) !== true).map((text) => `${table} ${text}`),
    );
    expect(changed.filter((text) => !text.startsWith('timezones'))).toEqual([
      'currencies (QQQ,"New Coin",Q,2,)',
      'countries (AQ,ATA,Antarctica,{+672},,2027-02-03)',
      `countries (NZ,NZL,Aotearoa's,{+64},QQQ,)`,
      expect.stringContaining('sources (countries,countries-list,9.9.9,MIT,'),
    ]);
    // Again, and back again: nobody deleted what others may refer to.
    await copy.pool.query(sql);
    await copy.pool.query(migrationSql(next, declared, ''));
    const now = await contents(copy);
    expect({ ...now, currencies: now['currencies']?.filter((text) => !text.startsWith('(QQQ')) }).toEqual(before);
    expect(now['currencies']?.filter((text) => text.startsWith('(QQQ'))).toEqual([
      expect.stringMatching(/^\(QQQ,"New Coin",Q,2,\d{4}-\d\d-\d\d\)$/),
    ]);
  });

  it('lets accounts be opened while it waits for a long transaction that opened some, and comes after that', async () => {
    const empty = await createDatabase({ template: EMPTY });
    try {
      await migrateUntil(empty, '0054_reference_data');
      const open = (db: Queryable, name: string) => openAccounts(db, [{ type: 'receivable', currency: 'USD', name }]);
      const long = await empty.pool.connect();
      try {
        await long.query('begin');
        await open(long, 'long');
        const migrating = migrate(empty.url);
        await waitsForLock(empty.pool, 'Generated from the packages that ref.sources names');
        for (let n = 0; n < 20; n += 1) await open(empty.pool, `meanwhile_${n}`);
        await long.query('commit');
        expect((await migrating)[0]).toBe('0054_reference_data');
      } finally {
        long.release(true);
      }
      expect(await contents(empty)).toEqual(await contents(database));
    } finally {
      await empty.drop();
    }
  });
});
