import { randomUUID } from 'node:crypto';
import type { Pool, Tx } from '../src/db/pool.ts';

const TABLES = ['events', 'entries', 'balances'];

/** Tables of the same columns, indexes and checks as the ledger's, which nothing looks after. */
export async function createBareLedger(pool: Pool): Promise<void> {
  await pool.query('create schema bare; create sequence bare.events_position_seq');
  for (const table of TABLES) await pool.query(`create table bare.${table} (like payments.${table} including all)`);
  await pool.query('insert into bare.balances select * from payments.balances');
}

// The same rows by one statement: what the server writes, and nothing that it would have to know for it. Balances in id order, or
// two would deadlock.
const INSERT = `
  with event as (
    insert into bare.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, idempotency_scope,
      idempotency_key, request_hash, payload, leaf_hash)
    select nextval('bare.events_position_seq'), now(), now(), r.id, 1, 'transaction.posted', 'bench', 'default', r.key, r.hash, r.payload, r.hash
    from unnest($1::uuid[], $2::text[], $3::bytea[], $4::jsonb[]) as r (id, key, hash, payload)
    returning position, event_id
  ), leg as (
    select * from unnest($5::uuid[], $6::int[], $7::uuid[], $8::bigint[]) as l (transaction_id, number, account_id, cents)
  ), entry as (
    insert into bare.entries (id, event_position, account_seq, amount_cents, balance_after_cents, effective_at, created_at, account_id,
      transaction_id, book_id, currency, created_by, metadata)
    select e.position * 1024 + l.number, e.position, e.position * 2 + l.number, l.cents, l.cents, now(), now(), l.account_id,
      l.transaction_id, 1, 'USD', 'bench', '{}'
    from leg l join event e on e.event_id = l.transaction_id
  )
  insert into bare.balances as b (account_id, book_id, currency, balance_cents, last_seq)
  select account_id, 1, 'USD', sum(cents), count(*) from leg group by account_id order by account_id
  on conflict (account_id, book_id) do update
  set balance_cents = b.balance_cents + excluded.balance_cents, last_seq = b.last_seq + excluded.last_seq`;

const HASH = Buffer.alloc(32, 7);

/** Writes what posting these pairs would write. */
export async function insertBare(
  client: Tx,
  pairs: readonly (readonly [debit: string, credit: string])[],
): Promise<number> {
  const rows = pairs.map(([debit, credit]) => ({
    id: randomUUID(),
    key: randomUUID(),
    legs: [
      [debit, 100],
      [credit, -100],
    ] as const,
  }));
  await client.query({
    name: 'bare',
    text: INSERT,
    values: [
      rows.map(({ id }) => id),
      rows.map(({ key }) => key),
      rows.map(() => HASH),
      rows.map(({ legs }) =>
        JSON.stringify({
          entries: legs.map(([account, cents]) => ({ account_id: account, amount_cents: `${cents}`, currency: 'USD' })),
        }),
      ),
      rows.flatMap(({ id }) => [id, id]),
      rows.flatMap(() => [1, 2]),
      rows.flatMap(({ legs }) => legs.map(([account]) => account)),
      rows.flatMap(({ legs }) => legs.map(([, cents]) => cents)),
    ],
  });
  return pairs.length;
}
