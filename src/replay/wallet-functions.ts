import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { isDependedOn, isUniqueViolation, toAppError } from '../db/sqlstate.ts';
import { withSavepoint } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { assertNotNeeded, assertNotRetired } from './capture.ts';
import { findLegacyTables, getLegacyTables } from './legacy.ts';

const SQL_FILE = new URL('../../compat/wallet-functions.sql', import.meta.url);
/** What the file says about each function that it makes. */
const OURS = 'liventix';
/** Of a function that PostgreSQL cannot replace by another: its parameters have other names, or its result another type. */
const INVALID_FUNCTION = '42P13';

const BUSY = { code: 'CUTOVER_BUSY', what: 'A wallet table' } as const;

/** A function of the old platform over wallets, lots or dead letters. */
export interface OldFunction {
  readonly signature: string;
  /** Whether it is the one of `compat/wallet-functions.sql` already. */
  readonly isReplaced: boolean;
}

/** Those of the functions that the database has. */
export async function findWalletFunctions(db: Queryable): Promise<readonly OldFunction[]> {
  const { rows } = await db.query<OldFunction>(
    `select p.oid::regprocedure::text as signature, obj_description(p.oid, 'pg_proc') is not distinct from $2 as "isReplaced"
     from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = any ($1) order by 1`,
    [(await readFunctions()).names, OURS],
  );
  return rows;
}

/** SQL of the statements that bring back what the file replaces. Parameters: $1 the functions' names, $2 what it marks its own with. */
const RESTORE = `
  with old as (
    select p.oid, p.oid::regprocedure::text as signature, p.proacl, p.proowner, obj_description(p.oid, 'pg_proc') as comment
    from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = any ($1)
  ), role as (
    select r.oid, quote_ident(r.rolname) as name from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  ), open_table as (
    select c.oid::regclass::text as name, v.privilege, c.relacl, c.relowner
    from (values ('wallet_transactions', 'insert'), ('wallets', 'update'), ('org_wallets', 'update')) as v (name, privilege)
    join pg_class c on c.relname = v.name and c.relkind in ('r', 'p', 'v')
      and c.relnamespace in (select n.oid from pg_namespace n where n.nspname in ('public', 'payments', 'organizations'))
  )
  select s.statement
  from (
    select 1 as part, o.signature as name, pg_get_functiondef(o.oid) as statement from old o
    union all
    select 2, o.signature, format('comment on function %s is %L', o.signature, o.comment) from old o
    union all
    select 3, o.signature, format('revoke all on function %s from public', o.signature) from old o
    union all
    select 3, o.signature, format('revoke all on function %s from %s', o.signature, r.name) from old o, role r
    union all
    select 4, o.signature, format('grant execute on function %s to %s', o.signature, case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
    from old o, aclexplode(coalesce(o.proacl, acldefault('f', o.proowner))) a
    union all
    select 5, t.name, format('revoke %s on table %s from %s', t.privilege, t.name, r.name) from open_table t, role r
    union all
    select 6, t.name, format('grant %s on table %s to %s', t.privilege, t.name, r.name)
    from open_table t, aclexplode(coalesce(t.relacl, acldefault('r', t.relowner))) a
    join role r on r.oid = a.grantee
    where a.privilege_type = upper(t.privilege)
    union all
    select 7, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
    from pg_index i join pg_class c on c.oid = i.indexrelid and c.relname = 'uq_org_wallet_txn_invoice_refund'
  ) s
  where not exists (select from replay.old_functions) and not exists (select from old o where o.comment = $2)
  order by s.part, s.name, s.statement`;

