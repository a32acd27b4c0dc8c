import type { Node, TransactionStmtKind } from 'libpg-query';
import type { Comment, Statement } from './statement.ts';

/** Transactions are told apart across files, for as long as this process lives. */
let last = 0;
const next = () => {
  last += 1;
  return last;
};

/** A file that says so is run statement by statement, as `create index concurrently` needs it. */
export function isAlone({ text }: Comment): boolean {
  return /^--\s*lint:\s*no-transaction\s*$/.test(text);
}

/** node-pg-migrate runs what follows each of these by itself. */
const HALF = /^--[\s-]*(?:up|down)\s+migration/i;

export type During = Pick<Statement, 'transaction' | 'session' | 'isAlone'>;

/**
 * Which statements of a file are one transaction. A migration is one, as node-pg-migrate runs it, unless it says otherwise; `begin` and
 * `commit` divide it, and what stands outside of them is a transaction by itself.
 */
export class Transactions {
  #halves: readonly number[];
  #alone: boolean;
  readonly #isAlone: boolean;
  #transaction = next();
  #session = next();

  constructor(comments: readonly Comment[], alone: boolean) {
    this.#isAlone = alone;
    this.#alone = alone;
    this.#halves = comments.filter(({ text }) => HALF.test(text)).map(({ offset }) => offset);
  }

  enter(node: Node, offset: number): During {
    if (this.#halves.some((half) => half < offset)) this.#beginHalf(offset);
    const kind = 'TransactionStmt' in node ? node.TransactionStmt.kind : undefined;
    if (BEGINS.has(kind)) this.#begin();
    else if (this.#alone) this.#transaction = next();
    const during = { transaction: this.#transaction, session: this.#session, isAlone: this.#alone };
    if (ENDS.has(kind)) this.#end('TransactionStmt' in node && node.TransactionStmt.chain === true);
    return during;
  }

  /** For what does not run with the file. */
  apart(): During {
    return { transaction: next(), session: next(), isAlone: false };
  }

  #beginHalf(offset: number): void {
    this.#halves = this.#halves.filter((half) => half >= offset);
    this.#alone = this.#isAlone;
    this.#transaction = next();
    this.#session = next();
  }

  #begin(): void {
    this.#alone = false;
    this.#transaction = next();
  }

  #end(isChained: boolean): void {
    this.#alone = !isChained;
    this.#transaction = next();
  }
}

type Kind = TransactionStmtKind | undefined;
const BEGINS: ReadonlySet<Kind> = new Set<Kind>(['TRANS_STMT_BEGIN', 'TRANS_STMT_START']);
const ENDS: ReadonlySet<Kind> = new Set<Kind>(['TRANS_STMT_COMMIT', 'TRANS_STMT_ROLLBACK', 'TRANS_STMT_PREPARE']);
