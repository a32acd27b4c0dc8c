import type { Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { mayGoOn, type Run, report, SORT_MEMORY, type Totals } from './backfill-run.ts';
import { findUnnoticedChanges } from './resync.ts';
import { beforeHorizon, isBeforeHorizon, type Source } from './sources.ts';

/** Chunks of rows a step, at most: of whole wallets, so that one that has more is a step of its own. */
const CHUNKS_A_STEP = 10;

/**
 * Finds what the flows do not explain among the rows of before the capture: a row is judged by those of its wallet before it. Once per
 * capture: what is written later is judged when it is drained. One that was stopped begins anew with the next run.
 * @returns whether it came to its end
 */
export async function survey(run: Run, source: Source, total: Totals): Promise<boolean> {
  const { isDone, isFirst } = await stateOf(run.pool, run, source);
  if (isDone) return true;
  await run.pool.query('delete from replay.findings where book_id = $1 and source = $2', [run.bookId, source.name]);
  if (!(await surveyWallets(run, source, { total, isFirst }))) return false;
  await withTransaction(run.pool, (tx) => beginReading(tx, run, source));
  return true;
}

interface State {
  /** Whether it was surveyed under this capture. */
  readonly isDone: boolean;
  /** Whether it never was under any. */
  readonly isFirst: boolean;
}

async function stateOf(db: Queryable, { bookId, capture }: Run, source: Source, lock = ''): Promise<State> {
  const { rows } = await db.query<State>(
    `select capture_id is not distinct from $3 and surveyed_at is not null as "isDone", rows = 0 and surveyed_at is null as "isFirst"
     from replay.progress where book_id = $1 and source = $2 ${lock}`,
    [bookId, source.name, capture.id],
  );
  return rows[0] ?? { isDone: false, isFirst: false };
}

/** Wallet by wallet, so that others are left alone in between. False where it was stopped. */
async function surveyWallets(
  run: Run,
  source: Source,
  { total, isFirst }: { total: Totals; isFirst: boolean },
): Promise<boolean> {
  const judge = (tx: Tx, range: string, ...ids: (string | null)[]) =>
    tx.query(
      `insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
       select $1, $2, s.legacy_id, s.cause, s.explained_cents from (${source.surveySql(run.tables, beforeHorizon(isFirst, range))}) s
       -- Drained meanwhile by somebody else, it was judged then.
       on conflict do nothing`,
      [run.bookId, source.name, ...ids],
    );
  let [after, done]: [string | null, bigint] = [null, 0n];
  while (await mayGoOn(run)) {
    report(run, { step: 'survey', source: source.name, done, total: total.rows });
    const rows = run.pacing.rows(run.chunkRows * CHUNKS_A_STEP);
    const upTo: string | null = await findStepEnd(run, source, { after, rows });
    await withTransaction(run.pool, async (tx) => {
      await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
      const isAfter = '($3::uuid is null or t.wallet_id > $3)';
      if (upTo !== null) await judge(tx, `${isAfter} and t.wallet_id <= $4`, after, upTo);
      else await judge(tx, `(${isAfter} or t.wallet_id is null)`, after);
    });
    if (upTo === null) return true;
    after = upTo;
    done += BigInt(rows);
  }
  return false;
}

/** The wallet of the last row of a step; null where the rest fits into one. */
async function findStepEnd(
  { pool, tables }: Run,
  source: Source,
  { after, rows }: { after: string | null; rows: number },
): Promise<string | null> {
  const found = await pool.query<{ id: string }>(
    `select t.wallet_id as id from ${tables[source.transactions]} t
     where t.wallet_id is not null and ($1::uuid is null or t.wallet_id > $1) order by t.wallet_id offset $2 limit 1`,
    [after, rows - 1],
  );
  return found.rows[0]?.id ?? null;
}

/** Lets the rows be read from the first one on, under the capture that is on. */
async function beginReading(tx: Tx, run: Run, source: Source): Promise<void> {
  // Whoever lost its lock on the way does not begin once more what its successor reads.
  const { isDone, isFirst } = await stateOf(tx, run, source, 'for update');
  if (isDone) return;
  await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
  // What was counted apart under an earlier capture is read again.
  await tx.query('delete from replay.row_counts where book_id = $1 and source = $2', [run.bookId, source.name]);
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
    [run.bookId, source.name, run.capture.id],
  );
}
