import { givingWay } from '../db/giving-way.ts';
import type { Pool, Tx } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Which } from './compare-wallet.ts';
import { refusalOf } from './held-back.ts';
import type { LegacyTables } from './legacy.ts';
import { type Owners, ownerFilter } from './owners.ts';
import { SOURCES, type Source } from './sources.ts';

export interface FlipOptions {
  readonly owners: Owners;
  readonly bookId?: number;
  /** Everything is done and compared, and undone again. */
  readonly dryRun?: boolean;
  readonly stop?: AbortSignal | undefined;
  readonly onProgress?: (done: bigint, total: bigint) => void;
}

export interface FlipResult {
  /** False when it was stopped before the last owner. */
  readonly finished: boolean;
  readonly flipped: bigint;
  /** Wallets that were there already. */
  readonly already: bigint;
  /** How many of those were looked at for what a mirror that was gone had missed, and were given it. */
  readonly caughtUp: bigint;
  /** Owners that stay where they are, and why. */
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

/** A wallet of the old tables, and whose it is. */
export interface Wallet extends Which {
  readonly ownerId: string;
}

/** Whose word counts for a wallet. */
export type Mode = 'ledger' | 'legacy';

/** Moving: old code is in the middle of something, what it wrote so far does not go together. */
interface Objection {
  readonly status: 'refused' | 'moving';
  readonly reason: string;
}

/** What is found while nobody writes to a wallet. */
export type Verdict = { readonly status: 'agrees' } | Objection;

type Done = 'flipped' | 'already' | 'caughtUp';
type Result = { readonly status: Done } | Objection;

/** What came of one wallet, and for how long writers of it may have had to wait, in ms. */
export type Outcome = Result & { readonly heldMs: number };

const WALLETS_A_PAGE = 1_000;
const BUSY = { code: 'CUTOVER_BUSY', what: 'It', left: 'It stays where it is.' } as const;

/**
 * Flips one wallet of some owners after the other.
 * @throws AppError CUTOVER_OWNER_UNKNOWN, DB_*
 */
export async function flipAll(
  pool: Pool,
  { bookId, tables, ...options }: FlipOptions & { readonly bookId: number; readonly tables: LegacyTables },
  flip: (wallet: Wallet) => Promise<Outcome>,
): Promise<FlipResult> {
  const { owners, stop } = options;
  const refused: Refusal[] = [];
  let [flipped, already, caughtUp, longestMs] = [0n, 0n, 0n, 0];
  const total = await countWallets(pool, { bookId, tables, owners });
  if (total === 0n && owners !== 'all') throw ownerUnknown(owners);
  for await (const wallet of walletsOf(pool, { bookId, tables, owners })) {
    if (stop?.aborted === true) return { finished: false, flipped, already, caughtUp, refused, longestMs };
    const outcome = await flip(wallet);
    if (outcome.status === 'refused' || outcome.status === 'moving') {
      const { walletId, ownerId, source } = wallet;
      refused.push({ table: source.wallets, walletId, ownerId, reason: outcome.reason });
    } else if (outcome.status === 'flipped') flipped += 1n;
    else already += 1n;
    if (outcome.status === 'caughtUp') caughtUp += 1n;
    longestMs = Math.max(longestMs, outcome.heldMs);
    options.onProgress?.(flipped + already + BigInt(refused.length), total);
  }
  return { finished: true, flipped, already, caughtUp, refused, longestMs };
}

interface Locking {
  readonly wallet: Wallet;
  readonly stop: AbortSignal | undefined;
  /** Throws where what was looked at before the first flip holds no more. */
  readonly assertStill: (tx: Tx) => Promise<void>;
}

/** Changes whose word counts while nobody writes to the wallet, by whoever may, if that is what is found then. */
export async function flipUnderLock(
  pool: Pool,
  { to, ...locking }: Locking & { readonly to: Mode },
  judge: (tx: Tx) => Promise<Verdict>,
): Promise<Outcome> {
  const { walletId, source, bookId } = locking.wallet;
  return underLock(pool, locking, async (tx, mode) => {
    if (mode === to) return 'already';
    assertAgrees(await judge(tx));
    await tx.query('update replay.wallets set mode = $4 where wallet_id = $1 and source = $2 and book_id = $3', [
      walletId,
      source.name,
      bookId,
      to,
    ]);
    return 'flipped';
  });
}

/** Puts right what one wallet lacks that is where it belongs, while nobody writes to it, if it agrees then. */
export async function catchUp(pool: Pool, locking: Locking, putRight: (tx: Tx) => Promise<Verdict>): Promise<Outcome> {
  return underLock(pool, locking, async (tx) => {
    assertAgrees(await putRight(tx));
    return 'caughtUp';
  });
}

async function underLock(
  pool: Pool,
  { wallet, stop, assertStill }: Locking,
  work: (tx: Tx, mode: Mode | undefined) => Promise<Done>,
): Promise<Outcome> {
  const held = startHoldClock();
  const result = await refusing(async () => {
    const status = await givingWay(pool, { ...BUSY, stop }, async (tx) => {
      // Whoever ends the capture, retires the old tables or brings their functions back waits, and finds what was flipped.
      await tx.query('select from replay.capture where book_id = $1 for share', [wallet.bookId]);
      await assertStill(tx);
      const { rows } = await tx.query<{ mode: Mode }>(
        'select mode from replay.wallets where wallet_id = $1 and source = $2 and book_id = $3 for update',
        [wallet.walletId, wallet.source.name, wallet.bookId],
      );
      held.begin();
      return work(tx, rows[0]?.mode).catch((error: unknown) => {
        held.end();
        throw error;
      });
    });
    // Writers wait until it is committed.
    held.end();
    return status;
  });
  return { ...result, heldMs: held.longestMs() };
}

/** How long a wallet was held, of all tries the longest: one that was given up made writers wait too. */
function startHoldClock() {
  let longestMs = 0;
  let since: number | undefined;
  return {
    begin: () => {
      since = performance.now();
    },
    end: () => {
      if (since !== undefined) longestMs = Math.max(longestMs, performance.now() - since);
      since = undefined;
    },
    longestMs: () => longestMs,
  };
}

/** Ends the transaction, of which nothing stays, where the two sides do not agree. */
function assertAgrees(verdict: Verdict): void {
  if (verdict.status !== 'agrees') throw new Undone(verdict);
}

/** Finds what a flip would find, in a transaction of which nothing stays. */
export async function rehearse(
  pool: Pool,
  { stop, to, wallet }: { stop: AbortSignal | undefined; to: Mode; wallet: Wallet },
  judge: (tx: Tx) => Promise<Verdict>,
): Promise<Outcome> {
  if ((await modeOf(pool, wallet)) === to) return { status: 'already', heldMs: 0 };
  const result = await refusing(() =>
    givingWay(pool, { ...BUSY, stop }, async (tx) => {
      throw new Undone(await judge(tx));
    }),
  );
  return { ...result, heldMs: 0 };
}

export async function modeOf(pool: Pool, { walletId, source, bookId }: Which): Promise<Mode | undefined> {
  const { rows } = await pool.query<{ mode: Mode }>(
    'select mode from replay.wallets where wallet_id = $1 and source = $2 and book_id = $3',
    [walletId, source.name, bookId],
  );
  return rows[0]?.mode;
}

/** What work on one wallet comes to: one that is in use, or that the ledger refuses to post to, keeps no other from its turn. */
async function refusing(work: () => Promise<Done>): Promise<Result> {
  try {
    return { status: await work() };
  } catch (error) {
    const reason = error instanceof AppError && error.code === 'CUTOVER_BUSY' ? error.message : refusalOf(error);
    if (reason !== undefined) return { status: 'refused', reason };
    if (!(error instanceof AppError) || !(error.cause instanceof Undone)) throw error;
    const { verdict } = error.cause;
    return verdict.status === 'agrees' ? { status: 'flipped' } : verdict;
  }
}

/** Ends a transaction of which nothing is to stay: what was drained and booked is found again by the next run. */
class Undone extends Error {
  readonly verdict: Verdict;

