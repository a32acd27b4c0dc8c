import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Queryable, Tx } from '../../src/db/pool.ts';
import { ERROR_CODES, type ErrorCode } from '../../src/errors.ts';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { dropVerified, ledgerState, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { undone } from '../support/tamperings/tampering.ts';

// Each function of schema payments that an application role may execute, with each of its parameters and of the fields of its
// JSON spoilt in every way. A function, a parameter or a field that is added and not judged here makes a test fail. Not here:
// what PostgreSQL refuses before a function of ours sees it, because no value of the parameter's type is of that form.

let database: TestDatabase;
let accounts: TestAccounts;
let usable: Usable;

/** What the calls that are spoilt name: all of it there, so that nothing but the spoilt value is wrong. */
interface Usable {
  readonly frozen: string;
  readonly closed: string;
  readonly transactionId: string;
  readonly holdId: string;
}

beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  accounts = await openTestAccounts(pool);
  const [frozen = '', closed = ''] = await openAccounts(
    pool,
    ['frozen', 'closed'].map((name) => ({ type: 'cash', currency: 'USD', name })),
  );
  await changeAccount(pool, { accountId: frozen, status: 'frozen' });
  await changeAccount(pool, { accountId: closed, status: 'closed' });
  const { transactionId } = await post(pool, transfer(accounts.clearing, accounts.wallet, { amountCents: 1_000n }));
  const { holdId } = await placeHold(pool, { accountId: accounts.wallet, amountCents: 100n, currency: 'USD' });
  usable = { frozen, closed, transactionId, holdId };
});
afterAll(() => dropVerified(database));

const KIB = 1024;
const UNKNOWN = '00000000-0000-4000-8000-0000000000ff';
const EVIL = {
  SQL: `'; drop table payments.entries; --`,
  'dollar quotes': '$$; $1 %s {} $$',
  backslashes: String.raw`\ \\ \n \u0041 \x00`,
  'line breaks': 'one\r\ntwo\tthree',
  'four bytes a character': '😀𝔘',
} as const;

/** What every field of JSON is spoilt with. */
const JSON_VALUES = {
  null: null,
  'empty text': '',
  text: 'x',
  ...EVIL,
  '10 kB': 'x'.repeat(10 * KIB),
  '1.2 MB': 'x'.repeat(1_200 * KIB),
  '10 kB of digits': '9'.repeat(10 * KIB),
  'a fraction as text': '1.5',
  'an exponent as text': '1e2',
  zero: 0,
  'a number': 7,
  'a negative number': -7,
  'a fraction': 1.5,
  'beyond 64 bits': 1e19,
  true: true,
  false: false,
  'a list': [],
  'an object': {},
  'a list of lists': [[1]],
  'an unknown id': UNKNOWN,
  'an instant': '2026-01-01T00:00:00Z',
  'an ancient instant': '1899-12-31T23:59:59Z',
  'a future instant': '2200-01-01T00:00:00Z',
  'an instant without offset': '2026-01-01T00:00:00',
  'a day that there is not': '2026-02-30T00:00:00Z',
  'an unknown currency': 'XYZ',
  'another currency': 'JPY',
} as const;
type JsonName = keyof typeof JSON_VALUES;

/** What becomes of a spoilt value. `fine`: there is nothing wrong with it in this place. */
type Verdict = ErrorCode | 'fine';
interface Judgement {
  readonly code: ErrorCode;
  readonly but?: Partial<Record<JsonName, Verdict>>;
  /** What a refusal names beside the field itself, as a part of its message. */
  readonly says?: RegExp;
}

const fine = (...names: JsonName[]) => Object.fromEntries(names.map((name) => [name, 'fine' as const]));
const TEXTS: JsonName[] = [
  'text',
  'a fraction as text',
  'an exponent as text',
  'an unknown id',
  'an unknown currency',
  'another currency',
];
const INSTANTS: JsonName[] = [
  'an instant',
  'an ancient instant',
  'a future instant',
  'an instant without offset',
  'a day that there is not',
];
const EVILS = Object.keys(EVIL) as JsonName[];
const INVALID = (...but: JsonName[]): Judgement => ({ code: 'LEDGER_INVALID', but: fine(...but) });
const OPTIONAL_TEXT = INVALID('null', 'empty text', ...TEXTS, ...INSTANTS, ...EVILS);
const LABELS: Record<string, Judgement> = {
  idempotency_key: INVALID('null', ...TEXTS, ...INSTANTS, ...EVILS),
  idempotency_scope: OPTIONAL_TEXT,
};
const REFERENCES: Record<string, Judgement> = {
  ...LABELS,
  reference_type: OPTIONAL_TEXT,
  reference_id: OPTIONAL_TEXT,
  description: INVALID('null', 'empty text', ...TEXTS, ...INSTANTS, ...EVILS, '10 kB', '10 kB of digits'),
  metadata: INVALID('an object'),
};
/** Of a row of its own beside its index: what is no amount. */
const AMOUNT: Judgement = {
  code: 'LEDGER_AMOUNT_INVALID',
  but: { 'beyond 64 bits': 'LEDGER_AMOUNT_OVERFLOW' },
  says: /amount_cents/,
};
const CURRENCY: Judgement = {
  code: 'LEDGER_CURRENCY_UNKNOWN',
  but: { 'another currency': 'LEDGER_CURRENCY_MISMATCH' },
  says: /currency|JPY/,
};
const ACCOUNT: Judgement = { code: 'LEDGER_ACCOUNT_UNKNOWN', says: /[Aa]ccount/ };
const BIG: Judgement['but'] = { '1.2 MB': 'LEDGER_INVALID' };
const with1MiB = (judgement: Judgement): Judgement => ({ ...judgement, but: { ...judgement.but, ...BIG } });
const LIMIT = INVALID('null', 'zero', 'a number', 'a negative number');

