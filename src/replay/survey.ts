import { withTransaction } from '../db/transaction.ts';
import { type Run, report, SORT_MEMORY, type Totals } from './backfill-run.ts';
import { findUnnoticedChanges } from './resync.ts';
import { beforeHorizon, isBeforeHorizon, type Source } from './sources.ts';

/**
 * Finds what the flows do not explain, in one pass over the rows of before the capture: a row is judged by those before it. Once per
 * capture: what is written later is judged when it is drained.
 */
export async function survey(run: Run, source: Source, total: Totals): Promise<void> {
  await withTransaction(run.pool, async (tx) => {
    const ids = [run.bookId, source.name];
    const { rows } = await tx.query<{ isDone: boolean; isFirst: boolean }>(
      `select capture_id is not distinct from $3 and surveyed_at is not null as "isDone", rows = 0 and surveyed_at is null as "isFirst"
       from replay.progress where book_id = $1 and source = $2 for update`,
      [...ids, run.capture.id],
    );
    const { isDone = false, isFirst = false } = rows[0] ?? {};
    if (isDone) return;
    report(run, { step: 'survey', source: source.name, done: 0n, total: total.rows });
    await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
    await tx.query('delete from replay.findings where book_id = $1 and source = $2', ids);
    // What was counted apart under an earlier capture is read again.
    await tx.query('delete from replay.row_counts where book_id = $1 and source = $2', ids);
    await tx.query(
      `insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
       select $1, $2, s.legacy_id, s.cause, s.explained_cents from (${source.surveySql(run.tables, beforeHorizon(isFirst))}) s`,
      ids,
    );
    if (!isFirst) await findUnnoticedChanges(tx, run, source);
    // A row without a time has no place among the chunks: it is brought in as if it were written now.
    await tx.query(
      `insert into replay.captured_rows (source, operation, wallet_id, new)
       select $1, 'insert', t.wallet_id, ${source.image} from ${run.tables[source.transactions]} t
       where t.created_at is null and ${isBeforeHorizon('t.xmin')} and not ($2 and replay.is_in_log($3, $1, t.id))`,
      [source.name, !isFirst, run.bookId],
    );
    await tx.query(
      `update replay.progress
       set capture_id = $3, is_repeat = is_repeat or rows > 0 or surveyed_at is not null, surveyed_at = clock_timestamp(), read_at = null, finished_at = null,
           last_created_at = null, last_id = null, rows = 0, delta_cents = 0, id_hash = 0
       where book_id = $1 and source = $2`,
      [...ids, run.capture.id],
    );
  });
}
