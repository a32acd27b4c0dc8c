import { streamTexts, type TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import { BookState, type Replay } from './book-state.ts';
import { ClosedPeriods, type Closings, comparePeriod, PERIOD_COLUMNS, reportStrayPeriod } from './closed-periods.ts';
import { observeEntries } from './entry-rows.ts';
import { EVENT_COLUMNS, eventOf, type LoggedEvent, labelOf, leafHashOf } from './event.ts';
import type { Findings } from './findings.ts';
import { applyHoldStep, compareHoldEntry, HOLD_ENTRY_COLUMNS, reportStrayHoldEntry } from './hold-steps.ts';
import { CHANGE_COLUMNS, changeAccount, compareChange, openAccount, reportStrayChange } from './opened-accounts.ts';
import {
  applyLegs,
  compareEntries,
  ENTRY_COLUMNS,
  type Leg,
  legsOf,
  positionOfEntry,
  reportStrayEntry,
} from './postings.ts';
import { compareReversal, noteReversal, REVERSAL_COLUMNS, reportStrayReversal } from './reversals.ts';
import { SealedLog } from './sealed-log.ts';
import { SideStream } from './side-stream.ts';
import { saidText } from './values.ts';

/** One book while its log is read. */
export interface ReadBook extends Replay {
  readonly periods: ClosedPeriods;
  readonly sealed: SealedLog;
}

export interface LogReaderOptions {
  /** The only book that is read; null for all. */
  readonly bookId: number | null;
  /** Every account type's normal side. */
  readonly sides: ReadonlyMap<string, string>;
  readonly closings: Closings;
  readonly onEvents: ((done: number) => void) | undefined;
}

const first = (row: TextRow): bigint => BigInt(row[0] ?? 0);

/**
 * Reads the log in its order, and beside it the rows that it brought about, each once: replays every event, and compares. In
 * memory are the accounts, holds and reversals of the books, one seal of each, and a batch of each table, however many events and
 * entries there are.
 */
export class LogReader {
  readonly books = new Map<number, ReadBook>();
  private readonly entries: SideStream;
  private readonly changes: SideStream;
  private readonly holdEntries: SideStream;
  private readonly reversals: SideStream;
  private readonly periods: SideStream;

  private readonly tx: Tx;
  private readonly findings: Findings;
  private readonly options: LogReaderOptions;

  constructor(tx: Tx, findings: Findings, options: LogReaderOptions) {
    this.tx = tx;
    this.findings = findings;
    this.options = options;
    const each = (report: (findings: Findings, row: TextRow) => void) => (rows: readonly TextRow[]) => {
      for (const row of rows) report(findings, row);
    };
    this.entries = new SideStream(tx, {
      ...this.table('entries', ENTRY_COLUMNS, 'id, book_id'),
      positionOf: positionOfEntry,
      onOrphans: (rows, bookId) => this.observeStray(rows, bookId),
    });
    this.changes = this.history('account_changes', CHANGE_COLUMNS, each(reportStrayChange));
    this.holdEntries = this.history('hold_entries', HOLD_ENTRY_COLUMNS, each(reportStrayHoldEntry));
    this.reversals = this.history('reversals', REVERSAL_COLUMNS, each(reportStrayReversal));
    this.periods = this.history('periods', PERIOD_COLUMNS, each(reportStrayPeriod));
  }

  async read(): Promise<void> {
    let done = 0;
    for await (const batch of streamTexts(this.tx, this.table('events', EVENT_COLUMNS, 'position, book_id').sql, [
      this.options.bookId,
    ])) {
      for (const row of batch) {
        const event = eventOf(row);
        // Awaited once a batch and once a seal, not once an event.
        if (this.isWaiting(event)) await this.prepare(event);
        this.take(event);
      }
      done += batch.length;
      this.options.onEvents?.(done);
    }
    for (const stream of this.streams) await stream.finish();
  }

  bookOf(bookId: number): ReadBook {
    const known = this.books.get(bookId);
    if (known !== undefined) return known;
    const { findings, options } = this;
    const book = new BookState(bookId, options.sides);
    const periods = new ClosedPeriods(options.closings.get(bookId) ?? []);
    const read = { book, findings, periods, sealed: new SealedLog(this.tx, bookId, findings) };
    this.books.set(bookId, read);
    return read;
  }

  private get streams(): readonly SideStream[] {
    return [this.entries, this.changes, this.holdEntries, this.reversals, this.periods];
  }

  private history(table: string, columns: string, onOrphans: (rows: readonly TextRow[]) => void): SideStream {
    return new SideStream(this.tx, {
      ...this.table(table, columns, 'event_position, book_id'),
      positionOf: first,
      onOrphans,
    });
  }

  private table(table: string, columns: string, order: string) {
    return {
      sql: `select ${columns} from payments.${table} where $1::integer is null or book_id = $1 order by ${order}`,
      values: [this.options.bookId],
      bookOf: (row: TextRow) => Number(row[1]),
    };
  }

  private isWaiting({ position, bookId }: LoggedEvent): boolean {
    const lacking = this.entries.lacks(position) || this.changes.lacks(position) || this.holdEntries.lacks(position);
    return (
      lacking ||
      this.reversals.lacks(position) ||
      this.periods.lacks(position) ||
      this.bookOf(bookId).sealed.isBehind(position)
    );
  }

  private async prepare({ position, bookId }: LoggedEvent): Promise<void> {
    for (const stream of this.streams) while (stream.lacks(position)) await stream.fetch();
    await this.bookOf(bookId).sealed.advance(position);
  }

  private take(event: LoggedEvent): void {
    const { findings } = this;
    const read = this.bookOf(event.bookId);
    const leafHash = leafHashOf(event);
    findings.examined('leafHashes');
    if (event.leafHash !== `\\x${leafHash}`)
      findings.fault('leafHashes', `${labelOf(event)} does not match its leaf hash`);
    read.sealed.add(event.position, leafHash, () => labelOf(event));
    this.replay(read, event);
  }

  private replay(read: ReadBook, event: LoggedEvent): void {
    const { findings } = this;
    const { position, bookId } = event;
    findings.examined('events');
    const legs = event.type === 'transaction.posted' ? legsOf(read, event) : [];
    applyHoldStep(read, event, legs);
    if (event.type === 'transaction.posted') {
      findings.examined('transactions');
      findings.examined('rules');
      noteReversal(read, event, legs);
      applyLegs(read, event, legs);
    } else {
      applyOther(read, event);
    }
    this.compareEntries(read, event, legs, this.entries.claim(position, bookId));
    compareChange(read, event, this.changes.claim(position, bookId));
    compareHoldEntry(read, event, counted(findings, 'holds', this.holdEntries.claim(position, bookId)));
    compareReversal(read, event, counted(findings, 'reversals', this.reversals.claim(position, bookId)));
    comparePeriod(read, event, counted(findings, 'periods', this.periods.claim(position, bookId)));
  }

  private compareEntries(read: ReadBook, event: LoggedEvent, legs: readonly Leg[], rows: readonly TextRow[]): void {
    if (legs.length === 0 && rows.length === 0) return;
    compareEntries(read, event, legs, rows);
    this.observe(read, event.position, rows);
  }

  private observe(read: ReadBook, position: bigint, rows: readonly TextRow[]): void {
    for (const check of ['entries', 'bookSums', 'histories'] as const) this.findings.examined(check, rows.length);
    observeEntries(read, rows);
    read.periods.judgeDates(read, rows);
    read.periods.observe(read, position, rows);
  }

  private observeStray(rows: readonly TextRow[], bookId: number): void {
    for (const row of rows) reportStrayEntry(this.findings, row);
    this.observe(this.bookOf(bookId), positionOfEntry(rows[0] ?? []), rows);
  }
}

function applyOther(read: ReadBook, event: LoggedEvent): void {
  switch (event.type) {
    case 'account.opened':
      openAccount(read, event);
      return;
    case 'account.changed':
      changeAccount(read, event);
      return;
    case 'period.closed':
      read.periods.close(read, event);
      return;
    case 'book.opened':
      read.book.name = saidText(event.said, 'name');
      return;
    case 'hold.placed':
    case 'hold.voided':
    case 'hold.expired':
    case 'note.recorded':
      return;
    default:
      read.findings.fault('events', `${labelOf(event)} is of a type that the ledger does not write`);
  }
}

function counted(
  findings: Findings,
  check: 'holds' | 'reversals' | 'periods',
  rows: readonly TextRow[],
): readonly TextRow[] {
  if (rows.length > 0) findings.examined(check, rows.length);
  return rows;
}