/** The shape of each JSON that a function takes: its fields, and what becomes of each when it is spoilt. */
interface Shape {
  readonly fields: Readonly<Record<string, Judgement>>;
  /** The function whose body names the fields that there are. */
  readonly namedIn: string;
  /** One with nothing wrong, and every field that it may have beside the others. */
  good(): Record<string, unknown>;
}

const entry = (accountId: string, cents: number) => ({
  account_id: accountId,
  amount_cents: cents,
  currency: 'USD',
  description: 'leg',
  metadata: { leg: true },
});
const transaction = () => ({
  entries: [entry(accounts.clearing, 5), entry(accounts.wallet, -5)],
  metadata: { good: true },
});

const TRANSACTION: Shape = {
  namedIn: 'transaction_fault',
  good: transaction,
  fields: {
    ...REFERENCES,
    entries: INVALID(),
    transaction_id: INVALID('null', 'an unknown id'),
    effective_at: INVALID('null', 'an instant'),
    announce: INVALID('null', 'text', 'a fraction as text', 'an exponent as text'),
    linked: INVALID('false'),
    reverses: { code: 'LEDGER_INVALID', but: { 'an unknown id': 'LEDGER_TRANSACTION_UNKNOWN' }, says: /reverse/ },
    capture: INVALID(),
  },
};
const ENTRY: Shape = {
  namedIn: 'is_entry',
  good: () => entry(accounts.clearing, 5),
  fields: {
    account_id: with1MiB(ACCOUNT),
    // What is an amount is another one than that of the other entry.
    amount_cents: with1MiB({
      ...AMOUNT,
      but: { ...AMOUNT.but, 'a number': 'LEDGER_UNBALANCED', 'a negative number': 'LEDGER_UNBALANCED' },
      says: /amount_cents|sums to/,
    }),
    currency: with1MiB(CURRENCY),
    description: { ...(REFERENCES['description'] as Judgement), says: /Entry 1|bytes/ },
    metadata: { ...(REFERENCES['metadata'] as Judgement), says: /Entry 1|bytes/ },
  },
};
const CAPTURE: Shape = {
  namedIn: 'transaction_fault',
  good: () => ({ hold_id: usable.holdId, final: true }),
  fields: {
    hold_id: { code: 'LEDGER_INVALID', but: { 'an unknown id': 'LEDGER_HOLD_UNKNOWN' }, says: /[Hh]old/ },
    final: INVALID('true', 'false'),
  },
};
const HOLD: Shape = {
  namedIn: 'hold_fault',
  good: () => ({ account_id: accounts.wallet, amount_cents: 5, currency: 'USD' }),
  fields: {
    ...REFERENCES,
    account_id: with1MiB(ACCOUNT),
    amount_cents: with1MiB({ ...AMOUNT, but: { ...AMOUNT.but, 'a number': 'fine' } }),
    currency: with1MiB({ code: 'LEDGER_CURRENCY_MISMATCH', says: /A hold in/ }),
    expires_at: { code: 'LEDGER_INVALID', but: fine('null') },
    hold_id: INVALID('null', 'an unknown id'),
  },
};
const CHANGE: Shape = {
  namedIn: 'change_account',
  good: () => ({ account_id: accounts.revenue, floor_cents: null }),
  fields: {
    ...LABELS,
    account_id: ACCOUNT,
    status: INVALID(),
    floor_cents: LIMIT,
    ceiling_cents: LIMIT,
    reason: OPTIONAL_TEXT,
  },
};
const OWNER: Judgement = INVALID('null', 'an unknown id');
const NEW_ACCOUNT: Shape = {
  namedIn: 'open_accounts',
  good: () => ({ type: 'cash', currency: 'USD', name: 'fresh' }),
  fields: {
    type: { code: 'LEDGER_ACCOUNT_TYPE_UNKNOWN' },
    currency: { code: 'LEDGER_CURRENCY_UNKNOWN', but: fine('another currency') },
    name: INVALID('text', 'a fraction as text', 'an exponent as text', 'an unknown id'),
    user_id: OWNER,
    organization_id: OWNER,
    floor_cents: LIMIT,
    ceiling_cents: LIMIT,
  },
};

