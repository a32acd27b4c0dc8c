import pg from 'pg';
import type { Tx } from '../../db/pool.ts';
import { qualified } from '../statements.ts';

const { escapeLiteral: literal } = pg;

/** What a transaction has done so far to a table, by itself or by triggers. */
export interface Effect {
  /** Without its schema, which is what changes when it moves. */
  readonly table: string;
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
  /** The rows as they are now, each the text of a JSON object; none of a table that is too large to be searched. */
  readonly rows: readonly string[];
}

/** Tables of more pages are not searched for the rows that were written: there is no index on who wrote a row. */
const MOST_PAGES = 20_000;

/** What the connection did before is counted with what it does next, until the server has taken note of it. */
export const forgetEffects = (tx: Tx) => tx.query('select pg_stat_force_next_flush()');

/** What the transaction has done, table by table, as whoever is connected sees it. */
export async function readEffects(tx: Tx): Promise<readonly Effect[]> {
  const { rows: touched } = await tx.query<Omit<Effect, 'rows'> & { schema: string; isSearched: boolean }>(TOUCHED, [
    MOST_PAGES,
  ]);
  const searched = touched.filter(({ isSearched }) => isSearched);
  const parts = searched.map(
    ({ schema, table }) =>
      // Rows that others wrote since are not seen: they would have to be committed meanwhile.
      `select ${literal(table)} as table, to_jsonb(t)::text as row from ${qualified(schema, table)} t
       where t.xmin::text::int8 >= pg_current_xact_id()::xid::text::int8`,
  );
  const { rows: written } =
    parts.length === 0 ? { rows: [] } : await tx.query<{ table: string; row: string }>(parts.join(' union all '));
  return touched.map(({ table, inserted, updated, deleted }) => ({
    table,
    inserted,
    updated,
    deleted,
    rows: written.filter((each) => each.table === table).map(({ row }) => row),
  }));
}

const TOUCHED = `
  select s.schemaname as schema, s.relname as table,
    s.n_tup_ins::int4 as inserted, s.n_tup_upd::int4 as updated, s.n_tup_del::int4 as deleted,
    s.n_tup_ins + s.n_tup_upd > 0 and c.relpages <= $1 and has_table_privilege(c.oid, 'select') as "isSearched"
  from pg_stat_xact_user_tables s join pg_class c on c.oid = s.relid
  where s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0
  order by s.relname`;
