import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { assertNotRetired, assertStillCaptured, type Capture, getCapture } from './capture.ts';
import { balanceFaultOf, compareWallet, faultOf, type WalletSides, type Which } from './compare-wallet.ts';
import {
  catchUp,
  type FlipOptions,
  type FlipResult,
  flipAll,
  flipUnderLock,
  type Mode,
  modeOf,
  type Outcome,
  rehearse,
  type Verdict,
  type Wallet,
} from './flip.ts';
import { refusalOf } from './held-back.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { differingWalletsSql } from './mapping.ts';
import { mirrorMissed, turnMirrorOn } from './mirror.ts';
import { SOURCES } from './sources.ts';
import { assertFunctionsReplaced } from './wallet-functions.ts';
import { DEFAULT_SETTLE_MS, reconcileWallets } from './wallet-steps.ts';

export interface CutOverOptions extends FlipOptions {
  /** Per wallet, what nobody can explain and nobody has signed for. */
  readonly maxUnexplainedCents?: bigint;
  /** As for the backfill: how long a wallet must have been left alone before its difference is booked. */
  readonly settleMs?: number;
}

export interface RollBackOptions extends FlipOptions {
  /** Also wallets whose old rows or balance are not those of the ledger, which the old tables' word then stands against. */
  readonly alsoDiffering?: boolean;
}

/** How often a wallet is looked at that old code is in the middle of writing to. */
const MAX_TRIES = 5;

/**
 * Lets the ledger keep the wallets of some owners: from then on the old tables mirror it, and what old code writes there is posted.
 * What is captured of a wallet is drained, its difference booked, and every row compared with the log while old code goes on; writes
 * of its owner wait only while what came since is compared too, and the mode flipped. An owner who does not agree stays as he is. A
 * wallet that the ledger keeps already is given what it missed while the mirror was gone.
 * @throws AppError CUTOVER_TOO_EARLY, CUTOVER_OLD_FUNCTIONS, CUTOVER_OWNER_UNKNOWN, CUTOVER_BUSY, CAPTURE_OFF, CAPTURE_OTHER_BOOK,
 *   CAPTURE_INTERRUPTED, CAPTURE_BUSY, DB_*
 */
export async function cutOver(pool: Pool, options: CutOverOptions): Promise<FlipResult> {
  const { bookId = MAIN_BOOK, stop } = options;
  const tables = await getLegacyTables(pool);
  const capture = await getCapture(pool, { bookId, stop });
  await assertReplayed(pool, bookId);
  await assertFunctionsReplaced(pool);
  if (options.dryRun !== true) await turnMirrorOn(pool, { bookId, stop });
  await setModeOfNewWallets(pool, options, 'ledger');
  return flipAll(pool, { ...options, bookId, tables }, (wallet) =>
    options.dryRun === true
      ? rehearse(pool, { stop, to: 'ledger', wallet }, (tx) => rehearseCutOver(tx, wallet, options))
      : cutOverWallet(pool, wallet, { ...options, capture }),
  );
}

/**
 * Lets the old tables keep the wallets of some owners again. They have every row and balance, because they mirrored the ledger, so
 * that this is a flip; it is compared all the same, and refused for an owner of whom something differs, unless that is asked for: what
 * old code wrote while the capture was gone is in the old tables alone, and the next backfill under a new capture books it.
 * @throws AppError BACKFILL_RETIRED, CUTOVER_OWNER_UNKNOWN, CUTOVER_BUSY, DB_*
 */
export async function rollBack(pool: Pool, options: RollBackOptions): Promise<FlipResult> {
  const { bookId = MAIN_BOOK, stop } = options;
  await assertNotRetired(pool, bookId);
  const tables = await getLegacyTables(pool);
  await setModeOfNewWallets(pool, options, 'legacy');
  const result = await flipAll(pool, { ...options, bookId, tables }, (wallet) =>
    options.dryRun === true
      ? rehearse(pool, { stop, to: 'legacy', wallet }, async (tx) => {
          await mirrorMissed(tx, wallet, options);
          return verdictOfWayBack(await compareWallet(tx, wallet), options);
        })
      : rollBackWallet(pool, wallet, options),
  );
  if (options.owners === 'all' && options.dryRun !== true && result.finished) await letGoOfGone(pool, bookId, tables);
  return result;
}

/** Of wallets that were deleted there is nothing to compare; one that is made anew under its id is a new one. */
async function letGoOfGone(pool: Pool, bookId: number, tables: LegacyTables): Promise<void> {
  for (const { name, wallets } of SOURCES) {
    await pool.query(
      `update replay.wallets r set mode = 'legacy'
       where r.book_id = $1 and r.source = $2 and r.mode = 'ledger'
         and not exists (select from ${tables[wallets]} w where w.id = r.wallet_id)`,
      [bookId, name],
    );
  }
}