/** A function that takes JSON, with the places in it where an object of some shape is. */
interface Carrier {
  readonly name: string;
  readonly shape: Shape;
  /** What becomes of the call with the spoilt object in its place. */
  answer(tx: Tx, spoilt: unknown): Promise<Answer>;
}

interface Answer {
  readonly verdict: Verdict | string;
  readonly message: string;
}

const spending = () => ({ entries: [entry(accounts.wallet, 5), entry(accounts.clearing, -5)] });
const withEntry = (spoilt: unknown) => ({ entries: [spoilt, entry(accounts.wallet, -5)] });
const withCapture = (spoilt: unknown) => ({ ...spending(), capture: spoilt });

const POSTING_CARRIERS: Carrier[] = (
  [
    ['a transaction', TRANSACTION, (spoilt: unknown) => spoilt],
    ['an entry', ENTRY, withEntry],
    ['a capture', CAPTURE, withCapture],
  ] as const
).flatMap(([what, shape, place]) => [
  {
    name: `${what} of post_transactions, between two`,
    shape,
    answer: (tx, spoilt) => postBetween(tx, place(spoilt), 1),
  },
  {
    name: `${what} of post_transactions, among many`,
    shape,
    answer: (tx, spoilt) => postBetween(tx, place(spoilt), 2),
  },
  {
    name: `${what} of post_transaction`,
    shape,
    answer: (tx, spoilt) => callJson(tx, 'post_transaction', place(spoilt)),
  },
]);
const CARRIERS: Carrier[] = [
  ...POSTING_CARRIERS,
  { name: 'a hold of place_hold', shape: HOLD, answer: (tx, spoilt) => callJson(tx, 'place_hold', spoilt) },
  { name: 'a change of change_account', shape: CHANGE, answer: (tx, spoilt) => callJson(tx, 'change_account', spoilt) },
  {
    name: 'an account of open_accounts',
    shape: NEW_ACCOUNT,
    answer: (tx, spoilt) =>
      callJson(tx, 'open_accounts', [{ type: 'cash', currency: 'USD', name: 'neighbour' }, spoilt]),
  },
];

describe.each(CARRIERS)('$name', ({ shape, answer }) => {
  it.each(Object.entries(shape.fields))('with %s spoilt in every way', async (field, judgement) => {
    const spoilt = Object.entries(JSON_VALUES).map(
      ([name, value]) => [name, { ...shape.good(), [field]: value }, verdictOn(judgement, name as JsonName)] as const,
    );
    // Of what is too large, all is: no field is named.
    const says = new RegExp(`${(judgement.says ?? new RegExp(field)).source}|more than 1048576`);
    expect(await wrongAnswers(spoilt, answer, says)).toEqual([]);
  });

  it('with a field too many, a field too few, or as no object at all', async () => {
    const good = shape.good();
    const spoilt: [string, unknown, Verdict][] = [
      ['a misspelt field', { ...good, [`${Object.keys(good)[0]}s`]: null }, 'LEDGER_INVALID'],
      ['a field of SQL', { ...good, [EVIL.SQL]: 1 }, 'LEDGER_INVALID'],
      ['nothing wrong', good, 'fine'],
      ...[null, 'x', 7, true, [], [good], EVIL.SQL].map((value): [string, unknown, Verdict] => [
        JSON.stringify(value).slice(0, 20),
        value,
        'LEDGER_INVALID',
      ]),
    ];
    expect(await wrongAnswers(spoilt, answer, /./)).toEqual([]);
  });

  it('is judged in each field that there is', async () => {
    const { rows } = await database.pool.query<{ definition: string }>(
      `select pg_get_functiondef(oid) as definition from pg_proc where pronamespace = 'payments'::regnamespace and proname = $1`,
      [shape.namedIn],
    );
    const lists = [...(rows[0]?.definition ?? '').matchAll(/(?:has_only_keys|keys_fault)\(.*?array\[(.*?)\]\)/gis)].map(
      ([, list = '']) => [...list.matchAll(/'(\w+)'/g)].map(([, name]) => name).toSorted(),
    );
    expect(lists).toContainEqual(Object.keys(shape.fields).toSorted());
  });
});

function verdictOn({ code, but }: Judgement, name: JsonName): Verdict {
  return but?.[name] ?? code;
}

/** Where the answer is another one than expected; each call is undone. */
async function wrongAnswers(
  spoilt: readonly (readonly [string, unknown, Verdict])[],
  answer: Carrier['answer'],
  says: RegExp,
): Promise<string[]> {
  const wrong: string[] = [];
  for (const [name, value, expected] of spoilt) {
    const { verdict, message } = await undone(database.pool, (tx) => answer(tx, value));
    if (verdict !== expected) wrong.push(`${name}: ${verdict} instead of ${expected}: ${message.slice(0, 200)}`);
    else if (verdict !== 'fine') wrong.push(...faultsOf(message, says).map((fault) => `${name}: ${fault}`));
  }
  return wrong;
}

