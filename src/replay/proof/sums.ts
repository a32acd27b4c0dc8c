import type { Tx } from '../../db/pool.ts';
import type { LegacyTables } from '../legacy.ts';
import { isBeforeHorizon, SOURCES, type Source } from '../sources.ts';
import { balanceSumsSql, isOfChunks, rowSumsSql } from './row.ts';

/** Of rows, or of balances: how many, what they come to, and the sum of the numbers of their hashes. */
export interface Sum {
  readonly count: bigint;
  readonly cents: bigint;
  readonly number: bigint;
}

const NOTHING: Sum = { count: 0n, cents: 0n, number: 0n };

export const areEqual = (a: Sum, b: Sum): boolean =>
  a.count === b.count && a.cents === b.cents && a.number === b.number;

/** Sums by table and chunk. */
export class Sums {
  private readonly byKey = new Map<string, Sum>();

  add({ table, chunk }: ChunkKey, { count, cents, number }: Sum): void {
    const before = this.of({ table, chunk });
    this.byKey.set(`${table} ${chunk}`, {
      count: before.count + count,
      cents: before.cents + cents,
      number: before.number + number,
    });
  }

  subtract(key: ChunkKey, { count, cents, number }: Sum): void {
    this.add(key, { count: -count, cents: -cents, number: -number });
  }

  of({ table, chunk }: ChunkKey): Sum {
    return this.byKey.get(`${table} ${chunk}`) ?? NOTHING;
  }

  keys(): ChunkKey[] {
    return [...this.byKey.keys()].map((text) => {
      const [table = '', chunk = ''] = text.split(' ');
      return { table, chunk: Number(chunk) };
    });
  }
}

export interface ChunkKey {
  /** Of rows, or of the wallets whose balances these are. */
  readonly table: string;
  readonly chunk: number;
}

/** Rows and balances on both sides, as of the end of what a seal covers. */
export interface BothSides {
  readonly old: Sums;
  readonly log: Sums;
}

/** What the sums are of: the log of a book, up to where a seal left it open. */
export interface AsOf {
  readonly bookId: number;
  readonly tables: LegacyTables;
  /** Positions of which the seal says nothing, as PostgreSQL prints them. */
  readonly openPositions: string;
}

/** SQL of whether a row is looked at, by that of its id. */
type Filter = (id: string) => string;
export const ANY_ROW: Filter = () => 'true';

const ROW_COLUMNS = (image: string) =>
  `(${image}).id, w.account_id as account, (${image}).delta as amount, (${image}).type, (${image}).reference_type, (${image}).reference_id, (${image}).key, (${image}).created_at`;

const accountOf = (image: string, source: string) =>
  `left join replay.wallets w on w.wallet_id = (${image}).wallet_id and w.source = ${source} and w.book_id = $1`;

/** SQL of the rows of an old table; `$1` is the book. */
function oldRows(source: Source, tables: LegacyTables, isWanted: Filter): string {
  return `
    select '${source.name}' as source, false as is_open, 1 as sign, ${ROW_COLUMNS('i.image')}
    from (select ${source.image} as image from ${tables[source.transactions]} t where ${isWanted('t.id')} offset 0) i
    ${accountOf('i.image', `'${source.name}'`)}`;
}

/**
 * SQL of what is captured and not in the log yet, signed: a change is its new row less its old one. One of before the horizon is none:
 * its row is read from the table.
 */
function pendingRows(isWanted: Filter): string {
  const image = (column: 'old' | 'new', sign: 1 | -1) => `
    select c.source, false as is_open, ${sign} as sign, ${ROW_COLUMNS(`c.${column}`)}
    from replay.captured_rows c ${accountOf(`c.${column}`, 'c.source')}
    where (c.${column}).id is not null and not ${isBeforeHorizon('c.xmin')} and ${isWanted(`(c.${column}).id`)}`;
  return `${image('new', 1)} union all ${image('old', -1)}`;
}

/**
 * SQL of what the log says of rows, signed: imports, corrections (their new row less their old one), and transactions that rows mirror.
 * `$1` is the book, `$2` the open positions.
 */
