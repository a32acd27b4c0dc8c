import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { openBook } from '../../src/ledger/books.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  type CaseRunner,
  createWalletFunctionsDatabase,
  expectAsPromised,
  type Json,
  openCaseRunner,
  type Row,
  type WalletFunction,
  type WalletFunctionCase,
  walletFunctionsSql,
} from '../support/wallet-functions.ts';
import facts from './wallet-function-cases.json' with { type: 'json' };

const FUNCTIONS = facts.functions as unknown as readonly WalletFunction[];
const ROLES = ['anon', 'authenticated', 'service_role'] as const;

const id = (n: number) => `00000000-0000-4000-8000-000000000${n}`;
const [USER, OTHER_USER] = [id(101), id(102)];
const [ORG, OTHER_ORG] = [id(201), id(202)];
const [WALLET, ORG_WALLET, OTHER_ORG_WALLET] = [id(301), id(401), id(402)];
const INVOICE = id(501);
const [LOT, OTHER_LOT] = [id(601), id(602)];

describe.each([
  ['in schema public', async () => undefined],
  ['in their new schemas, behind views under the old names', moveTables],
] as const)('the wallet functions over tables %s', (_, move) => {
  let database: TestDatabase;
  let runner: CaseRunner;
  beforeAll(async () => {
    database = await createWalletFunctionsDatabase();
    await move(database.pool);
    runner = await openCaseRunner(database, FUNCTIONS);
  });
  afterAll(async () => {
    await runner.close();
    await database.drop();
  });

  describe.each(FUNCTIONS)('$name', ({ cases }) => {
    it.each(cases.map((theCase) => [nameOf(theCase), theCase] as const))('%s', async (_name, theCase) => {
      expectAsPromised(theCase, await runner.run(theCase));
    });
  });

  it.each(BEYOND_WHAT_WAS_SEEN.map((theCase) => [theCase.title, theCase] as const))('%s', async (_name, theCase) => {
    expectAsPromised(theCase, await runner.run(theCase));
  });

  it('apply again, and stay as they are', async () => {
    const before = await catalogueOf(database.pool);
    await database.pool.query(await walletFunctionsSql());
    expect(await catalogueOf(database.pool)).toEqual(before);
  });
});

describe('the wallet functions over wallets that the ledger keeps', () => {
  let database: TestDatabase;
  let runner: CaseRunner;
  let bookId = 1;
  beforeAll(async () => {
    database = await createWalletFunctionsDatabase();
    await turnCaptureOn(database.pool);
    await runBackfill(database.pool);
    runner = await openCaseRunner(database, FUNCTIONS);
  });
  afterAll(async () => {
    await runner.close();
    await database.drop();
  });

  /** Each case has the same ids: a book of its own keeps what the log knows of them apart. */
  const inABookOfItsOwn = async () => {
    bookId = await openBook(database.pool, `case ${bookId}`);
    await database.pool.query('delete from replay.captured_rows; delete from replay.captured_wallets');
    await database.pool.query('update replay.capture set book_id = $1', [bookId]);
    await database.pool.query(
      `insert into replay.progress (book_id, source, capture_id, read_at, finished_at)
       select $1, source, capture_id, read_at, finished_at from replay.progress where book_id = 1`,
      [bookId],
    );
    await database.pool.query(
      `select payments.open_accounts($1, (
         select jsonb_agg(jsonb_build_object('type', type, 'name', name, 'currency', 'USD')) from replay.chart()))`,
      [bookId],
    );
  };
  const cutOverAll = async () => {
    const flip = await cutOver(database.pool, { owners: 'all', bookId, maxUnexplainedCents: 1_000_000_000n });
    expect(flip.refused).toEqual([]);
  };
  const hooks = { afterEmptied: inABookOfItsOwn, afterGiven: cutOverAll };
  const agree = async () => {
    const { rows } = await database.pool.query(`select from replay.wallets where book_id = $1 and mode = 'legacy'`, [
      bookId,
    ]);
    // Those that a call made.
    await cutOverAll();
    expect(rows.length).toBeLessThanOrEqual(1);
    const refused = await rollBack(database.pool, { owners: 'all', bookId });
    expect(refused.refused).toEqual([]);
  };

  describe.each(FUNCTIONS.filter(({ name }) => !/dlq|dead_letters/.test(name)))('$name', ({ cases }) => {
    it.each(cases.map((theCase) => [nameOf(theCase), theCase] as const))('%s', async (_name, theCase) => {
      expectAsPromised(theCase, await runner.run(theCase, hooks));
      await agree();
    });
  });

  it.each(BEYOND_WHAT_WAS_SEEN.map((theCase) => [theCase.title, theCase] as const))('%s', async (_name, theCase) => {
    expectAsPromised(theCase, await runner.run(theCase, hooks));
    await agree();
  });
});

