import { createHash, randomUUID } from 'node:crypto';
import type { Queryable } from '../../src/db/pool.ts';
import { createLegacyDatabase, fillLegacyDatabase, type LegacySize } from '../../src/demo/legacy-database.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { createDatabase, type TestDatabase, templateOf } from './database.ts';

/** What every free-text field of a built row says: it must never reach the log. */
export const FREE_TEXT = 'for Ada Lovelace, +1 555 0100';

/**
 * A migrated database of the test's own with the legacy tables, filled deterministically when a size is given. What is written there
 * from then on is captured, unless told otherwise.
 */
export async function createLegacyTestDatabase(
  size?: LegacySize,
  { isCaptured = true }: { isCaptured?: boolean } = {},
): Promise<TestDatabase> {
  const what = size === undefined ? '' : `_${createHash('md5').update(JSON.stringify(size)).digest('hex')}`;
  const template = await templateOf(`template_legacy${isCaptured ? '_captured' : ''}${what}`, async (pool) => {
    await createLegacyDatabase(pool);
    if (size !== undefined) await fillLegacyDatabase(pool, size);
    if (isCaptured) await turnCaptureOn(pool);
  });
  return createDatabase({ template });
}

export type OwnerKind = 'user' | 'organization';

export interface LegacyWallet {
  readonly id: string;
  readonly kind: OwnerKind;
  readonly ownerId: string;
}

const TABLES = {
  user: { wallets: 'wallets', rows: 'wallet_transactions' },
  organization: { wallets: 'org_wallets', rows: 'org_wallet_transactions' },
} as const;

/** A wallet with its owner; `balance` is what the old column says, whatever its rows sum to. */
export async function givenWallet(
  db: Queryable,
  fields: { kind?: OwnerKind; balance?: number; id?: string; createdAt?: string } = {},
): Promise<LegacyWallet> {
  const { kind = 'user', balance = 0, id = randomUUID(), createdAt = '2024-01-01T00:00:00Z' } = fields;
  const userId = randomUUID();
  await db.query('insert into auth.users (id, email) values ($1, $2)', [userId, `${userId}@example.org`]);
  const ownerId = kind === 'user' ? userId : randomUUID();
  if (kind === 'organization') {
    await db.query('insert into public.organizations (id, name, created_by) values ($1, $2, $3)', [
      ownerId,
      FREE_TEXT,
      userId,
    ]);
  }
  await db.query(
    `insert into public.${TABLES[kind].wallets} (id, ${kind === 'user' ? 'user_id' : 'org_id'}, balance_credits, created_at)
     values ($1, $2, $3, $4)`,
    [id, ownerId, balance, createdAt],
  );
  return { id, kind, ownerId };
}

/** Makes the columns of money `bigint`, as one is to alter them while they are captured. */
export async function widenColumns(db: Queryable): Promise<void> {
  const columns = Object.values(TABLES).flatMap(({ wallets, rows }) => [
    `alter table ${wallets} alter balance_credits type bigint`,
    `alter table ${rows} alter credits_delta type bigint`,
  ]);
  await db.query(['begin', ...columns, 'select replay.columns_altered()', 'commit'].join('; '));
}

export async function setBalance(db: Queryable, wallet: LegacyWallet, balance: number): Promise<void> {
  await db.query(`update public.${TABLES[wallet.kind].wallets} set balance_credits = $2 where id = $1`, [
    wallet.id,
    balance,
  ]);
}

/** An invoice of a wallet. Returns its id. */
export async function givenInvoice(db: Queryable, wallet: LegacyWallet, paidCents: number): Promise<string> {
  const { rows } = await db.query<{ id: string }>(
    `insert into public.invoices (${wallet.kind === 'user' ? 'wallet_id' : 'org_wallet_id'}, amount_usd_cents, credits_purchased, status)
     values ($1, $2, $2, 'pending') returning id`,
    [wallet.id, paidCents],
  );
  return rows[0]?.id ?? '';
}

