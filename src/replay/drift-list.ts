import type { Queryable } from '../db/pool.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import type { Source } from './sources.ts';

/** Something that the old history could not explain: what suspense holds for it, or a row that moved nothing. */
export interface DriftPiece {
  readonly place: DriftPlace;
  /** A legacy row, by its table and id; null where a wallet's balance is beyond its rows. */
  readonly legacyTable: string | null;
  readonly legacyId: string | null;
  /** Whose; all null where nobody's wallet was moved. */
  readonly walletId: string | null;
  readonly source: Source['name'] | null;
  readonly ownerId: string | null;
  readonly accountId: string | null;
  readonly effectiveAt: Instant;
  /** As suspense has it: positive where the holder has more than the history explains. */
  readonly cents: bigint;
  /** Null for a row that moved nothing. */
  readonly transactionId: string | null;
}

/** Where a piece is in the list: entries of suspense by account and number, and then notes by position. */
interface DriftPlace {
  readonly part: 0 | 1;
  readonly accountId: string;
  readonly seq: bigint;
}

/** The places before all others, as text. */
const FIRST_PLACE = ['0', '00000000-0000-0000-0000-000000000000', '0'] as const;

/** The pieces of one cause: they come to what `glanceAtDrift` says. @param range.after the place of the last that was shown */
export async function listDrift(
  db: Queryable,
  { cause, after = FIRST_PLACE, limit }: { cause: string; after?: readonly string[] | undefined; limit: number },
): Promise<readonly DriftPiece[]> {
  const [part, accountId, seq] = after;
  const { rows } = await db.query<Omit<DriftPiece, 'place'> & { part: 0 | 1; at: string; seq: bigint }>(
    `with entry as (
       select 0 as part, e.account_id as at, e.account_seq as seq, e.transaction_id, e.amount_cents, e.effective_at, e.metadata
       from payments.accounts a
       cross join lateral unnest(payments.slots_of($1, a.id)) as s (account_id)
       cross join lateral (
         select x.* from payments.entries x
         where x.book_id = $1 and x.account_id = s.account_id and x.account_seq > case when s.account_id = $4::uuid then $5::bigint else 0 end
         order by x.account_seq
         limit $6
       ) e
       -- By its owner, which is none, and its name: the index of accounts by those.
       where a.book_id = $1 and a.organization_id is null and a.user_id is null and a.type = 'suspense' and a.name = $2
         and $3 = 0 and s.account_id >= $4::uuid
       order by e.account_id, e.account_seq
       limit $6
     ), note as (
       select 1 as part, '00000000-0000-0000-0000-000000000000'::uuid as at, n.position as seq, null::uuid as transaction_id, 0::bigint as amount_cents,
              n.effective_at, n.payload -> 'metadata' as metadata
       from payments.events n
       where n.book_id = $1 and n.type = 'note.recorded' and n.payload ->> 'note' = $2 and n.position > case $3 when 1 then $5::bigint else 0 end
       order by n.position
       limit $6
     )
     select p.part, p.at, p.seq, p.metadata #>> '{legacy,table}' as "legacyTable", p.metadata #>> '{legacy,id}' as "legacyId",
            coalesce(p.metadata ->> 'wallet_id', w.wallet_id::text) as "walletId", w.source, w.owner_id as "ownerId", w.account_id as "accountId",
            payments.instant_text(p.effective_at) as "effectiveAt", p.amount_cents as cents, p.transaction_id as "transactionId"
     from (select * from entry union all select * from note order by part, at, seq limit $6) p
     left join lateral (
       select r.wallet_id, r.source, r.owner_id, r.account_id
       from payments.entries o
       join replay.wallets r on r.account_id = o.account_id and r.book_id = o.book_id
       where o.transaction_id = p.transaction_id and o.book_id = $1
       order by r.wallet_id limit 1
     ) w on true
     order by p.part, p.at, p.seq`,
    [MAIN_BOOK, cause, Number(part), accountId, seq, limit],
  );
  return rows.map(({ part: of, at, seq: number, ...row }) => ({
    ...row,
    place: { part: of, accountId: at, seq: number },
  }));
}
