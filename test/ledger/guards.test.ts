import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { BOOK_POLICY, BOOK_TABLES, CONSTRAINTS, UNIQUE_INDEXES } from '../../src/ledger/constraints.ts';
import { BODY_OF, GUARD_FUNCTIONS, GUARDS } from '../../src/ledger/guards.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { post } from '../../src/ledger/ledger.ts';
import { runChecks } from '../../src/ledger/verify.ts';
import { openTestAccounts, type TestAccounts, transfer, verifyBooks } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { disguised, SEAL_OF_NOTHING } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let accounts: TestAccounts;

beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  await post(database.pool, transfer(accounts.clearing, accounts.wallet));
  await changeAccount(database.pool, { accountId: accounts.wallet, floorCents: 0n });
  await placeHold(database.pool, { accountId: accounts.wallet, amountCents: 10n, currency: 'USD' });
  const { transactionId } = await post(database.pool, transfer(accounts.clearing, accounts.wallet));
  await post(database.pool, { reverses: transactionId });
  await addSlots(database.pool, { accountId: accounts.revenue, slots: 2 });
});
afterAll(() => database.drop());

const NO_EVENT = `select '00000000-0000-4000-8000-00000000beef'::uuid as id, 900000 as position`;
const OWN_EVENT = `select event_id as id, position from payments.events where type = 'transaction.posted' limit 1`;

const OWN_POSITION = `(select position from payments.events where type = 'transaction.posted' limit 1)`;
const ACCOUNT_POSITION = `(select position from payments.events where type = 'account.opened' limit 1)`;

