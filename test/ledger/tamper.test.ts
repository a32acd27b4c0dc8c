import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { GUARD_FUNCTIONS, GUARDS, type Guard } from '../../src/ledger/guards.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { CURRENCIES_BY_EXPONENT, NORMAL_SIDES, runChecks } from '../../src/ledger/verify.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';

let database: TestDatabase;
let accounts: TestAccounts;
let victim: string;

beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  for (let index = 0; index < 5; index += 1) {
    const posted = await post(
      database.pool,
      transfer(accounts.clearing, accounts.wallet, { description: `number ${index}`, metadata: { index } }),
    );
    if (index === 2) victim = posted.transactionId;
  }
  // Kept beside the ledger, so that each test tampers with the same books.
  for (const table of TABLES) await database.pool.query(`create table kept_${table} as table payments.${table}`);
});
afterAll(() => database.drop());

const TABLES = ['accounts', 'events', 'entries', 'balances'] as const;

// The checks that name a cause; what else fails follows from it.
const LOG = 'no event changed since it was written';
const ACCOUNTS = 'the accounts are what the log opened';
const ENTRIES = 'the entries are what the log posted';
const BALANCES = 'every balance is the sum of its entries';

beforeEach(async () => {
  for (const table of TABLES) {
    await tamper(`delete from payments.${table}`);
    await tamper(`insert into payments.${table} select * from kept_${table}`);
  }
});