/** A message is one line that can be read, and names what is wrong. */
function faultsOf(message: string, says: RegExp): string[] {
  return [
    ...(says.test(message) ? [] : [`names nothing of ${says}: ${message.slice(0, 200)}`]),
    ...(/\p{Cc}/u.test(message) ? [`more than one line: ${JSON.stringify(message.slice(0, 200))}`] : []),
    ...(message.length > 1_000 ? [`a message of ${message.length} characters`] : []),
  ];
}

async function callJson(tx: Tx, name: string, body: unknown): Promise<Answer> {
  return answerOf(tx.query(`select * from payments.${name}(1, $1)`, [JSON.stringify(body)]));
}

async function answerOf(call: Promise<unknown>): Promise<Answer> {
  try {
    await call;
    return { verdict: 'fine', message: '' };
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) throw error;
    return { verdict: codeOf(error.code ?? ''), message: error.message };
  }
}

/** The code that a SQLSTATE of ours stands for; any other one is no answer. */
function codeOf(sqlstate: string): string {
  const known = Object.entries(ERROR_CODES).find(([, spec]) => 'sqlstate' in spec && spec.sqlstate === sqlstate);
  return known?.[0] ?? `SQLSTATE ${sqlstate}`;
}

/** Posts it by itself, which writes nothing where it is refused, and then between neighbours, which are posted whatever it is. */
async function postBetween(tx: Tx, spoilt: unknown, neighbours: number): Promise<Answer> {
  await tx.query('savepoint alone');
  const before = await ledgerState(tx);
  const [alone] = await outcomesOf(tx, [spoilt]);
  if (alone?.status === 'rejected' && (await ledgerState(tx)) !== before) return { verdict: 'written', message: '' };
  await tx.query('rollback to alone');
  const beside = Array.from({ length: neighbours }, transaction);
  let outcomes: Outcome[] = [];
  const refusal = await answerOf(
    outcomesOf(tx, [...beside, spoilt, ...beside]).then((answered) => {
      outcomes = answered;
    }),
  );
  if (refusal.verdict !== 'fine') return { verdict: `neighbours harmed: ${refusal.verdict}`, message: refusal.message };
  const outcome = outcomes[neighbours];
  const harmed = outcomes.filter((each, nth) => nth !== neighbours && each.status !== 'posted');
  if (harmed.length > 0) return { verdict: 'neighbours harmed', message: JSON.stringify(harmed) };
  // Linked to one of its neighbours, it is not what it is alone.
  if (alone?.message?.startsWith('It is linked to the next'))
    return { verdict: alone.code ?? 'fine', message: alone.message };
  if (outcome?.code !== alone?.code || outcome?.message !== alone?.message) {
    return { verdict: 'another answer in company', message: JSON.stringify([alone, outcome]) };
  }
  return { verdict: outcome?.code ?? 'fine', message: outcome?.message ?? '' };
}

interface Outcome {
  readonly status: string;
  readonly code: string | null;
  readonly message: string | null;
}

async function outcomesOf(tx: Queryable, transactions: readonly unknown[]): Promise<Outcome[]> {
  const { rows } = await tx.query<Outcome>(
    'select status, code, message from payments.post_transactions(1, $1) order by ordinal',
    [JSON.stringify(transactions)],
  );
  return rows;
}

