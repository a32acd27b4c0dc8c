import type { Tx } from '../db/pool.ts';
import type { Run } from './backfill-run.ts';
import { isBeforeHorizon, type Source } from './sources.ts';

/**
 * Finds what was changed, deleted or moved while nothing was captured, by comparing the table with what the log has for each row, and
 * puts it in the queue of captured changes. Nobody knows its time or who did it; the correction says `resync`.
 */
export async function findUnnoticedChanges(tx: Tx, { bookId, tables }: Run, source: Source): Promise<void> {
  await tx.query(
    `with account as (
       select w.account_id, min(w.wallet_id::text)::uuid as wallet_id from replay.wallets w
       where w.book_id = $1 and w.source = $2 group by w.account_id
     ), booked as (
       select n.account_id, coalesce(m.legacy_id, payments.try_uuid(n.metadata #>> '{legacy,id}')) as id, -sum(n.amount_cents)::bigint as cents
       from account a
       join payments.entries n on n.account_id = a.account_id and n.book_id = $1
       left join replay.mirrored_rows m
         on m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id and m.source = $2
       where m.legacy_id is not null or n.metadata #>> '{legacy,table}' = $2
         -- Of a request, it says what somebody made up.
         and (select v.request_hash from payments.events v where v.book_id = n.book_id and v.position = n.event_position) is null
       group by 1, 2
       having sum(n.amount_cents) <> 0
     ), present as (
       select t.id, t.wallet_id, w.account_id, ${source.image} as image, ${isBeforeHorizon('t.xmin')} as is_old
       from ${tables[source.transactions]} t
       join replay.wallets w on w.wallet_id = t.wallet_id and w.source = $2 and w.book_id = $1
     )
     insert into replay.captured_rows (source, operation, wallet_id, old, new)
     select $2, 'resync', coalesce(p.wallet_id, a.wallet_id),
            case when b.id is not null
              then row(b.id, a.wallet_id, null, b.cents, null, null, null, null, null, null, null)::replay.row_image end,
            p.image
     from booked b
     join account a on a.account_id = b.account_id
     full join present p on p.id = b.id and p.account_id = b.account_id
     where p.is_old is not false and b.cents is distinct from nullif((p.image).delta, 0)
       -- What the log does not have is read with the others.
       and (b.id is not null or replay.is_in_log($1, $2, p.id))
     -- What went to another wallet leaves the one before it comes to the other.
     order by p.id is not null, coalesce(p.id, b.id)`,
    [bookId, source.name],
  );
  await tx.query(
    `select replay.note_unreconciled($1, array_agg(r.source), array_agg(r.wallet_id), array_agg('-infinity'::timestamptz))
     from replay.wallets r
     where r.book_id = $1 and r.source = $2 and not exists (select from ${tables[source.wallets]} w where w.id = r.wallet_id)`,
    [bookId, source.name],
  );
}
