import type { Tx } from './pool.ts';

/** As many rows as are held at a time, and as many again that are on their way meanwhile. */
const BATCH_ROWS = 200;

/** The transaction that rows are streamed to an output in: of one instant, and run once, for what is written is written. */
export const STREAMED = { mode: 'isolation level repeatable read read only', maxTries: 1 } as const;

let cursors = 0;

/**
 * The rows of a query, a batch at a time, in a database transaction of the caller's: however many there are, two batches
 * are in memory. While one is worked on, the next is on its way.
 */
export async function* streamRows<Row extends object>(
  tx: Tx,
  sql: string,
  values: readonly unknown[] = [],
): AsyncGenerator<Row[], void> {
  cursors += 1;
  const cursor = `liventix_cursor_${cursors}`;
  await tx.query(`declare ${cursor} no scroll cursor for ${sql}`, [...values]);
  const fetch = () => {
    const fetched = tx.query<Row>(`fetch ${BATCH_ROWS} from ${cursor}`);
    // Whoever stops reading never awaits it.
    fetched.catch(() => undefined);
    return fetched;
  };
  let next = fetch();
  try {
    for (;;) {
      const { rows } = await next;
      if (rows.length === BATCH_ROWS) next = fetch();
      if (rows.length > 0) yield rows;
      if (rows.length < BATCH_ROWS) return;
    }
  } finally {
    // In a transaction that failed there is nothing left to close.
    await tx.query(`close ${cursor}`).catch(() => undefined);
  }
}
