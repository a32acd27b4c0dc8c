import type { Queryable } from '../db/pool.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { findLegacyTables, type LegacyTables } from './legacy.ts';
import { replayedBalance, walletAccountId } from './mapping.ts';
import { ORPHAN, REPLAY_CURRENCY, SOURCES, type Source, WALLET_ACCOUNT, ZERO_ROW } from './sources.ts';

export interface SourceStatus {
  readonly source: Source['name'];
  readonly rows: bigint;
  readonly total: bigint;
  readonly finished: boolean;
  /** When the old tables were retired; they are compared with nothing from then on. */
  readonly retiredAt: Date | null;
}

/** How far the backfill of one book is. Empty where it never ran. */
export async function backfillStatus(db: Queryable, bookId = MAIN_BOOK): Promise<SourceStatus[]> {
  const tables = await findLegacyTables(db);
  const { rows } = await db.query<Omit<SourceStatus, 'total'>>(
    `select p.source, p.finished_at is not null as finished, p.retired_at as "retiredAt",
            (p.rows + (select coalesce(sum(c.rows), 0) from replay.row_counts c where c.book_id = p.book_id and c.source = p.source))::bigint as rows
     from replay.progress p where p.book_id = $1 order by p.source desc`,
    [bookId],
  );
  const statuses: SourceStatus[] = [];
  for (const row of rows) {
    const table = tables[row.source];
    const total = table === undefined ? row.rows : await count(db, `select count(*) as n from ${table}`);
    statuses.push({ ...row, total });
  }
  return statuses;
}

/** How many wallets the old tables keep, and how many the ledger; one that is gone is kept by nobody. */
export async function countByMode(db: Queryable, bookId = MAIN_BOOK): Promise<{ legacy: bigint; ledger: bigint }> {
  const tables = await findLegacyTables(db);
  const kept = SOURCES.filter(({ wallets }) => tables[wallets] !== undefined).map(
    ({ name, wallets }) =>
      `select r.mode from replay.wallets r join ${tables[wallets]} w on w.id = r.wallet_id where r.source = '${name}' and r.book_id = $1`,
  );
  if (kept.length === 0) return { legacy: 0n, ledger: 0n };
  const { rows } = await db.query<{ legacy: bigint; ledger: bigint }>(
    `select count(*) filter (where mode = 'legacy') as legacy, count(*) filter (where mode = 'ledger') as ledger
     from (${kept.join(' union all ')}) kept`,
    [bookId],
  );
  return rows[0] ?? { legacy: 0n, ledger: 0n };
}

export interface Drift {
  readonly cause: string;
  readonly count: bigint;
  /** What suspense holds for it: positive where holders have more than the history explains. */
  readonly cents: bigint;
}

/** What the old history could not explain, by cause. */
export async function driftByCause(db: Queryable, bookId = MAIN_BOOK): Promise<Drift[]> {
  const { rows } = await db.query<Drift>(
    `select cause, count(*) as count, sum(cents)::bigint as cents
     from (
       select a.name as cause, e.amount_cents as cents
       from payments.accounts p
       join payments.accounts a on a.id = payments.account_of(p.book_id, p.id) and a.book_id = p.book_id
       join payments.entries e on e.book_id = p.book_id and e.account_id = p.id
       where p.book_id = $1 and p.type = 'suspense'
       union all
       select n.payload ->> 'note', 0
       from payments.events n
       where n.book_id = $1 and n.type = 'note.recorded' and n.payload ->> 'note' in ('${ZERO_ROW}', '${ORPHAN}')
     ) found
     group by cause
     order by cause`,
    [bookId],
  );
  return rows;
}

export interface WalletComparison {
  readonly compared: bigint;
  /** Wallets that changed since, which the log does not know yet: not compared. */
  readonly changing: bigint;
  /** Wallets that do not equal their account, and accounts whose wallet is gone. */
  readonly differing: bigint;
  /** The first that differ, with both balances; then the accounts whose wallet is gone. */
  readonly first: readonly string[];
}

const NAMED_WALLETS = 5;

/**
 * Compares every legacy wallet's balance with what the replay brought to its account, and looks for accounts that the
 * replay brought money to and whose wallet is gone.
 * @returns undefined where the legacy wallets are gone, or no backfill of this book has finished
 */
