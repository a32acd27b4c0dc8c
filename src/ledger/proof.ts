import { createHash } from 'node:crypto';
import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { assertBook } from './books.ts';
import {
  consistencyPath,
  hashChildren,
  inclusionPath,
  isConsistent,
  type ReadSubtree,
  rootOfInclusion,
  splitOf,
} from './merkle.ts';

// The documents are read by programs of others: docs/proofs.md says what each field means, and none of it changes.

/** What an event's leaf hash is made of. Instants are microseconds since 2000-01-01 UTC, hashes hex. */
interface EventFields {
  readonly book_id: number;
  readonly position: bigint;
  readonly event_id: string;
  readonly effective_at_us: bigint;
  readonly recorded_at_us: bigint;
  readonly type: string;
  readonly created_by: string;
  readonly idempotency_scope: string | null;
  readonly idempotency_key: string | null;
  readonly request_hash: string | null;
  /** As PostgreSQL prints it, to the byte. */
  readonly payload: string;
}

/** A seal with what its hash is made of: it binds the root to the size of the tree, and to all seals before it. */
interface SealFields {
  readonly book_id: number;
  readonly seal_number: bigint;
  readonly sealed_at_us: bigint;
  readonly tree_size: bigint;
  readonly root: string;
  readonly coverage_hash: string;
  readonly previous_seal_hash: string;
  readonly seal_hash: string;
}

export interface InclusionProof {
  readonly format: 'liventix inclusion proof 1';
  readonly event: EventFields;
  readonly leaf_hash: string;
  readonly leaf_index: bigint;
  /** The audit path (RFC 6962, 2.1.1). */
  readonly path: readonly string[];
  readonly seals: readonly [SealFields];
}

export interface ConsistencyProof {
  readonly format: 'liventix consistency proof 1';
  /** The nodes of RFC 6962, 2.1.2. */
  readonly path: readonly string[];
  /** That of the smaller tree first. */
  readonly seals: readonly [SealFields, SealFields];
}

/** An event by its position in the log, or by its id, which is that of the transaction or the account. */
export type EventName = { readonly position: bigint } | { readonly eventId: string };

const TILE = 1_024n;

const microseconds = (column: string) => `('x' || encode(timestamptz_send(${column}), 'hex'))::bit(64)::bigint`;

/**
 * Proves that an event is among those that the book's newest seal has the root of.
 * @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_EVENT_UNKNOWN, SEAL_EVENT_NOT_SEALED; SEAL_BROKEN when the log no longer
 *   gives that root
 */
export async function proveInclusion(pool: Pool, bookId: number, name: EventName): Promise<InclusionProof> {
  return withTransaction(
    pool,
    async (tx) => {
      const { event, leaf_hash } = await getEvent(tx, bookId, name);
      const leaf_index = await getLeafIndex(tx, event);
      const seal = await getNewestSeal(tx, bookId);
      const path = await inclusionPath(leaf_index, seal.tree_size, subtreesOf(tx, bookId));
      const proof: InclusionProof = {
        format: 'liventix inclusion proof 1',
        event,
        leaf_hash,
        leaf_index,
        path: path.map(toHex),
        seals: [seal],
      };
      if (!holdsInclusion(proof)) throw broken(bookId, `the sealed root ${seal.root}`);
      return proof;
    },
    ONE_SNAPSHOT,
  );
}

/**
 * Proves that the larger of two sealed trees begins with the smaller one: nothing was changed, taken out or put in
 * between. The roots in either order.
 * @throws AppError LEDGER_BOOK_UNKNOWN, SEAL_ROOT_UNKNOWN; SEAL_BROKEN when the log no longer gives those roots
 */
export async function proveConsistency(
  pool: Pool,
  bookId: number,
  roots: readonly [string, string],
): Promise<ConsistencyProof> {
  return withTransaction(
    pool,
    async (tx) => {
      await assertBook(tx, bookId);
      const seals = [await getSealOf(tx, bookId, roots[0]), await getSealOf(tx, bookId, roots[1])] as const;
      const [first, second] = seals[0].tree_size <= seals[1].tree_size ? seals : [seals[1], seals[0]];
      const path = await consistencyPath(first.tree_size, second.tree_size, subtreesOf(tx, bookId));
      const proof: ConsistencyProof = {
        format: 'liventix consistency proof 1',
        path: path.map(toHex),
        seals: [first, second],
      };
      if (!holdsConsistency(proof)) throw broken(bookId, `the sealed root ${second.root}`);
      return proof;
    },
    ONE_SNAPSHOT,
  );
}

function broken(bookId: number, what: string): AppError {
  return new AppError(
    'SEAL_BROKEN',
    `The log of book ${bookId} no longer gives ${what}: something that was sealed is changed or gone. See what: liventix books verify`,
  );
}

