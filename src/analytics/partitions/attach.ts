import type { Pool, Tx } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { holdsKey, readFactsIn, type TableFacts, type UniqueKey } from './facts.ts';
import { rememberFollowers } from './followers.ts';
import { keyStatement } from './leaf.ts';
import type { Entry } from './mapping.ts';
import { type Month, monthsBetween } from './months.ts';
import {
  byKeyName,
  closingCheck,
  columnList,
  ident,
  literal,
  notNullCheck,
  pastKey,
  pastName,
  qualified,
  STAGE,
  stagedName,
  stem,
} from './names.ts';
import { assertNotStopped } from './stopped.ts';
import { comeForward, letGo, locksOf, sameStanding, takeOver } from './take-place.ts';

export interface Attaching {
  readonly tableId: number;
  readonly entry: Entry;
  /** The first month that is no longer of the past; null where rows lie beyond it, so that all there are are of it. */
  readonly endOfPast: Month | null;
  /** Before this one there are to be months. */
  readonly endOfMonths: Month;
}

/**
 * Makes a table the first partition of one that bears its name, in one short transaction. Everything that takes long was done before.
 * @returns for how long the table was locked, in ms
 * @throws AppError PARTITIONS_BUSY, PARTITIONS_TOO_LONG, PARTITIONS_DRIFTED, STOPPED, DB_*
 */
export async function attachPast(pool: Pool, attaching: Attaching, options: UnderLockOptions): Promise<number> {
  const { tableId, entry } = attaching;
  const staged = await stage(pool, attaching, options);
  return underLock(pool, options, async (tx) => {
    const facts = await factsOf(tx, entry);
    return {
      names: locksOf(facts),
      locksLater: facts.foreignKeys.length,
      work: async () => {
        assertNotStopped(options.stop);
        if ((await fingerprintOf(tx, facts.oid)) !== staged.fingerprint) throw drifted(entry.table);
        await tx.query(swapStatements(facts, attaching).join(';\n'));
        await tx.query(`update partitions.tables set state = 'attached', past = $2, closes_at = null where id = $1`, [
          tableId,
          pastName(facts.name),
        ]);
        await rememberFollowers(tx, tableId, facts.readers);
      },
    };
  });
}

const drifted = (table: string): AppError =>
  new AppError(
    'PARTITIONS_DRIFTED',
    `${table} was changed while its successor was made. Nothing was done to it: run it again.`,
  );

async function fingerprintOf(tx: Tx, oid: number): Promise<string | undefined> {
  const { rows } = await tx.query<{ fingerprint: string }>(
    'select restructure.fingerprint(restructure.facts_of(array[$1::oid])) as fingerprint',
    [oid],
  );
  return rows[0]?.fingerprint;
}

async function factsOf(tx: Tx, { table, by }: Entry): Promise<TableFacts> {
  const facts = await readFactsIn(tx, table, by);
  if (facts === undefined)
    throw new AppError(
      'PARTITIONS_DRIFTED',
      `${table} is not there any more. Make another plan: liventix partitions plan`,
    );
  return facts;
}

/** Makes what is to bear the table's name, empty, with the months ahead. @returns what it was made for */
async function stage(pool: Pool, attaching: Attaching, options: UnderLockOptions): Promise<TableFacts> {
  let made: TableFacts | undefined;
  await underLock(pool, options, async (tx) => {
    const facts = await factsOf(tx, attaching.entry);
    made = facts;
    return {
      // Foreign keys lock what they refer to, and that alone.
      names: [],
      locksLater: Math.max(1, facts.foreignKeys.length),
      work: () => tx.query(stageStatements(facts, attaching).join(';\n')),
    };
  });
  if (made === undefined) throw new AppError('INTERNAL', 'Nothing was staged.');
  return made;
}