/** Every write that the tables' owner could try by hand, and the SQLSTATE it ends with. */
const ATTACKS: [string, string, string][] = [
  ['updating an entry', 'update payments.entries set amount_cents = amount_cents + 1', 'LV009'],
  ['updating no entry at all', 'update payments.entries set amount_cents = 1 where false', 'LV009'],
  ['deleting an entry', 'delete from payments.entries', 'LV009'],
  ['truncating the entries', 'truncate payments.entries', 'LV009'],
  ['updating an event', `update payments.events set payload = '{}'`, 'LV009'],
  ['deleting an event', 'delete from payments.events', 'LV009'],
  ['truncating the events', 'truncate payments.events cascade', 'LV009'],
  ['renaming an account', `update payments.accounts set name = 'other'`, 'LV009'],
  ['deleting an account', 'delete from payments.accounts', 'LV009'],
  ['deleting a balance', 'delete from payments.balances', 'LV009'],
  ['moving a balance', 'update payments.balances set balance_cents = balance_cents + 1', 'LV009'],
  [
    'winding a balance back to an earlier entry',
    'update payments.balances set balance_cents = 0, last_seq = 0',
    'LV009',
  ],
  ['winding a balance forward', 'update payments.balances set last_seq = last_seq + 1', 'LV009'],
  [
    'inserting a balance without entries',
    "insert into payments.balances (book_id, account_id, currency, balance_cents) values (1, gen_random_uuid(), 'USD', 5)",
    'LV009',
  ],
  ['inserting one entry of two', insertEntries([1n]), 'LV002'],
  ['inserting entries that do not sum to zero', insertEntries([5n, -4n]), 'LV002'],
  ['inserting entries that sum to zero only across currencies', insertExchange([5n], [-5n]), 'LV002'],
  ['inserting an exchange with one currency out of balance', insertExchange([5n, -5n], [3n, -2n]), 'LV002'],
  ['inserting a balanced exchange without an event', insertExchange([5n, -5n], [3n, -3n]), 'LV001'],
  ['inserting balanced entries without an event', insertEntries([5n, -5n]), 'LV001'],
  ['inserting an entry of zero', insertEntries([0n, 0n]), '23514'],
  ['inserting an entry in another currency than its account', insertEntries([5n, -5n], 'JPY', OWN_EVENT), 'LV004'],
  ['slipping a balanced pair in beside an event', insertEntries([5n, -5n], 'USD', OWN_EVENT), 'LV001'],
  ['turning the sign of an account type', `update payments.account_types set normal_side = 'debit'`, 'LV009'],
  ['merging a change into the entries', merge(), 'LV009'],
  ['freezing an account by hand', `update payments.balances set status = 'frozen'`, 'LV009'],
  ['lifting a floor by hand', 'update payments.balances set max_cents = null where max_cents = 0', 'LV009'],
  ['setting a ceiling by hand', 'update payments.balances set min_cents = -1', 'LV009'],
  ['holding something by hand', 'update payments.balances set held_cents = 1', 'LV009'],
  [
    'opening a balance with something on hold',
    "insert into payments.balances (book_id, account_id, currency, held_cents) values (1, gen_random_uuid(), 'USD', 5)",
    'LV009',
  ],
  ['giving a balance another currency', `update payments.balances set currency = 'EUR'`, 'LV009'],
  [
    'inserting a balance in another currency than its account',
    `insert into payments.balances (book_id, account_id, currency) values (1, gen_random_uuid(), 'USD')`,
    'LV004',
  ],
  ['changing what an account went through', `update payments.account_changes set reason = 'x'`, 'LV009'],
  ['forgetting what an account went through', 'delete from payments.account_changes', 'LV009'],
  ['inventing what an account went through', insertChange('900000'), 'LV001'],
  ["giving an account another event's change", insertChange(OWN_POSITION), 'LV001'],
  ['releasing a hold by hand', `update payments.holds set state = 'voided', remaining_cents = 0`, 'LV009'],
  ['enlarging a hold', 'update payments.holds set amount_cents = amount_cents + 1', 'LV009'],
  ['prolonging a hold', `update payments.holds set expires_at = now() + interval '1 year'`, 'LV009'],
  ['deleting a hold', 'delete from payments.holds', 'LV009'],
  [
    'inserting a hold without a history',
    `insert into payments.holds (book_id, hold_id, account_id, amount_cents, remaining_cents, last_seq, event_position, created_at,
       state, currency, created_by, metadata)
     select book_id, gen_random_uuid(), account_id, 1, 1, 1, event_position, now(), 'active', 'USD', 'me', '{}' from payments.holds`,
    'LV009',
  ],
  ['changing a hold entry', 'update payments.hold_entries set captured_cents = 1', 'LV009'],
  ['deleting a hold entry', 'delete from payments.hold_entries', 'LV009'],
  ['inventing a hold entry', insertHoldEntry('900000'), 'LV001'],
  ["inventing a hold entry beside an account's event", insertHoldEntry(ACCOUNT_POSITION), 'LV001'],
  ['changing a reversal', 'update payments.reversals set is_complete = false', 'LV009'],
  ['deleting a reversal', 'delete from payments.reversals', 'LV009'],
  [
    'inventing a reversal',
    `insert into payments.reversals (book_id, event_position, transaction_id, reverses, reversal_seq, is_complete)
     values (1, 900000, gen_random_uuid(), gen_random_uuid(), 1, true)`,
    'LV001',
  ],
  ['truncating the reversals', 'truncate payments.reversals', 'LV009'],
  ['giving a slot to another account', 'update payments.account_slots set account_id = gen_random_uuid()', 'LV009'],
  ['taking a slot away', 'delete from payments.account_slots', 'LV009'],
  ['truncating the slots', 'truncate payments.account_slots', 'LV009'],
  ['inventing a slot', insertSlot('900000', 'account_id'), 'LV001'],
  ["making another's account a slot", insertSlot(ACCOUNT_POSITION, 'gen_random_uuid()'), 'LV001'],
  ['inserting a period without an event', insertPeriod(`'2020-01-01Z'`, '900000'), 'LV009'],
  ['inserting a period that its event does not close', insertPeriod(`'2020-01-01Z'`, '1'), 'LV009'],
  ['updating a period', `update payments.periods set certificate = '{}'`, 'LV009'],
  ['deleting a period', 'delete from payments.periods', 'LV009'],
  ['truncating the periods', 'truncate payments.periods', 'LV009'],
  ['closing a book without a period', `update payments.books set closed_until = '2020-01-01Z'`, 'LV009'],
  [
    'opening a book that is closed from the start',
    `insert into payments.books (book_id, name, closed_until) values (9, 'closed', '2020-01-01Z')`,
    'LV009',
  ],
];

