import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { withRest } from '../../db/rest.ts';
import { isOverlap, toAppError } from '../../db/sqlstate.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { ident, literal } from './names.ts';
import { assertNotStopped } from './stopped.ts';
import { CAPTURES, REFUSES_TRUNCATE } from './take-place.ts';

const FIRST_BLOCKS = 64;
const MOST_BLOCKS = 4_096;
/** A statement that copies lasts about this long, so that it holds nobody's horizon back. */
const AIM_MS = 100;
const DRAINED_AT_ONCE = 2_000;
/** So few changes are left for when the table is locked. */
const FEW = 200;

export interface Copying {
  readonly pool: Pool;
  readonly tableId: number;
  /** As an error says it. */
  readonly table: string;
  readonly locking: UnderLockOptions;
  /** For how many times as long as a step took, of copying or an index, everybody is left alone after it. */
  readonly restFactor: number;
  readonly onStep: (what: string, done: number, total: number) => void;
}

/** Where rows are, and where their copies are to be; quoted. `sources` are relations without partitions. */
export interface FromTo {
  readonly way: 'apply' | 'rollback';
  /** Whose trigger captures: a table, or a partitioned one with all its partitions. */
  readonly captured: string;
  readonly sources: readonly string[];
  readonly target: string;
}

/**
 * Goes on with a copy that is under way, or begins one: from then on every change is captured, as the trigger waits for whoever had written before.
 * @param make runs in the transaction that begins, while no upkeep changes the months; it makes the target
 */
export async function beginCopy(copying: Copying, fromTo: FromTo, make: (tx: Tx) => Promise<void>): Promise<void> {
  if (!(await isUnderWay(copying, fromTo.way))) await capture(copying, fromTo, make);
}

/**
 * Whether a copy is under way that can be gone on with. One of a table, or of a partition, that was changed, replaced or written anew since is given up: what it
 * is copied to has not what the table got, and its blocks are not those that were copied.
 */
export async function isUnderWay(
  copying: Pick<Copying, 'pool' | 'tableId' | 'locking'>,
  way: FromTo['way'],
): Promise<boolean> {
  const isUsable = await hasSameShape(copying.pool, copying.tableId);
  if (isUsable === false) await giveUpCopy(copying, way);
  return isUsable === true;
}

async function capture(
  { pool, tableId, locking }: Copying,
  { way, captured, sources, target }: FromTo,
  make: (tx: Tx) => Promise<void>,
): Promise<void> {
  await underLock(pool, locking, async (tx) => {
    const { rows } = await tx.query<{ columns: string[] }>(
      'select pair_columns::text[] as columns from partitions.tables where id = $1',
      [tableId],
    );
    const columns = rows[0]?.columns ?? [];
    await keepUpkeepAway(tx, tableId);
    await make(tx);
    return {
      names: [],
      locksLater: 1,
      work: () =>
        tx.query(`
          create trigger ${ident(CAPTURES)} after insert or update or delete on ${captured} for each row
            execute function partitions.capture_change(${[String(tableId), ...columns].map(literal).join(', ')});
          alter table ${captured} enable always trigger ${ident(CAPTURES)};
          create trigger ${ident(REFUSES_TRUNCATE)} before truncate on ${captured} for each statement execute function partitions.refuse_truncate();
          alter table ${captured} enable always trigger ${ident(REFUSES_TRUNCATE)};
          ${sources
            .map(
              (source) => `insert into partitions.copies (table_id, way, captured, source, target, blocks, shape)
                select ${tableId}, '${way}', ${literal(captured)}, ${literal(source)}, ${literal(target)}, pg_relation_size(${literal(source)}::regclass) / current_setting('block_size')::int,
                  partitions.shape_of(${tableId}, ${literal(source)}::regclass)`,
            )
            .join(';\n')}`),
    };
  });
}

/** Copies what is left of each source, by blocks. Run again, it goes on where it was. @throws AppError STOPPED, DB_* */
export async function copyAll(
  { pool, tableId, table, locking, restFactor, onStep }: Copying,
  { sources }: FromTo,
): Promise<void> {
  const total = await readProgress(pool, tableId);
  let done = total.done;
  let blocks = FIRST_BLOCKS;
  for (const source of sources) {
    for (;;) {
      assertNotStopped(locking.stop);
      const size = blocks;
      const step = await withRest({ restFactor, stop: locking.stop }, () => copyStep(pool, tableId, source, size));
      if (step.isOver) break;
      done += size;
      onStep(`copying ${table}, blocks`, Math.min(done, total.blocks), total.blocks);
      blocks = Math.max(1, Math.min(MOST_BLOCKS, Math.round((size * AIM_MS) / Math.max(1, step.tookMs))));
    }
  }
}

async function copyStep(
  pool: Pool,
  tableId: number,
  source: string,
  blocks: number,
): Promise<{ readonly isOver: boolean; readonly tookMs: number }> {
  const began = performance.now();
  const { rows } = await pool.query<{ rows: bigint | null }>('select partitions.copy_blocks($1, $2, $3) as rows', [
    tableId,
    source,
    blocks,
  ]);
  return { isOver: rows[0]?.rows === null, tookMs: performance.now() - began };
}

async function readProgress(pool: Pool, tableId: number): Promise<{ readonly done: number; readonly blocks: number }> {
  const { rows } = await pool.query<{ done: number; blocks: number }>(
    'select coalesce(sum(next_block), 0)::float8 as done, coalesce(sum(blocks), 0)::float8 as blocks from partitions.copies where table_id = $1',
    [tableId],
  );
  return rows[0] ?? { done: 0, blocks: 0 };
}

