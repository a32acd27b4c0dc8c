import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { isUniqueViolation } from '../../db/sqlstate.ts';
import { withTransaction } from '../../db/transaction.ts';
import { underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { type ApplyOptions, letReferencesGo, lockingOf, oneByOne } from './apply.ts';
import { isOfMonths } from './attach.ts';
import {
  beginCopy,
  type Copying,
  copyAll,
  drainAll,
  drainMost,
  endCopy,
  type FromTo,
  giveUpCopy,
  giveUpInVain,
  whyItFailed,
} from './copy.ts';
import { type Reference, readFacts, readFactsIn, referenceTo, type TableFacts } from './facts.ts';
import { identityOf } from './findings.ts';
import { remakeFollowers, rememberFollowers } from './followers.ts';
import { finishTable, type Wanted } from './leaf.ts';
import {
  ASIDE,
  closingCheck,
  columnList,
  ident,
  leavesOf,
  literal,
  notNullCheck,
  pastKey,
  pastName,
  qualified,
  quotedName,
  STAGE,
  stagedName,
} from './names.ts';
import { compareCopy } from './proof.ts';
import { dropStatement, keepsKeys } from './side-tables.ts';
import { renameSideTablesBack } from './side-tables-back.ts';
import { runUntilStopped, validateConstraint } from './stopped.ts';
import type { KeptTable } from './tables.ts';
import { readTables } from './tables.ts';
import { comeForward, letGo, locksOf, sameStanding, setAside, takeOver } from './take-place.ts';

export interface RollbackOptions extends Omit<ApplyOptions, 'entries' | 'keepsPast' | 'now' | 'onOutcome'> {
  /** With their schemas; all when there are none. */
  readonly tables: readonly string[];
  /** Told when there is something to do. */
  readonly onBegin?: (() => void) | undefined;
  readonly onOutcome?: ((outcome: PutBack) => void) | undefined;
}

export type PutBack = { readonly table: string } & (
  | { readonly status: 'back'; readonly lockedMs: number }
  /** What apply had begun, or a table that is lost. `left`: what stays of it, and why. */
  | { readonly status: 'given up'; readonly left: readonly string[] }
  | { readonly status: 'skipped'; readonly reasons: readonly string[] }
);

/**
 * Makes plain tables again of those that are kept by month, with every row that is in them now, while they are used. The months are set aside.
 * @throws AppError PARTITIONS_RUNNING, PARTITIONS_TABLE_UNKNOWN, STOPPED, DB_*
 */
export const rollBackPartitions = (pool: Pool, options: RollbackOptions): Promise<readonly PutBack[]> =>
  oneByOne(pool, {
    ...options,
    choose: async (modest) => {
      const chosen = await chooseToPutBack(modest, options.tables);
      if (chosen.length > 0) options.onBegin?.();
      return chosen;
    },
    work: (modest, kept, stop) => putBack(modest, kept, { ...options, stop }),
  });

/** @throws AppError PARTITIONS_TABLE_UNKNOWN */
export async function chooseToPutBack(pool: Pool, tables: readonly string[]): Promise<readonly KeptTable[]> {
  const all = await readTables(pool);
  const unknown = tables.find((table) => !all.some(({ schema, name }) => `${schema}.${name}` === table));
  if (unknown !== undefined) {
    throw new AppError(
      'PARTITIONS_TABLE_UNKNOWN',
      `${unknown} is not kept by month. Those that are: liventix partitions status`,
    );
  }
  return tables.length === 0 ? all : all.filter(({ schema, name }) => tables.includes(`${schema}.${name}`));
}

async function putBack(pool: Pool, kept: KeptTable, options: RollbackOptions): Promise<PutBack> {
  const table = `${kept.schema}.${kept.name}`;
  const copying: Copying = {
    pool,
    tableId: kept.id,
    table,
    locking: lockingOf({ table }, options),
    restFactor: options.restFactor ?? 0,
    onStep: options.onStep ?? (() => undefined),
  };
  try {
    await giveUpCopy(copying, 'apply');
    const place = await findPlace(pool, kept);
    if (place === undefined) return { table, status: 'given up', left: await forget(copying, kept) };
    // Foreign keys that refer to one of them would be lost with its name.
    await renameSideTablesBack({ ...copying, kept });
    if (kept.state !== 'preparing') await assertReferencesHold(copying, kept);
    const lockedMs = kept.state === 'preparing' ? undefined : await copyBack(copying, kept);
    await cleanUp(copying, kept, place);
    await letReferencesGo(pool, { table }, options);
    return lockedMs === undefined ? { table, status: 'given up', left: [] } : { table, status: 'back', lockedMs };
  } catch (thrown) {
    const error = keyTwice(thrown, table) ?? (await whyItFailed(copying, thrown));
    if (!SKIPPED.has(error.code)) throw error;
    const left = await giveUpInVain(copying, 'rollback', error);
    return { table, status: 'skipped', reasons: [error.message, ...left] };
  }
}

type Place = Pick<KeptTable, 'schema' | 'name'>;

/**
 * Where a table is by now: what was only prepared is to be found under another name, and what was made for it goes from there.
 * @returns undefined where it is lost
 */
async function findPlace(pool: Pool, kept: KeptTable): Promise<Place | undefined> {
  if (!kept.isLost) return kept;
  if (kept.state !== 'preparing') return undefined;
  const { rows } = await pool.query<Place>(
    `select n.nspname as schema, c.relname as name from partitions.tables t join pg_class c on c.oid = t.relation join pg_namespace n on n.oid = c.relnamespace
     where t.id = $1`,
    [kept.id],
  );
  return rows[0];
}

/**
 * Of a table that is lost, all that is ours goes. A table of keys stays that others refer to, or that is kept by what bears another name by now: who writes
 * there would be refused.
 * @returns those that stay, and why
 */
async function forget(copying: Copying, kept: KeptTable): Promise<readonly string[]> {
  const { pool, locking } = copying;
  const { id, schema } = kept;
  await giveUpCopy(copying, 'rollback');
  return givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, async (tx) => {
    const left: string[] = [];
    const { rows } = await tx.query<{ side: string }>(
      'delete from partitions.keys where table_id = $1 returning side_table as side',
      [id],
    );
    for (const { side } of rows) {
      const users = await usersOf(tx, qualified(schema, side));
      if (users.length > 0) left.push(`${schema}.${side} stays, for ${users.join(', ')}`);
      else await tx.query(dropStatement(schema, side));
    }
    await tx.query(
      [
        `drop table if exists ${qualified(STAGE, stagedName(id))}`,
        ...['captured', 'filled', 'reconciled'].map((of) => `delete from partitions.${of} where table_id = ${id}`),
        `delete from partitions.tables where id = ${id}`,
      ].join(';\n'),
    );
    return left;
  });
}

