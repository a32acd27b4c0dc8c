import { hash } from 'node:crypto';
import { inTurn, streamRows } from '../../db/cursor.ts';
import type { Tx } from '../../db/pool.ts';
import type { Findings } from './findings.ts';
import { MerkleTree, rootOfFrontier, type Subtree, TILE_LEAVES } from './merkle-tree.ts';
import { microsecondsOf } from './microseconds.ts';
import {
  countOf,
  FROM_ONE,
  includes,
  type Multirange,
  multirangeOf,
  openFrom,
  textOfMultirange,
  without,
} from './multirange.ts';
import { greaterOf } from './values.ts';

interface SealRow {
  readonly seal_number: bigint;
  readonly tree_size: bigint;
  readonly sealed_at: string;
  readonly event_count: number;
  readonly root: Buffer;
  readonly seal_hash: Buffer;
  readonly previous_seal_hash: Buffer;
  readonly frontier: readonly (Buffer | null)[];
  readonly positions: string;
  readonly open_positions: string;
  readonly open_writers: readonly (string | null)[];
}

interface Seal {
  readonly row: SealRow;
  readonly number: bigint;
  readonly positions: Multirange;
  readonly open: Multirange;
  readonly frontier: readonly string[];
  /** From here on it says nothing of the log; beyond every position where it has no such place. */
  readonly end: bigint;
}

interface Leaf {
  readonly position: bigint;
  readonly hash: string;
  readonly label: string;
}

const BEYOND = 2n ** 64n;
const NO_HASH = '00'.repeat(32);
/** A seal names its events one by one where books take turns, which may be a megabyte. */
const SEALS_A_BATCH = 8;

/**
 * The seals of one book, read beside its log. An event is a leaf of the seal that names its position; one that committed late has
 * a lower position than leaves of seals before, and waits here until its own seal comes. So what is in memory is one seal and
 * such late events.
 */
export class SealedLog {
  private readonly seals: AsyncGenerator<SealRow[], void>;
  private hasBegun = false;
  private batch: SealRow[] = [];
  private current: Seal | undefined;
  private before: Seal | undefined;
  private readonly tree = new MerkleTree();
  private sizeBefore = 0;
  /** Which positions of the current seal were found, and which of them is looked for next. */
  private found: { range: number; next: bigint; missing: { from: bigint; to: bigint }[]; first: bigint | undefined } =
    nothingFound();
  private late: Leaf[] = [];

  private readonly tx: Tx;
  private readonly bookId: number;
  private readonly findings: Findings;

  constructor(tx: Tx, bookId: number, findings: Findings) {
    this.tx = tx;
    this.bookId = bookId;
    this.findings = findings;
    this.seals = streamRows<SealRow>(
      tx,
      `select seal_number, tree_size, sealed_at::text as sealed_at, event_count, root, seal_hash, previous_seal_hash, frontier,
              positions, open_positions, open_writers
       from payments.seals where book_id = $1 order by seal_number`,
      [bookId],
      SEALS_A_BATCH,
    );
  }

  /** Whether an event of that position is behind the current seal: then `advance` before it is added. */
  isBehind(position: bigint): boolean {
    return !this.hasBegun || (this.current !== undefined && position >= this.current.end);
  }

  async advance(position: bigint): Promise<void> {
    if (!this.hasBegun) await this.next();
    this.hasBegun = true;
    while (this.isBehind(position)) {
      await this.complete();
      await this.next();
    }
  }

  add(position: bigint, leafHash: string, label: () => string): void {
    if (this.current === undefined) {
      if (this.before !== undefined && !includes(this.before.open, position)) this.reportUnsealed(label(), this.before);
    } else if (includes(this.current.positions, position)) {
      this.append(this.current, { position, hash: leafHash });
    } else {
      this.late.push({ position, hash: leafHash, label: label() });
    }
  }

  /** After the last event. */
  async finish(): Promise<void> {
    await this.advance(BEYOND);
    const { rows } = await inTurn(this.tx, () =>
      this.tx.query<{ tile_number: bigint }>(
        `select tile_number from payments.seal_tiles
       where book_id = $1 and (tile_number < 0 or tile_number >= $2) order by tile_number`,
        [this.bookId, Math.floor(this.sizeBefore / TILE_LEAVES)],
      ),
    );
    for (const { tile_number: number } of rows) {
      this.findings.examined('tiles');
      this.findings.fault('tiles', `tile ${number} of book ${this.bookId} stands for leaves that no seal has`);
    }
  }

