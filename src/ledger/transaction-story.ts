import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { assertBookId, assertId } from './input.ts';
import type { Instant } from './instants.ts';

export interface TransactionName {
  readonly bookId: number;
  readonly transactionId: string;
}

/** A transaction as its event in the log has it; hashes in hex. */
export interface TransactionStory extends TransactionName {
  readonly position: bigint;
  readonly type: string;
  readonly recordedAt: Instant;
  readonly effectiveAt: Instant;
  readonly createdBy: string;
  readonly idempotencyScope: string | null;
  readonly idempotencyKey: string | null;
  /** SHA-256 of the request as it came; null: it was imported, not asked for. */
  readonly requestHash: string | null;
  readonly leafHash: string;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
  /** The topic under which it announced itself. */
  readonly announce: string | null;
  /** Pretty-printed, and of a long one the beginning. */
  readonly payloadText: string;
  /** Of the whole of it. */
  readonly payloadCharacters: number;
  readonly entries: bigint;
  readonly reverses: Reversal | null;
  /** The first of those that take it back, in their order. */
  readonly reversedBy: readonly Reversal[];
  readonly capture: CapturedHold | null;
}

/** The other transaction of a reversal, in whole or in part. */
export interface Reversal {
  readonly transactionId: string;
  /** Whether nothing of what is reversed was left after it. */
  readonly isComplete: boolean;
}

interface CapturedHold {
  readonly holdId: string;
  readonly accountId: string;
  readonly capturedCents: bigint;
  /** What was left of the hold then. */
  readonly remainingCents: bigint;
  readonly currency: string;
  readonly decimalPlaces: number;
  /** As the hold is now. */
  readonly state: 'active' | 'captured' | 'voided' | 'expired';
}

export const SHOWN_REVERSALS = 20;
const SHOWN_PAYLOAD_CHARACTERS = 8_000;

/** @throws AppError LEDGER_TRANSACTION_UNKNOWN, LEDGER_BOOK_UNKNOWN */
export async function getTransaction(
  db: Queryable,
  { bookId, transactionId }: TransactionName,
): Promise<TransactionStory> {
  assertBookId(bookId);
  assertId('Transaction', transactionId, 'LEDGER_TRANSACTION_UNKNOWN');
  type Row = Omit<TransactionStory, 'reverses' | 'reversedBy' | 'capture'>;
  const [event] = await ask<Row>(
    db,
    `select e.book_id as "bookId", e.event_id as "transactionId", e.position, e.type,
            payments.instant_text(e.recorded_at) as "recordedAt", payments.instant_text(e.effective_at) as "effectiveAt",
            e.created_by as "createdBy", e.idempotency_scope as "idempotencyScope", e.idempotency_key as "idempotencyKey",
            encode(e.request_hash, 'hex') as "requestHash", encode(e.leaf_hash, 'hex') as "leafHash",
            e.payload ->> 'reference_type' as "referenceType", e.payload ->> 'reference_id' as "referenceId",
            e.payload ->> 'description' as description, e.payload ->> 'announce' as announce,
            left(p.text, ${SHOWN_PAYLOAD_CHARACTERS}) as "payloadText", length(p.text) as "payloadCharacters",
            (select count(*) from payments.entries n where n.transaction_id = e.event_id and n.book_id = e.book_id) as entries
     from payments.events e
     cross join lateral (select jsonb_pretty(e.payload) as text offset 0) p
     where e.event_id = $2::uuid and e.book_id = $1`,
    [bookId, transactionId],
  );
  if (event?.type !== 'transaction.posted') throw unknown({ bookId, transactionId }, event?.type);
  const reverses = await reversalsBy(db, 'transaction_id', event);
  const reversedBy = await reversalsBy(db, 'reverses', event);
  const capture = await captureAt(db, event);
  return { ...event, reverses: reverses[0] ?? null, reversedBy, capture };
}

