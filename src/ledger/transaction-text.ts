import { AppError } from '../errors.ts';
import { assertCents, assertFields, assertMetadata, invalid, isoOf, jsonText, shown } from './input.ts';

export interface NewEntry {
  readonly accountId: string;
  /** Minor units of the currency: debit positive, credit negative, never 0. */
  readonly amountCents: bigint;
  readonly currency: string;
  readonly description?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

export interface NewTransaction {
  /** 2 to 1,000, summing to zero per currency. */
  readonly entries: readonly NewEntry[];
  readonly transactionId?: string;
  /** The same key with the same body posts once; with another body it is refused. */
  readonly idempotencyKey?: string;
  readonly idempotencyScope?: string;
  /** When it happened in the world; now, when left out. */
  readonly effectiveAt?: Date;
  readonly referenceType?: string;
  readonly referenceId?: string;
  readonly description?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** A topic: the posting announces itself through `public.outbox`, in the same database transaction. */
  readonly announce?: string;
  /** Stands or falls with the next transaction of the call. */
  readonly linked?: boolean;
  /** The hold that this one draws on; `final` releases what is left of it afterwards. */
  readonly capture?: { readonly holdId: string; readonly final?: boolean };
}

/** Takes a transaction back: whole or what is left of it, or with entries of its own a part. */
export type NewReversal = Omit<NewTransaction, 'entries' | 'capture'> &
  Partial<Pick<NewTransaction, 'entries'>> & { readonly reverses: string };

/** The request's text; or why it is refused, where the database would refuse the whole call with it, or take it otherwise. */
export function transactionText(request: NewTransaction | NewReversal): string | AppError {
  try {
    return jsonText('The transaction', toRequest(request));
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}

/** What stands in a call for a request that is refused already: nothing that is posted, and a link of its chain still. */
export function refusedText(request: unknown): string {
  return (request as { linked?: unknown } | null | undefined)?.linked === true ? '{"linked":true}' : 'null';
}

const TRANSACTION_FIELDS: ReadonlySet<string> = new Set([
  'entries',
  'transactionId',
  'idempotencyKey',
  'idempotencyScope',
  'effectiveAt',
  'referenceType',
  'referenceId',
  'description',
  'metadata',
  'announce',
  'linked',
  'reverses',
  'capture',
] satisfies (keyof NewTransaction | keyof NewReversal)[]);
const ENTRY_FIELDS: ReadonlySet<string> = new Set([
  'accountId',
  'amountCents',
  'currency',
  'description',
  'metadata',
] satisfies (keyof NewEntry)[]);
const CAPTURE_FIELDS: ReadonlySet<string> = new Set(['holdId', 'final']);

// Amounts travel as text: a JSON number loses cents beyond 2^53.
function toRequest(request: NewTransaction | NewReversal): Record<string, unknown> {
  assertFields('A transaction', request, TRANSACTION_FIELDS);
  const transaction: Partial<NewTransaction & NewReversal> = request;
  const { entries } = transaction;
  if (entries !== undefined && !Array.isArray(entries)) throw invalid(`entries is an array, not ${shown(entries)}.`);
  return {
    transaction_id: transaction.transactionId,
    idempotency_key: transaction.idempotencyKey,
    idempotency_scope: transaction.idempotencyScope,
    effective_at: isoOf('effectiveAt', transaction.effectiveAt),
    reference_type: transaction.referenceType,
    reference_id: transaction.referenceId,
    description: transaction.description,
    metadata: transaction.metadata,
    announce: transaction.announce,
    linked: transaction.linked,
    reverses: transaction.reverses,
    capture: transaction.capture && toCapture(transaction.capture),
    entries: entries?.map(toEntry),
  };
}

function toCapture(capture: NonNullable<NewTransaction['capture']>): Record<string, unknown> {
  assertFields('capture', capture, CAPTURE_FIELDS);
  return { hold_id: capture.holdId, final: capture.final };
}

function toEntry(entry: NewEntry, nth: number): Record<string, unknown> {
  const what = `Entry ${nth + 1}`;
  assertFields(what, entry, ENTRY_FIELDS);
  assertCents(`${what}: amountCents`, entry.amountCents);
  assertMetadata(entry.metadata);
  return {
    account_id: entry.accountId,
    amount_cents: entry.amountCents.toString(),
    currency: entry.currency,
    description: entry.description,
    metadata: entry.metadata,
  };
}