describe('the file of the wallet functions', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createWalletFunctionsDatabase();
  });
  afterAll(() => database.drop());

  it.each(FUNCTIONS)(
    'gives $name its old signature, and runs it as its owner on a fixed search path',
    async (theFunction) => {
      const { rows } = await database.pool.query(
        `select proargnames[:pronargs] as names, proargtypes::regtype[]::text[] as types, pronargdefaults as defaults,
         pg_get_function_result(oid) as result, prosecdef as definer, proconfig as config
       from pg_proc where pronamespace = 'public'::regnamespace and proname = $1`,
        [theFunction.name],
      );
      const { args, returns } = theFunction;
      expect(rows).toEqual([
        {
          names: args.length === 0 ? null : args.map(({ name }) => name),
          types: args.map(({ type }) => type),
          defaults: args.filter((arg) => arg.default !== undefined).length,
          result:
            returns.kind === 'rows'
              ? `TABLE(${returns.columns?.map(({ name, type }) => `${name} ${type}`).join(', ')})`
              : returns.type,
          definer: true,
          config: ['search_path=pg_catalog, public, payments, organizations, messaging, pg_temp'],
        },
      ]);
    },
  );

  it('lets exactly those call each function who should', async () => {
    expect(await callersOf(database.pool)).toEqual(
      Object.fromEntries(FUNCTIONS.map(({ name, executable_by }) => [name, [...executable_by]])),
    );
  });

  it('lets users write the settings of their wallet, and neither what it holds nor whether it is frozen', async () => {
    const { rows } = await database.pool.query(
      `select r.rolname as role, t.name, a.attname as column from pg_roles r, unnest(array['wallets', 'org_wallets']) as t (name), pg_attribute a
       where r.rolname = any ($1) and a.attrelid = ('public.' || t.name)::regclass and a.attnum > 0
         and a.attname in ('balance_credits', 'status', 'low_balance_threshold')
         and has_column_privilege(r.oid, a.attrelid, a.attnum, 'update')
       order by 1, 2, 3`,
      [ROLES],
    );
    const may = ['org_wallets', 'wallets'];
    expect(rows).toEqual([
      ...['anon', 'authenticated'].flatMap((role) =>
        may.map((name) => ({ role, name, column: 'low_balance_threshold' })),
      ),
      ...may.flatMap((name) =>
        ['balance_credits', 'low_balance_threshold', 'status'].map((column) => ({
          role: 'service_role',
          name,
          column,
        })),
      ),
    ]);
  });

  it('lets nobody call the helpers but the owner', async () => {
    const { rows } = await database.pool.query(
      `select p.oid::regprocedure::text as helper, r.rolname as role from pg_proc p, pg_roles r
       where p.pronamespace = 'replay'::regnamespace and r.rolname = any ($1)
         and has_function_privilege(r.oid, p.oid, 'execute')`,
      [ROLES],
    );
    expect(rows).toEqual([]);
  });

  it('applies where the roles of Supabase do not exist, for the owner alone', async () => {
    const other = await createWalletFunctionsDatabase();
    try {
      // Roles belong to the whole server, so the file is read with the names of roles that it does not have.
      const sql = (await walletFunctionsSql()).replace(/'(anon|authenticated|service_role)'/g, `'missing_$1'`);
      await other.pool.query(FUNCTIONS.map(({ name }) => `drop function public.${name}`).join(';'));
      await other.pool.query(sql);
      expect(Object.values(await callersOf(other.pool)).flat()).toEqual([]);
    } finally {
      await other.drop();
    }
  });

  it('writes the row first, then the balance', async () => {
    await database.pool.query(`
      create table public.writes (nr integer generated always as identity, what text);
      create function public.note_write() returns trigger language plpgsql as $$
      begin
        insert into writes (what) values (tg_argv[0]);
        return new;
      end $$;
      create trigger note before insert on wallet_transactions for each row execute function note_write('row');
      create trigger note before insert on org_wallet_transactions for each row execute function note_write('row');
      create trigger note before update on wallets for each row execute function note_write('balance');
      create trigger note before update on org_wallets for each row execute function note_write('balance')`);
    const runner = await openCaseRunner(database, FUNCTIONS);
    const forget = async () => {
      await database.pool.query('truncate writes');
    };
    const cases = BEYOND_WHAT_WAS_SEEN.filter((theCase) => theCase.id.startsWith('books/'));
    const seen: string[][] = [];
    try {
      for (const theCase of cases) {
        expectAsPromised(theCase, await runner.run(theCase, { afterGiven: forget }));
        const { rows } = await database.pool.query<{ what: string }>('select what from writes order by nr');
        seen.push([theCase.id, ...rows.map(({ what }) => what)]);
      }
    } finally {
      await runner.close();
    }
    expect(seen).toEqual(cases.map((theCase) => [theCase.id, 'row', 'balance']));
    expect(cases).toHaveLength(5);
  });
});