  private async next(): Promise<void> {
    if (this.batch.length === 0) this.batch = ((await this.seals.next()).value ?? []).toReversed();
    const row = this.batch.pop();
    this.before = this.current ?? this.before;
    this.current = row === undefined ? undefined : sealOf(row);
    this.found = nothingFound();
    if (this.current === undefined) return;
    this.findings.examined('sealChain');
    this.findings.examined('sealedEvents', Math.max(this.current.row.event_count, 0));
    const fault = chainFault(this.bookId, this.current, this.before);
    if (fault !== undefined)
      this.findings.fault('sealChain', `seal ${this.current.number} of book ${this.bookId} ${fault}`);
    this.takeLate(this.current);
  }

  private takeLate(seal: Seal): void {
    for (const leaf of this.late) if (includes(seal.positions, leaf.position)) this.append(seal, leaf);
    this.late = this.late.filter(({ position }) => !includes(seal.positions, position));
  }

  private append(seal: Seal, leaf: Pick<Leaf, 'position' | 'hash'>): void {
    this.missUpTo(seal, leaf.position);
    this.found.next = leaf.position + 1n;
    this.found.first ??= leaf.position;
    this.tree.append(leaf.hash, leaf.position);
  }

  /** Notes the positions of the seal, from where it was looked last, that the log passed over. */
  private missUpTo(seal: Seal, position: bigint): void {
    for (; this.found.range < seal.positions.length; this.found.range += 1) {
      const { from, to } = seal.positions[this.found.range] as Multirange[number];
      if (from >= position) return;
      const start = greaterOf(from, this.found.next);
      const end = to < position ? to : position;
      if (start < end) this.found.missing.push({ from: start, to: end });
      if (to > position) return;
    }
  }

  private async complete(): Promise<void> {
    const seal = this.current as Seal;
    this.missUpTo(seal, BEYOND);
    const tiles = this.tree.takeTiles();
    const isAsSealed =
      this.tree.size - this.sizeBefore === seal.row.event_count && this.tree.root() === seal.row.root.toString('hex');
    await (isAsSealed ? this.compareTiles(tiles) : this.reportChanged(seal, tiles));
    for (const { position, label } of this.late) if (!includes(seal.open, position)) this.reportUnsealed(label, seal);
    this.late = this.late.filter(({ position }) => includes(seal.open, position));
    const size = Number(seal.row.tree_size);
    // What it says is believed from here on, or every seal after it would be blamed as well.
    if (!isAsSealed || size !== this.tree.size) this.tree.continueFrom(size, seal.frontier);
    this.sizeBefore = this.tree.size;
  }

  private reportUnsealed(label: string, seal: Seal): void {
    this.findings.fault(
      'sealedEvents',
      `${label} of book ${this.bookId} is in no seal: seal ${seal.number} found its position empty`,
    );
  }

  private async compareTiles(tiles: readonly Subtree[]): Promise<void> {
    if (tiles.length === 0) return;
    const stored = await this.storedTiles(tiles);
    for (const { firstLeaf, hash: computed } of tiles) {
      this.findings.examined('tiles');
      const number = firstLeaf / TILE_LEAVES;
      const kept = stored.get(number);
      if (kept === computed) continue;
      this.findings.fault(
        'tiles',
        `tile ${number} of book ${this.bookId} ${kept === undefined ? 'is missing' : `is ${kept}, its leaves give ${computed}`}`,
      );
    }
  }

  private async storedTiles(tiles: readonly Subtree[]): Promise<Map<number, string>> {
    const numbers = tiles.map(({ firstLeaf }) => firstLeaf / TILE_LEAVES);
    const { rows } = await inTurn(this.tx, () =>
      this.tx.query<{ tile_number: bigint; hash: Buffer }>(
        'select tile_number, hash from payments.seal_tiles where book_id = $1 and tile_number = any ($2)',
        [this.bookId, numbers],
      ),
    );
    return new Map(rows.map((row) => [Number(row.tile_number), row.hash.toString('hex')]));
  }

