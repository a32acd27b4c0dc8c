import { AppError } from '../../errors.ts';
import { assertSameShape, type Copying, type FromTo } from './copy.ts';
import { readUntilStopped } from './stopped.ts';

interface Sum {
  readonly rows: bigint;
  readonly hash: string;
}

/**
 * Reads both sides in one snapshot and compares all rows but those that were changed since and not drained yet: how many, and the sum of the
 * hashes of their contents. What it found is in partitions.log.
 * @throws AppError PARTITIONS_DIFFERENT, PARTITIONS_DRIFTED, STOPPED, DB_*
 */
export async function compareCopy(copying: Copying, { captured, target }: FromTo): Promise<void> {
  const { pool, tableId, table, locking, onStep } = copying;
  onStep(`comparing ${table} with its copy`, 0, 0);
  const [source, copy] = await readUntilStopped(pool, locking.stop, async (tx) => {
    const sumOf = async (relation: string): Promise<Sum> => {
      const { rows } = await tx.query<{ sql: string }>('select partitions.sum_sql($1, $2) as sql', [tableId, relation]);
      const { rows: sums } = await tx.query<Sum>(rows[0]?.sql ?? '');
      return sums[0] ?? { rows: 0n, hash: '0' };
    };
    return [await sumOf(captured), await sumOf(target)] as const;
  });
  if (source.rows !== copy.rows || source.hash !== copy.hash) {
    await assertSameShape(pool, copying);
    throw new AppError(
      'PARTITIONS_DIFFERENT',
      `The copy of ${table} is not what it is a copy of: ${source.rows} rows with ${source.hash}, the copy ${copy.rows} with ${copy.hash}. Nothing was changed, and the copy is given up: run it again, it is copied anew.`,
    );
  }
  await pool.query(`insert into partitions.log (table_name, action, detail) values ($1, 'compared', $2)`, [
    table,
    `${copy.rows} rows, sum of hashes ${copy.hash}`,
  ]);
}
