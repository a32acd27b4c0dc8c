import { streamTexts, type TextRow } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import { EVENT_COLUMNS, eventOf, type LoggedEvent, leafHashOf } from '../../ledger/independent/event.ts';
import { elementsOf, membersOf, textOf } from '../../ledger/independent/json-text.ts';
import { MerkleTree } from '../../ledger/independent/merkle-tree.ts';
import { type Multirange, multirangeOf } from '../../ledger/independent/multirange.ts';
import { centsOf, uuidOf } from '../../ledger/independent/values.ts';
import { SOURCES, type Source } from '../sources.ts';
import {
  asProven,
  chunkOf,
  isId,
  keptReference,
  keptText,
  numberOfBalance,
  numberOfRow,
  type ProvenRow,
} from './row.ts';
import { type AsOf, type BothSides, type Sum, Sums, walletsOf } from './sums.ts';

/** Both sides, and the tree of the log, as this program alone finds them. */
export interface Recomputed {
  readonly rows: BothSides;
  readonly balances: BothSides;
  /** Of the events that seals up to the one cover, by what they say. */
  readonly root: string;
  readonly treeSize: number;
  /** Corrections whose entries are not what their images say; the first ones, in words. */
  readonly legFaults: readonly string[];
}

export interface RecomputeOptions extends AsOf {
  /** The log is read up to and with this seal, and what its open positions have by now. */
  readonly sealNumber: bigint;
  readonly onRows?: (done: number) => void;
}

/** How PostgreSQL prints what is read here. */
const PRINTED = `set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local bytea_output = 'hex'`;

interface Holder {
  readonly source: Source['name'];
  /** Something of it was not looked at since it moved. */
  isChanging: boolean;
  /** By its old wallets. */
  held: bigint;
  /** By the log: as of the seal, and since. */
  before: bigint;
  after: bigint;
  /** Whether its account was open as of the seal. */
  isOpen: boolean;
}

/**
 * The sums of both sides once more, from streamed rows and events and with no function of the database's: whoever changed one of
 * those, or the hashes that events carry, changes nothing here. Memory grows with wallets, not with rows.
 */
export async function recompute(tx: Tx, options: RecomputeOptions): Promise<Recomputed> {
  await tx.query(PRINTED);
  const reading = new Reading(options, await readHolders(tx, options));
  for (const source of SOURCES) await reading.readOldRows(tx, source);
  await reading.readPending(tx);
  await reading.readLog(tx);
  return reading.result();
}

async function readHolders(tx: Tx, { bookId, tables }: RecomputeOptions): Promise<Map<string, Holder>> {
  const changing = await textsOf(tx, 'select distinct wallet_id, source from replay.changing where book_id = $1', [
    bookId,
  ]);
  const isChanging = new Set(changing.map(([walletId, source]) => `${source} ${walletId}`));
  const holders = new Map<string, Holder>();
  for (const { name, wallets } of SOURCES) {
    const sql = `select r.account_id, r.wallet_id, w.balance_credits from replay.wallets r left join ${tables[wallets]} w on w.id = r.wallet_id
                 where r.book_id = $1 and r.source = $2`;
    for await (const batch of streamTexts(tx, sql, [bookId, name])) {
      for (const [account, walletId, held] of batch) {
        const id = account ?? '';
        const holder = holders.get(id) ?? {
          source: name,
          isChanging: false,
          held: 0n,
          before: 0n,
          after: 0n,
          isOpen: false,
        };
        holder.held += BigInt(held ?? 0);
        holder.isChanging ||= isChanging.has(`${name} ${walletId}`);
        holders.set(id, holder);
      }
    }
  }
  return holders;
}

async function textsOf(tx: Tx, sql: string, values: readonly unknown[]): Promise<TextRow[]> {
  const rows: TextRow[] = [];
  for await (const batch of streamTexts(tx, sql, values)) rows.push(...batch);
  return rows;
}

/** What of old rows is read, beside the account; the keys as the replay makes them. */
const OLD_COLUMNS: Readonly<Record<Source['name'], string>> = {
  wallet_transactions:
    't.id, t.credits_delta, t.type, t.reference_type, t.reference_id, t.idempotency_key, t.created_at',
  org_wallet_transactions: `t.id, t.credits_delta, t.transaction_type, t.reference_type, coalesce(t.invoice_id, t.reference_id),
    case when t.transaction_type = 'spend' then t.wallet_id || ':' || (t.metadata ->> 'idempotency_key') end, t.created_at, t.stripe_event_id`,
};