describe('what is wrong with a transaction as a whole', () => {
  const cases: [string, () => unknown, ErrorCode, RegExp][] = [
    ['100,000 entries', () => ({ entries: Array.from({ length: 100_000 }, () => ({})) }), 'LEDGER_INVALID', /entries/],
    [
      '1,001 entries',
      () => ({ entries: Array.from({ length: 1_001 }, () => entry(accounts.clearing, 5)) }),
      'LEDGER_INVALID',
      /entries/,
    ],
    ['no entries', () => ({ entries: [] }), 'LEDGER_INVALID', /entries/],
    ['one entry', () => ({ entries: [entry(accounts.wallet, 5)] }), 'LEDGER_INVALID', /entries/],
    [
      'entries that do not sum to zero',
      () => ({ entries: [entry(accounts.clearing, 5), entry(accounts.wallet, -4)] }),
      'LEDGER_UNBALANCED',
      /1 USD/,
    ],
    [
      'entries that sum to zero only across currencies',
      () => ({ entries: [entry(accounts.clearing, 5), { ...entry(accounts.yen, -5), currency: 'JPY' }] }),
      'LEDGER_UNBALANCED',
      /-5 JPY, 5 USD/,
    ],
    ['a frozen account', () => withEntry(entry(usable.frozen, 5)), 'LEDGER_ACCOUNT_FROZEN', /frozen/],
    ['a closed account', () => withEntry(entry(usable.closed, 5)), 'LEDGER_ACCOUNT_CLOSED', /closed/],
    ['an account of another currency', () => withEntry(entry(accounts.yen, 5)), 'LEDGER_CURRENCY_MISMATCH', /JPY/],
    [
      'metadata of 1 MiB',
      () => ({ ...transaction(), metadata: { text: 'x'.repeat(KIB * KIB) } }),
      'LEDGER_INVALID',
      /1048576/,
    ],
    [
      'a key and a scope that no index takes together',
      () => ({ ...transaction(), idempotency_key: 'x'.repeat(501), idempotency_scope: 'x'.repeat(500) }),
      'LEDGER_INVALID',
      /idempotency_scope and idempotency_key/,
    ],
    [
      'a reference that no index takes',
      () => ({ ...transaction(), reference_type: 'x'.repeat(501), reference_id: '😀'.repeat(125) }),
      'LEDGER_INVALID',
      /reference_type and reference_id/,
    ],
    [
      'a capture and a reversal',
      () => ({ ...transaction(), capture: { hold_id: usable.holdId }, reverses: usable.transactionId }),
      'LEDGER_INVALID',
      /exclude/,
    ],
    ['a link to nothing', () => ({ ...transaction(), linked: true }), 'LEDGER_INVALID', /linked/],
  ];
  it.each(cases)('%s', async (_what, build, code, says) => {
    for (const neighbours of [1, 2]) {
      expect(await undone(database.pool, (tx) => postBetween(tx, build(), neighbours))).toEqual({
        verdict: code,
        message: expect.stringMatching(says),
      });
    }
    const { verdict, message } = await undone(database.pool, (tx) => callJson(tx, 'post_transaction', build()));
    expect({ verdict, faults: faultsOf(message, says) }).toEqual({ verdict: code, faults: [] });
  });

  it.each(['post_transactions', 'open_accounts'])('%s takes 10,000 at a time, and not one more', async (name) => {
    const { verdict, message } = await undone(database.pool, (tx) =>
      callJson(
        tx,
        name,
        Array.from({ length: 10_001 }, () => null),
      ),
    );
    expect({ verdict, message }).toEqual({ verdict: 'LEDGER_INVALID', message: expect.stringMatching(/10000/) });
  });
});

describe('text with SQL in it, or of any script', () => {
  const TEXT = Object.values(EVIL).join(' ').slice(0, 200);
  const FIELDS = ['idempotency_key', 'idempotency_scope', 'reference_type', 'reference_id', 'description'] as const;
  const given = { ...Object.fromEntries(FIELDS.map((field) => [field, TEXT])), metadata: { [TEXT]: [TEXT] } };

  it('is kept as it is, of a transaction', async () => {
    const kept = await undone(database.pool, async (tx) => {
      const entries = transaction().entries.map((each) => ({
        ...each,
        description: `leg ${TEXT}`,
        metadata: { leg: TEXT },
      }));
      const { rows: posted } = await tx.query<{ id: string }>(
        'select transaction_id as id from payments.post_transaction(1, $1)',
        [JSON.stringify({ ...given, entries })],
      );
      const { rows } = await tx.query(
        `select n.reference_type, n.reference_id, n.description, n.metadata, e.idempotency_key, e.idempotency_scope,
                e.payload ->> 'description' as whole, e.payload -> 'metadata' as whole_metadata
         from payments.entries n join payments.events e on e.event_id = n.transaction_id where n.transaction_id = $1`,
        [posted[0]?.id],
      );
      return rows;
    });
    const { description, metadata, ...rest } = given as Record<string, unknown>;
    const leg = {
      ...rest,
      description: `leg ${TEXT}`,
      metadata: { leg: TEXT },
      whole: description,
      whole_metadata: metadata,
    };
    expect(kept).toEqual([leg, leg]);
  });

  it('is kept as it is, of a hold, of what voids it, and of a change of an account', async () => {
    await undone(database.pool, async (tx) => {
      const { rows: held } = await tx.query<{ id: string }>('select hold_id as id from payments.place_hold(1, $1)', [
        JSON.stringify({ ...HOLD.good(), ...given }),
      ]);
      await tx.query('select payments.void_hold(1, $1, $2)', [held[0]?.id, TEXT]);
      await tx.query('select payments.change_account(1, $1)', [
        JSON.stringify({ ...CHANGE.good(), reason: TEXT, idempotency_key: `other ${TEXT}` }),
      ]);
      const { rows: holds } = await tx.query(
        'select reference_type, reference_id, description, metadata from payments.holds where hold_id = $1',
        [held[0]?.id],
      );
      const { idempotency_key: _key, idempotency_scope: _scope, ...rest } = given as Record<string, unknown>;
      expect(holds).toEqual([rest]);
      const { rows: reasons } = await tx.query(
        `select payload ->> 'reason' as reason from payments.events where payload ? 'reason' order by position desc limit 2`,
      );
      expect(reasons).toEqual([{ reason: TEXT }, { reason: TEXT }]);
      const { rows: changes } = await tx.query('select reason from payments.account_changes where reason is not null');
      expect(changes).toEqual([{ reason: TEXT }]);
    });
  });
});

