import type { Pool, Queryable } from '../../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { runLogChecks } from '../verify.ts';
import { PROJECTIONS, SCHEMA } from './projections.ts';

/**
 * Whether this role may replace rows of the ledger's tables at all: their owner may, and nobody else.
 * @throws AppError DB_PERMISSION_DENIED
 */
export async function assertOwner(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ table: string; role: string }>(
    `select c.relname as table, current_user as role from pg_class c
     where c.relnamespace = 'payments'::regnamespace and c.relname = any ($1) and not pg_has_role(c.relowner, 'USAGE')
     order by c.relname limit 1`,
    [PROJECTIONS.map(({ table }) => table)],
  );
  const [denied] = rows;
  if (denied === undefined) return;
  throw new AppError(
    'DB_PERMISSION_DENIED',
    `Role ${denied.role} does not own payments.${denied.table}, and only the owner may replace rows of it. Nothing was changed. Run as the owner of the tables.`,
  );
}

/**
 * Whether the log is as it was written: from one that somebody changed the live tables shall not be made anew, because they are what
 * tells.
 * @throws AppError REBUILD_LOG_CHANGED
 */
export async function assertLogIsSound(
  pool: Pool,
  bookId: number | undefined,
  onCheck: (check: string) => void,
): Promise<void> {
  const results = await withTransaction(
    pool,
    (tx) => runLogChecks(tx, { onBegin: onCheck }, bookId === undefined ? {} : { bookId }),
    ONE_SNAPSHOT,
  );
  const fault = results.find(({ holds }) => !holds);
  if (fault === undefined) return;
  throw new AppError(
    'REBUILD_LOG_CHANGED',
    `The log is not what was written: ${fault.faults} of ${fault.examined} ${fault.unit}, the first: ${fault.first[0]}. Nothing was changed: the live tables may be what is right. See: liventix books verify`,
    { details: { check: fault.check, first: fault.first } },
  );
}

/**
 * Whether the rows that differ may be put in place of the live ones: no guard looks at them then.
 * @throws AppError REBUILD_REFUSED
 */
export async function assertReplaceable(db: Queryable): Promise<void> {
  await assertBalanced(db);
  await assertUnreferenced(db);
}

async function assertBalanced(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ id: string; cents: string; currency: string }>(
    `select e.transaction_id as id, e.currency, sum(e.amount_cents)::text as cents
     from (
       select distinct r.event_position from ${SCHEMA}.differing_entries d join ${SCHEMA}.entries r on r.id = d.id and r.book_id = d.book_id
     ) t
     join ${SCHEMA}.entries e on e.id > t.event_position * 1024 and e.id < (t.event_position + 1) * 1024
     group by e.book_id, e.transaction_id, e.currency
     having sum(e.amount_cents) <> 0
     limit 1`,
  );
  const [fault] = rows;
  if (fault === undefined) return;
  throw new AppError(
    'REBUILD_REFUSED',
    `By the log transaction ${fault.id} sums to ${fault.cents} ${fault.currency}, which no guard would have let in. Nothing was changed. See: liventix books verify --independent`,
  );
}

// A row that is put back was deleted first: who refers to it with `on delete cascade` would be deleted too.
async function assertUnreferenced(db: Queryable): Promise<void> {
  const differing = PROJECTIONS.map(
    ({ table }) => `select '${table}' as table where exists (select from ${SCHEMA}.differing_${table})`,
  );
  const { rows } = await db.query<{ name: string; owner: string; table: string }>(
    `select k.conname as name, k.conrelid::regclass::text as owner, c.relname as table
     from pg_constraint k join pg_class c on c.oid = k.confrelid
     where c.relnamespace = 'payments'::regnamespace and k.contype = 'f' and k.confdeltype <> 'a'
       and c.relname in (${differing.join(' union all ')})
     order by k.conname limit 1`,
  );
  const [key] = rows;
  if (key === undefined) return;
  throw new AppError(
    'REBUILD_REFUSED',
    `Foreign key ${key.name} of ${key.owner} refers to payments.${key.table} and does more on delete than to refuse: what refers to a row that is replaced would be lost. Nothing was changed. Make it "no action" meanwhile.`,
  );
}
