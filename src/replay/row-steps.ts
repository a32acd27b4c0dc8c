import type { Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { isStopped, mayGoOn, type Run, report, SORT_MEMORY, type Totals } from './backfill-run.ts';
import { chunkEndSql, importChunkSql } from './mapping.ts';
import type { Source } from './sources.ts';

/** Chunks under way at once: while one is written, the next one is read and mapped. */
const MAX_UNDER_WAY = 2;
/** How often in a row chunks may find the checkpoint elsewhere before the run gives up. */
const MAX_REFUSALS = 20;

/** A place in the chronological order of a source's rows. */
interface Key {
  readonly created_at: string;
  readonly id: string;
}

type Outcome =
  | { readonly status: 'imported'; readonly imported: bigint; readonly rowsSoFar: bigint }
  /** The checkpoint stands elsewhere than where the chunk begins. */
  | { readonly status: 'not_next' };

/** Brings the rows of before the capture into the log in chronological order, one chunk a transaction. */
export async function importInOrder(run: Run, source: Source, total: Totals): Promise<bigint> {
  // On a pool's only connection, a chunk under way would keep the look for the next one waiting.
  const maxUnderWay = Math.min(MAX_UNDER_WAY, run.pool.options.max);
  const underWay: Promise<Outcome>[] = [];
  let imported = 0n;
  let refusals = 0;
  let isRefused = false;
  let begun = 0;
  let next = await readCheckpoint(run.pool, run, source);
  try {
    for (;;) {
      const mayBegin = !isRefused && underWay.length < run.pacing.underWay(maxUnderWay) && (await mayGoOn(run));
      const upTo = mayBegin ? await findChunkEnd(run, source, next) : undefined;
      if (upTo !== undefined) {
        begun += 1;
        const { outcome } = await beginChunk(run, source, { after: next, upTo, number: begun });
        underWay.push(outcome);
        next = upTo;
        continue;
      }
      const outcome = await underWay.shift();
      if (outcome?.status === 'imported') {
        refusals = 0;
        imported += outcome.imported;
        report(run, { step: 'rows', source: source.name, done: outcome.rowsSoFar, total: total.rows });
      } else if (outcome?.status === 'not_next') {
        isRefused = true;
      } else if (!isRefused || isStopped(run)) {
        return imported;
      } else {
        refusals += 1;
        if (refusals > MAX_REFUSALS) throw givenUp(run, source);
        isRefused = false;
        next = await readCheckpoint(run.pool, run, source);
      }
    }
  } finally {
    await Promise.allSettled(underWay);
  }
}

function givenUp(run: Run, source: Source): AppError {
  return new AppError(
    'DB_CONFLICT',
    `The backfill of ${run.tables[source.transactions]} was given up after ${MAX_REFUSALS} tries in a row, what came before is kept: its checkpoint was moved by somebody else; run it again when no other backfill is at work.`,
  );
}

/** The key of the last row whose chunk committed; null before the first. */
async function readCheckpoint(db: Queryable, run: Run, source: Source): Promise<Key | null> {
  const { rows } = await db.query<{ created_at: string | null; id: string | null }>(
    'select last_created_at::text as created_at, last_id as id from replay.progress where book_id = $1 and source = $2',
    [run.bookId, source.name],
  );
  const { created_at, id } = rows[0] ?? {};
  return created_at == null || id == null ? null : { created_at, id };
}

/** The key of the last row of the chunk after a key; undefined where no row is left. */
async function findChunkEnd(run: Run, source: Source, after: Key | null): Promise<Key | undefined> {
  const { rows } = await run.pool.query<Key>(chunkEndSql(source, run.tables), [
    after?.created_at,
    after?.id,
    run.pacing.rows(run.chunkRows),
  ]);
  return rows[0];
}

interface Chunk {
  /** Must be the checkpoint by the time that the chunk before has committed. */
  readonly after: Key | null;
  /** Becomes the checkpoint, whether its row is still there or not. */
  readonly upTo: Key;
  /** Counted from 1 on: each waits for the one before, if that is under way. */
  readonly number: number;
}

/** Answers a chunk's outcome to come, as soon as no later chunk can overtake it. */
async function beginChunk(run: Run, source: Source, chunk: Chunk): Promise<{ outcome: Promise<Outcome> }> {
  return new Promise((begun) => {
    const outcome = withTransaction(run.pool, async (tx) => {
      await tx.query('select replay.begin_chunk($1, $2)', [run.bookId, chunk.number]);
      begun({ outcome });
      return importChunk(run, source, tx, chunk);
    });
    // Its error is heard when it is waited for; unheard until then, it would end the process.
    outcome.catch(() => begun({ outcome }));
  });
}

async function importChunk(run: Run, source: Source, tx: Tx, { after, upTo, number }: Chunk): Promise<Outcome> {
  // It need not wait for the disk: a server that crashes forgets rows and checkpoint together, and the next run brings
  // them again. In UTC, so that an instant in a row's metadata is spelled alike by everybody.
  await tx.query(
    `set local work_mem = '${SORT_MEMORY}'; set local synchronous_commit = off; set local timezone = 'UTC'`,
  );
  const { rows } = await tx.query<{ rows: bigint; delta: string; id_hash: string; imported: bigint | null }>(
    importChunkSql(source, run.tables),
    [run.bookId, source.name, after?.created_at, after?.id, upTo.created_at, upTo.id, number, run.capture.id],
  );
  const [chunk] = rows;
  if (chunk === undefined || chunk.imported === null) return { status: 'not_next' };
  const progress = await tx.query<{ rows: bigint }>(
    `update replay.progress
     set rows = rows + $3, delta_cents = delta_cents + $4, id_hash = id_hash + $5, last_created_at = $6, last_id = $7
     where book_id = $1 and source = $2
     returning rows`,
    [run.bookId, source.name, chunk.rows, chunk.delta, chunk.id_hash, upTo.created_at, upTo.id],
  );
  return { status: 'imported', imported: chunk.imported, rowsSoFar: progress.rows[0]?.rows ?? 0n };
}
