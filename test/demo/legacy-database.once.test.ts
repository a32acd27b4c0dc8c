import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  createLegacyDatabase,
  type FillProgress,
  fillLegacyDatabase,
  HAZARD_RATES,
  type LegacySize,
  type LegacySummary,
} from '../../src/demo/legacy-database.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';

const TABLES = [
  'auth.users',
  'public.user_profiles',
  'public.organizations',
  'public.org_memberships',
  'public.wallets',
  'public.org_wallets',
  'public.invoices',
  'public.wallet_transactions',
  'public.org_wallet_transactions',
  'public.credit_lots',
  'public.ad_spend_ledger',
] as const;

const UUID = `'^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'`;

/** Of `{ wallets: 20, orgWallets: 3, transactions: 500, seed: 1 }`: the same on every server, and tomorrow. */
const HASH_OF_A_SMALL_ONE = 'cd238279277f5b0b0a2d483a571ff412';

describe('a filled legacy database', () => {
  const databases: TestDatabase[] = [];
  const filled = async (size: LegacySize) => {
    const database = await createDatabase({ template: EMPTY, poolMax: 2 });
    databases.push(database);
    await createLegacyDatabase(database.pool);
    return { database, summary: await fillLegacyDatabase(database.pool, size) };
  };
  afterAll(() => Promise.all(databases.map((database) => database.drop())));

  it.each([
    { wallets: 1, orgWallets: 0, transactions: 0 },
    { wallets: 1, orgWallets: 0, transactions: 1 },
    { wallets: 1, orgWallets: 0, transactions: 10 },
    { wallets: 0, orgWallets: 1, transactions: 10 },
    { wallets: 0, orgWallets: 0, transactions: 0 },
    { wallets: 2, orgWallets: 2, transactions: 3 },
    { wallets: 60, orgWallets: 60, transactions: 7 },
    { wallets: 300, orgWallets: 10, transactions: 20_000 },
  ])('has exactly $wallets wallets, $orgWallets of organizations and $transactions transactions', async (size) => {
    const { database, summary } = await filled(size);
    const rows = await counts(database);
    expect(rows['public.wallets']).toBe(size.wallets);
    expect(rows['public.org_wallets']).toBe(size.orgWallets);
    expect(rows['public.wallet_transactions'] + rows['public.org_wallet_transactions']).toBe(size.transactions);
    expect(summary.rows).toEqual(rows);
    const { rows: balances } = await database.pool.query(
      `select (select coalesce(sum(balance_credits), 0) from wallets)::int8 as users,
         (select coalesce(sum(balance_credits), 0) from org_wallets)::int8 as organizations`,
    );
    expect(summary.balanceCredits).toEqual(balances[0]);
  });

  it('has the same content for the same arguments, byte for byte, on this server as on any other', async () => {
    const size = { wallets: 20, orgWallets: 3, transactions: 500, seed: 1 };
    const [first, second] = [await filled(size), await filled(size)];
    expect(await contentHash(second.database)).toBe(await contentHash(first.database));
    expect(second.summary).toEqual(first.summary);
    expect(await contentHash(first.database)).toBe(HASH_OF_A_SMALL_ONE);
  });

  it('has other content for another seed, also where the seeds differ above 2^32 only', async () => {
    const hashes = new Set<string>();
    for (const seed of [1, 2, -1, 1 + 2 ** 32]) {
      const { database } = await filled({ wallets: 5, orgWallets: 1, transactions: 50, seed });
      hashes.add(await contentHash(database));
    }
    expect(hashes.size).toBe(4);
  });

  it('holds nothing when the fill fails in the middle', async () => {
    const database = await createDatabase({ template: EMPTY });
    databases.push(database);
    await createLegacyDatabase(database.pool);
    const onProgress = ({ step }: FillProgress) => {
      if (step === 'write') throw new Error('stopped by the test');
    };
    await expect(
      fillLegacyDatabase(database.pool, { wallets: 10, orgWallets: 1, transactions: 20_000, onProgress }),
    ).rejects.toThrow('stopped by the test');
    expect(Object.values(await counts(database)).every((count) => count === 0)).toBe(true);
  });

  it('keeps every key and index of the tables as it was', async () => {
    const empty = await createDatabase({ template: EMPTY });
    databases.push(empty);
    await createLegacyDatabase(empty.pool);
    const { database } = await filled({ wallets: 3, orgWallets: 1, transactions: 40 });
    expect(await keysOf(database)).toEqual(await keysOf(empty));
  });

  it('is not filled a second time', async () => {
    const { database } = await filled({ wallets: 1, orgWallets: 0, transactions: 1 });
    await expect(fillLegacyDatabase(database.pool)).rejects.toMatchObject({ code: 'DEMO_DATABASE_NOT_OURS' });
  });

  it.each([
    [{ wallets: -1 }, /wallets is -1/],
    [{ orgWallets: 1.5 }, /orgWallets is 1.5/],
    [{ transactions: Number.NaN }, /transactions is NaN/],
    [{ transactions: 10 ** 9 }, /from 0 to 100000000/],
    [{ wallets: 0, orgWallets: 0, transactions: 1 }, /need a wallet/],
  ])('refuses the size %o', async (size, message) => {
    const database = await createDatabase({ template: EMPTY });
    databases.push(database);
    const attempt = fillLegacyDatabase(database.pool, size);
    await expect(attempt).rejects.toMatchObject({ code: 'USAGE', message: expect.stringMatching(message) });
  });
});

