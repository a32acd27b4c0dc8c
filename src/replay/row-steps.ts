import type { Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { isStopped, type Run, report, SORT_MEMORY } from './backfill-run.ts';
import { chunkEndSql, importChunkSql } from './mapping.ts';
import type { Source } from './sources.ts';
import { prepare, type Totals } from './survey.ts';

/** Chunks under way at once: while one is written, the next one is read and mapped. */
const MAX_UNDER_WAY = 2;
/** How often in a row a chunk may be refused before the run gives up. */
const MAX_REFUSALS = 20;

/** Why nothing of a chunk was imported, and how to come through. */
const REFUSALS = {
  ahead_of_survey: 'rows were written faster than they could be surveyed; run it again while the old platform is quiet',
  not_next: 'its checkpoint was moved by somebody else; run it again when no other backfill is at work',
} as const;

/** A place in the chronological order of a source's rows. */
interface Key {
  readonly created_at: string;
  readonly id: string;
}

type Outcome =
  | { readonly status: 'imported'; readonly imported: bigint; readonly rowsSoFar: bigint }
  /** Its rows are gone. */
  | { readonly status: 'empty' }
  /** A row must be surveyed first; or the checkpoint stands elsewhere than where the chunk begins, or was surveyed anew. */
  | { readonly status: keyof typeof REFUSALS };

/** Brings rows into the log in chronological order, one chunk a transaction. */
export async function importInOrder(run: Run, source: Source, total: Totals): Promise<bigint> {
  const sql = importChunkSql(source, run.tables, 'in_order');
  const tally = startTally(run, source, total);
  // On a pool's only connection, a chunk under way would keep the look for the next one waiting.
  const maxUnderWay = Math.min(MAX_UNDER_WAY, run.pool.options.max);
  const underWay: Promise<Outcome>[] = [];
  let begun = 0;
  let next = await readCheckpoint(run.pool, run, source);
  try {
    for (;;) {
      const mayBegin = tally.refusal === undefined && underWay.length < maxUnderWay && !isStopped(run);
      const end = mayBegin ? await findChunkEnd(run, source, next) : undefined;
      if (end !== undefined) {
        begun += 1;
        const { outcome } = await beginChunk(run, source, { sql, after: next, number: begun });
        underWay.push(outcome);
        next = end;
        continue;
      }
      const outcome = await underWay.shift();
      if (outcome !== undefined) {
        tally.add(outcome);
      } else if (tally.refusal === undefined || isStopped(run)) {
        return tally.imported;
      } else {
        await tally.recover();
        next = await readCheckpoint(run.pool, run, source);
      }
    }
  } finally {
    await Promise.allSettled(underWay);
  }
}

/** Brings those rows into the log that are missing behind the checkpoint, one chunk a transaction. */
export async function importMissing(run: Run, source: Source, total: Totals): Promise<bigint> {
  const sql = importChunkSql(source, run.tables, 'not_in_log');
  const tally = startTally(run, source, total);
  while (!isStopped(run)) {
    const outcome = await withTransaction(run.pool, async (tx) => {
      // Held before it is looked what is missing: another run may have brought it since.
      const checkpoint = await readCheckpoint(tx, run, source, 'for update');
      return importChunk(run, source, tx, { sql, after: checkpoint, number: 1 });
    });
    if (outcome.status === 'empty') break;
    tally.add(outcome);
    await tally.recover();
  }
  return tally.imported;
}

/** What a step imported so far, and whether a chunk was refused since. */
interface Tally {
  readonly imported: bigint;
  readonly refusal: keyof typeof REFUSALS | undefined;
  add(outcome: Outcome): void;
  /** Mends what the last refusal was for. @throws AppError DB_CONFLICT when it was one too many */
  recover(): Promise<void>;
}

function startTally(run: Run, source: Source, total: Totals): Tally {
  const tally = { imported: 0n, refusal: undefined as Tally['refusal'] };
  let refusals = 0;
  return Object.assign(tally, {
    add: (outcome: Outcome) => {
      if (outcome.status === 'imported') {
        refusals = 0;
        tally.imported += outcome.imported;
        report(run, { step: 'rows', source: source.name, done: outcome.rowsSoFar, total: total.rows });
      } else if (outcome.status !== 'empty') {
        // The first says why; those behind it only find the checkpoint elsewhere.
        tally.refusal ??= outcome.status;
      }
    },
    recover: async () => {
      if (tally.refusal === undefined) return;
      refusals += 1;
      if (refusals > MAX_REFUSALS) {
        throw new AppError(
          'DB_CONFLICT',
          `The backfill of ${run.tables[source.transactions]} was given up after ${MAX_REFUSALS} tries in a row, what came before is kept: ${REFUSALS[tally.refusal]}.`,
        );
      }
      if (tally.refusal === 'ahead_of_survey') await prepare(run, source, total);
      tally.refusal = undefined;
    },
  });
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

/** The key of the last row whose chunk committed; null before the first. */
async function readCheckpoint(
  db: Queryable,
  run: Run,
  source: Source,
  lock: 'for update' | '' = '',
): Promise<Key | null> {
  const { rows } = await db.query<{ created_at: string | null; id: string | null }>(
    `select last_created_at::text as created_at, last_id as id
     from replay.progress where book_id = $1 and source = $2 ${lock}`,
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
    run.chunkRows,
  ]);
  return rows[0];
}

interface Chunk {
  readonly sql: string;
  /** Must be the checkpoint by the time that the chunk before has committed. */
  readonly after: Key | null;
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

async function importChunk(run: Run, source: Source, tx: Tx, { sql, after, number }: Chunk): Promise<Outcome> {
  // It need not wait for the disk: a server that crashes forgets rows and checkpoint together, and the next run brings
  // them again.
  await tx.query(`set local work_mem = '${SORT_MEMORY}'; set local synchronous_commit = off`);
  const { rows } = await tx.query<
    Key & { delta: string; id_hash: string; imported: bigint | null; is_ahead_of_survey: boolean }
  >(sql, [run.bookId, source.name, after?.created_at, after?.id, run.chunkRows, number]);
  const chunk = rows[0];
  if (chunk === undefined) return { status: 'empty' };
  if (chunk.is_ahead_of_survey) return { status: 'ahead_of_survey' };
  const { imported } = chunk;
  if (imported === null) return { status: 'not_next' };
  return { status: 'imported', imported, rowsSoFar: await moveCheckpoint(tx, run, source, { ...chunk, imported }) };
}

async function moveCheckpoint(
  tx: Tx,
  run: Run,
  source: Source,
  chunk: Key & { imported: bigint; delta: string; id_hash: string },
): Promise<bigint> {
  const { rows } = await tx.query<{ rows: bigint }>(
    `update replay.progress
     set rows = rows + $3, delta_cents = delta_cents + $4, id_hash = id_hash + $7,
         (last_created_at, last_id) = (
           select * from (values (last_created_at, last_id), ($5::timestamptz, $6::uuid)) as key (created_at, id)
           where created_at is not null order by created_at desc, id desc limit 1)
     where book_id = $1 and source = $2
     returning rows`,
    [run.bookId, source.name, chunk.imported, chunk.delta, chunk.created_at, chunk.id, chunk.id_hash],
  );
  return rows[0]?.rows ?? 0n;
}
