import { givingWay } from '../../db/giving-way.ts';
import type { Pool } from '../../db/pool.ts';
import type { UnderLockOptions } from '../../db/under-lock.ts';
import type { Trigger } from './facts.ts';
import { columnList, ident, literal, named, qualified } from './names.ts';
import { assertNotStopped, runUntilStopped } from './stopped.ts';

/** A unique key that no partition can hold, in a table of its own. */
export interface SideTable {
  /** Quoted, with its schema, as its triggers name it. */
  readonly side: string;
  readonly by: string;
  readonly columns: readonly string[];
}

const KEEPS_KEY = 'liventix_keeps_key';
export const keeperName = (nth: number): string => `${KEEPS_KEY}_${nth}`;
export const emptierName = (nth: number): string => `${KEEPS_KEY}_${nth}_emptied`;

/** How a side table is called that is made again, until it has all keys. */
export const againName = (name: string): string => named(name, '_again');

/** The SQL that drops a side table, and what of it was being made again. @param name without its schema, unquoted */
export const dropStatement = (schema: string, name: string): string =>
  `drop table if exists ${qualified(schema, name)}, ${qualified(schema, againName(name))}`;

/** The SQL condition that a row has a key: of columns of which one is null it has none. */
export const hasKey = (columns: readonly string[]): string => `(${columnList(columns)}) is not null`;

/** Whether it sees to a side table, whatever somebody calls it. */
export const keepsKeys = ({ definition }: Trigger): boolean =>
  /EXECUTE FUNCTION partitions\.(keep_key|empty_keys)\(/.test(definition);

/** The SQL that makes the side table, empty, as nobody sees it but the owner. `name`: without its schema, unquoted. */
export const sideTableStatements = (
  table: string,
  { side, by, columns, name, owner }: SideTable & { readonly name: string; readonly owner: string },
): readonly string[] => [
  `create table ${side} as select ${columnList([...columns, by])} from ${table} with no data`,
  `alter table ${side} owner to ${ident(owner)}`,
  `alter table ${side} add constraint ${ident(named(name, '_pkey'))} primary key (${columnList(columns)})`,
  `create index on ${side} using brin (${ident(by)})`,
  `select partitions.close_to_others(${literal(side)})`,
];

/** What the comment of one says: that it is filled, and its triggers see to it alone. */
export const filledStatement = (table: string, { side, columns }: Pick<SideTable, 'side' | 'columns'>): string =>
  `comment on table ${side} is ${literal(`The key (${columns.join(', ')}) of ${table}, which no partition can hold. Kept by a trigger of it.`)}`;

/** The SQL that has a table's rows keep the keys, be they written by a replica's worker. */
export const keeperStatements = (
  table: string,
  { side, by, columns }: SideTable,
  trigger: string,
): readonly string[] => [
  `create trigger ${ident(trigger)} after insert or delete or update on ${table} for each row
     execute function partitions.keep_key(${[side, by, ...columns].map(literal).join(', ')})`,
  `alter table ${table} enable always trigger ${ident(trigger)}`,
];

/** The SQL that has the side table emptied with the table. */
export const emptierStatement = (table: string, { side }: Pick<SideTable, 'side'>, trigger: string): string =>
  `create trigger ${ident(trigger)} after truncate on ${table} for each statement execute function partitions.empty_keys(${literal(side)})`;

/**
 * Keys that are in a table more than once, as a row of them: reads all rows.
 * @returns the first of them, and how many there are
 */
export async function findTwice(
  pool: Pool,
  {
    table,
    columns,
    stop,
  }: { readonly table: string; readonly columns: readonly string[]; readonly stop?: AbortSignal | undefined },
): Promise<{ readonly first: readonly string[]; readonly count: bigint }> {
  const key = columnList(columns);
  const { rows } = await runUntilStopped<{ twice: string; count: bigint }>(
    pool,
    stop,
    `select row(${key})::text as twice, count(*) over () as count from ${table} where ${hasKey(columns)} group by ${key} having count(*) > 1 limit ${MOST_NAMED}`,
  );
  return { first: rows.map(({ twice }) => twice), count: rows[0]?.count ?? 0n };
}

const MOST_NAMED = 5;
const BLOCKS_AT_ONCE = 64;

export interface Filling extends SideTable {
  readonly pool: Pool;
  readonly locking: UnderLockOptions;
  /** A table or partition that has rows itself, quoted. */
  readonly leaf: string;
  /** The SQL condition of the rows, called r, whose keys are written down. */
  readonly condition: string;
  readonly onBlock: (block: number, blocks: number) => void;
}

/**
 * Writes the keys of the rows of a table or partition down, by blocks, when the trigger is there: what comes or is changed meanwhile comes by that.
 * Who changes one of those rows waits for a step, and a step gives way to who did so before.
 * @returns how many keys
 * @throws AppError PARTITIONS_BUSY, STOPPED, DB_*
 */
export async function fillSideTable({
  pool,
  locking,
  side,
  by,
  columns,
  leaf,
  condition,
  onBlock,
}: Filling): Promise<number> {
  const all = columnList([by, ...columns]);
  const { rows } = await pool.query<{ blocks: number }>(
    `select (pg_relation_size($1::regclass) / current_setting('block_size')::int)::int as blocks`,
    [leaf],
  );
  const { blocks = 0 } = rows[0] ?? {};
  let written = 0;
  for (let block = 0; block < blocks; block += BLOCKS_AT_ONCE) {
    assertNotStopped(locking.stop);
    // Held against any change, not of a unique index alone, which a key of the mapping has none of: no key comes back that its row had before, and the instant is the row's.
    const step = `
      insert into ${side} as k (${all}) select ${all} from only ${leaf} r
      where ctid >= '(${block},0)' and ctid < '(${block + BLOCKS_AT_ONCE},0)' and ${condition} for share of r
      on conflict (${columnList(columns)}) do update set ${ident(by)} = excluded.${ident(by)} where k.${ident(by)} is distinct from excluded.${ident(by)}`;
    written += await givingWay(
      pool,
      { ...locking, code: 'PARTITIONS_BUSY', left: 'The keys that were written down stay.' },
      async (tx) => (await tx.query(step)).rowCount ?? 0,
    );
    onBlock(block, blocks);
  }
  return written;
}
