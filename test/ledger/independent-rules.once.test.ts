import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { disguised, undone } from '../support/tamperings/tampering.ts';

const EVENTS = 'every event says what events of its type say';
const HOLDS = 'the holds are what the log placed, captured and released';
const REVERSALS = 'the reversals are what the log says, and none exceeds what it reverses';
const SUMS = 'every transaction sums to zero per currency';
const RULES = 'nothing was posted or held that its account did not allow';
const SLOTS = 'the slots are what the log says, and what slots must be';
const PERIODS = 'the closed periods are what the log closed';

let database: TestDatabase;
let accounts: TestAccounts;
/** Wallets: with a floor of 0 and 300 available of 800; frozen; with a ceiling of 900 and 400 in it. */
let [floored, frozen, ceiled] = ['', '', ''];
/** An account and its slot. */
let [hot, slot] = ['', ''];
/** Holds on the first: of 500; voided. */
let [held, voided] = ['', ''];
/** A transaction of 400, of which 100 were taken back. */
let sold: string;

beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  accounts = await openTestAccounts(pool);
  const wallet = (name: string) => ({ type: 'cash', currency: 'USD', name, userId: randomUUID() });
  [floored = '', frozen = '', ceiled = ''] = await openAccounts(pool, [
    { ...wallet('floored'), floorCents: 0n },
    wallet('frozen'),
    { ...wallet('ceiled'), ceilingCents: 900n },
  ]);
  await post(pool, transfer(accounts.clearing, floored, { amountCents: 800n }));
  sold = (await post(pool, transfer(accounts.clearing, ceiled, { amountCents: 500n }))).transactionId;
  await post(pool, { ...transfer(ceiled, accounts.clearing, { amountCents: 100n }), reverses: sold });
  held = (await placeHold(pool, { accountId: floored, amountCents: 500n, currency: 'USD' })).holdId;
  voided = (await placeHold(pool, { accountId: floored, amountCents: 100n, currency: 'USD' })).holdId;
  await voidHold(pool, { holdId: voided });
  await changeAccount(pool, { accountId: frozen, status: 'frozen' });
  [hot = '', slot = ''] = await addSlots(pool, { accountId: accounts.revenue, slots: 2 });
  await closePeriod(pool, { until: '2020-01-01T00:00:00Z' });
});
afterAll(() => database.drop());

const leg = (accountId: string, amount: number | string, currency = 'USD') => ({
  account_id: accountId,
  amount_cents: amount,
  currency,
});
const legs = (debit: string, credit: string, cents: number | bigint) => [
  leg(debit, `${cents}`),
  leg(credit, `${-cents}`),
];
/** The next step of the hold of 500, unless told otherwise. */
const step = (kind: string, fields: Record<string, unknown> = {}) => ({
  hold_id: held,
  account_id: floored,
  kind,
  hold_seq: 2,
  account_hold_seq: 4,
  held_cents: -500,
  held_after_cents: 0,
  captured_cents: 0,
  remaining_cents: 0,
  ...fields,
});

/** Appends an event to the log with its leaf hash, and projects it: what an owner writes who knows the ledger's own functions. */
const forge = (type: string, payload: unknown, eventId = randomUUID()) =>
  disguised(`
    select payments.append_events(1, array[row('${type}', '${eventId}', null, null, null, null, $json$${JSON.stringify(payload)}$json$)::payments.new_event]);
    select payments.${[
      'project_account_changes',
      'project_hold_steps',
      'project_reversals',
      'project_periods',
      'project_account_slots',
    ]
      .map(
        (name) =>
          `${name}(1, (select max(position) from payments.events), (select max(position) from payments.events), null)`,
      )
      .join(', payments.')}`);

const posted = (entries: unknown, more: object = {}) => forge('transaction.posted', { entries, ...more });
/** What the event of a slot says; of the account with one, unless told otherwise. */
const slotOf = (fields: Record<string, unknown> = {}) => ({
  type: 'revenue',
  currency: 'USD',
  name: 'forged',
  slot_of: hot,
  slot_number: 2,
  ...fields,
});

const change = (accountId: string, fields: Record<string, unknown> = {}) => ({
  account_id: accountId,
  status: 'frozen',
  floor_cents: null,
  ceiling_cents: null,
  ...fields,
});

/** As forge, of an event that no function can project. */
const insert = (type: string, payload: string) =>
  disguised(`
    insert into payments.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, leaf_hash)
    select f.*, payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type, created_by, null, null, null, payload)
    from (select nextval('payments.events_position_seq') as position, now() as recorded_at, now() as effective_at, gen_random_uuid() as event_id,
                 1 as book_id, '${type}' as type, 'x' as created_by, $json$${payload}$json$::jsonb as payload) f`);

