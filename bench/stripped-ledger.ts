import type { Pool, Tx } from '../src/db/pool.ts';

/** What of the ledger the copy has of its own; everything else it shares. */
const COPIED = [
  'append_event',
  'post_one',
  'post_in_bulk',
  'post_in_order',
  'post_transactions',
  'check_new_entries',
  'check_changed_balances',
];
const TABLES = ['entries', 'balances'];

/** What is taken out of which function: the event, the look for its key, the hashes of request and leaf. */
const STRIPPED: readonly (readonly [name: string, from: RegExp, to: string])[] = [
  [
    'append_event',
    /insert into payments\.events[\s\S]*?into event_position, logged_at;/,
    `event_position := nextval('payments.events_position_seq'); logged_at := clock_timestamp();`,
  ],
  ['post_one', /sha256\(convert_to\(v_text, 'UTF8'\)\)/, 'null'],
  ['post_in_bulk', /sha256\(convert_to\(r\.text, 'UTF8'\)\)/, 'null::bytea'],
  [
    'post_in_bulk',
    /left join lateral \(\s*select e\.position, e\.event_id, e\.request_hash[\s\S]*?\) known on true/,
    'cross join (select null::bigint as position, null::uuid as event_id, null::bytea as request_hash) known',
  ],
  ['post_in_bulk', /\), logged as \([\s\S]*?from posted p\s*\), step as/, '), step as'],
  ['check_new_entries', /or g\.transaction_id is distinct from \([\s\S]*?v\.type = 'transaction\.posted'\)/, ''],
];

/**
 * A build of posting without event log, idempotency and hashes, in a schema of its own: the same checks, guards, entries and
 * balances, by the same functions with what writes the log cut out.
 */
export async function createStrippedLedger(pool: Pool): Promise<void> {
  await pool.query('create schema stripped');
  for (const table of TABLES) await pool.query(`create table stripped.${table} (like payments.${table} including all)`);
  await pool.query('insert into stripped.balances select * from payments.balances');
  const { rows } = await pool.query<{ name: string; definition: string }>(
    `select p.proname as name, pg_get_functiondef(p.oid) as definition from pg_proc p
     where p.pronamespace = 'payments'::regnamespace and p.proname = any ($1)`,
    [COPIED],
  );
  const moved = new RegExp(`\\bpayments\\.(${[...COPIED, ...TABLES].join('|')})\\b`, 'g');
  for (const { name, definition } of rows) {
    let text = definition;
    for (const [, from, to] of STRIPPED.filter(([of]) => of === name)) {
      if (!from.test(text)) throw new Error(`${name} has nothing like ${from}`);
      text = text.replace(from, to);
    }
    await pool.query(text.replace(moved, 'stripped.$1'));
  }
  await pool.query(`
    create trigger entries_whole_transactions after insert on stripped.entries
      referencing new table as new_entries for each statement execute function stripped.check_new_entries();
    create trigger balances_follow_entries after update on stripped.balances
      referencing new table as changed for each statement execute function stripped.check_changed_balances();
    analyze stripped.balances`);
}

/** Posts as `postAll` does, by the stripped functions. */
export async function postStripped(client: Tx, transactions: string): Promise<number> {
  const { rows } = await client.query<{ status: string }>({
    name: 'stripped',
    text: `select status, transaction_id, event_position::text, code, message, account_seqs::text[], balances_after_cents::text[]
           from stripped.post_transactions($1, $2) order by ordinal`,
    values: [1, transactions],
  });
  const refused = rows.find(({ status }) => status !== 'posted');
  if (refused !== undefined) throw new Error(`a posting was not posted: ${JSON.stringify(refused)}`);
  return rows.length;
}
