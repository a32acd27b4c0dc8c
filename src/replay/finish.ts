import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { SORT_MEMORY } from './backfill-run.ts';
import { dropOurTriggers, findRetirement, getCapture, lockTables } from './capture.ts';
import { countCaptured } from './drain.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { turnMirrorOff } from './mirror.ts';
import { ANY_ROW, differingRowsSql } from './proof/sums.ts';
import { compareWallets } from './report.ts';
import { SOURCES } from './sources.ts';

/**
 * Retires the old tables: nothing is captured, mirrored or posted any more, and they stay as they are: who moves money there is refused.
 * There is no way back from it. Done before, it does nothing.
 * Everything is compared first, while writers go on; they wait only for a last look at what may have changed since.
 * @throws AppError FINISH_REFUSED while an owner is kept by the old tables, or anything differs; CAPTURE_*, CUTOVER_BUSY, DB_*
 */
export async function finishCutOver(
  pool: Pool,
  options: { readonly bookId?: number; readonly dryRun?: boolean; readonly stop?: AbortSignal } = {},
): Promise<void> {
  const { bookId = MAIN_BOOK, stop, dryRun = false } = options;
  if ((await findRetirement(pool, bookId)) !== undefined) return;
  const tables = await getLegacyTables(pool);
  await getCapture(pool, { bookId, stop });
  refuseFor((await findUnflipped(pool, tables, bookId)) ?? (await findDifference(pool, tables, bookId)));
  if (dryRun) return;
  await givingWay(pool, { stop, code: 'CUTOVER_BUSY', what: 'A wallet table or payments.entries' }, async (tx) => {
    await lockTables(tx, tables);
    if ((await findRetirement(tx, bookId)) !== undefined) return;
    // Waits for a flip that is under way, which stands on it.
    await tx.query('delete from replay.capture');
    refuseFor((await findUnflipped(tx, tables, bookId)) ?? (await findWaiting(tx)));
    await tx.query('update replay.progress set retired_at = clock_timestamp() where book_id = $1', [bookId]);
    await turnMirrorOff(tx);
    await dropOurTriggers(tx);
    for (const statement of refuseMoneySql(tables)) await tx.query(statement);
  });
}

function refuseMoneySql(tables: LegacyTables): string[] {
  return SOURCES.flatMap(({ transactions, wallets }) => [transactions, wallets]).flatMap((name) => [
    `create trigger liventix_retired before insert or update on ${tables[name]} for each row execute function replay.refuse_retired('${name}')`,
    `alter table ${tables[name]} enable always trigger liventix_retired`,
  ]);
}

function refuseFor(obstacle: string | undefined): void {
  if (obstacle !== undefined) throw new AppError('FINISH_REFUSED', obstacle);
}

/** A wallet that is gone is kept by nobody. */
async function findUnflipped(db: Queryable, tables: LegacyTables, bookId: number): Promise<string | undefined> {
  const counts = SOURCES.map(
    ({ name, wallets }) => `(select count(*) from ${tables[wallets]} w
       left join replay.wallets r on r.wallet_id = w.id and r.source = '${name}' and r.book_id = $1
       where r.mode is distinct from 'ledger')`,
  );
  const { rows } = await db.query<{ n: bigint }>(`select ${counts.join(' + ')} as n`, [bookId]);
  const left = rows[0]?.n ?? 0n;
  return left > 0n ? `${left} wallets are still kept by the old tables: liventix backfill cutover --all` : undefined;
}

async function findWaiting(db: Queryable): Promise<string | undefined> {
  const waiting = await countCaptured(db);
  return waiting > 0n ? `${waiting} changes wait that the log does not know yet: liventix backfill run` : undefined;
}

const AGAIN =
  'Cut its owner over again, which mirrors what is missing: liventix backfill cutover; backfill proof write says more';

/** Of balances, of rows, and of what rows should be there, in one snapshot. */
async function findDifference(pool: Pool, tables: LegacyTables, bookId: number): Promise<string | undefined> {
  return withTransaction(
    pool,
    async (tx) =>
      (await findDifferingBalance(tx, bookId)) ??
      (await findDifferingRow(tx, tables, bookId)) ??
      (await findUnmirrored(tx, tables, bookId)),
    ONE_SNAPSHOT,
  );
}

async function findDifferingRow(tx: Tx, tables: LegacyTables, bookId: number): Promise<string | undefined> {
  await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
  for (const source of SOURCES) {
    const { rows } = await tx.query<{ n: bigint; first: string }>(
      `select count(*) as n, min(d.id::text) as first from (${differingRowsSql(source, tables, ANY_ROW)}) d having count(*) > 0`,
      [bookId, '{}'],
    );
    const [found] = rows;
    if (found === undefined) continue;
    return `${found.n} rows of ${tables[source.transactions]} are not those of the log, the first: ${found.first}. ${AGAIN}`;
  }
  return undefined;
}

/** What was posted while nothing was mirrored: the next posting puts the balance right, and no row ever. */
async function findUnmirrored(tx: Tx, tables: LegacyTables, bookId: number): Promise<string | undefined> {
  // Of a wallet that is gone, nobody misses a row.
  const kept = SOURCES.map(
    ({ name, wallets, ownerKind }) => `
      select r.account_id, format('${ownerKind} %s', r.owner_id) as owner
      from replay.wallets r join ${tables[wallets]} w on w.id = r.wallet_id where r.book_id = $1 and r.source = '${name}'`,
  );
  const { rows } = await tx.query<{ n: bigint; first: string }>(
    `with kept as materialized (${kept.join(' union all ')}), unmirrored as (
       select k.owner
       from payments.events v
       join payments.entries n on n.book_id = v.book_id and n.transaction_id = v.event_id
       join kept k on k.account_id = n.account_id
       where v.book_id = $1 and v.request_hash is not null and not exists (
         select from replay.mirrored_rows m
         where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
       group by k.owner
       having sum(n.amount_cents) <> 0
     )
     select count(*) as n, min(owner) as first from unmirrored having count(*) > 0`,
    [bookId],
  );
  const [found] = rows;
  return (
    found &&
    `${found.n} owners have transactions that no row of the old tables mirrors, the first: ${found.first}. ${AGAIN}`
  );
}

async function findDifferingBalance(db: Queryable, bookId: number): Promise<string | undefined> {
  const comparison = await compareWallets(db, bookId);
  if (comparison === undefined) return 'The backfill has not finished: liventix backfill run';
  const { differing, changing, first } = comparison;
  if (changing > 0n) return `${changing} wallets changed, which the log does not know yet: liventix backfill run`;
  if (differing > 0n) return `${differing} wallets differ from their accounts, the first: ${first[0]}`;
  return undefined;
}
