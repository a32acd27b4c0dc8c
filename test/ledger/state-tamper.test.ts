import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { GUARDS } from '../../src/ledger/guards.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runChecks } from '../../src/ledger/verify.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const HOLDS = 'the holds are what the log placed, captured and released';
const REVERSALS = 'the reversals are what the log says, and none exceeds what it reverses';
const STATES = "every account's limits, state and held amount are what the log says";

let database: TestDatabase;
/** A wallet with a floor and a ceiling, frozen; one with an active hold that was captured in part; and what was done to them. */
let frozen: string;
let wallet: string;
let held: string;
let voided: string;
let sold: string;

beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  const accounts = await openTestAccounts(pool);
  [frozen = '', wallet = ''] = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'frozen', userId: randomUUID(), floorCents: 0n, ceilingCents: 900n },
    { type: 'cash', currency: 'USD', name: 'spending', userId: randomUUID(), floorCents: 0n },
  ]);
  await changeAccount(pool, { accountId: frozen, status: 'frozen', reason: 'chargeback' });
  await post(pool, transfer(accounts.clearing, wallet, { amountCents: 1_000n }));
  held = (await placeHold(pool, { accountId: wallet, amountCents: 500n, currency: 'USD' })).holdId;
  voided = (await placeHold(pool, { accountId: wallet, amountCents: 100n, currency: 'USD' })).holdId;
  await voidHold(pool, { holdId: voided });
  sold = (await post(pool, transfer(wallet, accounts.revenue, { amountCents: 200n, capture: { holdId: held } })))
    .transactionId;
  await post(pool, { ...transfer(accounts.revenue, wallet, { amountCents: 50n }), reverses: sold });
});
afterAll(() => database.drop());