/** Takes captured changes until few are left. @throws AppError STOPPED, DB_* */
export async function drainMost(
  { pool, tableId, table, locking, onStep }: Copying,
  { captured, target }: FromTo,
): Promise<void> {
  let taken = 0;
  for (;;) {
    assertNotStopped(locking.stop);
    const step = await drain(pool, { tableId, captured, target });
    taken += step;
    onStep(`taking what changed of ${table}`, taken, 0);
    if (step < FEW) return;
  }
}

/**
 * All that is left; whoever calls holds the lock behind which nobody writes, nor changes the table.
 * @throws AppError PARTITIONS_DRIFTED, STOPPED
 */
export async function drainAll(tx: Tx, copying: Copying, { captured, target }: FromTo): Promise<void> {
  const { tableId, locking } = copying;
  // The last moment: another run may be at the same copy, where this one lost what kept others away.
  assertNotStopped(locking.stop);
  await assertSameShape(tx, copying);
  while ((await drain(tx, { tableId, captured, target })) > 0);
}

async function drain(
  db: Pick<Pool, 'query'>,
  { tableId, captured, target }: { readonly tableId: number; readonly captured: string; readonly target: string },
): Promise<number> {
  const { rows } = await db.query<{ taken: number }>('select partitions.drain($1, $2, $3, $4) as taken', [
    tableId,
    captured,
    target,
    DRAINED_AT_ONCE,
  ]);
  return rows[0]?.taken ?? 0;
}

/** What failed because somebody changed the table meanwhile is told as that: what the server says of it names tables of ours. */
export async function whyItFailed(copying: Copying, thrown: unknown): Promise<AppError> {
  const error = toAppError(thrown);
  if (!error.code.startsWith('DB_')) return error;
  const isSame = await hasSameShape(copying.pool, copying.tableId).catch(() => true);
  return isSame === false ? drifted(copying.table, error) : error;
}

const drifted = (table: string, cause?: unknown): AppError =>
  new AppError(
    'PARTITIONS_DRIFTED',
    `${table} was changed while its rows were copied. Nothing was done to it: run it again, it is copied anew.`,
    { cause },
  );

/** @throws AppError PARTITIONS_DRIFTED where somebody has changed the table since the copy was begun: it has not what the table got */
export async function assertSameShape(db: Queryable, { tableId, table }: Copying): Promise<void> {
  if ((await hasSameShape(db, tableId)) !== true) throw drifted(table);
}

/** @returns undefined where no copy is under way */
async function hasSameShape(db: Queryable, tableId: number): Promise<boolean | undefined> {
  const { rows } = await db.query<{ isSame: boolean | null }>(
    `select bool_and(shape is not distinct from partitions.shape_of(table_id, to_regclass(source))) as "isSame"
     from partitions.copies where table_id = $1`,
    [tableId],
  );
  return rows[0]?.isSame ?? undefined;
}

/** Upkeep makes months, and replaces partitions, a step a transaction, of which one may last: it is waited for as others are who hold the table. */
const keepUpkeepAway = (tx: Tx, tableId: number) =>
  tx.query(`select pg_advisory_xact_lock(hashtext('liventix.partitions.upkeep'), $1)`, [tableId]);

/** Gives up a copy that is under way, if one of that way is, whatever became of what it was copied from. @throws AppError PARTITIONS_BUSY, DB_* */
export async function giveUpCopy(
  { pool, tableId, locking }: Pick<Copying, 'pool' | 'tableId' | 'locking'>,
  way: FromTo['way'],
): Promise<void> {
  const { rows } = await pool.query<{ target: string }>(
    'select target from partitions.copies where table_id = $1 and way = $2 limit 1',
    [tableId, way],
  );
  const target = rows[0]?.target;
  if (target === undefined) return;
  await underLock(pool, locking, async (tx) => {
    const { rows: captured } = await tx.query<{ name: string }>(
      `select format('%I.%I', n.nspname, c.relname) as name
       from partitions.captured_relations($1) r (relation) join pg_class c on c.oid = r.relation join pg_namespace n on n.oid = c.relnamespace`,
      [tableId],
    );
    const names = captured.map(({ name }) => name);
    return {
      names,
      locksLater: 0,
      work: () =>
        tx.query(
          [
            ...names.flatMap(dropTriggers),
            `delete from partitions.copies where table_id = ${tableId}`,
            `delete from partitions.captured where table_id = ${tableId}`,
            `drop table if exists ${target}`,
          ].join(';\n'),
        ),
    };
  });
}

/**
 * Gives a copy up that no run could end: it is not what it is a copy of, or its months are there by now. Whatever else failed, it is gone on with.
 * @returns why it could not be given up, if so
 */
export async function giveUpInVain(
  copying: Pick<Copying, 'pool' | 'tableId' | 'locking'>,
  way: FromTo['way'],
  { code, cause }: AppError,
): Promise<readonly string[]> {
  if (code !== 'PARTITIONS_DIFFERENT' && !isOverlap(cause)) return [];
  return giveUpCopy(copying, way).then(
    () => [],
    (failure: unknown) => [toAppError(failure).message],
  );
}

const dropTriggers = (captured: string): readonly string[] =>
  [CAPTURES, REFUSES_TRUNCATE].map((trigger) => `drop trigger ${ident(trigger)} on ${captured}`);

/** The SQL that ends capturing, in the transaction that lets the copy take the source's place. */
export const endCopy = (tableId: number, captured: string): readonly string[] => [
  ...dropTriggers(captured),
  `delete from partitions.copies where table_id = ${tableId}`,
];
