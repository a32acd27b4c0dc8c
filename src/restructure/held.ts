import type { Queryable } from '../db/pool.ts';
import { lockHolders } from './lock-holders.ts';

/** Shorter ones end before anybody has read of them. */
export const LONG_HELD_MS = 5_000;

/**
 * By the first of each group, who holds a lock of it in a transaction that is older: any lock keeps a move waiting. A vacuum is none of
 * them, which gives way. Waits for nobody. Of others' transactions nothing is known without pg_read_all_stats.
 */
export async function readHeld(
  db: Queryable,
  groups: readonly (readonly number[])[],
  olderThanMs: number,
): Promise<ReadonlyMap<number, readonly string[]>> {
  const { rows } = await db.query<{ oid: number }>(HELD, [groups.flat(), olderThanMs]);
  const held = new Set(rows.map(({ oid }) => oid));
  const holders = new Map<number, readonly string[]>();
  for (const group of groups) {
    const [first] = group;
    if (first === undefined || !group.some((oid) => held.has(oid))) continue;
    const named = await lockHolders(db, group);
    holders.set(first, named.length === 0 ? ['a transaction of no process'] : named);
  }
  return holders;
}

/** A prepared transaction has a lock of itself beside those of tables. What depends on a table and is a relation is a sequence or an index of it. */
const HELD = `
  select distinct t.oid
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid and a.backend_type = 'client backend'
  left join pg_locks o on l.pid is null and o.pid is null and o.locktype = 'transactionid' and o.virtualtransaction = l.virtualtransaction
  left join pg_prepared_xacts x on x.transaction = o.transactionid
  left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = l.relation and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
  join unnest($1::oid[]) t (oid) on t.oid in (l.relation, d.refobjid)
  where l.granted and l.database = (select oid from pg_database where datname = current_database()) and l.pid is distinct from pg_backend_pid()
    and coalesce(a.xact_start, x.prepared) <= clock_timestamp() - $2 * interval '1 ms'`;