/** What fails after an owner who disabled the triggers did this; nothing of it stays. */
async function checksAfter(sql: string) {
  const tx = await database.pool.connect();
  try {
    const tables = [...new Set(GUARDS.map(({ table }) => table))];
    await tx.query('begin');
    for (const table of tables) await tx.query(`alter table payments.${table} disable trigger user`);
    const { rowCount } = await tx.query(sql);
    expect(rowCount, 'the tampering met no row').toBeGreaterThan(0);
    for (const { table, trigger } of GUARDS) {
      await tx.query(`alter table payments.${table} enable always trigger ${trigger}`);
    }
    return (await runChecks(tx)).filter((check) => !check.holds);
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

const edits: [string, () => string, () => string, string][] = [
  ['a smaller hold', () => `update payments.holds set amount_cents = 400 where hold_id = '${held}'`, () => held, HOLDS],
  [
    'less remaining of a hold',
    () => `update payments.holds set remaining_cents = 100 where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  [
    'a hold that ended for no reason',
    () => `update payments.holds set state = 'voided', remaining_cents = 0 where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  [
    'a voided hold come back',
    () => `update payments.holds set state = 'active', remaining_cents = 100 where hold_id = '${voided}'`,
    () => voided,
    HOLDS,
  ],
  [
    'a hold that expires',
    () => `update payments.holds set expires_at = now() where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  [
    'a hold on another account',
    () => `update payments.holds set account_id = '${frozen}' where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  [
    "a hold's reference",
    () => `update payments.holds set reference_id = 'x' where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  [
    "a hold's number of entries",
    () => `update payments.holds set last_seq = 9 where hold_id = '${held}'`,
    () => held,
    HOLDS,
  ],
  ['a removed hold', () => `delete from payments.holds where hold_id = '${held}'`, () => held, HOLDS],
  [
    'a removed hold entry',
    () => `delete from payments.hold_entries where hold_id = '${voided}' and kind = 'voided'`,
    () => 'is in the log and not among the hold entries',
    HOLDS,
  ],
  [
    'an invented hold entry',
    () =>
      `insert into payments.hold_entries select 999999, 3, account_hold_seq + 10, 0, held_after_cents, 0, 300, created_at, hold_id, account_id, null, 1, 'expired' from payments.hold_entries where hold_id = '${held}' and kind = 'captured'`,
    () => 'hold entry of event 999999 has no event in the log',
    HOLDS,
  ],
  [
    'a hold entry that captured less',
    () => `update payments.hold_entries set captured_cents = 100 where hold_id = '${held}' and kind = 'captured'`,
    () => 'differs from its event',
    HOLDS,
  ],
  [
    'a hold entry by another transaction',
    () => `update payments.hold_entries set transaction_id = gen_random_uuid() where kind = 'captured'`,
    () => 'differs from its event',
    HOLDS,
  ],
  [
    'hold entries out of turn',
    () => `update payments.hold_entries set account_hold_seq = account_hold_seq + 100 where kind = 'voided'`,
    () => 'differs from its event',
    HOLDS,
  ],
  [
    'a captured amount, in the log and in the projections alike',
    () =>
      `with e as (update payments.events set payload = jsonb_set(payload, '{hold_step,remaining_cents}', '450') where event_id = '${sold}'), h as (update payments.hold_entries set remaining_cents = 450 where kind = 'captured') update payments.holds set remaining_cents = 450 where hold_id = '${held}'`,
    () => sold,
    'no event changed since it was written',
  ],
  [
    'an account unfrozen',
    () => `update payments.balances set status = 'open' where account_id = '${frozen}'`,
    () => frozen,
    STATES,
  ],
  [
    'a lifted floor',
    () => `update payments.balances set max_cents = null where account_id = '${wallet}'`,
    () => wallet,
    STATES,
  ],
  [
    'a lower ceiling',
    () => `update payments.balances set min_cents = -1 where account_id = '${frozen}'`,
    () => frozen,
    STATES,
  ],
  [
    'a held amount forgotten',
    () => `update payments.balances set held_cents = 0 where account_id = '${wallet}'`,
    () => wallet,
    STATES,
  ],
  [
    'a change of an account removed',
    () => `delete from payments.account_changes where status = 'frozen'`,
    () => 'is in the log and not among the changes',
    STATES,
  ],
  [
    'a change of an account invented',
    () =>
      `insert into payments.account_changes select 999999, change_seq + 1, null, null, changed_at, account_id, 1, 'open', changed_by, reason from payments.account_changes where status = 'frozen'`,
    () => 'account change of event 999999 has no event in the log',
    STATES,
  ],
  [
    'the reason of a change',
    () => `update payments.account_changes set reason = 'holiday' where status = 'frozen'`,
    () => 'differs from its event',
    STATES,
  ],
  [
    'who changed it',
    () => `update payments.account_changes set changed_by = 'somebody' where status = 'frozen'`,
    () => 'differs from its event',
    STATES,
  ],
  [
    'a removed reversal',
    () => `delete from payments.reversals where reverses = '${sold}'`,
    () => 'is in the log and not among the reversals',
    REVERSALS,
  ],
  [
    'a reversal of something else',
    () => `update payments.reversals set reverses = gen_random_uuid()`,
    () => 'differs from its event',
    REVERSALS,
  ],
  [
    'a reversal that says it is complete',
    () => `update payments.reversals set is_complete = true`,
    () => 'differs from its event',
    REVERSALS,
  ],
  [
    'a reversal by another transaction',
    () => `update payments.reversals set transaction_id = gen_random_uuid()`,
    () => 'differs from its event',
    REVERSALS,
  ],
  ['a reversal out of turn', () => `update payments.reversals set reversal_seq = 5`, () => 'is out of turn', REVERSALS],
];

describe('books verify', () => {
  it('finds nothing where nothing was tampered with', async () => {
    expect(await checksAfter('select 1')).toEqual([]);
  });

  it.each(edits)('finds %s, and says where', async (_what, sql, named, check) => {
    const failing = await checksAfter(sql());
    expect(failing[0]?.check).toBe(check);
    expect(failing[0]?.first.join('\n')).toContain(named());
  });
});