function loggedRows(isWanted: Filter): string {
  const id = "payments.try_uuid(l.legacy ->> 'id')";
  // One look into the payload: it is taken apart no more often than that.
  const legacy = `payments.events e cross join lateral (select e.payload #> '{metadata,legacy}' as legacy, e.payload #> '{entries,-1}' as leg offset 0) l`;
  const isImported = `e.book_id = $1 and e.request_hash is null and e.type in ('transaction.posted', 'note.recorded') and l.legacy ? 'table'`;
  const isOpen = '$2::int8multirange @> e.position as is_open';
  const imported = `
    select l.legacy ->> 'table' as source, ${isOpen}, 1 as sign, ${id} as id,
           payments.try_uuid(l.leg ->> 'account_id') as account, -payments.try_amount(l.leg ->> 'amount_cents') as amount,
           l.legacy ->> 'type' as type, l.legacy ->> 'reference_type' as reference_type, e.payload ->> 'reference_id' as reference_id,
           coalesce(e.idempotency_key, l.legacy ->> 'key') as key,
           -- A row without a time is effective when it was recorded.
           coalesce((l.legacy ->> 'created_at')::timestamptz, nullif(e.effective_at, e.recorded_at)) as created_at
    from ${legacy}
    where ${isImported} and not l.legacy ? 'version' and ${isWanted(id)}`;
  const corrected = (column: 'old' | 'new', sign: 1 | -1) => `
    select c.source, c.is_open, ${sign} as sign, ${ROW_COLUMNS('c.image')}
    from (
      select l.legacy ->> 'table' as source, ${isOpen}, jsonb_populate_record(null::replay.row_image, l.legacy -> '${column}') as image
      from ${legacy}
      where ${isImported} and l.legacy ? 'version' and l.legacy -> '${column}' ->> 'id' is not null and ${isWanted(id)}
    ) c
    ${accountOf('c.image', 'c.source')}`;
  const mirrored = `
    select w.source, w.is_open, 1 as sign, (w.image).id, w.account_id as account, (w.image).delta as amount, (w.image).type,
           (w.image).reference_type, (w.image).reference_id, (w.image).key, (w.image).created_at
    from (
      select m.source, m.account_id, ${isOpen}, replay.mirrored_image(m) as image
      from replay.mirrored_rows m
      join payments.events e on e.event_id = m.event_id and e.book_id = m.book_id
      where m.book_id = $1 and ${isWanted('m.legacy_id')}
      offset 0
    ) w`;
  return [imported, corrected('new', 1), corrected('old', -1), mirrored].join(' union all ');
}

interface SumRow {
  readonly source: string;
  readonly is_open: boolean;
  readonly chunk: number;
  readonly count: string;
  readonly cents: string;
  readonly number: string;
}

const sumOf = ({ count, cents, number }: Pick<SumRow, 'count' | 'cents' | 'number'>): Sum => ({
  count: BigInt(count),
  cents: BigInt(cents),
  number: BigInt(number),
});

/**
 * The rows of both sides. The old one as of the seal is what is there, less what is captured and waits, less what the log says since.
 */
export async function sumRows(tx: Tx, { bookId, tables, openPositions }: AsOf): Promise<BothSides> {
  const sides = { old: new Sums(), log: new Sums() };
  for (const source of SOURCES) {
    const { rows } = await tx.query<SumRow>(rowSumsSql(oldRows(source, tables, ANY_ROW), 'chunk'), [bookId]);
    for (const row of rows) sides.old.add({ table: row.source, chunk: row.chunk }, sumOf(row));
  }
  const pending = await tx.query<SumRow>(rowSumsSql(pendingRows(ANY_ROW), 'chunk'), [bookId]);
  for (const row of pending.rows) sides.old.subtract({ table: row.source, chunk: row.chunk }, sumOf(row));
  const logged = await tx.query<SumRow>(rowSumsSql(loggedRows(ANY_ROW), 'chunk'), [bookId, openPositions]);
  for (const row of logged.rows) {
    const key = { table: row.source, chunk: row.chunk };
    if (row.is_open) sides.old.subtract(key, sumOf(row));
    else sides.log.add(key, sumOf(row));
  }
  return sides;
}