export interface RowFields {
  readonly type: 'purchase' | 'spend' | 'refund' | 'adjustment' | 'promo';
  readonly delta: number;
  /** Of an invoice: the reference of a user's row, `invoice_id` of an organization's. */
  readonly invoice?: string | undefined;
  /** Users only. */
  readonly usdCents?: number | undefined;
  readonly referenceType?: string | undefined;
  readonly referenceId?: string | undefined;
  /** The processor's event id. */
  readonly key?: string | undefined;
  /** Organizations only: `metadata.idempotency_key`. */
  readonly spendKey?: string | undefined;
  /** A minute after the row before, when left out. */
  readonly at?: string;
  readonly id?: string;
}

export interface LegacyRow {
  readonly id: string;
  /** As the database prints it in UTC. */
  readonly at: string;
}

let minutes = 0;

/** One row of a wallet's history; moves no balance. */
export async function givenRow(db: Queryable, wallet: LegacyWallet, fields: RowFields): Promise<LegacyRow> {
  const { id = randomUUID(), at = nextMinute() } = fields;
  const common = { id, wallet_id: wallet.id, credits_delta: fields.delta, created_at: at };
  const row =
    wallet.kind === 'user'
      ? {
          ...common,
          type: fields.type,
          usd_cents: fields.usdCents,
          reference_type: fields.referenceType ?? (fields.invoice && 'invoice'),
          reference_id: fields.referenceId ?? fields.invoice,
          idempotency_key: fields.key,
          memo: FREE_TEXT,
        }
      : {
          ...common,
          transaction_type: fields.type,
          reference_type: fields.referenceType,
          reference_id: fields.referenceId,
          invoice_id: fields.invoice,
          stripe_event_id: fields.key,
          description: FREE_TEXT,
          metadata: { note: FREE_TEXT, idempotency_key: fields.spendKey },
        };
  const columns = Object.keys(row);
  const { rows } = await db.query<{ at: string }>(
    `insert into public.${TABLES[wallet.kind].rows} (${columns.join(', ')})
     values (${columns.map((_, index) => `$${index + 1}`).join(', ')}) returning created_at::text as at`,
    Object.values(row).map((value) => value ?? null),
  );
  return { id, at: rows[0]?.at ?? '' };
}

function nextMinute(): string {
  minutes += 1;
  return new Date(Date.UTC(2024, 1, 1, 0, minutes)).toISOString();
}

export async function countLegacyRows(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ n: bigint }>(
    `select (select count(*) from public.wallet_transactions) + (select count(*) from public.org_wallet_transactions) as n`,
  );
  return rows[0]?.n ?? 0n;
}

/**
 * A digest of the books over everything that does not depend on when, where or in which chunks they were written: each
 * account's history in its order, and every event.
 */
export async function booksDigest(db: Queryable): Promise<string> {
  const hash = createHash('sha256');
  const { rows } = await db.query<{ line: string }>(
    `select line from (
       select 1 as part, account_id::text as first, account_seq as second,
              jsonb_build_array(account_id, account_seq, amount_cents, currency, balance_after_cents,
                extract(epoch from effective_at)::text, transaction_id, reference_type, reference_id, description, metadata)::text as line
       from payments.entries
       union all
       select 2, event_id::text, 0, jsonb_build_array(event_id, type, case when type <> 'account.opened' then extract(epoch from effective_at)::text end,
                idempotency_scope, idempotency_key, encode(request_hash, 'hex'), payload)::text
       from payments.events
       union all
       select 3, account_id::text, 0, jsonb_build_array(account_id, balance_cents, last_seq)::text from payments.balances
       union all
       select 4, id::text, 0, jsonb_build_array(id, type, currency, name, user_id, organization_id)::text from payments.accounts
     ) book order by part, first collate "C", second`,
  );
  for (const { line } of rows) hash.update(line).update('\n');
  return hash.digest('hex');
}