/** Foreign keys that refer to a table of keys, and triggers that keep it, in words. */
async function usersOf(tx: Tx, side: string): Promise<readonly string[]> {
  const { rows } = await tx.query<{ user: string }>(
    `select pg_describe_object('pg_constraint'::regclass, f.oid, 0) as user from pg_constraint f where f.confrelid = to_regclass($1) and f.contype = 'f' and f.conparentid = 0
     union all
     select pg_describe_object('pg_trigger'::regclass, g.oid, 0) from pg_trigger g
     where g.tgfoid = 'partitions.keep_key()'::regprocedure and g.tgparentid = 0 and position(convert_to($1, getdatabaseencoding()) || '\\x00'::bytea in g.tgargs) = 1`,
    [side],
  );
  return rows.map(({ user }) => user);
}

/**
 * What a month took with it is known to the side table still, while something refers to it: a foreign key to a plain table would not hold.
 * @throws AppError PARTITIONS_ROWS_GONE
 */
async function assertReferencesHold({ pool, table, locking, onStep }: Copying, kept: KeptTable): Promise<void> {
  const references = await withTransaction(pool, (tx) => readKeyReferences(tx, kept));
  for (const { table: referring, columns, refersTo, name } of references) {
    onStep(`reading ${referring} for ${name}`, 0, 0);
    const same = columns.map((column, nth) => `t.${ident(refersTo[nth] ?? '')} = r.${ident(column)}`).join(' and ');
    const { rows } = await runUntilStopped<{ orphans: bigint }>(
      pool,
      locking.stop,
      `select count(*) as orphans from ${referring} r
       where (${columnList(columns)}) is not null and not exists (select from ${qualified(kept.schema, kept.name)} t where ${same})`,
    );
    const orphans = rows[0]?.orphans ?? 0n;
    if (orphans > 0n) {
      throw new AppError(
        'PARTITIONS_ROWS_GONE',
        `${orphans} rows of ${referring} refer by ${name} to rows of ${table} that went with their months. Delete them, or drop the foreign key, and run it again.`,
      );
    }
  }
}

/** By its months a table has the key with the instant: the key alone may be there twice, unless a table of keys saw to it. */
function keyTwice(thrown: unknown, table: string): AppError | undefined {
  const cause = (thrown as AppError).cause ?? thrown;
  if (!isUniqueViolation(cause)) return undefined;
  return new AppError(
    'PARTITIONS_KEY_TWICE',
    `Two rows of ${table} in two months have the same key, which a plain table cannot have: ${(cause as { detail?: string }).detail} Change or delete one; liventix partitions verify names all such. Then run it again.`,
    { cause },
  );
}

