import { toAppError } from '../db/sqlstate.ts';
import type { AppError } from '../errors.ts';

/** Those of the ledger's codes that say nothing of a single transaction. */
const OF_THE_CALL: ReadonlySet<string> = new Set(['LEDGER_BOOK_UNKNOWN', 'LEDGER_BOOK_FORBIDDEN', 'LEDGER_BUSY']);
/**
 * SQLSTATE classes of what is wrong with the connection, its transaction or its rights, with the server or with what is installed
 * there: a timeout (57014, 55P03), no space (53100), read only (25006), a function that is missing (42883). The others say that
 * something in the data was refused, also by somebody's own trigger, which may choose any class that is not among these.
 */
const SQLSTATE_OF_THE_CALL = /^(?:08|0B|25|26|28|2D|34|3B|3D|3F|40|42|53|55|57|58|72|F0|HV|XX)/;

/** Whether a call was refused for one of its transactions, so that the others pass without it. */
export function isOfContent({ code, details }: AppError): boolean {
  if (code !== 'DB_FAILED') return code.startsWith('LEDGER_') && !OF_THE_CALL.has(code);
  return typeof details['sqlstate'] === 'string' && !SQLSTATE_OF_THE_CALL.test(details['sqlstate']);
}

/**
 * Makes a call with all items together; where it is refused for something in it, of which nothing was done then, with half of
 * them and the other half, and so on down to the one that brings it down: its neighbours are never harmed.
 * @param call never with none
 * @param refused told of one that was refused by itself, in its turn
 * @throws AppError what says nothing of a single item, such as a timeout: whoever comes after it was not asked for any more
 */
export async function callByHalves<T>(
  items: readonly T[],
  call: (items: readonly T[]) => Promise<void>,
  refused: (item: T, failure: AppError) => void,
): Promise<void> {
  const [first] = items;
  if (first === undefined) return;
  try {
    await call(items);
  } catch (error) {
    const failure = toAppError(error);
    if (!isOfContent(failure)) throw failure;
    if (items.length === 1) refused(first, failure);
    else {
      const half = Math.ceil(items.length / 2);
      await callByHalves(items.slice(0, half), call, refused);
      await callByHalves(items.slice(half), call, refused);
    }
  }
}
