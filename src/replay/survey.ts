import { withTransaction } from '../db/transaction.ts';
import { type Run, report, SORT_MEMORY } from './backfill-run.ts';
import type { Source } from './sources.ts';
import { openWalletAccounts } from './wallet-steps.ts';

/** How much a source holds. */
export interface Totals {
  readonly rows: bigint;
  readonly wallets: bigint;
}

/** What must be known and open before the rows of a source can be booked. */
export async function prepare(run: Run, source: Source, total: Totals): Promise<void> {
  report(run, { step: 'survey', source: source.name, done: 0n, total: total.rows });
  await survey(run, source);
  await openWalletAccounts(run, source, total.wallets);
}

/** Finds what the flows do not explain, in one pass over the whole table: a row is judged by those before it. */
async function survey(run: Run, source: Source): Promise<void> {
  await withTransaction(run.pool, async (tx) => {
    await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
    await tx.query('delete from replay.findings where book_id = $1 and source = $2', [run.bookId, source.name]);
    await tx.query(
      // In one statement, so that the snapshot kept is the one that the rows were judged in.
      `with found as (
         insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
         select $1, $2, s.legacy_id, s.cause, s.explained_cents from (${source.surveySql(run.tables)}) s
       )
       update replay.progress set survey = pg_current_snapshot() where book_id = $1 and source = $2`,
      [run.bookId, source.name],
    );
  });
}
