import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';

/**
 * The rows of one call of the ledger's SQL; whatever it raises arrives as an AppError.
 * @param name keeps the statement prepared on its connection
 */
export async function ask<Row extends object>(
  db: Queryable,
  text: string,
  values: unknown[],
  name?: string,
): Promise<readonly Row[]> {
  try {
    return (await db.query<Row>({ text, values, ...(name === undefined ? {} : { name }) })).rows;
  } catch (error) {
    throw toAppError(error);
  }
}
