import { givingWay } from '../../db/giving-way.ts';
import type { Pool } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { columnList, ident, leavesOf, literal, qualified } from './names.ts';
import {
  againName,
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
import { runUntilStopped } from './stopped.ts';
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

const nameOf = ({ kept: { schema, name } }: Mending): string => `${schema}.${name}`;
const quoted = ({ kept: { schema, name } }: Mending): string => qualified(schema, name);

interface PutBack {
  readonly faults: readonly string[];
  readonly written: number;
}

interface Missing {
  readonly name: string;
  readonly columns: readonly string[];
  readonly owner: string;
  /** As it is called by now, quoted, and where; null where it is gone. */
  readonly itself: string | null;
  readonly fault: string;
}

async function readMissing({ pool, kept }: Pick<Mending, 'pool' | 'kept'>): Promise<readonly Missing[]> {
  const { rows } = await pool.query<Missing>(
    `select k.side_table as name, k.columns::text[] as columns, pg_get_userbyid(t.relowner) as owner, u.fault,
       (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = k.relation) as itself
     from partitions.keys k join partitions.unkept_keys(k.table_id) u on u.columns = k.columns join pg_class t on t.oid = u.relation
     cross join lateral to_regclass(format('%I.%I', $2::text, k.side_table)) s (side)
     where k.table_id = $1 and (s.side is null or k.relation <> s.side) order by k.columns`,
    [kept.id, kept.schema],
  );
  return rows;
}

/**
 * Tables of keys that somebody renamed, or moved, have their name again.
 * @returns those @throws AppError PARTITIONS_BUSY, STOPPED, DB_*
 */
export async function renameSideTablesBack(
  mending: Pick<Mending, 'pool' | 'kept' | 'locking'>,
): Promise<readonly Missing[]> {
  const { pool, kept, locking } = mending;
  const renamed = (await readMissing(mending)).filter(({ itself }) => itself !== null);
  for (const missing of renamed) {
    await givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
      tx.query(`
        do $back$
        declare v_itself constant regclass := ${literal(missing.itself ?? '')};
        begin
          execute format('alter table %s rename to %I', v_itself, ${literal(missing.name)});
          if (select c.relnamespace from pg_class c where c.oid = v_itself) <> ${literal(ident(kept.schema))}::regnamespace then
            execute format('alter table %s set schema %I', v_itself, ${literal(kept.schema)});
          end if;
        end
        $back$`),
    );
  }
  return renamed;
}

/**
 * The same, and those that somebody dropped are there again when they have all keys: until then rows that are written are refused, and none comes of which a key is not
 * known.
 * @returns in words, what was the matter with each, by its name, and how many keys were written down
 * @throws AppError PARTITIONS_KEY_TWICE, PARTITIONS_BUSY, STOPPED, DB_*
 */
async function putSideTablesBack(mending: Mending): Promise<ReadonlyMap<string, PutBack>> {
  const renamed = await renameSideTablesBack(mending);
  const gone = await readMissing(mending);
  // Keys that are there twice are named before anything else is done.
  if (gone.length > 0) await assertAllOnce(mending);
  const back = new Map<string, PutBack>(renamed.map(({ name, fault }) => [name, { faults: [fault], written: 0 }]));
  for (const missing of gone)
    back.set(missing.name, { faults: [missing.fault], written: await remakeSideTable(mending, missing) });
  return back;
}

async function assertAllOnce(mending: Mending): Promise<void> {
  const { rows } = await mending.pool.query<{ columns: readonly string[] }>(
    'select columns::text[] as columns from partitions.keys where table_id = $1 order by columns',
    [mending.kept.id],
  );
  for (const key of rows) await assertOnce(mending, key, NOT_BEFORE);
}

/** Filled under a name that no trigger knows. What a run left that was broken off goes first. */
async function remakeSideTable(mending: Mending, { name, columns, owner }: Missing): Promise<number> {
  const { pool, kept, locking, onStep } = mending;
  const again = { side: qualified(kept.schema, againName(name)), by: kept.by, columns };
  const giving = { ...locking, code: 'PARTITIONS_BUSY' } as const;
  await givingWay(pool, giving, (tx) =>
    tx.query(
      [
        `drop table if exists ${again.side}`,
        ...sideTableStatements(quoted(mending), { ...again, name, owner }),
        filledStatement(nameOf(mending), again),
      ].join(';\n'),
    ),
  );
  const condition = `(${columnList(columns)}) is not null`;
  let written = 0;
  for (const leaf of await leavesOf(pool, quoted(mending)))
    written += await fillFrom(mending, again, { leaf, condition });
  onStep(`naming ${name}`, 0, 0);
  await givingWay(pool, giving, (tx) =>
    tx.query(`
      alter table ${again.side} rename to ${ident(name)};
      update partitions.keys set relation = ${literal(qualified(kept.schema, name))}::regclass where table_id = ${kept.id} and side_table = ${literal(name)}`),
  );
  return written;
}

const fillFrom = (
  { pool, locking, onStep }: Mending,
  side: SideTable,
  of: { readonly leaf: string; readonly condition: string },
): Promise<number> =>
  fillSideTable({
    ...side,
    ...of,
    pool,
    locking,
    onBlock: (block, blocks) => onStep(`keeping keys of ${of.leaf}`, block, blocks),
  });

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

const NOT_BEFORE = ': its keys are not mended before.';
const STAYS = ': what was mended of its keys stays.';

/** @param what that ends the message @throws AppError PARTITIONS_KEY_TWICE */
async function assertOnce(mending: Mending, { columns }: Pick<Key, 'columns'>, what: string): Promise<void> {
  const { first, count } = await findTwice(mending.pool, {
    table: quoted(mending),
    columns,
    stop: mending.locking.stop,
  });
  if (count === 0n) return;
  throw new AppError(
    'PARTITIONS_KEY_TWICE',
    `(${columns.join(', ')}) of ${nameOf(mending)} is to be there once over all months, and ${count} are there more than once: ${first.join(', ')}${count > first.length ? ' and more' : ''}. Change or delete such rows. Then run it again${what}`,
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