const IMAGE_COLUMNS = (image: string) =>
  `(${image}).id, (${image}).delta, (${image}).type, (${image}).reference_type, (${image}).reference_id, (${image}).key, (${image}).created_at`;

class Reading {
  private readonly rows: BothSides = { old: new Sums(), log: new Sums() };
  private readonly tree = new MerkleTree();
  private readonly open: Multirange;
  private readonly legFaults: string[] = [];
  private done = 0;

  private readonly options: RecomputeOptions;
  private readonly holders: Map<string, Holder>;

  constructor(options: RecomputeOptions, holders: Map<string, Holder>) {
    this.options = options;
    this.holders = holders;
    this.open = multirangeOf(options.openPositions);
  }

  async readOldRows(tx: Tx, source: Source): Promise<void> {
    const { bookId, tables } = this.options;
    const sql = `select w.account_id, ${OLD_COLUMNS[source.name]}
      from ${tables[source.transactions]} t
      left join replay.wallets w on w.wallet_id = t.wallet_id and w.source = $2 and w.book_id = $1`;
    const isUser = source.name === 'wallet_transactions';
    for await (const batch of streamTexts(tx, sql, [bookId, source.name])) {
      for (const row of batch) {
        const image = rowOf(row);
        const key = image.key ?? row[8] ?? null;
        this.add('old', source.name, 1n, {
          ...image,
          referenceId: isUser ? keptReference(image.referenceId) : image.referenceId,
          key: key === null ? null : keptText(key),
        });
      }
      this.report(batch.length);
    }
  }

  /** What is captured and not in the log yet is taken back from the old side. */
  async readPending(tx: Tx): Promise<void> {
    for (const [column, sign] of [
      ['new', -1n],
      ['old', 1n],
    ] as const) {
      const sql = `select w.account_id, ${IMAGE_COLUMNS(`c.${column}`)}, c.source
        from replay.captured_rows c
        left join replay.wallets w on w.wallet_id = (c.${column}).wallet_id and w.source = c.source and w.book_id = $1
        where (c.${column}).id is not null`;
      for await (const batch of streamTexts(tx, sql, [this.options.bookId])) {
        for (const row of batch) this.add('old', sourceOf(row[8]), sign, rowOf(row));
      }
    }
  }

  async readLog(tx: Tx): Promise<void> {
    const { bookId, sealNumber } = this.options;
    // In the order of the leaves: by seal, within a seal by position.
    const sealed = `select ${LOG_COLUMNS} from (
        select s.seal_number, lower(r) as low, upper(r) as high from payments.seals s cross join lateral unnest(s.positions) as r
        where s.book_id = $1 and s.seal_number <= $2 order by s.seal_number, lower(r) offset 0
      ) p cross join lateral (
        select * from payments.events v where v.book_id = $1 and v.position >= p.low and v.position < p.high order by v.position offset 0
      ) x`;
    for await (const batch of streamTexts(tx, sealed, [bookId, sealNumber])) {
      for (const row of batch) {
        const event = eventOf(row);
        this.tree.append(leafHashOf(event), event.position);
        this.take(event, row, false);
      }
      this.report(batch.length);
    }
    for (const { from, to } of this.open) {
      // Beyond 64 bits there is none: a range without an end.
      const bound = (position: bigint) => (position > MAX_POSITION ? MAX_POSITION : position);
      const since = `select ${LOG_COLUMNS} from payments.events x where x.book_id = $1 and x.position >= $2 and x.position < $3`;
      for await (const batch of streamTexts(tx, since, [bookId, from < 0n ? 0n : from, bound(to)])) {
        for (const row of batch) this.take(eventOf(row), row, true);
        this.report(batch.length);
      }
    }
  }