// Before the others are flipped: one that is made meanwhile would be passed over.
async function setModeOfNewWallets(
  pool: Pool,
  { owners, dryRun, bookId = MAIN_BOOK }: FlipOptions,
  mode: Mode,
): Promise<void> {
  if (owners !== 'all' || dryRun === true) return;
  await pool.query('update replay.capture set new_wallets = $2 where book_id = $1', [bookId, mode]);
}

async function assertReplayed(pool: Pool, bookId: number): Promise<void> {
  const { rows } = await pool.query<{ n: bigint }>(
    `select count(*) as n from replay.progress p join replay.capture c on c.id = p.capture_id and c.book_id = p.book_id
     where p.book_id = $1 and p.read_at is not null and p.finished_at is not null`,
    [bookId],
  );
  if (rows[0]?.n === BigInt(SOURCES.length)) return;
  throw new AppError(
    'CUTOVER_TOO_EARLY',
    'The backfill has not finished, so that the ledger does not know every wallet yet. Run it to its end first: liventix backfill run',
  );
}

type UnderCapture = CutOverOptions & { readonly capture: Capture };

async function cutOverWallet(pool: Pool, wallet: Wallet, options: UnderCapture): Promise<Outcome> {
  const { settleMs = DEFAULT_SETTLE_MS, stop } = options;
  let longestMs = 0;
  for (let tries = 1; ; tries += 1) {
    const outcome = await tryCutOver(pool, wallet, options);
    longestMs = Math.max(longestMs, outcome.heldMs);
    if (outcome.status !== 'moving' || tries === MAX_TRIES || stop?.aborted === true) {
      return { ...outcome, heldMs: longestMs };
    }
    await sleep(settleMs, undefined, { signal: stop }).catch(() => undefined);
  }
}

async function tryCutOver(pool: Pool, wallet: Wallet, options: UnderCapture): Promise<Outcome> {
  if ((await modeOf(pool, wallet)) === 'ledger') return keepUp(pool, wallet, options);
  try {
    await withTransaction(pool, async (tx) => {
      await drainWallet(tx, wallet);
      await bookDifference(tx, wallet, options);
    });
  } catch (error) {
    const reason = refusalOf(error);
    if (reason === undefined) throw error;
    return { status: 'refused', reason, heldMs: 0 };
  }
  const whole = await compareWallet(pool, wallet);
  const reason = reasonAgainst(whole, wallet, options);
  if (reason !== undefined) return { status: 'refused', reason, heldMs: 0 };
  const assertStill = async (tx: Tx) => {
    await assertStillCaptured(tx, options.capture);
    await assertFunctionsReplaced(tx);
  };
  return flipUnderLock(pool, { wallet, to: 'ledger', stop: options.stop, assertStill }, (tx) =>
    judgeRest(tx, wallet, { whole, ...options }),
  );
}

/** A wallet that the ledger keeps. Of all of them, only those are looked at row by row of which something may be missing. */
async function keepUp(pool: Pool, wallet: Wallet, { owners, stop, capture }: UnderCapture): Promise<Outcome> {
  const isComplete = owners === 'all' ? await isTakenAsMirrored(pool, wallet) : await agrees(pool, wallet);
  if (isComplete) return { status: 'already', heldMs: 0 };
  const assertStill = (tx: Tx) => assertStillCaptured(tx, capture);
  return catchUp(pool, { wallet, stop, assertStill }, async (tx) => {
    await mirrorMissed(tx, wallet);
    return verdictOf(await compareWallet(tx, wallet));
  });
}

const agrees = async (pool: Pool, wallet: Wallet): Promise<boolean> =>
  verdictOf(await compareWallet(pool, wallet)).status === 'agrees';

/** Whether it has its balance, and was not found without a mirror. */
async function isTakenAsMirrored(pool: Pool, { bookId, source, tables, walletId }: Which): Promise<boolean> {
  const { rowCount } = await pool.query(
    `select from replay.wallets r
     join ${tables[source.wallets]} w on w.id = r.wallet_id
     join payments.balances b on b.account_id = r.account_id and b.book_id = r.book_id
     where r.wallet_id = $1 and r.source = $2 and r.book_id = $3 and w.balance_credits = -b.balance_cents and not exists (
       select from replay.unmirrored u where u.wallet_id = r.wallet_id and u.source = r.source and u.book_id = r.book_id)`,
    [walletId, source.name, bookId],
  );
  return rowCount === 1;
}

/** What came since all of it was compared. Nobody writes to the wallet; its account is locked too. */
async function judgeRest(
  tx: Tx,
  wallet: Wallet,
  { whole, ...options }: CutOverOptions & { readonly whole: WalletSides },
): Promise<Verdict> {
  const ids = [...whole.pendingIds, ...(await findPendingIds(tx, wallet))];
  await drainWallet(tx, wallet);
  await lockAccount(tx, wallet);
  let rest = await compareWallet(tx, wallet, { whole, ids });
  if (balanceFaultOf(rest) !== undefined) {
    await bookDifference(tx, wallet, options);
    rest = await compareWallet(tx, wallet, { whole, ids });
  }
  const reason = reasonAgainst(sinceThen(whole, rest), wallet, options);
  if (reason !== undefined) return { status: 'refused', reason };
  const moving = balanceFaultOf(rest);
  if (moving !== undefined) return { status: 'moving', reason: `it is being written to, run it again: ${moving}` };
  await tx.query('delete from replay.unreconciled where wallet_id = $1 and source = $2 and book_id = $3', [
    wallet.walletId,
    wallet.source.name,
    wallet.bookId,
  ]);
  return { status: 'agrees' };
}

