import type { Pool, Tx } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { getCapture } from './capture.ts';
import { compareWallet, faultOf } from './compare-wallet.ts';
import { givingWay } from './giving-way.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { turnMirrorOn } from './mirror.ts';
import { type Owners, ownerFilter } from './owners.ts';
import { SOURCES, type Source } from './sources.ts';
import { assertFunctionsReplaced } from './wallet-functions.ts';
import { reconcileWallets } from './wallet-steps.ts';

export interface FlipOptions {
  readonly owners: Owners;
  readonly bookId?: number;
  /** Per wallet, what nobody can explain and nobody has signed for. */
  readonly maxUnexplainedCents?: bigint;
  /** Everything is done and compared, and undone again. */
  readonly dryRun?: boolean;
  readonly stop?: AbortSignal;
  readonly onProgress?: (done: bigint, total: bigint) => void;
}

export interface FlipResult {
  /** False when it was stopped before the last owner. */
  readonly finished: boolean;
  readonly flipped: bigint;
  /** Owners that were there already. */
  readonly already: bigint;
  /** Owners that stay where they are, and why; nothing of theirs was changed. */
  readonly refused: readonly Refusal[];
  /** The longest that a write of one owner may have had to wait, in ms. */
  readonly longestMs: number;
}

interface Refusal {
  readonly table: string;
  readonly walletId: string;
  readonly ownerId: string;
  readonly reason: string;
}

interface Wallet {
  readonly source: Source;
  readonly id: string;
  readonly ownerId: string;
}

const WALLETS_A_PAGE = 1_000;

/**
 * Lets the ledger keep the wallets of some owners: from then on the old tables mirror it, and what old code writes there is posted.
 * Each owner is one transaction, during which writes of that owner wait: what is captured of them is drained, the difference
 * booked, every row compared with the log, and the mode flipped. An owner who does not agree stays as he is.
 * @throws AppError CUTOVER_TOO_EARLY, CUTOVER_OLD_FUNCTIONS, CUTOVER_OWNER_UNKNOWN, CAPTURE_OFF, CAPTURE_OTHER_BOOK, CAPTURE_INTERRUPTED, CAPTURE_BUSY, DB_*
 */