describe('the legacy table of dead letters', () => {
  it('is the one of the catalogue', async () => {
    const database = await createWalletFunctionsDatabase();
    try {
      const { rows } = await database.pool.query(
        `select
           (select jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull,
                     pg_get_expr(d.adbin, d.adrelid)) order by a.attnum)
            from pg_attribute a left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
            where a.attrelid = t.oid and a.attnum > 0) as columns,
           (select jsonb_agg(conname || ' ' || pg_get_constraintdef(c.oid) order by conname) from pg_constraint c
            where conrelid = t.oid and contype <> 'n') as constraints,
           (select jsonb_agg(pg_get_indexdef(indexrelid) order by indexrelid::regclass::text) from pg_index
            where indrelid = t.oid) as indexes,
           (select jsonb_agg(pg_get_triggerdef(g.oid)) from pg_trigger g where tgrelid = t.oid) as triggers,
           (select jsonb_agg(jsonb_build_array(policyname, lower(cmd), qual, with_check)) from pg_policies
            where tablename = t.relname) as policies,
           t.relrowsecurity as secured
         from pg_class t where t.oid = 'public.dead_letter_webhooks'::regclass`,
      );
      expect(rows).toEqual([facts.dead_letter_webhooks]);
    } finally {
      await database.drop();
    }
  });
});

const nameOf = ({ title, should }: WalletFunctionCase) => (should === undefined ? title : `${title} → ${should}`);

/** The functions with their rights, as the database keeps them. */
async function catalogueOf(pool: Pool): Promise<unknown> {
  const { rows } = await pool.query(
    `select p.oid::regprocedure::text as name, p.prosrc, p.proacl from pg_proc p
     where p.pronamespace in ('public'::regnamespace, 'replay'::regnamespace) order by 1`,
  );
  return rows;
}

async function callersOf(pool: Pool): Promise<Record<string, string[]>> {
  const { rows } = await pool.query<{ name: string; callers: string[] }>(
    `select p.proname as name, array(
       select r.name from unnest($2::text[]) with ordinality r (name, nr)
       where has_function_privilege(r.name, p.oid, 'execute') order by r.nr) as callers
     from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = any ($1)`,
    [FUNCTIONS.map(({ name }) => name), ROLES],
  );
  return Object.fromEntries(rows.map(({ name, callers }) => [name, callers]));
}

