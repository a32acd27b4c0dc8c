import type { Queryable } from '../db/pool.ts';
import { ask } from './ask.ts';
import type { Instant } from './instants.ts';

/** What is left out is not asked for. */
export interface TransactionSearch {
  readonly bookId?: number | undefined;
  readonly transactionId?: string | undefined;
  readonly idempotencyKey?: string | undefined;
  readonly referenceType?: string | undefined;
  readonly referenceId?: string | undefined;
  /** Recorded at or after it. */
  readonly from?: Instant | undefined;
  /** Recorded before it. */
  readonly to?: Instant | undefined;
}

export interface FoundTransaction {
  readonly bookId: number;
  readonly position: bigint;
  readonly transactionId: string;
  readonly recordedAt: Instant;
  readonly effectiveAt: Instant;
  readonly createdBy: string;
  readonly idempotencyKey: string | null;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
  readonly reverses: string | null;
  readonly entries: bigint;
  readonly sums: readonly CurrencySum[];
}

interface PageOfTransactions {
  readonly limit: number;
  readonly after?: LogPlace | undefined;
  readonly lookAt?: number;
}

/** What a transaction moves in one currency: the sum of its debits, which is that of its credits. */
interface CurrencySum {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly cents: bigint;
}

/** A place in the log. */
export interface LogPlace {
  readonly position: string;
  readonly bookId: string;
}

export interface TransactionsFound {
  readonly transactions: readonly FoundTransaction[];
  /** Undefined on the last page. */
  readonly next: LogPlace | undefined;
  /** `page`: it ends because so many events were looked at. `all`: more entries than are looked at have the reference, and not all are shown. */
  readonly isCutShort: 'no' | 'page' | 'all';
}

/** So many events of the log a page looks at, where no index has only those that are asked for. */
export const EVENTS_LOOKED_AT = 20_000;
/** So many entries are looked at of one reference, or events of one key, which no index has in the order of the log. */
export const ENTRIES_LOOKED_AT = 10_000;

/**
 * One page of the posted transactions that are asked for, of all books that may be read, the newest in the log first.
 * @throws AppError DB_*
 */
export async function findTransactions(
  db: Queryable,
  search: TransactionSearch,
  page: PageOfTransactions,
): Promise<TransactionsFound> {
  const { limit } = page;
  const isNamed = [search.transactionId, search.idempotencyKey, search.referenceId].some((name) => name !== undefined);
  // One more than there is room for tells whether a page follows.
  const passed = await (isNamed ? named(db, search, page) : logged(db, search, page));
  const found = passed.filter(({ isBound }) => !isBound);
  const shown = found.slice(0, limit);
  const isMore = found.length > limit;
  const bound = passed.find(({ isBound }) => isBound);
  return {
    transactions: await inFull(db, shown),
    next: placeOf(isMore ? shown.at(-1) : isNamed ? undefined : bound),
    isCutShort: bound === undefined ? 'no' : isNamed ? 'all' : 'page',
  };
}

const placeOf = (passed: Passed | undefined): LogPlace | undefined =>
  passed === undefined ? undefined : { position: passed.position, bookId: passed.bookId };

interface Passed extends LogPlace {
  /** Nothing that is asked for: as far as was looked. */
  readonly isBound: boolean;
}

/** Those of an id, a key or a reference: all of them, sorted. */
function named(
  db: Queryable,
  { bookId, transactionId, idempotencyKey, referenceType, referenceId, from, to }: TransactionSearch,
  { limit, after, lookAt = ENTRIES_LOOKED_AT }: PageOfTransactions,
): Promise<readonly Passed[]> {
  // By whichever has the fewest.
  const [events, name] =
    transactionId !== undefined
      ? ['select x.position, x.book_id from payments.events x where x.event_id = $1::uuid', transactionId]
      : idempotencyKey !== undefined
        ? ['select x.position, x.book_id from payments.events x where x.idempotency_key = $1', idempotencyKey]
        : ['select x.event_position, x.book_id from payments.entries x where x.reference_id = $1', referenceId];
  return ask<Passed>(
    db,
    `with looked as materialized (
       ${events} limit $11::bigint + 1
     ), found as (
       select l.position, l.book_id
       from (select distinct d.position, d.book_id from looked d (position, book_id)) l
       cross join lateral (select * from payments.events x where x.position = l.position and x.book_id = l.book_id limit 1) e
       where e.type = 'transaction.posted' and ($2::integer is null or e.book_id = $2)
         and ($3::text is null or e.payload ->> 'reference_type' = $3) and ($4::text is null or e.payload ->> 'reference_id' = $4)
         and ($5::text is null or e.idempotency_key = $5)
         and ($6::timestamptz is null or e.recorded_at >= $6) and ($7::timestamptz is null or e.recorded_at < $7)
         and ($8::bigint is null or (l.position, l.book_id) < ($8, $9::bigint))
       order by l.position desc, l.book_id desc
       limit $10
     )
     select f.position::text, f.book_id::text as "bookId", false as "isBound" from found f
     union all
     (select '0', '0', true from looked offset $11)`,
    [
      name,
      bookId ?? null,
      referenceType ?? null,
      referenceId ?? null,
      idempotencyKey ?? null,
      from ?? null,
      to ?? null,
      after?.position ?? null,
      after?.bookId ?? null,
      limit + 1,
      lookAt,
    ],
  );
}

