import pg from 'pg';
import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable } from '../../db/pool.ts';
import { untilStopped } from '../../db/until-stopped.ts';
import type { Found } from './resolve.ts';

const { escapeIdentifier: ident } = pg;

export interface IndexWork {
  readonly pool: Pool;
  readonly maxTries?: number | undefined;
  readonly stop?: AbortSignal | undefined;
  readonly onBusy?: ((tries: number) => void) | undefined;
}

interface Relation {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly isPartitioned: boolean;
  /** Of the index that begins with the column, where there is one; invalid where it was not finished. */
  readonly index: string | null;
  readonly isValid: boolean | null;
}

const RELATIONS = `
  select c.oid, n.nspname as schema, c.relname as name, c.relkind = 'p' as "isPartitioned", i.name as index, i.valid as "isValid"
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join lateral (
    select format('%I.%I', m.nspname, r.relname) as name, x.indisvalid as valid
    from pg_index x join pg_class r on r.oid = x.indexrelid join pg_namespace m on m.oid = r.relnamespace
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = c.oid and a.attname = 'recorded_xid'
    order by x.indisvalid desc limit 1) i on true
  where c.oid = $1 or c.oid in (select h.inhrelid from pg_inherits h where h.inhparent = $1)
  order by c.oid = $1 desc, c.relname`;

/** Rows of before have none, and so are not in it. */
const DEFINITION = '(recorded_xid) where recorded_xid is not null';

const MOST_BYTES = 63;
const SUFFIX = '_recorded_xid';
const nameFor = ({ name }: { name: string }): string =>
  `${Buffer.from(name)
    .subarray(0, MOST_BYTES - SUFFIX.length)
    .toString()}${SUFFIX}`;

/**
 * Builds the index on recorded_xid beside whoever writes: of a partitioned table one a partition, which are then attached. One that an interrupted
 * run left unfinished is built anew.
 * @throws AppError ROLLUP_BUSY, STOPPED, DB_*
 */
export async function buildIndexes(work: IndexWork, source: Pick<Found, 'oid'>): Promise<string> {
  const { rows } = await work.pool.query<Relation>(RELATIONS, [source.oid]);
  const [relation, ...partitions] = rows;
  if (relation === undefined) throw new Error(`no relation ${source.oid}`);
  if (relation.index !== null && relation.isValid === true) return relation.index;
  const name = `${ident(relation.schema)}.${ident(nameFor(relation))}`;
  const on = `${ident(relation.schema)}.${ident(relation.name)}`;
  if (!relation.isPartitioned) {
    if (relation.index !== null) await concurrently(work, `drop index concurrently ${relation.index}`);
    await concurrently(work, `create index concurrently ${ident(nameFor(relation))} on ${on} ${DEFINITION}`);
    return name;
  }
  if (relation.index === null)
    await briefly(work, on, `create index ${ident(nameFor(relation))} on only ${on} ${DEFINITION}`);
  for (const partition of partitions) {
    const built = await buildIndexes(work, partition);
    if (await isAttached(work.pool, built)) continue;
    await briefly(work, on, `alter index ${relation.index ?? name} attach partition ${built}`);
  }
  return relation.index ?? name;
}

/** What would run, for a plan. */
export async function indexStatements(db: Queryable, source: Pick<Found, 'oid'>): Promise<readonly string[]> {
  const { rows } = await db.query<Relation>(RELATIONS, [source.oid]);
  return rows.map((relation) => {
    const on = `${relation.isPartitioned ? 'only ' : ''}${ident(relation.schema)}.${ident(relation.name)}`;
    return `create index ${relation.isPartitioned ? '' : 'concurrently '}${ident(nameFor(relation))} on ${on} ${DEFINITION}`;
  });
}

async function isAttached(db: Queryable, index: string): Promise<boolean> {
  const { rowCount } = await db.query('select from pg_inherits where inhrelid = $1::regclass', [index]);
  return rowCount === 1;
}

const concurrently = ({ pool, stop }: IndexWork, statement: string): Promise<unknown> =>
  untilStopped(pool, { stop, left: 'an index is not finished. Run apply again: it goes on.', maxTries: 1 }, (client) =>
    client.query(statement),
  );

/** What locks a table of others, for as long as it takes to write it down. */
const briefly = ({ pool, stop, maxTries, onBusy }: IndexWork, what: string, statement: string): Promise<unknown> =>
  givingWay(pool, { code: 'ROLLUP_BUSY', what, stop, maxTries, onBusy }, (tx) => tx.query(statement));
