import { randomUUID } from 'node:crypto';
import type { Pool } from '../../../src/db/pool.ts';
import { addSlots, changeAccount } from '../../../src/ledger/accounts.ts';
import { placeHold, voidHold } from '../../../src/ledger/holds.ts';
import { openAccounts, post } from '../../../src/ledger/ledger.ts';
import { openTestAccounts, transfer } from '../books.ts';
import type { Tampering } from './tampering.ts';

/** A wallet with a floor and a ceiling, frozen; one with an active hold that was captured in part; and what was done to them. */
export interface StateBooks {
  readonly frozen: string;
  readonly wallet: string;
  readonly held: string;
  readonly voided: string;
  readonly sold: string;
  /** An account and its slots, with something in each. */
  readonly slots: readonly string[];
}

export async function fillStateBooks(pool: Pool): Promise<StateBooks> {
  const accounts = await openTestAccounts(pool);
  const [frozen = '', wallet = ''] = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'frozen', userId: randomUUID(), floorCents: 0n, ceilingCents: 900n },
    { type: 'cash', currency: 'USD', name: 'spending', userId: randomUUID(), floorCents: 0n },
  ]);
  await changeAccount(pool, { accountId: frozen, status: 'frozen', reason: 'chargeback' });
  await post(pool, transfer(accounts.clearing, wallet, { amountCents: 1_000n }));
  const held = (await placeHold(pool, { accountId: wallet, amountCents: 500n, currency: 'USD' })).holdId;
  const voided = (await placeHold(pool, { accountId: wallet, amountCents: 100n, currency: 'USD' })).holdId;
  await voidHold(pool, { holdId: voided });
  const sold = (await post(pool, transfer(wallet, accounts.revenue, { amountCents: 200n, capture: { holdId: held } })))
    .transactionId;
  await post(pool, { ...transfer(accounts.revenue, wallet, { amountCents: 50n }), reverses: sold });
  const slots = await addSlots(pool, { accountId: accounts.revenue, slots: 3 });
  for (const slot of slots) await post(pool, transfer(accounts.clearing, slot));
  return { frozen, wallet, held, voided, sold, slots };
}

const HOLDS = 'the holds are what the log placed, captured and released';
const REVERSALS = 'the reversals are what the log says, and none exceeds what it reverses';
const STATES = "every account's limits, state and held amount are what the log says";