/**
 * recorded_at goes along position but for the moments in which two are written at once. Where the server's clock was set back by more,
 * an instant that came twice means one of the two.
 */
const ROOM_SECONDS = 1;

/** The log from its end, or from where it was at an instant. */
async function logged(
  db: Queryable,
  { bookId, referenceType, from, to }: TransactionSearch,
  { limit, after, lookAt = EVENTS_LOOKED_AT }: PageOfTransactions,
): Promise<readonly Passed[]> {
  const [first, last] = await Promise.all([
    from === undefined ? null : positionAt(db, from, -ROOM_SECONDS),
    to === undefined ? null : positionAt(db, to, ROOM_SECONDS),
  ]);
  return ask<Passed>(
    db,
    `with looked as materialized (
       select e.position, e.book_id, e.type, e.recorded_at, case when $4::text is not null then e.payload ->> 'reference_type' end as reference_type
       from payments.events e
       where ($1::bigint is null or e.position >= $1) and ($2::bigint is null or e.position <= $2)
         and ($6::bigint is null or (e.position, e.book_id) < ($6, $7::bigint))
       order by e.position desc, e.book_id desc
       limit $10::bigint
     ), found as materialized (
       select l.position, l.book_id
       from looked l
       where l.type = 'transaction.posted' and ($3::integer is null or l.book_id = $3) and ($4::text is null or l.reference_type = $4)
         and ($8::timestamptz is null or l.recorded_at >= $8) and ($9::timestamptz is null or l.recorded_at < $9)
       limit $5
     )
     select f.position::text, f.book_id::text as "bookId", false as "isBound" from found f
     union all
     (select l.position::text, l.book_id::text, true from looked l
      where (select count(*) from found) < $5
      offset $10 - 1)`,
    [
      first,
      last,
      bookId ?? null,
      referenceType ?? null,
      limit + 1,
      after?.position ?? null,
      after?.bookId ?? null,
      from ?? null,
      to ?? null,
      lookAt,
    ],
  );
}

/** The first position from which on the log was recorded at or after an instant; one past its end where none was. */
async function positionAt(db: Queryable, at: Instant, roomSeconds: number): Promise<string> {
  const [row] = await ask<{ position: string }>(
    db,
    `with recursive looked as (
       select 0::bigint as low, 1 + coalesce((select e.position from payments.events e order by e.position desc limit 1), 0) as high
       union all
       select case when e.is_before then l.look + 1 else l.low end, case when e.is_before then l.high else l.look end
       from (select k.low, k.high, (k.low + k.high) / 2 as look from looked k where k.low < k.high) l
       cross join lateral (
         select n.recorded_at < $1::timestamptz + make_interval(secs => $2) as is_before
         from payments.events n where n.position >= l.look
         order by n.position
         limit 1
       ) e
     )
     select low::text as position from looked where low = high`,
    [at, roomSeconds],
  );
  return row?.position ?? '0';
}

async function inFull(db: Queryable, places: readonly LogPlace[]): Promise<readonly FoundTransaction[]> {
  type Row = Omit<FoundTransaction, 'sums'> & {
    readonly sums: readonly { readonly currency: string; readonly decimalPlaces: number; readonly cents: string }[];
  };
  const rows = await ask<Row>(
    db,
    `select e.book_id as "bookId", e.position, e.event_id as "transactionId", payments.instant_text(e.recorded_at) as "recordedAt",
            payments.instant_text(e.effective_at) as "effectiveAt", e.created_by as "createdBy", e.idempotency_key as "idempotencyKey",
            e.payload ->> 'reference_type' as "referenceType", e.payload ->> 'reference_id' as "referenceId",
            e.payload ->> 'description' as description, e.payload ->> 'reverses' as reverses,
            coalesce(s.entries, 0)::bigint as entries, coalesce(s.sums, '[]') as sums
     from unnest($1::bigint[], $2::integer[]) with ordinality as p (position, book_id, nth)
     cross join lateral (select * from payments.events x where x.position = p.position and x.book_id = p.book_id limit 1) e
     cross join lateral (
       select sum(c.entries) as entries, jsonb_agg(jsonb_build_object(
                'currency', c.currency, 'decimalPlaces', r.decimal_places, 'cents', c.cents::text) order by c.currency) as sums
       from (
         select n.currency, count(*) as entries, sum(n.amount_cents) filter (where n.amount_cents > 0) as cents
         from payments.entries n
         where n.transaction_id = e.event_id and n.book_id = e.book_id
         group by n.currency
       ) c
       join ref.currencies r on r.code = c.currency
     ) s
     order by p.nth`,
    [places.map(({ position }) => position), places.map(({ bookId }) => bookId)],
  );
  return rows.map(({ sums, ...row }) => ({ ...row, sums: sums.map((sum) => ({ ...sum, cents: BigInt(sum.cents) })) }));
}
