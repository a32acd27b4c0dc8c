import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import catalogue from './catalogue-wallets.json' with { type: 'json' };

const TABLES = catalogue.tables.map((table) => table.name);

const [USER, WALLET, ORG, ORG_WALLET, INVOICE] = [1, 2, 3, 4, 5].map((n) => `00000000-0000-4000-8000-00000000000${n}`);

describe('the legacy wallet tables', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
    await createLegacyDatabase(database.pool);
  });
  afterAll(() => database.drop());

  const query = async (sql: string, parameters: unknown[] = []) =>
    (await database.pool.query<Record<string, unknown>>(sql, parameters)).rows;

  it('are exactly the tables of the subset', async () => {
    const rows = await query(`select tablename as name from pg_tables where schemaname = 'public' order by 1`);
    expect(rows.map(({ name }) => name)).toEqual([...TABLES].sort());
  });

  describe.each(catalogue.tables)('$name', (table) => {
    it('has the columns of the catalogue, in order, with type, nullability and default', async () => {
      const columns = await query(
        `select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
           pg_get_expr(d.adbin, d.adrelid) as default
         from pg_attribute a left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
         where a.attrelid = to_regclass('public.' || $1) and a.attnum > 0 and not a.attisdropped order by a.attnum`,
        [table.name],
      );
      expect(columns).toEqual(table.columns.map((column) => ({ ...column, default: defaultSql(column) })));
    });

    it('has the primary key and the unique constraints of the catalogue, duplicates included', async () => {
      const keys = await query(
        `select c.contype::text as kind, c.conname as name, array(
           select a.attname::text from unnest(c.conkey) with ordinality k(attnum, nr)
           join pg_attribute a on (a.attrelid, a.attnum) = (c.conrelid, k.attnum) order by k.nr
         ) as columns
         from pg_constraint c where c.conrelid = to_regclass('public.' || $1) and c.contype in ('p', 'u')
         order by c.contype, c.conname`,
        [table.name],
      );
      expect(keys).toEqual([
        { kind: 'p', name: `${table.name}_pkey`, columns: table.primary_key },
        ...byName(table.unique as Named[]).map((unique) => ({ kind: 'u', ...unique })),
      ]);
    });

    it('has the foreign keys of the catalogue with their actions', async () => {
      const keys = await query(
        `select conname as name, confrelid::regclass::text as references, pg_get_constraintdef(oid) as definition
         from pg_constraint where conrelid = to_regclass('public.' || $1) and contype = 'f' order by conname`,
        [table.name],
      );
      // ad_creatives is not part of the subset.
      const expected = table.foreign_keys.filter((key) => key.references !== 'public.ad_creatives');
      expect(keys).toEqual(
        byName(expected).map((key) => ({
          name: key.name,
          references: key.references.replace('public.', ''),
          definition:
            `FOREIGN KEY (${key.columns.join(', ')}) REFERENCES ${key.references.replace('public.', '')}(${key.ref_columns.join(', ')})` +
            (key.on_delete === 'no action' ? '' : ` ON DELETE ${key.on_delete.toUpperCase()}`),
        })),
      );
    });

    it('has the checks of the catalogue by their names, and the plain ones word for word', async () => {
      const checks = await query(
        `select conname as name, pg_get_constraintdef(oid) as definition
         from pg_constraint where conrelid = to_regclass('public.' || $1) and contype = 'c' order by conname`,
        [table.name],
      );
      expect(checks.map(({ name }) => name)).toEqual(byName(table.checks as Named[]).map(({ name }) => name));
      for (const check of table.checks as Check[]) {
        const { definition } = checks.find(({ name }) => name === check.name) ?? {};
        if (check.in !== undefined) {
          const list = check.in.map((value) => `'${value}'::text`).join(', ');
          expect(definition).toBe(`CHECK ((${check.column} = ANY (ARRAY[${list}])))`);
        }
        if (check.op !== undefined) expect(definition).toBe(`CHECK ((${check.column} ${check.op} ${check.value}))`);
      }
    });

    it('has the indexes of the catalogue with their columns, directions and predicates', async () => {
      const indexes = await query(
        `select c.relname as name, i.indisunique as unique, i.indisprimary as primary, am.amname as method,
           pg_get_expr(i.indpred, i.indrelid) as predicate,
           array(select pg_get_indexdef(i.indexrelid, k, false) from generate_series(1, i.indnkeyatts) k) as columns,
           array(select case when i.indoption[k - 1] & 1 = 1 then 'desc' else 'asc' end
                 from generate_series(1, i.indnkeyatts) k) as directions
         from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam
         where i.indrelid = to_regclass('public.' || $1) order by 1`,
        [table.name],
      );
      expect(indexes).toEqual(
        byName(table.indexes as Index[]).map((index) => ({
          ...index,
          predicate: predicateSql(index.predicate),
        })),
      );
    });
  });

  it('have the enums of the catalogue, labels in order', async () => {
    const enums = await query(
      `select t.typname as name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
       from pg_enum e join pg_type t on t.oid = e.enumtypid group by 1 order by 1`,
    );
    expect(enums).toEqual(byName(catalogue.enums));
  });

  it('have the triggers of the catalogue', async () => {
    const triggers = await query(
      `select tgname as name, case when relnamespace = 'auth'::regnamespace then 'auth.' else '' end || relname as table,
         case when tgtype & 2 = 2 then 'before' else 'after' end as timing,
         array_remove(array[case when tgtype & 4 = 4 then 'insert' end, case when tgtype & 16 = 16 then 'update' end], null)
           as events,
         case when tgtype & 1 = 1 then 'row' else 'statement' end as level, proname as function
       from pg_trigger join pg_class c on c.oid = tgrelid join pg_proc p on p.oid = tgfoid
       where not tgisinternal order by 1`,
    );
    expect(triggers).toEqual(byName(catalogue.triggers));
  });

  it('have row-level security on, and the policies of the catalogue', async () => {
    const secured = await query(`select relname as name from pg_class
      where relnamespace = 'public'::regnamespace and relkind = 'r' and relrowsecurity order by 1`);
    expect(secured.map(({ name }) => name)).toEqual([...TABLES].sort());
    const policies = await query(
      `select policyname as name, tablename as table, lower(cmd) as command, roles::text[] as roles,
         permissive = 'PERMISSIVE' as permissive, qual is not null as has_using, with_check is not null as has_with_check
       from pg_policies where schemaname = 'public' order by 1`,
    );
    expect(policies).toEqual(byName(catalogue.policies));
  });

  it('apply where the roles of Supabase do not exist, leaving out what is for them', async () => {
    const other = await createDatabase({ template: EMPTY });
    try {
      // Roles belong to the whole server, so the file is read with the names of roles that it does not have.
      const sql = await readFile(new URL('../../fixtures/legacy/wallets.sql', import.meta.url), 'utf8');
      await other.pool.query(sql.replace(/\b(anon|authenticated|service_role)\b/g, 'missing_$1'));
      const { rows } = await other.pool.query(`select policyname from pg_policies where schemaname = 'public'`);
      expect(rows).toHaveLength(catalogue.policies.filter(({ roles }) => !roles.includes('authenticated')).length);
    } finally {
      await other.drop();
    }
  });

  it('can be asked for a second time only in vain, and change nothing by it', async () => {
    await expect(createLegacyDatabase(database.pool)).rejects.toMatchObject({ code: 'DB_FAILED' });
  });

  it.each([
    [
      'an unknown type',
      `insert into wallet_transactions (wallet_id, type, credits_delta) values ('${WALLET}', 'gift', 1)`,
      'wallet_txn_type_chk',
    ],
    ['a zero row of an organization', orgRow('adjustment', 0), 'org_wallet_txn_nonzero_chk'],
    ['a negative purchase of an organization', orgRow('purchase', -1), 'org_wallet_txn_sign_by_type_chk'],
    ['a positive spend of an organization', orgRow('spend', 1), 'org_wallet_txn_sign_by_type_chk'],
    ['a positive refund of an organization', orgRow('refund', 1), 'org_wallet_txn_sign_by_type_chk'],
    ['a promo row of an organization', orgRow('promo', 1), 'org_wallet_transactions_transaction_type_check'],
    [
      'a second purchase row of an invoice',
      `${orgRow('purchase', 1, INVOICE)}; ${orgRow('purchase', 2, INVOICE)}`,
      'uq_org_wallet_txn_invoice_purchase',
    ],
    [
      'a second refund row of an invoice',
      `${orgRow('refund', -1, INVOICE)}; ${orgRow('refund', -2, INVOICE)}`,
      'uq_org_wallet_txn_invoice_refund',
    ],
    [
      'an invoice of nobody',
      `insert into invoices (amount_usd_cents, credits_purchased, status) values (1, 1, 'paid')`,
      'invoices_wallet_check',
    ],
    [
      'an invoice of both',
      `insert into invoices (wallet_id, org_wallet_id, amount_usd_cents, credits_purchased, status) values ('${WALLET}', '${ORG_WALLET}', 1, 1, 'paid')`,
      'invoices_wallet_xor',
    ],
    ['a lot of nobody', lot('null', 'null', 1, 1), 'credit_lot_wallet_xor'],
    ['a lot of both', lot(`'${WALLET}'`, `'${ORG_WALLET}'`, 1, 1), 'credit_lot_wallet_xor'],
    ['a lot with more left than bought', lot(`'${WALLET}'`, 'null', 1, 2), 'credit_lots_check'],
    ['a lot with less than nothing left', lot(`'${WALLET}'`, 'null', 1, -1), 'credit_lots_check'],
    [
      'ad spend of two wallets',
      `insert into ad_spend_ledger (campaign_id, wallet_id, org_wallet_id, metric_type, quantity, rate_model, rate_usd_cents, credits_charged, occurred_at) values ('${ORG}', '${WALLET}', '${ORG_WALLET}', 'click', 1, 'cpc', 1, 1, now())`,
      'ad_spend_one_wallet_chk',
    ],
    [
      'ad spend of an organization',
      `insert into ad_spend_ledger (campaign_id, org_wallet_id, metric_type, quantity, rate_model, rate_usd_cents, credits_charged, occurred_at) values ('${ORG}', '${ORG_WALLET}', 'click', 1, 'cpc', 1, 1, now())`,
      undefined,
    ],
    [
      'four social links',
      `update user_profiles set social_links = '${JSON.stringify(Array(4).fill({ platform: 'x', url: 'y' }))}'`,
      'check_social_links_limit',
    ],
    ['social links that are no list', `update user_profiles set social_links = '{}'`, 'check_social_links_structure'],
    [
      'a social link without its url',
      `update user_profiles set social_links = '[{"platform": "x"}]'`,
      'check_social_links_structure',
    ],
    ['a second wallet of a user', `insert into wallets (user_id) values ('${USER}')`, 'wallets_user_id_unique'],
  ])('refuse %s', async (_, sql, constraint) => {
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query(OWNERS);
      await expect(tx.query(sql)).rejects.toMatchObject(
        constraint === undefined ? { code: '23502', column: 'wallet_id' } : { constraint },
      );
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('accept what the old code could write, wrong as it may be', async () => {
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query(OWNERS);
      await tx.query(`insert into wallet_transactions (wallet_id, type, credits_delta, reference_id)
        values ('${WALLET}', 'spend', 0, 'no uuid'), ('${WALLET}', 'purchase', -5, null)`);
      await tx.query(`update user_profiles set social_links = '[{"platform": "x", "url": "y"}]'`);
      await tx.query(orgRow('adjustment', -1));
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('make the profile of a new user, named after its address', async () => {
    const rows = await query(
      `with added as (insert into auth.users (email) values ('ada@example.test'), (null) returning id)
       select 1 from added`,
    );
    expect(rows).toHaveLength(2);
    const profiles = await query('select display_name, role, social_links from user_profiles order by 1');
    expect(profiles).toEqual([
      { display_name: 'New user', role: 'attendee', social_links: [] },
      { display_name: 'ada', role: 'attendee', social_links: [] },
    ]);
  });

  it('know the signed-in user from the claims of the request, and nobody outside one', async () => {
    expect(await query('select auth.uid() as uid, auth.jwt() as jwt, auth.role() as role')).toEqual([
      { uid: null, jwt: null, role: null },
    ]);
    const claims = { sub: '00000000-0000-4000-8000-000000000101', role: 'authenticated' };
    const rows = await query(
      `select auth.uid() as uid, auth.jwt() as jwt, auth.role() as role
       from set_config('request.jwt.claims', $1, true) as _`,
      [JSON.stringify(claims)],
    );
    expect(rows).toEqual([{ uid: claims.sub, jwt: claims, role: 'authenticated' }]);
  });
});

const OWNERS = `insert into auth.users (id, email) values ('${USER}', 'u@example.test');
  insert into organizations (id, name, created_by) values ('${ORG}', 'Org', '${USER}');
  insert into wallets (id, user_id) values ('${WALLET}', '${USER}');
  insert into org_wallets (id, org_id) values ('${ORG_WALLET}', '${ORG}')`;

function orgRow(type: string, delta: number, invoiceId?: string): string {
  const invoice = invoiceId === undefined ? 'null' : `'${invoiceId}'`;
  return `insert into org_wallet_transactions (wallet_id, transaction_type, credits_delta, invoice_id)
    values ('${ORG_WALLET}', '${type}', ${delta}, ${invoice})`;
}

function lot(wallet: string, orgWallet: string, purchased: number, remaining: number): string {
  return `insert into credit_lots
      (wallet_id, org_wallet_id, quantity_purchased, quantity_remaining, unit_price_cents, source)
    values (${wallet}, ${orgWallet}, ${purchased}, ${remaining}, 1, 'purchase')`;
}

interface Named {
  readonly name: string;
}
interface Check extends Named {
  readonly column?: string;
  readonly in?: readonly string[];
  readonly op?: string;
  readonly value?: number;
}
interface Index extends Named {
  readonly predicate: readonly Condition[] | null;
}
interface Condition {
  readonly column: string;
  readonly is_null?: boolean;
  readonly op?: string;
  readonly value?: string | number;
}

function byName<T extends Named>(things: readonly T[]): T[] {
  return [...things].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function defaultSql(column: { type: string; default: { kind: string; value?: unknown } }): string | null {
  const { kind, value } = column.default;
  if (kind === 'none') return null;
  if (kind === 'now') return 'now()';
  if (kind === 'uuid') return 'gen_random_uuid()';
  return typeof value === 'string' ? `'${value}'::${column.type}` : String(value);
}

function predicateSql(conditions: readonly Condition[] | null): string | null {
  if (conditions === null) return null;
  const texts = conditions.map(({ column, is_null, op, value }) => {
    if (is_null !== undefined) return `(${column} IS ${is_null ? '' : 'NOT '}NULL)`;
    return `(${column} ${op} ${typeof value === 'string' ? `'${value}'::text` : value})`;
  });
  return texts.length === 1 ? (texts[0] ?? null) : `(${texts.join(' AND ')})`;
}