export async function compareWallets(db: Queryable, bookId = MAIN_BOOK): Promise<WalletComparison | undefined> {
  const tables = await findLegacyTables(db);
  const status = await backfillStatus(db, bookId);
  if (!hasWallets(tables) || !isFinished(status) || isRetired(status)) return undefined;
  const pairs = SOURCES.map(
    (source) => `
      select '${source.wallets}' as "table", w.id, w.balance_credits::bigint as legacy,
             -- What the ledger keeps is mirrored, all of it.
             case when r.mode = 'ledger' then -b.balance_cents else ${replayedBalance('b', 'w.balance_credits')} end as ledger
      from ${tables[source.wallets]} w
      left join replay.wallets r on r.wallet_id = w.id and r.source = '${source.name}' and r.book_id = $1
      left join payments.balances b on b.book_id = $1 and b.account_id = ${walletAccountId(source, `w.${source.ownerColumn}`)}`,
  );
  // What was posted beside the replay needs no wallet: a holder who came after it never had one.
  const widows = SOURCES.map(
    (source) => `
      select a.id, ${replayedBalance('b', '0')} as ledger
      from payments.accounts a
      join payments.balances b on b.book_id = a.book_id and b.account_id = a.id
      where a.book_id = $1 and (a.type, a.currency, a.name) = ('cash', '${REPLAY_CURRENCY}', '${WALLET_ACCOUNT}')
        and a.${source.ownerKind}_id is not null
        and not exists (select from ${tables[source.wallets]} w where w.${source.ownerColumn} = a.${source.ownerKind}_id)`,
  );
  const { rows } = await db.query<WalletComparison>(
    `with changing as materialized (
       select distinct wallet_id from replay.changing where book_id = $1
     ), pair as materialized (
       select p.*, p.id in (select wallet_id from changing) as is_changing from (${pairs.join(' union all ')}) p
     ), fault as (
       select 1 as part, "table" as first, id,
              format('%s %s holds %s, its account %s', "table", id, legacy, coalesce(ledger::text, 'does not exist')) as message
       from pair where legacy is distinct from ledger and not is_changing
       union all
       select 2, '', id, format('account %s holds %s, its wallet is gone', id, round(ledger / 100.0, 2))
       from (${widows.join(' union all ')}) widow
       where ledger <> 0 and not exists (
         select from replay.wallets w join changing c using (wallet_id) where w.account_id = widow.id and w.book_id = $1)
     ), differing as (
       select message, row_number() over (order by part, first, id) as nth from fault
     )
     select (select count(*) from pair where not is_changing) as compared,
            (select count(*) from pair where is_changing) as changing, count(*) as differing,
            coalesce(array_agg(message order by nth) filter (where nth <= ${NAMED_WALLETS}), '{}') as first
     from differing`,
    [bookId],
  );
  return rows[0];
}

/** How many of the legacy rows a backfill that has begun and not ended brought into the log. */
export interface UnfinishedBackfill {
  readonly rows: bigint;
  readonly total: bigint;
}

/** @returns undefined where there is nothing to wait for: no legacy wallets, never begun, or finished */
export async function findUnfinishedBackfill(
  db: Queryable,
  bookId = MAIN_BOOK,
): Promise<UnfinishedBackfill | undefined> {
  const tables = await findLegacyTables(db);
  const status = await backfillStatus(db, bookId);
  if (!hasWallets(tables) || status.length === 0 || isFinished(status)) return undefined;
  const found = { rows: 0n, total: 0n };
  for (const source of SOURCES) {
    // The second source has no row of progress before the first has ended.
    const { rows = 0n } = status.find(({ source: name }) => name === source.name) ?? {};
    const table = tables[source.transactions];
    found.rows += rows;
    found.total += table === undefined ? rows : await count(db, `select count(*) as n from ${table}`);
  }
  return found;
}

/** The legacy wallets that a backfill once read and that are gone, where others are still there. */
export async function findMissingWallets(db: Queryable, bookId = MAIN_BOOK): Promise<readonly string[]> {
  const tables = await findLegacyTables(db);
  const missing = SOURCES.map((source) => source.wallets).filter((table) => tables[table] === undefined);
  const status = await backfillStatus(db, bookId);
  return status.length > 0 && !isRetired(status) && missing.length < SOURCES.length ? missing : [];
}

function hasWallets(tables: Partial<LegacyTables>): boolean {
  return SOURCES.every((source) => tables[source.wallets] !== undefined);
}

function isRetired(status: readonly SourceStatus[]): boolean {
  return status.some(({ retiredAt }) => retiredAt !== null);
}

function isFinished(status: readonly SourceStatus[]): boolean {
  return status.length === SOURCES.length && status.every((source) => source.finished);
}

async function count(db: Queryable, sql: string): Promise<bigint> {
  const { rows } = await db.query<{ n: bigint }>(sql);
  return rows[0]?.n ?? 0n;
}