/** As the restructuring moves them. */
async function moveTables(pool: Pool): Promise<void> {
  await pool.query(
    'create schema organizations; grant usage on schema payments, organizations to authenticated, service_role',
  );
  const targets = {
    payments: ['wallets', 'wallet_transactions', 'invoices', 'credit_lots'],
    organizations: ['organizations', 'org_memberships', 'org_wallets', 'org_wallet_transactions'],
  };
  for (const [schema, tables] of Object.entries(targets)) {
    for (const table of tables) {
      await pool.query(`
        alter table public.${table} set schema ${schema};
        create view public.${table} with (security_invoker = true) as select * from ${schema}.${table};
        grant all on public.${table} to anon, authenticated, service_role`);
    }
  }
}

// ------------------------------------------------------------------------------------------- beyond what was observed

function asService(name: string, args: Row) {
  return { function: name, args, role: 'service_role', claims: { role: 'service_role' } } as const;
}

const asUser = (user: string, name: string, args: Row) =>
  ({ function: name, args, role: 'authenticated', claims: { sub: user, role: 'authenticated' } }) as const;

/** A user's wallet with an invoice of 5,000, pending unless it was credited. */
function userGiven(balance: number, rows: readonly Row[], more: Record<string, readonly Row[]> = {}) {
  const isCredited = rows.some(({ type }) => type === 'purchase');
  return {
    'auth.users': [{ id: USER, email: 'u101@example.test' }],
    wallets: [{ id: WALLET, user_id: USER, balance_credits: balance }],
    invoices: [
      {
        id: INVOICE,
        wallet_id: WALLET,
        amount_usd_cents: 5000,
        credits_purchased: 5000,
        status: isCredited ? 'paid' : 'pending',
      },
    ],
    wallet_transactions: rows.map((row) => ({ wallet_id: WALLET, ...row })),
    ...more,
  };
}

const BOUGHT = {
  type: 'purchase',
  credits_delta: 5000,
  usd_cents: 5000,
  reference_type: 'invoice',
  reference_id: INVOICE,
  idempotency_key: 'evt_buy',
};
const adjusted = (credits: number, more: Row = {}) => ({ type: 'adjustment', credits_delta: credits, ...more });

/** An organization's wallet with an invoice of 5,000; a user of the platform is a member of it. */
function orgGiven(balance: number, rows: readonly Row[], invoice: Row = {}, more: Record<string, readonly Row[]> = {}) {
  return {
    'auth.users': [
      { id: USER, email: 'u101@example.test' },
      { id: OTHER_USER, email: 'u102@example.test' },
    ],
    organizations: [
      { id: ORG, name: 'Org One', created_by: USER },
      { id: OTHER_ORG, name: 'Org Two', created_by: USER },
    ],
    org_memberships: [{ org_id: ORG, user_id: USER, role: 'viewer' }],
    org_wallets: [
      { id: ORG_WALLET, org_id: ORG, balance_credits: balance },
      { id: OTHER_ORG_WALLET, org_id: OTHER_ORG },
    ],
    invoices: [
      {
        id: INVOICE,
        org_wallet_id: ORG_WALLET,
        amount_usd_cents: 5000,
        credits_purchased: 5000,
        status: 'paid',
        ...invoice,
      },
    ],
    org_wallet_transactions: rows.map((row) => ({ wallet_id: ORG_WALLET, ...row })),
    ...more,
  };
}

const ORG_BOUGHT = {
  id: id(800),
  transaction_type: 'purchase',
  credits_delta: 5000,
  invoice_id: INVOICE,
  stripe_event_id: 'evt_buy',
};

const lot = (lotId: string, owner: Row, purchased: number, more: Row = {}) => ({
  id: lotId,
  quantity_purchased: purchased,
  quantity_remaining: purchased,
  unit_price_cents: 1,
  source: 'purchase',
  ...owner,
  ...more,
});

