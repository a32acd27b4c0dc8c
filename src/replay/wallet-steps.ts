import { givingWay } from '../db/giving-way.ts';
import type { Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import type { BackfillProgress, Run } from './backfill-run.ts';
import { isStopped, mayGoOn, report } from './backfill-run.ts';
import { doOneByOne, refusalOf } from './held-back.ts';
import type { LegacyTables } from './legacy.ts';
import { differingWalletsSql, reconcileWalletsSql } from './mapping.ts';
import { REPLAY_CURRENCY, type Source } from './sources.ts';

/** At most. */
const WALLETS_A_CHUNK = 500;

/** Opens the accounts that the replay books the other side on. */
export async function openPlatformAccounts(run: Run): Promise<void> {
  await withTransaction(run.pool, (tx) =>
    tx.query(
      `select payments.open_accounts($1, (
         select jsonb_agg(jsonb_build_object('type', c.type, 'name', c.name, 'currency', $2::text)) from replay.chart() c))`,
      [run.bookId, REPLAY_CURRENCY],
    ),
  );
}

/**
 * Opens the account of every holder. Old code that touches a wallet for the first time binds it too, and keeps it until it commits:
 * so this gives way, or the two could wait for each other.
 * @throws AppError CAPTURE_BUSY
 */
export async function openWalletAccounts(run: Run, source: Source, total: bigint): Promise<void> {
  const { pool, bookId, tables, options } = run;
  const bindSql = `
    select replay.bind_wallets($1, $2, array_agg(w.id order by w.id), array_agg(w.${source.ownerColumn} order by w.id))
    from ${tables[source.wallets]} w where w.id = any ($3)`;
  await inWalletChunks(run, source, { step: 'accounts', total }, async (ids) => {
    const what = 'A wallet that old code has just written to for the first time';
    await givingWay(pool, { stop: options.stop, code: 'CAPTURE_BUSY', what }, async (tx) => {
      await tx.query(bindSql, [bookId, source.name, ids]);
    });
  });
  // Every chunk looks its accounts up: one by one where they are many, which the planner must know to choose.
  // A vacuum at work is not waited for: it would be for advice alone.
  if (!isStopped(run)) {
    await run.pool.query('analyze (skip_locked) payments.accounts, payments.balances, replay.wallets, replay.findings');
  }
}

/** Posts what wallets have beyond the sum of their rows to suspense, by cause, so that the log's balance is what their owner saw. */
export async function reconcileBalances(run: Run, source: Source, total: bigint): Promise<void> {
  await inWalletChunks(run, source, { step: 'balances', total }, (ids) => reconcile(run, source, ids));
}

/** The same for those wallets of which something changed since. */
export async function reconcileChanged(run: Run, source: Source): Promise<void> {
  let after = '00000000-0000-0000-0000-000000000000';
  while (await mayGoOn(run)) {
    const { rows } = await run.pool.query<{ id: string }>(
      `select wallet_id as id from replay.unreconciled
       where book_id = $1 and source = $2 and wallet_id > $3 order by wallet_id limit $4`,
      [run.bookId, source.name, after, run.pacing.rows(WALLETS_A_CHUNK)],
    );
    const ids = rows.map(({ id }) => id);
    const last = ids.at(-1);
    if (last === undefined) break;
    await reconcile(run, source, ids);
    after = last;
  }
}

/** All at once, or one by one where the ledger refuses to post to one of their accounts. */
async function reconcile(run: Run, source: Source, ids: readonly string[]): Promise<void> {
  const { pool, bookId, tables } = run;
  const differing = await pool.query<{ id: string }>(differingWalletsSql(source, tables), [
    bookId,
    source.name,
    ids,
    run.options.settleMs ?? DEFAULT_SETTLE_MS,
  ]);
  const book = (tx: Tx, due: readonly string[]) => reconcileWallets(tx, { bookId, source, tables, ids: due });
  const due = differing.rows.map(({ id }) => id);
  if (due.length === 0) return;
  try {
    await withTransaction(pool, (tx) => book(tx, due));
  } catch (error) {
    if (refusalOf(error) === undefined) throw error;
    const wallets = due.map((id) => ({ bookId, source: source.name, id }));
    await doOneByOne(pool, wallets, (tx, { id }) => book(tx, [id]));
  }
}

/** Books what some wallets have beyond the sum of their rows. Locks their accounts and the platform's. */
export async function reconcileWallets(
  tx: Tx,
  { bookId, source, tables, ids }: { bookId: number; source: Source; tables: LegacyTables; ids: readonly string[] },
): Promise<void> {
  await tx.query(
    `select payments.lock_accounts($1, replay.platform_account_ids($1) || array(
       select r.account_id from replay.wallets r where r.book_id = $1 and r.source = $2 and r.wallet_id = any ($3)))`,
    [bookId, source.name, ids],
  );
  await tx.query(reconcileWalletsSql(source, tables), [bookId, source.name, ids]);
}

/** Longer than old code takes from a row to the balance that goes with it. */
export const DEFAULT_SETTLE_MS = 2_000;

async function inWalletChunks(
  run: Run,
  source: Source,
  progress: Pick<BackfillProgress, 'step' | 'total'>,
  work: (ids: readonly string[]) => Promise<void>,
): Promise<void> {
  let after: string | null = null;
  let done = 0n;
  while (await mayGoOn(run)) {
    const ids = await nextWallets(run, source, after);
    const last = ids.at(-1);
    if (last === undefined) break;
    await work(ids);
    after = last;
    done += BigInt(ids.length);
    report(run, { ...progress, source: source.name, done });
  }
}

async function nextWallets(run: Run, source: Source, after: string | null): Promise<string[]> {
  const { rows } = await run.pool.query<{ id: string }>(
    `select id from ${run.tables[source.wallets]} where $1::uuid is null or id > $1::uuid order by id limit $2`,
    [after, run.pacing.rows(WALLETS_A_CHUNK)],
  );
  return rows.map(({ id }) => id);
}
