import type { Queryable } from '../../src/db/pool.ts';
import { MAIN_BOOK } from '../../src/ledger/ledger.ts';

/** An entry as the naive sums see it: instants in microseconds since 1970. */
export interface KeptEntry {
  readonly id: bigint;
  readonly accountId: string;
  readonly accountSeq: bigint;
  readonly amountCents: bigint;
  readonly eventPosition: bigint;
  readonly recordedAt: bigint;
  readonly effectiveAt: bigint;
  readonly type: string;
  readonly currency: string;
}

/** Every entry of a book, in the order of the log. */
export async function allEntries(db: Queryable, bookId: number): Promise<KeptEntry[]> {
  const { rows } = await db.query<KeptEntry>(
    `select e.id, e.account_id as "accountId", e.account_seq as "accountSeq", e.amount_cents as "amountCents",
            e.event_position as "eventPosition", (extract(epoch from e.created_at) * 1000000)::bigint as "recordedAt",
            (extract(epoch from e.effective_at) * 1000000)::bigint as "effectiveAt", a.type, a.currency
     from payments.entries e join payments.accounts a on a.book_id = e.book_id and a.id = e.account_id
     where e.book_id = $1 order by e.id`,
    [bookId],
  );
  return rows;
}

/** The sum of what is left of the entries. */
export function sum(entries: readonly KeptEntry[]): bigint {
  return entries.reduce((total, { amountCents }) => total + amountCents, 0n);
}

const MICROS_A_MILLI = 1_000n;

/** Microseconds since 1970 as the text of an instant. */
export function instantOf(micros: bigint): string {
  const rest = ((micros % MICROS_A_MILLI) + MICROS_A_MILLI) % MICROS_A_MILLI;
  const text = new Date(Number((micros - rest) / MICROS_A_MILLI)).toISOString();
  return `${text.slice(0, -1)}${rest.toString().padStart(3, '0')}Z`;
}

/** What the server's clock says. */
export async function serverNow(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ now: string }>('select payments.instant_text(clock_timestamp()) as now');
  return rows[0]?.now ?? '';
}

/** A posting without the library: its effective date to the microsecond. */
export interface SqlTransfer {
  readonly debit: string;
  readonly credit: string;
  readonly amountCents: bigint;
  readonly currency?: string;
  readonly effectiveAt?: string | undefined;
}

/** Posts all in one call. */
export async function postBySql(db: Queryable, transfers: readonly SqlTransfer[], bookId = MAIN_BOOK): Promise<void> {
  const body = transfers.map(({ debit, credit, amountCents, currency = 'USD', effectiveAt }) => ({
    effective_at: effectiveAt,
    entries: [
      { account_id: debit, amount_cents: amountCents.toString(), currency },
      { account_id: credit, amount_cents: (-amountCents).toString(), currency },
    ],
  }));
  const { rows } = await db.query<{ status: string; message: string }>(
    'select status, message from payments.post_transactions($1, $2)',
    [bookId, JSON.stringify(body)],
  );
  const refused = rows.find(({ status }) => status !== 'posted');
  if (refused !== undefined) throw new Error(refused.message);
}
