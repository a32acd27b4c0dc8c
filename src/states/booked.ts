import type { Queryable } from '../db/pool.ts';

/** One entry that a transition posted. */
export interface BookedEntry {
  readonly transactionId: string;
  readonly accountId: string;
  /** Its type and its name, as people know it. */
  readonly account: string;
  readonly side: 'debit' | 'credit';
  /** Minor units, positive. */
  readonly amountCents: bigint;
  readonly currency: string;
  readonly decimalPlaces: number;
}

/** What a transition posted, in the order of the ledger; nothing where it moved no money. */
export async function bookedBy(
  db: Queryable,
  change: { id: string; historyId: bigint },
): Promise<readonly BookedEntry[]> {
  const { rows } = await db.query<BookedEntry>(
    `select n.transaction_id as "transactionId", n.account_id as "accountId", a.type || ' ' || a.name as account,
            case when n.amount_cents > 0 then 'debit' else 'credit' end as side, abs(n.amount_cents) as "amountCents", n.currency,
            (select c.decimal_places from ref.currencies c where c.code = n.currency) as "decimalPlaces"
     from states.ledger_events l
     join payments.entries n on n.transaction_id = l.event_id and n.book_id = 1
     join payments.accounts a on a.id = n.account_id and a.book_id = n.book_id
     where l.subject_id = $1 and l.history_id = $2
     order by n.id`,
    [change.id, change.historyId],
  );
  return rows;
}