async function rehearseCutOver(tx: Tx, wallet: Wallet, options: CutOverOptions): Promise<Verdict> {
  await drainWallet(tx, wallet);
  await bookDifference(tx, wallet, options);
  const whole = await compareWallet(tx, wallet);
  const reason = reasonAgainst(whole, wallet, options);
  return reason === undefined ? verdictOf(whole) : { status: 'refused', reason };
}

async function rollBackWallet(pool: Pool, wallet: Wallet, options: RollBackOptions): Promise<Outcome> {
  const { stop } = options;
  if ((await modeOf(pool, wallet)) === 'legacy') return { status: 'already', heldMs: 0 };
  const assertStill = (tx: Tx) => assertNotRetired(tx, wallet.bookId);
  let whole = await compareWallet(pool, wallet);
  if (verdictOf(whole).status !== 'agrees') {
    const caughtUp = await catchUp(pool, { wallet, stop, assertStill }, async (tx) => {
      await mirrorMissed(tx, wallet, options);
      whole = await compareWallet(tx, wallet);
      return verdictOfWayBack(whole, options);
    });
    if (caughtUp.status !== 'caughtUp') return caughtUp;
  }
  return flipUnderLock(pool, { wallet, to: 'legacy', stop, assertStill }, async (tx) => {
    await lockAccount(tx, wallet);
    const rest = await compareWallet(tx, wallet, { whole, ids: whole.pendingIds });
    return verdictOfWayBack(sinceThen(whole, rest), options);
  });
}

/** Of the drift, what came since. */
function sinceThen(whole: WalletSides, rest: WalletSides): WalletSides {
  return { ...rest, driftCents: rest.driftCents - whole.driftCents };
}

function verdictOf(sides: WalletSides): Verdict {
  const reason = faultOf(sides) ?? balanceFaultOf(sides);
  return reason === undefined ? { status: 'agrees' } : { status: 'refused', reason };
}

function verdictOfWayBack(sides: WalletSides, { alsoDiffering = false }: RollBackOptions): Verdict {
  if (alsoDiffering) return { status: 'agrees' };
  const verdict = verdictOf(sides);
  if (verdict.status === 'agrees') return verdict;
  return {
    ...verdict,
    reason: `${verdict.reason}; it goes back with --also-differing, and what the old tables say counts then`,
  };
}

/** Why the ledger may not keep a wallet, its balance aside. */
function reasonAgainst(
  sides: WalletSides,
  { ownerId, source }: Wallet,
  { maxUnexplainedCents = 0n }: CutOverOptions,
): string | undefined {
  const { unapprovedCents, restriction } = sides;
  if (unapprovedCents > maxUnexplainedCents) {
    const owner = `--${source.ownerKind} ${ownerId}`;
    return `${unapprovedCents} cents of it are unexplained and nobody has signed for them: liventix backfill approve ${owner} --reason '…'`;
  }
  if (restriction !== null) {
    return `of its account, ${restriction}, so that what old code writes to the wallet would be refused: lift that first`;
  }
  return faultOf(sides);
}

async function findPendingIds(db: Queryable, { walletId, source }: Which): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    'select distinct coalesce((c.new).id, (c.old).id) as id from replay.captured_rows c where c.wallet_id = $1 and c.source = $2',
    [walletId, source.name],
  );
  return rows.map(({ id }) => id);
}

async function drainWallet(tx: Tx, { bookId, walletId }: Which): Promise<void> {
  await tx.query(
    'select replay.drain_wallets($1, null, array[$2::uuid]), replay.drain_rows($1, null, array[$2::uuid])',
    [bookId, walletId],
  );
}

/** Books what the wallet has beyond its rows, if it has been left alone for a while. Locks its account and the platform's then. */
async function bookDifference(tx: Tx, wallet: Which, { settleMs = DEFAULT_SETTLE_MS }: CutOverOptions): Promise<void> {
  const { bookId, source, tables, walletId } = wallet;
  const { rowCount } = await tx.query(differingWalletsSql(source, tables), [bookId, source.name, [walletId], settleMs]);
  if (rowCount !== 0) await reconcileWallets(tx, { bookId, source, tables, ids: [walletId] });
}

/** From then on new code cannot post to it. */
async function lockAccount(tx: Tx, { bookId, walletId, source }: Which): Promise<void> {
  await tx.query(
    'select payments.lock_accounts($1, array(select account_id from replay.wallets where wallet_id = $2 and source = $3 and book_id = $1))',
    [bookId, walletId, source.name],
  );
}
