import type pg from 'pg';
import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../db/transaction.ts';
import type { UnderLockOptions } from '../../db/under-lock.ts';
import { endedWhenStopped, untilStopped } from '../../db/until-stopped.ts';
import { AppError } from '../../errors.ts';
import { ident } from './names.ts';

/** @throws AppError STOPPED */
export function assertNotStopped(stop: AbortSignal | undefined): void {
  if (stop?.aborted === true) throw new AppError('STOPPED', 'Stopped. Run it again: it goes on where it was.');
}

const LEFT = 'run it again, it goes on where it was.';

/** Runs what may take long; when it is stopped, the server ends it, and nothing is left of it. @throws AppError STOPPED, DB_* */
export const runUntilStopped = <Row extends pg.QueryResultRow>(
  pool: Pool,
  stop: AbortSignal | undefined,
  sql: string,
): Promise<pg.QueryResult<Row>> =>
  untilStopped(pool, { stop, left: LEFT, maxTries: 1 }, (client) => client.query<Row>(sql));

/** The same of what reads several things as they are at one instant. @throws AppError STOPPED, DB_* */
export const readUntilStopped = <T>(
  pool: Pool,
  stop: AbortSignal | undefined,
  read: (tx: Tx) => Promise<T>,
): Promise<T> =>
  withTransaction(pool, (tx) => endedWhenStopped(pool, tx, { stop, left: LEFT }, () => read(tx)), ONE_SNAPSHOT);

/** Reads the rows for a constraint that is not valid yet, beside whoever writes. @throws AppError PARTITIONS_BUSY, STOPPED, DB_* */
export const validateConstraint = (
  pool: Pool,
  { table, name }: { readonly table: string; readonly name: string },
  locking: UnderLockOptions,
): Promise<unknown> =>
  givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
    endedWhenStopped(pool, tx, { stop: locking.stop, left: LEFT }, () =>
      tx.query(`alter table ${table} validate constraint ${ident(name)}`),
    ),
  );