describe('books verify', () => {
  it('exits 0, one line a check, on untouched books', async () => {
    const run = await verify();
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.match(/^holds /gm)).toHaveLength(18);
    expect(run.stdout).toContain('The books balance.');
  });

  const entryOf = (leg: number) =>
    `book_id = 1 and id = (select min(id) + ${leg} from payments.entries where transaction_id = '${victim}')`;
  const edits: [string, () => string, () => string, string][] = [
    [
      'an amount, by an owner who disabled the triggers',
      () => `update payments.entries set amount_cents = amount_cents + 1 where ${entryOf(0)}`,
      () => victim,
      ENTRIES,
    ],
    [
      'both amounts of a transaction',
      () => `update payments.entries set amount_cents = amount_cents * 2 where transaction_id = '${victim}'`,
      () => victim,
      ENTRIES,
    ],
    ['a deleted entry', () => `delete from payments.entries where ${entryOf(1)}`, () => accounts.wallet, ENTRIES],
    [
      'a deleted transaction',
      () => `delete from payments.entries where transaction_id = '${victim}'`,
      () => victim,
      ENTRIES,
    ],
    [
      'entries swapped between accounts',
      () => `update payments.entries set account_id = '${accounts.revenue}' where ${entryOf(1)}`,
      () => victim,
      ENTRIES,
    ],
    [
      'a moved effective date',
      () => `update payments.entries set effective_at = effective_at - interval '1 month' where ${entryOf(0)}`,
      () => victim,
      ENTRIES,
    ],
    [
      'a changed description',
      () => `update payments.entries set description = 'nothing to see' where ${entryOf(0)}`,
      () => victim,
      ENTRIES,
    ],
    [
      'changed metadata',
      () => `update payments.entries set metadata = '{"index": 7}' where ${entryOf(0)}`,
      () => victim,
      ENTRIES,
    ],
    [
      'a changed balance-after',
      () => `update payments.entries set balance_after_cents = balance_after_cents + 1 where ${entryOf(0)}`,
      () => victim,
      ENTRIES,
    ],
    ['an invented pair of entries', () => inventedEntries(), () => accounts.clearing, ENTRIES],
    [
      'a kept balance',
      () => `update payments.balances set balance_cents = balance_cents - 1 where account_id = '${accounts.wallet}'`,
      () => accounts.wallet,
      BALANCES,
    ],
    [
      'an account given to another holder',
      () => `update payments.accounts set user_id = gen_random_uuid() where id = '${accounts.wallet}'`,
      () => accounts.wallet,
      ACCOUNTS,
    ],
    [
      'a deleted account',
      () => `delete from payments.accounts where id = '${accounts.revenue}'`,
      () => accounts.revenue,
      ACCOUNTS,
    ],
    [
      "an event's amounts",
      () =>
        `update payments.events set payload = jsonb_set(payload, '{entries,0,amount_cents}', '999') where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      "an event's description, in the log and in the entries alike",
      () =>
        `with log as (update payments.events set payload = payload || '{"description": "changed"}' where event_id = '${victim}') update payments.entries set description = 'changed' where transaction_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      "an event's time, in the log and in the entries alike",
      () =>
        `with log as (update payments.events set recorded_at = recorded_at - interval '1 day' where event_id = '${victim}') update payments.entries set created_at = created_at - interval '1 day' where transaction_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      "an event's key",
      () => `update payments.events set idempotency_scope = 'x', idempotency_key = 'y' where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      "an event's author",
      () => `update payments.events set created_by = 'somebody else' where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      'an emptied event',
      () => `update payments.events set payload = '{}' where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      'an event made unreadable',
      () => `update payments.events set payload = '{"entries": 5}' where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    [
      'an event whose amount is no number',
      () =>
        `update payments.events set payload = jsonb_set(payload, '{entries,0,amount_cents}', '"much"') where event_id = '${victim}'`,
      () => victim,
      LOG,
    ],
    ['a deleted event', () => `delete from payments.events where event_id = '${victim}'`, () => victim, ENTRIES],
    [
      'two events that changed places',
      () =>
        // The first to a place of its own, or the key would be there twice for a moment.
        `with one as (select position from payments.events where event_id = '${victim}'),
           other as (select min(position) as position from payments.events where type = 'transaction.posted')
         select set_config('test.one', one.position::text, true), set_config('test.other', other.position::text, true) from one, other;
         update payments.events set position = -1 where position = current_setting('test.one')::bigint;
         update payments.events set position = current_setting('test.one')::bigint where position = current_setting('test.other')::bigint;
         update payments.events set position = current_setting('test.other')::bigint where position = -1`,
      () => victim,
      LOG,
    ],
  ];
  it.each(edits)('exits 1 and names the row, and its cause first: %s', async (_what, sql, named, cause) => {
    await tamper(sql());
    const run = await verify();
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    const [check = '', fault = ''] = run.stdout.slice(run.stdout.search(/^FAILS /m)).split('\n');
    expect(check).toMatch(new RegExp(`^FAILS  ${cause} `));
    expect(fault).toContain(named());
    expect(run.stdout).toContain('The books do NOT balance.');
  });

  it('says the same to machines', async () => {
    await tamper(`delete from payments.entries where transaction_id = '${victim}'`);
    const run = await verify('--json');
    expect(run.exitCode).toBe(1);
    const verification = JSON.parse(run.stdout);
    expect(verification.balance).toBe(false);
    const failing = verification.checks.filter((check: { holds: boolean }) => !check.holds);
    expect(failing).toContainEqual(
      expect.objectContaining({ check: 'the entries are what the log posted', faults: 2 }),
    );
  });

  it('names the first and counts the rest', async () => {
    await tamper('update payments.entries set balance_after_cents = 0');
    const run = await verify();
    expect(run.stdout).toMatch(/and \d more/);
  });

  it('exits 3 when it could not find out', async () => {
    const url = new URL(database.url);
    url.port = '1';
    const run = await liventix(['books', 'verify'], { DATABASE_URL: url.href });
    expect(run).toMatchObject({
      exitCode: 3,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: DB_UNREACHABLE: [^\n]*\n$/),
    });
  });

  it('holds on books in which nothing was ever posted', async () => {
    const empty = await createDatabase();
    const run = await liventix(['books', 'verify'], { DATABASE_URL: empty.url });
    await openAccounts(empty.pool, []);
    await empty.drop();
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
  });
});

describe('a guard that is not in place', () => {
  const wrongs: [string, (guard: Guard) => string, string][] = [
    ['disabled', ({ table, trigger }) => `alter table payments.${table} disable trigger ${trigger}`, 'is disabled'],
    [
      'enabled for ordinary sessions only',
      ({ table, trigger }) => `alter table payments.${table} enable trigger ${trigger}`,
      'is not enabled always',
    ],
    [
      'enabled for replicas only',
      ({ table, trigger }) => `alter table payments.${table} enable replica trigger ${trigger}`,
      'is not enabled always',
    ],
    ['dropped', ({ table, trigger }) => `drop trigger ${trigger} on payments.${table}`, 'is missing'],
    [
      'replaced by one that does nothing',
      ({ table, trigger }) =>
        `drop trigger ${trigger} on payments.${table}; create trigger ${trigger} before insert on payments.${table}
           for each row when (false) execute function payments.refuse_change();
         alter table payments.${table} enable always trigger ${trigger}`,
      'was replaced by another',
    ],
  ];
  const cases = GUARDS.flatMap((guard) =>
    wrongs.map(([how, sql, state]) => ({ ...guard, how, sql: sql(guard), state })),
  );

  it.each(cases)('is named, with the SQL that puts it back: $trigger, $how', async ({ table, trigger, sql, state }) => {
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      await tx.query(sql);
      const [guards] = await runChecks(tx);
      expect(guards).toMatchObject({ check: 'every guard of the ledger is in place', holds: false, faults: 1n });
      const [message, repair = ''] = guards?.first[0]?.split('; put it back: ') ?? [];
      expect(message).toBe(`trigger ${trigger} on payments.${table} ${state}`);
      await tx.query(repair);
      expect((await runChecks(tx)).filter((check) => !check.holds)).toEqual([]);
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('fails the verification first, each by its name, whatever else it let through', async () => {
    await database.pool.query(
      'begin; alter table payments.balances disable trigger user; alter table payments.events disable trigger user; update payments.balances set balance_cents = 0; commit',
    );
    const run = await verify();
    await tamper('select');
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(run.stdout).toMatch(/^FAILS {2}every guard of the ledger is in place {2}/);
    const disabled = GUARDS.filter(({ table }) => table === 'balances' || table === 'events');
    for (const { table, trigger } of disabled) {
      expect(run.stdout).toContain(
        `trigger ${trigger} on payments.${table} is disabled; put it back: alter table payments.${table} enable always trigger ${trigger}\n`,
      );
    }
    expect((await verify()).stdout).toMatch(/^holds {2}every guard of the ledger is in place {2}/);
  });

  it.each(['public, payments', 'payments', 'pg_catalog'])('is in place whatever the search_path: %s', async (path) => {
    await inTransaction(async (tx) => {
      await tx.query(`set local search_path = ${path}`);
      expect((await runChecks(tx))[0]).toMatchObject({ holds: true, first: [] });
    });
  });

  it('is named when it runs a function of the same name from another schema', async () => {
    await inTransaction(async (tx) => {
      await tx.query(
        `create schema elsewhere;
         create function elsewhere.refuse_change() returns trigger language plpgsql as 'begin return new; end';
         drop trigger events_append_only on payments.events;
         create trigger events_append_only before delete or update or truncate on payments.events
           for each statement execute function elsewhere.refuse_change();
         alter table payments.events enable always trigger events_append_only;
         set local search_path = elsewhere`,
      );
      expect((await runChecks(tx))[0]?.first).toEqual([
        expect.stringMatching(/^trigger events_append_only on payments\.events was replaced by another; put it back: /),
      ]);
    });
  });

  const bodies: [string, string][] = [
    ['refuse_change()', 'returns trigger language plpgsql as $$ begin return null; end $$'],
    ['check_new_entries()', 'returns trigger language plpgsql as $$ begin return null; end $$'],
    ['check_changed_balances()', 'returns trigger language plpgsql as $$ begin return null; end $$'],
    ['raise_code(p_code text, p_message text)', 'returns void language plpgsql as $$ begin end $$'],
  ];
  it.each(bodies)(
    'is named when its function was given another body, with where it comes from: %s',
    async (signature, body) => {
      await inTransaction(async (tx) => {
        await tx.query(`create or replace function payments.${signature} ${body}`);
        const name = signature.replace(/\(.*/, '') as keyof typeof GUARD_FUNCTIONS;
        expect((await runChecks(tx))[0]).toMatchObject({
          check: 'every guard of the ledger is in place',
          holds: false,
          faults: 1n,
          first: [
            `function payments.${name} was given another body; put it back: run its definition in migrations/${GUARD_FUNCTIONS[name].migration}.sql as "create or replace function"`,
          ],
        });
      });
    },
  );

  it('is named also when all are gone', async () => {
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      for (const { table, trigger } of GUARDS) await tx.query(`drop trigger ${trigger} on payments.${table}`);
      expect((await runChecks(tx))[0]?.first).toHaveLength(GUARDS.length);
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });
});

describe('the chart of accounts', () => {
  const CHART = 'the chart of accounts is what the migrations say';
  const faultsOf = async (...sql: string[]) => {
    let faults: readonly string[] = [];
    await inTransaction(async (tx) => {
      for (const statement of sql) await tx.query(statement);
      faults = (await runChecks(tx)).find(({ check }) => check === CHART)?.first ?? ['no such check'];
    });
    return faults;
  };

  it('is named where a type has another normal side, which turns the balances of its accounts', async () => {
    expect(
      await faultsOf(
        'alter table payments.account_types disable trigger user',
        `update payments.account_types set normal_side = 'debit' where type = 'cash'`,
        `delete from payments.account_types where type = 'taxes'`,
        'alter table payments.account_types enable always trigger account_types_append_only',
      ),
    ).toEqual(['account type cash has the normal side debit, expected credit', 'account type taxes is missing']);
  });

  it('is named where a currency that an account has got another exponent, and no other is', async () => {
    expect(await faultsOf(`update ref.currencies set decimal_places = 3 where code in ('JPY', 'EUR')`)).toEqual([
      'currency JPY has 3 decimal places, expected 0',
    ]);
  });

  it('may be added to', async () => {
    expect(
      await faultsOf(
        `insert into payments.account_types (type, normal_side, description) values ('deposits', 'credit', 'ours')`,
        `insert into ref.currencies (code, name, symbol, decimal_places) values ('QQQ', 'ours', 'Q', 3)`,
      ),
    ).toEqual([]);
  });

  it('is on a fresh database what the books are verified with', async () => {
    const { rows: types } = await database.pool.query<{ type: string; side: 'debit' | 'credit' }>(
      'select type, normal_side as side from payments.account_types',
    );
    expect(Object.fromEntries(types.map(({ type, side }) => [type, side]))).toEqual(NORMAL_SIDES);
    const { rows: currencies } = await database.pool.query<{ places: number; codes: string }>(
      `select decimal_places as places, string_agg(code, ' ' order by code) as codes from ref.currencies group by decimal_places`,
    );
    expect(Object.fromEntries(currencies.map(({ places, codes }) => [places, codes]))).toEqual(CURRENCIES_BY_EXPONENT);
  });
});

async function inTransaction(work: (tx: Tx) => Promise<void>): Promise<void> {
  const tx = await database.pool.connect();
  try {
    await tx.query('begin');
    await work(tx);
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

function verify(...flags: string[]) {
  return liventix(['books', 'verify', ...flags], { DATABASE_URL: database.url });
}

/** What an owner can do who disables the triggers first, and covers that up afterwards. */
async function tamper(sql: string): Promise<void> {
  const disable = TABLES.map((table) => `alter table payments.${table} disable trigger user;`).join(' ');
  const enable = GUARDS.map(
    ({ table, trigger }) => `alter table payments.${table} enable always trigger ${trigger};`,
  ).join(' ');
  await database.pool.query(`begin; ${disable} ${sql}; ${enable} commit`);
}

function inventedEntries(): string {
  return `insert into payments.entries (book_id, id, event_position, account_seq, transaction_id, amount_cents, currency,
      balance_after_cents, effective_at, created_at, account_id, created_by, metadata)
    select 1, last.id + x.n, last.event_position, b.last_seq + 1, last.transaction_id, x.cents, 'USD', b.balance_cents + x.cents,
           now(), now(), x.account_id::uuid, 'owner', '{}'
    from (values (1, 5, '${accounts.clearing}'), (2, -5, '${accounts.wallet}')) as x (n, cents, account_id)
    join payments.balances b on b.account_id = x.account_id::uuid
    cross join (select * from payments.entries order by id desc limit 1) last`;
}
