import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { AppError } from '../../src/errors.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { effectiveBalance, recordedBalance } from '../../src/ledger/history.ts';
import { expireHolds, placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, openOrFindAccounts, orThrow, post, postAll, postJson } from '../../src/ledger/ledger.ts';
import { closePeriod, listPeriods, previewPeriod } from '../../src/ledger/periods.ts';
import { createPoster } from '../../src/ledger/poster.ts';
import { splitAmount } from '../../src/ledger/split.ts';
import { statementPage, statementPages } from '../../src/ledger/statement.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { dropVerified, ledgerState, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

// The functions of TypeScript, called as JavaScript may call them: each argument and each field of the wrong type, of none, or
// of one that JSON and PostgreSQL cannot hold. What is wrong with a value of the right type, bad-input.test.ts asks in SQL.

let database: TestDatabase;
let accounts: TestAccounts;
let holdId: string;
beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  ({ holdId } = await placeHold(database.pool, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD' }));
});
afterAll(() => dropVerified(database));

const circle: Record<string, unknown> = {};
circle['itself'] = circle;
let deep: unknown = 1;
for (let depth = 0; depth < 100_000; depth += 1) deep = [deep];

const VALUES = {
  null: null,
  'empty text': '',
  text: 'x',
  SQL: `'; drop table payments.entries; --`,
  'a NUL': 'a\u0000b',
  'half a surrogate pair': 'a\ud83d',
  'an instant': '2026-01-01T00:00:00Z',
  'a day that there is not': '2026-02-30T00:00:00Z',
  zero: 0,
  'a number': 5,
  'a negative number': -5,
  'a fraction': 5.5,
  'a number that was rounded': 2 ** 53 + 2,
  'a large number': 1e21,
  NaN: Number.NaN,
  infinity: Number.POSITIVE_INFINITY,
  'a bigint': 5n,
  'a negative bigint': -5n,
  'beyond 64 bits': 2n ** 63n,
  true: true,
  'an empty array': [],
  'an array': [1],
  'an object': {},
  'an object of its own': circle,
  'a deep one': deep,
  'a map': new Map([['a', 1]]),
  'a set': new Set([1]),
  'a date': new Date('2026-01-01T00:00:00Z'),
  'no date': new Date(Number.NaN),
  'a function': () => 1,
  'a symbol': Symbol('x'),
} as const;
type Name = keyof typeof VALUES;

// biome-ignore lint/suspicious/noExplicitAny: what types forbid is what this is about
type Any = any;
interface Row {
  readonly name: string;
  /** The call with the spoilt value in the one place that the row is about. */
  call(tx: Tx, spoilt: Any): Promise<unknown>;
  /** What a refusal may be called. */
  readonly code: RegExp;
  /** With what nothing is wrong. */
  readonly fine: readonly Name[];
}

const INVALID = /^LEDGER_INVALID$/;
const row = (name: string, call: Row['call'], code: RegExp, ...fine: Name[]): Row => ({ name, call, code, fine });
const TEXTS: Name[] = ['text', 'SQL', 'an instant', 'a day that there is not'];
const good = () => transfer(accounts.clearing, accounts.wallet);
const posted = (name: string, code: RegExp, ...fine: Name[]) =>
  row(`post: ${name}`, (tx, spoilt) => post(tx, { ...good(), [name]: spoilt }), code, ...fine);
const entered = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `post: an entry's ${name}`,
    (tx, spoilt) => {
      const [first, ...others] = good().entries;
      return post(tx, { entries: [{ ...first, [name]: spoilt } as Any, ...others] });
    },
    code,
    ...fine,
  );
const held = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `placeHold: ${name}`,
    (tx, spoilt) => placeHold(tx, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD', [name]: spoilt }),
    code,
    ...fine,
  );
const opened = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `openAccounts: ${name}`,
    (tx, spoilt) => openAccounts(tx, [{ type: 'cash', currency: 'USD', name: 'n', [name]: spoilt }]),
    code,
    ...fine,
  );