/**
 * SQL of every holder's account: what the old wallets hold, and what the log brought to it, before the open positions and in them. What
 * was posted beside the replay, the old wallet knows nothing of. `$1` is the book, `$2` the open positions. Everything is laid on one
 * pile and summed by account: as joins of what is unknown in size, each was paired with each.
 */
function holdersSql(tables: LegacyTables): string {
  const held = SOURCES.map(
    (source) => `
    select r.account_id, r.source, w.balance_credits::bigint as held, false as is_changing, 0 as cents, false as is_open
    from replay.wallets r left join ${tables[source.wallets]} w on w.id = r.wallet_id
    where r.book_id = $1 and r.source = '${source.name}'`,
  ).join(' union all ');
  const isOpen = '$2::int8multirange @> n.event_position';
  return `
    select p.account_id, max(p.source) as source, coalesce(sum(p.held), 0)::bigint as held, bool_or(p.is_changing) as is_changing,
           coalesce(sum(p.cents) filter (where not p.is_open), 0)::bigint as before,
           coalesce(sum(p.cents) filter (where p.is_open), 0)::bigint as after
    from (
      ${held}
      union all
      select r.account_id, r.source, 0, true, 0, false
      from replay.changing c join replay.wallets r on r.wallet_id = c.wallet_id and r.source = c.source and r.book_id = c.book_id
      where c.book_id = $1
      union all
      select n.account_id, null, 0, false, -n.amount_cents, ${isOpen} from payments.entries n where n.book_id = $1
      union all
      select n.account_id, null, 0, false, n.amount_cents, ${isOpen}
      from payments.events e
      join payments.entries n on n.transaction_id = e.event_id and n.book_id = e.book_id
      where e.book_id = $1 and e.request_hash is not null and not exists (
        select from replay.mirrored_rows m where m.event_id = e.event_id and m.account_id = n.account_id and m.book_id = e.book_id)
    ) p
    group by p.account_id
    having max(p.source) is not null and exists (
      select from payments.events e
      where e.book_id = $1 and e.event_id = p.account_id and e.type = 'account.opened' and not $2::int8multirange @> e.position)`;
}

/** The balances of both sides, by holder. Of a wallet that is changing the old one cannot be told: it counts as the log's. */
export async function sumBalances(tx: Tx, { bookId, tables, openPositions }: AsOf): Promise<BothSides> {
  const { rows } = await tx.query<SumRow>(
    `with account as materialized (${holdersSql(tables)})
     ${balanceSumsSql(`
       select a.source, side.is_log as is_open, 1 as sign, a.account_id as id,
              case when side.is_log or a.is_changing then a.before else a.held - a.after end as amount
       from account a cross join (values (false), (true)) side (is_log)`)}`,
    [bookId, openPositions],
  );
  const sides = { old: new Sums(), log: new Sums() };
  for (const row of rows) {
    const side = row.is_open ? sides.log : sides.old;
    side.add({ table: walletsOf(row.source), chunk: row.chunk }, sumOf(row));
  }
  return sides;
}

/** Balances stand under the wallets' table, rows under their own. */
export function walletsOf(source: string): string {
  return SOURCES.find(({ name }) => name === source)?.wallets ?? source;
}

/**
 * SQL of the rows that one side has otherwise or not at all: (id, old_count, log_count, old_cents, log_cents), the old table without what
 * is captured and waits. `$1` is the book, `$2` the open positions.
 */
export function differingRowsSql(source: Source, tables: LegacyTables, isWanted: Filter): string {
  return `
    with state as (
      select 1 as sign, o.* from (${rowSumsSql(oldRows(source, tables, isWanted), 'id')}) o
      union all select -1, p.* from (${rowSumsSql(pendingRows(isWanted), 'id')}) p
    ), legacy as (
      select id, sum(sign * count) as count, sum(sign * cents) as cents, sum(sign * number) as number
      from state where source = '${source.name}' group by id
    ), logged as (
      select id, sum(count) as count, sum(cents) as cents, sum(number) as number
      from (${rowSumsSql(loggedRows(isWanted), 'id')}) l where source = '${source.name}' group by id
    )
    select coalesce(o.id, l.id) as id, coalesce(o.count, 0) as old_count, coalesce(l.count, 0) as log_count,
           coalesce(o.cents, 0) as old_cents, coalesce(l.cents, 0) as log_cents
    from legacy o full join logged l on l.id = o.id
    where (coalesce(o.count, 0), coalesce(o.number, 0)) <> (coalesce(l.count, 0), coalesce(l.number, 0))`;
}

