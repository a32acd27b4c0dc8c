import type { Tx } from '../db/pool.ts';
import { assertBook } from './books.ts';
import type { Instant } from './instants.ts';

/** How far apart the points of a chart are. */
export type Step = 'day' | 'month' | 'year';

/** A span of time as a reader in a zone names it: whole days there. */
export interface Span {
  /** Included. */
  readonly from: Instant;
  /** Not included. */
  readonly until: Instant;
}

/** What accounts stood at when a period began, what came and went, and what they stood at when it ended: by effective time. */
interface Movement {
  /** Debit less credit. */
  readonly openingCents: bigint;
  /** The sum of the period's debits. */
  readonly debitedCents: bigint;
  /** The sum of the period's credits, as a positive number. */
  readonly creditedCents: bigint;
  readonly debits: bigint;
  readonly credits: bigint;
  /** Sum of the accounts that stood on the debit side at the end. */
  readonly debitCents: bigint;
  /** Sum of the accounts that stood on the credit side at the end, as a positive number. */
  readonly creditCents: bigint;
  /** At the end, debit less credit: the opening, and what was debited, less what was credited. */
  readonly closingCents: bigint;
}

export interface TypeMovement extends Movement {
  readonly type: string;
  readonly normalSide: 'debit' | 'credit';
  /** That have entries effective before the end. */
  readonly accounts: bigint;
  /** Of them, those that do not stand at zero at the end. */
  readonly standing: bigint;
}

export interface CauseMovement extends Movement {
  /** What the old history could not explain: the name of the account. */
  readonly cause: string;
}

export interface Turnover {
  /** The first day of it, in the zone. */
  readonly day: string;
  /** The sum of the debits, which is that of the credits. */
  readonly debitedCents: bigint;
  readonly entries: bigint;
}

export interface CurrencyMovement {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly types: readonly TypeMovement[];
  /** Of all types. Where a sum of it is not zero that must be, the books are broken. */
  readonly total: Movement;
  /** What the line of type suspense consists of. */
  readonly suspense: readonly CauseMovement[];
  /** Days, months or years of the period with entries, in order. */
  readonly turnover: readonly Turnover[];
}

export interface PeriodFigures {
  readonly currencies: readonly CurrencyMovement[];
  /** Effective in the period. */
  readonly transactions: bigint;
  readonly entries: bigint;
  /** The first instant and the last at which something was effective in the period; null where nothing was. */
  readonly first: Instant | null;
  readonly last: Instant | null;
  /** Of what is effective before the end: the position in the log of what was recorded last; null where there is none. */
  readonly lastPosition: bigint | null;
}

/**
 * What moved in a period of a book, and what it stood at before and after: as the certificate of a closed period counts, by
 * effective dates, an account with slots being one account. Reads the entries that are effective before the end, and those of the period
 * once more.
 * @param request.zone IANA name: what a day of the turnover is
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function periodFigures(
  tx: Tx,
  request: Span & { readonly bookId: number; readonly zone: string; readonly step: Step },
): Promise<PeriodFigures> {
  const { bookId, from, until, zone, step } = request;
  await assertBook(tx, bookId);
  const { rows } = await tx.query<Row>(FIGURES, [bookId, from, until, zone, step]);
  const of = <K extends Row['kind']>(kind: K) =>
    rows.filter((row): row is Extract<Row, { kind: K }> => row.kind === kind);
  const [all] = of('all');
  const moved = of('moved').map(({ line }) => toLine(line));
  const turnover = of('turnover').map(({ line }) => line);
  return {
    currencies: [...new Set(moved.map(({ currency }) => currency))].toSorted().map((currency) => {
      const lines = moved.filter((line) => line.currency === currency);
      return {
        currency,
        decimalPlaces: lines[0]?.decimalPlaces ?? 0,
        types: typesOf(lines),
        total: sumOf(lines),
        suspense: lines.flatMap(({ cause, ...line }) => (cause === null ? [] : [{ cause, ...sumOf([line]) }])),
        turnover: turnover
          .filter((each) => each.currency === currency)
          .map(({ day, debited, entries }) => ({ day, debitedCents: BigInt(debited), entries: BigInt(entries) })),
      };
    }),
    transactions: BigInt(all?.line.transactions ?? 0),
    entries: BigInt(all?.line.entries ?? 0),
    first: all?.line.first ?? null,
    last: all?.line.last ?? null,
    lastPosition: all?.line.lastPosition == null ? null : BigInt(all.line.lastPosition),
  };
}

/**
 * SQL of the instant at which a day begins in a zone: where clocks are put forward at midnight, when they are; where they are put back to it,
 * the first of the two midnights.
 * @param day SQL of a timestamp at midnight
 * @param zone SQL of a zone's name
 */