/** What a parameter is given instead, by its type. */
const PARAMETER_VALUES: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  integer: { null: null, zero: 0, negative: -1, smallest: -2_147_483_648, largest: 2_147_483_647 },
  bigint: { null: null, zero: 0, negative: -1, smallest: '-9223372036854775808', largest: '9223372036854775807' },
  numeric: { null: null, zero: 0, negative: -1, huge: '1e100', NaN: 'NaN', infinite: 'Infinity' },
  uuid: { null: null, 'of nothing': UNKNOWN, nil: '00000000-0000-0000-0000-000000000000' },
  text: { null: null, 'empty text': '', text: 'x', ...EVIL, '10 kB': 'x'.repeat(10 * KIB) },
  name: { null: null, 'empty text': '', text: 'x', ...EVIL },
  'timestamp with time zone': {
    null: null,
    '-infinity': '-infinity',
    infinity: 'infinity',
    earliest: '4714-11-24 00:00:00+00 BC',
    latest: '294276-12-31 23:59:59.999999+00',
    ancient: '0044-03-15T12:00:00Z',
    future: '2999-01-01T00:00:00Z',
  },
  jsonb: {
    'no JSON': null,
    ...Object.fromEntries(Object.entries(JSON_VALUES).map(([name, value]) => [name, JSON.stringify(value)])),
    'a list of null': '[null]',
  },
  'bigint[]': {
    null: null,
    none: '{}',
    'null inside': '{1,null}',
    negative: '{1,-1}',
    zero: '{0,0}',
    'two rows': '{{1,2},{3,4}}',
  },
  'timestamp with time zone[]': {
    null: null,
    none: '{}',
    'null inside': '{null}',
    'upside down': '{infinity,-infinity}',
  },
  'payments.period_movement[]': { null: null, none: '{}', 'null inside': '{null}' },
};

interface Parameter {
  /** What the call is made with while another parameter is spoilt. */
  good(): unknown;
  readonly code: ErrorCode;
  /** The values with which nothing is wrong. */
  readonly fine?: readonly string[];
  readonly but?: Readonly<Record<string, ErrorCode>>;
}

const BOOK: Parameter = { good: () => 1, code: 'LEDGER_BOOK_UNKNOWN' };
const ACCOUNT_ID: Parameter = { good: () => accounts.wallet, code: 'LEDGER_ACCOUNT_UNKNOWN' };
const ANY_INSTANT = ['-infinity', 'infinity', 'earliest', 'latest', 'ancient', 'future'];
const instant = (good: string | null, ...fine: string[]): Parameter => ({
  good: () => good,
  code: 'LEDGER_INVALID',
  fine,
});
const ORDER: Parameter = { good: () => 'effective', code: 'LEDGER_INVALID' };
const UNTIL: Parameter = {
  good: () => '2020-01-01T00:00:00Z',
  code: 'LEDGER_PERIOD_INVALID',
  fine: ['ancient'],
};
const json = (good: () => unknown, code: ErrorCode, ...fine: string[]): Parameter => ({
  good: () => JSON.stringify(good()),
  code,
  fine,
});

