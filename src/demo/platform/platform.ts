import { readFile } from 'node:fs/promises';
import pg from 'pg';
import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { readCatalogue } from './catalogue.ts';
import { type Existing, findExisting } from './existing.ts';
import { policiesSql } from './policies.ts';
import { rowSecuritySql, structureSql, triggersSql } from './structure.ts';
import { installVector } from './vector.ts';

const SUPABASE_ROLES = ['anon', 'authenticated', 'service_role'];

/**
 * Makes the whole legacy database in an empty one, as an ordinary owner, all or nothing. The roles anon, authenticated
 * and service_role are used where they exist and not created where they do not.
 * @throws AppError DB_*
 */
export async function createPlatform(pool: Pool): Promise<void> {
  const catalogue = await readCatalogue();
  await withTransaction(pool, async (tx) => {
    await applyFiles(tx, ['wallets.sql', 'machines.sql', 'dead-letters.sql']);
    await installVector(tx);
    const existing = await findExisting(tx);
    await run(tx, structureSql(catalogue, existing));
    // The views first: a function returns rows of one.
    await applyFiles(tx, ['platform-views.sql', 'platform-functions.sql']);
    await run(tx, [
      ...triggersSql(catalogue, existing),
      ...rowSecuritySql(catalogue),
      ...policiesSql(catalogue, existing),
      ...grantsSql(existing),
    ]);
  });
}

async function applyFiles(tx: Tx, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await tx.query(await readFile(new URL(`../../../fixtures/legacy/${name}`, import.meta.url), 'utf8'));
  }
}

async function run(tx: Tx, statements: readonly string[]): Promise<void> {
  await tx.query(statements.join(';\n'));
}

/** Supabase grants everything in public to its three roles, and leaves the rest to the policies. */
function grantsSql({ roles }: Existing): string[] {
  return SUPABASE_ROLES.filter((role) => roles.has(role)).flatMap((role) => {
    const grantee = pg.escapeIdentifier(role);
    return [
      `grant usage on schema public, auth to ${grantee}`,
      `grant all on all tables in schema public to ${grantee}`,
      `grant all on all sequences in schema public to ${grantee}`,
      `grant all on all routines in schema public to ${grantee}`,
    ];
  });
}
