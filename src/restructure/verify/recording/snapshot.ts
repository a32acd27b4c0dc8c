import type { Queryable } from '../../../db/pool.ts';
import { AppError } from '../../../errors.ts';

/** What the transactions were that a snapshot did not see: those from `xmax` on, and some of those from `xmin` on. */
export interface Snapshot {
  readonly xmin: bigint;
  readonly xmax: bigint;
}

/** Which server and database it is, and the snapshot of the caller's transaction. */
export interface Here extends Snapshot {
  readonly database: string;
  /** Which a database that was made anew under the same name does not have. */
  readonly databaseOid: number;
  readonly postgres: number;
}

/** Its `xmax` is after the caller's own transaction too, if that has written. */
export async function readHere(db: Queryable): Promise<Here> {
  const { rows } = await db.query<Here>(
    `select d.datname as database, d.oid as "databaseOid", current_setting('server_version_num')::int / 10000 as postgres,
       pg_snapshot_xmin(pg_current_snapshot())::text::int8 as xmin,
       greatest(pg_snapshot_xmax(pg_current_snapshot())::text::int8, pg_current_xact_id_if_assigned()::text::int8 + 1) as xmax
     from pg_database d where d.datname = current_database()`,
  );
  const [here] = rows;
  if (here === undefined) throw new AppError('INTERNAL', 'The server did not say which database it is.');
  return here;
}

/** How a row is told to have been written since a snapshot, in the transaction that this was read in. */
export interface Since {
  /** SQL: by whom no row was written that the snapshot saw. */
  readonly newer: string;
  /** SQL: by a transaction that was, or whose savepoints were, possibly under way then: some of these rows it saw. */
  readonly open: string;
  /** SQL: how many transactions from now a row's xmin would be taken for one that is newer; rows frozen long ago keep theirs. */
  readonly clearance: string;
  /** How many transactions there were since. */
  readonly window: bigint;
}

const MASK = 4_294_967_295n;
/** What age() says of the xmin of rows that initdb wrote. */
const PERMANENT = 2_147_483_647;

/**
 * A row has but the lower 32 bits of who wrote it, so all is counted from the snapshot on, and round. Where more transactions came since than
 * there was clearance, nobody can tell a new row from one of four thousand million transactions ago.
 */
export async function readSince(db: Queryable, then: Snapshot, now: Snapshot): Promise<Since> {
  const { rows } = await db.query<{ age: number }>('select age($1::text::xid8::xid) as age', [then.xmax.toString()]);
  const age = BigInt(rows[0]?.age ?? 0);
  const spread = then.xmax - then.xmin;
  const window = now.xmax - then.xmax;
  const after = (count: bigint) => `((${count} - age(xmin)::int8) & ${MASK})`;
  // Without any such transaction nobody need look at each row.
  const within = (count: bigint, transactions: bigint) =>
    transactions === 0n ? 'false' : `age(xmin) <> ${PERMANENT} and ${after(count)} < ${transactions}`;
  return {
    newer: within(age, window),
    open: within(age + spread, spread),
    clearance: `coalesce(min(${after(age)}) filter (where age(xmin) <> ${PERMANENT}), ${MASK})`,
    window,
  };
}