const SKIPPED: ReadonlySet<string> = new Set([
  'PARTITIONS_KEY_TWICE',
  'PARTITIONS_ROWS_GONE',
  'PARTITIONS_BUSY',
  'PARTITIONS_TOO_LONG',
  'PARTITIONS_DRIFTED',
  'PARTITIONS_DIFFERENT',
  'DB_CONFLICT',
  'DB_FAILED',
  'DB_PERMISSION_DENIED',
]);

/** Takes away what was prepared of a table, and sees to what follows when it is a plain one again. Run again, it does what is left. */
async function cleanUp(copying: Copying, kept: KeptTable, place: Place): Promise<void> {
  const { pool, locking, tableId } = copying;
  const { name, by } = kept;
  const table = qualified(place.schema, place.name);
  await remakeFollowers({ pool, tableId, locking, onStep: copying.onStep });
  await takeMonthsAside(pool, copying.table);
  const facts = await readFacts(pool, `${place.schema}.${place.name}`, by);
  if (facts !== undefined) {
    await underLock(pool, locking, async (tx) => {
      const references = await readKeyReferences(tx, kept);
      return {
        names: [table, ...new Set(references.map((each) => each.table))],
        locksLater: 0,
        work: async () => {
          await tx.query(unprepare(facts, kept, references).join(';\n'));
          await dropSideTables(tx, kept);
        },
      };
    });
    const prepared = [...facts.indexes.filter(isPrepared(name)).map((index) => index.name), pastKey(name)];
    for (const index of prepared)
      await runUntilStopped(pool, locking.stop, `drop index concurrently if exists ${qualified(place.schema, index)}`);
    await takeInstantsAway(copying, kept, place);
    await giveRowsBack(pool, kept);
    for (const each of facts.references.filter(({ isValidated }) => !isValidated)) {
      await validateConstraint(pool, each, locking);
    }
  }
  await pool.query('delete from partitions.tables where id = $1', [tableId]);
}

/** The months of what was set aside, each by itself: nobody uses them. */
async function takeMonthsAside(pool: Pool, table: string): Promise<void> {
  const { rows } = await pool.query<{ month: string }>(
    `select h.inhrelid::regclass::text as month from partitions.set_aside s join pg_inherits h on h.inhparent = to_regclass(s.relation)
     join pg_class c on c.oid = h.inhrelid where s.table_name = $1 and c.relnamespace <> $2::regnamespace`,
    [table, ASIDE],
  );
  for (const { month } of rows) await pool.query('select partitions.put_aside($1::regclass)', [month]);
}

const isPrepared = (table: string) => (index: { readonly name: string }) => index.name.startsWith(pastName(table));

/** Foreign keys that refer to its side tables, wherever those are by now that have them. */
async function readKeyReferences(tx: Tx, { id, schema, by }: KeptTable): Promise<readonly Reference[]> {
  const { rows } = await tx.query<{ side: string }>(
    'select side_table as side from partitions.keys where table_id = $1',
    [id],
  );
  const references: Reference[] = [];
  for (const { side } of rows) references.push(...((await readFactsIn(tx, `${schema}.${side}`, by))?.references ?? []));
  return references;
}

function unprepare(
  { schema, name: present, triggers }: TableFacts,
  { id, name }: KeptTable,
  references: readonly Reference[],
): readonly string[] {
  const table = qualified(schema, present);
  return [
    ...triggers.filter(keepsKeys).map((each) => `drop trigger ${ident(each.name)} on ${table}`),
    ...references.map((each) => `alter table ${each.table} drop constraint ${ident(each.name)}`),
    ...[closingCheck(name), notNullCheck(name)].map(
      (check) => `alter table ${table} drop constraint if exists ${ident(check)}`,
    ),
    `drop table if exists ${qualified(STAGE, stagedName(id))}`,
  ];
}

async function dropSideTables(db: Pick<Pool, 'query'>, { id, schema }: KeptTable): Promise<void> {
  const { rows } = await db.query<{ side: string }>(
    'delete from partitions.keys where table_id = $1 returning side_table as side',
    [id],
  );
  for (const { side } of rows) await db.query(dropStatement(schema, side));
}

/** Rows that were given an instant, and have that still, have none again. */
async function takeInstantsAway(
  { pool, locking }: Copying,
  { id, by, original }: KeptTable,
  { schema, name }: Place,
): Promise<void> {
  if (original.keyIsNotNull) return;
  const columns = identityOf(original.uniqueKeys);
  const same = columns.map((each) => `to_jsonb(t.*) -> ${literal(each)} = f.pair -> ${literal(each)}`).join(' and ');
  const table = qualified(schema, name);
  await runUntilStopped(
    pool,
    locking.stop,
    `with filled as (delete from partitions.filled where table_id = ${id} returning pair)
     update ${table} t set ${ident(by)} = null from filled f
     where ${same} and coalesce((jsonb_populate_record(null::${table}, f.pair)).${ident(by)} = t.${ident(by)}, true)`,
  );
}

