import type { Tx } from '../db/pool.ts';
import { rowsOf, type Scope } from './scope.ts';

/** What a verification had before it, of one book: all of it, or what was new. Hashes in hex, sums as text. */
export interface BookSummary {
  readonly book: number;
  readonly name: string;
  readonly events: bigint;
  readonly firstPosition: bigint | null;
  readonly lastPosition: bigint | null;
  readonly entries: bigint;
  readonly accounts: bigint;
  /** The newest, which covers `treeSize` of the book's events. */
  readonly seal: {
    readonly number: number;
    readonly treeSize: number;
    readonly root: string;
    readonly sealHash: string;
  } | null;
  /** The sums of all debits and of all credits of these entries. */
  readonly turnover: readonly {
    readonly currency: string;
    readonly debitCents: string;
    readonly creditCents: string;
  }[];
}

/** Summaries of the books that a verification looks at, in the snapshot of `tx`. */
export async function summarizeBooks(tx: Tx, scope: Scope): Promise<BookSummary[]> {
  const { books, events, entries, accounts } = rowsOf(scope);
  const { rows } = await tx.query<BookSummary>(
    `select b.book_id as book, b.name, coalesce(e.events, 0) as events, e.first as "firstPosition", e.last as "lastPosition",
            coalesce(n.entries, 0)::bigint as entries, coalesce(a.accounts, 0) as accounts,
            (select jsonb_build_object('number', s.seal_number, 'treeSize', s.tree_size, 'root', encode(s.root, 'hex'),
               'sealHash', encode(s.seal_hash, 'hex'))
             from payments.seals s where s.book_id = b.book_id order by s.seal_number desc limit 1) as seal,
            coalesce(n.turnover, '[]') as turnover
     from ${books} b
     left join (
       select book_id, count(*) as events, min(position) as first, max(position) as last from ${events} e group by book_id
     ) e using (book_id)
     left join (select book_id, count(*) as accounts from ${accounts} a group by book_id) a using (book_id)
     left join (
       select book_id, sum(entries) as entries, jsonb_agg(jsonb_build_object(
                'currency', currency, 'debitCents', debit::text, 'creditCents', credit::text) order by currency) as turnover
       from (
         select book_id, currency, count(*) as entries, coalesce(sum(amount_cents) filter (where amount_cents > 0), 0) as debit,
                coalesce(-sum(amount_cents) filter (where amount_cents < 0), 0) as credit
         from ${entries} n group by book_id, currency
       ) c
       group by book_id
     ) n using (book_id)
     order by b.book_id`,
  );
  return rows;
}
