import { givingWay } from '../../db/giving-way.ts';
import type { Pool } from '../../db/pool.ts';
import { type ApplyOptions, alone, lockingOf } from './apply.ts';
import { assertNotStopped } from './stopped.ts';

/**
 * Drops what another has taken the place of. There is no way back from here to rows as they were before: the way back copies those that there are.
 * @returns what was dropped @throws AppError PARTITIONS_RUNNING, PARTITIONS_BUSY, DB_*
 */
export const dropSetAside = (
  pool: Pool,
  options: Pick<ApplyOptions, 'stop' | 'maxTries'>,
): Promise<readonly string[]> =>
  alone(pool, options, async (stop) => {
    // Dropped by somebody else.
    await pool.query('delete from partitions.set_aside where to_regclass(relation) is null');
    const { rows } = await pool.query<{ relation: string; table: string; isMaterialized: boolean }>(
      `select s.relation, s.table_name as table, coalesce((select c.relkind = 'm' from pg_class c where c.oid = to_regclass(s.relation)), false) as "isMaterialized"
       from partitions.set_aside s order by s.at`,
    );
    for (const { relation, table, isMaterialized } of rows) {
      assertNotStopped(stop);
      await givingWay(pool, { ...lockingOf({ table }, { ...options, stop }), code: 'PARTITIONS_BUSY' }, async (tx) => {
        await tx.query(`drop ${isMaterialized ? 'materialized view' : 'table'} if exists ${relation}`);
        await tx.query('delete from partitions.set_aside where relation = $1', [relation]);
      });
    }
    return rows.map(({ relation }) => relation);
  });