/** Whether the proof's own fields give its leaf hash, its root and its seal hash. Asks no database. */
export function holdsInclusion(proof: InclusionProof): boolean {
  const [seal] = proof.seals;
  const root = rootOfInclusion({
    leafHash: fromHex(proof.leaf_hash),
    leafIndex: proof.leaf_index,
    treeSize: seal.tree_size,
    path: proof.path.map(fromHex),
  });
  return (
    proof.event.book_id === seal.book_id &&
    toHex(leafHashOf(proof.event)) === proof.leaf_hash &&
    root !== undefined &&
    toHex(root) === seal.root &&
    toHex(sealHashOf(seal)) === seal.seal_hash
  );
}

/** Whether the second seal's tree begins with the first's, and both seal hashes are of their fields. Asks no database. */
export function holdsConsistency(proof: ConsistencyProof): boolean {
  const [first, second] = proof.seals;
  return (
    first.book_id === second.book_id &&
    proof.seals.every((seal) => toHex(sealHashOf(seal)) === seal.seal_hash) &&
    isConsistent({
      firstSize: first.tree_size,
      firstRoot: fromHex(first.root),
      secondSize: second.tree_size,
      secondRoot: fromHex(second.root),
      path: proof.path.map(fromHex),
    })
  );
}

/** The byte layout of migrations/0003, `payments.event_leaf_hash`, rebuilt without PostgreSQL. */
function leafHashOf(event: EventFields): Buffer {
  return sha256(
    Buffer.of(0),
    int4(event.book_id),
    int8(event.position),
    fromHex(event.event_id.replaceAll('-', '')),
    int8(event.effective_at_us),
    int8(event.recorded_at_us),
    field(Buffer.from(event.type)),
    field(Buffer.from(event.created_by)),
    field(event.idempotency_scope === null ? null : Buffer.from(event.idempotency_scope)),
    field(event.idempotency_key === null ? null : Buffer.from(event.idempotency_key)),
    field(event.request_hash === null ? null : fromHex(event.request_hash)),
    Buffer.from(event.payload),
  );
}

/** The byte layout of migrations/0012, `payments.seal_hash`. */
function sealHashOf(seal: SealFields): Buffer {
  return sha256(
    Buffer.of(2),
    int4(seal.book_id),
    int8(seal.seal_number),
    int8(seal.sealed_at_us),
    int8(seal.tree_size),
    fromHex(seal.root),
    fromHex(seal.coverage_hash),
    fromHex(seal.previous_seal_hash),
  );
}

const sha256 = (...parts: readonly Buffer[]): Buffer => createHash('sha256').update(Buffer.concat(parts)).digest();
const toHex = (bytes: Buffer): string => bytes.toString('hex');
const fromHex = (hex: string): Buffer => Buffer.from(hex, 'hex');
const field = (bytes: Buffer | null): Buffer =>
  bytes === null ? int4(-1) : Buffer.concat([int4(bytes.length), bytes]);

