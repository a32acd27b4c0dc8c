import type { Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { isStopped, type Run, report, SORT_MEMORY } from './backfill-run.ts';
import { importChunkSql } from './mapping.ts';
import type { Source } from './sources.ts';
import { prepare, type Totals } from './survey.ts';

/** How often rows may come in behind a survey's back before the run gives up. */
const MAX_SURVEYS = 20;

/** Brings rows into the log, one chunk a transaction: in order, or those that are missing behind the checkpoint. */
export async function importChunks(
  run: Run,
  source: Source,
  total: Totals,
  which: 'in_order' | 'not_in_log',
): Promise<bigint> {
  const sql = importChunkSql(source, run.tables, which);
  let imported = 0n;
  let surveys = 1;
  while (!isStopped(run)) {
    const chunk = await withTransaction(run.pool, (tx) => importChunk(run, source, tx, sql));
    if (chunk === 'ahead_of_survey') {
      if (surveys >= MAX_SURVEYS) {
        throw new AppError(
          'DB_CONFLICT',
          `Rows were written to ${run.tables[source.transactions]} faster than they could be surveyed, ${surveys} times. Run it again while the old platform is quiet.`,
        );
      }
      surveys += 1;
      await prepare(run, source, total);
      continue;
    }
    if (chunk.rows === 0n) break;
    imported += chunk.imported;
    report(run, { step: 'rows', source: source.name, done: chunk.rowsSoFar, total: total.rows });
  }
  return imported;
}

/** Whether every row of a source is in the log, by count, sum and hash of the ids. */
export async function isComplete(run: Run, source: Source): Promise<boolean> {
  const { rows } = await run.pool.query<{ complete: boolean }>(
    `select (p.rows, p.delta_cents, p.id_hash) = (t.rows, t.delta_cents, t.id_hash) as complete
     from replay.progress p
     cross join (
       select count(*) as rows, coalesce(sum(credits_delta), 0)::bigint as delta_cents,
              coalesce(sum(uuid_hash_extended(id, 0)), 0) as id_hash
       from ${run.tables[source.transactions]}
     ) t
     where p.book_id = $1 and p.source = $2`,
    [run.bookId, source.name],
  );
  return rows[0]?.complete === true;
}

interface ImportedChunk {
  readonly rows: bigint;
  readonly imported: bigint;
  readonly rowsSoFar: bigint;
}

async function importChunk(run: Run, source: Source, tx: Tx, sql: string): Promise<ImportedChunk | 'ahead_of_survey'> {
  // It need not wait for the disk: a server that crashes forgets rows and checkpoint together, and the next run brings
  // them again.
  await tx.query(`set local work_mem = '${SORT_MEMORY}'; set local synchronous_commit = off`);
  const { rows: checkpoints } = await tx.query<{ created_at: string | null; id: string | null }>(
    `select last_created_at::text as created_at, last_id as id
     from replay.progress where book_id = $1 and source = $2 for update`,
    [run.bookId, source.name],
  );
  const { rows } = await tx.query<{
    rows: bigint;
    delta: string;
    id_hash: string;
    imported: bigint | null;
    created_at: string;
    id: string;
  }>(sql, [run.bookId, source.name, checkpoints[0]?.created_at, checkpoints[0]?.id, run.chunkRows]);
  const chunk = rows[0];
  if (chunk === undefined || chunk.rows === 0n) return { rows: 0n, imported: 0n, rowsSoFar: 0n };
  if (chunk.imported === null) return 'ahead_of_survey';
  const { rows: updated } = await tx.query<{ rows: bigint }>(
    `update replay.progress
     set rows = rows + $3, delta_cents = delta_cents + $4, id_hash = id_hash + $7,
         (last_created_at, last_id) = (
           select * from (values (last_created_at, last_id), ($5::timestamptz, $6::uuid)) as key (created_at, id)
           where created_at is not null order by created_at desc, id desc limit 1)
     where book_id = $1 and source = $2
     returning rows`,
    [run.bookId, source.name, chunk.imported, chunk.delta, chunk.created_at, chunk.id, chunk.id_hash],
  );
  return { rows: chunk.rows, imported: chunk.imported, rowsSoFar: updated[0]?.rows ?? 0n };
}
