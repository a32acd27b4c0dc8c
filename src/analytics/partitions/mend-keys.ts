import { givingWay } from '../../db/giving-way.ts';
import type { Pool } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { ident, qualified } from './names.ts';
import {
  emptierName,
  emptierStatement,
  filledStatement,
  fillSideTable,
  findTwice,
  keeperName,
  keeperStatements,
  type SideTable,
  sideTableStatements,
} from './side-tables.ts';
import { assertNotStopped, runUntilStopped } from './stopped.ts';
import type { KeptTable } from './tables.ts';

export interface Mending {
  readonly pool: Pool;
  readonly kept: KeptTable;
  readonly locking: UnderLockOptions;
  readonly onStep: (what: string, done: number, total: number) => void;
}

/** What was mended of a table of keys; that with its schema, unquoted. */
export interface Mended {
  readonly side: string;
  readonly columns: readonly string[];
  /** In words, what it and its triggers were. */
  readonly unkept: readonly string[];
  readonly written: number;
  readonly takenAway: number;
}

/** A trigger that is not as it is to be; no name where there is none. */
interface Unkept {
  readonly empties: boolean;
  readonly trigger: string | null;
  readonly fault: string;
}

interface Key extends SideTable {
  readonly name: string;
  readonly unkept: readonly Unkept[];
  /** SQL conditions: of a row r whose key is lacking, of a key k that is left over. */
  readonly lacking: string;
  readonly leftOver: string;
}

/** A key that no row has is looked for in all months, where they have no index on it: by many at once. */
const TAKEN_AT_ONCE = 50_000;

/**
 * Of a table that has its months: puts tables of keys back that are gone, and triggers that keep keys, writes keys down that are lacking, and takes those away that no row has and nothing
 * refers to. Reads keys and rows once each way; nothing is written where all is well, or a key is there twice. Run again, it goes on.
 * @throws AppError PARTITIONS_KEY_TWICE, PARTITIONS_BUSY, PARTITIONS_TOO_LONG, STOPPED, DB_*
 */
export async function mendKeys(mending: Mending): Promise<readonly Mended[]> {
  const remade = await remakeSideTables(mending);
  const ailing: Key[] = [];
  for (const key of await readKeys(mending)) {
    mending.onStep(`looking at the keys of ${named(mending)}`, 0, 0);
    const isLacking = await lacks(mending, key);
    if (isLacking || key.unkept.length > 0) await assertOnce(mending, key);
    if (isLacking || key.unkept.length > 0 || remade.has(key.name) || (await hasLeftOver(mending, key)))
      ailing.push(key);
  }
  await putTriggersBack(mending, ailing);
  const mended: Mended[] = [];
  for (const key of ailing) {
    const written = await writeKeys(mending, key);
    const takenAway = await takeKeysAway(mending, key);
    mended.push({
      side: `${mending.kept.schema}.${key.name}`,
      columns: key.columns,
      unkept: [...(remade.get(key.name) ?? []), ...key.unkept.map(({ fault }) => fault)],
      written,
      takenAway,
    });
  }
  return mended;
}

const named = ({ kept: { schema, name } }: Mending): string => `${schema}.${name}`;
const quoted = ({ kept: { schema, name } }: Mending): string => qualified(schema, name);

/**
 * Those that somebody dropped are there again, empty: until then every row that is written is refused.
 * @returns in words, what was the matter with each, by its name
 * @throws AppError PARTITIONS_KEY_TWICE, PARTITIONS_BUSY, DB_*
 */
async function remakeSideTables(mending: Mending): Promise<ReadonlyMap<string, readonly string[]>> {
  const { pool, kept, locking } = mending;
  const { rows } = await pool.query<{ name: string; columns: readonly string[]; owner: string; fault: string }>(
    `select k.side_table as name, k.columns::text[] as columns, pg_get_userbyid(c.relowner) as owner, u.fault
     from partitions.keys k join partitions.unkept_keys(k.table_id) u on u.columns = k.columns join pg_class c on c.oid = u.relation
     where k.table_id = $1 and to_regclass(format('%I.%I', $2::text, k.side_table)) is null`,
    [kept.id, kept.schema],
  );
  for (const { name, columns, owner } of rows) {
    await assertOnce(mending, { columns });
    const key = { side: qualified(kept.schema, name), by: kept.by, columns, name, owner };
    await givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
      tx.query([...sideTableStatements(quoted(mending), key), filledStatement(named(mending), key)].join(';\n')),
    );
  }
  return new Map(rows.map(({ name, fault }) => [name, [fault]]));
}

async function readKeys({ pool, kept }: Mending): Promise<readonly Key[]> {
  const { rows } = await pool.query<Omit<Key, 'side' | 'by'>>(
    `select k.side_table as name, k.columns::text[] as columns, partitions.lacking_sql(k.table_id, k.columns) as lacking,
       partitions.left_over_sql(k.table_id, k.columns) as "leftOver",
       (select coalesce(jsonb_agg(jsonb_build_object('empties', u.empties, 'trigger', u.trigger_name, 'fault', u.fault)), '[]')
         from partitions.unkept_keys(k.table_id) u where u.columns = k.columns) as unkept
     from partitions.keys k where k.table_id = $1 order by k.columns`,
    [kept.id],
  );
  return rows.map((key) => ({ ...key, side: qualified(kept.schema, key.name), by: kept.by }));
}