const failingAfter = (sql: string) =>
  undone(database.pool, async (tx) => {
    await tx.query(sql);
    return failing(tx);
  });
const failing = async (tx: Tx) => (await verifyIndependently(tx)).filter(({ holds }) => !holds);

describe('the independent verification replays the rules of the ledger, and names what no rule allows', () => {
  it('holds before anything is forged', async () => {
    expect(await failingAfter('select')).toEqual([]);
  });

  it('accepts what the rules allow, so that what follows is found for what it breaks', async () => {
    const allowed = [
      forge('transaction.posted', { entries: legs(floored, accounts.clearing, 300) }),
      forge('transaction.posted', {
        entries: legs(floored, accounts.clearing, 200),
        capture: { hold_id: held },
        hold_step: step('captured', {
          held_cents: -200,
          held_after_cents: 300,
          captured_cents: 200,
          remaining_cents: 300,
        }),
      }),
      forge('hold.voided', { hold_step: step('voided') }),
      forge('account.opened', slotOf()),
      `${forge('account.changed', change(hot))}; ${forge('account.changed', change(slot))}`,
      posted(legs(slot, accounts.clearing, 2n ** 57n - 1n)),
      // On its way, it may pass what a slot has room for.
      `${posted(legs(slot, accounts.clearing, 2n ** 57n))}; ${posted(legs(accounts.clearing, slot, 1n))}`,
      forge('transaction.posted', {
        entries: legs(ceiled, accounts.clearing, 400),
        reverses: sold,
        reversal_step: { reversal_seq: 2, is_complete: true },
      }),
    ];
    for (const sql of allowed) expect(await failingAfter(sql)).toEqual([]);
  });

  const forged: [what: string, sql: () => string, check: string, says: RegExp][] = [
    [
      'a floor passed by what holds reserve',
      () => posted(legs(floored, accounts.clearing, 301)),
      RULES,
      /beyond its floor/,
    ],
    ['a ceiling passed', () => posted(legs(accounts.clearing, ceiled, 501)), RULES, /beyond its ceiling/],
    ['a posting to a frozen account', () => posted(legs(accounts.clearing, frozen, 1)), RULES, /was frozen/],
    [
      'a posting in another currency',
      () => posted([leg(accounts.yen, 1), leg(accounts.clearing, -1)]),
      RULES,
      /holds JPY/,
    ],
    [
      'a sum that is not zero',
      () => posted([leg(accounts.wallet, 2), leg(accounts.clearing, -1)]),
      SUMS,
      /sums to 1 USD in its event/,
    ],
    [
      'two currencies that are zero only together',
      () => posted([leg(accounts.wallet, 1), leg(accounts.yen, -1, 'JPY')]),
      SUMS,
      /sums to (1 USD|-1 JPY)/,
    ],
    ['a single entry', () => posted([leg(accounts.wallet, 1)]), EVENTS, /has 1 entries, expected 2 to 1000/],
    [
      'a hold of more than there is',
      () => {
        const holdId = randomUUID();
        const hold_step = step('placed', {
          hold_id: holdId,
          hold_seq: 1,
          held_cents: 301,
          held_after_cents: 801,
          remaining_cents: 301,
        });
        return forge('hold.placed', { account_id: floored, amount_cents: 301, currency: 'USD', hold_step }, holdId);
      },
      RULES,
      /reserves too much: .* beyond its floor/,
    ],
    [
      'a capture of more than is held',
      () =>
        posted(legs(floored, accounts.clearing, 501), {
          capture: { hold_id: held },
          hold_step: step('captured', { captured_cents: 501, remaining_cents: 0 }),
        }),
      HOLDS,
      /captures 501 of hold .* which has 500 remaining/,
    ],
    [
      'a capture that says less than it took',
      () =>
        posted(legs(floored, accounts.clearing, 500), {
          capture: { hold_id: held },
          hold_step: step('captured', {
            held_cents: -1,
            held_after_cents: 499,
            captured_cents: 1,
            remaining_cents: 499,
          }),
        }),
      HOLDS,
      /captured_cents is 1, expected 500, remaining_cents is 499, expected 0/,
    ],
    [
      'a hold that ends a second time',
      // The database lets no row of that come into being.
      () =>
        insert(
          'hold.voided',
          JSON.stringify({
            hold_step: step('voided', { hold_id: voided, hold_seq: 3, held_cents: 0, held_after_cents: 500 }),
          }),
        ),
      HOLDS,
      /once more, which was voided already/,
    ],
    [
      'a hold that expires and never was to',
      () => forge('hold.expired', { hold_step: step('expired') }),
      HOLDS,
      /before its time/,
    ],
    [
      'a step of a hold that nobody placed',
      () => forge('hold.voided', { hold_step: step('voided', { hold_id: randomUUID() }) }),
      EVENTS,
      /which no event before it placed/,
    ],
    [
      'a capture without its step',
      () => posted(legs(floored, accounts.clearing, 5), { capture: { hold_id: held } }),
      EVENTS,
      /says no step of a hold, expected one/,
    ],
    [
      'a reversal of more than is left',
      () =>
        posted(legs(ceiled, accounts.clearing, 401), {
          reverses: sold,
          reversal_step: { reversal_seq: 2, is_complete: false },
        }),
      REVERSALS,
      /takes 401 from account .*, where 400 were left to take/,
    ],
    [
      'a reversal that says it is complete',
      () =>
        posted(legs(ceiled, accounts.clearing, 1), {
          reverses: sold,
          reversal_step: { reversal_seq: 2, is_complete: true },
        }),
      REVERSALS,
      /says that nothing is left of it, but account .* has (-399|399) left/,
    ],
    [
      'a reversal of nothing',
      () =>
        posted(legs(ceiled, accounts.clearing, 1), {
          reverses: randomUUID(),
          reversal_step: { reversal_seq: 1, is_complete: false },
        }),
      REVERSALS,
      /which is not in the log/,
    ],
    [
      'a reversal out of turn',
      () =>
        posted(legs(ceiled, accounts.clearing, 1), {
          reverses: sold,
          reversal_step: { reversal_seq: 7, is_complete: false },
        }),
      REVERSALS,
      /is out of turn: it says number 7 .*, expected 2/,
    ],
    [
      'an account closed with money on it',
      () => forge('account.changed', change(ceiled, { status: 'closed' })),
      RULES,
      /closes account .*, which has -400 and 0 on hold/,
    ],
    [
      'a slot of an account with a ceiling',
      () => forge('account.opened', { type: 'cash', currency: 'USD', name: 'slot', slot_of: ceiled, slot_number: 1 }),
      SLOTS,
      /was given when that one was open, or had limits or holds/,
    ],
    [
      'a slot of an account that nobody opened',
      () => forge('account.opened', slotOf({ slot_of: randomUUID(), slot_number: 1 })),
      SLOTS,
      /is of an account that does not exist/,
    ],
    [
      'a slot of itself',
      () => {
        const id = randomUUID();
        return forge('account.opened', slotOf({ slot_of: id, slot_number: 1 }), id);
      },
      SLOTS,
      /is of an account that is a slot itself/,
    ],
    [
      'a slot that says no number',
      () => insert('account.opened', JSON.stringify(slotOf({ slot_number: null }))),
      SLOTS,
      /is number null of account .*, expected number 2/,
    ],
    [
      'a number of a slot that is none',
      () => insert('account.opened', JSON.stringify(slotOf({ slot_of: undefined }))),
      EVENTS,
      /says one of slot_of and slot_number, expected both or none/,
    ],
    ...Object.entries({ type: 'cash', currency: 'JPY', user_id: randomUUID(), organization_id: randomUUID() }).map(
      ([key, value]): (typeof forged)[number] => [
        `a slot with another ${key} than its account`,
        () => forge('account.opened', slotOf({ [key]: value })),
        SLOTS,
        /has another owner, type or currency/,
      ],
    ),
    [
      'a slot of an account with a floor',
      () => forge('account.opened', slotOf({ slot_of: floored, slot_number: 1 })),
      SLOTS,
      /, kept in slots, has limits none to 0 and 500 held/,
    ],
    [
      'a slot opened with a floor of its own, lifted again',
      () => {
        const id = randomUUID();
        return `${forge('account.opened', slotOf({ floor_cents: 5 }), id)}; ${forge('account.changed', change(id, { status: 'open' }))}`;
      },
      RULES,
      /account.opened .* limits account .*, which is kept in slots/,
    ],
    [
      'a limit of an account with slots, lifted again',
      () =>
        `${forge('account.changed', change(hot, { status: 'open', ceiling_cents: 9 }))}; ${forge('account.changed', change(hot, { status: 'open' }))}`,
      RULES,
      /limits account .*, which is kept in slots/,
    ],
    [
      'a hold on a slot, voided again',
      () => {
        const [holdId, cents] = [randomUUID(), 7];
        const of = { hold_id: holdId, account_id: slot };
        const placed = { ...of, hold_seq: 1, account_hold_seq: 1, held_cents: cents, held_after_cents: cents };
        const ended = { ...of, hold_seq: 2, account_hold_seq: 2, held_cents: -cents, held_after_cents: 0 };
        const hold_step = step('placed', { ...placed, remaining_cents: cents });
        return `${forge('hold.placed', { account_id: slot, amount_cents: cents, currency: 'USD', hold_step }, holdId)}; ${forge('hold.voided', { hold_step: step('voided', ended) })}`;
      },
      RULES,
      /reserves on account .*, which is kept in slots/,
    ],
    [
      'an account closed with money on a slot',
      () =>
        `${posted(legs(slot, accounts.clearing, 3))}; ${[hot, slot].map((id) => forge('account.changed', change(id, { status: 'closed' }))).join('; ')}`,
      RULES,
      /closes account .*, which has 3 and 0 on hold/,
    ],
    [
      'more on a slot than 64 have room for',
      () => posted(legs(slot, accounts.clearing, 2n ** 57n)),
      SLOTS,
      /, kept in slots, comes to 144115188075855872, which leaves no room/,
    ],
    [
      'as much on the other side of zero',
      () => posted(legs(accounts.clearing, hot, 2n ** 57n)),
      SLOTS,
      /, kept in slots, comes to -144115188075855872, /,
    ],
    [
      'a period closed that was closed already',
      () => insert('period.closed', '{"until": "2019-01-01T00:00:00.000000Z"}'),
      PERIODS,
      /closes until 2019-01-01T00:00:00.000000Z what was closed until 2020-01-01/,
    ],
  ];
  it.each(forged)('%s', async (_what, sql, check, says) => {
    const failed = await failingAfter(sql());
    expect(failed.map((result) => result.check)).toContain(check);
    expect(failed.find((result) => result.check === check)?.first.join('\n')).toMatch(says);
  });
});