  constructor(verdict: Verdict) {
    super('undone');
    this.verdict = verdict;
  }
}

function ownerUnknown({ kind, id }: Exclude<Owners, 'all'>): AppError {
  return new AppError(
    'CUTOVER_OWNER_UNKNOWN',
    `The ${kind} ${id} has no wallet that was replayed. See: liventix backfill status`,
  );
}

interface Range {
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly owners: Owners;
}

/** SQL of the wallets of a source that are still there; $1 is the book, $2 and $3 whose. */
function walletsSql({ name, wallets }: Source, tables: LegacyTables): string {
  return `from replay.wallets r join ${tables[wallets]} w on w.id = r.wallet_id
    where r.book_id = $1 and r.source = '${name}' and ($2::text is null or r.source = $2 and r.owner_id = $3)`;
}

async function countWallets(pool: Pool, { bookId, tables, owners }: Range): Promise<bigint> {
  const counts = SOURCES.map((source) => `(select count(*) ${walletsSql(source, tables)})`);
  const { rows } = await pool.query<{ n: bigint }>(`select ${counts.join(' + ')} as n`, [
    bookId,
    ...ownerFilter(owners),
  ]);
  return rows[0]?.n ?? 0n;
}

async function* walletsOf(pool: Pool, { bookId, tables, owners }: Range): AsyncGenerator<Wallet> {
  for (const source of SOURCES) {
    let after: string | null = null;
    for (;;) {
      const { rows }: { rows: { walletId: string; ownerId: string }[] } = await pool.query(
        `select r.wallet_id as "walletId", r.owner_id as "ownerId" ${walletsSql(source, tables)}
           and ($4::uuid is null or r.wallet_id > $4)
         order by r.wallet_id limit $5`,
        [bookId, ...ownerFilter(owners), after, WALLETS_A_PAGE],
      );
      for (const row of rows) yield { ...row, source, bookId, tables };
      const last = rows.at(-1);
      if (last === undefined) break;
      after = last.walletId;
    }
  }
}
