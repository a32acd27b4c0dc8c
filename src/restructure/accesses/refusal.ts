import pg from 'pg';
import { toAppError } from '../../db/sqlstate.ts';

/** Classes of SQLSTATEs that say nothing of a statement: connections, resources, operators, the system, the server's own faults. */
const NOT_OF_THE_STATEMENT = /^(?:08|53|57P|58|XX)/u;

/**
 * Why the database refused a statement.
 * @throws AppError DB_* where it was something else that failed
 */
export function refusalOf(error: unknown): { readonly code: string; readonly message: string } {
  if (error instanceof pg.DatabaseError && error.code !== undefined && !NOT_OF_THE_STATEMENT.test(error.code)) {
    return { code: error.code, message: error.message };
  }
  throw toAppError(error);
}
