import { readFile } from 'node:fs/promises';
import type { Pool, Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { givingWay, LOCK_TIMEOUT_MS } from './giving-way.ts';

const SQL = new URL('../../compat/wallet-functions.sql', import.meta.url);
/** What the file says about each function that it makes. */
const OURS = 'liventix';

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
    [await namesInFile(), OURS],
  );
  return rows;
}

/**
 * Gives the functions their new inside, under their names and signatures, all in one transaction: docs/wallet-compatibility.md says
 * what changes. Done before, it changes nothing.
 * @throws AppError CUTOVER_BUSY, LEGACY_TABLE_MISSING, DB_*
 */
export async function replaceWalletFunctions(pool: Pool, options: { readonly stop?: AbortSignal } = {}): Promise<void> {
  const sql = await readFile(SQL, 'utf8');
  await givingWay(pool, { stop: options.stop, givenUp: busy }, async (tx) => {
    await tx.query(sql);
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

async function namesInFile(): Promise<string[]> {
  const sql = await readFile(SQL, 'utf8');
  return [...sql.matchAll(/^create or replace function public\.(\w+)/gm)].map(([, name = '']) => name);
}

function busy(tries: number, cause: AppError): AppError {
  return new AppError(
    'CUTOVER_BUSY',
    `A wallet table was in use each of ${tries} times, for ${LOCK_TIMEOUT_MS} ms. Nothing was changed. Run it again.`,
    { cause },
  );
}
