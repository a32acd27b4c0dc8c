import { createPool, type Pool, type Queryable, type Tx } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import type { TestDatabase } from './database.ts';

/** A session as Supabase's API opens one: a database role, and the claims of the token that came with the request. */
export interface Caller {
  readonly role: 'anon' | 'authenticated' | 'service_role' | 'bypassing_service';
  readonly userId?: string;
  /** The claim `org_id` of the token. */
  readonly claim?: unknown;
}

/** A pool whose sessions may become whoever calls: the superuser's, for the owner is no member of those roles. */
export const callersPool = (database: TestDatabase): Pool => createPool({ databaseUrl: database.adminUrl, max: 4 });

/** Makes a transaction a caller's. */
export async function become(tx: Queryable, { role, userId, claim }: Caller): Promise<void> {
  const claims = userId === undefined ? '' : JSON.stringify({ sub: userId, role, org_id: claim });
  await tx.query(`select set_config('request.jwt.claims', $1, true)`, [claims]);
  await tx.query(`set local role ${role}`);
}

/** Runs `work` as a caller, in a transaction that is undone unless `keep` is asked for. Answers `ok`, or the code of the refusal. */
export async function asCaller(
  pool: Pool,
  caller: Caller,
  work: (tx: Tx) => Promise<unknown>,
  { keep = false }: { keep?: boolean } = {},
): Promise<string> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    await become(tx, caller);
    await work(tx);
    await tx.query(keep ? 'commit' : 'rollback');
    return 'ok';
  } catch (error) {
    await tx.query('rollback');
    return toAppError(error).code;
  } finally {
    tx.release();
  }
}
