import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import type { Which } from './compare-wallet.ts';

/** What stands on the ledger's tables while the old ones mirror it. */
const TRIGGERS = [
  {
    name: 'entries_mirrored',
    table: 'payments.entries',
    definition: `after insert on payments.entries referencing new table as new_entries
      for each statement execute function replay.mirror_entries()`,
  },
  {
    name: 'account_slots_unmirrored',
    table: 'payments.account_slots',
    definition: `after insert on payments.account_slots referencing new table as new_slots
      for each statement execute function replay.refuse_slots()`,
  },
] as const;

/** What to do where one of those is gone. */
export const MIRROR_AGAIN =
  'liventix backfill cutover, of each owner whom the ledger keeps (--all cuts everybody over), puts it back and mirrors what was missed';

/** Writers of old code that post beside each other, in each of the platform's accounts. */
const PLATFORM_SLOTS = 16;

/**
 * Lets new entries of wallets that the ledger keeps be written to the old tables, in the transaction that posts them, and gives the
 * platform's accounts slots, so that writers of old code need not wait for each other. Done before, it does nothing.
 * @throws AppError CUTOVER_BUSY, DB_*
 */
export async function turnMirrorOn(
  pool: Pool,
  { bookId, stop }: { readonly bookId: number; readonly stop?: AbortSignal | undefined },
): Promise<void> {
  const patience = { stop, code: 'CUTOVER_BUSY', what: 'The ledger' } as const;
  await givingWay(pool, patience, async (tx) => {
    // An account with a limit, or that is not open, stays as it is: those who post to it wait for each other.
    await tx.query(
      `select payments.add_slots($1, b.account_id, $2)
       from unnest(replay.platform_account_ids($1)) as p (account_id)
       join payments.balances b on b.account_id = p.account_id and b.book_id = $1
       where payments.slots_fault($1, b) is null
         and cardinality(payments.slots_of($1, b.account_id)) < $2
       order by b.account_id`,
      [bookId, PLATFORM_SLOTS],
    );
  });
  if (await isMirrorOn(pool)) return;
  await givingWay(pool, patience, async (tx) => {
    await tx.query(`lock table ${TRIGGERS.map(({ table }) => table).join(', ')} in share row exclusive mode`);
    // Somebody else may have been faster.
    if (await isMirrorOn(tx)) return;
    // Of those that the ledger keeps already, somebody took the mirror away, and nobody knows since when.
    await tx.query(
      `insert into replay.unmirrored (wallet_id, source, book_id)
       select wallet_id, source, book_id from replay.wallets where mode = 'ledger' and book_id = $1
       on conflict do nothing`,
      [bookId],
    );
    for (const { name, table, definition } of TRIGGERS) {
      await tx.query(`create or replace trigger ${name} ${definition}`);
      await tx.query(`alter table ${table} enable always trigger ${name}`);
    }
  });
}

export async function turnMirrorOff(tx: Tx): Promise<void> {
  for (const { name, table } of TRIGGERS) await tx.query(`drop trigger if exists ${name} on ${table}`);
}

/**
 * Writes to an old wallet that the ledger keeps what was posted while nothing was mirrored; nothing where nothing is missing. Locks the
 * wallet, as old code does, and then its account.
 * @param alsoDiffering also where its balance stays another one than the ledger's
 */
export async function mirrorMissed(
  tx: Tx,
  { bookId, source, tables, walletId }: Which,
  { alsoDiffering = false }: { readonly alsoDiffering?: boolean } = {},
): Promise<void> {
  await tx.query(`select from ${tables[source.wallets]} where id = $1 for update`, [walletId]);
  await tx.query('select replay.mirror_missed($1, $2, $3, $4)', [bookId, source.name, walletId, alsoDiffering]);
}

/** Whether what is posted to wallets that the ledger keeps is written to the old tables. */
export async function isMirrorOn(db: Queryable): Promise<boolean> {
  const { rows } = await db.query<{ n: bigint }>(
    `select count(*) as n from pg_trigger t join pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'replay'::regnamespace
     where t.tgname = any ($1) and t.tgenabled = 'A' and t.tgrelid = any ($2::regclass[])`,
    [TRIGGERS.map(({ name }) => name), TRIGGERS.map(({ table }) => table)],
  );
  return rows[0]?.n === BigInt(TRIGGERS.length);
}