const purchase = (credits: number, key: string) =>
  asService('wallet_apply_purchase', {
    p_invoice_id: INVOICE,
    p_wallet_id: WALLET,
    p_credits: credits,
    p_usd_cents: 5000,
    p_receipt_url: null,
    p_idempotency_key: key,
  });
const refund = (total: number, key: string) =>
  asService('wallet_apply_refund', {
    p_invoice_id: INVOICE,
    p_wallet_id: WALLET,
    p_refund_usd_cents: total,
    p_idempotency_key: key,
  });
const orgPurchase = (key: string, wallet = ORG_WALLET) =>
  asService('org_wallet_apply_purchase', {
    p_wallet_id: wallet,
    p_credits: 5000,
    p_invoice_id: INVOICE,
    p_stripe_event_id: key,
  });
const orgRefund = (total: number, key: string) =>
  asService('org_wallet_apply_refund', {
    p_wallet_id: ORG_WALLET,
    p_refund_credits: total,
    p_invoice_id: INVOICE,
    p_stripe_event_id: key,
  });
const orgSpend = (credits: number) =>
  asService('org_wallet_apply_spend', {
    p_wallet_id: ORG_WALLET,
    p_credits: credits,
    p_reference_type: 'campaign',
    p_reference_id: id(901),
  });
const deduct = (amount: number) => asService('deduct_credits_fifo', { p_amount: amount, p_wallet_id: WALLET });
const recompute = asService('recompute_wallet_balance', { p_wallet: WALLET });
const insertRow = (row: Row) =>
  ({
    insert: { table: 'wallet_transactions', row: { wallet_id: WALLET, ...row } },
    role: 'service_role',
    claims: { role: 'service_role' },
  }) as const;

const balanceOf = (balance: number) => ({ wallets: { [WALLET]: { balance_credits: balance } } });
const orgBalanceOf = (balance: number) => ({ org_wallets: { [ORG_WALLET]: { balance_credits: balance } } });
const answers = (balance: number): Json => [{ new_balance: balance }];
const refused = (message: string): Json => ({ error: 'P0001', message });

const LETTER = {
  id: id(700),
  correlation_id: id(750),
  webhook_type: 'stripe',
  payload: { n: 0 },
  original_timestamp: '2025-05-01T10:00:00+00:00',
  failure_reason: 'timeout',
};
const enqueue = (reason: string) =>
  asService('dlq_enqueue_webhook', {
    p_correlation_id: id(750),
    p_webhook_type: 'stripe',
    p_payload: { n: 0 },
    p_original_timestamp: '2025-05-01T10:00:00+00:00',
    p_failure_reason: reason,
  });

