import { STREAMED } from '../../db/cursor.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { MAIN_BOOK } from '../../ledger/ledger.ts';
import { sealBook } from '../../ledger/seals.ts';
import { SORT_MEMORY } from '../backfill-run.ts';
import { findCapture } from '../capture.ts';
import { assertFinished } from '../finished.ts';
import { getLegacyTables } from '../legacy.ts';
import { SOURCES } from '../sources.ts';
import { FORMAT, numberOf, type ProofDocument, type ProvenChunk, type ProvenSums, sumsOf, tupleOf } from './file.ts';
import { type Recomputed, recompute } from './recomputed.ts';
import {
  type AsOf,
  areEqual,
  type BothSides,
  type ChunkKey,
  countNotCompared,
  type NotCompared,
  nameDifferingBalances,
  nameDifferingRows,
  type Sum,
  Sums,
  sumBalances,
  sumRows,
} from './sums.ts';

export interface ProofOptions {
  readonly bookId?: number;
  readonly stop?: AbortSignal;
  readonly onStep?: (step: string, done?: number) => void;
}

/** What a comparison came to. */
export interface Verdict {
  readonly holds: boolean;
  /** What does not, in words, with the rows and holders that differ. */
  readonly faults: readonly string[];
  readonly rows: bigint;
  readonly holders: bigint;
  readonly notCompared: NotCompared;
}

/**
 * Compares the old tables with the log, chunk by chunk, in two ways, as of the newest seal, which is made first where something is
 * not sealed.
 * @throws AppError BACKFILL_UNFINISHED before a backfill has finished, LEGACY_*, DB_*
 */
export async function takeProof(
  pool: Pool,
  program: string,
  options: ProofOptions = {},
): Promise<{ document: ProofDocument; verdict: Verdict }> {
  const { bookId = MAIN_BOOK, onStep = () => undefined, stop } = options;
  await assertFinished(pool, bookId);
  onStep('sealing what is new');
  await sealBook(pool, bookId, stop === undefined ? {} : { stop });
  return withTransaction(
    pool,
    async (tx) => {
      const seal = await getSeal(tx, bookId);
      const compared = await compare(tx, { bookId, seal, onStep });
      const verdict = await judge(tx, compared, []);
      return { document: await documentOf(tx, { bookId, program, seal, compared, holds: verdict.holds }), verdict };
    },
    STREAMED,
  );
}

/**
 * Compares both sides once more with what a proof says of them: the log as of its seal, and the old tables as they were then, which is
 * what they are now less what the log says since.
 * @throws AppError PROOF_OTHER_DATABASE, LEGACY_*, DB_*
 */
export async function verifyProof(pool: Pool, document: ProofDocument, options: ProofOptions = {}): Promise<Verdict> {
  const { onStep = () => undefined } = options;
  const bookId = document.book;
  return withTransaction(
    pool,
    async (tx) => {
      await assertSameDatabase(tx, document);
      const faults = document.holds ? [] : ['the two sides were not the same when the proof was taken'];
      const sealNumber = BigInt(document.seal.seal_number);
      faults.push(...sealFaults(document, await findSeal(tx, bookId, sealNumber)));
      // As the proof has it, whatever the table says of it by now.
      const seal = { ...document.seal, seal_number: sealNumber, tree_size: BigInt(document.seal.tree_size) };
      const compared = await compare(tx, { bookId, seal, onStep });
      return judge(tx, compared, [...faults, ...changedSince(document, compared)]);
    },
    STREAMED,
  );
}

function sealFaults({ seal: proven }: ProofDocument, seal: Seal | undefined): string[] {
  if (seal === undefined) return [`seal ${proven.seal_number} is gone`];
  const isSame =
    seal.root === proven.root &&
    seal.seal_hash === proven.seal_hash &&
    seal.tree_size === BigInt(proven.tree_size) &&
    seal.open_positions === proven.open_positions;
  return isSame ? [] : [`seal ${proven.seal_number} is not the one that the proof names`];
}

interface Seal {
  readonly seal_number: bigint;
  readonly tree_size: bigint;
  readonly root: string;
  readonly seal_hash: string;
  readonly open_positions: string;
}

const SEAL_COLUMNS = `
  s.seal_number, s.tree_size, encode(s.root, 'hex') as root, encode(s.seal_hash, 'hex') as seal_hash, s.open_positions::text as open_positions`;

async function getSeal(tx: Tx, bookId: number): Promise<Seal> {
  const { rows } = await tx.query<Seal>(
    `select ${SEAL_COLUMNS} from payments.seals s where s.book_id = $1 order by s.seal_number desc limit 1`,
    [bookId],
  );
  if (rows[0] === undefined) throw new AppError('INTERNAL', `Book ${bookId} was replayed into and has no seal.`);
  return rows[0];
}

