import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { logState, project } from './project.ts';
import { keyOf, PROJECTIONS, type Projection, SCHEMA, sameKey } from './projections.ts';

export interface ComparedTable {
  readonly table: string;
  readonly rows: bigint;
  readonly rebuiltRows: bigint;
  /** The live row says something else than the log. */
  readonly differing: bigint;
  /** The log has a row, the live table has not. */
  readonly missing: bigint;
  /** The live table has a row that the log does not give, or has it twice. */
  readonly surplus: bigint;
  /** The first of them in words. */
  readonly first: readonly string[];
  /** The same rows, column by column. */
  readonly isEqual: boolean;
}

const NAMED_ROWS = 3;
/** Of a value that differs so much is shown. */
const SHOWN_CHARACTERS = 60;

/**
 * Brings what is rebuilt up to the snapshot that it compares in, and compares it with the live tables, row by row. What differs is
 * noted beside.
 */
export async function compareProjections(
  pool: Pool,
  bookId: number | undefined,
  onTable: (table: string) => void,
): Promise<ComparedTable[]> {
  const log = await logState(pool);
  return withTransaction(
    pool,
    async (tx) => {
      await project(tx, log, { bookId });
      const tables = [];
      for (const projection of PROJECTIONS) {
        onTable(projection.table);
        await tx.query(`analyze ${SCHEMA}.${projection.table}`);
        await noteDifferences(tx, projection, bookId);
        tables.push(await describeTable(tx, projection, bookId));
      }
      // From here on, only what comes has to be looked at.
      await tx.query(`update ${SCHEMA}.run set fresh_positions = '{}'`);
      return tables;
    },
    { mode: 'isolation level repeatable read' },
  );
}

const ofBook = (alias: string, bookId: number | undefined) =>
  bookId === undefined ? '' : `where ${alias}.book_id = ${bookId}`;

// By their images: two numbers that are equal and read differently, as 1.0 and 1.00 in JSON, are not the same row.
async function noteDifferences(tx: Tx, projection: Projection, bookId: number | undefined): Promise<void> {
  const { table, key } = projection;
  const columns = [...key, 'book_id'];
  const differing = `${SCHEMA}.differing_${table}`;
  await tx.query(`delete from ${differing}`);
  await tx.query(
    `insert into ${differing} (${columns.join(', ')}, kind)
     select ${columns.map((column) => `coalesce(l.${column}, r.${column})`).join(', ')},
            case when r.book_id is null then 'surplus' when l.book_id is null then 'missing' else 'differing' end
     from (select t.*, t as image from payments.${table} t ${ofBook('t', bookId)}) l
     full join (select t.*, t as image from ${SCHEMA}.${table} t ${ofBook('t', bookId)}) r on ${sameKey(projection, 'l', 'r')}
     where l.book_id is null or r.book_id is null or not (l.image operator(pg_catalog.*=) r.image)
     on conflict do nothing`,
  );
  if (await hasPrimaryKey(tx, table)) return;
  await tx.query(
    `insert into ${differing} (${columns.join(', ')}, kind)
     select ${keyOf(projection, 't')}, 'surplus' from payments.${table} t ${ofBook('t', bookId)}
     group by ${keyOf(projection, 't')} having count(*) > 1
     on conflict do nothing`,
  );
}

/** Somebody may have dropped it, and put in rows that are there. */
async function hasPrimaryKey(tx: Tx, table: string): Promise<boolean> {
  const { rowCount } = await tx.query(
    `select from pg_index i
     where i.indrelid = format('payments.%I', $1::text)::regclass and i.indisprimary and i.indisvalid`,
    [table],
  );
  return rowCount === 1;
}

async function describeTable(tx: Tx, projection: Projection, bookId: number | undefined): Promise<ComparedTable> {
  const { table } = projection;
  const { rows } = await tx.query<Omit<ComparedTable, 'table' | 'first' | 'isEqual'>>(
    `select (select count(*) from payments.${table} t ${ofBook('t', bookId)}) as rows,
            (select count(*) from ${SCHEMA}.${table} t ${ofBook('t', bookId)}) as "rebuiltRows",
            count(*) filter (where d.kind = 'differing') as differing, count(*) filter (where d.kind = 'missing') as missing,
            count(*) filter (where d.kind = 'surplus') as surplus
     from ${SCHEMA}.differing_${table} d`,
  );
  const counts = { rows: 0n, rebuiltRows: 0n, differing: 0n, missing: 0n, surplus: 0n, ...rows[0] };
  const isEqual = counts.differing + counts.missing + counts.surplus === 0n;
  return { table, ...counts, first: isEqual ? [] : await nameRows(tx, projection), isEqual };
}

async function nameRows(tx: Tx, projection: Projection): Promise<string[]> {
  const { table, key } = projection;
  const columns = [...key, 'book_id'];
  const name = columns.map((column) => `${column} %s`).join(', ');
  const shown = (side: string) => `coalesce(left(${side}.value #>> '{}', ${SHOWN_CHARACTERS}), 'null')`;
  const { rows } = await tx.query<{ text: string }>(
    `select format('${name}: ', ${keyOf(projection, 'd')}) || case d.kind
              when 'missing' then 'is missing'
              when 'surplus' then case when r.book_id is null then 'the log does not give it' else 'is there more than once' end
              else (
                select string_agg(format('%s is %s, by the log %s', key, ${shown('o')}, ${shown('n')}), '; ' order by key)
                from jsonb_each(to_jsonb(l)) o join jsonb_each(to_jsonb(r)) n using (key) where o.value is distinct from n.value) end as text
     from (select * from ${SCHEMA}.differing_${table} d order by ${keyOf(projection, 'd')} limit ${NAMED_ROWS}) d
     left join lateral (select * from payments.${table} t where ${sameKey(projection, 't', 'd')} limit 1) l on true
     left join lateral (select * from ${SCHEMA}.${table} t where ${sameKey(projection, 't', 'd')}) r on true
     order by ${keyOf(projection, 'd')}`,
  );
  return rows.map(({ text }) => text);
}
