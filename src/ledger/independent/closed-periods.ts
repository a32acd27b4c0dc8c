import { hash } from 'node:crypto';
import type { TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import type { Account, BookState, Replay } from './book-state.ts';
import { type LoggedEvent, labelOf } from './event.ts';
import { elementsOf, membersOf } from './json-text.ts';
import { isoOf, type Microseconds, microsecondsOf } from './microseconds.ts';
import { differencesOf, greaterOf, type Said, saidText } from './values.ts';

export const PERIOD_COLUMNS =
  'event_position, book_id, closed_until, closed_at, closed_by, certificate, certificate_hash';

interface Period {
  readonly position: bigint;
  readonly until: Microseconds;
  entries: number;
  transactions: number;
  /** Of the last event with an entry that was effective in it. */
  lastPosition: bigint;
}

/** The periods of each book, in the order of their ends. */
export type Closings = ReadonlyMap<number, readonly Period[]>;

/** Which periods the log closes, before it is read: an entry is summed up by the first period that ends after its date. */
export async function readClosings(tx: Tx, bookId: number | null): Promise<Closings> {
  const { rows } = await tx.query<{ position: bigint; book: number; payload: string }>(
    `select position, book_id as book, payload::text as payload from payments.events
     where type = 'period.closed' and ($1::integer is null or book_id = $1) order by position`,
    [bookId],
  );
  const periods = new Map<number, Period[]>();
  for (const { position, book, payload } of rows) {
    const until = microsecondsOf(saidText(membersOf(payload), 'until') ?? '');
    if (until === undefined) continue;
    const ofBook = periods.get(book) ?? [];
    periods.set(book, ofBook);
    ofBook.push({ position, until, entries: 0, transactions: 0, lastPosition: 0n });
  }
  for (const ofBook of periods.values()) ofBook.sort((a, b) => (a.until < b.until ? -1 : 1));
  return periods;
}

/** The closed periods of one book while its log is read: what moved in each, and what stood at each one's end. */
export class ClosedPeriods {
  /** Where the last period ended that was closed so far; undefined while none was. */
  closedUntil: Microseconds | undefined;
  private closedBy = 0n;
  /** How many periods have been closed so far. */
  private closed = 0;

  private readonly periods: readonly Period[];

  constructor(periods: readonly Period[]) {
    this.periods = periods;
  }

  /** Adds what the rows of a transaction's entries move, by their own effective dates. */
  observe({ book }: Replay, position: bigint, rows: readonly TextRow[]): void {
    if (this.periods.length === 0) return;
    for (const row of rows) {
      const nth = this.periodAt(microsecondsOf(row[6] ?? '') ?? 0n);
      const period = this.periods[nth];
      if (period === undefined) continue;
      period.entries += 1;
      // Every transaction has a leg 1, and one.
      if (BigInt(row[0] ?? 0) % 1_024n === 1n) period.transactions += 1;
      if (position > period.lastPosition) period.lastPosition = position;
      move(book.account(row[8] ?? '', row[10] ?? null), BigInt(row[4] ?? 0), nth < this.closed ? undefined : nth);
    }
  }

  /** Names the entries that came into a period that was closed. */
  judgeDates({ book, findings }: Replay, rows: readonly TextRow[]): void {
    const { closedUntil } = this;
    if (closedUntil === undefined) return;
    for (const row of rows) {
      const effectiveAt = microsecondsOf(row[6] ?? '');
      if (effectiveAt === undefined || effectiveAt >= closedUntil) continue;
      findings.fault(
        'tooLate',
        `entry ${row[0]} (transaction ${row[9]}, account ${row[8]}, ${row[4]} ${row[10]}) is effective at ${isoOf(effectiveAt)}, before ${isoOf(closedUntil)}, until when event ${this.closedBy} had closed book ${book.bookId}`,
      );
    }
  }

  /** Closes a period, and recomputes its certificate from what was posted up to here. */
  close(replay: Replay, event: LoggedEvent): void {
    const { findings } = replay;
    const until = microsecondsOf(saidText(event.said, 'until') ?? '');
    findings.examined('tooLate');
    findings.examined('certificates');
    if (until === undefined) {
      findings.fault(
        'events',
        `${labelOf(event)} closes a period until "${saidText(event.said, 'until')}", which is no instant`,
      );
      return;
    }
    if (this.closedUntil !== undefined && until <= this.closedUntil) {
      findings.fault(
        'periods',
        `${labelOf(event)} closes until ${isoOf(until)} what was closed until ${isoOf(this.closedUntil)} already`,
      );
      return;
    }
    const nth = this.periods.findIndex((period) => period.position === event.position);
    for (const account of replay.book.accounts.values()) settle(account, nth);
    this.closed = nth + 1;
    this.certify(replay, event, nth);
    this.closedUntil = until;
    this.closedBy = event.position;
  }

  private certify({ book, findings }: Replay, event: LoggedEvent, nth: number): void {
    const certificate = membersOf(event.said.get('certificate'));
    const [label, certified] = [this.labelOf(book.bookId, event, nth), linesOf(certificate)];
    if (saidText(event.said, 'hash') !== hash('sha256', certified.map((line) => `${line}\n`).join(''), 'hex')) {
      findings.fault('certificates', `${label}: its certificate does not match its hash`);
    }
    const now = this.linesNow(book, nth);
    const [onlyNow, onlyCertified] = [
      now.filter((line) => !certified.includes(line)),
      certified.filter((line) => !now.includes(line)),
    ];
    if (onlyNow.length + onlyCertified.length > 0) {
      const list = (lines: readonly string[]) => (lines.length === 0 ? 'none of it' : lines.join(', '));
      findings.fault('certificates', `${label}: now ${list(onlyNow)}; certified ${list(onlyCertified)}`);
    }
  }

  private labelOf(bookId: number, event: LoggedEvent, nth: number): string {
    return `period of book ${bookId} until ${isoOf((this.periods[nth] as Period).until)} (event ${event.position})`;
  }

  /** The canonical text of the certificate as it must be (docs/periods.md), line by line. */
  private linesNow(book: BookState, nth: number): string[] {
    const period = this.periods[nth] as Period;
    const before = this.periods.slice(0, nth + 1);
    const lastPosition = before.reduce((last, each) => greaterOf(last, each.lastPosition), 0n);
    return [
      'liventix period certificate 1',
      `book ${book.bookId}`,
      `from ${this.closedUntil === undefined ? 'the beginning' : isoOf(this.closedUntil)}`,
      `until ${isoOf(period.until)}`,
      ...balanceLines(book),
      `transactions ${period.transactions}`,
      `entries ${period.entries}`,
      `events ${before.reduce((sum, { transactions }) => sum + transactions, 0)}`,
      `last position ${lastPosition}`,
    ];
  }

  /** The first period that ends after an instant. */
  private periodAt(instant: Microseconds): number {
    let [low, high] = [0, this.periods.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.periods[middle] as Period).until <= instant) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function move(account: Account, cents: bigint, upcoming: number | undefined): void {
  if (upcoming === undefined) {
    account.standing = (account.standing ?? 0n) + cents;
    return;
  }
  account.upcoming ??= new Map();
  account.upcoming.set(upcoming, (account.upcoming.get(upcoming) ?? 0n) + cents);
}

/** Brings what was effective up to a period into what stands at its end. */
function settle(account: Account, nth: number): void {
  if (account.upcoming === undefined) return;
  for (const [period, cents] of account.upcoming) {
    if (period > nth) continue;
    account.standing = (account.standing ?? 0n) + cents;
    account.upcoming.delete(period);
  }
  if (account.upcoming.size === 0) account.upcoming = undefined;
}

function balanceLines(book: BookState): string[] {
  const sides = new Map<string, { debit: bigint; credit: bigint }>();
  for (const [{ currency, opened }, standing] of standingsOf(book)) {
    const key = `${currency} ${opened?.type}`;
    const side = sides.get(key) ?? { debit: 0n, credit: 0n };
    sides.set(key, side);
    if (standing > 0n) side.debit += standing;
    else side.credit -= standing;
  }
  return [...sides]
    .map(([key, { debit, credit }]) => `${key} debit ${debit} credit ${credit} balance ${debit - credit}`)
    .toSorted(inByteOrder);
}

/** What stands on each account: where it has slots, with what they have. */
function standingsOf(book: BookState): ReadonlyMap<Account, bigint> {
  const standings = new Map<Account, bigint>();
  for (const account of book.accounts.values()) {
    if (account.standing === undefined) continue;
    const whole = book.slots.get(account)?.account ?? account;
    standings.set(whole, (standings.get(whole) ?? 0n) + account.standing);
  }
  return standings;
}

const inByteOrder = (one: string, other: string) => Buffer.compare(Buffer.from(one), Buffer.from(other));

/** The canonical text of a certificate as the log has it, line by line. */
function linesOf(certificate: Said): string[] {
  const text = (key: string) => saidText(certificate, key) ?? '';
  const balances = (elementsOf(certificate.get('balances')) ?? []).map((balance) => {
    const said = membersOf(balance);
    const [currency, type, debit, credit, cents] = [
      'currency',
      'type',
      'debit_cents',
      'credit_cents',
      'balance_cents',
    ].map((key) => saidText(said, key) ?? '');
    return `${currency} ${type} debit ${debit} credit ${credit} balance ${cents}`;
  });
  return [
    `liventix period certificate ${text('version')}`,
    `book ${text('book')}`,
    `from ${saidText(certificate, 'from') ?? 'the beginning'}`,
    `until ${text('until')}`,
    ...balances.toSorted(inByteOrder),
    `transactions ${text('transactions')}`,
    `entries ${text('entries')}`,
    `events ${text('events')}`,
    `last position ${text('last_position')}`,
  ];
}

export function comparePeriod({ book, findings }: Replay, event: LoggedEvent, rows: readonly TextRow[]): void {
  const isClosing = event.type === 'period.closed';
  const [row, ...more] = rows;
  for (const extra of isClosing ? more : rows) reportStrayPeriod(findings, extra);
  if (!isClosing) return;
  const [untilText, until] = [saidText(event.said, 'until'), microsecondsOf(saidText(event.said, 'until') ?? '')];
  const shown = until === undefined ? untilText : isoOf(until);
  if (row === undefined) {
    findings.fault(
      'periods',
      `period of book ${book.bookId} until ${shown} is in the log (event ${event.position}) and not among the periods`,
    );
    return;
  }
  const rowUntil = microsecondsOf(row[2] ?? '');
  const differences = differencesOf([
    ['closed_until', rowUntil === undefined ? row[2] : isoOf(rowUntil), shown],
    ['closed_at', row[3], event.recordedAt],
    ['closed_by', row[4], event.createdBy],
    ['certificate', row[5], event.said.get('certificate')],
    ['certificate_hash', row[6]?.slice(2), saidText(event.said, 'hash')],
  ]);
  if (differences !== undefined) {
    findings.fault(
      'periods',
      `period of book ${book.bookId} until ${isoOf(rowUntil ?? 0n)} differs from its event ${event.position}: ${differences}`,
    );
  }
}

export function reportStrayPeriod(findings: Replay['findings'], row: TextRow): void {
  findings.fault(
    'periods',
    `period of book ${row[1]} until ${isoOf(microsecondsOf(row[2] ?? '') ?? 0n)} has no event in the log (event ${row[0]})`,
  );
}
