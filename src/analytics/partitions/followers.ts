import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { type Reader, readFactsIn } from './facts.ts';
import { ASIDE, ident, literal, STAGE } from './names.ts';
import { runUntilStopped } from './stopped.ts';
import { replaceView } from './take-place.ts';

/**
 * Materialized views that read a table whose place was taken. They cannot be replaced as views can, and go on reading what was the table: another is
 * made and filled beside each, and takes its place.
 */
export async function rememberFollowers(tx: Tx, tableId: number, readers: readonly Reader[]): Promise<void> {
  const views = readers.filter(({ kind }) => kind === 'materialized view');
  await tx.query(`update partitions.tables set followers = $2 where id = $1`, [tableId, JSON.stringify(views)]);
}

interface Following {
  readonly pool: Pool;
  readonly tableId: number;
  readonly locking: UnderLockOptions;
  readonly onStep: (what: string, done: number, total: number) => void;
}

/** Run again, it does what is left. @throws AppError PARTITIONS_BUSY, PARTITIONS_TOO_LONG, STOPPED, DB_* */
export async function remakeFollowers(following: Following): Promise<void> {
  for (;;) {
    const { rows } = await following.pool.query<{ followers: readonly Reader[] }>(
      'select followers from partitions.tables where id = $1',
      [following.tableId],
    );
    const [next, ...others] = rows[0]?.followers ?? [];
    if (next === undefined) return dropReplaced(following);
    following.onStep(`filling ${next.name} anew, left`, others.length, 0);
    await remake(following, next, others);
  }
}

/** All at once, as they may read each other. What they held is nothing that could not be had again. */
async function dropReplaced({ pool, locking }: Following): Promise<void> {
  const { rows } = await pool.query<{ relations: string | null }>(
    `select string_agg(s.relation, ', ') as relations from partitions.set_aside s join pg_class c on c.oid = to_regclass(s.relation) and c.relkind = 'm'`,
  );
  const relations = rows[0]?.relations;
  if (relations == null) return;
  await runUntilStopped(
    pool,
    locking.stop,
    `drop materialized view ${relations}; delete from partitions.set_aside where to_regclass(relation) is null`,
  );
}

async function remake({ pool, tableId, locking }: Following, view: Reader, others: readonly Reader[]): Promise<void> {
  const made = `${STAGE}.${ident(`follower_${tableId}`)}`;
  const shape = await readShape(pool, view.name);
  if (shape === undefined) {
    await remember(pool, tableId, others);
    return;
  }
  await pool.query(
    [
      `drop materialized view if exists ${made}`,
      `create materialized view ${made} as ${view.definition} with no data`,
      `alter materialized view ${made} owner to ${ident(shape.owner)}`,
      ...shape.indexes.map(
        ({ isUnique, definition }, nth) =>
          `create ${isUnique ? 'unique ' : ''}index ${ident(indexName(tableId, nth))} on ${made} using ${definition}`,
      ),
      `select restructure.copy_grants(${literal(view.name)}, ${literal(made)})`,
      ...(shape.comment === null ? [] : [`comment on materialized view ${made} is ${literal(shape.comment)}`]),
    ].join(';\n'),
  );
  if (view.isPopulated) await runUntilStopped(pool, locking.stop, `refresh materialized view ${made}`);
  await underLock(pool, locking, async (tx) => {
    const readers = (await readFactsIn(tx, `${shape.schema}.${shape.name}`, ''))?.readers ?? [];
    const views = readers.filter(({ kind }) => kind === 'view');
    return {
      names: views.map(({ name }) => name),
      // LOCK knows no materialized views.
      locksLater: 1,
      work: async () => {
        await tx.query(
          [
            `alter materialized view ${view.name} set schema ${ASIDE}`,
            `alter materialized view ${made} set schema ${ident(shape.schema)}`,
            `alter materialized view ${ident(shape.schema)}.${ident(`follower_${tableId}`)} rename to ${ident(shape.name)}`,
            ...shape.indexes.map(
              ({ name }, nth) =>
                `alter index ${ident(shape.schema)}.${ident(indexName(tableId, nth))} rename to ${ident(name)}`,
            ),
            ...views.map(replaceView),
          ].join(';\n'),
        );
        await remember(tx, tableId, [...readers.filter(({ kind }) => kind === 'materialized view'), ...others]);
        await tx.query(
          `insert into partitions.set_aside (relation, table_name) values (format('%I.%I', $1::text, $2::text), $3)`,
          [ASIDE, shape.name, `${shape.schema}.${shape.name}`],
        );
      },
    };
  });
}

const remember = (db: Queryable, tableId: number, followers: readonly Reader[]) =>
  db.query('update partitions.tables set followers = $2 where id = $1', [tableId, JSON.stringify(followers)]);

/** While both are there. */
const indexName = (tableId: number, nth: number): string => `follower_${tableId}_i${nth}`;

interface Shape {
  readonly schema: string;
  readonly name: string;
  readonly owner: string;
  readonly comment: string | null;
  readonly indexes: readonly { readonly name: string; readonly isUnique: boolean; readonly definition: string }[];
}

function readShape(pool: Pool, view: string): Promise<Shape | undefined> {
  return withTransaction(pool, async (tx) => {
    await tx.query(`set local search_path = ''`);
    const { rows } = await tx.query<Shape>(
      `select n.nspname as schema, c.relname as name, pg_get_userbyid(c.relowner) as owner, obj_description(c.oid, 'pg_class') as comment,
         array(
           select jsonb_build_object('name', x.relname, 'isUnique', i.indisunique,
             'definition', split_part(pg_get_indexdef(i.indexrelid), format(' ON %I.%I USING ', n.nspname, c.relname), 2))
           from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid where i.indrelid = c.oid order by i.indexrelid
         ) as indexes
       from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)`,
      [view],
    );
    return rows[0];
  });
}
