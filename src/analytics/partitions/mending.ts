import type { Pool } from '../../db/pool.ts';
import type { UnderLockOptions } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import { qualified } from './names.ts';
import { fillSideTable, findTwice, type SideTable } from './side-tables.ts';
import type { KeptTable } from './tables.ts';

/** What it takes to put the keys of a table right. */
export interface Mending {
  readonly pool: Pool;
  readonly kept: KeptTable;
  readonly locking: UnderLockOptions;
  readonly onStep: (what: string, done: number, total: number) => void;
}

export const nameOf = ({ kept: { schema, name } }: Mending): string => `${schema}.${name}`;
export const quoted = ({ kept: { schema, name } }: Mending): string => qualified(schema, name);

/** How the message ends that a key is there twice: of what is not begun before, and of what was under way. */
export const NOT_BEFORE = ': its keys are not mended before.';
export const STAYS = ': what was mended of its keys stays.';

/** @param what that ends the message @throws AppError PARTITIONS_KEY_TWICE */
export async function assertOnce(
  mending: Mending,
  { columns }: Pick<SideTable, 'columns'>,
  what: string,
): Promise<void> {
  const { first, count } = await findTwice(mending.pool, {
    table: quoted(mending),
    columns,
    stop: mending.locking.stop,
  });
  if (count === 0n) return;
  throw new AppError(
    'PARTITIONS_KEY_TWICE',
    `(${columns.join(', ')}) of ${nameOf(mending)} is to be there once over all months, and ${count} are there more than once: ${first.join(', ')}${count > first.length ? ' and more' : ''}. Change or delete such rows. Then run it again${what}`,
  );
}

/** Writes the keys of the rows of a partition down. @returns how many @throws AppError PARTITIONS_BUSY, STOPPED, DB_* */
export const fillFrom = (
  { pool, locking, onStep }: Mending,
  side: SideTable,
  of: { readonly leaf: string; readonly condition: string },
): Promise<number> =>
  fillSideTable({
    ...side,
    ...of,
    pool,
    locking,
    onBlock: (block, blocks) => onStep(`keeping keys of ${of.leaf}`, block, blocks),
  });