function unknown({ bookId, transactionId }: TransactionName, type: string | undefined): AppError {
  const why =
    type === undefined
      ? `Book ${bookId} has no transaction ${transactionId}.`
      : `${transactionId} is no transaction: its event is ${type}.`;
  return new AppError('LEDGER_TRANSACTION_UNKNOWN', `${why} Give the id that posting answered with, and its book.`);
}

function reversalsBy(
  db: Queryable,
  column: 'transaction_id' | 'reverses',
  { bookId, transactionId }: TransactionName,
): Promise<readonly Reversal[]> {
  const other = column === 'reverses' ? 'transaction_id' : 'reverses';
  return ask<Reversal>(
    db,
    `select r.${other} as "transactionId", r.is_complete as "isComplete" from payments.reversals r
     where r.${column} = $2::uuid and r.book_id = $1
     order by r.reversal_seq limit ${SHOWN_REVERSALS}`,
    [bookId, transactionId],
  );
}

async function captureAt(
  db: Queryable,
  { bookId, position }: { readonly bookId: number; readonly position: bigint },
): Promise<CapturedHold | null> {
  const [capture] = await ask<CapturedHold>(
    db,
    `select c.hold_id as "holdId", c.account_id as "accountId", c.captured_cents as "capturedCents",
            c.remaining_cents as "remainingCents", h.currency, r.decimal_places as "decimalPlaces", h.state
     from payments.hold_entries c
     join payments.holds h on h.hold_id = c.hold_id and h.book_id = c.book_id
     join ref.currencies r on r.code = h.currency
     where c.event_position = $2 and c.book_id = $1 and c.kind = 'captured'`,
    [bookId, position],
  );
  return capture ?? null;
}

/** One debit or credit, with the account that it is of; where that has slots, the account and not the slot. */
export interface TransactionEntry {
  readonly entryId: bigint;
  readonly accountId: string;
  readonly accountType: string;
  readonly accountName: string;
  readonly userId: string | null;
  readonly organizationId: string | null;
  /** Debit positive. */
  readonly amountCents: bigint;
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly description: string | null;
  /** As PostgreSQL prints it: parsing would round numbers beyond a double's precision. */
  readonly metadataJson: string;
}

/** In the order in which they were posted; at most 1,000 a transaction. @param after only those behind this entry */
export function transactionEntries(
  db: Queryable,
  { bookId, transactionId, limit, after }: TransactionName & { limit: number; after?: string | undefined },
): Promise<readonly TransactionEntry[]> {
  return ask<TransactionEntry>(
    db,
    `select n.id as "entryId", a.id as "accountId", a.type as "accountType", a.name as "accountName", a.user_id as "userId",
            a.organization_id as "organizationId", n.amount_cents as "amountCents", n.currency, r.decimal_places as "decimalPlaces",
            n.description, n.metadata::text as "metadataJson"
     from (
       select e.*, payments.account_of(e.book_id, e.account_id) as whole_account_id
       from payments.entries e
       where e.transaction_id = $2::uuid and e.book_id = $1 and ($4::bigint is null or e.id > $4)
       order by e.id limit $3
     ) n
     -- One by one: a policy keeps PostgreSQL from looking up by what a function says, and it would read all accounts.
     cross join lateral (select * from payments.accounts o where o.id = n.whole_account_id and o.book_id = n.book_id limit 1) a
     join ref.currencies r on r.code = n.currency
     order by n.id`,
    [bookId, transactionId, limit, after ?? null],
  );
}

/** The whole payload as PostgreSQL prints it. @throws AppError LEDGER_TRANSACTION_UNKNOWN */
export async function transactionPayload(db: Queryable, name: TransactionName): Promise<string> {
  const [row] = await ask<{ text: string }>(
    db,
    `select jsonb_pretty(e.payload) as text from payments.events e
     where e.event_id = $2::uuid and e.book_id = $1 and e.type = 'transaction.posted'`,
    [name.bookId, name.transactionId],
  );
  if (row === undefined) throw unknown(name, undefined);
  return row.text;
}
