import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';

/** Where the wallet tables live and what the replay reads of them: the one place that knows the legacy schema. */
const REQUIRED: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  wallets: {
    id: ['uuid'],
    user_id: ['uuid'],
    balance_credits: ['integer', 'bigint'],
    created_at: ['timestamp with time zone'],
  },
  wallet_transactions: {
    id: ['uuid'],
    wallet_id: ['uuid'],
    type: ['text'],
    credits_delta: ['integer', 'bigint'],
    usd_cents: ['integer', 'bigint'],
    reference_type: ['text'],
    reference_id: ['text'],
    idempotency_key: ['text'],
    created_at: ['timestamp with time zone'],
  },
  org_wallets: {
    id: ['uuid'],
    org_id: ['uuid'],
    balance_credits: ['integer', 'bigint'],
    created_at: ['timestamp with time zone'],
  },
  org_wallet_transactions: {
    id: ['uuid'],
    wallet_id: ['uuid'],
    credits_delta: ['integer', 'bigint'],
    transaction_type: ['text'],
    reference_type: ['text'],
    reference_id: ['uuid'],
    invoice_id: ['uuid'],
    stripe_event_id: ['text'],
    metadata: ['jsonb'],
    created_at: ['timestamp with time zone'],
  },
  invoices: {
    id: ['uuid'],
    wallet_id: ['uuid'],
    org_wallet_id: ['uuid'],
    amount_usd_cents: ['integer', 'bigint'],
  },
};

const CREDITS = ['integer', 'bigint'] as const;
const TEXT = ['text'] as const;
const UUID = ['uuid'] as const;
const INSTANT = ['timestamp with time zone'] as const;

/** The other columns of the legacy tables: the replay reads none of them, and knows that they hold no money of a wallet. */
const UNREAD: Readonly<Record<keyof LegacyTables, Readonly<Record<string, readonly string[]>>>> = {
  wallets: {
    low_balance_threshold: CREDITS,
    auto_reload_enabled: ['boolean'],
    auto_reload_topup_credits: CREDITS,
    default_payment_method_id: TEXT,
    status: TEXT,
    updated_at: INSTANT,
  },
  wallet_transactions: { memo: TEXT },
  org_wallets: {
    low_balance_threshold: CREDITS,
    auto_reload_enabled: ['boolean'],
    auto_reload_topup_credits: CREDITS,
    status: TEXT,
    updated_at: INSTANT,
  },
  // The restructuring says there whose the row is.
  org_wallet_transactions: { description: TEXT, organization_id: UUID },
  invoices: {
    stripe_invoice_id: TEXT,
    stripe_payment_intent_id: TEXT,
    credits_purchased: CREDITS,
    promo_code: TEXT,
    tax_usd_cents: CREDITS,
    status: TEXT,
    receipt_url: TEXT,
    created_at: INSTANT,
    updated_at: INSTANT,
    purchased_by_user_id: UUID,
    organization_id: UUID,
  },
};

/** `public` before the restructuring, the target schemas after it. */
const SCHEMAS = ['public', 'payments', 'organizations'] as const;

/** Qualified, quoted names of the legacy tables, by their bare name. */
export type LegacyTables = Readonly<
  Record<'wallets' | 'wallet_transactions' | 'org_wallets' | 'org_wallet_transactions' | 'invoices', string>
>;

/**
 * Those of the legacy tables that the database has.
 * @throws AppError DB_PERMISSION_DENIED where the role may not read one, or row-level security shows only a part of it
 */
export async function findLegacyTables(db: Queryable): Promise<Partial<LegacyTables>> {
  return Object.fromEntries(await locate(db));
}

/**
 * The legacy tables with every column that the replay reads, of the type it expects.
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_PERMISSION_DENIED
 */
export async function getLegacyTables(db: Queryable): Promise<LegacyTables> {
  const located = await locateAll(db);
  const faults: string[] = [];
  for (const [table, qualified] of located) faults.push(...(await columnFaults(db, table, qualified)));
  if (faults.length > 0) {
    throw new AppError(
      'LEGACY_COLUMN_MISMATCH',
      `${faults.join('; ')}. The database is at another revision than this mapping: bring the columns back, or adapt src/replay/legacy.ts.`,
      { details: { faults } },
    );
  }
  return Object.fromEntries(located) as LegacyTables;
}

/**
 * The legacy tables, where every column of theirs is known and the role may read them: a column that nobody knows may hold money.
 * @param ignored columns that may be there although nobody knows them, such as `wallets.colour`
 * @throws AppError LEGACY_TABLE_MISSING, DB_PERMISSION_DENIED; LEGACY_REVISION_UNKNOWN, which names every fault at once
 */
export async function getKnownLegacyTables(db: Queryable, ignored: readonly string[]): Promise<LegacyTables> {
  const located = await locateAll(db);
  const faults: string[] = [];
  for (const [table, qualified] of located) {
    faults.push(
      ...(await columnFaults(db, table, qualified)),
      ...(await unknownColumns(db, table, qualified, ignored)),
    );
  }
  if (faults.length > 0) {
    throw new AppError(
      'LEGACY_REVISION_UNKNOWN',
      `${faults.join('; ')}. The database is at another revision than this mapping, and may hold money that nobody reads. Adapt src/replay/legacy.ts; where a column holds none: --ignore-column <table.column>`,
      { details: { faults } },
    );
  }
  return Object.fromEntries(located) as LegacyTables;
}

