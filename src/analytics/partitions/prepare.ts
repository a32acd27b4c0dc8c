import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { holdsKey, readFacts, referenceTo, type TableFacts } from './facts.ts';
import { identityOf } from './findings.ts';
import type { Entry } from './mapping.ts';
import type { Month } from './months.ts';
import {
  byKeyName,
  closingCheck,
  columnList,
  ident,
  literal,
  named,
  notNullCheck,
  pastIndex,
  pastKey,
  qualified,
  quotedName,
  sideTable,
} from './names.ts';
import {
  emptierName,
  emptierStatement,
  filledStatement,
  fillSideTable,
  findTwice,
  hasKey,
  keeperName,
  keeperStatements,
  type SideTable,
  sideTableStatements,
} from './side-tables.ts';
import { assertNotStopped, runUntilStopped, validateConstraint } from './stopped.ts';

const ROWS_AT_ONCE = 5_000;
/** How long rows that somebody holds are waited for, before they are given up. */
const WAIT_MS = 100;
const MOST_WAITS = 300;

export interface Preparing {
  readonly pool: Pool;
  readonly tableId: number;
  readonly entry: Entry;
  readonly locking: UnderLockOptions;
  readonly onStep: (what: string, done: number, total: number) => void;
}

/**
 * Everything that takes long before the table becomes a partition, each step by itself and beside whoever writes: run again, it goes on.
 * @throws AppError PARTITIONS_BUSY, PARTITIONS_NULL_KEY, STOPPED, DB_*
 */
export async function prepare(preparing: Preparing, endOfPast: Month | null): Promise<void> {
  const facts = await factsOf(preparing);
  await keepKeysAside(preparing, facts);
  await fillInstants(preparing, facts);
  await buildIndexes(preparing, facts);
  if (facts.key?.isNotNull === false) {
    const check = { name: notNullCheck(facts.name), condition: `${ident(preparing.entry.by)} is not null` };
    await addCheck(preparing, check);
    // Those that came meanwhile: from here on none does.
    await fillInstants(preparing, facts);
    await readForCheck(preparing, check.name);
  }
  if (endOfPast !== null) {
    const check = { name: closingCheck(facts.name), condition: await beforeSql(preparing, facts, endOfPast) };
    await addCheck(preparing, check);
    await readForCheck(preparing, check.name);
  }
}

async function factsOf({ pool, entry }: Preparing): Promise<TableFacts> {
  const facts = await readFacts(pool, entry.table, entry.by);
  if (facts === undefined)
    throw new AppError(
      'PARTITIONS_DRIFTED',
      `${entry.table} is not there any more. Make another plan: liventix partitions plan`,
    );
  return facts;
}

async function beforeSql({ pool, entry }: Preparing, facts: TableFacts, end: Month): Promise<string> {
  const { rows } = await pool.query<{ bound: string }>('select partitions.month_bound($1, $2, $3) as bound', [
    end,
    entry.zone,
    facts.key?.type,
  ]);
  return `${ident(entry.by)} < ${rows[0]?.bound}`;
}

/** Not valid: nobody waits for the rows to be read. */
async function addCheck(
  { pool, entry, locking }: Preparing,
  { name, condition }: { readonly name: string; readonly condition: string },
): Promise<void> {
  const table = quotedName(entry.table);
  if ((await readConstraint(pool, table, name)) !== undefined) return;
  await underLock(pool, locking, async (tx) => ({
    names: [table],
    locksLater: 0,
    work: () => tx.query(`alter table ${table} add constraint ${ident(name)} check (${condition}) not valid`),
  }));
}

/** Reads the rows for it, beside whoever writes. */
async function readForCheck({ pool, entry, locking, onStep }: Preparing, name: string): Promise<void> {
  const table = quotedName(entry.table);
  if ((await readConstraint(pool, table, name))?.isValid === true) return;
  onStep(`reading ${entry.table} for ${name}`, 0, 0);
  await validateConstraint(pool, { table, name }, locking);
}

async function readConstraint(
  pool: Pool,
  table: string,
  name: string,
): Promise<{ readonly isValid: boolean } | undefined> {
  const { rows } = await pool.query<{ isValid: boolean }>(
    'select convalidated as "isValid" from pg_constraint where conrelid = $1::regclass and conname = $2',
    [table, name],
  );
  return rows[0];
}

