import type { Queryable } from '../db/pool.ts';

const MOST_NAMED = 3;
const MOST_OF_A_QUERY = 60;

/**
 * Who holds locks of these relations or of their sequences, those that hold them longest first, in words for whoever has to talk to them. A vacuum that the server
 * does by itself is among them: it lets go when somebody waits for a second, and we wait for less.
 */
export async function lockHolders(db: Queryable, relations: readonly number[]): Promise<readonly string[]> {
  const { rows } = await db.query<{ holder: string }>(
    `with held as (
       select l.pid, l.virtualtransaction from pg_locks l
       where l.granted and l.database = (select oid from pg_database where datname = current_database())
         and l.relation = any ($1::oid[] || array(
           select d.objid from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
           where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = any ($1::oid[]) and d.deptype in ('a', 'i')))
     )
     select holder from (
       select a.xact_start as since, concat_ws(' ', 'process', a.pid,
           '(' || concat_ws(', ', nullif(a.usename, ''), coalesce(nullif(a.application_name, ''), a.backend_type), a.state,
             'since ' || to_char(a.xact_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC') || ')',
           nullif(left(regexp_replace(a.query, '\\s+', ' ', 'g'), $2), '')) as holder
       from pg_stat_activity a
       where a.pid <> pg_backend_pid() and a.pid in (select pid from held)
       union all
       -- Of no process: it outlives its own.
       select p.prepared, format('the prepared transaction %L (%s, since %s UTC): commit or roll it back by that name', p.gid, p.owner,
           to_char(p.prepared at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
       from pg_prepared_xacts p
       where exists (
         select from pg_locks l join held h on h.virtualtransaction = l.virtualtransaction
         where l.pid is null and h.pid is null and l.locktype = 'transactionid' and l.transactionid = p.transaction)
     ) holders
     order by since nulls last
     limit $3`,
    [relations, MOST_OF_A_QUERY, MOST_NAMED],
  );
  return rows.map(({ holder }) => holder);
}
