import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectionConfig } from '../../src/db/pool.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { booksHold } from '../support/backfill.ts';
import type { TestDatabase } from '../support/database.ts';
import { givenRow, givenWallet, type LegacyWallet, type OwnerKind } from '../support/legacy.ts';
import { createWalletFunctionsDatabase } from '../support/wallet-functions.ts';

/** Whom a wallet belongs to, who is signed in for it, and what its invoice and keys are called. */
interface Side extends LegacyWallet {
  readonly user: string;
  readonly key: string;
}

interface Access {
  readonly title: string;
  readonly kind: OwnerKind;
  readonly role: 'authenticated' | 'service_role';
  readonly sql: string;
  readonly values: (side: Side) => readonly unknown[];
  /** Where it does not answer rows: the SQLSTATE, or none at all. */
  readonly answers?: string | readonly [];
}

const byOwner = ({ ownerId }: Side) => [ownerId];
const byWallet = ({ id }: Side) => [id];
const byKey = ({ key }: Side) => [key];

const WRITES_TRANSACTION = `
  insert into wallet_transactions (wallet_id, type, credits_delta, reference_type, reference_id, memo, idempotency_key)
  values ($1, 'spend', -7, 'campaign', 'c1', 'a click', $2) returning *`;

/**
 * How the application reaches the wallet tables through PostgREST, as the old code was seen to: tables, columns, filters and who asks. Its
 * functions are in wallet-functions.test.ts; upserts and row locks of theirs in cut-over.test.ts.
 */
const ACCESSES: readonly Access[] = [
  {
    title: 'reads its wallet',
    kind: 'user',
    role: 'authenticated',
    sql: 'select * from wallets where user_id = $1',
    values: byOwner,
  },
  {
    title: 'looks up its wallet',
    kind: 'user',
    role: 'authenticated',
    sql: 'select id from wallets where user_id = $1',
    values: byOwner,
  },
  {
    title: 'reads the wallet of its organization',
    kind: 'organization',
    role: 'authenticated',
    sql: 'select * from org_wallets where org_id = $1',
    values: byOwner,
  },
  {
    title: 'counts the transactions of its organization',
    kind: 'organization',
    role: 'authenticated',
    sql: 'select count(*)::integer as n from org_wallet_transactions where wallet_id = $1',
    values: byWallet,
  },
  {
    title: 'changes its settings',
    kind: 'user',
    role: 'authenticated',
    sql: `update wallets set auto_reload_enabled = true, low_balance_threshold = 50, auto_reload_topup_credits = 500,
            default_payment_method_id = 'pm_1' where id = $1 returning *`,
    values: byWallet,
  },
  {
    title: 'is asked to write a transaction with a column that the table does not have',
    kind: 'user',
    role: 'service_role',
    sql: `insert into wallet_transactions (wallet_id, type, credits_delta, reference_type, reference_id, memo, idempotency_key, metadata)
          values ($1, 'spend', -7, 'campaign', 'c1', 'a click', $2, '{}') returning *`,
    values: ({ id, key }) => [id, key],
    answers: '42703',
  },
  {
    title: 'writes a transaction and reads it back',
    kind: 'user',
    role: 'service_role',
    sql: WRITES_TRANSACTION,
    values: ({ id, key }) => [id, key],
  },
  {
    title: 'writes it again under its key',
    kind: 'user',
    role: 'service_role',
    sql: WRITES_TRANSACTION,
    values: ({ id, key }) => [id, key],
    answers: '23505',
  },
  {
    title: 'looks for a transaction by its key',
    kind: 'user',
    role: 'service_role',
    sql: 'select * from wallet_transactions where idempotency_key = $1',
    values: byKey,
  },
  {
    title: 'asks whether there is a transaction under a key',
    kind: 'user',
    role: 'service_role',
    sql: 'select id from wallet_transactions where idempotency_key = $1',
    values: byKey,
  },
  {
    title: 'writes the balance that goes with it',
    kind: 'user',
    role: 'service_role',
    sql: 'update wallets set balance_credits = 93 where id = $1 returning balance_credits',
    values: byWallet,
  },
  {
    title: 'reads its latest transactions',
    kind: 'user',
    role: 'authenticated',
    sql: 'select * from wallet_transactions where wallet_id = $1 order by created_at desc limit 50',
    values: byWallet,
  },
  {
    title: 'opens an invoice and reads it back',
    kind: 'user',
    role: 'service_role',
    sql: `insert into invoices (wallet_id, amount_usd_cents, credits_purchased, promo_code, tax_usd_cents, status, purchased_by_user_id)
          values ($1, 500, 500, null, 0, 'pending', $2) returning *`,
    values: ({ id, user }) => [id, user],
  },
  {
    title: 'opens a lot',
    kind: 'organization',
    role: 'service_role',
    sql: `insert into credit_lots (org_wallet_id, quantity_purchased, quantity_remaining, unit_price_cents, source)
          values ($1, 500, 500, 1, 'purchase') returning *`,
    values: byWallet,
  },
  {
    title: 'freezes a wallet',
    kind: 'user',
    role: 'service_role',
    sql: `update wallets set status = 'frozen' where id = $1 returning status`,
    values: byWallet,
  },
  {
    title: 'freezes the wallet of an organization',
    kind: 'organization',
    role: 'service_role',
    sql: `update org_wallets set status = 'frozen' where id = $1 returning status`,
    values: byWallet,
  },
  {
    title: 'reads what others have',
    kind: 'user',
    role: 'authenticated',
    sql: 'select * from wallet_transactions where wallet_id <> $1',
    values: byWallet,
    answers: [],
  },
];

