import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openPool, type Pool, type Tx } from '../../src/db/pool.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

/** Of the ledger's rows, whichever way, for one transaction of two entries: it takes 17 one by one. */
const MAX_ROWS_READ = 30;
const LOG = 3_000;
const OTHER_ACCOUNTS = 3_000;

interface Pair {
  debit: string;
  credit: string;
}

let database: TestDatabase;
let pool: Pool;

beforeAll(async () => {
  database = await createDatabase();
  // As in one long transaction, or in the first minute of a new book: nobody tells the planner that the tables have grown.
  for (const table of ['accounts', 'balances', 'entries', 'events']) {
    await database.pool.query(`alter table payments.${table} set (autovacuum_enabled = false)`);
  }
  pool = await openPool({ databaseUrl: database.url, max: 1 });
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

describe('a connection that has posted since the books were empty', () => {
  it.each([
    { size: 1, slots: 1 },
    { size: 50, slots: 1 },
    { size: 1, slots: 8 },
    { size: 50, slots: 8 },
  ])(
    'reads no more of large books than of small ones, $size transactions a call, $slots slots',
    async ({ size, slots }) => {
      const client = await pool.connect();
      try {
        const busy = await openPair(slots);
        for (let call = 0; call < 10; call += 1) await postKeyed(client, size, busy);
        await openOthers(`${size}-${slots}`);
        for (let posted = 0; posted < LOG; posted += Math.max(size, 25))
          await postKeyed(client, Math.max(size, 25), busy);
        const calls = 20;
        const counts: number[] = [];
        while (counts.length < 3) {
          // Whoever writes in another database of the server for long keeps a busy balance's old versions from being pruned.
          const fresh = await openPair(slots);
          const before = await rowsRead(client);
          for (let call = 0; call < calls; call += 1) await postKeyed(client, size, fresh);
          counts.push(((await rowsRead(client)) - before) / (calls * size));
        }
        // What this connection reads it reads each time; what another session read, which it may tell of seconds later, comes once.
        expect(Math.min(...counts)).toBeLessThan(MAX_ROWS_READ);
      } finally {
        client.release();
      }
    },
  );
});

it('looks at a transaction of many entries in two currencies once, not once an entry', async () => {
  const LEGS = 400;
  const legs = Array.from({ length: LEGS }, (_, nth) => ({
    type: 'payable',
    currency: nth < LEGS / 2 ? 'USD' : 'EUR',
    name: `leg_${nth}`,
  }));
  const ids = await openAccounts(database.pool, legs);
  const entries = legs.map(({ currency }, nth) => ({
    accountId: ids[nth] as string,
    amountCents: nth % 2 === 0 ? 1n : -1n,
    currency,
  }));
  const client = await pool.connect();
  try {
    const before = await rowsRead(client);
    await postAll(client, [{ entries }]);
    // Looked at closely, as one of a single currency is not.
    expect(((await rowsRead(client)) - before) / LEGS).toBeLessThan(2 * MAX_ROWS_READ);
  } finally {
    client.release();
  }
});

let pairs = 0;
async function openPair(slots: number): Promise<Pair> {
  pairs += 1;
  const [debit = '', credit = ''] = await openAccounts(database.pool, [
    { type: 'receivable', currency: 'USD', name: `debit-${pairs}` },
    { type: 'cash', currency: 'USD', name: `credit-${pairs}` },
  ]);
  if (slots > 1) await addSlots(database.pool, { accountId: debit, slots });
  return { debit, credit };
}

let keys = 0;
function postKeyed(client: Tx, size: number, { debit, credit }: Pair) {
  keys += size;
  return postAll(
    client,
    Array.from({ length: size }, (_, nth) =>
      transfer(debit, credit, { idempotencyKey: `key ${keys - nth}`, announce: 'a.b' }),
    ),
  );
}

const openOthers = (name: string) =>
  openAccounts(
    database.pool,
    Array.from({ length: OTHER_ACCOUNTS }, (_, number) => ({
      type: 'cash',
      currency: 'USD',
      name: `other-${name}-${number}`,
    })),
  );

async function rowsRead(client: Tx): Promise<number> {
  await client.query('select pg_stat_force_next_flush()');
  const { rows } = await client.query<{ read: number }>(
    `select (select sum(seq_tup_read) from pg_stat_user_tables where schemaname = 'payments')::float8
          + (select sum(idx_tup_read) from pg_stat_user_indexes where schemaname = 'payments')::float8 as read`,
  );
  return rows[0]?.read ?? Number.NaN;
}
