import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Machine } from './machine.ts';
import { takeInSql } from './sql/install-sql.ts';
import type { MachineTable } from './table.ts';

export interface InstallWatch {
  readonly stop?: AbortSignal | undefined;
  /** Told how often the table was not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
  /** Told how many rows have been taken in, of how many. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Rows of one old label, and the state that they have now. */
export interface Mapped {
  /** null: the column was null. */
  readonly label: string | null;
  readonly state: string;
  readonly rows: number;
}

const ROWS_A_BATCH = 500;

/** Takes in whatever has no state yet, in the order of ids. Answers what was mapped, label by label. */
export async function takeRowsIn(
  pool: Pool,
  machine: Machine,
  table: MachineTable,
  watch: InstallWatch,
  assertAlone: () => void,
): Promise<readonly Mapped[]> {
  const total = await countLeft(pool, { ...table, hasState: true });
  const counts = new Map<string, Mapped>();
  let done = 0;
  for (let after = FIRST_ID; ; ) {
    assertAlone();
    if (watch.stop?.aborted) throw stopped(table, done, total);
    const batch = await takingIn(pool, table, watch, (tx) => takeBatchIn(tx, machine, table, after));
    if (batch.last === null) return [...counts.values()].sort(byLabel);
    for (const { label, state, rows } of batch.mapped) {
      const key = JSON.stringify([label, state]);
      counts.set(key, { label, state, rows: rows + (counts.get(key)?.rows ?? 0) });
      done += rows;
    }
    after = batch.last;
    watch.onProgress?.(done, total);
  }
}

const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** A transaction that gives way to whoever uses the table after 50 ms, and is tried again. @throws AppError STATE_TABLE_BUSY */
export const takingIn = <T>(
  pool: Pool,
  { name }: MachineTable,
  watch: InstallWatch,
  work: (tx: Tx) => Promise<T>,
): Promise<T> =>
  givingWay(pool, { ...watch, code: 'STATE_TABLE_BUSY', what: name, left: 'What was taken in is kept.' }, work);

const stopped = ({ name }: MachineTable, done: number, total: number): AppError =>
  new AppError('STOPPED', `Stopped: ${done} of ${total} rows of ${name} were taken in. Run it again to go on.`);

/** `last` is null where there is none left from an id on. Whoever inserts meanwhile gives his rows a state himself. */
async function takeBatchIn(
  tx: Tx,
  machine: Machine,
  table: MachineTable,
  after: string,
): Promise<{ mapped: readonly Mapped[]; last: string | null }> {
  await tx.query(`select set_config('liventix.taking_in', $1, true)`, [machine.name]);
  const { rows } = await tx.query<{ label: string | null; state: string | null; rows: bigint; last: string | null }>(
    takeInSql(machine, table.name, ROWS_A_BATCH),
    [after],
  );
  const mapped = rows.flatMap(({ label: was, state, rows: count }) =>
    state === null ? [] : [{ label: was, state, rows: Number(count) }],
  );
  return { mapped, last: rows[0]?.last ?? null };
}

/** Rows that have no state yet. */
export async function countLeft(db: Queryable, { name, hasState }: MachineTable): Promise<number> {
  const { rows } = await db.query<{ left: bigint }>(
    `select count(*) as left from ${name}${hasState ? ' where state is null' : ''}`,
  );
  return Number(rows[0]?.left ?? 0n);
}

/** The order in which labels are shown. */
export const byLabel = (one: Mapped, other: Mapped) =>
  `${one.label} ${one.state}` < `${other.label} ${other.state}` ? -1 : 1;
