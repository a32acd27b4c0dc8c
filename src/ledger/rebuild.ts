import type { Pool, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { assertBook } from './books.ts';

/** What the log is projected to. */
const PROJECTIONS = [
  'accounts',
  'entries',
  'balances',
  'account_changes',
  'holds',
  'hold_entries',
  'reversals',
  'periods',
  'account_slots',
] as const;
/** What projects it, in the order in which it does. */
const PROJECTORS = [
  'project_events',
  'project_account_changes',
  'project_hold_steps',
  'project_reversals',
  'project_periods',
  'project_account_slots',
] as const;
/** What those call. */
const HELPERS = ['last_hold_step'] as const;

const SCHEMA = 'payments_rebuilt';
/** Positions of the log that are projected by one call. */
const STEP = 10_000;

export interface RebuiltTable {
  readonly table: string;
  readonly rows: bigint;
  readonly rebuiltRows: bigint;
  /** The same rows: by number, and by the sum of their hashes. */
  readonly isEqual: boolean;
}

/**
 * Rebuilds the projections from the log, in an empty schema beside the live ones, by the live ones' own functions, and compares
 * both. Reads one snapshot, and leaves nothing behind. Needs the right to create a schema.
 * @param options.bookId only this book; all of them when left out
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export function compareWithRebuild(
  pool: Pool,
  options: { readonly bookId?: number; readonly onStep?: (position: bigint, last: bigint) => void } = {},
): Promise<RebuiltTable[]> {
  return withTransaction(
    pool,
    async (tx) => {
      const { bookId, onStep } = options;
      if (bookId !== undefined) await assertBook(tx, bookId);
      await createEmptyCopy(tx);
      await projectLog(tx, bookId, onStep);
      const tables = [];
      for (const table of PROJECTIONS) tables.push(await compareTable(tx, table, bookId));
      await tx.query(`drop schema ${SCHEMA} cascade`);
      return tables;
    },
    { mode: 'isolation level repeatable read' },
  );
}

// Without triggers, which compare with what is there at the end, and without foreign keys.
async function createEmptyCopy(tx: Tx): Promise<void> {
  await tx.query(`create schema ${SCHEMA}`);
  for (const table of PROJECTIONS) {
    await tx.query(`create table ${SCHEMA}.${table} (like payments.${table} including all)`);
  }
  // Every name in a definition is written with its schema then.
  await tx.query('set local search_path = pg_catalog');
  const { rows } = await tx.query<{ definition: string }>(
    `select pg_get_functiondef(p.oid) as definition
     from pg_proc p join unnest($1::text[]) with ordinality as n (name, nth) on n.name = p.proname
     where p.pronamespace = 'payments'::regnamespace order by n.nth`,
    [[...HELPERS, ...PROJECTORS]],
  );
  const moved = new RegExp(`\\bpayments\\.(${[...PROJECTIONS, ...PROJECTORS, ...HELPERS].join('|')})\\b`, 'g');
  for (const { definition } of rows) await tx.query(definition.replace(moved, `${SCHEMA}.$1`));
}

async function projectLog(
  tx: Tx,
  bookId: number | undefined,
  onStep?: (position: bigint, last: bigint) => void,
): Promise<void> {
  const { rows: books } = await tx.query<{ book_id: number; first: bigint | null; last: bigint | null }>(
    `select b.book_id, (select min(e.position) from payments.events e where e.book_id = b.book_id) as first,
            (select max(e.position) from payments.events e where e.book_id = b.book_id) as last
     from payments.books b where $1::integer is null or b.book_id = $1 order by b.book_id`,
    [bookId ?? null],
  );
  for (const { book_id, first, last } of books) {
    if (first === null || last === null) continue;
    for (let from = first; from <= last; from += BigInt(STEP)) {
      const to = from + BigInt(STEP) - 1n;
      for (const projector of PROJECTORS) {
        await tx.query(`select ${SCHEMA}.${projector}($1, $2, $3, null)`, [book_id, from, to]);
      }
      onStep?.(to < last ? to : last, last);
    }
  }
}

async function compareTable(tx: Tx, table: string, bookId: number | undefined): Promise<RebuiltTable> {
  const { rows } = await tx.query<{ rows: bigint; rebuilt: bigint; equal: boolean }>(
    `select live.n as rows, rebuilt.n as rebuilt, live.n = rebuilt.n and live.hash is not distinct from rebuilt.hash as equal
     from (select count(*) as n, sum(hashtextextended(t::text, 0)::numeric) as hash
           from payments.${table} t where $1::integer is null or t.book_id = $1) live,
          (select count(*) as n, sum(hashtextextended(t::text, 0)::numeric) as hash from ${SCHEMA}.${table} t) rebuilt`,
    [bookId ?? null],
  );
  const found = rows[0] ?? { rows: -1n, rebuilt: -1n, equal: false };
  return { table, rows: found.rows, rebuiltRows: found.rebuilt, isEqual: found.equal };
}
