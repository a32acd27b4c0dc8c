import { createHash } from 'node:crypto';
import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import {
  type AccountFacts,
  assertAccount,
  assertInstants,
  assertOrder,
  FACTS,
  FACTS_FROM,
  type Figure,
  type HistoryOrder,
} from './history.ts';
import { assertObject, assertText, assertWhole } from './input.ts';
import type { Instant } from './instants.ts';
import { MAIN_BOOK } from './ledger.ts';

export const MAX_PAGE_LINES = 10_000;
export const DEFAULT_PAGE_LINES = 100;

export interface StatementRequest {
  readonly accountId: string;
  readonly bookId?: number;
  /** The order of the lines, and what `from` and `to` mean; `recorded` when left out. */
  readonly by?: HistoryOrder;
  /** Included; the beginning, when left out. */
  readonly from?: Instant | undefined;
  /** Not included, so that the next statement begins with it; the end, when left out. */
  readonly to?: Instant | undefined;
  /** Lines on a page, 1 to `MAX_PAGE_LINES`. */
  readonly pageLines?: number;
  /** `nextPage` of the page before, of the same statement; the first page, when left out. */
  readonly page?: string | undefined;
}

export interface StatementLine {
  /** The entry's number in its account, without gaps in the order of the log; where the account has slots, in its slot. */
  readonly accountSeq: bigint;
  readonly entryId: bigint;
  readonly eventPosition: bigint;
  readonly transactionId: string;
  readonly effectiveAt: Instant;
  readonly recordedAt: Instant;
  readonly amount: Figure;
  /** After this line, in the order of the statement. */
  readonly balance: Figure;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
  readonly metadata: Readonly<Record<string, unknown>>;
}

export interface StatementPage extends AccountFacts {
  readonly by: HistoryOrder;
  readonly from: Instant | undefined;
  readonly to: Instant | undefined;
  /** Of the whole statement; so is `closing`. */
  readonly opening: Figure;
  /** Before the first line of this page. */
  readonly broughtForward: Figure;
  readonly lines: readonly StatementLine[];
  /** After the last line of this page: of the last page, `closing`. */
  readonly carriedForward: Figure;
  readonly closing: Figure;
  /** Names the page that follows; undefined on the last one. */
  readonly nextPage: string | undefined;
}

/** Where a page begins, and what all pages of the statement agree on. */
interface Place {
  /** Of the account and of each of its slots: what was posted after these entries is not in the statement, whatever its date. */
  readonly knownSeqs: readonly bigint[];
  readonly openingCents: bigint;
  readonly closingCents: bigint;
  readonly balanceCents: bigint;
  /** The last line of the page before. */
  readonly after: Pick<StatementLine, 'effectiveAt' | 'accountSeq' | 'entryId'> | undefined;
}

/**
 * One page of an account's statement, over all of its slots. Every page shows the account as it was known when the first one was made: opening +
 * all lines of all pages = closing, whatever is posted in between.
 * @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_BOOK_UNKNOWN, LEDGER_INVALID (also for a page of another statement), DB_*
 */
export async function statementPage(db: Queryable, request: StatementRequest): Promise<StatementPage> {
  assertObject('The request for a statement', request, FIELDS);
  const { accountId, bookId = MAIN_BOOK, by = 'recorded', from, to, pageLines = DEFAULT_PAGE_LINES, page } = request;
  assertAccount(bookId, accountId);
  assertOrder(by);
  assertInstants(from, to);
  assertWhole('pageLines', pageLines, 1, MAX_PAGE_LINES);
  if (page !== undefined) assertText('A page', page);
  const range = { accountId, bookId, by, from, to };
  const { facts, place } = page === undefined ? await begin(db, range) : await goOn(db, range, page);
  // One more than asked for tells whether a page follows.
  const found = await linesAfter(db, { ...range, place, limit: pageLines + 1 });
  const figure = figureOn(facts.normalSide);
  const lines = found.slice(0, pageLines).map((line) => toLine(line, figure));
  const last = lines.at(-1);
  const carriedCents = last?.balance.signedCents ?? place.balanceCents;
  const nextPage =
    found.length > pageLines && last !== undefined
      ? tokenOf({ ...place, balanceCents: carriedCents, after: last }, range)
      : undefined;
  return {
    ...facts,
    by,
    from,
    to,
    opening: figure(place.openingCents),
    broughtForward: figure(place.balanceCents),
    lines,
    carriedForward: figure(carriedCents),
    closing: figure(place.closingCents),
    nextPage,
  };
}

/** All pages of a statement, one after the other. */
export async function* statementPages(
  db: Queryable,
  request: Omit<StatementRequest, 'page'>,
): AsyncGenerator<StatementPage> {
  assertObject('The request for a statement', request, FIELDS);
  let page: string | undefined;
  // Bounded by the entries known at the first page: every page ends later than the one before.
  do {
    const current = await statementPage(db, { ...request, page });
    yield current;
    page = current.nextPage;
  } while (page !== undefined);
}

const FIELDS: ReadonlySet<string> = new Set([
  'accountId',
  'bookId',
  'by',
  'from',
  'to',
  'pageLines',
  'page',
] satisfies (keyof StatementRequest)[]);

type Range = Required<Pick<StatementRequest, 'accountId' | 'bookId' | 'by'>> & Pick<StatementRequest, 'from' | 'to'>;

interface PageStart {
  readonly facts: AccountFacts;
  readonly place: Place;
}

