import type { Check } from '../db/checks.ts';
import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { assertBook } from './books.ts';
import { assertInstant } from './history.ts';
import { assertBookId, assertObject, assertOptions } from './input.ts';
import type { Instant } from './instants.ts';
import { MAIN_BOOK } from './ledger.ts';
import type { Rows } from './scope.ts';

/** What one account type of one currency stood at, by what was effective before a period's end. */
interface CertifiedBalance {
  readonly currency: string;
  readonly type: string;
  /** Sum of the accounts that stood on the debit side. */
  readonly debitCents: bigint;
  /** Sum of the accounts that stood on the credit side, as a positive number. */
  readonly creditCents: bigint;
  /** Debit less credit. */
  readonly balanceCents: bigint;
}

/** What is said of a period when it is closed, and can be recomputed from the entries for ever. */
export interface PeriodCertificate {
  readonly book: number;
  /** Where the period before ended; null: the beginning of the book. */
  readonly from: Instant | null;
  /** Not included. */
  readonly until: Instant;
  readonly balances: readonly CertifiedBalance[];
  /** Effective in the period. */
  readonly transactions: number;
  /** Effective in the period. */
  readonly entries: number;
  /** How many events of the log the balances stand on: every transaction effective before `until`. */
  readonly events: number;
  /** The position of the last of them; 0 where there are none. */
  readonly lastPosition: number;
  /** The canonical text that the hash is made over; docs/periods.md says how it is written. */
  readonly text: string;
  /** SHA-256 of the text, in hexadecimal. */
  readonly hash: string;
}

export interface ClosedPeriod extends PeriodCertificate {
  readonly closedAt: Instant;
  readonly closedBy: string;
  /** Of the event `period.closed`. */
  readonly eventPosition: bigint;
}

/**
 * Closes the periods of a book up to an instant: effective dates before it are refused from then on, and nothing reopens
 * them. Waits for postings under way, at most ten seconds. Not for a transaction above READ COMMITTED.
 * @throws AppError LEDGER_PERIOD_INVALID, LEDGER_PERIOD_CLOSED, LEDGER_PERIOD_BUSY, LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function closePeriod(
  db: Queryable,
  request: { readonly until: Instant; readonly bookId?: number },
): Promise<ClosedPeriod> {
  const { until, bookId } = endIn(request);
  const [period] = await ask<PeriodRow>(db, `select ${PERIOD_COLUMNS} from payments.close_period($1, $2) p`, [
    bookId,
    until,
  ]);
  if (period === undefined) throw new AppError('INTERNAL', 'The database answered nothing to the close of a period.');
  return toPeriod(period);
}

/**
 * What `closePeriod` would certify, as far as is known now. Changes nothing.
 * @throws AppError as closePeriod, but for LEDGER_PERIOD_BUSY
 */