  result(): Recomputed {
    const balances: BothSides = { old: new Sums(), log: new Sums() };
    for (const [account, { source, isChanging, isOpen, held, before, after }] of this.holders) {
      if (!isOpen) continue;
      const key = { table: walletsOf(source), chunk: chunkOf(account) };
      const sum = (cents: bigint): Sum => ({ count: 1n, cents, number: numberOfBalance(source, account, cents) });
      balances.log.add(key, sum(before));
      balances.old.add(key, sum(isChanging ? before : held - after));
    }
    return { rows: this.rows, balances, root: this.tree.root(), treeSize: this.tree.size, legFaults: this.legFaults };
  }

  private report(rows: number): void {
    this.done += rows;
    this.options.onRows?.(this.done);
  }

  /** An event as of the seal is of the log's side; one since then is taken back from the old one. */
  private take(event: LoggedEvent, row: TextRow, isSince: boolean): void {
    if (event.type === 'account.opened') {
      const holder = this.holders.get(event.eventId);
      if (holder !== undefined && !isSince) holder.isOpen = true;
      return;
    }
    if (event.type !== 'transaction.posted' && event.type !== 'note.recorded') return;
    const legs = legsOf(event);
    const mirrored = event.requestHash === null ? [] : mirrorsOf(row[12] ?? null);
    this.takeBalances(event, legs, mirrored, isSince);
    const add = (source: Source['name'], sign: bigint, proven: ProvenRow) =>
      isSince ? this.add('old', source, -sign, proven) : this.add('log', source, sign, proven);
    for (const [source, id, account] of mirrored) add(source, 1n, mirrorOf(event, { source, id, account }, legs));
    const legacy = membersOf(membersOf(event.said.get('metadata')).get('legacy'));
    if (event.requestHash !== null || !legacy.has('table')) return;
    const source = sourceOf(textOf(legacy.get('table')));
    if (!legacy.has('version')) {
      add(source, 1n, importOf(event, legacy, legs));
      return;
    }
    const [oldAccount = null, newAccount = null] = row.slice(13);
    const [before, after] = [imageOf(legacy.get('old'), oldAccount), imageOf(legacy.get('new'), newAccount)];
    if (before !== undefined) add(source, -1n, before);
    if (after !== undefined) add(source, 1n, after);
    this.compareLegs(event, amountOf(after) - amountOf(before), centsOn(legs, newAccount ?? oldAccount));
  }

  /** The images say what the row was and became, the legs what that came to. */
  private compareLegs({ position, eventId }: LoggedEvent, changed: bigint, moved: bigint): void {
    if (changed === moved || this.legFaults.length === MAX_LEG_FAULTS) return;
    this.legFaults.push(
      `event ${position} (${eventId}) says that a row changed by ${changed}, and moves its wallet by ${moved}`,
    );
  }

  private takeBalances(event: LoggedEvent, legs: readonly Leg[], mirrored: readonly Mirror[], isSince: boolean): void {
    for (const { account, cents } of legs) {
      const holder = this.holders.get(account);
      if (holder === undefined) continue;
      // What was posted beside the replay, the old wallet knows nothing of.
      if (event.requestHash !== null && !mirrored.some(([, , mirroredAccount]) => mirroredAccount === account))
        continue;
      if (isSince) holder.after -= cents;
      else holder.before -= cents;
    }
  }

  private add(side: keyof BothSides, source: Source['name'], sign: bigint, row: ProvenRow): void {
    const proven = asProven(row);
    const sum = { count: sign, cents: sign * proven.amount, number: sign * numberOfRow(source, proven) };
    this.rows[side].add({ table: source, chunk: chunkOf(row.id) }, sum);
  }
}

const MAX_LEG_FAULTS = 10;
const MAX_POSITION = 2n ** 63n - 1n;

const LOG_COLUMNS = `${EVENT_COLUMNS.replaceAll(/(\w+)/g, 'x.$1')},
  case when x.request_hash is not null then (
    select jsonb_agg(jsonb_build_array(m.source, m.legacy_id, m.account_id)) from replay.mirrored_rows m
    where m.event_id = x.event_id and m.book_id = x.book_id) end,
  ${accountOfImage('old')}, ${accountOfImage('new')}`;

