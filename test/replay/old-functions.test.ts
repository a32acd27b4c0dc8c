import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import {
  findWalletFunctions,
  replaceWalletFunctions,
  restoreWalletFunctions,
} from '../../src/replay/wallet-functions.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenInvoice, givenWallet, widenColumns } from '../support/legacy.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createLegacyTestDatabase();
  await database.pool.query(`
    create or replace function public.wallet_freeze_if_negative(p_wallet_id uuid) returns void language sql as 'select 4711';
    comment on function public.wallet_freeze_if_negative(uuid) is 'as it was'`);
});
afterEach(() => database.drop());

/** What the functions and the tables allow, and the index that goes. */
const state = async () => {
  const { rows } = await database.pool.query<{ line: string }>(
    `select format('%s %s %s', p.oid::regprocedure, md5(p.prosrc), obj_description(p.oid, 'pg_proc')) as line
     from pg_proc p where p.proname = 'wallet_freeze_if_negative'
     union all
     select format('%s %s', c.relname, array(select a::text from unnest(c.relacl) a order by 1)) from pg_class c
     where c.relname in ('wallets', 'wallet_transactions', 'org_wallets') and c.relkind = 'r'
     union all
     select pg_get_indexdef(i.indexrelid) from pg_index i where i.indexrelid::regclass::text = 'uq_org_wallet_txn_invoice_refund'
     order by 1`,
  );
  return rows.map(({ line }) => line);
};

it('the old functions come back as they were, once nobody is cut over any more', async () => {
  const { pool } = database;
  await givenWallet(pool);
  await runBackfill(pool);
  const before = await state();
  await replaceWalletFunctions(pool);
  await replaceWalletFunctions(pool);
  expect(await state()).not.toEqual(before);
  await cutOver(pool, { owners: 'all' });
  await expect(restoreWalletFunctions(pool)).rejects.toMatchObject({ code: 'CAPTURE_NEEDED' });
  await rollBack(pool, { owners: 'all' });
  expect(await restoreWalletFunctions(pool)).toMatchObject({ refused: [] });
  expect(await state()).toEqual(before);
  // Those that were not there before are gone.
  expect(await findWalletFunctions(pool)).toEqual([
    { signature: 'wallet_freeze_if_negative(uuid)', isReplaced: false },
  ]);
  expect(await restoreWalletFunctions(pool)).toEqual({ statements: 0, refused: [] });
});

it.each([
  [
    'whose parameters have other names',
    'wallet uuid',
    /input parameter "wallet".*DROP FUNCTION recompute_wallet_balance\(uuid\).*drop it/,
  ],
  [
    'that takes other types, beside which ours would be another one',
    'p_wallet text',
    /recompute_wallet_balance\(text\) has parameters of other types/,
  ],
])('a function %s is refused, and nothing is replaced', async (_, parameters, message) => {
  const { pool } = database;
  await pool.query(
    `create function public.recompute_wallet_balance(${parameters}) returns integer language sql as 'select 1'`,
  );
  const before = await findWalletFunctions(pool);
  await expect(replaceWalletFunctions(pool)).rejects.toMatchObject({
    code: 'CUTOVER_FUNCTION_DIFFERS',
    message: expect.stringMatching(message),
  });
  expect(await findWalletFunctions(pool)).toEqual(before);
  expect(await pool.query('select from replay.old_functions')).toMatchObject({ rowCount: 0 });
});

it('what uses a function that was not there before keeps it, and is named', async () => {
  const { pool } = database;
  await replaceWalletFunctions(pool);
  await pool.query(`create view uses_it as select public.recompute_wallet_balance(gen_random_uuid())`);
  expect(await restoreWalletFunctions(pool)).toMatchObject({
    refused: [expect.stringMatching(/^drop function if exists recompute_wallet_balance\(uuid\): /)],
  });
  expect(await findWalletFunctions(pool)).toEqual([
    { signature: 'recompute_wallet_balance(uuid)', isReplaced: true },
    { signature: 'wallet_freeze_if_negative(uuid)', isReplaced: false },
  ]);
});

it('work on columns that were made bigint, in sessions of before and of after', async () => {
  const { pool } = database;
  await replaceWalletFunctions(pool);
  const wallet = await givenWallet(pool, { balance: 5 });
  const org = await givenWallet(pool, { kind: 'organization', balance: 5 });
  const session = await pool.connect();
  const call = async (db: Queryable) => {
    for (const [name, { id }] of [
      ['recompute_wallet_balance', wallet],
      ['recompute_org_wallet_balance', org],
    ] as const) {
      expect((await db.query(`select public.${name}($1) as balance`, [id])).rows).toEqual([{ balance: 5 }]);
    }
  };
  try {
    await call(session);
    await widenColumns(pool);
    await call(session);
  } finally {
    session.release(true);
  }
  await call(pool);
});

it('no function is made where there are no wallets', async () => {
  const empty = await createDatabase();
  try {
    await expect(replaceWalletFunctions(empty.pool)).rejects.toMatchObject({ code: 'LEGACY_TABLE_MISSING' });
    expect(await findWalletFunctions(empty.pool)).toEqual([]);
  } finally {
    await empty.drop();
  }
});

it('what rows that came since stand against is named, and all else comes back', async () => {
  const { pool } = database;
  await replaceWalletFunctions(pool);
  const wallet = await givenWallet(pool, { kind: 'organization' });
  const invoice = await givenInvoice(pool, wallet, 100);
  await pool.query(
    `insert into org_wallet_transactions (wallet_id, transaction_type, credits_delta, invoice_id)
     values ($1, 'refund', -1, $2), ($1, 'refund', -2, $2)`,
    [wallet.id, invoice],
  );
  expect(await restoreWalletFunctions(pool)).toMatchObject({
    refused: [expect.stringContaining('uq_org_wallet_txn_invoice_refund')],
  });
  expect(
    (await findWalletFunctions(pool)).find(({ signature }) => signature.startsWith('wallet_freeze')),
  ).toMatchObject({
    isReplaced: false,
  });
});