const changed = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `changeAccount: ${name}`,
    (tx, spoilt) => changeAccount(tx, { accountId: accounts.revenue, floorCents: null, [name]: spoilt }),
    code,
    ...fine,
  );
const slotted = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `addSlots: ${name}`,
    (tx, spoilt) => addSlots(tx, { accountId: accounts.revenue, slots: 2, [name]: spoilt }),
    code,
    ...fine,
  );
const told = (name: string, code: RegExp, ...fine: Name[]) =>
  row(
    `statementPage: ${name}`,
    (tx, spoilt) => statementPage(tx, { accountId: accounts.wallet, [name]: spoilt }),
    code,
    ...fine,
  );
const BOOK = /^LEDGER_BOOK_UNKNOWN$/;
const ACCOUNT = /^LEDGER_ACCOUNT_UNKNOWN$/;
/** Where text that names nothing is called so, and what is no text at all is invalid. */
const unknownOr = (code: string) => new RegExp(`^LEDGER_(INVALID|${code}_UNKNOWN)$`);
/** As text that is optional, and null the same as not given. */
const OPTIONAL: Name[] = ['null', 'empty text', ...TEXTS];
const inBook = (name: string, call: Row['call'], ...fine: Name[]) =>
  row(`${name}: bookId`, call, BOOK, 'null', ...fine);