describe("the tables' owner, with psql", () => {
  it.each(ATTACKS)('is refused %s', async (_what, sql, sqlstate) => {
    await expect(database.pool.query(sql)).rejects.toMatchObject({ code: sqlstate });
  });

  it.each(ATTACKS)(
    'is refused %s in replica mode too, which switches ordinary triggers off',
    async (_what, sql, sqlstate) => {
      // Only a superuser may set it; what holds for him holds for everybody.
      const admin = new pg.Client({ connectionString: database.adminUrl });
      await admin.connect();
      try {
        await admin.query('set session_replication_role = replica');
        await expect(admin.query(sql)).rejects.toMatchObject({ code: sqlstate });
      } finally {
        await admin.end();
      }
    },
  );

  it('is told what an exchange sums to, in each currency that is not zero', async () => {
    await expect(database.pool.query(insertExchange([5n, -1n, -4n], [3n, -2n]))).rejects.toMatchObject({
      message: expect.stringMatching(
        / sums to 1 JPY; every transaction must sum to zero per currency, in one INSERT\.$/,
      ),
    });
    await expect(database.pool.query(insertExchange([5n], [-5n]))).rejects.toMatchObject({
      message: expect.stringContaining(' sums to -5 JPY, 5 USD; '),
    });
  });

  it.runIf(existsSync('/usr/bin/psql'))('reads a message that says what to do, in the real psql', () => {
    const attempt = () =>
      execFileSync('psql', [database.url, '-qc', 'delete from payments.entries'], { stdio: 'pipe', encoding: 'utf8' });
    expect(attempt).toThrow(
      /DELETE of payments\.entries refused: the ledger is append-only\. Post a reversal instead\./,
    );
  });

  it('finds on a fresh database the guards that the books are verified with, and no others', async () => {
    // The function's name with its schema.
    const tx = await database.pool.connect();
    try {
      await tx.query('begin; set local search_path = pg_catalog');
      const { rows } = await tx.query(
        `select c.relname as "table", t.tgname as trigger, t.tgenabled as enabled, lower(pg_get_triggerdef(t.oid)) as definition
         from pg_trigger t join pg_class c on c.oid = t.tgrelid
         where c.relnamespace = 'payments'::regnamespace and not t.tgisinternal
         order by c.relname, t.tgname`,
      );
      expect(rows).toEqual(
        GUARDS.map(({ table, trigger, fires, scope, runs }) => ({
          table,
          trigger,
          enabled: 'A',
          definition: `create trigger ${trigger} ${fires} on payments.${table} ${scope} execute function payments.${runs}()`,
        })),
      );
    } finally {
      await tx.query('rollback');
      tx.release();
    }
  });

  it('finds on a fresh database the constraints, unique indexes and policies that the books are verified with', async () => {
    const inOrder = (rows: readonly { table: string; name: string }[]) =>
      rows.toSorted((a, b) => (`${a.table} ${a.name}` < `${b.table} ${b.name}` ? -1 : 1));
    const { rows: constraints } = await database.pool.query<{ table: string; name: string }>(
      `select c.relname as "table", k.conname as name, replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') as definition
       from pg_constraint k join pg_class c on c.oid = k.conrelid
       where c.relnamespace = 'payments'::regnamespace and k.contype in ('p', 'u', 'c', 'f')`,
    );
    expect(inOrder(CONSTRAINTS)).toEqual(inOrder(constraints));
    const { rows: indexes } = await database.pool.query<{ table: string; name: string }>(
      `select r.relname as "table", c.relname as name, split_part(pg_get_indexdef(i.indexrelid), ' USING btree ', 2) as definition
       from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class r on r.oid = i.indrelid
       where i.indisunique and r.relnamespace = 'payments'::regnamespace
         and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u'))`,
    );
    expect(inOrder(UNIQUE_INDEXES)).toEqual(inOrder(indexes));
    const { rows: policies } = await database.pool.query<{ table: string }>(
      `select c.relname as "table", replace(pg_get_expr(p.polqual, p.polrelid), 'payments.', '') as policy
       from pg_class c left join pg_policy p on p.polrelid = c.oid
       where c.relnamespace = 'payments'::regnamespace and c.relkind = 'r' and c.relrowsecurity order by c.relname`,
    );
    expect(policies).toEqual([...BOOK_TABLES].sort().map((table) => ({ table, policy: BOOK_POLICY })));
  });

  it('finds on a fresh database the functions that the guards are verified with', async () => {
    expect(Object.keys(GUARD_FUNCTIONS)).toEqual(expect.arrayContaining(GUARDS.map(({ runs }) => runs)));
    const { rows } = await database.pool.query<{ name: string; hash: string }>(
      `select proname as name, encode(sha256(convert_to(${BODY_OF}, 'UTF8')), 'hex') as hash
       from pg_proc p where pronamespace = 'payments'::regnamespace and proname = any ($1) order by proname`,
      [Object.keys(GUARD_FUNCTIONS)],
    );
    const found = rows.map(({ name, hash }) => `  ${name}: '${hash}',`).join('\n');
    const expected = Object.entries(GUARD_FUNCTIONS).map(([name, { hash }]) => `  ${name}: '${hash}',`);
    expect(expected.join('\n'), `GUARD_FUNCTIONS of src/ledger/guards.ts must be:\n${found}\n`).toBe(found);
  });

  it('finds among them every function that books verify asks, and whatever that asks', async () => {
    const asked = new Set<string>();
    const readFrom = (sql: string) => {
      for (const [, name = ''] of sql.matchAll(/\bpayments\.(\w+)\s*\(/g)) asked.add(name);
    };
    const tx = await database.pool.connect();
    try {
      await tx.query('begin');
      // Nothing is cleared by a glance then: each check asks row by row.
      await tx.query(
        disguised(
          'update payments.entries set amount_cents = amount_cents + 1; update payments.events set created_by = created_by || 1',
        ),
      );
      const listening = {
        query: (sql: string, values?: unknown[]) => {
          readFrom(sql);
          return tx.query(sql, values);
        },
      } as unknown as Tx;
      await runChecks(listening);
      await runChecks(listening, {}, { bookId: 1, since: { ...SEAL_OF_NOTHING, bookId: 1 } });
    } finally {
      await tx.query('rollback');
      tx.release();
    }
    const { rows } = await database.pool.query<{ name: string; body: string }>(
      `select proname as name, prosrc as body from pg_proc where pronamespace = 'payments'::regnamespace`,
    );
    // A set that grows is walked to its end.
    for (const name of asked)
      readFrom(
        rows
          .filter((row) => row.name === name)
          .map(({ body }) => body)
          .join('\n'),
      );
    const functions = [...asked].filter((name) => rows.some((row) => row.name === name));
    expect(functions).toEqual(
      expect.arrayContaining(['event_leaf_hash', 'chain_hash', 'try_amount', 'certificates_of', 'merkle_append']),
    );
    expect(functions.filter((name) => !Object.hasOwn(GUARD_FUNCTIONS, name))).toEqual([]);
    expect(rows.filter(({ name, body }) => Object.hasOwn(GUARD_FUNCTIONS, name) && body === '')).toEqual([]);
  });

  it.each(Object.entries(GUARD_FUNCTIONS))(
    'can put %s back from the migration it names',
    async (name, { migration }) => {
      const { rows } = await database.pool.query<{ body: string }>(
        `select case prokind when 'a' then 'create aggregate payments.' || proname else prosrc end as body
         from pg_proc where pronamespace = 'payments'::regnamespace and proname = $1`,
        [name],
      );
      expect(await readFile(new URL(`../../migrations/${migration}.sql`, import.meta.url), 'utf8')).toContain(
        rows[0]?.body,
      );
    },
  );

  it('left the books as they were', async () => {
    expect((await verifyBooks(database.pool)).filter((check) => !check.holds)).toEqual([]);
  });
});

describe('grants', () => {
  const asRole = async (role: string, sql: string, values: unknown[] = []) => {
    // The owner is no member of Supabase's roles: the superuser plays them.
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    try {
      await admin.query(`set role ${role}`);
      return await admin.query(sql, values);
    } finally {
      await admin.end();
    }
  };

  it.each(['anon', 'authenticated'])('%s can neither read nor post', async (role) => {
    await expect(asRole(role, 'select 1 from payments.entries')).rejects.toMatchObject({ code: '42501' });
    await expect(asRole(role, `select payments.post_transactions(1, '[]')`)).rejects.toMatchObject({ code: '42501' });
  });

  it('service_role posts through the function and reads, and writes no table', async () => {
    const body = JSON.stringify({
      entries: [
        { account_id: accounts.clearing, amount_cents: 3, currency: 'USD' },
        { account_id: accounts.wallet, amount_cents: -3, currency: 'USD' },
      ],
    });
    const { rows } = await asRole('service_role', 'select status from payments.post_transaction(1, $1)', [body]);
    expect(rows).toEqual([{ status: 'posted' }]);
    await asRole('service_role', 'select * from payments.account_balances');
    for (const sql of [
      'insert into payments.events (book_id) values (1)',
      'delete from payments.entries',
      'update payments.balances set balance_cents = 0',
      'select payments.append_events(1, null)',
      'select payments.import_events(1, null, null)',
      'select payments.project_events(1, 1, 1, null)',
    ]) {
      await expect(asRole('service_role', sql)).rejects.toMatchObject({ code: '42501' });
    }
  });

  it('cannot be led astray by a search_path: the functions pin theirs', async () => {
    await asRole(
      'postgres',
      'create schema evil; create table evil.books (book_id int); grant usage on schema evil to service_role',
    );
    const { rows } = await asRole(
      'service_role',
      `select set_config('search_path', 'evil', false), (payments.post_transactions(1, '[]')).*`,
    );
    expect(rows).toEqual([]);
    const { rows: unpinned } = await database.pool.query(
      `select proname from pg_proc where pronamespace = 'payments'::regnamespace and prosecdef
         and not coalesce(proconfig::text like '%search_path=pg_catalog, pg_temp%', false)`,
    );
    expect(unpinned).toEqual([]);
  });
});

function insertEntries(amounts: readonly bigint[], currency = 'USD', event = NO_EVENT): string {
  return insertLegs(
    amounts.map((amount) => ({ amount, currency, accountIn: 'USD' })),
    event,
  );
}

/** An exchange whose sums per currency are these. */
function insertExchange(usd: readonly bigint[], jpy: readonly bigint[]): string {
  const legs = (amounts: readonly bigint[], currency: string) =>
    amounts.map((amount) => ({ amount, currency, accountIn: currency }));
  return insertLegs([...legs(usd, 'USD'), ...legs(jpy, 'JPY')], NO_EVENT);
}

function insertLegs(legs: readonly { amount: bigint; currency: string; accountIn: string }[], event: string): string {
  const rows = legs.map(
    ({ amount, currency, accountIn }, index) =>
      `select 1, ${900_000 * 1024 + 1 + index}, t.position, ${900 + index}, t.id, ${amount}, '${currency}', 0, now(), now(), a.id, 'owner', '{}'::jsonb
       from (select id from payments.accounts where currency = '${accountIn}' order by id limit 1) a,
            (${event}) t`,
  );
  return `insert into payments.entries (book_id, id, event_position, account_seq, transaction_id, amount_cents, currency,
    balance_after_cents, effective_at, created_at, account_id, created_by, metadata) ${rows.join(' union all ')}`;
}

function insertSlot(position: string, slotAccountId: string): string {
  return `insert into payments.account_slots (book_id, event_position, account_id, slot_number, slot_account_id)
    select book_id, ${position}, account_id, 63, ${slotAccountId} from payments.account_slots`;
}

function insertPeriod(closedUntil: string, eventPosition: string): string {
  return `insert into payments.periods (book_id, closed_until, closed_at, closed_by, event_position, certificate, certificate_hash)
    values (1, ${closedUntil}, now(), 'owner', ${eventPosition}, '{}', '')`;
}

function merge(): string {
  return `merge into payments.entries e using (select 1) s on e.book_id = 1 when matched then update set amount_cents = 7`;
}

function insertChange(position: string): string {
  return `insert into payments.account_changes (book_id, event_position, account_id, change_seq, status, changed_at, changed_by)
    select book_id, ${position}, account_id, 100, 'open', now(), 'me' from payments.balances limit 1`;
}

function insertHoldEntry(position: string): string {
  return `insert into payments.hold_entries (book_id, event_position, hold_id, hold_seq, account_id, account_hold_seq, kind,
      held_cents, held_after_cents, captured_cents, remaining_cents, created_at)
    select book_id, ${position}, hold_id, 100, account_id, 100, 'expired', 0, 0, 0, 0, now() from payments.holds`;
}
