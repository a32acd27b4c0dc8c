import type { Findings } from './findings.ts';
import type { Microseconds } from './microseconds.ts';

/** How an account stands after the events read so far. Money is signed like entries: debit positive. */
export interface Account {
  readonly id: string;
  /** What its event says; undefined where the log posts to an account that it never opened. */
  readonly opened: OpenedAccount | undefined;
  readonly currency: string | null;
  /** 1 where its normal side is debit, -1 where it is credit. */
  readonly side: 1n | -1n;
  // By the log.
  balance: bigint;
  entries: bigint;
  status: string;
  min: bigint | null;
  max: bigint | null;
  changes: bigint;
  held: bigint;
  holdEntries: bigint;
  // By the rows of entries: their sum and number, and what the last one of them says.
  rowSum: bigint;
  rows: bigint;
  lastSeq: bigint;
  lastBalance: bigint;
  /** What was effective before the end of its book's last closed period; undefined before the first entry that was. */
  standing: bigint | undefined;
  /** What is effective in periods that are closed later, by their number. */
  upcoming: Map<number, bigint> | undefined;
  /** The accounts that its entries are spread over beside itself, in the order of their numbers. */
  slots: Account[] | undefined;
}

export interface OpenedAccount {
  readonly position: bigint;
  readonly createdAt: string;
  readonly type: string | null;
  readonly name: string | null;
  readonly userId: string | null;
  readonly organizationId: string | null;
}

/** What the event of a slot says of it. */
export interface Slot {
  readonly ofId: string | null;
  readonly number: string | null;
  /** Undefined where the log never opened it. */
  readonly account: Account | undefined;
}

export interface Hold {
  readonly account: Account;
  readonly position: bigint;
  readonly amount: bigint;
  readonly currency: string | null;
  readonly createdAt: string;
  readonly createdBy: string;
  /** Null for one that expires never. */
  readonly expiresAt: Microseconds | null;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
  readonly metadata: string;
  remaining: bigint;
  entries: bigint;
  state: string;
}

/** What one transaction took back of another. */
export interface ReversalStep {
  readonly position: bigint;
  readonly isComplete: boolean;
  /** Net, per account. */
  readonly cents: ReadonlyMap<string, bigint>;
}

/** What the log of one book has brought about so far. Grows with accounts, holds and reversals, not with events. */
export class BookState {
  readonly accounts = new Map<string, Account>();
  readonly holds = new Map<string, Hold>();
  readonly slots = new Map<Account, Slot>();
  /** By the transaction that is reversed. */
  readonly reversals = new Map<string, ReversalStep[]>();
  /** What the rows of entries sum to where that is not zero, per currency. */
  readonly sums = new Map<string, bigint>();
  /** By its event; undefined where none opened it. */
  name: string | null | undefined;

  readonly bookId: number;
  private readonly sides: ReadonlyMap<string, string>;

  constructor(bookId: number, sides: ReadonlyMap<string, string>) {
    this.bookId = bookId;
    this.sides = sides;
  }

  open(id: string, opened: OpenedAccount, currency: string | null): Account {
    const side = this.sides.get(opened.type ?? '') === 'credit' ? -1n : 1n;
    const account = standingAtZero(id, opened, currency, side);
    this.accounts.set(id, account);
    return account;
  }

  /** An account by its id; where the log never opened it, one without limits, so that what follows can be compared. */
  account(id: string, currency: string | null): Account {
    const known = this.accounts.get(id);
    if (known !== undefined) return known;
    const account = standingAtZero(id, undefined, currency, 1n);
    this.accounts.set(id, account);
    return account;
  }
}

function standingAtZero(
  id: string,
  opened: OpenedAccount | undefined,
  currency: string | null,
  side: 1n | -1n,
): Account {
  return {
    id,
    opened,
    currency,
    side,
    balance: 0n,
    entries: 0n,
    status: 'open',
    min: null,
    max: null,
    changes: 0n,
    held: 0n,
    holdEntries: 0n,
    rowSum: 0n,
    rows: 0n,
    lastSeq: 0n,
    lastBalance: 0n,
    standing: undefined,
    upcoming: undefined,
    slots: undefined,
  };
}

/** What of the log is replayed with: the state of its book, and where faults go. */
export interface Replay {
  readonly book: BookState;
  readonly findings: Findings;
}