async function findSeal(tx: Tx, bookId: number, number: bigint): Promise<Seal | undefined> {
  const { rows } = await tx.query<Seal>(
    `select ${SEAL_COLUMNS} from payments.seals s where s.book_id = $1 and s.seal_number = $2`,
    [bookId, number],
  );
  return rows[0];
}

/** Told by the book's first seal, which all later ones are chained to; where it is another one in a database of that name, it was changed. */
async function assertSameDatabase(tx: Tx, document: ProofDocument): Promise<void> {
  const first = await findSeal(tx, document.book, 1n);
  const { rows } = await tx.query<{ name: string }>('select current_database() as name');
  const name = rows[0]?.name;
  if (first?.seal_hash === document.first_seal_hash || name === document.database) return;
  throw new AppError(
    'PROOF_OTHER_DATABASE',
    `The proof is of book ${document.book} of database ${document.database}, whose first seal is ${document.first_seal_hash}; in ${name} it is ${first?.seal_hash ?? 'not there'}. Point DATABASE_URL at that database or a copy of it.`,
  );
}

/** Everything that both ways found. */
interface Compared {
  readonly asOf: AsOf;
  readonly rows: BothSides;
  readonly balances: BothSides;
  readonly recomputed: Recomputed;
  readonly seal: Seal;
  readonly notCompared: NotCompared;
}

async function compare(
  tx: Tx,
  { bookId, seal, onStep }: { bookId: number; seal: Seal; onStep: NonNullable<ProofOptions['onStep']> },
): Promise<Compared> {
  await tx.query(`set local work_mem = '${SORT_MEMORY}'`);
  const tables = await getLegacyTables(tx);
  const asOf = { bookId, tables, openPositions: seal.open_positions };
  onStep('summing rows');
  const rows = await sumRows(tx, asOf);
  onStep('summing balances');
  const balances = await sumBalances(tx, asOf);
  const notCompared = await countNotCompared(tx, asOf);
  const onRows = (done: number) => onStep('recomputing from rows and events', done);
  const recomputed = await recompute(tx, { ...asOf, sealNumber: seal.seal_number, onRows });
  return { asOf, rows, balances, recomputed, seal, notCompared };
}

/** Where the two sides, or the two ways, differ; and what differs there. */
async function judge(tx: Tx, compared: Compared, others: readonly string[]): Promise<Verdict> {
  const { asOf, rows, balances, recomputed, seal, notCompared } = compared;
  const faults = [...others, ...recomputed.legFaults];
  if (recomputed.root !== seal.root || BigInt(recomputed.treeSize) !== seal.tree_size) {
    faults.push(
      `the events give the root ${recomputed.root} of ${recomputed.treeSize} leaves, the seal has ${seal.root} of ${seal.tree_size}: liventix books verify says which changed`,
    );
  }
  const differing = { rows: differingKeys(rows.old, rows.log), balances: differingKeys(balances.old, balances.log) };
  faults.push(
    ...firstOf(
      [...differing.rows, ...differing.balances],
      ({ table, chunk }) => `chunk ${chunk} of ${table} differs: ${inWords(table, chunk, compared)}`,
    ),
  );
  faults.push(...(await nameDifferingRows(tx, asOf, differing.rows)));
  if (differing.balances.length > 0) faults.push(...(await nameDifferingBalances(tx, asOf, differing.balances)));
  faults.push(...recomputedFaults(compared));
  return {
    holds: faults.length === 0,
    faults,
    rows: total(rows.log).count,
    holders: total(balances.log).count,
    notCompared,
  };
}

function inWords(table: string, chunk: number, { rows, balances }: Compared): string {
  const sides = SOURCES.some(({ name }) => name === table) ? rows : balances;
  const [old, log] = [sides.old.of({ table, chunk }), sides.log.of({ table, chunk })];
  return `${old.count} of ${old.cents} cents in the old tables, ${log.count} of ${log.cents} in the log`;
}

/** The same figures come from SQL and from this program; where they do not, one of the two was tampered with. */
function recomputedFaults({ rows, balances, recomputed }: Compared): string[] {
  const pairs = [
    [rows.old, recomputed.rows.old, 'old rows'],
    [rows.log, recomputed.rows.log, 'rows of the log'],
    [balances.old, recomputed.balances.old, 'old balances'],
    [balances.log, recomputed.balances.log, 'balances of the log'],
  ] as const;
  return pairs.flatMap(([bySql, byProgram, what]) =>
    firstOf(
      differingKeys(bySql, byProgram),
      ({ table, chunk }) =>
        `the ${what} in chunk ${chunk} of ${table} are other ones when they are recomputed without the database's functions`,
    ),
  );
}