/** What the replacements promise where nobody looked at the old ones; `books/…` move one balance once. */
const BEYOND_WHAT_WAS_SEEN: readonly WalletFunctionCase[] = [
  {
    id: 'books/wallet_apply_purchase',
    title: 'a purchase keeps the receipt that the invoice has where none is given',
    given: { ...userGiven(0, []), invoices: userGiven(0, []).invoices.map((row) => ({ ...row, receipt_url: 'r' })) },
    calls: [purchase(5000, 'evt_1')],
    should_be: {
      results: [answers(5000)],
      final: { ...balanceOf(5000), invoices: { [INVOICE]: { status: 'paid', receipt_url: 'r' } } },
    },
  },
  {
    id: 'books/wallet_apply_refund',
    title: 'a partial refund takes from the lot of its invoice what it takes from the balance',
    given: userGiven(5000, [BOUGHT], {
      credit_lots: [
        lot(LOT, { wallet_id: WALLET, invoice_id: INVOICE }, 5000),
        lot(OTHER_LOT, { wallet_id: WALLET }, 100, { created_at: '2020-01-01T00:00:00+00:00' }),
      ],
    }),
    calls: [refund(2000, 'evt_r1')],
    should_be: {
      results: [answers(3000)],
      final: {
        ...balanceOf(3000),
        credit_lots: { [LOT]: { quantity_remaining: 3000 }, [OTHER_LOT]: { quantity_remaining: 100 } },
        invoices: { [INVOICE]: { status: 'paid' } },
      },
    },
  },
  {
    id: 'books/org_wallet_apply_purchase',
    title: 'an organization’s purchase answers with its row',
    given: orgGiven(0, []),
    calls: [orgPurchase('evt_1')],
    should_be: { results: ['<id 1>'], final: orgBalanceOf(5000) },
  },
  {
    id: 'books/org_wallet_apply_refund',
    title: 'a refund of an organization’s invoice that stayed pending when it was credited goes through',
    given: orgGiven(5000, [ORG_BOUGHT], { status: 'pending' }),
    calls: [orgRefund(5000, 'evt_r1')],
    should_be: { final: { ...orgBalanceOf(0), invoices: { [INVOICE]: { status: 'refunded' } } } },
  },
  {
    id: 'books/org_wallet_apply_spend',
    title: 'a spend may take the whole balance',
    given: orgGiven(1000, [{ transaction_type: 'adjustment', credits_delta: 1000 }]),
    calls: [orgSpend(1000)],
    should_be: { results: ['<id 1>'], final: orgBalanceOf(0) },
  },
  {
    id: 'key-with-another-amount',
    title: 'a key that comes again with another amount is refused',
    given: userGiven(0, []),
    calls: [purchase(5000, 'evt_1'), purchase(6000, 'evt_1'), refund(1000, 'evt_r1'), refund(1500, 'evt_r1')],
    should_be: {
      results: [
        answers(5000),
        refused('key evt_1 belongs to another operation'),
        answers(4000),
        refused('key evt_r1 belongs to another operation'),
      ],
      final: balanceOf(4000),
    },
  },
  {
    id: 'key-of-another-organization',
    title: 'an event of one organization is refused for another’s wallet',
    given: orgGiven(5000, [ORG_BOUGHT]),
    calls: [orgPurchase('evt_buy', OTHER_ORG_WALLET)],
    should_be: { results: [refused('key evt_buy belongs to another operation')], nothing_changes: true },
  },
  {
    id: 'refunded-invoice',
    title: 'an invoice that was refunded is not credited',
    given: {
      ...userGiven(0, []),
      invoices: userGiven(0, []).invoices.map((row) => ({ ...row, status: 'refunded' })),
    },
    calls: [purchase(5000, 'evt_1')],
    should_be: { results: [refused(`invoice ${INVOICE} was refunded`)], nothing_changes: true },
  },
  {
    id: 'refunds-out-of-order',
    title: 'a refund that was reported already takes nothing, in whatever order the reports come',
    given: userGiven(5000, [BOUGHT]),
    calls: [
      refund(1000, 'evt_r1'),
      refund(2500, 'evt_r2'),
      refund(1000, 'evt_r1'),
      refund(2500, 'evt_r2'),
      refund(2000, 'evt_r3'),
    ],
    should_be: {
      results: [answers(4000), answers(2500), answers(2500), answers(2500), answers(2500)],
      final: balanceOf(2500),
      new_rows: { wallet_transactions: 2 },
    },
  },
  {
    id: 'org-refunds-repeated',
    title: 'each repeated refund event of an organization answers with its own row',
    given: orgGiven(5000, [ORG_BOUGHT]),
    calls: [orgRefund(1000, 'evt_r1'), orgRefund(2500, 'evt_r2'), orgRefund(1000, 'evt_r1'), orgRefund(2500, 'evt_r2')],
    should_be: { results: ['<id 1>', '<id 2>', '<id 1>', '<id 2>'], final: orgBalanceOf(2500) },
  },
  {
    id: 'user-refund-beyond-invoice',
    title: 'a user is refunded no more than the invoice’s amount',
    given: userGiven(5000, [BOUGHT]),
    calls: [refund(5001, 'evt_r1')],
    should_be: {
      results: [refused(`at most the 5000 cents of invoice ${INVOICE} can be refunded, not 5001`)],
      nothing_changes: true,
    },
  },
  {
    id: 'deduct-frozen',
    title: 'nothing is taken from the lots of a frozen wallet',
    given: {
      ...userGiven(500, [adjusted(500)], { credit_lots: [lot(LOT, { wallet_id: WALLET }, 500)] }),
      wallets: [{ id: WALLET, user_id: USER, balance_credits: 500, status: 'frozen' }],
    },
    calls: [deduct(1)],
    should_be: { results: [refused('wallet is frozen')], nothing_changes: true },
  },
  {
    id: 'deduct-two-wallets',
    title: 'credits are taken from one wallet, not from two',
    given: {
      ...orgGiven(0, []),
      ...userGiven(500, [adjusted(500)], { credit_lots: [lot(LOT, { wallet_id: WALLET }, 500)] }),
    },
    calls: [asService('deduct_credits_fifo', { p_amount: 1, p_wallet_id: WALLET, p_org_wallet_id: ORG_WALLET })],
    should_be: { results: [{ error: 'P0001' }], nothing_changes: true },
  },
  {
    id: 'deduct-lots-then-balance',
    title: 'what the lots lack is taken from the balance that no lot stands for, and is said with a null lot',
    given: userGiven(1000, [adjusted(1000)], { credit_lots: [lot(LOT, { wallet_id: WALLET }, 300)] }),
    calls: [deduct(500)],
    should_be: {
      results: [
        [
          { lot_id: LOT, deducted: 300 },
          { lot_id: null, deducted: 200 },
        ],
      ],
      final: { ...balanceOf(1000), credit_lots: { [LOT]: { quantity_remaining: 0 } } },
    },
  },
  {
    id: 'deduct-twice-before-balance',
    title: 'credits that were taken from a lot are not taken from the balance once more before it has moved',
    given: userGiven(500, [adjusted(500)], { credit_lots: [lot(LOT, { wallet_id: WALLET }, 500)] }),
    calls: [deduct(300), deduct(300)],
    should_be: {
      results: [[{ lot_id: LOT, deducted: 300 }], refused('Insufficient credits: needed 300, only had 200')],
    },
  },
  {
    id: 'deduct-expired',
    title: 'expired credits are not spent, though the balance has them',
    given: userGiven(500, [adjusted(500)], {
      credit_lots: [
        lot(LOT, { wallet_id: WALLET }, 300),
        lot(OTHER_LOT, { wallet_id: WALLET }, 200, { expires_at: '2020-01-01T00:00:00+00:00' }),
      ],
    }),
    calls: [deduct(400)],
    should_be: {
      results: [refused('Insufficient credits: needed 400, only had 300')],
      nothing_changes: true,
    },
  },
  {
    id: 'lots-of-an-organization',
    title: 'an organization’s lots are shown to a member, and to nobody else who is signed in',
    given: orgGiven(900, [], {}, { credit_lots: [lot(LOT, { org_wallet_id: ORG_WALLET }, 900)] }),
    calls: [
      asUser(USER, 'get_available_credits', { p_org_wallet_id: ORG_WALLET }),
      asUser(OTHER_USER, 'get_available_credits', { p_org_wallet_id: ORG_WALLET }),
      asUser(OTHER_USER, 'get_credit_lot_breakdown', { p_org_wallet_id: ORG_WALLET }),
    ],
    should_be: { results: [900, 0, []] },
  },
  {
    id: 'recompute-drifted',
    title: 'a recompute brings a new row into a balance that had drifted before, once',
    given: {
      ...userGiven(0, [adjusted(500, { created_at: '2025-01-15T00:00:00+00:00' })]),
      wallets: [
        {
          id: WALLET,
          user_id: USER,
          balance_credits: 700,
          created_at: '2025-01-01T00:00:00+00:00',
          updated_at: '2025-02-01T00:00:00+00:00',
        },
      ],
    },
    calls: [insertRow(adjusted(300)), recompute, recompute],
    should_be: { results: [null, 1000, 1000], final: balanceOf(1000) },
  },
  ...[
    { balance: 700, recomputed: 700 },
    { balance: 500, recomputed: 800 },
  ].map(({ balance, recomputed }) => ({
    id: 'recompute-imported',
    title: `a wallet that came with a balance of ${balance} before its rows of 500 and 300 has ${recomputed}`,
    given: {
      ...userGiven(0, [
        adjusted(500, { created_at: '2025-02-01T00:00:00+00:00' }),
        adjusted(300, { created_at: '2025-03-01T00:00:00+00:00' }),
      ]),
      wallets: [
        {
          id: WALLET,
          user_id: USER,
          balance_credits: balance,
          created_at: '2025-01-01T00:00:00+00:00',
          updated_at: '2025-01-01T00:00:00+00:00',
        },
      ],
    },
    calls: [recompute],
    should_be: { results: [recomputed], final: balanceOf(recomputed) },
  })),
  {
    id: 'recompute-new-wallet',
    title: 'a recompute brings the first row of a new wallet into its balance',
    given: userGiven(0, []),
    calls: [insertRow({ type: 'promo', credits_delta: 500 }), recompute],
    should_be: { results: [null, 500], final: balanceOf(500) },
  },
  {
    id: 'recompute-beside-insert',
    title: 'a recompute waits for a row that is being inserted',
    given: userGiven(0, []),
    concurrent: true,
    calls: [insertRow(adjusted(700)), { ...recompute, waited: true }],
    should_be: { results: [null, 700], final: balanceOf(700) },
  },
  {
    id: 'enqueue-at-once',
    title: 'a failure that is reported on two connections at once is one dead letter with the newer reason',
    given: {},
    concurrent: true,
    calls: [
      { ...enqueue('HTTP 500'), result: '<id 1>' },
      { ...enqueue('HTTP 502'), result: '<id 1>', waited: true },
    ],
    changes: {
      dead_letter_webhooks: {
        inserted: [
          {
            ...LETTER,
            id: '<id 1>',
            failure_reason: 'HTTP 502',
            status: 'pending',
            retry_count: 0,
            last_retry_at: null,
            created_at: '<now>',
            updated_at: '<now>',
          },
        ],
      },
    },
  },
  {
    id: 'enqueue-again-after-success',
    title: 'a webhook that fails again after it had succeeded waits once more',
    given: { dead_letter_webhooks: [{ ...LETTER, status: 'succeeded' }] },
    calls: [enqueue('HTTP 500')],
    should_be: {
      results: [LETTER.id],
      final: { dead_letter_webhooks: { [LETTER.id]: { status: 'pending', failure_reason: 'HTTP 500' } } },
      new_rows: { dead_letter_webhooks: 0 },
    },
  },
  {
    id: 'null-status',
    title: 'a dead letter keeps a status',
    given: { dead_letter_webhooks: [{ ...LETTER, status: 'retrying' }] },
    calls: [asService('dlq_set_status', { p_id: LETTER.id, p_status: null })],
    should_be: { results: [{ error: '23502' }], nothing_changes: true },
  },
  {
    id: 'pop-at-once',
    title: 'two callers at once take different dead letters, and neither waits',
    given: {
      dead_letter_webhooks: [
        { ...LETTER, updated_at: '<now - 2 hours>' },
        { ...LETTER, id: id(701), correlation_id: id(751), status: 'failed', updated_at: '<now - 1 hour>' },
      ],
    },
    concurrent: true,
    calls: [asService('dlq_pop_next', {}), { ...asService('dlq_pop_next', {}), waited: false }],
    should_be: {
      results: [[popped(LETTER.id, id(750))], [popped(id(701), id(751))]],
      final: {
        dead_letter_webhooks: {
          [LETTER.id]: { status: 'retrying', retry_count: 1 },
          [id(701)]: { status: 'retrying', retry_count: 1 },
        },
      },
    },
  },
];

function popped(letterId: string, correlationId: string): Row {
  return { id: letterId, correlation_id: correlationId, webhook_type: 'stripe', payload: { n: 0 } };
}
