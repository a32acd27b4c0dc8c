import type { Queryable } from '../db/pool.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { ORPHAN, type Source, ZERO_ROW } from './sources.ts';

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

const FIRST_PLACE = ['0', '00000000-0000-0000-0000-000000000000', '0'] as const;

/** So many events that are no plain postings are looked through for notes at a time: most of them opened an account. */
export const MOST_RARE = 20_000;
/** SQL of whether event `e` is none, as the index of those has it. */
export const RARE = `(e.type <> 'transaction.posted' or e.payload ?| array['hold_step', 'reversal_step'])`;

interface DriftPage {
  readonly pieces: readonly DriftPiece[];
  /** Where it goes on; undefined at the end. There may be no pieces and more to look through. */
  readonly next: DriftPlace | undefined;
}

/**
 * The pieces of one cause: they come to what `glanceAtDrift` says.
 * @param range.after the place that the page before said, as text
 */
export async function listDrift(
  db: Queryable,
  {
    cause,
    after = FIRST_PLACE,
    limit,
    mostRare = MOST_RARE,
  }: { cause: string; after?: readonly string[] | undefined; limit: number; mostRare?: number },
): Promise<DriftPage> {
  const [part = '0', accountId = '', seq = '0'] = after;
  const booked = part === '0' ? await listBooked(db, { cause, accountId, seq, limit }) : [];
  const last = booked.at(-1);
  if (booked.length === limit) return { pieces: booked, next: last?.place };
  if (cause !== ZERO_ROW && cause !== ORPHAN) return { pieces: booked, next: undefined };
  const { noted, next } = await listNoted(db, {
    cause,
    after: part === '0' ? '0' : seq,
    limit: limit - booked.length,
    mostRare,
  });
  return { pieces: [...booked, ...noted], next };
}

type Found = Omit<DriftPiece, 'place'> & { readonly at: string; readonly seq: bigint };

/** What suspense holds, by account and number. */
async function listBooked(
  db: Queryable,
  { cause, accountId, seq, limit }: { cause: string; accountId: string; seq: string; limit: number },
): Promise<readonly DriftPiece[]> {
  const { rows } = await db.query<Found>(
    `with entry as materialized (
       select e.account_id as at, e.account_seq as seq, e.transaction_id, e.amount_cents, e.effective_at, e.metadata
       from payments.accounts a
       cross join lateral unnest(payments.slots_of($1, a.id)) as s (account_id)
       cross join lateral (
         select x.* from payments.entries x
         where x.book_id = $1 and x.account_id = s.account_id and x.account_seq > case when s.account_id = $3::uuid then $4::bigint else 0 end
         order by x.account_seq
         limit $5
       ) e
       -- By its owner, which is none, and its name: the index of accounts by those.
       where a.book_id = $1 and a.organization_id is null and a.user_id is null and a.type = 'suspense' and a.name = $2 and s.account_id >= $3::uuid
       order by e.account_id, e.account_seq
       limit $5
     )
     select p.at, p.seq, p.metadata #>> '{legacy,table}' as "legacyTable", p.metadata #>> '{legacy,id}' as "legacyId",
            coalesce(p.metadata ->> 'wallet_id', w.wallet_id::text) as "walletId", w.source, w.owner_id as "ownerId", w.account_id as "accountId",
            payments.instant_text(p.effective_at) as "effectiveAt", p.amount_cents as cents, p.transaction_id as "transactionId"
     from entry p
     left join lateral (
       select r.wallet_id, r.source, r.owner_id, r.account_id
       from payments.entries o
       join replay.wallets r on r.account_id = o.account_id and r.book_id = o.book_id
       where o.transaction_id = p.transaction_id and o.book_id = $1
       order by r.wallet_id limit 1
     ) w on true
     order by p.at, p.seq`,
    [MAIN_BOOK, cause, accountId, seq, limit],
  );
  return rows.map(({ at, seq: number, ...row }) => ({ ...row, place: { part: 0, accountId: at, seq: number } }));
}

/** Rows that moved nothing, by position: of so many events at most, so that a page is not waited for. */
async function listNoted(
  db: Queryable,
  { cause, after, limit, mostRare }: { cause: string; after: string; limit: number; mostRare: number },
): Promise<{ noted: readonly DriftPiece[]; next: DriftPlace | undefined }> {
  const { rows } = await db.query<Found & { readonly isNote: boolean }>(
    `with looked as materialized (
       select e.position, e.type, e.effective_at, e.payload -> 'metadata' as metadata,
              e.type = 'note.recorded' and e.payload ->> 'note' = $2 as is_note
       from payments.events e where e.book_id = $1 and ${RARE} and e.position > $3 order by e.position limit $5
     ), noted as (
       select l.* from looked l where l.is_note order by l.position limit $4
     ), ended as (
       -- All were looked through and there may be more: it goes on behind the last.
       select max(l.position) as position from looked l having count(*) = $5 and (select count(*) from noted) < $4
     )
     select '${FIRST_PLACE[1]}' as at, n.position as seq, n.metadata #>> '{legacy,table}' as "legacyTable", n.metadata #>> '{legacy,id}' as "legacyId",
            null as "walletId", null as source, null as "ownerId", null as "accountId", payments.instant_text(n.effective_at) as "effectiveAt",
            0::bigint as cents, null as "transactionId", true as "isNote"
     from noted n
     union all
     select '${FIRST_PLACE[1]}', e.position, null, null, null, null, null, null, '', 0, null, false from ended e
     order by 2`,
    [MAIN_BOOK, cause, after, limit, mostRare],
  );
  const places = rows.map(({ at, seq, isNote, ...row }) => ({
    isNote,
    piece: { ...row, place: { part: 1, accountId: at, seq } } as const,
  }));
  const noted = places.filter(({ isNote }) => isNote).map(({ piece }) => piece);
  const isMore = noted.length === limit || places.length > noted.length;
  return { noted, next: isMore ? places.at(-1)?.piece.place : undefined };
}