function int4(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

function int8(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(value);
  return bytes;
}

async function getEvent(db: Tx, bookId: number, name: EventName): Promise<{ event: EventFields; leaf_hash: string }> {
  await assertBook(db, bookId);
  const [condition, value] = 'position' in name ? ['position = $2', name.position] : ['event_id = $2', name.eventId];
  const { rows } = await db.query<EventFields & { leaf_hash: string }>(
    `select book_id, position, event_id, ${microseconds('effective_at')} as effective_at_us,
            ${microseconds('recorded_at')} as recorded_at_us, type, created_by, idempotency_scope, idempotency_key,
            encode(request_hash, 'hex') as request_hash, payload::text as payload, encode(leaf_hash, 'hex') as leaf_hash
     from payments.events where book_id = $1 and ${condition}`,
    [bookId, value],
  );
  if (rows[0] === undefined) {
    const what = 'position' in name ? `at position ${name.position}` : `with the id ${name.eventId}`;
    throw new AppError('LEDGER_EVENT_UNKNOWN', `Book ${bookId} has no event ${what}. Give one of payments.events.`);
  }
  const { leaf_hash, ...event } = rows[0];
  return { event, leaf_hash };
}

async function getLeafIndex(db: Tx, { book_id, position }: EventFields): Promise<bigint> {
  const { rows } = await db.query<{ index: bigint }>(
    `select s.tree_size - s.event_count + (
              select coalesce(sum(least(upper(r), $2) - lower(r)), 0) from unnest(s.positions) as r where lower(r) < $2
            )::bigint as index
     from payments.seals s
     where s.book_id = $1 and s.positions @> $2::bigint`,
    [book_id, position],
  );
  if (rows[0] === undefined) {
    throw new AppError(
      'SEAL_EVENT_NOT_SEALED',
      `Event ${position} of book ${book_id} is not sealed yet. Seal what is new: liventix books seal --book ${book_id}`,
    );
  }
  return rows[0].index;
}

const SEAL_FIELDS = `
  s.book_id, s.seal_number, ${microseconds('s.sealed_at')} as sealed_at_us, s.tree_size, encode(s.root, 'hex') as root,
  encode(sha256(convert_to(s.positions::text || e'\\n' || s.open_positions::text || e'\\n'
    || array_to_string(s.open_writers, ' '), 'UTF8')), 'hex') as coverage_hash,
  encode(s.previous_seal_hash, 'hex') as previous_seal_hash, encode(s.seal_hash, 'hex') as seal_hash`;

async function getNewestSeal(db: Tx, bookId: number): Promise<SealFields> {
  const { rows } = await db.query<SealFields>(
    `select ${SEAL_FIELDS} from payments.seals s where s.book_id = $1 order by s.seal_number desc limit 1`,
    [bookId],
  );
  if (rows[0] === undefined) throw new AppError('INTERNAL', `Book ${bookId} has a sealed event and no seal.`);
  return rows[0];
}

/** The first seal with that root: those after it that added no event have the same. */
async function getSealOf(db: Tx, bookId: number, root: string): Promise<SealFields> {
  const { rows } = await db.query<SealFields>(
    `select ${SEAL_FIELDS} from payments.seals s 
     where s.book_id = $1 and s.root = $2 and s.tree_size > 0
     order by s.seal_number limit 1`,
    [bookId, fromHex(root)],
  );
  if (rows[0] === undefined) {
    throw new AppError(
      'SEAL_ROOT_UNKNOWN',
      `No seal of book ${bookId} with an event in its tree has the root ${root}. Give two of: liventix books seals. If it was one, seals were changed or removed.`,
    );
  }
  return rows[0];
}

/** Subtrees from the tiles that are kept; leaves are read only where a subtree is smaller than a tile. */
function subtreesOf(db: Queryable, bookId: number): ReadSubtree {
  const leavesOf = remember((tile) => readLeaves(db, bookId, tile));
  const tiles = remember(() => readTiles(db, bookId));
  const read: ReadSubtree = async (first, count) => {
    if (count === TILE && first % TILE === 0n) {
      const hash = (await tiles(0n)).get(first / TILE);
      if (hash !== undefined) return hash;
    } else if (count === 1n) {
      const leaf = (await leavesOf(first / TILE))[Number(first % TILE)];
      if (leaf === undefined) throw broken(bookId, `leaf ${first}`);
      return leaf;
    }
    const split = splitOf(count);
    return hashChildren(await read(first, split), await read(first + split, count - split));
  };
  return read;
}

function remember<T>(load: (key: bigint) => Promise<T>): (key: bigint) => Promise<T> {
  const loaded = new Map<bigint, Promise<T>>();
  return (key) => {
    const value = loaded.get(key) ?? load(key);
    loaded.set(key, value);
    return value;
  };
}

async function readTiles(db: Queryable, bookId: number): Promise<Map<bigint, Buffer>> {
  const { rows } = await db.query<{ number: bigint; hash: Buffer }>(
    'select tile_number as number, hash from payments.seal_tiles where book_id = $1',
    [bookId],
  );
  return new Map(rows.map(({ number, hash }) => [number, hash]));
}

/** The leaf hashes of one tile, in leaf order: of the seals that have leaves in it, range by range. */
async function readLeaves(db: Queryable, bookId: number, tile: bigint): Promise<Buffer[]> {
  const { rows } = await db.query<{ leaf_hash: Buffer }>(
    `with seal as (
       select s.positions, s.seal_number, s.tree_size - s.event_count as first_leaf
       from payments.seals s
       where s.book_id = $1 and s.tree_size > $2 and s.tree_size < $3 and s.event_count > 0
       union all
       (select s.positions, s.seal_number, s.tree_size - s.event_count
        from payments.seals s
        where s.book_id = $1 and s.tree_size >= $3
        order by s.tree_size, s.seal_number limit 1)
     ), piece as (
       select lower(r) as low, upper(r) as high,
              s.first_leaf - (upper(r) - lower(r))
                + (sum(upper(r) - lower(r)) over (partition by s.seal_number order by r))::bigint as leaf
       from seal s cross join lateral unnest(s.positions) as r
     ), wanted as (
       select p.leaf, p.low + greatest($2 - p.leaf, 0) as low, least(p.high, p.low + ($3 - p.leaf)) as high
       from piece p
       where p.leaf < $3 and p.leaf + (p.high - p.low) > $2
     )
     select e.leaf_hash
     from wanted w
     cross join lateral (
       select x.position, x.leaf_hash from payments.events x
       where x.book_id = $1 and x.position >= w.low and x.position < w.high
       offset 0
     ) e
     order by w.leaf, e.position`,
    [bookId, tile * TILE, (tile + 1n) * TILE],
  );
  return rows.map(({ leaf_hash }) => leaf_hash);
}