/** What a proof says otherwise than the tables now say of then. */
function changedSince(document: ProofDocument, { rows, balances, recomputed }: Compared): string[] {
  const parts = [
    ['rows', document.rows, rows, recomputed.rows],
    ['balances', document.balances, balances, recomputed.balances],
  ] as const;
  return parts.flatMap(([what, chunks, bySql, byProgram]) => {
    const differ = (columns: readonly (keyof ProvenSums)[], sides: readonly Sums[], why: string) => {
      const keys = columns.flatMap((column, nth) => differingKeys(sumsOf(chunks, column), sides[nth] as Sums));
      const distinct = new Map(keys.map((key) => [`${key.table} ${key.chunk}`, key]));
      return firstOf(
        [...distinct.values()],
        ({ table, chunk }) => `the ${what} in chunk ${chunk} of ${table} are not those of the proof: ${why}`,
      );
    };
    return [
      ...differ(
        ['old', 'old_recomputed'],
        [bySql.old, byProgram.old],
        'the old tables were changed, and the log does not know',
      ),
      ...differ(['log', 'log_recomputed'], [bySql.log, byProgram.log], 'the log was changed'),
    ];
  });
}

const NAMED = 10;

/** What the first of some say, and how many more there are. */
function firstOf(keys: readonly ChunkKey[], say: (key: ChunkKey) => string): string[] {
  const more = keys.length - NAMED;
  return [...keys.slice(0, NAMED).map(say), ...(more > 0 ? [`and so do ${more} more chunks`] : [])];
}

function differingKeys(a: Sums, b: Sums): ChunkKey[] {
  const all = new Map([...a.keys(), ...b.keys()].map((key) => [`${key.table} ${key.chunk}`, key]));
  return [...all.values()].filter((key) => !areEqual(a.of(key), b.of(key))).toSorted(inOrder);
}

const inOrder = (a: ChunkKey, b: ChunkKey): number =>
  a.table === b.table ? a.chunk - b.chunk : a.table < b.table ? -1 : 1;

function total(sums: Sums): Sum {
  const all = new Sums();
  for (const key of sums.keys()) all.add({ table: '', chunk: 0 }, sums.of(key));
  return all.of({ table: '', chunk: 0 });
}

async function documentOf(
  tx: Tx,
  {
    bookId,
    program,
    seal,
    compared,
    holds,
  }: { bookId: number; program: string; seal: Seal; compared: Compared; holds: boolean },
): Promise<ProofDocument> {
  const { rows } = await tx.query<{ postgres: string; database: string; taken_at: Date; position: bigint }>(
    `select current_setting('server_version') as postgres, current_database() as database, now() as taken_at,
            (select max(e.position) from payments.events e where e.book_id = $1 and not $2::int8multirange @> e.position) as position`,
    [bookId, seal.open_positions],
  );
  const [found] = rows;
  if (found === undefined) throw new Error('a select without a from clause answers one row');
  const capture = await findCapture(tx);
  const first = await findSeal(tx, bookId, 1n);
  const { notCompared, recomputed } = compared;
  return {
    format: FORMAT,
    program,
    postgres: found.postgres,
    database: found.database,
    book: bookId,
    capture:
      capture === undefined ? null : { id: numberOf(capture.id), installed_at: capture.installedAt.toISOString() },
    taken_at: found.taken_at.toISOString(),
    position: numberOf(found.position),
    seal: {
      seal_number: numberOf(seal.seal_number),
      tree_size: numberOf(seal.tree_size),
      root: seal.root,
      seal_hash: seal.seal_hash,
      open_positions: seal.open_positions,
    },
    first_seal_hash: first?.seal_hash ?? '',
    holds,
    not_compared: {
      pending_changes: numberOf(notCompared.pendingChanges),
      changing_holders: numberOf(notCompared.changingHolders),
      orphan_rows: numberOf(notCompared.orphanRows),
      orphan_cents: numberOf(notCompared.orphanCents),
      wallets_without_account: numberOf(notCompared.walletsWithoutAccount),
    },
    rows: chunksOf(compared.rows, recomputed.rows),
    balances: chunksOf(compared.balances, recomputed.balances),
  };
}

function chunksOf(bySql: BothSides, byProgram: BothSides): ProvenChunk[] {
  const all = [bySql.old, bySql.log, byProgram.old, byProgram.log].flatMap((sums) => sums.keys());
  const keys = new Map(all.map((key) => [`${key.table} ${key.chunk}`, key]));
  return [...keys.values()].toSorted(inOrder).map((key) => ({
    ...key,
    old: tupleOf(bySql.old.of(key)),
    log: tupleOf(bySql.log.of(key)),
    old_recomputed: tupleOf(byProgram.old.of(key)),
    log_recomputed: tupleOf(byProgram.log.of(key)),
  }));
}