export async function cutOver(pool: Pool, options: FlipOptions): Promise<FlipResult> {
  const { bookId = MAIN_BOOK } = options;
  const tables = await getLegacyTables(pool);
  await getCapture(pool, options.stop === undefined ? { bookId } : { bookId, stop: options.stop });
  await assertReplayed(pool, bookId);
  await assertFunctionsReplaced(pool);
  if (options.dryRun !== true) await turnMirrorOn(pool, options);
  await setModeOfNewWallets(pool, options, 'ledger');
  return flipAll(pool, options, 'ledger', (tx, wallet) => cutOverWallet(tx, wallet, { ...options, bookId, tables }));
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

/**
 * Lets the old tables keep the wallets of some owners again. They have every row and balance, because they mirrored the ledger, so
 * that this is a flip; it is compared all the same, and refused for an owner of whom something differs.
 * @throws AppError CUTOVER_OWNER_UNKNOWN, CUTOVER_BUSY, DB_*
 */
export async function rollBack(pool: Pool, options: FlipOptions): Promise<FlipResult> {
  const { bookId = MAIN_BOOK } = options;
  const tables = await getLegacyTables(pool);
  await setModeOfNewWallets(pool, options, 'legacy');
  return flipAll(pool, options, 'legacy', (tx, wallet) => rollBackWallet(tx, wallet, { bookId, tables }));
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

type Mode = 'ledger' | 'legacy';
/** Why an owner stays as he is; undefined where he was flipped. */
type Flip = (tx: Tx, wallet: Wallet) => Promise<string | undefined>;

async function flipAll(pool: Pool, options: FlipOptions, to: Mode, flip: Flip): Promise<FlipResult> {
  const { bookId = MAIN_BOOK, owners, stop } = options;
  const refused: Refusal[] = [];
  let [flipped, already, longestMs] = [0n, 0n, 0];
  const total = await countWallets(pool, bookId, owners);
  if (total === 0n && owners !== 'all') throw ownerUnknown(owners);
  for await (const wallet of walletsOf(pool, bookId, owners)) {
    if (stop?.aborted === true) return { finished: false, flipped, already, refused, longestMs };
    const outcome = await flipOne(pool, options, { wallet, bookId, to, flip });
    if (outcome.status === 'refused') {
      const { reason } = outcome;
      refused.push({ table: wallet.source.wallets, walletId: wallet.id, ownerId: wallet.ownerId, reason });
    } else if (outcome.status === 'flipped') flipped += 1n;
    else already += 1n;
    longestMs = Math.max(longestMs, outcome.heldMs);
    options.onProgress?.(flipped + already + BigInt(refused.length), total);
  }
  return { finished: true, flipped, already, refused, longestMs };
}

type Outcome =
  | { readonly status: 'flipped' | 'already'; readonly heldMs: number }
  | { readonly status: 'refused'; readonly reason: string; readonly heldMs: number };

/** Whose word counts is changed while nobody writes to the wallet, by whoever may. */
async function flipOne(
  pool: Pool,
  { stop, dryRun = false }: FlipOptions,
  { wallet, bookId, to, flip }: { wallet: Wallet; bookId: number; to: Mode; flip: Flip },
): Promise<Outcome> {
  let heldSince = 0;
  const held = () => (heldSince === 0 ? 0 : performance.now() - heldSince);
  try {
    const status = await givingWay<'flipped' | 'already'>(pool, { stop, givenUp: busy }, async (tx) => {
      const key = [wallet.id, wallet.source.name, bookId];
      const { rows } = await tx.query<{ mode: Mode }>(
        'select mode from replay.wallets where wallet_id = $1 and source = $2 and book_id = $3 for update',
        key,
      );
      heldSince = performance.now();
      if (rows[0]?.mode === to) return 'already';
      const reason = await flip(tx, wallet);
      // Nothing of it is kept: what was drained and booked is found again by the next run.
      if (reason !== undefined || dryRun) throw new Undone(reason);
      await tx.query('update replay.wallets set mode = $4 where wallet_id = $1 and source = $2 and book_id = $3', [
        ...key,
        to,
      ]);
      return 'flipped';
    });
    return { status, heldMs: status === 'flipped' ? held() : 0 };
  } catch (error) {
    if (!(error instanceof AppError) || !(error.cause instanceof Undone)) throw error;
    const { reason } = error.cause;
    return reason === undefined ? { status: 'flipped', heldMs: held() } : { status: 'refused', reason, heldMs: held() };
  }
}

/** Ends a transaction of which nothing is to stay. */
class Undone extends Error {
  readonly reason: string | undefined;

  constructor(reason: string | undefined) {
    super('undone');
    this.reason = reason;
  }
}

function busy(tries: number, cause: AppError): AppError {
  return new AppError(
    'CUTOVER_BUSY',
    `A wallet was in use each of ${tries} times; those before it are flipped. Run it again.`,
    {
      cause,
    },
  );
}

interface CutOver extends FlipOptions {
  readonly bookId: number;
  readonly tables: LegacyTables;
}

async function cutOverWallet(tx: Tx, wallet: Wallet, options: CutOver): Promise<string | undefined> {
  const { bookId, tables, maxUnexplainedCents = 0n } = options;
  await tx.query(
    'select replay.drain_wallets($1, null, array[$2::uuid]), replay.drain_rows($1, null, array[$2::uuid])',
    [bookId, wallet.id],
  );
  await reconcileWallets(tx, { bookId, source: wallet.source, tables, ids: [wallet.id] });
  const comparison = await compareWallet(tx, { bookId, source: wallet.source, tables, walletId: wallet.id });
  const unexplained = comparison.unexplainedCents - comparison.approvedCents;
  if (unexplained > maxUnexplainedCents) {
    return `${unexplained} cents of its balance are unexplained and nobody has signed for them: liventix backfill approve`;
  }
  return faultOf(comparison);
}

async function rollBackWallet(
  tx: Tx,
  wallet: Wallet,
  { bookId, tables }: Pick<CutOver, 'bookId' | 'tables'>,
): Promise<string | undefined> {
  await tx.query(
    'select payments.lock_accounts($1, array[(select account_id from replay.wallets where wallet_id = $2 and source = $3 and book_id = $1)])',
    [bookId, wallet.id, wallet.source.name],
  );
  return faultOf(await compareWallet(tx, { bookId, source: wallet.source, tables, walletId: wallet.id }));
}

function ownerUnknown({ kind, id }: Exclude<Owners, 'all'>): AppError {
  return new AppError(
    'CUTOVER_OWNER_UNKNOWN',
    `The ${kind} ${id} has no wallet that was replayed. See: liventix backfill status`,
  );
}

async function countWallets(pool: Pool, bookId: number, owners: Owners): Promise<bigint> {
  const { rows } = await pool.query<{ n: bigint }>(
    'select count(*) as n from replay.wallets where book_id = $1 and ($2::text is null or source = $2 and owner_id = $3)',
    [bookId, ...ownerFilter(owners)],
  );
  return rows[0]?.n ?? 0n;
}

async function* walletsOf(pool: Pool, bookId: number, owners: Owners): AsyncGenerator<Wallet> {
  for (const source of SOURCES) {
    let after: string | null = null;
    for (;;) {
      const { rows }: { rows: { id: string; ownerId: string }[] } = await pool.query(
        `select wallet_id as id, owner_id as "ownerId" from replay.wallets
         where book_id = $1 and source = $2 and ($3::text is null or source = $3 and owner_id = $4)
           and ($5::uuid is null or wallet_id > $5)
         order by wallet_id limit $6`,
        [bookId, source.name, ...ownerFilter(owners), after, WALLETS_A_PAGE],
      );
      for (const row of rows) yield { ...row, source };
      const last = rows.at(-1);
      if (last === undefined) break;
      after = last.id;
    }
  }
}
