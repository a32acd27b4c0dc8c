import type { Queryable } from './pool.ts';

/** What holds back the snapshot horizon, below which logs are read and dead rows vacuumed. */
export type HorizonHolder = { readonly todo: string } & (
  | {
      readonly kind: 'transaction';
      readonly pid: number;
      readonly user: string;
      readonly database: string;
      readonly state: string;
      readonly ageSeconds: number;
      /** Only one that has written holds back readers of a log; any other holds back vacuum alone. */
      readonly hasWritten: boolean;
    }
  | { readonly kind: 'prepared'; readonly gid: string; readonly user: string; readonly ageSeconds: number }
  | { readonly kind: 'slot'; readonly name: string; readonly ageTransactions: number }
);

export interface HorizonHolders {
  /** Oldest first. */
  readonly holders: readonly HorizonHolder[];
  /** Transactions of other roles, whose age only pg_read_all_stats shows. */
  readonly hidden: readonly { readonly pid: number; readonly user: string }[];
  /** Who looked. */
  readonly role: string;
}

const LIMIT = 100;

// What another role's session does, and since when, is hidden from a role without pg_read_all_stats; its pid, its user
// and its transaction ids are not. backend_xmin without backend_xid: it reads, and holds back vacuum only.
const TRANSACTIONS = `
  select pid, usename as user, datname as database, state, backend_xid is not null as "hasWritten",
         extract(epoch from clock_timestamp() - xact_start)::float8 as "ageSeconds", current_user as role
  from pg_stat_activity
  where pid <> pg_backend_pid() and (backend_xid is not null or backend_xmin is not null)
    and (backend_type = 'client backend' or backend_type is null)
    and (xact_start is null or clock_timestamp() - xact_start >= $1 * interval '1 second')
  order by xact_start nulls last
  limit ${LIMIT}`;

const PREPARED = `
  select gid, owner as user, quote_literal(gid) as literal,
         extract(epoch from clock_timestamp() - prepared)::float8 as "ageSeconds"
  from pg_prepared_xacts
  where clock_timestamp() - prepared >= $1 * interval '1 second'
  order by prepared
  limit ${LIMIT}`;

// One that is in use moves on by itself.
const ABANDONED_SLOTS = `
  select slot_name as name, quote_literal(slot_name) as literal, greatest(age(xmin), age(catalog_xmin)) as "ageTransactions"
  from pg_replication_slots
  where not active and (xmin is not null or catalog_xmin is not null)
  order by 3 desc
  limit ${LIMIT}`;

interface TransactionRow {
  readonly pid: number;
  readonly user: string | null;
  readonly database: string | null;
  readonly state: string | null;
  readonly hasWritten: boolean;
  readonly ageSeconds: number | null;
}

/** Transactions and prepared transactions that are at least so old, and replication slots that nobody reads. */
export async function findHorizonHolders(db: Queryable, minAgeSeconds: number): Promise<HorizonHolders> {
  const transactions = (await db.query<TransactionRow>(TRANSACTIONS, [minAgeSeconds])).rows;
  const prepared = await db.query<{ gid: string; user: string; literal: string; ageSeconds: number }>(PREPARED, [
    minAgeSeconds,
  ]);
  const slots = await db.query<{ name: string; literal: string; ageTransactions: number }>(ABANDONED_SLOTS);
  const role = (await db.query<{ role: string }>('select quote_ident(current_user) as role')).rows[0]?.role ?? '';
  const aged: HorizonHolder[] = [
    ...transactions.flatMap((row) => (row.ageSeconds === null ? [] : [transactionHolder(row, row.ageSeconds)])),
    ...prepared.rows.map(({ gid, user, ageSeconds, literal }): HorizonHolder => {
      return { kind: 'prepared', gid, user, ageSeconds, todo: `Decide it: commit prepared ${literal}, or rollback.` };
    }),
  ];
  return {
    holders: [
      ...aged.toSorted((a, b) => ageSeconds(b) - ageSeconds(a)),
      ...slots.rows.map(({ name, ageTransactions, literal }): HorizonHolder => {
        return {
          kind: 'slot',
          name,
          ageTransactions,
          todo: `If nobody needs it: select pg_drop_replication_slot(${literal}).`,
        };
      }),
    ],
    hidden: transactions.filter((row) => row.ageSeconds === null).map(({ pid, user }) => ({ pid, user: user ?? '?' })),
    role,
  };
}

function transactionHolder(row: TransactionRow, ageSeconds: number): HorizonHolder {
  const { pid, hasWritten } = row;
  return {
    kind: 'transaction',
    pid,
    user: row.user ?? '?',
    database: row.database ?? '?',
    state: row.state ?? '?',
    ageSeconds,
    hasWritten,
    todo: `Let it end, or end it: select pg_terminate_backend(${pid}).`,
  };
}

function ageSeconds(holder: HorizonHolder): number {
  return holder.kind === 'slot' ? 0 : holder.ageSeconds;
}

/** In words, with the id that names it. */
export function describeHolder(holder: HorizonHolder): string {
  switch (holder.kind) {
    case 'transaction': {
      const { pid, user, database, state, hasWritten } = holder;
      const effect = hasWritten ? 'it has written' : 'it only reads, so it holds back vacuum alone';
      return `pid ${pid} of ${user} in ${database}, ${state}, open for ${Math.floor(holder.ageSeconds)} s, ${effect}`;
    }
    case 'prepared':
      return `prepared transaction ${holder.gid} of ${holder.user}, open for ${Math.floor(holder.ageSeconds)} s`;
    case 'slot':
      return `replication slot ${holder.name}, which nobody reads, ${holder.ageTransactions} transactions behind`;
    default:
      return holder satisfies never;
  }
}
