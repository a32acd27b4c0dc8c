import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { dropVerified, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const CONNECTIONS = 16;

let database: TestDatabase;
/** In descending order of id, and stored so: neither a scan of the table nor a caller's list has the order of the ids. */
let accounts: string[];
let highest: string;
let lowest: string;

beforeAll(async () => {
  database = await createDatabase({ poolMax: CONNECTIONS });
  const { rows } = await database.pool.query<{ name: string }>(
    `select 'account_' || n as name from generate_series(1, 8) as n
     order by payments.account_id(1, 'payable', 'USD', 'account_' || n, null, null) desc`,
  );
  // One by one: a single call stores them as it likes.
  for (const { name } of rows) await openAccounts(database.pool, [{ type: 'payable', currency: 'USD', name }]);
  const stored = await database.pool.query<{ id: string }>(
    'select account_id as id from payments.balances order by ctid',
  );
  accounts = stored.rows.map(({ id }) => id);
  expect(accounts).toEqual(accounts.toSorted().reverse());
  [highest = '', lowest = ''] = [accounts.at(0), accounts.at(-1)];
});
afterAll(() => dropVerified(database));

describe('lock order', () => {
  it('is the order of the ids, whatever order the accounts are named and stored in', async () => {
    const [holder, poster] = [await database.pool.connect(), await database.pool.connect()];
    try {
      await holder.query('begin');
      await lock(holder, lowest);
      await poster.query('begin');
      await scanBy('table', poster);
      const posting = post(poster, transfer(highest, lowest));
      posting.catch(() => undefined);
      await eventuallyWaits(poster);
      // Had the poster taken what it met first, this one would be taken.
      await lock(holder, highest);
      await holder.query('rollback');
      await posting;
      await poster.query('commit');
    } finally {
      holder.release(true);
      poster.release(true);
    }
  });

  it('keeps 16 connections that post to the same accounts in opposite orders from ever meeting in a deadlock', async () => {
    const ROUNDS = 10;
    const forwards = accounts.slice(1).map((account, index) => transfer(accounts[index] ?? '', account));
    const backwards = accounts.slice(1).map((account, index) => transfer(account, accounts[index] ?? ''));
    const connection = async (nth: number) => {
      for (let round = 0; round < ROUNDS; round += 1) {
        const work = async (tx: Tx) => {
          // A table scan meets the rows as they are stored, an index scan in the order of their ids.
          await scanBy(nth % 2 === 0 ? 'table' : 'index', tx);
          return postAll(tx, nth % 2 === 0 ? forwards : backwards.toReversed());
        };
        // One try: a deadlock must not be healed by running it again.
        const outcomes = await withTransaction(database.pool, work, { maxTries: 1 });
        expect(outcomes.every(({ status }) => status === 'posted')).toBe(true);
      }
    };
    const results = await Promise.allSettled(Array.from({ length: CONNECTIONS }, (_, nth) => connection(nth)));
    expect(results.filter(({ status }) => status === 'rejected')).toEqual([]);
  });
});

describe('an open posting', () => {
  /** What another session can do, waiting for no lock, while a posting to the first account and the last is open. */
  async function besidePosting(work: (tx: Tx) => Promise<unknown>): Promise<void> {
    await withTransaction(database.pool, async (poster) => {
      await post(poster, transfer(highest, lowest));
      await withTransaction(database.pool, async (other) => {
        await other.query(`set local lock_timeout = '100ms'`);
        await work(other);
      });
    });
  }

  it('lets rows be inserted that reference its accounts and their balances', async () => {
    await database.pool.query(
      `create table statement_lines (
         book_id integer, account_id uuid,
         foreign key (account_id, book_id) references payments.balances,
         foreign key (account_id, book_id) references payments.accounts)`,
    );
    await besidePosting((tx) => tx.query('insert into statement_lines values (1, $1), (1, $2)', [highest, lowest]));
  });

  it('lets accounts be opened in its book', async () => {
    await besidePosting((tx) => openAccounts(tx, [{ type: 'cash', currency: 'USD', name: 'meanwhile' }]));
  });

  it('lets others post to accounts that it does not name', async () => {
    const [, third = '', fourth = ''] = accounts;
    await besidePosting((tx) => post(tx, transfer(third, fourth)));
  });

  it('lets nobody else post to an account that it names', async () => {
    const [, third = ''] = accounts;
    await expect(besidePosting((tx) => post(tx, transfer(third, lowest)))).rejects.toMatchObject({
      cause: { code: '55P03' },
    });
  });
});

describe('a posting that waits for a lock', () => {
  it('goes on to an account that was opened meanwhile', async () => {
    const holder = await database.pool.connect();
    const poster = await database.pool.connect();
    try {
      await holder.query('begin');
      await lock(holder, highest);
      const { rows } = await holder.query<{ id: string }>(
        `select payments.account_id(1, 'payable', 'USD', 'opened_meanwhile', null, null) as id`,
      );
      const opened = rows[0]?.id as string;
      expect(opened < highest, 'it is looked for before the lock').toBe(true);
      const posting = post(poster, transfer(highest, opened));
      await eventuallyWaits(poster);
      await openAccounts(database.pool, [{ type: 'payable', currency: 'USD', name: 'opened_meanwhile' }]);
      await holder.query('commit');
      expect(await posting).toMatchObject({ status: 'posted', accountSeqs: [expect.any(BigInt), 1n] });
    } finally {
      holder.release();
      poster.release();
    }
  });
});

describe('an account that is opened while its lock is looked for', () => {
  /**
   * Runs a call on an account that is opened once the call has found no lock to take, and stops the call again where it reads
   * another table. Table by table, because no row is there yet that could keep it waiting.
   */
  async function openedMeanwhile(
    name: string,
    tables: { readonly afterLock: string; readonly afterJudging: string },
    call: (tx: Tx, accountId: string) => Promise<unknown>,
  ): Promise<void> {
    const account = { type: 'cash', currency: 'USD', name };
    const { rows } = await database.pool.query<{ id: string }>(
      `select payments.account_id(1, 'cash', 'USD', $1, null, null) as id`,
      [name],
    );
    const accountId = rows[0]?.id ?? '';
    const [opener, holder, caller] = await Promise.all([1, 2, 3].map(() => database.pool.connect()));
    if (!opener || !holder || !caller) throw new Error('three connections');
    try {
      await opener.query(
        `begin; lock table payments.${tables.afterJudging} in access share mode; lock table payments.${tables.afterLock} in access exclusive mode`,
      );
      const called = call(caller, accountId);
      called.catch(() => undefined);
      await eventuallyWaitsFor(opener, caller);
      await openAccounts(opener, [account]);
      await holder.query('begin');
      // Behind the opener, and before the caller.
      const held = holder.query(`lock table payments.${tables.afterJudging} in access exclusive mode`);
      await eventuallyWaitsFor(opener, holder);
      await opener.query('commit');
      await held;
      await eventuallyWaitsFor(holder, caller);
      await expect(lock(holder, accountId)).rejects.toMatchObject({ code: '55P03' });
      await holder.query('rollback');
      await called;
    } finally {
      for (const connection of [opener, holder, caller]) connection.release(true);
    }
  }

  it('is locked before a hold on it is judged', async () => {
    await openedMeanwhile('held', { afterLock: 'events', afterJudging: 'account_types' }, (tx, accountId) =>
      placeHold(tx, { accountId, amountCents: 5n, currency: 'USD' }),
    );
  });

  it('is locked before it is given slots', async () => {
    await openedMeanwhile('slotted', { afterLock: 'holds', afterJudging: 'account_slots' }, (tx, accountId) =>
      addSlots(tx, { accountId, slots: 2 }),
    );
  });
});

/** As a poster locks it; fails where somebody else has it. */
async function lock(tx: Tx, account: string): Promise<void> {
  await tx.query('select from payments.balances where account_id = $1 for no key update nowait', [account]);
}

/** How the planner finds rows, for this transaction: the order of locks must not hang on its choice. */
async function scanBy(what: 'table' | 'index', tx: Tx): Promise<void> {
  const [table, index] = what === 'table' ? ['on', 'off'] : ['off', 'on'];
  await tx.query(
    `set local plan_cache_mode = force_custom_plan; set local enable_bitmapscan = off;
     set local enable_seqscan = ${table}; set local enable_indexscan = ${index}; set local enable_indexonlyscan = ${index}`,
  );
}

async function eventuallyWaits(waiter: Tx): Promise<void> {
  const { processID: pid } = waiter as Tx & { processID: number };
  await eventually('the poster waits for a lock', async () => {
    const { rows } = await database.pool.query(
      `select 1 from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'`,
      [pid],
    );
    return rows.length > 0;
  });
}

/** Not as its session is shown, which for a moment still waits for what it has already. */
async function eventuallyWaitsFor(other: Tx, waiter: Tx): Promise<void> {
  const [blocker, blocked] = [other, waiter].map((tx) => (tx as Tx & { processID: number }).processID);
  await eventually('one waits for the other', async () => {
    const { rows } = await database.pool.query<{ waits: boolean }>('select $1 = any (pg_blocking_pids($2)) as waits', [
      blocker,
      blocked,
    ]);
    return rows[0]?.waits === true;
  });
}