/** Every function that an application role calls by itself: its parameters, and what becomes of a call where one is spoilt. */
const FUNCTIONS: Readonly<Record<string, Readonly<Record<string, Parameter>>>> = {
  post_transactions: {
    p_book_id: BOOK,
    p_transactions: json(() => [transaction()], 'LEDGER_INVALID', 'a list', 'a list of null', 'a list of lists'),
  },
  post_transaction: { p_book_id: BOOK, p_transaction: json(transaction, 'LEDGER_INVALID') },
  open_accounts: { p_book_id: BOOK, p_accounts: json(() => [NEW_ACCOUNT.good()], 'LEDGER_INVALID', 'a list') },
  change_account: { p_book_id: BOOK, p_change: json(CHANGE.good, 'LEDGER_INVALID') },
  add_slots: {
    p_book_id: BOOK,
    p_account_id: { good: () => accounts.clearing, code: 'LEDGER_ACCOUNT_UNKNOWN' },
    p_slots: { good: () => 2, code: 'LEDGER_INVALID' },
  },
  place_hold: {
    p_book_id: BOOK,
    p_hold: { ...json(() => HOLD.good(), 'LEDGER_INVALID'), but: { 'an object': 'LEDGER_ACCOUNT_UNKNOWN' } },
  },
  void_hold: {
    p_book_id: BOOK,
    p_hold_id: { good: () => usable.holdId, code: 'LEDGER_HOLD_UNKNOWN' },
    p_reason: { good: () => 'reason', code: 'LEDGER_INVALID', fine: ['null', 'empty text', 'text', ...EVILS] },
  },
  expire_holds: { p_book_id: BOOK, p_limit: { good: () => 10, code: 'LEDGER_INVALID' } },
  split_amount: {
    p_amount_cents: { good: () => 7, code: 'LEDGER_INVALID', fine: ['zero', 'negative', 'largest', 'smallest'] },
    p_weights: { good: () => '{1}', code: 'LEDGER_INVALID', fine: ['two rows'] },
  },
  recorded_balance: {
    p_book_id: BOOK,
    p_account_id: ACCOUNT_ID,
    p_at: instant(null, 'null', ...ANY_INSTANT),
    p_position: { good: () => null, code: 'LEDGER_INVALID', fine: ['null', 'zero', 'negative', 'smallest', 'largest'] },
  },
  effective_balance: { p_book_id: BOOK, p_account_id: ACCOUNT_ID, p_at: instant('2026-01-01Z', ...ANY_INSTANT) },
  statement_bounds: {
    p_book_id: BOOK,
    p_account_id: ACCOUNT_ID,
    p_by: ORDER,
    p_from: instant('2026-01-01Z', 'null', '-infinity', 'earliest', 'ancient'),
    p_to: instant('2027-01-01Z', 'null', 'infinity', 'latest', 'future'),
  },
  statement_lines: {
    p_book_id: BOOK,
    p_account_id: ACCOUNT_ID,
    p_by: ORDER,
    p_from: instant('2026-01-01Z', 'null', ...ANY_INSTANT),
    p_to: instant('2027-01-01Z', 'null', ...ANY_INSTANT),
    p_known_seq: { good: () => 1, code: 'LEDGER_INVALID', fine: ['zero', 'negative', 'smallest', 'largest'] },
    p_balance_cents: { good: () => 0, code: 'LEDGER_INVALID', fine: ['zero', 'negative', 'huge', 'NaN', 'infinite'] },
    p_after_at: instant(null, 'null', ...ANY_INSTANT),
    p_after_seq: {
      good: () => null,
      code: 'LEDGER_INVALID',
      fine: ['null', 'zero', 'negative', 'smallest', 'largest'],
    },
    p_limit: { good: () => 10, code: 'LEDGER_INVALID' },
  },
  trial_balance: { p_book_id: BOOK, p_by: ORDER, p_at: instant('2026-01-01Z', ...ANY_INSTANT) },
  next_certificate: { p_book_id: BOOK, p_until: UNTIL },
  close_period: { p_book_id: BOOK, p_until: UNTIL },
  seal_events: { p_book_id: BOOK, p_max_events: { good: () => 10, code: 'LEDGER_INVALID' } },
};

/** What those call, and policies: a role needs the right to. Whatever they are given, they answer, or raise a code of ours. */
const HELPERS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  account_of: { p_book_id: 1, p_account_id: UNKNOWN },
  account_statement_bounds: {
    p_book_id: 1,
    p_account_id: UNKNOWN,
    p_by: 'recorded',
    p_from: '2026-01-01Z',
    p_to: '2027-01-01Z',
  },
  account_statement_lines: {
    p_book_id: 1,
    p_account_id: UNKNOWN,
    p_by: 'recorded',
    p_from: '2026-01-01Z',
    p_to: '2027-01-01Z',
    p_known_seqs: '{10}',
    p_balance_cents: 0,
    p_after_at: null,
    p_after_seq: 1,
    p_after_id: 1,
    p_limit: 10,
  },
  is_slotted: { p_book_id: 1, p_account_id: UNKNOWN },
  seq_at_entry: { p_book_id: 1, p_account_id: UNKNOWN, p_entry_id: 1 },
  slots_of: { p_book_id: 1, p_account_id: UNKNOWN },
  balance_after_seq: { p_book_id: 1, p_account_id: UNKNOWN, p_seq: 1 },
  books_of: { p_role: 'service_role' },
  certificate_hash: { p_certificate: '{}' },
  certificate_text: { p_certificate: '{}' },
  check_certificate: { p_certificate: '{}' },
  certificates_of: { p_book_id: 1, p_untils: '{2020-01-01Z}', p_movements: '{}' },
  check_book: { p_book_id: 1 },
  check_order: { p_by: 'recorded' },
  effective_page: {
    p_book_id: 1,
    p_account_id: UNKNOWN,
    p_to: 'infinity',
    p_known_seq: 10,
    p_after_at: '-infinity',
    p_after_seq: 0,
    p_limit: 10,
  },
  effective_sum: { p_book_id: 1, p_account_id: UNKNOWN, p_at: '2026-01-01Z' },
  instant_text: { p_at: '2026-01-01Z' },
  next_period: { p_book_id: 1, p_until: '2020-01-01Z' },
  normal_sign: { p_book_id: 1, p_account_id: UNKNOWN },
  period_movements: { p_book_id: 1, p_untils: '{2020-01-01Z}', p_after: 0, p_up_to: 10 },
  recorded_seq: { p_book_id: 1, p_account_id: UNKNOWN, p_at: '2026-01-01Z', p_position: 1 },
  instant_before: { p_at: '2026-01-01Z' },
  shown: { p_text: 'x' },
  try_uuid: { p_text: 'x' },
};
/** What raises whatever it is told to. */
const RAISE = ['raise_code', 'raise_period_code'];

