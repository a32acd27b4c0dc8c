import type { Tx } from '../db/pool.ts';
import type { Run } from './backfill-run.ts';
import { ANY_ROW, differingRowsSql } from './proof/sums.ts';
import { isBeforeHorizon, type Source } from './sources.ts';

/**
 * Finds what was changed, deleted or moved while nothing was captured, by comparing the table with what the log has for each row, and
 * puts it before the captured changes. Nobody knows its time or who did it; the correction says `resync`.
 */
export async function findUnnoticedChanges(tx: Tx, { bookId, tables }: Run, source: Source): Promise<void> {
  await tx.query(
    `with differing as (
       select d.id from (${differingRowsSql(source, tables, ANY_ROW)}) d
       -- What the log does not have is read with the others.
       where d.log_count <> 0 or replay.is_in_log($1, $3, d.id)
     ), captured as (
       select distinct on (coalesce((c.old).id, (c.new).id)) coalesce((c.old).id, (c.new).id) as id, c.old
       from replay.captured_rows c
       where c.source = $3 and not ${isBeforeHorizon('c.xmin')}
       order by coalesce((c.old).id, (c.new).id), c.id
     ), found as (
       select d.id, replay.booked_image($1, $3, d.id) as booked,
              -- As it was when the capture began.
              case when c.id is not null then c.old
                   else (select ${source.image} from ${tables[source.transactions]} t where t.id = d.id) end as present
       from differing d left join captured c on c.id = d.id
     ), change as (
       select f.id, (f.booked).wallet_id as wallet_id, f.booked as old, case when not w.is_moved then f.present end as new
       from found f cross join lateral (${isMoved('f')}) w where (f.booked).id is not null
       union all
       -- What went to another wallet leaves the one before it comes to the other.
       select f.id, (f.present).wallet_id, null, f.present
       from found f cross join lateral (${isMoved('f')}) w
       where (f.present).id is not null and (w.is_moved or (f.booked).id is null)
     )
     insert into replay.captured_rows (id, source, operation, wallet_id, old, new)
     overriding system value
     -- Below all others: it happened before them.
     select (select least(min(c.id), 0) from replay.captured_rows c) - row_number() over (order by (c.old).id is null desc, c.id),
            $3, 'resync', c.wallet_id, c.old, c.new
     from change c`,
    [bookId, '{}', source.name],
  );
  await tx.query(
    `select replay.note_unreconciled($1, array_agg(r.source), array_agg(r.wallet_id), array_agg('-infinity'::timestamptz))
     from replay.wallets r
     where r.book_id = $1 and r.source = $2 and not exists (select from ${tables[source.wallets]} w where w.id = r.wallet_id)`,
    [bookId, source.name],
  );
}

/** SQL of whether a row is booked on another account than that of the wallet that it is in. */
function isMoved(found: string): string {
  const account = (image: 'booked' | 'present') =>
    `(select w.account_id from replay.wallets w where w.wallet_id = (${found}.${image}).wallet_id and w.source = $3 and w.book_id = $1)`;
  return `select ${account('booked')} is distinct from ${account('present')} as is_moved`;
}
