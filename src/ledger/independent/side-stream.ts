import { streamTexts, type TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';

export interface SideStreamOptions {
  /** SELECT in ascending order of what `positionOf` says. */
  readonly sql: string;
  readonly values: readonly unknown[];
  /** The position in the log that a row belongs to. */
  readonly positionOf: (row: TextRow) => bigint;
  readonly bookOf: (row: TextRow) => number;
  /** Told of the rows of a position and a book that have no such event. */
  readonly onOrphans: (rows: readonly TextRow[], bookId: number) => void;
}

/**
 * Rows that the log brought about, read beside it: each event claims those of its position and its book. Only the rows of one
 * batch, and those of one position, are in memory.
 */
export class SideStream {
  private readonly batches: AsyncGenerator<TextRow[], void>;
  private rows: readonly TextRow[] = [];
  private next = 0;
  /** Of the row at `next`; undefined where the batch is used up. */
  private nextPosition: bigint | undefined;
  private hasEnded = false;
  /** Rows of one position that no event has claimed yet. */
  private unclaimed: TextRow[] = [];
  private unclaimedAt: bigint | undefined;

  private readonly options: SideStreamOptions;

  constructor(tx: Tx, options: SideStreamOptions) {
    this.options = options;
    this.batches = streamTexts(tx, options.sql, options.values);
  }

  /** Whether `claim` of that position needs rows that are still on their way: then `fetch`, and ask again. */
  lacks(position: bigint): boolean {
    this.passOver(position);
    return this.nextPosition === undefined && !this.hasEnded;
  }

  async fetch(): Promise<void> {
    const { value, done } = await this.batches.next();
    this.hasEnded = done === true;
    this.rows = value ?? [];
    this.next = 0;
    this.look();
  }

  /** The rows of an event, in their order. Positions are asked for in ascending order, after `lacks` said no. */
  claim(position: bigint, bookId: number): readonly TextRow[] {
    if (this.unclaimedAt !== position || this.unclaimed.length === 0) return NO_ROWS;
    const claimed = this.unclaimed.filter((row) => this.options.bookOf(row) === bookId);
    this.unclaimed = this.unclaimed.filter((row) => this.options.bookOf(row) !== bookId);
    return claimed;
  }

  /** Reads what is left, after the last event. */
  async finish(): Promise<void> {
    const end = 2n ** 63n;
    while (this.lacks(end)) await this.fetch();
    this.abandon();
  }

  /** Collects the rows of a position; those before it belong to no event. */
  private passOver(position: bigint): void {
    while (this.nextPosition !== undefined && this.nextPosition <= position) {
      if (this.nextPosition !== this.unclaimedAt) this.abandon();
      this.unclaimedAt = this.nextPosition;
      this.unclaimed.push(this.rows[this.next] as TextRow);
      this.next += 1;
      this.look();
    }
    if (
      this.unclaimedAt !== undefined &&
      this.unclaimedAt < position &&
      (this.nextPosition !== undefined || this.hasEnded)
    )
      this.abandon();
  }

  private abandon(): void {
    const { bookOf, onOrphans } = this.options;
    for (const bookId of new Set(this.unclaimed.map(bookOf))) {
      onOrphans(
        this.unclaimed.filter((row) => bookOf(row) === bookId),
        bookId,
      );
    }
    this.unclaimed = [];
  }

  private look(): void {
    const row = this.rows[this.next];
    this.nextPosition = row === undefined ? undefined : this.options.positionOf(row);
  }
}

const NO_ROWS: readonly TextRow[] = [];