interface Signature {
  readonly name: string;
  readonly parameters: readonly { readonly name: string; readonly type: string }[];
}

/** The functions of the schema that a role which is no owner may execute. */
async function executable(): Promise<Signature[]> {
  const { rows } = await database.pool.query<{ name: string; names: string[]; types: string[] }>(
    `select p.proname as name, coalesce(p.proargnames[1:p.pronargs], '{}') as names,
            array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as u (t, nth) order by nth) as types
     from pg_proc p
     where p.pronamespace = 'payments'::regnamespace and exists (
       select from pg_roles r
       where r.rolname in ('anon', 'authenticated', 'service_role') and has_function_privilege(r.oid, p.oid, 'execute'))
     order by 1`,
  );
  return rows.map(({ name, names, types }) => ({
    name,
    parameters: names.map((parameter, nth) => ({ name: parameter, type: types[nth] ?? '' })),
  }));
}

function call(tx: Tx, { name, parameters }: Signature, values: Readonly<Record<string, unknown>>): Promise<Answer> {
  const given = parameters.map((parameter, nth) => `$${nth + 1}::${parameter.type}`).join(', ');
  return answerOf(
    tx.query(
      `select * from payments.${name}(${given})`,
      parameters.map((parameter) => values[parameter.name]),
    ),
  );
}

/** The call with each of the parameter's spoilt values in turn: the name of the value, and what became of it. */
async function spoil(signature: Signature, good: Readonly<Record<string, unknown>>, parameter: string) {
  const type = signature.parameters.find(({ name }) => name === parameter)?.type ?? '';
  const answers: [string, Answer][] = [];
  for (const [name, value] of Object.entries(PARAMETER_VALUES[type] ?? {})) {
    answers.push([name, await undone(database.pool, (tx) => call(tx, signature, { ...good, [parameter]: value }))]);
  }
  return answers;
}

describe('every function that an application role may execute', () => {
  it('is judged here, in each of its parameters, and each type is spoilt', async () => {
    const found = await executable();
    const parametersOf = (name: string) => Object.keys(FUNCTIONS[name] ?? HELPERS[name] ?? {});
    const judged = [...Object.keys(FUNCTIONS), ...Object.keys(HELPERS)].map((name) => [name, parametersOf(name)]);
    expect(
      found
        .filter(({ name }) => !RAISE.includes(name))
        .map(({ name, parameters }) => [name, parameters.map((each) => each.name)]),
    ).toEqual(judged.toSorted(([a = ''], [b = '']) => (a < b ? -1 : 1)));
    const types = found.flatMap(({ parameters }) => parameters.map(({ type }) => type));
    expect(types.filter((type) => PARAMETER_VALUES[type] === undefined)).toEqual([]);
  });

  const rows = Object.entries(FUNCTIONS).flatMap(([name, parameters]) =>
    Object.entries(parameters).map(([parameter, judged]) => [name, parameter, judged] as const),
  );
  it.each(rows)('%s with %s spoilt', async (name, parameter, judged) => {
    const signature = (await executable()).find((each) => each.name === name);
    if (signature === undefined) throw new Error(`no function ${name}`);
    const good = Object.fromEntries(Object.entries(FUNCTIONS[name] ?? {}).map(([key, each]) => [key, each.good()]));
    expect(await undone(database.pool, (tx) => call(tx, signature, good))).toEqual({ verdict: 'fine', message: '' });
    const wrong: string[] = [];
    for (const [value, { verdict, message }] of await spoil(signature, good, parameter)) {
      const expected = judged.fine?.includes(value) ? 'fine' : (judged.but?.[value] ?? judged.code);
      if (verdict !== expected) wrong.push(`${value}: ${verdict} instead of ${expected}: ${message.slice(0, 200)}`);
      else if (verdict !== 'fine') wrong.push(...faultsOf(message, /./).map((fault) => `${value}: ${fault}`));
    }
    expect(wrong).toEqual([]);
  });

  it.each(Object.entries(HELPERS))('%s answers, or raises a code of ours', async (name, good) => {
    const signature = (await executable()).find((each) => each.name === name);
    if (signature === undefined) throw new Error(`no function ${name}`);
    const raw: string[] = [];
    for (const parameter of Object.keys(good)) {
      for (const [value, { verdict, message }] of await spoil(signature, good, parameter)) {
        if (verdict.startsWith('SQLSTATE')) raw.push(`${parameter} ${value}: ${verdict} ${message}`);
      }
    }
    expect(raw).toEqual([]);
  });
});
