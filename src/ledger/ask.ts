import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';

/** The rows of one call of the ledger's SQL; whatever it raises arrives as an AppError. */
export async function ask<Row extends object>(db: Queryable, sql: string, values: unknown[]): Promise<readonly Row[]> {
  try {
    return (await db.query<Row>(sql, values)).rows;
  } catch (error) {
    throw toAppError(error);
  }
}
