import type { StateBooks } from './state.ts';
import type { Tampering } from './tampering.ts';

const SLOTS = 'the slots are what the log says, and what slots must be';
const STATES = "every account's limits, state and held amount are what the log says";

export const SLOT_TAMPERINGS: readonly Tampering<StateBooks>[] = [
  [
    'a slot removed',
    () => `delete from payments.account_slots where slot_number = 2`,
    (b) => `slot ${b.slots[2]} is in the log and not among the slots`,
    SLOTS,
  ],
  [
    'a slot invented',
    (b) =>
      `insert into payments.account_slots (event_position, account_id, slot_account_id, slot_number, book_id) values (999999, '${b.slots[0]}', '${b.wallet}', 3, 1)`,
    (b) => `slot ${b.wallet} has no event in the log`,
    SLOTS,
  ],
  [
    'a slot of another account',
    (b) => `update payments.account_slots set account_id = '${b.wallet}' where slot_number = 2`,
    (b) => `slot ${b.slots[2]} differs from its event`,
    SLOTS,
  ],
  [
    'slots that changed their numbers',
    () =>
      `update payments.account_slots set slot_number = 5 where slot_number = 1; update payments.account_slots set slot_number = 1 where slot_number = 2; update payments.account_slots set slot_number = 2 where slot_number = 5`,
    (b) => `slot ${b.slots[1]} differs from its event`,
    SLOTS,
  ],
  [
    "a slot's position in the log",
    () => `update payments.account_slots set event_position = 1 where slot_number = 1`,
    (b) => `slot ${b.slots[1]} differs from its event`,
    SLOTS,
  ],
  [
    'a slot that the log opened for another account',
    (b) =>
      `update payments.account_slots set account_id = '${b.wallet}', slot_number = 1 where slot_number = 2; ${rewrite(b, `payload || jsonb_build_object('slot_of', '${b.wallet}', 'slot_number', 1)`)}`,
    (b) => `slot ${b.slots[2]} of account ${b.wallet} has another owner, type or currency`,
    SLOTS,
  ],
  [
    'a slot number left out, in the log too',
    (b) =>
      `update payments.account_slots set slot_number = 7 where slot_number = 2; ${rewrite(b, `payload || '{"slot_number": 7}'`)}`,
    (b) => `slot ${b.slots[2]} is number 7 of account ${b.slots[0]}, expected number 2`,
    SLOTS,
  ],
  [
    'a slot of a slot, in the log too',
    (b) =>
      `update payments.account_slots set account_id = '${b.slots[1]}', slot_number = 1 where slot_number = 2; ${rewrite(b, `payload || jsonb_build_object('slot_of', '${b.slots[1]}', 'slot_number', 1)`)}`,
    (b) => `slot ${b.slots[2]} of account ${b.slots[1]} is of an account that is a slot itself`,
    SLOTS,
  ],
  [
    'a slot frozen without its account',
    (b) => `update payments.balances set status = 'frozen' where account_id = '${b.slots[1]}'`,
    (b) => `account ${b.slots[1]} is frozen`,
    STATES,
  ],
  [
    'a slot frozen without its account, in the log too',
    (b) =>
      change({ account_id: b.slots[1], status: 'frozen', floor_cents: null, ceiling_cents: null }, `status = 'frozen'`),
    (b) => `slot ${b.slots[1]} is frozen, its account ${b.slots[0]} is open`,
    SLOTS,
  ],
  [
    'a ceiling of a slot, in the log too',
    (b) =>
      change({ account_id: b.slots[1], status: 'open', floor_cents: null, ceiling_cents: 9_999 }, 'min_cents = -9999'),
    (b) => `account ${b.slots[1]}, kept in slots, has limits -9999 to none`,
    SLOTS,
  ],
  [
    'more in a slot than leaves room for the sum of all, posted while it was none',
    (b) => `
      create temporary table kept on commit drop as select * from payments.account_slots;
      delete from payments.account_slots;
      select payments.post_transaction(1, jsonb_build_object('entries', jsonb_build_array(
        jsonb_build_object('account_id', '${b.slots[1]}', 'amount_cents', '${2n ** 58n}', 'currency', 'USD'),
        jsonb_build_object('account_id', '${b.wallet}', 'amount_cents', '${-(2n ** 58n)}', 'currency', 'USD'))));
      insert into payments.account_slots select * from kept`,
    (b) => `account ${b.slots[1]}, kept in slots, comes to`,
    SLOTS,
  ],
];

/** Rewrites the event that opened slot 2, with the hash that it has then: so far as the log knows, it always said so. */
function rewrite({ slots }: StateBooks, payload: string): string {
  return `update payments.events e set payload = x.payload, leaf_hash = payments.event_leaf_hash(e.book_id, e.position, e.event_id, e.effective_at,
      e.recorded_at, e.type, e.created_by, e.idempotency_scope, e.idempotency_key, e.request_hash, x.payload)
    from (select position, ${payload} as payload from payments.events where event_id = '${slots[2]}') x
    where e.position = x.position`;
}

/** A change of an account that no function of the ledger makes: in the log, in the account's history and in its state. */
function change(payload: Record<string, unknown>, state: string): string {
  return `select payments.append_events(1, array[row('account.changed', gen_random_uuid(), null, null, null, null, '${JSON.stringify(payload)}'::jsonb)::payments.new_event]);
    insert into payments.account_changes (book_id, event_position, account_id, change_seq, status, floor_cents, ceiling_cents, changed_at, changed_by, reason)
    select 1, e.position, (e.payload ->> 'account_id')::uuid, 1, e.payload ->> 'status', null, (e.payload ->> 'ceiling_cents')::bigint, e.recorded_at, e.created_by, null
    from payments.events e order by e.position desc limit 1;
    update payments.balances set ${state} where account_id = '${payload['account_id']}'`;
}