describe('what the application does with the wallet tables is answered alike on both sides of the cut-over', () => {
  let database: TestDatabase;
  let client: pg.Client;
  /** By kind: one that the old tables keep, and one that the ledger keeps. */
  let sides: Record<OwnerKind, readonly [old: Side, kept: Side]>;

  beforeAll(async () => {
    database = await createWalletFunctionsDatabase();
    const { pool } = database;
    const given = async (kind: OwnerKind, key: string): Promise<Side> => {
      const wallet = await givenWallet(pool, { kind, balance: 100 });
      await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 100 });
      return { ...wallet, user: kind === 'user' ? wallet.ownerId : await givenMember(wallet.ownerId), key };
    };
    const givenMember = async (organization: string): Promise<string> => {
      const { rows } = await pool.query<{ user: string }>(
        `insert into org_memberships (org_id, user_id, role)
         select id, created_by, 'owner' from organizations where id = $1 returning user_id as user`,
        [organization],
      );
      return rows[0]?.user ?? '';
    };
    sides = {
      user: [await given('user', 'evt_old'), await given('user', 'evt_kept')],
      organization: [await given('organization', 'evt_org_old'), await given('organization', 'evt_org_kept')],
    };
    // On the platform no policy holds its service; here, where the ledger's tests want them to, these let it through.
    for (const table of ['wallets', 'org_wallets', 'wallet_transactions', 'invoices', 'credit_lots']) {
      await pool.query(`create policy service on ${table} for all to service_role using (true) with check (true)`);
    }
    await turnCaptureOn(pool);
    await runBackfill(pool, { settleMs: 0 });
    for (const [, { kind, ownerId: id }] of Object.values(sides)) {
      expect(await cutOver(pool, { owners: { kind, id }, settleMs: 0 })).toMatchObject({ flipped: 1n, refused: [] });
    }
    client = new pg.Client(connectionConfig({ databaseUrl: database.adminUrl }));
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await database.drop();
  });

  const ask = async ({ role, sql, values }: Access, side: Side): Promise<unknown> => {
    await client.query('begin');
    try {
      await client.query(`select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)`, [
        JSON.stringify({ sub: side.user, role }),
        role,
      ]);
      const { rows } = await client.query(sql, [...values(side)]);
      await client.query('commit');
      return rows.map((row) => withoutNames(row, side));
    } catch (error) {
      await client.query('rollback');
      if (!(error instanceof pg.DatabaseError)) throw error;
      return error.code;
    }
  };

  it.each(ACCESSES.map((access) => [access.title, access] as const))('%s', async (_, access) => {
    const [old, kept] = sides[access.kind];
    const answer = await ask(access, kept);
    expect(answer).toEqual(await ask(access, old));
    expect(answer).toEqual(access.answers ?? expect.arrayContaining([expect.any(Object)]));
  });

  it('and the books hold with all of it, before and after the way back', async () => {
    const { pool } = database;
    await runBackfill(pool, { settleMs: 0 });
    await booksHold(pool);
    expect(await rollBack(pool, { owners: 'all' })).toMatchObject({ flipped: 2n, refused: [] });
    await runBackfill(pool, { settleMs: 0 });
    await booksHold(pool);
  });
});

/** A row without what differs from one owner, and from one instant, to the next. */
function withoutNames(row: Record<string, unknown>, side: Side): Record<string, unknown> {
  const names = new Map([side.id, side.ownerId, side.user, side.key].map((name, nth) => [name, `its ${nth}`]));
  return Object.fromEntries(
    Object.entries(row).map(([column, value]) => {
      if (value instanceof Date) return [column, 'an instant'];
      const isId = typeof value === 'string' && /^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(value);
      return [column, names.get(String(value)) ?? (isId ? 'an id' : value)];
    }),
  );
}
