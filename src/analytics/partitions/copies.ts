import type { Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { identityOf } from './findings.ts';
import type { Entry } from './mapping.ts';
import { quotedName } from './names.ts';
import { assertNotStopped } from './stopped.ts';
import type { KeptTable } from './tables.ts';

/** What became of a table that holds copies of another's rows. It stays as it is. */
export interface Reconciled {
  readonly copy: string;
  readonly alike: bigint;
  /** Rows that were only there. */
  readonly missing: bigint;
  readonly isTaken: boolean;
  /** Rows that were only there, and are left: the table had them when it was compared before. */
  readonly gone: bigint;
  /** Rows that were only there, and are left: they are older than is kept. */
  readonly older: bigint;
  readonly different: bigint;
}

interface Reconciling {
  readonly pool: Pool;
  readonly entry: Entry;
  readonly kept: KeptTable;
  readonly now: Date;
  readonly stop: AbortSignal | undefined;
  readonly onStep: (what: string, done: number, total: number) => void;
}

const BLOCKS_AT_ONCE = 64;

/**
 * Compares each table of copies with the one that it is of, row by row, and takes what is only there, where the mapping says so. Run again, it takes
 * what came since; not what it took before, and somebody deleted, nor what is older than is kept.
 * @throws AppError STOPPED, DB_*
 */
export async function reconcileCopies(reconciling: Reconciling): Promise<readonly Reconciled[]> {
  const reconciled: Reconciled[] = [];
  for (const copy of reconciling.entry.copies) {
    const leaves = await readLeaves(reconciling.pool, copy.table);
    if (leaves.length > 0) reconciled.push(await reconcile(reconciling, copy, leaves));
  }
  return reconciled;
}

async function reconcile(
  { pool, entry, kept, now, stop, onStep }: Reconciling,
  { table: copy, rows }: Entry['copies'][number],
  leaves: readonly Leaf[],
): Promise<Reconciled> {
  const isTaken = rows === 'take';
  const key = identityOf(kept.original.uniqueKeys);
  const sum = { alike: 0n, missing: 0n, gone: 0n, older: 0n, different: 0n };
  for (const [nth, { leaf, blocks }] of leaves.entries()) {
    onStep(`comparing ${copy} with ${entry.table}, parts`, nth, leaves.length);
    for (let block = 0; block < blocks; block += BLOCKS_AT_ONCE) {
      assertNotStopped(stop);
      const { rows: found } = await pool
        .query<typeof sum>('select * from partitions.reconcile_blocks($1, $2, $3, $4, $5, $6, $7, $8)', [
          kept.id,
          copy,
          leaf,
          key,
          block,
          block + BLOCKS_AT_ONCE,
          isTaken,
          now,
        ])
        .catch((error: unknown) => {
          throw toAppError(error);
        });
      sum.alike += found[0]?.alike ?? 0n;
      sum.missing += found[0]?.missing ?? 0n;
      sum.gone += found[0]?.gone ?? 0n;
      sum.older += found[0]?.older ?? 0n;
      sum.different += found[0]?.different ?? 0n;
    }
  }
  return { copy, isTaken, ...sum };
}

interface Leaf {
  readonly leaf: string;
  readonly blocks: number;
}

/** A plain table, or each partition of one that is partitioned; none where there is no such table. */
async function readLeaves(pool: Pool, table: string): Promise<readonly Leaf[]> {
  const { rows } = await pool.query<Leaf>(
    `select t.leaf::text, (pg_relation_size(t.leaf) / current_setting('block_size')::int)::int as blocks from (
       select c.oid::regclass as leaf from pg_class c where c.oid = to_regclass($1) and c.relkind = 'r'
       union all
       select p.relid from pg_class c cross join lateral pg_partition_tree(c.oid) p where c.oid = to_regclass($1) and c.relkind = 'p' and p.isleaf
     ) t order by 1`,
    [quotedName(table)],
  );
  return rows;
}