describe('an event that cannot be read is a named fault and never a failure', () => {
  const id = '00000000-0000-4000-8000-00000000beef';
  const unreadable: [type: string, payload: string][] = [
    ['transaction.posted', '{}'],
    ['transaction.posted', '[]'],
    ['transaction.posted', '5'],
    ['transaction.posted', 'null'],
    ['transaction.posted', '{"entries": {"a": 1}}'],
    ['transaction.posted', '{"entries": [5, null]}'],
    ['transaction.posted', '{"entries": [[], {}]}'],
    ['transaction.posted', `{"entries": [{"account_id": "${id}", "amount_cents": "much", "currency": "USD"}, {}]}`],
    [
      'transaction.posted',
      `{"entries": [{"account_id": "x", "amount_cents": 1.5, "currency": 7}, {"account_id": {}}]}`,
    ],
    [
      'transaction.posted',
      `{"entries": [{"account_id": "${id}", "amount_cents": 99999999999999999999999999, "currency": "USD"}, {}]}`,
    ],
    ['transaction.posted', '{"capture": 5, "hold_step": "x", "reverses": 1, "reversal_step": []}'],
    ['account.opened', '{}'],
    ['account.opened', '"account"'],
    ['account.opened', '{"type": [], "currency": {}, "name": null, "floor_cents": "x"}'],
    ['account.changed', '{}'],
    ['account.changed', `{"account_id": "${id}", "status": "odd"}`],
    ['hold.placed', '{}'],
    ['hold.placed', `{"account_id": "${id}", "amount_cents": -5, "hold_step": {}, "expires_at": "soon"}`],
    ['hold.voided', '{}'],
    ['hold.expired', '{"hold_step": {"hold_id": "x"}}'],
    ['period.closed', '{}'],
    ['period.closed', '{"until": "never", "certificate": 5, "hash": []}'],
    ['period.closed', '{"until": "2026-01-01T00:00:00Z", "certificate": {"balances": 5}}'],
  ];
  it.each(unreadable)('%s %s', async (type, payload) => {
    const failed = await failingAfter(insert(type, payload));
    expect(failed.length).toBeGreaterThan(0);
    const { rows } = await database.pool.query<{ last: bigint }>(
      'select last_value as last from payments.events_position_seq',
    );
    expect(failed.flatMap(({ first }) => first).join('\n')).toContain(`${rows[0]?.last}`);
  });

  it('whatever becomes of whatever it says', async () => {
    const { rows: events } = await database.pool.query<{ position: bigint; keys: string[] }>(
      `select position, array(select jsonb_object_keys(payload)) as keys from payments.events order by position`,
    );
    const told = new Set(['reason', 'description', 'floor_cents', 'ceiling_cents', 'user_id', 'organization_id']);
    const places = events.flatMap(({ position, keys }) =>
      keys.filter((key) => !told.has(key)).map((key) => ({ position, key })),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        // What a slot's number says already.
        fc.jsonValue({ noUnicodeString: false }).filter((value) => value !== 1 && value !== '1'),
        async ({ position, key }, value) => {
          const text = JSON.stringify(value).replaceAll('\\u0000', '');
          const failed = await failingAfter(
            disguised(`update payments.events set payload = jsonb_set(payload, '{${key}}', $json$${text}$json$) where position = ${position};
            update payments.events set leaf_hash = payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type,
              created_by, idempotency_scope, idempotency_key, request_hash, payload) where position = ${position}`),
          );
          expect(failed.length).toBeGreaterThan(0);
        },
      ),
      { numRuns: 60 },
    );
  });
});