/** Whether a name is `table.column` of a legacy table, whether it has that column or not. */
export function isLegacyColumn(name: string): boolean {
  const [table = '', column, ...rest] = name.split('.');
  return Object.hasOwn(REQUIRED, table) && column !== undefined && column !== '' && rest.length === 0;
}

async function locateAll(db: Queryable): Promise<Map<string, string>> {
  const located = await locate(db);
  const missing = Object.keys(REQUIRED).filter((table) => !located.has(table));
  if (missing.length > 0) {
    throw new AppError(
      'LEGACY_TABLE_MISSING',
      `The legacy ${missing.length === 1 ? 'table' : 'tables'} ${missing.join(', ')} cannot be found in the schemas ${SCHEMAS.join(', ')}.${await elsewhere(db, missing)} Point DATABASE_URL at the database that holds the wallets.`,
      { details: { missing } },
    );
  }
  return located;
}

// A role whose name is that of a schema creates its tables there: the role liventix in the schema liventix.
async function elsewhere(db: Queryable, missing: readonly string[]): Promise<string> {
  const { rows } = await db.query<{ qualified: string }>(
    `select format('%I.%I', n.nspname, c.relname) as qualified
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relname = any ($1) and n.nspname <> all ($2) and n.nspname <> 'replay'
     order by 1 limit 5`,
    [missing, SCHEMAS],
  );
  if (rows.length === 0) return '';
  return ` Not looked in: ${rows.map(({ qualified }) => qualified).join(', ')}; alter table … set schema public moves a table.`;
}

async function locate(db: Queryable): Promise<Map<string, string>> {
  // Tables only: after the restructuring a view of the same name stands in public.
  const { rows } = await db.query<Located>(
    `select distinct on (c.relname) c.relname as table, format('%I.%I', n.nspname, c.relname) as qualified,
            quote_ident(current_user) as role, row_security_active(c.oid) as "isPartial",
            has_table_privilege(c.oid, 'select') as "isReadable"
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relname = any ($1) and n.nspname = any ($2)
     order by c.relname, array_position($2::text[], n.nspname::text)`,
    [Object.keys(REQUIRED), SCHEMAS],
  );
  assertReadable(rows);
  return new Map(rows.map((row) => [row.table, row.qualified]));
}

interface Located {
  readonly table: string;
  readonly qualified: string;
  /** Who looks. */
  readonly role: string;
  readonly isPartial: boolean;
  readonly isReadable: boolean;
}

/** Asked beforehand: found out at the first row of the fourth table, what is in the log by then would be a part of the whole. */
function assertReadable(rows: readonly Located[]): void {
  // Rows that are hidden would be taken for rows that are not there.
  const partial = rows.filter((row) => row.isPartial);
  if (partial.length > 0) {
    throw new AppError(
      'DB_PERMISSION_DENIED',
      `Row-level security hides rows of ${partial.map((row) => row.qualified).join(', ')} from ${partial[0]?.role}. Run as the owner of the tables, or as a role with BYPASSRLS.`,
    );
  }
  const unreadable = rows.filter((row) => !row.isReadable).map((row) => row.qualified);
  if (unreadable.length > 0) {
    const [tables, role] = [unreadable.join(', '), rows[0]?.role];
    throw new AppError(
      'DB_PERMISSION_DENIED',
      `The role ${role} may not read ${tables}. Nothing was written. Let the owner: grant select on ${tables} to ${role}`,
    );
  }
}

/** By name. */
async function columnTypes(db: Queryable, qualified: string): Promise<Map<string, string>> {
  const { rows } = await db.query<{ name: string; type: string }>(
    `select attname as name, format_type(atttypid, atttypmod) as type
     from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`,
    [qualified],
  );
  return new Map(rows.map((row) => [row.name, row.type]));
}

async function unknownColumns(
  db: Queryable,
  table: string,
  qualified: string,
  ignored: readonly string[],
): Promise<string[]> {
  const unread = UNREAD[table as keyof LegacyTables];
  const faults: string[] = [];
  for (const [column, type] of await columnTypes(db, qualified)) {
    if (REQUIRED[table]?.[column] !== undefined || ignored.includes(`${table}.${column}`)) continue;
    const expected = unread[column];
    if (expected === undefined) faults.push(`${qualified}.${column}, ${type}, is unknown`);
    else if (!expected.includes(type))
      faults.push(`${qualified}.${column} is ${type}, expected ${expected.join(' or ')}`);
  }
  return faults;
}

async function columnFaults(db: Queryable, table: string, qualified: string): Promise<string[]> {
  const types = await columnTypes(db, qualified);
  return Object.entries(REQUIRED[table] ?? {}).flatMap(([column, expected]) => {
    const found = types.get(column);
    if (found !== undefined && expected.includes(found)) return [];
    return [`${qualified}.${column} is ${found ?? 'missing'}, expected ${expected.join(' or ')}`];
  });
}