/**
 * Gives the functions their new inside, under their names and signatures, all in one transaction: docs/wallet-compatibility.md says
 * what changes. Done before, it changes nothing.
 * @throws AppError CUTOVER_BUSY, CUTOVER_FUNCTION_DIFFERS, LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function replaceWalletFunctions(
  pool: Pool,
  options: { readonly stop?: AbortSignal | undefined } = {},
): Promise<void> {
  const { sql, names } = await readFunctions();
  await getLegacyTables(pool);
  await givingWay(pool, { ...BUSY, stop: options.stop }, async (tx) => {
    await waitForOthers(tx);
    await tx.query(`insert into replay.old_functions (restore) ${RESTORE}`, [names, OURS]);
    const before = (await findWalletFunctions(tx)).map(({ signature }) => signature);
    await tx.query(sql).catch(refuseOtherShape);
    const functions = await findWalletFunctions(tx);
    const [other] = functions.filter(({ isReplaced }) => !isReplaced);
    // Beside it ours is another function, and callers may be given either.
    if (other !== undefined) throw functionDiffers(`${other.signature} has parameters of other types`);
    for (const { signature } of functions.filter((made) => !before.includes(made.signature))) {
      await tx.query('insert into replay.old_functions (restore) values ($1)', [
        `drop function if exists ${signature}`,
      ]);
    }
  });
}

/** @throws AppError CUTOVER_FUNCTION_DIFFERS where PostgreSQL does not replace a function by another; whatever else it is, as it is */
function refuseOtherShape(error: unknown): never {
  if (!(error instanceof pg.DatabaseError) || error.code !== INVALID_FUNCTION) throw error;
  throw functionDiffers(`${error.message} (${error.hint ?? 'no function is named'})`, error);
}

function functionDiffers(how: string, cause?: Error): AppError {
  return new AppError(
    'CUTOVER_FUNCTION_DIFFERS',
    `A function of the database is not as the one that was seen: ${how}. Nothing was changed. Keep its definition, drop it, and run this again.`,
    { cause },
  );
}

/** One after the other: PostgreSQL fails the second of two who replace one function. */
async function waitForOthers(tx: Tx): Promise<void> {
  await tx.query(`select pg_advisory_xact_lock(hashtext('liventix.wallet_functions'))`);
}

/** What the way back did. */
export interface Restored {
  readonly statements: number;
  /** What could not be brought back, because of rows that came since or of what uses a function by now, and why. */
  readonly refused: readonly string[];
}

/**
 * Brings the old functions back as they were, with their grants and those of the tables, all in one transaction; those that were not
 * there before go.
 * @throws AppError CAPTURE_NEEDED while the ledger keeps a wallet, BACKFILL_RETIRED, CUTOVER_BUSY, DB_*
 */
export async function restoreWalletFunctions(
  pool: Pool,
  options: { readonly stop?: AbortSignal | undefined } = {},
): Promise<Restored> {
  const tables = await findLegacyTables(pool);
  await assertNotRetired(pool, MAIN_BOOK);
  return givingWay(pool, { ...BUSY, stop: options.stop }, async (tx) => {
    await waitForOthers(tx);
    // A flip that is under way stands on it.
    await tx.query('select from replay.capture for update');
    await assertNotNeeded(tx, tables);
    const { rows } = await tx.query<{ restore: string }>(
      'with gone as (delete from replay.old_functions returning id, restore) select restore from gone order by id',
    );
    const refused: string[] = [];
    for (const { restore } of rows) {
      try {
        await withSavepoint(tx, (within) => within.query(restore));
      } catch (error) {
        const failure = toAppError(error);
        if (!isUniqueViolation(failure.cause) && !isDependedOn(failure.cause)) throw failure;
        refused.push(`${restore}: ${failure.message}`);
      }
    }
    return { statements: rows.length - refused.length, refused };
  });
}

/** @throws AppError CUTOVER_OLD_FUNCTIONS where one of the functions is still the old one */
export async function assertFunctionsReplaced(db: Queryable): Promise<void> {
  const old = (await findWalletFunctions(db)).filter(({ isReplaced }) => !isReplaced);
  if (old.length === 0) return;
  throw new AppError(
    'CUTOVER_OLD_FUNCTIONS',
    `${old.length} functions over wallets are still the old ones, with their faults: ${old.map(({ signature }) => signature).join(', ')}. Replace them first: liventix backfill functions`,
  );
}

interface Functions {
  readonly sql: string;
  readonly names: readonly string[];
}

let read: Promise<Functions> | undefined;

/** Read once: each flip asks for it while it holds a wallet. */
function readFunctions(): Promise<Functions> {
  read ??= readFile(SQL_FILE, 'utf8').then((sql) => ({
    sql,
    names: [...sql.matchAll(/^create or replace function public\.(\w+)/gm)].map(([, name = '']) => name),
  }));
  return read;
}