const NAMED = 10;

/** Rows of some chunks that one side has otherwise or not at all, as both are now; in words. */
export async function nameDifferingRows(
  tx: Tx,
  { bookId, tables }: AsOf,
  chunks: readonly ChunkKey[],
): Promise<string[]> {
  const named: string[] = [];
  for (const source of SOURCES) {
    const own = chunks.filter(({ table }) => table === source.name).map(({ chunk }) => chunk);
    if (own.length === 0) continue;
    const { rows } = await tx.query<{ fault: string }>(
      `select format('${source.name} %s: ', id) || case
           when log_count = 0 then format('%s credits, not in the log', old_cents)
           when old_count = 0 then format('%s credits in the log, not in the old table', log_cents)
           when old_cents <> log_cents then format('%s credits, in the log %s', old_cents, log_cents)
           else 'its wallet, type, reference, key or time is another one in the log' end as fault
       from (${differingRowsSql(source, tables, (id) => isOfChunks(id, '$3::integer[]'))}) pair order by id limit ${NAMED}`,
      [bookId, '{}', own],
    );
    named.push(...rows.map(({ fault }) => fault));
  }
  return named;
}

/** Holders of some chunks whose wallets hold something else than their account, as both are now; in words. */
export async function nameDifferingBalances(
  tx: Tx,
  { bookId, tables }: AsOf,
  chunks: readonly ChunkKey[],
): Promise<string[]> {
  const own = chunks.map(({ chunk }) => chunk);
  const { rows } = await tx.query<{ fault: string }>(
    `select format('account %s: its %s hold %s, the books %s', account_id,
                   case source when 'wallet_transactions' then 'wallets' else 'org_wallets' end, held, before) as fault
     from (${holdersSql(tables)}) a
     where held <> before and not is_changing and ${isOfChunks('a.account_id', '$3::integer[]')}
     order by account_id limit ${NAMED}`,
    [bookId, '{}', own],
  );
  return rows.map(({ fault }) => fault);
}

/** What could not be compared, and how much of it there is. */
export interface NotCompared {
  /** Captured changes that are not in the log yet: put back before the comparison. */
  readonly pendingChanges: bigint;
  /** Holders whose balance moved and was not looked at since: their old balance counts as the log's. */
  readonly changingHolders: bigint;
  /** Rows whose wallet has no account: of them the log keeps no amount. */
  readonly orphanRows: bigint;
  readonly orphanCents: bigint;
  /** Wallets without an owner, and so without an account. */
  readonly walletsWithoutAccount: bigint;
}

export async function countNotCompared(tx: Tx, { bookId, tables }: AsOf): Promise<NotCompared> {
  const noAccount = (source: Source, walletId: string) =>
    `not exists (select from replay.wallets r where r.wallet_id = ${walletId} and r.source = '${source.name}' and r.book_id = $1)`;
  const orphans = SOURCES.map(
    (source) =>
      `select t.credits_delta::bigint as cents from ${tables[source.transactions]} t where ${noAccount(source, 't.wallet_id')}`,
  ).join(' union all ');
  const wallets = SOURCES.map(
    (source) => `select w.id from ${tables[source.wallets]} w where ${noAccount(source, 'w.id')}`,
  ).join(' union all ');
  const { rows } = await tx.query<NotCompared>(
    `select (select count(*) from replay.captured_rows) as "pendingChanges",
            (select count(distinct r.account_id) from replay.changing c
             join replay.wallets r on r.wallet_id = c.wallet_id and r.source = c.source and r.book_id = c.book_id
             where c.book_id = $1) as "changingHolders",
            (select count(*) from (${orphans}) o) as "orphanRows",
            (select coalesce(sum(cents), 0)::bigint from (${orphans}) o) as "orphanCents",
            (select count(*) from (${wallets}) w) as "walletsWithoutAccount"`,
    [bookId],
  );
  const [counted] = rows;
  if (counted === undefined) throw new Error('a select without a from clause answers one row');
  return counted;
}