async function begin(db: Queryable, range: Range): Promise<PageStart> {
  const [row] = await ask<AccountFacts & { knownSeqs: string[]; opening: string; closing: string }>(
    db,
    `select ${FACTS}, b.known_seqs::text[] as "knownSeqs", b.opening_cents::text as opening, b.closing_cents::text as closing
     from payments.account_statement_bounds($1, payments.try_uuid($2), $3, $4, $5) b
     left join (${FACTS_FROM}) on a.book_id = $1 and a.id = payments.try_uuid($2)`,
    [range.bookId, range.accountId, range.by, range.from, range.to],
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a question for a statement.');
  const { knownSeqs, opening, closing, ...facts } = row;
  const openingCents = BigInt(opening);
  return {
    facts,
    place: {
      knownSeqs: knownSeqs.map(BigInt),
      openingCents,
      closingCents: BigInt(closing),
      balanceCents: openingCents,
      after: undefined,
    },
  };
}

async function goOn(db: Queryable, range: Range, page: string): Promise<PageStart> {
  const place = placeOf(page, range);
  const [facts] = await ask<AccountFacts>(
    db,
    `select ${FACTS} from ${FACTS_FROM} where a.book_id = $1 and a.id = payments.try_uuid($2)`,
    [range.bookId, range.accountId],
  );
  if (facts !== undefined) return { facts, place };
  throw new AppError('LEDGER_ACCOUNT_UNKNOWN', `Account ${range.accountId} does not exist in book ${range.bookId}.`);
}

/** 64-bit numbers as text: what an application's own client makes of int8 is its own affair. */
interface LineRow extends Omit<StatementLine, 'accountSeq' | 'entryId' | 'eventPosition' | 'amount' | 'balance'> {
  readonly accountSeq: string;
  readonly entryId: string;
  readonly eventPosition: string;
  readonly amountCents: string;
  readonly balanceCents: string;
}

function linesAfter(
  db: Queryable,
  { place, limit, ...range }: Range & { place: Place; limit: number },
): Promise<readonly LineRow[]> {
  return ask<LineRow>(
    db,
    `select l.account_seq::text as "accountSeq", l.entry_id::text as "entryId", l.event_position::text as "eventPosition",
            l.transaction_id as "transactionId", payments.instant_text(l.effective_at) as "effectiveAt",
            payments.instant_text(l.recorded_at) as "recordedAt", l.amount_cents::text as "amountCents",
            l.balance_cents::text as "balanceCents", l.reference_type as "referenceType", l.reference_id as "referenceId",
            l.description, l.metadata
     from payments.account_statement_lines($1, payments.try_uuid($2), $3, $4, $5, $6, $7, $8, $9, $10, $11) l`,
    [
      range.bookId,
      range.accountId,
      range.by,
      range.from,
      range.to,
      place.knownSeqs.map(String),
      place.balanceCents,
      place.after?.effectiveAt,
      place.after?.accountSeq,
      place.after?.entryId,
      limit,
    ],
  );
}

function toLine(row: LineRow, figure: (signedCents: bigint) => Figure): StatementLine {
  const { accountSeq, entryId, eventPosition, amountCents, balanceCents, ...line } = row;
  return {
    accountSeq: BigInt(accountSeq),
    entryId: BigInt(entryId),
    eventPosition: BigInt(eventPosition),
    ...line,
    amount: figure(BigInt(amountCents)),
    balance: figure(BigInt(balanceCents)),
  };
}

function figureOn(normalSide: 'debit' | 'credit'): (signedCents: bigint) => Figure {
  return (signedCents) => ({ cents: normalSide === 'debit' ? signedCents : -signedCents, signedCents });
}

// A page's token carries the figures that its page goes on from: recomputing them would cost every page what only the
// first one costs. It is no secret and no proof, so a digest keeps it from accidents alone: a part that was lost when it was
// copied, or a page of another statement.
function tokenOf({ knownSeqs, openingCents, closingCents, balanceCents, after }: Place, range: Range): string {
  const body = [
    knownSeqs.join(','),
    openingCents,
    closingCents,
    balanceCents,
    after?.accountSeq,
    after?.entryId,
    after?.effectiveAt,
  ].join(' ');
  return Buffer.from(`${digestOf(body, range)} ${body}`).toString('base64url');
}

const TOKEN = /^(\S+) ((\d+(?:,\d+)*) (-?\d+) (-?\d+) (-?\d+) (\d+) (\d+) (\S+))$/;

function placeOf(page: string, range: Range): Place {
  const [
    ,
    digest,
    body = '',
    knownSeqs = '',
    opening = '',
    closing = '',
    balance = '',
    accountSeq = '',
    entryId = '',
    effectiveAt = '',
  ] = TOKEN.exec(Buffer.from(page, 'base64url').toString()) ?? [];
  // Base64 is read with a letter too many as without.
  if (digest !== digestOf(body, range) || page !== Buffer.from(`${digest} ${body}`).toString('base64url')) {
    throw new AppError(
      'LEDGER_INVALID',
      'The page is not one of this statement, or its token is damaged. Give it whole, with the account, book, order and dates of the first page.',
    );
  }
  return {
    knownSeqs: knownSeqs.split(',').map(BigInt),
    openingCents: BigInt(opening),
    closingCents: BigInt(closing),
    balanceCents: BigInt(balance),
    after: { accountSeq: BigInt(accountSeq), entryId: BigInt(entryId), effectiveAt },
  };
}

const DIGEST_LENGTH = 16;

function digestOf(body: string, { accountId, bookId, by, from, to }: Range): string {
  const subject = JSON.stringify([accountId.toLowerCase(), bookId, by, from ?? null, to ?? null, body]);
  return createHash('sha256').update(subject).digest('base64url').slice(0, DIGEST_LENGTH);
}
