import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/**
 * What is read of the application's tables, where all of it can be seen: nobody is shown fewer rows than there are.
 * @throws AppError DB_PERMISSION_DENIED, which says who may not see what
 */
export async function seenWhole<T>(reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    const failure = toAppError(error);
    if (failure.code !== 'DB_PERMISSION_DENIED') throw failure;
    throw new AppError(
      failure.code,
      `The role that Liventix was migrated as may not see every row of the application's tables, so that none is shown: ${failure.message} Let it own them, or make it one of BYPASSRLS.`,
      { cause: error },
    );
  }
}