export const dayBegins = (day: string, zone: string): string => {
  const begins = `(${day} at time zone ${zone})`;
  const before = `(${begins} - interval '1 hour')`;
  return `case when ${before} at time zone ${zone} >= ${day} then ${before} else ${begins} end`;
};

// Two looks at the entries, each by parallel processes: by account, and those of the period by day. One that groups by both at once is slower,
// and one by account and day at once much slower, where accounts have a few entries a day. A day is found by where it begins, which takes a
// tenth of asking the calendar for each entry. Sums as text: JSON loses cents beyond 2^53.
const FIGURES = `
  with step as materialized (
    select array_agg(d::date::text order by d) as days, array_agg(${dayBegins('d', '$4::text')} order by d) as begin_at
    from generate_series(date_trunc($5, $2::timestamptz at time zone $4), $3::timestamptz at time zone $4, ('1 ' || $5)::interval) d
    where ${dayBegins('d', '$4::text')} < $3
  ), moved as materialized (
    select e.account_id, e.effective_at >= $2 as is_within, sum(e.amount_cents) as cents,
           sum(e.amount_cents) filter (where e.amount_cents > 0) as debited, count(*) as entries,
           count(*) filter (where e.amount_cents > 0) as debits, max(e.event_position) as last_position
    from payments.entries e
    where e.book_id = $1 and e.effective_at < $3
    group by 1, 2
  ), by_step as materialized (
    select e.currency, width_bucket(e.effective_at, (select begin_at from step)) as nth,
           sum(e.amount_cents) filter (where e.amount_cents > 0) as debited, count(*) as entries,
           -- Every transaction has a leg 1, and one.
           count(*) filter (where e.id % 1024 = 1) as transactions, min(e.effective_at) as first, max(e.effective_at) as last
    from payments.entries e
    where e.book_id = $1 and e.effective_at >= $2 and e.effective_at < $3
    group by 1, 2
  ), account as materialized (
    select coalesce(k.account_id, m.account_id) as account_id,
           coalesce(sum(m.cents) filter (where not m.is_within), 0) as opening, sum(m.cents) as closing,
           coalesce(sum(m.debited) filter (where m.is_within), 0) as debited,
           coalesce(sum(coalesce(m.debited, 0) - m.cents) filter (where m.is_within), 0) as credited,
           coalesce(sum(m.debits) filter (where m.is_within), 0) as debits,
           coalesce(sum(m.entries - m.debits) filter (where m.is_within), 0) as credits
    from moved m
    left join payments.account_slots k on k.book_id = $1 and k.slot_account_id = m.account_id
    group by 1
  ), line as (
    select a.currency, c.decimal_places, a.type, t.normal_side, case when a.type = 'suspense' then a.name end as cause,
           count(*) as accounts, count(*) filter (where b.closing <> 0) as standing, sum(b.opening) as opening, sum(b.debited) as debited,
           sum(b.credited) as credited, sum(b.debits) as debits, sum(b.credits) as credits,
           coalesce(sum(b.closing) filter (where b.closing > 0), 0) as debit, coalesce(-sum(b.closing) filter (where b.closing < 0), 0) as credit
    from account b
    join payments.accounts a on a.book_id = $1 and a.id = b.account_id
    join payments.account_types t on t.type = a.type
    join ref.currencies c on c.code = a.currency
    group by 1, 2, 3, 4, 5
  )
  select 'moved' as kind, jsonb_build_object('currency', currency, 'decimalPlaces', decimal_places, 'type', type, 'normalSide', normal_side,
           'cause', cause, 'accounts', accounts::text, 'standing', standing::text, 'opening', opening::text, 'debited', debited::text,
           'credited', credited::text, 'debits', debits::text, 'credits', credits::text, 'debit', debit::text, 'credit', credit::text) as line
  from (select * from line order by currency, type, cause) l
  union all
  select 'turnover', jsonb_build_object('currency', currency, 'day', (select days[u.nth] from step), 'debited', coalesce(debited, 0)::text,
           'entries', entries::text)
  from (select * from by_step order by currency, nth) u
  union all
  select 'all', jsonb_build_object(
           'transactions', coalesce(sum(transactions), 0)::text, 'entries', coalesce(sum(entries), 0)::text,
           'first', payments.instant_text(min(first)), 'last', payments.instant_text(max(last)),
           'lastPosition', (select max(last_position)::text from moved))
  from by_step`;

