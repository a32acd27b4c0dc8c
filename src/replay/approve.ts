import type { Pool } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { getLegacyTables } from './legacy.ts';
import { unexplainedSql } from './mapping.ts';
import { type Owners, ownerFilter } from './owners.ts';
import { SOURCES } from './sources.ts';

export interface Approved {
  readonly wallets: bigint;
  readonly cents: bigint;
}

/**
 * Signs for what nobody can explain about the wallets of some owners, as it is now: it no longer keeps them from being cut over; what
 * comes on top of it does again. Each is a note in the log, with who signed, for how much and why.
 * @param request.dryRun says what would be signed for, and signs for nothing
 * @param request.reason what a reader of the log needs to know; no personal data, the log is for ever
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function approveDrift(
  pool: Pool,
  {
    owners,
    reason,
    bookId = MAIN_BOOK,
    dryRun = false,
  }: { readonly owners: Owners; readonly reason: string; readonly bookId?: number; readonly dryRun?: boolean },
): Promise<Approved> {
  const tables = await getLegacyTables(pool);
  const unexplained = SOURCES.map(
    (source) => `select '${source.name}' as source, u.* from (${unexplainedSql(source, tables)}) u`,
  ).join(' union all ');
  return withTransaction(pool, async (tx) => {
    // Two who sign at once would both find what is not signed for.
    await tx.query('lock table replay.approvals in share row exclusive mode');
    await tx.query('savepoint unsigned');
    const { rows } = await tx.query<Approved>(
      `with due as materialized (
         select u.wallet_id, u.source, u.cents, gen_random_uuid() as event_id
         from (${unexplained}) u
         join replay.wallets w on w.wallet_id = u.wallet_id and w.source = u.source and w.book_id = $1
         left join replay.approvals a on a.wallet_id = u.wallet_id and a.source = u.source and a.book_id = $1
         where replay.unapproved_cents(u.cents, a.cents) > 0 and ($2::text is null or w.source = $2 and w.owner_id = $3)
       ), signed as (
         insert into replay.approvals as a (wallet_id, source, cents, event_id, book_id)
         select wallet_id, source, cents, event_id, $1 from due
         on conflict (wallet_id, source, book_id) do update set cents = excluded.cents, event_id = excluded.event_id
       ), noted as (
         select payments.import_events($1, '{}', array_agg(row('note.recorded', event_id, null, null, null, null, jsonb_build_object(
           'note', 'drift_approved',
           'metadata', jsonb_build_object('wallet_id', wallet_id, 'table', source, 'cents', cents, 'reason', $4::text)
         ))::payments.new_event order by source, wallet_id)) from due having count(*) > 0
       )
       select count(*) as wallets, coalesce(sum(abs(cents)), 0)::bigint as cents from due left join noted on true`,
      [bookId, ...ownerFilter(owners), reason],
    );
    if (dryRun) await tx.query('rollback to savepoint unsigned');
    return rows[0] ?? { wallets: 0n, cents: 0n };
  });
}