/** Rows that came from a table of copies go, where they still say what they said there. */
async function giveRowsBack(pool: Pool, { id }: KeptTable): Promise<void> {
  const { rows } = await pool.query<{ copy: string }>(
    `select distinct copy from partitions.reconciled where table_id = $1 and finding = 'taken'`,
    [id],
  );
  for (const { copy } of rows)
    await pool.query('select partitions.give_rows_back($1, $2, to_regclass($3))', [id, copy, quotedName(copy)]);
  await pool.query('delete from partitions.reconciled where table_id = $1', [id]);
}

async function copyBack(copying: Copying, kept: KeptTable): Promise<number> {
  const { pool, tableId, locking } = copying;
  const { schema, name, original } = kept;
  const table = `${schema}.${name}`;
  const made = qualified(STAGE, stagedName(tableId));
  const facts = await factsOf(copying, kept);
  const fromTo: FromTo = {
    way: 'rollback',
    captured: qualified(schema, name),
    sources: await leavesOf(pool, qualified(schema, name)),
    target: made,
  };
  await beginCopy(copying, fromTo, async (tx) => {
    await tx.query(
      [
        `drop table if exists ${made}`,
        `create table ${made} (like ${qualified(schema, name)} including all excluding indexes excluding identity)`,
        ...(kept.storage.length === 0 ? [] : [`alter table ${made} set (${kept.storage.join(', ')})`]),
        ...(original.keyIsNotNull ? [] : [`alter table ${made} alter column ${ident(kept.by)} drop not null`]),
      ].join(';\n'),
    );
  });
  await copyAll(copying, fromTo);
  await runUntilStopped(pool, locking.stop, `select partitions.drop_changed(${tableId}, ${literal(made)})`);
  copying.onStep(`building indexes of ${table}`, 0, 0);
  await finishTable(copying, { name: made, bare: `${STAGE}.${stagedName(tableId)}` }, wantedAgain(facts, kept));
  await drainMost(copying, fromTo);
  await compareCopy(copying, fromTo);
  await drainMost(copying, fromTo);
  return underLock(pool, locking, async (tx) => {
    const now = (await readFactsIn(tx, table, kept.by)) ?? facts;
    const references = await readKeyReferences(tx, kept);
    return {
      names: [...new Set([...references.map((each) => each.table), ...locksOf(now)])],
      locksLater: 1,
      work: async () => {
        await drainAll(tx, copying, fromTo);
        await rememberFollowers(tx, tableId, now.readers);
        await tx.query(backStatements(now, kept, references).join(';\n'));
        await dropSideTables(tx, kept);
      },
    };
  });
}

async function factsOf({ pool }: Copying, { schema, name, by }: KeptTable): Promise<TableFacts> {
  const facts = await readFacts(pool, `${schema}.${name}`, by);
  if (facts !== undefined) return facts;
  throw new AppError(
    'PARTITIONS_DRIFTED',
    `There is no ${schema}.${name} any more. What is known of it: liventix partitions status`,
  );
}

/** Its own keys, and what it got since; without what it got for its months. */
const wantedAgain = (facts: TableFacts, { original }: KeptTable): Wanted => ({
  uniqueKeys: [
    ...original.uniqueKeys,
    ...facts.uniqueKeys.filter(
      ({ name, isPrimary }) => !isPrimary && !original.uniqueKeys.some((key) => key.name === name),
    ),
  ],
  indexes: facts.indexes.filter(({ name }) => !isOfMonths(facts.name, name)),
  foreignKeys: facts.foreignKeys,
  areNamed: true,
});

/** The SQL that puts the plain table in the place of the months, when it is locked and nothing is left to be drained. Pure. */
function backStatements(facts: TableFacts, { id }: KeptTable, references: readonly Reference[]): readonly string[] {
  const { schema, name } = facts;
  const table = qualified(schema, name);
  return [
    ...endCopy(id, table),
    ...sameStanding(facts, qualified(STAGE, stagedName(id))),
    ...references.map((each) => `alter table ${each.table} drop constraint ${ident(each.name)}`),
    ...letGo(facts),
    ...setAside(schema, name, `${schema}.${name}`),
    ...comeForward(facts, id),
    `select partitions.replaced(${facts.oid}, ${literal(table)}::regclass)`,
    ...takeOver(facts, (trigger) => !keepsKeys(trigger)),
    // Not valid, so that nobody waits for the rows to be read.
    ...references.map(
      (each) => `alter table ${each.table} add constraint ${ident(each.name)} ${referenceTo(each, table)} not valid`,
    ),
    `update partitions.tables set state = 'preparing', past = null where id = ${id}`,
  ];
}