  /** Names what is missing of a seal; else the smallest subtrees whose hash was kept and that have another one now. */
  private async reportChanged(seal: Seal, tiles: readonly Subtree[]): Promise<void> {
    const fault = (message: string) => this.findings.fault('sealedEvents', message);
    for (const { from, to } of this.found.missing) {
      const events = to - from === 1n ? `event ${from}` : `events ${from} to ${to - 1n}`;
      fault(`seal ${seal.number} of book ${this.bookId} covers ${events}, which the log does not have`);
    }
    if (this.found.missing.length > 0) return;
    const stored = await this.storedTiles(tiles);
    const kept = (subtree: Subtree, nth: number) =>
      subtree.leaves === TILE_LEAVES ? stored.get(subtree.firstLeaf / TILE_LEAVES) : seal.frontier[nth];
    const small = this.tree.frontier
      .map((subtree, nth) => ({ subtree, hash: kept(subtree, nth) }))
      .filter(({ subtree }) => subtree.leaves < TILE_LEAVES && subtree.firstLeaf + subtree.leaves > this.sizeBefore);
    const changed = [...tiles.map((subtree) => ({ subtree, hash: kept(subtree, 0) })), ...small].filter(
      ({ subtree, hash: is }) => is !== subtree.hash,
    );
    for (const { subtree } of changed) {
      const [first, last] = [subtree.firstLeaf < this.sizeBefore ? this.found.first : subtree.first, subtree.last];
      const where = first === last ? `position ${first}` : `one or more of the positions ${first} to ${last}`;
      fault(`what is at ${where} is not what seal ${seal.number} of book ${this.bookId} has there`);
    }
    if (changed.length === 0) fault(`seal ${seal.number} of book ${this.bookId} has another root than its events give`);
  }
}

const nothingFound = () => ({ range: 0, next: -BEYOND, missing: [], first: undefined });

function sealOf(row: SealRow): Seal {
  const [positions, open] = [multirangeOf(row.positions), multirangeOf(row.open_positions)];
  const covered = positions.at(-1)?.to ?? -BEYOND;
  const looked = openFrom(open) ?? BEYOND;
  return {
    row,
    number: row.seal_number,
    positions,
    open,
    frontier: row.frontier.map((subtree) => subtree?.toString('hex') ?? ''),
    end: greaterOf(looked, covered),
  };
}

/** What a seal says that does not follow from the one before, or from itself. */
function chainFault(bookId: number, seal: Seal, before: Seal | undefined): string | undefined {
  const { row } = seal;
  const [beforeHash, beforeSize] = [before?.row.seal_hash.toString('hex') ?? NO_HASH, before?.row.tree_size ?? 0n];
  const beforeOpen = before?.open ?? FROM_ONE;
  const [count, named] = [countOf(seal.positions), row.previous_seal_hash.toString('hex')];
  const [again, reopened] = [
    without(seal.positions, beforeOpen),
    without(seal.open, without(beforeOpen, seal.positions)),
  ];
  const [has, computed] = [row.seal_hash.toString('hex'), sealHashOf(bookId, row)];
  const faults = [
    seal.number !== (before?.number ?? 0n) + 1n &&
      (before === undefined ? 'is its first' : `comes after seal ${before.number}`),
    named !== beforeHash && `names ${named} as the hash of the seal before, which is ${beforeHash}`,
    BigInt(row.event_count) !== count && `counts ${row.event_count} events at ${count ?? 'no end of'} positions`,
    row.tree_size !== beforeSize + BigInt(row.event_count) &&
      `makes a tree of ${row.tree_size} out of ${beforeSize} and ${row.event_count} events`,
    again.length > 0 && `covers positions that were sealed or empty before: ${textOfMultirange(again).slice(0, 100)}`,
    reopened.length > 0 &&
      `opens positions that were sealed or empty before: ${textOfMultirange(reopened).slice(0, 100)}`,
    !hasRoot(seal) && 'has a frontier that does not give its root',
    has !== computed && `has the hash ${has}, its columns give ${computed}`,
  ].filter((fault) => fault !== false);
  return faults.length === 0 ? undefined : faults.join(', ');
}

function hasRoot({ row, frontier }: Seal): boolean {
  const subtrees = BigInt.asUintN(64, row.tree_size).toString(2).replaceAll('0', '').length;
  return frontier.length === subtrees && rootOfFrontier(frontier) === row.root.toString('hex');
}

/** The hash of a seal, over the byte layout of docs/proofs.md. */
function sealHashOf(bookId: number, row: SealRow): string {
  const coverage = `${row.positions}\n${row.open_positions}\n${row.open_writers.filter((writer) => writer !== null).join(' ')}`;
  const head = Buffer.alloc(29);
  head[0] = 2;
  head.writeInt32BE(bookId, 1);
  head.writeBigInt64BE(row.seal_number, 5);
  head.writeBigInt64BE(microsecondsOf(row.sealed_at) ?? 0n, 13);
  head.writeBigInt64BE(row.tree_size, 21);
  const parts = [head, row.root, hash('sha256', coverage, 'buffer'), row.previous_seal_hash];
  return hash('sha256', Buffer.concat(parts), 'hex');
}
