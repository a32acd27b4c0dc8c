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
       -- What the log does not have is read with the others; what it has as deleted came back.
       where d.log_count <> 0
         or exists (select from replay.changed_rows c where c.legacy_id = d.id and c.source = $3 and c.book_id = $1)
     ), captured as (
       select distinct on (coalesce((c.old).id, (c.new).id)) coalesce((c.old).id, (c.new).id) as id, c.old
       from replay.captured_rows c
       where c.source = $3 and not ${isBeforeHorizon('c.xmin')}
       order by coalesce((c.old).id, (c.new).id), c.id
     ), found as (
       -- As it was when the capture began.
       select d.id, case when c.id is not null then c.old
                         else (select ${source.image} from ${tables[source.transactions]} t where t.id = d.id) end as image
       from differing d left join captured c on c.id = d.id
     ), present as (
       select f.id, f.image, ${placeOf('f.image')} as place from found f where (f.image).id is not null
     ), booked as (
       select d.id, b as image, ${placeOf('b')} as place from differing d cross join lateral replay.booked_images($1, $3, d.id) b
     ), change as (
       select coalesce(b.id, p.id) as id, coalesce((p.image).wallet_id, (b.image).wallet_id) as wallet_id, b.image as old, p.image as new
       from booked b full join present p on p.id = b.id and p.place = b.place
     )
     insert into replay.captured_rows (id, source, operation, wallet_id, old, new)
     overriding system value
     -- Below all others: it happened before them. What went to another wallet leaves the one before it comes to the other.
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

/** SQL of where an image is booked: an account, or nowhere. */
const placeOf = (image: string) => `coalesce(replay.account_of_image($1, $3, ${image})::text, '')`;