/** The SQL that makes the partitioned table in the stage. Pure. */
function stageStatements(facts: TableFacts, { tableId, entry, endOfPast, endOfMonths }: Attaching): readonly string[] {
  const made = qualified(STAGE, stagedName(tableId));
  const keys = facts.uniqueKeys.filter((key) => holdsKey(key, entry.by));
  const primary = facts.uniqueKeys.find(({ isPrimary }) => isPrimary);
  return [
    `drop table if exists ${made}`,
    `create table ${made} (like ${qualified(facts.schema, facts.name)} including all excluding indexes excluding identity) partition by range (${ident(entry.by)})`,
    ...[closingCheck(facts.name), notNullCheck(facts.name)].map(
      (check) => `alter table ${made} drop constraint if exists ${ident(check)}`,
    ),
    `alter table ${made} alter column ${ident(entry.by)} set not null`,
    ...(primary === undefined || holdsKey(primary, entry.by)
      ? []
      : [
          `alter table ${made} add constraint ${ident(primary.name)} primary key (${columnList([...primary.columns, entry.by])})`,
        ]),
    ...keys.filter(({ name }) => name !== pastKey(facts.name)).map((key) => keyStatement(made, key)),
    ...facts.indexes.map(
      ({ name, definition }) => `create index ${ident(nameOfMonths(facts, name))} on ${made} using ${definition}`,
    ),
    ...facts.foreignKeys.map((key) => `alter table ${made} add constraint ${ident(key.name)} ${key.definition}`),
    ...sameStanding(facts, made),
    // What is attached without an end leaves no room for months beside it.
    ...(endOfPast === null
      ? []
      : [
          ...monthsBetween(endOfPast, endOfMonths).map(
            (month) => `select partitions.make_month(${tableId}, ${literal(made)}, ${literal(month)})`,
          ),
          `select partitions.make_default(${tableId}, ${literal(made)})`,
        ]),
  ];
}

/** What the mapping asks for beside the indexes that the table had. */
const OF_MONTHS = '_months_';
export const isOfMonths = (table: string, index: string): boolean => index.startsWith(`${stem(table)}${OF_MONTHS}`);
const nameOfMonths = (facts: TableFacts, index: string): string =>
  isOfPast(facts, index) ? `${stem(facts.name)}${OF_MONTHS}${index.slice(pastName(facts.name).length + 1)}` : index;

const isOfPast = ({ name }: TableFacts, index: string): boolean => index.startsWith(pastName(name));

/** The SQL that puts it in the table's place and attaches the table to it. Pure. */
function swapStatements(facts: TableFacts, { tableId, entry, endOfPast }: Attaching): readonly string[] {
  const { schema, name, references } = facts;
  const [table, past] = [qualified(schema, name), qualified(schema, pastName(name))];
  const key = ident(entry.by);
  return [
    ...references.flatMap((each) => [
      `alter table ${each.table} drop constraint ${ident(each.name)}`,
      `alter table ${each.table} rename constraint ${ident(byKeyName(each.name))} to ${ident(each.name)}`,
    ]),
    ...letGo(facts),
    `alter table ${table} alter column ${key} set not null`,
    `alter table ${table} drop constraint if exists ${ident(notNullCheck(name))}`,
    ...facts.uniqueKeys.flatMap((each, nth) => keyOfPast(each, nth, facts, entry)),
    ...facts.indexes.flatMap((index, nth) => renameOfPast(index.name, facts, nth)),
    `alter table ${table} rename to ${ident(pastName(name))}`,
    ...comeForward(facts, tableId),
    `select partitions.replaced(${facts.oid}, ${literal(table)}::regclass)`,
    `select partitions.attach(${tableId}, ${literal(table)}, ${literal(past)}, null, ${endOfPast === null ? 'null' : literal(endOfPast)})`,
    ...takeOver(facts),
    // By its own name it shows nothing, as months do not.
    `select partitions.close_to_others(${literal(past)})`,
  ];
}

/** A unique key as the past has it: with the instant in it, under another name, as the server wants it of a partition. */
function keyOfPast(key: UniqueKey, nth: number, { schema, name }: TableFacts, entry: Entry): readonly string[] {
  const table = qualified(schema, name);
  if (key.name === pastKey(name)) return [];
  if (holdsKey(key, entry.by)) {
    const renamed = ident(`${pastName(name)}_u${nth}`);
    return [
      key.isConstraint
        ? `alter table ${table} rename constraint ${ident(key.name)} to ${renamed}`
        : `alter index ${qualified(schema, key.name)} rename to ${renamed}`,
    ];
  }
  return [
    key.isConstraint
      ? `alter table ${table} drop constraint ${ident(key.name)}`
      : `drop index ${qualified(schema, key.name)}`,
    ...(key.isPrimary
      ? [`alter table ${table} add constraint ${ident(pastKey(name))} primary key using index ${ident(pastKey(name))}`]
      : []),
  ];
}

function renameOfPast(index: string, facts: TableFacts, nth: number): readonly string[] {
  if (isOfPast(facts, index)) return [];
  return [`alter index ${qualified(facts.schema, index)} rename to ${ident(`${pastName(facts.name)}_i${nth}`)}`];
}
