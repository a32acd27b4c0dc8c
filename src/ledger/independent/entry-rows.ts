import type { TextRow } from '../../db/cursor.ts';
import type { Replay } from './book-state.ts';

/**
 * What the rows of entries say by themselves, whatever the log says: that those of a transaction sum to zero, and that each
 * account numbers its own 1, 2, 3 … and carries its balance.
 * @param rows all of one position and one book
 */
export function observeEntries(replay: Replay, rows: readonly TextRow[]): void {
  const [first] = rows;
  let total = 0n;
  let isPlain = true;
  for (const row of rows) {
    total += observeHistory(replay, row);
    isPlain &&= row[9] === first?.[9] && row[10] === first?.[10];
  }
  // Nearly every transaction has one currency, and its sum says all.
  if (!isPlain || total !== 0n) observeSums(replay, rows);
}

/** Returns the entry's amount. */
function observeHistory({ book, findings }: Replay, row: TextRow): bigint {
  const account = book.account(row[8] ?? '', row[10] ?? null);
  const amount = BigInt(row[4] ?? 0);
  const seq = BigInt(row[3] ?? 0);
  const balanceAfter = BigInt(row[5] ?? 0);
  const expectedSeq = account.lastSeq + 1n;
  const expectedBalance = account.lastBalance + amount;
  if (seq !== expectedSeq || balanceAfter !== expectedBalance) {
    findings.fault(
      'histories',
      `entry ${row[0]} is number ${seq} of account ${account.id} with balance ${balanceAfter} after it, expected number ${expectedSeq} and ${expectedBalance}`,
    );
  }
  account.rowSum += amount;
  account.rows += 1n;
  // Goes on from what it says, so that one gap is one fault.
  account.lastSeq = seq;
  account.lastBalance = balanceAfter;
  return amount;
}

function observeSums({ book, findings }: Replay, rows: readonly TextRow[]): void {
  const sums = new Map<string, bigint>();
  for (const row of rows) {
    const key = `${row[9]} ${row[10]}`;
    sums.set(key, (sums.get(key) ?? 0n) + BigInt(row[4] ?? 0));
  }
  for (const [key, cents] of sums) {
    if (cents === 0n) continue;
    const [transactionId = '', currency = ''] = key.split(' ');
    findings.fault('transactions', `transaction ${transactionId} sums to ${cents} ${currency}`);
    book.sums.set(currency, (book.sums.get(currency) ?? 0n) + cents);
  }
}