const ROWS: Row[] = [
  row(
    'postAll: transactions',
    (tx, spoilt) => postAll(tx, spoilt),
    INVALID,
    'an empty array',
    'an array',
    'a deep one',
  ),
  row('postJson: transactions', (tx, spoilt) => postJson(tx, spoilt), /^(LEDGER_INVALID|DB_FAILED)$/),
  row('post: the transaction', (tx, spoilt) => post(tx, spoilt), INVALID),
  row('post: a field of no such name', (tx, spoilt) => post(tx, { ...good(), idempotencykey: spoilt } as Any), INVALID),
  posted('entries', INVALID),
  posted('transactionId', INVALID, 'null'),
  posted('idempotencyKey', INVALID, 'null', ...TEXTS),
  posted('idempotencyScope', INVALID, ...OPTIONAL),
  posted('effectiveAt', INVALID, 'null', 'a date'),
  posted('referenceType', INVALID, ...OPTIONAL),
  posted('referenceId', INVALID, ...OPTIONAL),
  posted('description', INVALID, ...OPTIONAL),
  posted('metadata', INVALID, 'an object'),
  posted('announce', INVALID, 'null', 'text'),
  posted('linked', INVALID),
  posted('reverses', INVALID),
  posted('capture', INVALID),
  row('post: capture.holdId', (tx, spoilt) => post(tx, { ...good(), capture: { holdId: spoilt } }), INVALID),
  row('post: capture.final', (tx, spoilt) => post(tx, { ...good(), capture: { holdId, final: spoilt } }), INVALID),
  row(
    'post: an entry',
    (tx, spoilt) => post(tx, { entries: [spoilt, ...good().entries] }),
    /^LEDGER_(AMOUNT_)?INVALID$/,
  ),
  entered('accountId', unknownOr('ACCOUNT')),
  entered('amountCents', /^LEDGER_(AMOUNT_INVALID|UNBALANCED|AMOUNT_OVERFLOW)$/),
  entered('currency', unknownOr('CURRENCY')),
  entered('description', INVALID, ...OPTIONAL),
  entered('metadata', INVALID, 'an object'),
  held('accountId', unknownOr('ACCOUNT')),
  held('amountCents', /^LEDGER_AMOUNT_(INVALID|OVERFLOW)$/, 'a bigint'),
  held('currency', /^LEDGER_(INVALID|CURRENCY_MISMATCH)$/),
  held('expiresAt', INVALID, 'null'),
  held('holdId', INVALID, 'null'),
  held('idempotencyKey', INVALID, 'null', ...TEXTS),
  held('idempotencyScope', INVALID, ...OPTIONAL),
  held('referenceType', INVALID, ...OPTIONAL),
  held('referenceId', INVALID, ...OPTIONAL),
  held('description', INVALID, ...OPTIONAL),
  held('metadata', INVALID, 'an object'),
  held('reason', INVALID),
  row('placeHold: the hold', (tx, spoilt) => placeHold(tx, spoilt), /^LEDGER_(AMOUNT_)?INVALID$/),
  row('voidHold: holdId', (tx, spoilt) => voidHold(tx, { holdId: spoilt }), /^LEDGER_HOLD_UNKNOWN$/),
  row('voidHold: the hold', (tx, spoilt) => voidHold(tx, spoilt), unknownOr('HOLD')),
  row('voidHold: reason', (tx, spoilt) => voidHold(tx, { holdId, reason: spoilt }), INVALID, ...OPTIONAL),
  row('expireHolds: limit', (tx, spoilt) => expireHolds(tx, { limit: spoilt }), INVALID, 'a number'),
  row('openAccounts: accounts', (tx, spoilt) => openAccounts(tx, spoilt), INVALID, 'an empty array'),
  row(
    'openAccounts: an account',
    (tx, spoilt) => openAccounts(tx, [spoilt]),
    /^LEDGER_(INVALID|ACCOUNT_TYPE_UNKNOWN)$/,
  ),
  opened('type', unknownOr('ACCOUNT_TYPE')),
  opened('currency', unknownOr('CURRENCY')),
  opened('name', INVALID, 'text'),
  opened('userId', INVALID, 'null'),
  opened('organizationId', INVALID, 'null'),
  opened('floorCents', INVALID, 'null', 'a bigint', 'a negative bigint'),
  opened('ceilingCents', INVALID, 'null', 'a bigint', 'a negative bigint'),
  opened('floor', INVALID),
  changed('accountId', unknownOr('ACCOUNT')),
  changed('status', INVALID),
  changed('floorCents', INVALID, 'null', 'a bigint', 'a negative bigint'),
  changed('ceilingCents', INVALID, 'null', 'a bigint', 'a negative bigint'),
  changed('reason', INVALID, ...OPTIONAL),
  changed('idempotencyKey', INVALID, 'null', ...TEXTS),
  changed('idempotencyScope', INVALID, ...OPTIONAL),
  changed('floor', INVALID),
  slotted('accountId', ACCOUNT),
  slotted('slots', INVALID, 'a number'),
  slotted('bookId', BOOK),
  slotted('slot', INVALID),
  row('openBook: name', (tx, spoilt) => openBook(tx, spoilt), INVALID, ...TEXTS),
  row(
    'splitAmount: the amount',
    async (_tx, spoilt) => splitAmount(spoilt, [1n, 2n]),
    INVALID,
    'a bigint',
    'a negative bigint',
    'beyond 64 bits',
  ),
  row('splitAmount: weights', async (_tx, spoilt) => splitAmount(5n, spoilt), INVALID),
  row('splitAmount: a weight', async (_tx, spoilt) => splitAmount(5n, [spoilt]), INVALID, 'a bigint', 'beyond 64 bits'),
  row('recordedBalance: the account', (tx, spoilt) => recordedBalance(tx, spoilt), ACCOUNT),
  row(
    'recordedBalance: at',
    (tx, spoilt) => recordedBalance(tx, accounts.wallet, { at: spoilt }),
    INVALID,
    'an instant',
  ),
  row(
    'recordedBalance: position',
    (tx, spoilt) => recordedBalance(tx, accounts.wallet, { position: spoilt }),
    INVALID,
    'a bigint',
  ),
  row('effectiveBalance: the account', (tx, spoilt) => effectiveBalance(tx, spoilt, '2026-01-01T00:00:00Z'), ACCOUNT),
  row('effectiveBalance: at', (tx, spoilt) => effectiveBalance(tx, accounts.wallet, spoilt), INVALID, 'an instant'),
  told('accountId', ACCOUNT),
  told('by', INVALID),
  told('from', INVALID, 'an instant'),
  told('to', INVALID, 'an instant'),
  told('pageLines', INVALID, 'a number'),
  told('page', INVALID),
  row(
    'trialBalance: at',
    (tx, spoilt) => trialBalance(tx, { asOf: { at: spoilt, by: 'recorded' } }),
    INVALID,
    'an instant',
  ),
  row(
    'trialBalance: by',
    (tx, spoilt) => trialBalance(tx, { asOf: { at: '2026-01-01T00:00:00Z', by: spoilt } }),
    INVALID,
  ),
  row('closePeriod: until', (tx, spoilt) => closePeriod(tx, { until: spoilt }), INVALID, 'an instant'),
  row('previewPeriod: until', (tx, spoilt) => previewPeriod(tx, { until: spoilt }), INVALID, 'an instant'),
  row(
    'createPoster: maxBatch',
    async (_tx, spoilt) => createPoster(database.pool, { maxBatch: spoilt }),
    INVALID,
    'null',
    'a number',
  ),
  row(
    'createPoster: maxInFlight',
    async (_tx, spoilt) => createPoster(database.pool, { maxInFlight: spoilt }),
    INVALID,
    'null',
    'a number',
  ),
  row(
    'createPoster: maxWaiting',
    async (_tx, spoilt) => createPoster(database.pool, { maxWaiting: spoilt }),
    INVALID,
    'null',
    'a number',
  ),
  row('a poster: post', (_tx, spoilt) => createPoster(database.pool).post(spoilt), INVALID),
  row(
    'a poster: postChain',
    (_tx, spoilt) => createPoster(database.pool).postChain(spoilt),
    INVALID,
    'an empty array',
    'an array',
    'a deep one',
  ),
  inBook('postAll', (tx, spoilt) => postAll(tx, [good()], { bookId: spoilt })),
  inBook('openAccounts', (tx, spoilt) => openAccounts(tx, [], { bookId: spoilt })),
  inBook('changeAccount', (tx, spoilt) =>
    changeAccount(tx, { accountId: accounts.wallet, floorCents: null }, { bookId: spoilt }),
  ),
  inBook('placeHold', (tx, spoilt) =>
    placeHold(tx, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD' }, { bookId: spoilt }),
  ),
  inBook('voidHold', (tx, spoilt) => voidHold(tx, { holdId }, { bookId: spoilt })),
  inBook('trialBalance', (tx, spoilt) => trialBalance(tx, { bookId: spoilt })),
  inBook('createPoster', async (_tx, spoilt) => createPoster(database.pool, { bookId: spoilt }), 'a number'),
  // Not given is the main book; null is none.
  row('expireHolds: bookId', (tx, spoilt) => expireHolds(tx, { bookId: spoilt }), BOOK),
  row('recordedBalance: bookId', (tx, spoilt) => recordedBalance(tx, accounts.wallet, { bookId: spoilt }), BOOK),
  row('statementPage: bookId', (tx, spoilt) => statementPage(tx, { accountId: accounts.wallet, bookId: spoilt }), BOOK),
  row('closePeriod: bookId', (tx, spoilt) => closePeriod(tx, { until: '2026-01-01T00:00:00Z', bookId: spoilt }), BOOK),
  row('listPeriods: bookId', (tx, spoilt) => listPeriods(tx, { bookId: spoilt }), BOOK),
];

/** One place of a call that takes an object: `options` may be left out, anything else may not. */
interface Objects {
  readonly [place: string]: (tx: Tx, none: Any) => unknown;
}
const NONE: Objects = {};
const AT = '2026-01-01T00:00:00Z';
/** Of every function of the package, the places where it takes an object. */
const OBJECTS: Readonly<Record<string, Objects>> = {
  openOrFindAccounts: {
    'an account': (tx, none) => openOrFindAccounts(tx, [none]),
    options: (tx, none) => openOrFindAccounts(tx, [], none),
  },
  openAccounts: {
    'an account': (tx, none) => openAccounts(tx, [none]),
    options: (tx, none) => openAccounts(tx, [], none),
  },
  post: {
    'the transaction': (tx, none) => post(tx, none),
    'an entry': (tx, none) => post(tx, { entries: [none, ...good().entries] }),
    options: (tx, none) => post(tx, good(), none),
  },
  postAll: { options: (tx, none) => postAll(tx, [good()], none) },
  postJson: { options: (tx, none) => postJson(tx, '[]', none) },
  orThrow: { 'the outcome': (_tx, none) => orThrow(none) },
  changeAccount: {
    'the change': (tx, none) => changeAccount(tx, none),
    options: (tx, none) => changeAccount(tx, { accountId: accounts.wallet, floorCents: null }, none),
  },
  addSlots: { 'the request': (tx, none) => addSlots(tx, none) },
  recordedBalance: { options: (tx, none) => recordedBalance(tx, accounts.wallet, none) },
  effectiveBalance: { options: (tx, none) => effectiveBalance(tx, accounts.wallet, AT, none) },
  listAccountTypes: NONE,
  assertInstants: NONE,
  assertInstant: NONE,
  assertOrder: NONE,
  assertAccount: NONE,
  placeHold: {
    'the hold': (tx, none) => placeHold(tx, none),
    options: (tx, none) => placeHold(tx, { accountId: accounts.wallet, amountCents: 5n, currency: 'USD' }, none),
  },
  voidHold: {
    'the hold': (tx, none) => voidHold(tx, none),
    options: (tx, none) => voidHold(tx, { holdId }, none),
  },
  expireHolds: { options: (tx, none) => expireHolds(tx, none) },
  closePeriod: { 'the request': (tx, none) => closePeriod(tx, none) },
  previewPeriod: { 'the request': (tx, none) => previewPeriod(tx, none) },
  listPeriods: { options: (tx, none) => listPeriods(tx, none) },
  // The verification's own: it takes what scope.ts makes.
  periodChecks: NONE,
  createPoster: {
    options: (_tx, none) => createPoster(database.pool, none),
    'of post, the transaction': (_tx, none) => createPoster(database.pool).post(none),
    'of postChain, a transaction': (_tx, none) =>
      createPoster(database.pool)
        .postChain([none])
        .then(([each]) => orThrow(each as Any)),
  },
  splitAmount: NONE,
  statementPage: { 'the request': (tx, none) => statementPage(tx, none) },
  statementPages: { 'the request': (tx, none) => statementPages(tx, none).next() },
  trialBalance: {
    options: (tx, none) => trialBalance(tx, none),
    // Undefined is not given.
    asOf: (tx, none) => trialBalance(tx, { asOf: none ?? null }),
  },
};
const NO_OBJECTS = { null: null, undefined, text: 'x', 'a number': 5, 'an array': [] };

describe('an object that is none', () => {
  it('is asked for of every function of the ledger in the package', async () => {
    const { exports } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      exports: Readonly<Record<string, string>>;
    };
    const modules = Object.values(exports).flatMap((path) => /^\.\/dist\/(ledger\/.*)\.js$/.exec(path)?.[1] ?? []);
    expect(modules).not.toEqual([]);
    const functions: string[] = [];
    for (const module of modules) {
      const exported: Record<string, unknown> = await import(new URL(`../../src/${module}.ts`, import.meta.url).href);
      functions.push(...Object.keys(exported).filter((name) => typeof exported[name] === 'function'));
    }
    expect(Object.keys(OBJECTS).toSorted()).toEqual(functions.toSorted());
  });

  it.each(
    Object.entries(OBJECTS).flatMap(([name, places]) =>
      Object.entries(places).map(([place, call]) => ({ name, place, call })),
    ),
  )('is refused by $name as $place, in words that say so', async ({ place, call }) => {
    for (const [name, none] of Object.entries(NO_OBJECTS)) {
      if (place === 'options' && none === undefined) continue;
      const outcome = await undone(async (tx) => call(tx, none));
      expect(outcome, name).toBeInstanceOf(AppError);
      expect(outcome, name).toMatchObject({
        code: 'LEDGER_INVALID',
        message: expect.stringMatching(/ is an object, not /),
      });
    }
  });

  it.each([
    ['post', (tx: Tx) => post(tx, good(), { bookid: 2 } as Any)],
    ['createPoster', async () => createPoster(database.pool, { maxbatch: 2 } as Any)],
    ['trialBalance', (tx: Tx) => trialBalance(tx, { asof: AT } as Any)],
    ['closePeriod', (tx: Tx) => closePeriod(tx, { until: AT, book: 2 } as Any)],
    ['statementPage', (tx: Tx) => statementPage(tx, { accountId: accounts.wallet, until: AT } as Any)],
  ])('is no more than one with a misspelt name: %s', async (_name, call) => {
    expect(await undone(call)).toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining(' has no field '),
    });
  });
});