const lacks = (mending: Mending, { lacking }: Key, from = quoted(mending)) =>
  has(mending, `${from} r where ${lacking}`);
const hasLeftOver = (mending: Mending, { side, leftOver }: Key) => has(mending, `${side} k where ${leftOver}`);

async function has({ pool, locking }: Mending, what: string): Promise<boolean> {
  const { rows } = await runUntilStopped<{ has: boolean }>(
    pool,
    locking.stop,
    `select exists (select from ${what}) as has`,
  );
  return rows[0]?.has === true;
}

/** @throws AppError PARTITIONS_KEY_TWICE */
async function assertOnce(mending: Mending, { columns }: Pick<Key, 'columns'>): Promise<void> {
  const { first, count } = await findTwice(mending.pool, {
    table: quoted(mending),
    columns,
    stop: mending.locking.stop,
  });
  if (count === 0n) return;
  throw new AppError(
    'PARTITIONS_KEY_TWICE',
    `(${columns.join(', ')}) of ${named(mending)} is to be there once over all months, and ${count} are there more than once: ${first.join(', ')}${count > first.length ? ' and more' : ''}. Change or delete such rows. Then run it again: its keys are not mended before.`,
  );
}

/** All in one short transaction: whoever wrote a row before is done by then, and whoever does later writes its key. */
async function putTriggersBack(mending: Mending, keys: readonly Key[]): Promise<void> {
  if (keys.every(({ unkept }) => unkept.length === 0)) return;
  const table = quoted(mending);
  await underLock(mending.pool, mending.locking, async (tx) => {
    const { rows } = await tx.query<{ name: string }>(
      'select tgname as name from pg_trigger where tgrelid = $1::regclass',
      [table],
    );
    const taken = new Set(rows.map(({ name }) => name));
    return { names: [table], locksLater: 0, work: () => tx.query(triggerStatements(table, keys, taken).join(';\n')) };
  });
}

/** Enabled on the table, a trigger is on all partitions too; one that empties is made anew, as it may be of another kind. Pure. */
function triggerStatements(table: string, keys: readonly Key[], taken: Set<string>): readonly string[] {
  const free = (nameOf: (nth: number) => string): string => {
    let nth = 0;
    while (taken.has(nameOf(nth))) nth += 1;
    taken.add(nameOf(nth));
    return nameOf(nth);
  };
  return keys.flatMap((key) =>
    key.unkept.flatMap(({ empties, trigger }) => {
      if (empties) {
        return trigger === null
          ? [emptierStatement(table, key, free(emptierName))]
          : [`drop trigger ${ident(trigger)} on ${table}`, emptierStatement(table, key, trigger)];
      }
      return trigger === null
        ? keeperStatements(table, key, free(keeperName))
        : [`alter table ${table} enable always trigger ${ident(trigger)}`];
    }),
  );
}

async function writeKeys(mending: Mending, key: Key): Promise<number> {
  const { pool, locking, onStep } = mending;
  let written = 0;
  for (const leaf of await readLeaves(mending)) {
    if (!(await lacks(mending, key, `only ${leaf}`))) continue;
    written += await fillSideTable({
      ...key,
      pool,
      locking,
      leaf,
      condition: key.lacking,
      onBlock: (block, blocks) => onStep(`keeping keys of ${leaf}`, block, blocks),
    });
  }
  if (written === 0 || !(await lacks(mending, key))) return written;
  // One was written twice before the trigger was back, or rows went to a partition that was not there.
  await assertOnce(mending, key);
  throw new AppError(
    'PARTITIONS_BUSY',
    `Rows of ${named(mending)} went to other months while their keys were written down. What was written stays: run it again.`,
  );
}

async function readLeaves(mending: Mending): Promise<readonly string[]> {
  const { rows } = await mending.pool.query<{ leaf: string }>(
    `select format('%I.%I', n.nspname, c.relname) as leaf from pg_partition_tree($1::regclass) t join pg_class c on c.oid = t.relid
     join pg_namespace n on n.oid = c.relnamespace where t.isleaf order by c.relname`,
    [quoted(mending)],
  );
  return rows.map(({ leaf }) => leaf);
}

/** @throws AppError PARTITIONS_BUSY where somebody holds what is left */
async function takeKeysAway(mending: Mending, key: Key): Promise<number> {
  const { pool, locking, onStep } = mending;
  let takenAway = 0;
  while (await hasLeftOver(mending, key)) {
    assertNotStopped(locking.stop);
    const { rows } = await pool.query<{ taken: number }>(
      'select partitions.take_keys_away($1::regclass, $2, $3)::int as taken',
      [key.side, key.leftOver, TAKEN_AT_ONCE],
    );
    const { taken = 0 } = rows[0] ?? {};
    if (taken === 0)
      throw new AppError(
        'PARTITIONS_BUSY',
        `Keys in ${mending.kept.schema}.${key.name} that no row has are held by somebody. What else was mended stays: run it again.`,
      );
    takenAway += taken;
    onStep(`taking keys away from ${key.side}`, takenAway, 0);
  }
  return takenAway;
}
