import { underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { assertOnce, fillFrom, type Mending, NOT_BEFORE, nameOf, quoted, STAYS } from './mending.ts';
import { ident, leavesOf, literal, qualified } from './names.ts';
import { emptierName, emptierStatement, keeperName, keeperStatements, type SideTable } from './side-tables.ts';
import { putSideTablesBack } from './side-tables-back.ts';
import { runUntilStopped } from './stopped.ts';

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
  /** SQL conditions: of a row r whose key is lacking; of a key k that no row has; of one that nothing refers to either. */
  readonly lacking: string;
  readonly rowless: string;
  readonly leftOver: string;
}

/** A key that no row has is looked for in all months, where they have no index on it: by many at once. */
const TAKEN_AT_ONCE = 50_000;

/**
 * Puts tables of keys back that are gone or called otherwise, and triggers that keep keys, writes keys down that are lacking, and takes those away that no row has and nothing
 * refers to. Reads keys and rows once each way; nothing is written where all is well, or a key is there twice. Run again, it goes on.
 * @throws AppError PARTITIONS_KEY_TWICE, PARTITIONS_BUSY, PARTITIONS_TOO_LONG, STOPPED, DB_*
 */
export async function mendKeys(mending: Mending): Promise<readonly Mended[]> {
  const remade = await putSideTablesBack(mending);
  const ailing: Key[] = [];
  for (const key of await readKeys(mending)) {
    mending.onStep(`looking at the keys of ${nameOf(mending)}`, 0, 0);
    const isLacking = await lacks(mending, key);
    if (isLacking || key.unkept.length > 0) await assertOnce(mending, key, NOT_BEFORE);
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
      unkept: [...(remade.get(key.name)?.faults ?? []), ...key.unkept.map(({ fault }) => fault)],
      written: written + (remade.get(key.name)?.written ?? 0),
      takenAway,
    });
  }
  return mended;
}

async function readKeys({ pool, kept }: Mending): Promise<readonly Key[]> {
  const { rows } = await pool.query<Omit<Key, 'side' | 'by'>>(
    `select k.side_table as name, k.columns::text[] as columns, partitions.lacking_sql(k.table_id, k.columns) as lacking,
       partitions.rowless_sql(k.table_id, k.columns) as rowless, partitions.left_over_sql(k.table_id, k.columns) as "leftOver",
       (select coalesce(jsonb_agg(jsonb_build_object('empties', u.empties, 'trigger', u.trigger_name, 'fault', u.fault)), '[]')
         from partitions.unkept_keys(k.table_id) u where u.columns = k.columns) as unkept
     from partitions.keys k where k.table_id = $1 order by k.columns`,
    [kept.id],
  );
  return rows.map((key) => ({ ...key, side: qualified(kept.schema, key.name), by: kept.by }));
}

const lacks = (mending: Mending, { lacking }: Key, from = quoted(mending)) =>
  has(mending, `${from} r where ${lacking}`);
/** What refers to it is asked only where there is something to be asked: its policies may refuse that. */
const hasLeftOver = async (mending: Mending, { side, rowless, leftOver }: Key) =>
  (await has(mending, `${side} k where ${rowless}`)) && (await has(mending, `${side} k where ${leftOver}`));

async function has({ pool, locking }: Mending, what: string): Promise<boolean> {
  const { rows } = await runUntilStopped<{ has: boolean }>(
    pool,
    locking.stop,
    `select exists (select from ${what}) as has`,
  );
  return rows[0]?.has === true;
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
  let written = 0;
  for (const leaf of await leavesOf(mending.pool, quoted(mending))) {
    if (!(await lacks(mending, key, `only ${leaf}`))) continue;
    written += await fillFrom(mending, key, { leaf, condition: key.lacking });
  }
  if (written === 0 || !(await lacks(mending, key))) return written;
  // One was written twice before the trigger was back, or rows went to a partition that was not there.
  await assertOnce(mending, key, STAYS);
  throw new AppError(
    'PARTITIONS_BUSY',
    `Rows of ${nameOf(mending)} went to other months while their keys were written down. What was written stays: run it again.`,
  );
}

/** @throws AppError PARTITIONS_BUSY where somebody holds what is left */
async function takeKeysAway(mending: Mending, key: Key): Promise<number> {
  const { pool, locking, onStep } = mending;
  if (!(await hasLeftOver(mending, key))) return 0;
  const take = `select partitions.take_keys_away(${literal(key.side)}, ${literal(key.leftOver)}, ${TAKEN_AT_ONCE})::int as taken`;
  let takenAway = 0;
  for (let taken = TAKEN_AT_ONCE; taken === TAKEN_AT_ONCE; takenAway += taken) {
    taken = (await runUntilStopped<{ taken: number }>(pool, locking.stop, take)).rows[0]?.taken ?? 0;
    onStep(`taking keys away from ${key.side}`, takenAway, 0);
  }
  if (await hasLeftOver(mending, key))
    throw new AppError(
      'PARTITIONS_BUSY',
      `Keys in ${mending.kept.schema}.${key.name} that no row has are held by somebody. What else was mended stays: run it again.`,
    );
  return takenAway;
}
