import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { assertBook } from './books.ts';
import { forEachBook } from './each-book.ts';

/** One seal of a book's log; hashes in hex. */
export interface Seal {
  readonly book: number;
  readonly sealNumber: bigint;
  readonly sealedAt: Date;
  /** How many events it added. */
  readonly events: number;
  /** How many events of the book are sealed, up to and with it. */
  readonly treeSize: bigint;
  /** The RFC 6962 tree hash of them all. */
  readonly root: string;
  readonly sealHash: string;
  readonly previousSealHash: string;
}

export interface SealOptions {
  /** Where it is aborted, sealing ends after the batch under way. */
  readonly stop?: AbortSignal;
  /** How many events of the log one batch, which is one seal and one transaction, looks at. */
  readonly batchEvents?: number;
  /** Told after each batch up to which position of how many the log is sealed. */
  readonly onBatch?: (done: bigint, total: bigint) => void;
}

const BATCH_EVENTS = 100_000;
const READ_COMMITTED = { mode: 'isolation level read committed' } as const;

const SEAL_COLUMNS = `
  s.book_id as book, s.seal_number as "sealNumber", s.sealed_at as "sealedAt", s.event_count as events,
  s.tree_size as "treeSize", encode(s.root, 'hex') as root, encode(s.seal_hash, 'hex') as "sealHash",
  encode(s.previous_seal_hash, 'hex') as "previousSealHash"`;

/**
 * Seals what a book's log had that was new when this began, in as many batches as that takes. Any number may do so at
 * once: they take turns, and no writer waits for them.
 * @returns the new seals, oldest first; none when nothing was new
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function sealBook(pool: Pool, bookId: number, options: SealOptions = {}): Promise<Seal[]> {
  const seals: Seal[] = [];
  // Bounded by where the log ends now: under steady writing something is always new.
  const end = await endOfLog(pool);
  for (let looksFrom = 0n; looksFrom <= end && options.stop?.aborted !== true; ) {
    const batch = await sealBatch(pool, bookId, options.batchEvents ?? BATCH_EVENTS);
    if (batch === undefined) break;
    seals.push(batch.seal);
    looksFrom = batch.looksFrom;
    options.onBatch?.(looksFrom - 1n, end);
  }
  return seals;
}

/**
 * Seals what is new in every book; see `sealBook`.
 * @param options.minAgeMs leaves a book alone whose newest seal is younger than that
 * @throws AppError the failure of a book, after the others have been sealed
 */
export async function sealBooks(pool: Pool, options: SealOptions & { minAgeMs?: number } = {}): Promise<Seal[]> {
  const { rows } = await pool.query<{ book: number }>(
    `select b.book_id as book
     from payments.books b
     left join lateral (
       select s.sealed_at from payments.seals s where s.book_id = b.book_id order by s.seal_number desc limit 1
     ) newest on true
     where newest.sealed_at is null or newest.sealed_at <= clock_timestamp() - make_interval(secs => $1::double precision / 1000)
     order by b.book_id`,
    [options.minAgeMs ?? 0],
  );
  const seals: Seal[] = [];
  await forEachBook(
    rows.map(({ book }) => book),
    async (book) => {
      seals.push(...(await sealBook(pool, book, options)));
    },
    options.stop,
  );
  return seals;
}

async function endOfLog(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ position: bigint }>(
    'select e.position from payments.events e order by e.position desc limit 1',
  );
  return rows[0]?.position ?? 0n;
}

/** One batch, and the position from which on no seal has looked. */
async function sealBatch(
  pool: Pool,
  bookId: number,
  events: number,
): Promise<{ seal: Seal; looksFrom: bigint } | undefined> {
  const sql = `
    select ${SEAL_COLUMNS}, (select max(lower(r)) from unnest(s.open_positions) as r) as "looksFrom"
    from payments.seal_events($1, $2) s`;
  const { rows } = await withTransaction(
    pool,
    (tx) => tx.query<Seal & { looksFrom: bigint }>(sql, [bookId, events]),
    READ_COMMITTED,
  );
  if (rows[0] === undefined) return undefined;
  const { looksFrom, ...seal } = rows[0];
  return { seal, looksFrom };
}

/**
 * The newest seals of a book, the newest first.
 * @param options.before only those with a lower number
 * @throws AppError LEDGER_BOOK_UNKNOWN
 */
export async function listSeals(
  db: Queryable,
  options: { bookId: number; limit: number; before?: number | undefined },
): Promise<Seal[]> {
  await assertBook(db, options.bookId);
  const { rows } = await db.query<Seal>(
    `select ${SEAL_COLUMNS} from payments.seals s
     where s.book_id = $1 and ($3::bigint is null or s.seal_number < $3)
     order by s.seal_number desc limit $2`,
    [options.bookId, options.limit, options.before ?? null],
  );
  return rows;
}