export const STATE_TAMPERINGS: readonly Tampering<StateBooks>[] = [
  [
    'two hold entries that changed places',
    () =>
      `update payments.hold_entries set event_position = -event_position;
       update payments.hold_entries h set event_position = (select -o.event_position from payments.hold_entries o where o.kind = case h.kind when 'captured' then 'voided' else 'captured' end) where kind in ('captured', 'voided');
       update payments.hold_entries set event_position = -event_position where event_position < 0`,
    () => 'differs from its event',
    HOLDS,
  ],
  [
    'who placed a hold',
    (b) => `update payments.holds set created_by = 'somebody' where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'two holds that changed their ids',
    (b) =>
      `update payments.holds set hold_id = '00000000-0000-4000-8000-0000000000ff' where hold_id = '${b.held}';
       update payments.holds set hold_id = '${b.held}' where hold_id = '${b.voided}';
       update payments.holds set hold_id = '${b.voided}' where hold_id = '00000000-0000-4000-8000-0000000000ff'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'a hold that nobody placed',
    (b) =>
      `insert into payments.holds (amount_cents, remaining_cents, last_seq, event_position, created_at, hold_id, account_id, book_id, state, currency, created_by, metadata) values (5, 5, 1, 1, now(), '00000000-0000-4000-8000-00000000dead', '${b.wallet}', 1, 'active', 'USD', 'x', '{}')`,
    () => 'hold 00000000-0000-4000-8000-00000000dead has no event in the log',
    HOLDS,
  ],
  [
    'the history of an account, in another order',
    (b) =>
      `update payments.account_changes set change_seq = -change_seq where account_id = '${b.frozen}'; update payments.account_changes set change_seq = 3 + change_seq where account_id = '${b.frozen}'`,
    () => 'is out of turn',
    STATES,
  ],
  [
    'the limits that a change says',
    (b) => `update payments.account_changes set floor_cents = -1 where account_id = '${b.wallet}'`,
    () => 'differs from its event',
    STATES,
  ],
  [
    'a reversal that nobody posted',
    () =>
      `insert into payments.reversals (event_position, reversal_seq, transaction_id, reverses, book_id, is_complete) values (999999, 1, gen_random_uuid(), gen_random_uuid(), 1, false)`,
    () => 'reversal of event 999999 has no event in the log',
    REVERSALS,
  ],
  [
    'a smaller hold',
    (b) => `update payments.holds set amount_cents = 400 where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'less remaining of a hold',
    (b) => `update payments.holds set remaining_cents = 100 where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'a hold that ended for no reason',
    (b) => `update payments.holds set state = 'voided', remaining_cents = 0 where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'a voided hold come back',
    (b) => `update payments.holds set state = 'active', remaining_cents = 100 where hold_id = '${b.voided}'`,
    (b) => b.voided,
    HOLDS,
  ],
  [
    'a hold that expires',
    (b) => `update payments.holds set expires_at = now() where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    'a hold on another account',
    (b) => `update payments.holds set account_id = '${b.frozen}' where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    "a hold's reference",
    (b) => `update payments.holds set reference_id = 'x' where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  [
    "a hold's number of entries",
    (b) => `update payments.holds set last_seq = 9 where hold_id = '${b.held}'`,
    (b) => b.held,
    HOLDS,
  ],
  ['a removed hold', (b) => `delete from payments.holds where hold_id = '${b.held}'`, (b) => b.held, HOLDS],
  [
    'a removed hold entry',
    (b) => `delete from payments.hold_entries where hold_id = '${b.voided}' and kind = 'voided'`,
    () => 'is in the log and not among the hold entries',
    HOLDS,
  ],
  [
    'an invented hold entry',
    (b) =>
      `insert into payments.hold_entries select 999999, 3, account_hold_seq + 10, 0, held_after_cents, 0, 300, created_at, hold_id, account_id, null, 1, 'expired' from payments.hold_entries where hold_id = '${b.held}' and kind = 'captured'`,
    () => 'hold entry of event 999999 has no event in the log',
    HOLDS,
  ],
  [
    'a hold entry that captured less',
    (b) => `update payments.hold_entries set captured_cents = 100 where hold_id = '${b.held}' and kind = 'captured'`,
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
    (b) =>
      `with e as (update payments.events set payload = jsonb_set(payload, '{hold_step,remaining_cents}', '450') where event_id = '${b.sold}'), h as (update payments.hold_entries set remaining_cents = 450 where kind = 'captured') update payments.holds set remaining_cents = 450 where hold_id = '${b.held}'`,
    (b) => b.sold,
    'no event changed since it was written',
  ],
  [
    'an account unfrozen',
    (b) => `update payments.balances set status = 'open' where account_id = '${b.frozen}'`,
    (b) => b.frozen,
    STATES,
  ],
  [
    'a lifted floor',
    (b) => `update payments.balances set max_cents = null where account_id = '${b.wallet}'`,
    (b) => b.wallet,
    STATES,
  ],
  [
    'a lower ceiling',
    (b) => `update payments.balances set min_cents = -1 where account_id = '${b.frozen}'`,
    (b) => b.frozen,
    STATES,
  ],
  [
    'a held amount forgotten',
    (b) => `update payments.balances set held_cents = 0 where account_id = '${b.wallet}'`,
    (b) => b.wallet,
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
    (b) => `delete from payments.reversals where reverses = '${b.sold}'`,
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