/** Of a correction alone, which are few. */
function accountOfImage(column: 'old' | 'new'): string {
  return `case when x.payload #> '{metadata,legacy}' ? 'version' then (
    select w.account_id from replay.wallets w
    where w.wallet_id::text = x.payload #>> '{metadata,legacy,${column},wallet_id}' and w.source = x.payload #>> '{metadata,legacy,table}'
      and w.book_id = x.book_id) end`;
}

const sourceOf = (text: string | null | undefined): Source['name'] =>
  text === 'org_wallet_transactions' ? text : 'wallet_transactions';

/** Of a row of: account, id, delta, type, reference type, reference, key, time. */
function rowOf([account, id, delta, type, referenceType, referenceId, key, createdAt]: TextRow): ProvenRow {
  return {
    id: id ?? '',
    account: account ?? null,
    amount: BigInt(delta ?? 0),
    type: type ?? null,
    referenceType: referenceType ?? null,
    referenceId: referenceId ?? null,
    key: key ?? null,
    createdAt: createdAt ?? null,
  };
}

/** An image in a correction's metadata; undefined where there was no row. */
function imageOf(json: string | undefined, account: string | null): ProvenRow | undefined {
  const said = membersOf(json);
  const text = (key: string) => textOf(said.get(key));
  const columns = ['id', 'delta', 'type', 'reference_type', 'reference_id', 'key', 'created_at'].map(text);
  return columns[0] == null ? undefined : rowOf([account, ...columns]);
}

const amountOf = (row: ProvenRow | undefined): bigint => (row === undefined ? 0n : asProven(row).amount);

interface Leg {
  readonly account: string;
  readonly cents: bigint;
}

function legsOf({ said }: LoggedEvent): Leg[] {
  return (elementsOf(said.get('entries')) ?? []).map((element) => {
    const leg = membersOf(element);
    return {
      account: uuidOf(textOf(leg.get('account_id'))) ?? '',
      cents: centsOf(textOf(leg.get('amount_cents'))) ?? 0n,
    };
  });
}

/** What a transaction moved on an account, as its holder sees it. */
function centsOn(legs: readonly Leg[], account: string | null): bigint {
  return legs.reduce((sum, leg) => (leg.account === account ? sum - leg.cents : sum), 0n);
}

/** The row that an import stands for: its wallet's leg is the last. */
function importOf(event: LoggedEvent, legacy: ReadonlyMap<string, string>, legs: readonly Leg[]): ProvenRow {
  const leg = legs.at(-1);
  const movedTo = textOf(legacy.get('created_at'));
  return {
    id: textOf(legacy.get('id')) ?? '',
    account: leg?.account ?? null,
    amount: leg === undefined ? 0n : -leg.cents,
    type: textOf(legacy.get('type')),
    referenceType: textOf(legacy.get('reference_type')),
    referenceId: textOf(event.said.get('reference_id')),
    key: event.idempotencyKey ?? textOf(legacy.get('key')),
    // A row without a time is effective when it was recorded.
    createdAt: movedTo ?? (event.effectiveAt === event.recordedAt ? null : event.effectiveAt),
  };
}

type Mirror = readonly [source: Source['name'], id: string, account: string];

const mirrorsOf = (json: string | null): readonly Mirror[] => (json === null ? [] : (JSON.parse(json) as Mirror[]));

const OLD_TYPES = [
  ['credit_purchase', 1, 'purchase'],
  ['campaign_spend', -1, 'spend'],
  ['refund', -1, 'refund'],
] as const;

/** The row that the mirror writes for a transaction, by what the old tables' checks allow. */
function mirrorOf(
  event: LoggedEvent,
  { source, id, account }: { source: Source['name']; id: string; account: string },
  legs: readonly Leg[],
): ProvenRow {
  const amount = centsOn(legs, account);
  const referenceType = textOf(event.said.get('reference_type'));
  const reference = textOf(event.said.get('reference_id'));
  const type = OLD_TYPES.find(([of, sign]) => of === referenceType && (sign > 0 ? amount > 0n : amount < 0n));
  const kept = keptReference(reference);
  return {
    id,
    account,
    amount,
    type: type?.[2] ?? 'adjustment',
    referenceType,
    // An organization's reference is a UUID or nothing.
    referenceId: source === 'wallet_transactions' || isId(kept) ? kept : null,
    key: null,
    createdAt: event.effectiveAt,
  };
}
