import type { Pool, Tx } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { givingWay, LOCK_TIMEOUT_MS } from './giving-way.ts';

const TRIGGER = 'entries_mirrored';

/**
 * Lets new entries of wallets that the ledger keeps be written to the old tables, in the transaction that posts them. Done before,
 * it does nothing.
 * @throws AppError CUTOVER_BUSY, DB_*
 */
export async function turnMirrorOn(pool: Pool, { stop }: { readonly stop?: AbortSignal }): Promise<void> {
  if (await isMirrorOn(pool)) return;
  await givingWay(pool, { stop, givenUp: busy }, async (tx) => {
    await tx.query(
      `create trigger ${TRIGGER} after insert on payments.entries referencing new table as new_entries
       for each statement execute function replay.mirror_entries()`,
    );
    await tx.query(`alter table payments.entries enable always trigger ${TRIGGER}`);
  });
}

export async function turnMirrorOff(tx: Tx): Promise<void> {
  await tx.query(`drop trigger if exists ${TRIGGER} on payments.entries`);
}

async function isMirrorOn(pool: Pool): Promise<boolean> {
  const { rowCount } = await pool.query(
    `select from pg_trigger where tgrelid = 'payments.entries'::regclass and tgname = $1 and tgenabled = 'A'`,
    [TRIGGER],
  );
  return rowCount === 1;
}

function busy(tries: number, cause: AppError): AppError {
  return new AppError(
    'CUTOVER_BUSY',
    `The ledger was in use each of ${tries} times, for ${LOCK_TIMEOUT_MS} ms. Nothing was changed. Run it again.`,
    { cause },
  );
}