/** What is built concurrently: for the keys with the instant, and what the mapping asks for. */
async function buildIndexes(preparing: Preparing, facts: TableFacts): Promise<void> {
  const { entry, onStep } = preparing;
  const primary = facts.uniqueKeys.find(({ isPrimary }) => isPrimary);
  const wanted = [
    ...(primary === undefined || holdsKey(primary, entry.by)
      ? []
      : [
          {
            name: pastKey(facts.name),
            isUnique: true,
            definition: `btree (${columnList([...primary.columns, entry.by])})`,
          },
        ]),
    ...entry.indexes.map((definition, nth) => ({ name: pastIndex(facts.name, nth), isUnique: false, definition })),
  ];
  for (const [nth, index] of wanted.entries()) {
    onStep(`building indexes of ${entry.table}`, nth, wanted.length);
    await buildIndex(preparing, facts, index);
  }
}

async function buildIndex(
  { pool, locking }: Preparing,
  { schema, name: table }: TableFacts,
  { name, isUnique, definition }: { readonly name: string; readonly isUnique: boolean; readonly definition: string },
): Promise<void> {
  const { rows } = await pool.query<{ isValid: boolean }>(
    `select x.indisvalid as "isValid" from pg_index x where x.indexrelid = to_regclass($1) and x.indrelid = $2::regclass`,
    [qualified(schema, name), qualified(schema, table)],
  );
  if (rows[0]?.isValid === true) return;
  // What an interrupted run left is of no use to anybody.
  if (rows[0] !== undefined)
    await runUntilStopped(pool, locking.stop, `drop index concurrently ${qualified(schema, name)}`);
  const unique = isUnique ? 'unique ' : '';
  await runUntilStopped(
    pool,
    locking.stop,
    `create ${unique}index concurrently ${ident(name)} on ${qualified(schema, table)} using ${definition}`,
  );
}

/** Rows without an instant get the one that the mapping says, some at a time. */
async function fillInstants({ pool, entry, locking, onStep, tableId }: Preparing, facts: TableFacts): Promise<void> {
  if (facts.key?.isNotNull === true) return;
  const [table, key] = [qualified(facts.schema, facts.name), ident(entry.by)];
  const pair = [...identityOf(facts.uniqueKeys), entry.by].map((each) => `${literal(each)}, f.${ident(each)}`);
  let [filled, waits] = [0, 0];
  for (;;) {
    assertNotStopped(locking.stop);
    const { rows: left } = await pool.query<{ none: boolean }>(
      `select not exists (select from ${table} where ${key} is null) as none`,
    );
    if (left[0]?.none === true) return;
    if (entry.whenNull === undefined) {
      throw new AppError(
        'PARTITIONS_NULL_KEY',
        `Rows of ${entry.table} have no ${entry.by}, and lie in no month. Say in the mapping what they get: "whenNull": "<expression over the row>".`,
      );
    }
    const { rows } = await pool.query<{ found: number; without: number }>(
      `with unfilled as (
         select t.ctid, (${entry.whenNull}) as instant from ${table} t where t.${key} is null limit ${ROWS_AT_ONCE} for update of t skip locked
       ),
       filled as (
         update ${table} t set ${key} = u.instant from unfilled u
         where t.ctid = u.ctid and not exists (select from unfilled where instant is null) returning t.*
       ),
       noted as (insert into partitions.filled (table_id, pair) select ${tableId}, jsonb_build_object(${pair.join(', ')}) from filled f)
       select count(*)::int as found, count(*) filter (where instant is null)::int as without from unfilled`,
    );
    const { found = 0, without = 0 } = rows[0] ?? {};
    if (without > 0) {
      throw new AppError(
        'PARTITIONS_NULL_KEY',
        `"whenNull": "${entry.whenNull}" gives no instant to ${without} rows of ${entry.table} and more. Say another in the mapping.`,
      );
    }
    filled += found;
    if (found === 0) {
      waits += 1;
      if (waits > MOST_WAITS)
        throw new AppError(
          'PARTITIONS_BUSY',
          `Rows of ${entry.table} without ${entry.by} are held by somebody. What was filled stays: run it again.`,
        );
      await sleep(WAIT_MS);
    }
    onStep(`filling ${entry.by} of ${entry.table}`, filled, 0);
  }
}

/** Unique keys that cannot hold the instant and have to be unique all the same: other tables refer to them, or the mapping says so. */
function keysAside(
  { uniqueKeys, references }: TableFacts,
  { by, uniqueOverAll }: Entry,
): readonly (readonly string[])[] {
  const wanted = [...references.map(({ refersTo }) => refersTo), ...uniqueOverAll].filter(
    (columns) => !columns.includes(by),
  );
  const others = uniqueKeys
    .filter((key) => !key.isPrimary && !key.isPartial && !holdsKey(key, by))
    .map(({ columns }) => columns);
  return [...new Map([...wanted, ...others].map((columns) => [columns.toSorted().join(), columns])).values()];
}