interface Line {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly type: string;
  readonly normalSide: 'debit' | 'credit';
  readonly cause: string | null;
  readonly accounts: string;
  readonly standing: string;
  readonly opening: string;
  readonly debited: string;
  readonly credited: string;
  readonly debits: string;
  readonly credits: string;
  readonly debit: string;
  readonly credit: string;
}

type Row =
  | { readonly kind: 'moved'; readonly line: Line }
  | { readonly kind: 'turnover'; readonly line: { currency: string; day: string; debited: string; entries: string } }
  | {
      readonly kind: 'all';
      readonly line: {
        readonly transactions: string;
        readonly entries: string;
        readonly first: Instant | null;
        readonly last: Instant | null;
        readonly lastPosition: string | null;
      };
    };

type MovedLine = TypeMovement & {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly cause: string | null;
};

function toLine(line: Line): MovedLine {
  const { currency, decimalPlaces, type, normalSide, cause } = line;
  const [debitCents, creditCents] = [BigInt(line.debit), BigInt(line.credit)];
  return {
    ...{ currency, decimalPlaces, type, normalSide, cause },
    accounts: BigInt(line.accounts),
    standing: BigInt(line.standing),
    openingCents: BigInt(line.opening),
    debitedCents: BigInt(line.debited),
    creditedCents: BigInt(line.credited),
    debits: BigInt(line.debits),
    credits: BigInt(line.credits),
    debitCents,
    creditCents,
    closingCents: debitCents - creditCents,
  };
}

/** The lines of suspense, which are by cause, as one. */
function typesOf(lines: readonly MovedLine[]): TypeMovement[] {
  return [...new Set(lines.map(({ type }) => type))].map((type) => {
    const ofType = lines.filter((line) => line.type === type);
    const count = (of: 'accounts' | 'standing') => ofType.reduce((sum, line) => sum + line[of], 0n);
    return {
      type,
      normalSide: ofType[0]?.normalSide ?? 'debit',
      accounts: count('accounts'),
      standing: count('standing'),
      ...sumOf(ofType),
    };
  });
}

const NOTHING: Movement = {
  openingCents: 0n,
  debitedCents: 0n,
  creditedCents: 0n,
  debits: 0n,
  credits: 0n,
  debitCents: 0n,
  creditCents: 0n,
  closingCents: 0n,
};

function sumOf(lines: readonly Movement[]): Movement {
  const names = Object.keys(NOTHING) as (keyof Movement)[];
  return Object.fromEntries(
    names.map((name) => [name, lines.reduce((sum, line) => sum + line[name], 0n)]),
  ) as unknown as Movement;
}
