import { createHash } from 'node:crypto';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { HELPERS, keyOf, PROJECTIONS, PROJECTORS, SCHEMA } from './projections.ts';

/** What a run found of another that was stopped or killed, or made anew. */
export interface Workspace {
  /** Up to where the log was rebuilt already; 0 where nothing was there. */
  readonly resumesAt: bigint;
}

export interface WorkspaceOptions {
  /** Only this book; all of them when left out. */
  readonly bookId: number | undefined;
  /** Keeps what is rebuilt for a later run, which swaps it. */
  readonly keep: boolean;
}

/**
 * Finds what a run before has rebuilt of these books, or begins anew: also where the projections are made otherwise by now, by a newer
 * version or by hand.
 * @throws AppError REBUILD_REFUSED, DB_*
 */
export function openWorkspace(pool: Pool, options: WorkspaceOptions): Promise<Workspace> {
  return withTransaction(pool, async (tx) => {
    const made = await definitions(tx);
    if (await isThere(tx)) {
      const found = await reuse(tx, made.fingerprint, options);
      if (found !== undefined) return found;
      await tx.query(`drop schema ${SCHEMA} cascade`);
    }
    await create(tx, made.functions);
    await tx.query(`insert into ${SCHEMA}.run (fingerprint, of_book, is_kept) values ($1, $2, $3)`, [
      made.fingerprint,
      options.bookId ?? null,
      options.keep,
    ]);
    return { resumesAt: 0n };
  });
}

/** Removes what was rebuilt. Nothing live hangs on it. */
export async function removeWorkspace(pool: Pool): Promise<boolean> {
  return withTransaction(pool, async (tx) => {
    if (!(await isThere(tx))) return false;
    await tx.query(`drop schema ${SCHEMA} cascade`);
    return true;
  });
}

/** Whether a run is to find it again, although it has ended. */
export async function isKept(db: Queryable): Promise<boolean> {
  const { rows } = await db.query<{ kept: boolean }>(`select r.is_kept as kept from ${SCHEMA}.run r`);
  return rows[0]?.kept === true;
}

/** A schema of that name which no rebuild made is somebody else's. */
async function isThere(db: Queryable): Promise<boolean> {
  const { rows } = await db.query<{ ours: boolean }>(
    `select exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'run') as ours
     from pg_namespace n where n.nspname = $1`,
    [SCHEMA],
  );
  if (rows[0]?.ours === false) {
    throw new AppError(
      'REBUILD_REFUSED',
      `There is a schema ${SCHEMA} that no rebuild made. Rename it, or drop it: the projections are rebuilt in one of that name.`,
    );
  }
  return rows[0] !== undefined;
}

async function reuse(tx: Tx, fingerprint: string, { bookId, keep }: WorkspaceOptions): Promise<Workspace | undefined> {
  const { rows } = await tx.query<{ position: bigint }>(
    `update ${SCHEMA}.run set is_kept = is_kept or $3
     where fingerprint = $1 and (of_book is null or of_book = $2)
     returning position`,
    [fingerprint, bookId ?? null, keep],
  );
  return rows[0] === undefined ? undefined : { resumesAt: rows[0].position };
}

// Without triggers, which compare with what is there at the end, and without foreign keys.
async function create(tx: Tx, functions: readonly string[]): Promise<void> {
  await tx.query(`create schema ${SCHEMA}`);
  for (const projection of PROJECTIONS) {
    const { table, key } = projection;
    await tx.query(`
      create table ${SCHEMA}.${table} (like payments.${table} including all);
      create table ${SCHEMA}.differing_${table} as select ${keyOf(projection, 't')}, ''::text as kind from payments.${table} t with no data;
      alter table ${SCHEMA}.differing_${table} add primary key (${[...key, 'book_id'].join(', ')})`);
  }
  await dropReadingIndexes(tx);
  await tx.query(`
    create table ${SCHEMA}.run (
      -- Up to here the log was looked at.
      position bigint not null default 0,
      -- Up to here it is known who may still write in an empty place.
      judged_to bigint not null default 0,
      -- Where events may be that are not projected yet, and who may still write there; as in payments.seals.
      open_positions int8multirange not null default '{[1,)}',
      open_writers text[] not null default '{}',
      -- What was projected since the last comparison.
      fresh_positions int8multirange not null default '{}',
      of_book integer,
      is_kept boolean not null,
      fingerprint text not null
    )`);
  for (const definition of functions) await tx.query(definition);
}

// Rows are copied from here, and looked for by their keys and by their events: an index that only serves readers costs a third of the time.
async function dropReadingIndexes(tx: Tx): Promise<void> {
  const { rows } = await tx.query<{ index: string }>(
    `select i.indexrelid::regclass::text as index
     from pg_index i join pg_class c on c.oid = i.indrelid
     where c.relnamespace = $1::regnamespace and not i.indisunique
       and (select a.attname from pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[0]) is distinct from 'event_position'`,
    [SCHEMA],
  );
  for (const { index } of rows) await tx.query(`drop index ${index}`);
}

/** The projectors as they are live, moved beside, and a hash of them and of the tables that they write. */
async function definitions(tx: Tx): Promise<{ functions: string[]; fingerprint: string }> {
  // Every name in a definition is written with its schema then.
  await tx.query('set local search_path = pg_catalog');
  const { rows: functions } = await tx.query<{ definition: string }>(
    `select pg_get_functiondef(p.oid) as definition
     from pg_proc p join unnest($1::text[]) with ordinality as n (name, nth) on n.name = p.proname
     where p.pronamespace = 'payments'::regnamespace order by n.nth`,
    [[...HELPERS, ...PROJECTORS]],
  );
  const { rows: columns } = await tx.query<{ column: string }>(
    `select concat_ws(' ', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)) as column
     from pg_attribute a join pg_class c on c.oid = a.attrelid
     where c.relnamespace = 'payments'::regnamespace and c.relname = any ($1) and a.attnum > 0 and not a.attisdropped
     order by c.relname, a.attnum`,
    [PROJECTIONS.map(({ table }) => table)],
  );
  const tables = PROJECTIONS.map(({ table }) => table);
  const moved = new RegExp(`\\bpayments\\.(${[...tables, ...PROJECTORS, ...HELPERS].join('|')})\\b`, 'g');
  const texts = functions.map(({ definition }) => definition.replace(moved, `${SCHEMA}.$1`));
  const hash = createHash('sha256').update(JSON.stringify([texts, columns.map(({ column }) => column)]));
  return { functions: texts, fingerprint: hash.digest('hex') };
}
