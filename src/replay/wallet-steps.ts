import type { Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import type { BackfillProgress, Run } from './backfill-run.ts';
import { isStopped, report } from './backfill-run.ts';
import { platformAccountIds, reconcileChunkSql, walletAccountId, walletsInRange } from './mapping.ts';
import { CAUSES, PLATFORM_ACCOUNTS, REPLAY_CURRENCY, type Source, WALLET_ACCOUNT } from './sources.ts';

const WALLETS_A_CHUNK = 1_000;

/** Opens the accounts that the replay books the other side on. */
export async function openPlatformAccounts(run: Run): Promise<void> {
  const accounts = [...PLATFORM_ACCOUNTS, ...CAUSES.map((name) => ({ type: 'suspense', name }))];
  await withTransaction(run.pool, (tx) =>
    tx.query('select payments.open_accounts($1, $2)', [
      run.bookId,
      JSON.stringify(accounts.map((account) => ({ ...account, currency: REPLAY_CURRENCY }))),
    ]),
  );
}

/** Opens the account of every holder. */
export async function openWalletAccounts(run: Run, source: Source, total: bigint): Promise<void> {
  await inWalletChunks(run, source, { step: 'accounts', total }, async (tx, range) => {
    await tx.query(
      `select payments.open_accounts($1, (
         select coalesce(jsonb_agg(jsonb_build_object('type', 'cash', 'currency', $2::text, 'name', $3::text, $4::text, w.${source.ownerColumn})), '[]')
         from ${run.tables[source.wallets]} w where ${walletsInRange('$5', '$6')}))`,
      [run.bookId, REPLAY_CURRENCY, WALLET_ACCOUNT, `${source.ownerKind}_id`, range.after, range.upTo],
    );
  });
  // Every chunk looks its accounts up: one by one where they are many, which the planner must know to choose.
  // A vacuum at work is not waited for: it would be for advice alone.
  if (!isStopped(run)) await run.pool.query('analyze (skip_locked) payments.accounts, payments.balances');
}

/** Posts what is left between the old balance and the replayed one to suspense, by cause, so that both agree. */
export async function reconcileBalances(run: Run, source: Source, total: bigint): Promise<void> {
  const sql = reconcileChunkSql(source, run.tables);
  await inWalletChunks(run, source, { step: 'balances', total }, async (tx, range) => {
    await tx.query(
      `select payments.lock_accounts($1, array(
         select ${walletAccountId(source, `w.${source.ownerColumn}`)} from ${run.tables[source.wallets]} w
         where ${walletsInRange('$2', '$3')}) || ${platformAccountIds()})`,
      [run.bookId, range.after, range.upTo],
    );
    await tx.query(sql, [run.bookId, source.name, range.after, range.upTo]);
  });
}

interface WalletRange {
  /** Null: from the first on. */
  readonly after: string | null;
  readonly upTo: string;
}

async function inWalletChunks(
  run: Run,
  source: Source,
  progress: Pick<BackfillProgress, 'step' | 'total'>,
  work: (tx: Tx, range: WalletRange) => Promise<void>,
): Promise<void> {
  let after: string | null = null;
  let done = 0n;
  while (!isStopped(run)) {
    const next = await nextWallets(run, source, after);
    if (next.upTo === null) break;
    const range: WalletRange = { after, upTo: next.upTo };
    await withTransaction(run.pool, (tx) => work(tx, range));
    after = range.upTo;
    done += next.count;
    report(run, { ...progress, source: source.name, done });
  }
}

async function nextWallets(
  run: Run,
  source: Source,
  after: string | null,
): Promise<{ count: bigint; upTo: string | null }> {
  const { rows } = await run.pool.query<{ count: bigint; upTo: string | null }>(
    `select count(*) as count, max(id::text) as "upTo"
     from (select id from ${run.tables[source.wallets]} where $1::uuid is null or id > $1::uuid order by id limit $2) w`,
    [after, WALLETS_A_CHUNK],
  );
  return rows[0] ?? { count: 0n, upTo: null };
}