describe('the history of 100 wallets, 5 organizations and 3,000 transactions', () => {
  let database: TestDatabase;
  let summary: LegacySummary;
  const progress: FillProgress[] = [];
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
    await createLegacyDatabase(database.pool);
    summary = await fillLegacyDatabase(database.pool, {
      wallets: 100,
      orgWallets: 5,
      transactions: 3_000,
      onProgress: (step) => progress.push(step),
    });
  });
  afterAll(() => database.drop());

  const count = async (from: string) => {
    const { rows } = await database.pool.query<{ n: number }>(`select count(*)::int as n from ${from}`);
    return rows[0]?.n ?? -1;
  };

  it('has every hazard', () => {
    const missing = Object.entries(summary.hazards).filter(([, planted]) => planted === 0);
    expect(missing).toEqual([]);
    expect(Object.keys(summary.hazards).sort()).toEqual(Object.keys(HAZARD_RATES).sort());
  });

  // Each query finds in the rows alone what was planted, and nothing else.
  it.each<[string, (planted: LegacySummary['hazards']) => number, string]>([
    [
      '2 and 13: refunds, of which no invoice knows',
      (planted) => planted.refundedInvoiceNotRefunded + planted.refundCumulative,
      `(select id from wallet_transactions where type = 'refund' and idempotency_key is not null
        union all select id from org_wallet_transactions where transaction_type = 'refund') r
       where not exists (select from invoices where status = 'refunded')`,
    ],
    [
      '3: user rows with the wrong sign',
      (planted) => planted.wrongSign,
      `wallet_transactions where (type in ('spend', 'refund') and credits_delta > 0)
         or (type = 'purchase' and credits_delta < 0)`,
    ],
    ['3: user rows of zero', (planted) => planted.zeroRow, 'wallet_transactions where credits_delta = 0'],
    [
      '4 and 7: user spends that ad_spend_ledger does not have',
      (planted) => planted.userSpendUnrecorded + planted.spendDeletedCreditReturned,
      `wallet_transactions t where type = 'spend' and credits_delta <> 0
         and not exists (select from ad_spend_ledger a where a.wallet_transaction_id = t.id)`,
    ],
    [
      '4: organization spends, none of which ad_spend_ledger has',
      (planted) => planted.orgSpendUnrecorded,
      `org_wallet_transactions where transaction_type = 'spend'
         and not exists (select from ad_spend_ledger where org_wallet_id is not null)`,
    ],
    [
      '7: wallets with a balance and no rows',
      (planted) => planted.openingBalanceWithoutRows,
      `(select balance_credits from wallets w
         where not exists (select from wallet_transactions t where t.wallet_id = w.id)
        union all select balance_credits from org_wallets w
         where not exists (select from org_wallet_transactions t where t.wallet_id = w.id)) w where balance_credits > 0`,
    ],
    [
      '8: rates a hundred times too high',
      (planted) => planted.rateTimesHundred,
      `ad_spend_ledger where credits_charged <> case rate_model
         when 'cpm' then ceil(quantity::numeric * rate_usd_cents / 1000) else quantity * rate_usd_cents end`,
    ],
    [
      '9: references that are no uuid',
      (planted) => planted.referenceNotUuid,
      `wallet_transactions where reference_id !~ ${UUID}`,
    ],
    [
      '9: references without a type',
      (planted) => planted.referenceTypeMissing,
      'wallet_transactions where reference_type is null and reference_id is not null',
    ],
    [
      '10: credits that no processor sent and nobody granted',
      (planted) => planted.forgedCredit,
      `wallet_transactions where (type = 'purchase' and idempotency_key is null) or credits_delta = 99999`,
    ],
    [
      '10: purchases of organizations without invoice and event',
      (planted) => planted.forgedOrgCredit,
      `org_wallet_transactions where transaction_type = 'purchase' and invoice_id is null and stripe_event_id is null`,
    ],
    [
      '11: keys in the metadata of two spends',
      (planted) => planted.spendKeyRepeated,
      `(select from org_wallet_transactions where transaction_type = 'spend' and metadata ? 'idempotency_key'
        group by metadata ->> 'idempotency_key' having count(*) = 2) k`,
    ],
    [
      '13: invoices of organizations that were credited and are pending',
      (planted) => planted.orgInvoicePendingAfterCredit,
      `invoices i where status = 'pending' and exists
         (select from org_wallet_transactions t where t.invoice_id = i.id and t.transaction_type = 'purchase')`,
    ],
  ])('%s', async (_, planted, from) => {
    expect(planted(summary.hazards)).toBeGreaterThan(0);
    expect(await count(from)).toBe(planted(summary.hazards));
  });

  // Here another hazard may hide one (a reference lost, a balance recomputed), or chance look like one.
  it.each([
    [
      '1: two purchase rows of one invoice under different keys',
      `(select from wallet_transactions where type = 'purchase' and reference_id ~ ${UUID}
        group by wallet_id, reference_id having count(*) = 2 and count(distinct idempotency_key) = 2) d`,
    ],
    [
      '2: a second refund that repeats the first one and adds to it',
      `wallet_transactions a join wallet_transactions b using (wallet_id, reference_id, type)
       where type = 'refund' and a.created_at < b.created_at and b.usd_cents < a.usd_cents and reference_id ~ ${UUID}`,
    ],
    [
      '2: an organization refund below what was paid',
      `org_wallet_transactions t join invoices i on i.id = t.invoice_id
       where t.transaction_type = 'refund' and -t.credits_delta < i.amount_usd_cents`,
    ],
    [
      '5: lots that gave more than was ever spent',
      `wallets w where
         (select sum(quantity_purchased - quantity_remaining) from credit_lots l where l.wallet_id = w.id)
       > (select sum(abs(credits_delta)) from wallet_transactions t where t.wallet_id = w.id and type = 'spend')`,
    ],
    [
      '6: a balance that lacks the row before a spend',
      `wallets w cross join lateral (
         select credits_delta, lead(type) over (order by created_at) as next, sum(credits_delta) over () as total
         from wallet_transactions t where t.wallet_id = w.id) t
       where t.next = 'spend' and w.balance_credits = t.total - t.credits_delta and t.credits_delta <> 0`,
    ],
    [
      '7: a balance that somebody moved by a round sum',
      `wallets w where (balance_credits - (select sum(credits_delta) from wallet_transactions t where t.wallet_id = w.id))
         in (select s * n * 25 from generate_series(1, 40) n, (values (-1), (1)) v(s))`,
    ],
    [
      '10: a balance that holds a forged row after a recompute',
      `wallets w where exists (select from wallet_transactions t where t.wallet_id = w.id
           and ((type = 'purchase' and idempotency_key is null) or credits_delta = 99999))
         and balance_credits = (select sum(credits_delta) from wallet_transactions t where t.wallet_id = w.id)`,
    ],
    [
      '10: a forged purchase of an invoice that does not exist',
      `wallet_transactions t where type = 'purchase' and idempotency_key is null and reference_type = 'invoice'
         and not exists (select from invoices i where i.id::text = t.reference_id)`,
    ],
    ['12: an invoice of an organization bought by somebody who is gone', 'invoices where purchased_by_user_id is null'],
    [
      '12: an adjustment by somebody who is gone',
      `(select reference_id from wallet_transactions where type = 'adjustment' and reference_id ~ ${UUID}
        union all select reference_id::text from org_wallet_transactions where transaction_type = 'adjustment') a
       where not exists (select from auth.users u where u.id::text = a.reference_id)`,
    ],
    [
      '13: an invoice of a user that was credited and is pending',
      `invoices i where status = 'pending' and exists
         (select from wallet_transactions t where t.type = 'purchase' and t.reference_id = i.id::text)`,
    ],
    ['a frozen wallet', `wallets where status = 'frozen'`],
    ['a wallet below zero', 'wallets where balance_credits < 0'],
    ['more credits than paid', 'invoices where credits_purchased > amount_usd_cents and promo_code is not null'],
    ['fewer credits than paid', 'invoices where credits_purchased < amount_usd_cents'],
    ['an invoice that came to nothing', `invoices where status = 'failed'`],
    ['a tab inside a memo', `wallet_transactions where memo like E'%\\t%'`],
  ])('has %s', async (_, from) => {
    expect(await count(from)).toBeGreaterThan(0);
  });

  it('tells its progress up to the end of each step', () => {
    for (const step of ['plan', 'write', 'index']) {
      const done = progress.filter((report) => report.step === step).map((report) => report.done);
      expect(done).toEqual(done.toSorted((a, b) => a - b));
    }
    expect(progress).toContainEqual({ step: 'write', done: 3_000, total: 3_000 });
    expect(progress.at(-1)).toMatchObject({ step: 'index', done: progress.at(-1)?.total });
  });

  it('leaves nothing of a deleted user', async () => {
    // Everybody who is left: the owners of the wallets, those of the organizations, three administrators.
    expect(await count('auth.users')).toBe(100 + 5 + 3);
    expect(await count('user_profiles')).toBe(100 + 5 + 3);
    expect(summary.hazards.userDeleted).toBe(2);
  });

  it('keeps most wallets explained: balance equal to the sum of the rows', async () => {
    const explained = await count(`wallets w where balance_credits =
      (select coalesce(sum(credits_delta), 0) from wallet_transactions t where t.wallet_id = w.id)`);
    expect(explained).toBeGreaterThan(60);
    expect(explained).toBeLessThan(100);
  });

  it('lets a few wallets hold much of the history', async () => {
    const { rows } = await database.pool.query<{ n: number }>(
      `select count(*)::int as n from wallet_transactions group by wallet_id order by 1 desc limit 3`,
    );
    const most = rows.reduce((sum, { n }) => sum + n, 0);
    expect(most).toBeGreaterThan(summary.rows['public.wallet_transactions'] / 4);
  });

  it('lies between its fixed dates, each wallet in order of time', async () => {
    const { rows } = await database.pool.query(
      `select min(created_at) >= '2024-01-01Z' as after, max(created_at) <= '2026-10-31Z' as before
       from (select created_at from wallet_transactions union all select created_at from org_wallet_transactions
             union all select created_at from wallets union all select created_at from user_profiles) t`,
    );
    expect(rows).toEqual([{ after: true, before: true }]);
  });
});

async function counts(database: TestDatabase): Promise<Record<(typeof TABLES)[number], number>> {
  const parts = TABLES.map((table) => `(select count(*)::int from ${table}) as "${table}"`);
  const { rows } = await database.pool.query(`select ${parts.join(', ')}`);
  return rows[0] as Record<(typeof TABLES)[number], number>;
}

async function keysOf(database: TestDatabase): Promise<unknown[]> {
  const { rows } = await database.pool.query(
    `select conrelid::regclass::text as table, conname as name, pg_get_constraintdef(oid) as definition
     from pg_constraint where connamespace = 'public'::regnamespace
     union all select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' order by 1, 2, 3`,
  );
  return rows;
}

async function contentHash(database: TestDatabase): Promise<string> {
  const parts = TABLES.map((table) => `(select string_agg(t::text, '|' order by t::text collate "C") from ${table} t)`);
  const { rows } = await database.pool.query<{ hash: string }>(
    `select md5(concat_ws('#', ${parts.join(', ')})) as hash`,
  );
  return rows[0]?.hash ?? '';
}