async function keepKeysAside(preparing: Preparing, facts: TableFacts): Promise<void> {
  for (const [nth, columns] of keysAside(facts, preparing.entry).entries()) {
    await keepKeyAside(preparing, facts, columns, nth);
  }
}

/** Trigger first, then the rows there are, then the foreign keys: whatever comes meanwhile comes by the trigger. */
async function keepKeyAside(
  preparing: Preparing,
  facts: TableFacts,
  columns: readonly string[],
  nth: number,
): Promise<void> {
  const { pool, tableId, entry, locking, onStep } = preparing;
  const table = qualified(facts.schema, facts.name);
  const { rows } = await pool.query<{ name: string }>(
    'select side_table as name from partitions.keys where table_id = $1 and columns = $2',
    [tableId, columns],
  );
  const name = rows[0]?.name ?? (await freeName(pool, facts.schema, sideTable(facts.name, columns)));
  const side = qualified(facts.schema, name);
  const keys = { side, by: entry.by, columns };
  if (rows.length === 0) {
    await assertOnce(preparing, facts, columns);
    await underLock(pool, locking, async (tx) => ({
      names: [table],
      locksLater: 0,
      work: () =>
        tx.query(
          [
            ...sideTableStatements(table, { ...keys, name, owner: facts.owner }),
            ...keeperStatements(table, keys, keeperName(nth)),
            emptierStatement(table, keys, emptierName(nth)),
            `insert into partitions.keys (table_id, columns, side_table, relation)
             values (${tableId}, array[${columns.map((each) => literal(each)).join(', ')}], ${literal(name)}, ${literal(side)}::regclass)`,
          ].join(';\n'),
        ),
    }));
  }
  await fillOnce(preparing, table, keys);
  for (const reference of facts.references.filter(({ refersTo }) => refersTo.join() === columns.join())) {
    const byKey = byKeyName(reference.name);
    const definition = referenceTo(reference, side);
    const known = await readConstraint(pool, reference.table, byKey);
    if (known === undefined) {
      await underLock(pool, locking, async (tx) => ({
        names: [reference.table],
        locksLater: 1,
        work: () => tx.query(`alter table ${reference.table} add constraint ${ident(byKey)} ${definition} not valid`),
      }));
    }
    if (known?.isValid !== true) {
      onStep(`reading ${reference.table} for ${byKey}`, 0, 0);
      await validateConstraint(pool, { table: reference.table, name: byKey }, locking);
    }
  }
}

/** A side table of that name may have had to stay when another table of this one's name was given up. */
async function freeName(pool: Pool, schema: string, wanted: string): Promise<string> {
  for (let nth = 1; ; nth += 1) {
    const name = nth === 1 ? wanted : named(wanted, `_${nth}`);
    const { rows } = await pool.query<{ isFree: boolean }>('select to_regclass($1) is null as "isFree"', [
      qualified(schema, name),
    ]);
    if (rows[0]?.isFree === true) return name;
  }
}

/** A key that nothing keeps yet may be there twice. @throws AppError PARTITIONS_KEY_TWICE */
async function assertOnce(
  { pool, entry, locking }: Preparing,
  facts: TableFacts,
  columns: readonly string[],
): Promise<void> {
  const isKept = facts.uniqueKeys.some(
    (key) => !key.isPartial && key.columns.toSorted().join() === columns.toSorted().join(),
  );
  if (isKept) return;
  const { first } = await findTwice(pool, { table: qualified(facts.schema, facts.name), columns, stop: locking.stop });
  if (first.length === 0) return;
  throw new AppError(
    'PARTITIONS_KEY_TWICE',
    `(${columns.join(', ')}) of ${entry.table} is to be unique over all, and ${first.join(', ')} is there more than once. Change or delete such rows, or leave it out of "uniqueOverAll".`,
  );
}

/** Its comment says that it is filled: from then on the trigger sees to it alone. */
async function fillOnce({ pool, entry, locking, onStep }: Preparing, table: string, keys: SideTable): Promise<void> {
  const { side, columns } = keys;
  const { rows } = await pool.query<{ isFilled: boolean }>(
    `select exists (select from pg_description d where d.objoid = $1::regclass and d.objsubid = 0) as "isFilled"`,
    [side],
  );
  if (rows[0]?.isFilled === true) return;
  await fillSideTable({
    ...keys,
    pool,
    locking,
    leaf: table,
    condition: hasKey(columns),
    onBlock: (block, blocks) => onStep(`keeping keys of ${entry.table}`, block, blocks),
  });
  await pool.query(filledStatement(entry.table, keys));
}