describe('whatever JavaScript gives', () => {
  it.each(ROWS)(
    '$name is refused with a code, where it is no good, and nothing is written',
    async ({ call, code, fine }) => {
      const wrong: string[] = [];
      const before = await ledgerState(database.pool);
      for (const [name, value] of Object.entries(VALUES)) {
        const outcome = await undone((tx) => call(tx, value));
        const isFine = fine.includes(name as Name);
        if (outcome === 'fine' ? !isFine : isFine || !(outcome instanceof AppError) || !code.test(outcome.code)) {
          wrong.push(`${name}: ${outcome === 'fine' ? 'accepted' : String(outcome).slice(0, 300)}`);
        } else if (outcome instanceof AppError && (/\p{Cc}/u.test(outcome.message) || outcome.message.length > 1_000)) {
          wrong.push(
            `${name}: a message of ${outcome.message.length} characters, ${JSON.stringify(outcome.message.slice(0, 200))}`,
          );
        }
      }
      expect(wrong).toEqual([]);
      expect(await ledgerState(database.pool)).toBe(before);
    },
  );

  it.each(['metadata', 'entries', 'effectiveAt', 'description'])(
    'leaves the neighbours of a spoilt %s alone',
    async (field) => {
      for (const value of Object.values(VALUES)) {
        const harmed = await undone(async (tx) => {
          const outcomes = await postAll(tx, [good(), { ...good(), [field]: value } as Any, good()]);
          if (outcomes[0]?.status !== 'posted' || outcomes[2]?.status !== 'posted')
            throw new Error('neighbours harmed');
        });
        expect(harmed).toBe('fine');
      }
    },
  );

  it('refuses a transaction that is too large as the database does, and leaves its neighbours alone', async () => {
    const large = (length: number) => ({ ...good(), metadata: { note: 'x'.repeat(length) } });
    const outcome = await undone(async (tx) => {
      const answers = await postAll(tx, [good(), large(1_048_576), good()]);
      expect(answers).toMatchObject([
        { status: 'posted' },
        { status: 'rejected', code: 'LEDGER_INVALID', message: tooLarge('1048797') },
        { status: 'posted' },
      ]);
      // A text of ours of just 1 MiB is shorter than PostgreSQL's, which has blanks between: the database refuses it.
      const ofTheDatabase = await postAll(tx, [large(1_048_355)]);
      expect(ofTheDatabase).toMatchObject([{ code: 'LEDGER_INVALID', message: tooLarge('1048591') }]);
    });
    expect(outcome).toBe('fine');
  });

  it('refuses a transaction whose text is more than a string can hold', async () => {
    const stringify = vi.spyOn(JSON, 'stringify').mockImplementationOnce(() => {
      throw new RangeError('Invalid string length');
    });
    const outcome = await undone((tx) => post(tx, good()));
    stringify.mockRestore();
    expect(outcome).toMatchObject({ code: 'LEDGER_INVALID', message: tooLarge('too many') });
  });

  it('refuses a call that is too large before its text is more than a string can hold', async () => {
    const large = { ...good(), metadata: { note: 'x'.repeat(1_048_000) } };
    let looks = 0;
    const counted = {
      get metadata() {
        looks += 1;
        return large.metadata;
      },
      entries: large.entries,
    };
    const call = Array.from({ length: 600 }, () => counted);
    expect(await undone((tx) => postAll(tx, call))).toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining('50000000 characters'),
    });
    // Not all of them are turned into text to find that out.
    expect(looks).toBeLessThan(300);
  });

  it('keeps a chain together around one that is refused beforehand', async () => {
    const linked = { ...good(), linked: true };
    const outcome = await undone(async (tx) => {
      const answers = await postAll(tx, [linked, { ...linked, description: 5 } as Any, good(), good()]);
      expect(answers.map((each) => (each.status === 'rejected' ? each.code : each.status))).toEqual([
        'LEDGER_LINK_FAILED',
        'LEDGER_INVALID',
        'LEDGER_LINK_FAILED',
        'posted',
      ]);
    });
    expect(outcome).toBe('fine');
  });

  it.each([
    ['a Map', new Map([['a', 1]])],
    ['a Set', new Set([1])],
    ['a RegExp', /x/],
    ['an Error', new Error('x')],
    ['a boxed number', Object(5)],
    [
      'an object of a class',
      new (class Money {
        readonly #cents = 5;
        get cents() {
          return this.#cents;
        }
      })(),
    ],
    ['whose toJSON gives what JSON does not have', { toJSON: () => Number.NaN }],
    ['whose toJSON gives a Map', { toJSON: () => new Map() }],
    [
      'whose toJSON fails',
      {
        toJSON: () => {
          throw new Error('no');
        },
      },
    ],
  ])('refuses metadata that holds %s, of which nothing would be kept', async (_what, value) => {
    for (const metadata of [{ value }, { list: [value] }]) {
      expect(await undone((tx) => post(tx, { ...good(), metadata }))).toMatchObject({
        code: 'LEDGER_INVALID',
        message: expect.stringMatching(/^metadata holds /),
      });
    }
  });

  it('keeps in metadata what JSON holds, as it is', async () => {
    const metadata = {
      nested: { list: [1, 'two', null, true, { three: 3.5 }] },
      at: new Date(0),
      bare: Object.assign(Object.create(null), { a: 1 }),
      url: new URL('https://example.com/'),
      text: `'; drop table x; -- \\u0000 $$ 😀`,
    };
    const tx = await database.pool.connect();
    await tx.query('begin');
    const { transactionId } = await post(tx, { ...good(), metadata });
    const { rows } = await tx.query('select metadata from payments.entries where transaction_id = $1', [transactionId]);
    await tx.query('rollback');
    tx.release();
    expect(rows).toEqual([
      { metadata: { ...metadata, at: '1970-01-01T00:00:00.000Z', bare: { a: 1 }, url: 'https://example.com/' } },
      expect.anything(),
    ]);
  });
});

const tooLarge = (bytes: string) =>
  expect.stringMatching(
    new RegExp(
      `^The transaction has ${bytes} bytes, more than 1048576 \\(1 MiB\\): keep documents elsewhere and refer to them\\.$`,
    ),
  );

/** What came of work that is undone afterwards: `fine`, or what it threw. */
async function undone(work: (tx: Tx) => Promise<unknown>): Promise<unknown> {
  const tx = await database.pool.connect();
  try {
    await tx.query('begin');
    await work(tx);
    return 'fine';
  } catch (error) {
    return error;
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}