export async function previewPeriod(
  db: Queryable,
  request: { readonly until: Instant; readonly bookId?: number },
): Promise<PeriodCertificate> {
  const { until, bookId } = endIn(request);
  const [row] = await ask<CertificateRow>(
    db,
    `select certificate, payments.certificate_text(certificate) as text, encode(payments.certificate_hash(certificate), 'hex') as hash
     from payments.next_certificate($1, $2) certificate`,
    [bookId, until],
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a question for a period.');
  return toCertificate(row);
}

/** The closed periods of a book, in order. @throws AppError LEDGER_BOOK_UNKNOWN */
export async function listPeriods(db: Queryable, options: { bookId?: number } = {}): Promise<ClosedPeriod[]> {
  assertOptions(options, 'bookId');
  const { bookId = MAIN_BOOK } = options;
  await assertBook(db, bookId);
  const rows = await ask<PeriodRow>(
    db,
    `select ${PERIOD_COLUMNS} from payments.periods p where p.book_id = $1 order by p.closed_until`,
    [bookId],
  );
  return rows.map(toPeriod);
}

/** Where a period of which book ends. @throws AppError LEDGER_INVALID, LEDGER_BOOK_UNKNOWN */
function endIn(request: { readonly until: Instant; readonly bookId?: number }): { until: Instant; bookId: number } {
  assertObject('The request for a period', request, PERIOD_FIELDS);
  const { until, bookId = MAIN_BOOK } = request;
  assertBookId(bookId);
  assertInstant(until);
  return { until, bookId };
}

const PERIOD_FIELDS: ReadonlySet<string> = new Set(['until', 'bookId']);

const PERIOD_COLUMNS = `p.certificate, payments.certificate_text(p.certificate) as text, encode(p.certificate_hash, 'hex') as hash,
  payments.instant_text(p.closed_at) as "closedAt", p.closed_by as "closedBy", p.event_position::text as "eventPosition"`;

/** The sums as text: those of a type may pass 64 bits, and JSON numbers lose cents beyond 2^53. */
interface LoggedCertificate {
  readonly book: number;
  readonly from: Instant | null;
  readonly until: Instant;
  readonly balances: readonly {
    readonly currency: string;
    readonly type: string;
    readonly debit_cents: string;
    readonly credit_cents: string;
    readonly balance_cents: string;
  }[];
  readonly transactions: number;
  readonly entries: number;
  readonly events: number;
  readonly last_position: number;
}

interface CertificateRow {
  readonly certificate: LoggedCertificate;
  readonly text: string;
  readonly hash: string;
}

interface PeriodRow extends CertificateRow {
  readonly closedAt: Instant;
  readonly closedBy: string;
  readonly eventPosition: string;
}

function toCertificate({ certificate, text, hash }: CertificateRow): PeriodCertificate {
  const { book, from, until, balances, transactions, entries, events } = certificate;
  return {
    book,
    from,
    until,
    balances: balances.map(({ currency, type, debit_cents, credit_cents, balance_cents }) => ({
      currency,
      type,
      debitCents: BigInt(debit_cents),
      creditCents: BigInt(credit_cents),
      balanceCents: BigInt(balance_cents),
    })),
    transactions,
    entries,
    events,
    lastPosition: certificate.last_position,
    text,
    hash,
  };
}

function toPeriod({ closedAt, closedBy, eventPosition, ...row }: PeriodRow): ClosedPeriod {
  return { ...toCertificate(row), closedAt, closedBy, eventPosition: BigInt(eventPosition) };
}

/**
 * What `books verify` asks of the closed periods, each as SELECTs of how many were looked at and of one text per fault.
 * What came into a period, or was changed in it, behind the guards is named.
 */
export const periodChecks = (rows: Rows): Check[] => [
  {
    name: 'the closed periods are what the log closed',
    unit: 'periods',
    examined: `select count(*) from ${rows.periods} p`,
    faults: `
      select format('period of book %s until %s %s', book_id, payments.instant_text(coalesce(p.closed_until, e.closed_until)), case
               when p.event_position is null then format('is in the log (event %s) and not among the periods', position)
               when e.recorded_at is null then 'has no event in the log'
               else format('differs from its event %s', position) end)
      from (select p.*, event_position as position from ${rows.periods} p) p
      full join (
        select book_id, position, recorded_at, created_by, payments.try_instant(payload ->> 'until') as closed_until,
               payload -> 'certificate' as certificate, payload ->> 'hash' as hash
        from ${rows.rareEvents} e where type = 'period.closed'
      ) e using (book_id, position)
      where (p.closed_until, p.closed_at, p.closed_by, p.certificate, encode(p.certificate_hash, 'hex'))
        is distinct from (e.closed_until, e.recorded_at, e.created_by, e.certificate, e.hash)
      union all
      select format('book %s is closed until %s, its periods until %s', b.book_id, coalesce(payments.instant_text(b.closed_until), 'never'),
               coalesce(payments.instant_text(p.closed_until), 'never'))
      from ${rows.books} b
      left join (select book_id, max(closed_until) as closed_until from payments.periods group by book_id) p using (book_id)
      where b.closed_until is distinct from p.closed_until
      order by 1`,
  },
  {
    // Each entry belongs to the span of the log that follows one close: whatever is effective before that one is too late.
    name: 'nothing was posted into a closed period',
    unit: 'periods',
    examined: `select count(*) from ${rows.periods} p`,
    faults: `
      select format('entry %s (transaction %s, account %s, %s %s) is effective at %s, before %s, until when event %s had closed book %s',
               e.id, e.transaction_id, e.account_id, e.amount_cents, e.currency, payments.instant_text(e.effective_at),
               payments.instant_text(p.closed_until), p.event_position, p.book_id)
      from (
        select book_id, closed_until, event_position,
               lead(event_position) over (partition by book_id order by event_position) as next_position
        from payments.periods
      ) p
      join ${rows.entries} e on e.book_id = p.book_id and e.effective_at < p.closed_until
        and e.id > (p.event_position + 1) * 1024 and e.id < coalesce(p.next_position, 9007199254740991) * 1024
      order by e.id`,
  },
  {
    name: 'every closed period is what its certificate says',
    unit: 'periods',
    examined: `select count(*) from ${rows.periods} p`,
    faults: `
      select format('period of book %s until %s (event %s): %s', p.book_id, payments.instant_text(p.closed_until), p.event_position, case
               when p.certificate_hash is distinct from payments.certificate_hash(p.certificate) then 'its certificate does not match its hash'
               else format('now %s; certified %s', d.now_lines, d.certified_lines) end)
      from ${rows.periods} p
      join (
        select b.book_id, c.closed_until, c.certificate
        from (select book_id, array_agg(closed_until order by closed_until) as untils from payments.periods
              where book_id in (select p.book_id from ${rows.periods} p) group by book_id) b
        cross join lateral payments.certificates_of(b.book_id, b.untils, payments.period_movements(b.book_id, b.untils, null, null)) c
      ) c using (book_id, closed_until)
      cross join lateral (
        select coalesce(string_agg(line, ', ') filter (where is_now), 'none of it') as now_lines,
               coalesce(string_agg(line, ', ') filter (where is_certified), 'none of it') as certified_lines
        from (
          select line, bool_or(is_now) as is_now, bool_or(not is_now) as is_certified
          from (
            select line, true as is_now from string_to_table(payments.certificate_text(c.certificate), E'\\n') as line
            union all
            select line, false from string_to_table(payments.certificate_text(p.certificate), E'\\n') as line
          ) l
          group by line
          having count(*) = 1
        ) l
      ) d
      where p.certificate_hash is distinct from payments.certificate_hash(p.certificate)
        or payments.certificate_text(c.certificate) <> payments.certificate_text(p.certificate)
      order by p.book_id, p.closed_until`,
  },
];
