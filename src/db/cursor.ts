import type { Tx } from './pool.ts';

/** As many rows as are held at a time, and as many again that are on their way meanwhile. */
const BATCH_ROWS = 200;

/** The transaction that rows are streamed to an output in: of one instant, and run once, for what is written is written. */
export const STREAMED = { mode: 'isolation level repeatable read read only', maxTries: 1 } as const;

/** A row with every column as the text that PostgreSQL prints of it. */
export type TextRow = readonly (string | null)[];

/** Bounds of a batch of `streamTexts`: of rows, and of characters, which rows of a megabyte reach first. */
const [FIRST_TEXTS, MAX_TEXTS, BATCH_CHARACTERS] = [250, 4_000, 4_000_000];
const AS_TEXT = { getTypeParser: () => (text: string) => text };

let cursors = 0;
const turns = new WeakMap<Tx, Promise<unknown>>();

/** Asks when what was asked in this way before has been answered: a connection does one thing at a time. */
export function inTurn<T>(tx: Tx, ask: () => Promise<T>): Promise<T> {
  const answered = (turns.get(tx) ?? Promise.resolve()).then(ask);
  // Whoever waits for his own turn is not concerned with how another's went.
  turns.set(
    tx,
    answered.catch(() => undefined),
  );
  return answered;
}

/**
 * The rows of a query, a batch at a time, in a database transaction of the caller's: however many there are, two batches
 * are in memory. While one is worked on, the next is on its way. Several may be read by turns in one transaction; what else is
 * asked in it meanwhile goes through `inTurn`.
 */
export async function* streamRows<Row extends object>(
  tx: Tx,
  sql: string,
  values: readonly unknown[] = [],
  batchRows = BATCH_ROWS,
): AsyncGenerator<Row[], void> {
  const cursor = await declareCursor(tx, sql, values);
  const fetch = (rows: number) => tx.query<Row>(`fetch ${rows} from ${cursor}`);
  yield* batchesOf(tx, cursor, fetch, () => batchRows);
}

/** As `streamRows`, for millions of rows: columns are neither named nor parsed, and batches grow as far as the rows are short. */
export async function* streamTexts(
  tx: Tx,
  sql: string,
  values: readonly unknown[] = [],
): AsyncGenerator<TextRow[], void> {
  const cursor = await declareCursor(tx, sql, values);
  const fetch = (rows: number) =>
    tx.query<(string | null)[]>({ text: `fetch ${rows} from ${cursor}`, rowMode: 'array', types: AS_TEXT });
  yield* batchesOf(tx, cursor, fetch, (last) => (last === undefined ? FIRST_TEXTS : textsLike(last)));
}

async function declareCursor(tx: Tx, sql: string, values: readonly unknown[]): Promise<string> {
  cursors += 1;
  const cursor = `liventix_cursor_${cursors}`;
  await inTurn(tx, () => tx.query(`declare ${cursor} no scroll cursor for ${sql}`, [...values]));
  return cursor;
}

async function* batchesOf<Row>(
  tx: Tx,
  cursor: string,
  fetch: (rows: number) => Promise<{ rows: Row[] }>,
  sizeAfter: (last: readonly Row[] | undefined) => number,
): AsyncGenerator<Row[], void> {
  const begin = (size: number) => {
    const fetched = inTurn(tx, () => fetch(size));
    // Whoever stops reading never awaits it.
    fetched.catch(() => undefined);
    return { size, fetched };
  };
  let next = begin(sizeAfter(undefined));
  try {
    for (;;) {
      const { size } = next;
      const { rows } = await next.fetched;
      if (rows.length === size) next = begin(sizeAfter(rows));
      if (rows.length > 0) yield rows;
      if (rows.length < size) return;
    }
  } finally {
    // In a transaction that failed there is nothing left to close.
    await inTurn(tx, () => tx.query(`close ${cursor}`)).catch(() => undefined);
  }
}

/** How many rows of the length of these make a batch; at most twice as many, for longer ones may follow. */
function textsLike(rows: readonly TextRow[]): number {
  let characters = 1;
  for (const row of rows) for (const text of row) characters += text === null ? 0 : text.length;
  const fitting = Math.floor((BATCH_CHARACTERS * rows.length) / characters);
  return Math.max(1, Math.min(fitting, rows.length * 2, MAX_TEXTS));
}
