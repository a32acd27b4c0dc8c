import pg from 'pg';
import { createPool, type Pool, type Tx } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import type { ApiCaller } from '../accesses/api-callers.ts';
import { EXPOSED } from '../accesses/api-schema.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** What everything that is measured is called in pg_stat_activity. */
const APPLICATION = 'liventix';

/**
 * Nothing can be written over it. Unlike our other connections it has the server's own jit and memory: the application's queries are timed,
 * not ours.
 */
const SETTINGS = '-c timezone=UTC -c default_transaction_read_only=on -c statement_timeout=0 -c idle_session_timeout=0';

export const openMeasuringPool = (options: { databaseUrl: string; max?: number }): Pool =>
  createPool({ ...options, applicationName: APPLICATION }, { options: SETTINGS });

export interface As {
  /** Who asks; whoever is connected, when null. */
  readonly caller: ApiCaller | null;
  readonly timeoutMs: number;
}

/** What the API says to the database before it asks, and that nothing is written. In one message: all of it is one wait. */
export const beginAs = ({ caller, timeoutMs }: As): string =>
  [
    'begin read only',
    `set local statement_timeout = ${timeoutMs}`,
    ...(caller === null
      ? []
      : [
          `set local role ${ident(caller.role)}`,
          `set local search_path = ${ident(EXPOSED)}`,
          `select set_config('request.jwt.claims', ${literal(JSON.stringify(caller.claims))}, true)`,
        ]),
  ].join('; ');

/** Runs `work` in a transaction that reads only, as somebody, and undoes it. */
export async function reading<T>(client: Pick<Tx, 'query'>, as: As, work: () => Promise<T>): Promise<T> {
  try {
    await client.query(beginAs(as));
    return await work();
  } finally {
    await client.query('rollback');
  }
}

/** Classes of SQLSTATEs that say the connection or the server is gone. */
const GONE = /^(?:08|57P)/u;

export interface Failure {
  readonly code: string;
  readonly message: string;
}

/**
 * Why a statement failed, where it is the statement that failed: the others go on.
 * @throws AppError DB_* where the connection is gone
 */
export function failureOf(error: unknown): Failure {
  if (error instanceof pg.DatabaseError && error.code !== undefined && !GONE.test(error.code))
    return { code: error.code, message: error.message };
  throw toAppError(error);
}

/** Every value as the server writes it. */
const AS_TEXT: pg.CustomTypesConfig = {
  getTypeParser: (() => (text: string) => text) as typeof pg.types.getTypeParser,
};

/** The rows of a query as texts; what is read back is written the same. */
export async function textRows(
  client: Pick<Tx, 'query'>,
  { text, parameters }: { readonly text: string; readonly parameters: readonly unknown[] },
): Promise<readonly (readonly (string | null)[])[]> {
  const { rows } = await client.query<(string | null)[]>({
    text,
    values: [...parameters],
    rowMode: 'array',
    types: AS_TEXT,
  });
  return rows;
}
