import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toJson } from '../../src/db/json-value.ts';
import { createPool, type Tx } from '../../src/db/pool.ts';
import { post, postAll } from '../../src/ledger/ledger.ts';
import {
  type ConsistencyProof,
  holdsConsistency,
  holdsInclusion,
  type InclusionProof,
  proveConsistency,
  proveInclusion,
} from '../../src/ledger/proof.ts';
import { listSeals, type Seal, sealBook } from '../../src/ledger/seals.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { CHECKER, changes, checkProof, checkProofs, saidOfProof } from '../support/check-proof.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { auditPath, consistencyProof } from '../support/merkle.ts';
import { sealedPositions } from '../support/seals.ts';

const UNKNOWN = '00000000-0000-4000-8000-0000000000ff';
const SPEAKING = '00000000-0000-4000-8000-00000000aaaa';

let database: TestDatabase;
let accounts: TestAccounts;
/** Positions and leaf hashes in the order of the leaves. */
let leaves: { position: bigint; hash: Buffer }[];
/** Oldest first. */
let seals: Seal[];
let late: bigint;
let unsealed: bigint;

// Seals of all sizes over three tiles: one that ends a tile, one with an event that came late, one of a single event.
beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  accounts = await openTestAccounts(pool);
  const give = (count: number, db: Pick<Tx, 'query'> = pool) =>
    postAll(
      db,
      Array.from({ length: count }, (_, nth) => transfer(accounts.clearing, accounts.wallet, { metadata: { nth } })),
    );
  await post(pool, {
    ...transfer(accounts.clearing, accounts.wallet),
    transactionId: SPEAKING,
    idempotencyKey: 'Schlüssel 🔑 "1"',
    idempotencyScope: '',
    effectiveAt: new Date('1969-07-20T20:17:40Z'),
    description: 'größer — \\ "quoted" \u0001',
    metadata: { nested: { list: [1, 2.5, null, 'ß'] } },
  });
  await pool.query(
    `select payments.import_events(1, null, array[row('note.recorded', gen_random_uuid(), null, null, null, null, '{}')::payments.new_event])`,
  );
  await sealBook(pool, 1);
  await give(1_017);
  await sealBook(pool, 1);
  const slow = await pool.connect();
  await slow.query('begin');
  await slow.query(`select nextval('payments.events_position_seq')`);
  const [outcome] = await postAll(slow, [transfer(accounts.yen, accounts.yen, { currency: 'JPY' })]);
  late = outcome?.status === 'posted' ? outcome.eventPosition : 0n;
  await give(700);
  await sealBook(pool, 1);
  await slow.query('commit');
  slow.release();
  await sealBook(pool, 1);
  await give(600);
  await sealBook(pool, 1, { batchEvents: 250 });
  seals = (await listSeals(pool, { bookId: 1, limit: 100 })).toReversed();
  const { rows } = await pool.query<{ position: bigint; hash: Buffer }>(
    'select position, leaf_hash as hash from payments.events',
  );
  const hashes = new Map(rows.map(({ position, hash }) => [position, hash]));
  leaves = (await sealedPositions(pool)).map(({ position }) => ({
    position,
    hash: hashes.get(position) ?? Buffer.alloc(0),
  }));
  unsealed = (await post(pool, transfer(accounts.clearing, accounts.wallet))).eventPosition;
});
afterAll(() => database.drop());

const hashesOf = (count: number) => leaves.slice(0, count).map(({ hash }) => hash);
const hex = (path: readonly Buffer[]) => path.map((hash) => hash.toString('hex'));
const newest = () => seals.at(-1) as Seal;
/** What a proof says of a seal. */
const sealed = (seal: Seal) => ({
  book_id: seal.book,
  seal_number: seal.sealNumber,
  tree_size: seal.treeSize,
  root: seal.root,
  previous_seal_hash: seal.previousSealHash,
  seal_hash: seal.sealHash,
});

it('the seals of these tests have sizes of all kinds', () => {
  expect(seals.map(({ events }) => events)).toEqual([6, 1_017, 700, 1, 250, 250, 100]);
  expect(leaves.map(({ position }) => position)).not.toEqual(leaves.map(({ position }) => position).toSorted());
  expect(leaves).toHaveLength(Number(newest().treeSize));
});

describe('an inclusion proof', () => {
  const indexes = () => [
    0,
    1,
    4,
    5,
    6,
    7,
    1_022,
    1_023,
    1_024,
    1_025,
    1_723,
    1_724,
    1_725,
    2_047,
    2_048,
    leaves.length - 1,
  ];

  it('is the audit path of RFC 6962 to the newest root, whatever the seal and the tile of the event', async () => {
    const proofs: InclusionProof[] = [];
    for (const index of indexes()) {
      const proof = await proveInclusion(database.pool, 1, { position: leaves[index]?.position ?? 0n });
      expect(proof).toMatchObject({
        leaf_index: BigInt(index),
        leaf_hash: leaves[index]?.hash.toString('hex'),
        path: hex(auditPath(index, hashesOf(leaves.length))),
        seals: [sealed(newest())],
      });
      expect(holdsInclusion(proof)).toBe(true);
      proofs.push(proof);
    }
    const known = proofs.map(() => [newest().root, newest().sealHash]);
    expect(checkProofs(proofs, known)).toEqual(proofs.map(() => 0));
  });

  it('is given for an event that committed late, at its place in its seal', async () => {
    const proof = await proveInclusion(database.pool, 1, { position: late });
    expect(proof.leaf_index).toBe(BigInt(leaves.findIndex(({ position }) => position === late)));
    expect(leaves[Number(proof.leaf_index) - 1]?.position).toBeGreaterThan(late);
    expect(checkProof(proof)).toBe(0);
  });

  it('rebuilds the leaf from text of any kind, from instants before 2000, and from what is not there', async () => {
    const speaking = await proveInclusion(database.pool, 1, { eventId: SPEAKING });
    expect(speaking.event).toMatchObject({ idempotency_key: 'Schlüssel 🔑 "1"', idempotency_scope: '' });
    expect(speaking.event.effective_at_us).toBeLessThan(0n);
    expect(speaking.event.request_hash).toMatch(/^[0-9a-f]{64}$/);
    const { rows } = await database.pool.query<{ id: string }>(
      `select event_id as id from payments.events where type = 'note.recorded'`,
    );
    const note = await proveInclusion(database.pool, 1, { eventId: rows[0]?.id ?? '' });
    expect(note.event).toMatchObject({ idempotency_key: null, idempotency_scope: null, request_hash: null });
    expect([speaking, note].map((proof) => checkProof(proof))).toEqual([0, 0]);
  });

  it('holds no more when any of its fields is changed or left out', async () => {
    const proof = await proveInclusion(database.pool, 1, { eventId: SPEAKING });
    const all = changes(proof);
    expect(all.length).toBeGreaterThan(60);
    expect(checkProofs([proof])).toEqual([0]);
    expect(survivors(all, holdsInclusion)).toEqual([]);
  });

  it('reads the leaves of two tiles and no others, however long the log is', async () => {
    // One connection, so that what it read is counted when it is asked.
    const pool = createPool({ databaseUrl: database.url, max: 1 });
    const read = async () => {
      await pool.query('select pg_stat_force_next_flush()');
      const { rows } = await pool.query<{ read: bigint }>(
        `select seq_tup_read + idx_tup_fetch as read from pg_stat_user_tables where relid = 'payments.events'::regclass`,
      );
      return Number(rows[0]?.read);
    };
    const ofOne = async () => {
      const before = await read();
      await proveInclusion(pool, 1, { position: leaves[3]?.position ?? 0n });
      return (await read()) - before;
    };
    // Sessions of tests before may say only now what they read: they add to one of three, and not to all.
    const least = Math.min(await ofOne(), await ofOne(), await ofOne());
    await pool.end();
    expect(least).toBeGreaterThan(1_024);
    expect(least).toBeLessThanOrEqual(1_024 + (leaves.length % 1_024) + 10);
  });

  it('holds with no seal of another book, though its hash is right', async () => {
    const { event, seals: own, ...rest } = await proveInclusion(database.pool, 1, { position: 1n });
    const forged = { event, seals: [ofOtherBook(own[0])] as const, ...rest };
    expect([checkProof(forged), holdsInclusion(forged)]).toEqual([1, false]);
  });

  it('is not of another root that is known', async () => {
    const proof = await proveInclusion(database.pool, 1, { position: 1n });
    expect(checkProof(proof, seals[0]?.root ?? '')).toBe(1);
    expect(checkProof(proof, newest().root, seals[0]?.root ?? '')).toBe(1);
  });
});

/** A seal made over for book 2, with the hash that this gives. */
const ofOtherBook = (seal: AnySeal): AnySeal => resealed(seal, { book_id: 2 });

type AnySeal = ConsistencyProof['seals'][0];

/** A seal with other fields, and the hash that they give. */
function resealed(original: AnySeal, fields: Partial<AnySeal>): AnySeal {
  const seal = { ...original, ...fields };
  const bytes = Buffer.alloc(29);
  bytes.writeUInt8(2, 0);
  bytes.writeInt32BE(seal.book_id, 1);
  bytes.writeBigInt64BE(seal.seal_number, 5);
  bytes.writeBigInt64BE(seal.sealed_at_us, 13);
  bytes.writeBigInt64BE(seal.tree_size, 21);
  const hash = createHash('sha256')
    .update(bytes)
    .update(seal.root + seal.coverage_hash + seal.previous_seal_hash, 'hex')
    .digest('hex');
  return { ...seal, seal_hash: hash };
}

/** The changes after which a document still holds, for the checker or for the product. */
function survivors<T extends { format: string; seals: readonly unknown[] }>(
  all: readonly { path: string; changed: T }[],
  judge: (proof: T) => boolean,
): string[] {
  const codes = checkProofs(all.map(({ changed }) => changed));
  const shapes = { 'liventix inclusion proof 1': 1, 'liventix consistency proof 1': 2 };
  return all
    .filter(({ changed }, nth) => {
      if (codes[nth] !== 1) return true;
      try {
        // What a document is, is said by its format and the number of its seals, which the types promise.
        return shapes[changed.format as keyof typeof shapes] === changed.seals.length && judge(changed);
      } catch {
        return false;
      }
    })
    .map(({ path }) => path);
}

describe('a consistency proof', () => {
  it('is the one of RFC 6962 between any two roots, in whichever order they are named', async () => {
    const proofs: ConsistencyProof[] = [];
    for (const [nth, first] of seals.entries()) {
      for (const second of seals.slice(nth)) {
        const proof = await proveConsistency(database.pool, 1, [second.root, first.root]);
        expect(proof).toMatchObject({
          format: 'liventix consistency proof 1',
          seals: [sealed(first), sealed(second)],
          path: hex(consistencyProof(Number(first.treeSize), hashesOf(Number(second.treeSize)))),
        });
        expect(holdsConsistency(proof)).toBe(true);
        proofs.push(proof);
      }
    }
    const known = proofs.map(({ seals }) => seals.flatMap(({ root, seal_hash }) => [root, seal_hash]));
    expect(checkProofs(proofs, known)).toEqual(proofs.map(() => 0));
  });

  it.each([
    [0, 6],
    [1, 5],
    [3, 4],
  ])('holds no more when any of its fields is changed or left out: seals %i and %i', async (first, second) => {
    const proof = await proveConsistency(database.pool, 1, [seals[first]?.root ?? '', seals[second]?.root ?? '']);
    expect(checkProofs([proof])).toEqual([0]);
    expect(survivors(changes(proof), holdsConsistency)).toEqual([]);
  });
});

it('a consistency proof holds between no seals of two books, though their hashes are right', async () => {
  const proof = await proveConsistency(database.pool, 1, [seals[0]?.root ?? '', newest().root]);
  const forged = { ...proof, seals: [ofOtherBook(proof.seals[0]), proof.seals[1]] as const };
  expect([checkProof(forged), holdsConsistency(forged)]).toEqual([1, false]);
  const both = { ...proof, seals: [ofOtherBook(proof.seals[0]), ofOtherBook(proof.seals[1])] as const };
  expect([checkProof(both), holdsConsistency(both)]).toEqual([0, true]);
});

describe('the checker', () => {
  const source = readFileSync(CHECKER, 'utf8');

  it('has at most 40 lines, and nothing but hashing, JSON and packing of integers', () => {
    expect(source.trimEnd().split('\n').length).toBeLessThanOrEqual(40);
    expect([...source.matchAll(/\bimport\b.*/g)].map(([line]) => line)).toEqual(['import hashlib, json, struct, sys']);
  });

  it.each([
    ['no proof at all', {}],
    ['an empty list', []],
    ['another format', { format: 'liventix inclusion proof 2' }],
  ])('ends with 1 on %s', (_what, document) => {
    expect(checkProof(document)).toBe(1);
  });

  it.each([
    ['without a proof', []],
    ['where the proof is not there', [`${tmpdir()}/no-such-proof.json`]],
  ])('ends with 2 %s, and says how it is called: nothing was checked', (_what, args) => {
    const { status, stdout, stderr } = spawnSync('python3', ['-I', CHECKER, ...args], { encoding: 'utf8' });
    expect({ status, stdout, stderr }).toEqual({
      status: 2,
      stdout: '',
      stderr: expect.stringMatching(/^\[Errno 2\] .*\ncheck-proof\.py PROOF\.json \[HASH \.\.\.\] exits with 0 .*\n$/),
    });
  });
});

describe('a forgery', () => {
  const KNOWN_ELSEWHERE = 'ab'.repeat(32);
  const sha256 = (...parts: Buffer[]) => createHash('sha256').update(Buffer.concat(parts)).digest('hex');

  /** An event that is in no log, with the leaf hash that its fields give. */
  function madeUp() {
    const event = {
      book_id: 1,
      position: 3n,
      event_id: UNKNOWN,
      effective_at_us: 0n,
      recorded_at_us: 0n,
      type: 'transaction.posted',
      created_by: 'forger',
      idempotency_scope: null,
      idempotency_key: null,
      request_hash: null,
      payload: '{}',
    };
    const head = Buffer.alloc(13);
    head.writeInt32BE(event.book_id, 1);
    head.writeBigInt64BE(event.position, 5);
    const texts = [event.type, event.created_by].flatMap((text) => [
      Buffer.of(0, 0, 0, text.length),
      Buffer.from(text),
    ]);
    const id = Buffer.from(event.event_id.replaceAll('-', ''), 'hex');
    const leaf_hash = sha256(head, id, Buffer.alloc(16), ...texts, Buffer.alloc(12, 255), Buffer.from(event.payload));
    return { event, leaf_hash };
  }
  const alone = (): InclusionProof => {
    const { event, leaf_hash } = madeUp();
    return {
      format: 'liventix inclusion proof 1',
      event,
      leaf_hash,
      leaf_index: 0n,
      path: [],
      seals: [resealed(sealOf(), { tree_size: 1n, root: leaf_hash })],
    };
  };
  const sealOf = (): AnySeal => ({ ...sealed(newest()), sealed_at_us: 0n, coverage_hash: '00'.repeat(32) });

  it('of one event in a tree of its own holds by itself, and has no root that is known', () => {
    expect(checkProofs([alone(), alone()], [[], [newest().root]])).toEqual([0, 1]);
  });

  it.each(['previous_seal_hash', 'coverage_hash'] as const)('is not told from a proof by its %s', (field) => {
    const [seal] = alone().seals;
    const forged = { ...alone(), seals: [resealed(seal, { [field]: KNOWN_ELSEWHERE })] };
    expect(checkProofs([forged, forged], [[], [KNOWN_ELSEWHERE]])).toEqual([0, 1]);
  });

  it('has what is known in fields that no proof has', () => {
    const proof = alone();
    const [seal] = proof.seals;
    const more = { note: KNOWN_ELSEWHERE };
    const forged = [
      { ...proof, seals: [{ ...seal, ...more }] },
      { ...proof, ...more },
      { ...proof, event: { ...proof.event, ...more } },
    ];
    expect(checkProofs(forged)).toEqual([1, 1, 1]);
  });

  it('takes what is known for any field of a seal or an event but root and seal_hash', async () => {
    const proof = await proveInclusion(database.pool, 1, { eventId: SPEAKING });
    const [{ root, seal_hash, ...others }] = proof.seals;
    const values = [...Object.values(others), ...Object.values(proof.event), proof.leaf_hash, proof.format];
    const known = [...values, ...proof.path].map((value) => [`${value}`]);
    expect(known.length).toBeGreaterThan(25);
    expect(checkProofs(Array(known.length).fill(proof), known)).toEqual(known.map(() => 1));
    expect(checkProofs([proof, proof], [[root], [seal_hash]])).toEqual([0, 0]);
  });

  it('puts the node above two leaves where a path has one hash, beside a leaf that is nowhere', async () => {
    const proof = await proveInclusion(database.pool, 1, { position: leaves[0]?.position ?? 0n });
    const [beside = '', ...path] = proof.path;
    const forged = { ...proof, ...madeUp(), leaf_index: -1n, path: [proof.leaf_hash + beside, ...path] };
    expect(checkProof(forged, newest().root)).toBe(1);
  });

  it('moves the bytes of one field into the next, so that there is no root to differ from', () => {
    const [seal] = alone().seals;
    const moved = { ...seal, root: '', coverage_hash: seal.root + seal.coverage_hash };
    expect(checkProof({ ...alone(), leaf_index: 1n, seals: [moved] }, seal.seal_hash)).toBe(1);
  });

  it('says a thing twice, of which a reader may see the first', async () => {
    const text = toJson(await proveInclusion(database.pool, 1, { eventId: SPEAKING }));
    const twice = text.replace('"created_by":', '"created_by":"forger","created_by":');
    expect(checkProofs([text, twice])).toEqual([0, 1]);
  });

  it('writes a number as something else that becomes it', async () => {
    const { event, ...proof } = await proveInclusion(database.pool, 1, { position: 1n });
    const written = (position: string) =>
      toJson({ event, ...proof }).replace('"position":1,', `"position":${position},`);
    const others = ['1.9', '1.0', '1e0', 'true', '"01"', '" 1"', '"1_0"', '"+1"', '"\u0661"', '[1]'];
    // Beyond 2^53 a number is a string of digits.
    expect(checkProofs([written('1'), written('"1"'), ...others.map(written)])).toEqual([0, 0, ...others.map(() => 1)]);
  });

  it('carries an event in a proof that says nothing of any', async () => {
    const proof = await proveConsistency(database.pool, 1, [seals[0]?.root ?? '', newest().root]);
    expect(checkProofs([proof, { ...proof, ...madeUp() }, { ...proof, event: madeUp().event }])).toEqual([0, 1, 1]);
    expect(checkProof({ ...proof, path: Object.fromEntries(proof.path.map((hash) => [hash, 'seen'])) })).toBe(1);
  });

  it('is of two trees without a leaf', () => {
    const empty = resealed(sealOf(), { tree_size: 0n, root: KNOWN_ELSEWHERE });
    const forged = { format: 'liventix consistency proof 1', path: [], seals: [empty, empty] };
    expect(checkProof(forged, KNOWN_ELSEWHERE)).toBe(1);
  });

  it('has a seal hash where a root should be: the checker says which of the two is known', async () => {
    const proof = await proveInclusion(database.pool, 1, { position: 1n });
    const { root, seal_hash, seal_number } = proof.seals[0];
    expect(saidOfProof(proof, root, seal_hash)).toBe(
      `the proof holds, root of seal ${seal_number}, seal_hash of seal ${seal_number}\n`,
    );
    expect(saidOfProof(proof)).toBe('the proof holds, of no root or seal hash that you know\n');
  });
});

describe('docs/proofs.md', () => {
  const markdown = readFileSync(new URL('../../docs/proofs.md', import.meta.url), 'utf8');
  const blocks = (language: string) =>
    [...markdown.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 'gs'))].map(([, text = '']) => text);
  const [inclusion, consistency] = blocks('json').map((text) => JSON.parse(text)) as [InclusionProof, ConsistencyProof];
  const sha256 = (bytes: string) => createHash('sha256').update(Buffer.from(bytes, 'hex')).digest('hex');
  const bytesOf = (text: string) =>
    text
      .split('\n')
      .map((line) => line.slice(20))
      .join('')
      .replaceAll(' ', '');

  it('shows two proofs that hold', () => {
    expect([inclusion, consistency].map((proof) => checkProof(proof))).toEqual([0, 0]);
    expect(consistency.seals[1]).toEqual(inclusion.seals[0]);
    expect(consistency.seals[0].seal_hash).toBe(inclusion.seals[0].previous_seal_hash);
  });

  it('shows the bytes that the leaf hash, the seal hash and the coverage hash are made of', () => {
    expect(blocks('leaf').map(bytesOf).map(sha256)).toEqual([inclusion.leaf_hash]);
    expect(blocks('seal').map(bytesOf).map(sha256)).toEqual([inclusion.seals[0].seal_hash]);
    expect(createHash('sha256').update('{[4,6)}\n{[6,)}\n').digest('hex')).toBe(inclusion.seals[0].coverage_hash);
  });

  it('shows each step from the leaf to the root', () => {
    const lines = (blocks('path')[0] ?? '').trim().split('\n');
    let hash = inclusion.leaf_hash;
    for (let nth = 0; nth < lines.length; nth += 2) {
      const [step = '', result = ''] = [lines[nth], lines[nth + 1]];
      expect(step).toContain(hash);
      expect(step).toContain(inclusion.path[nth / 2]);
      hash = sha256(step.replaceAll(' ', ''));
      expect(result).toBe(`= ${hash}`);
    }
    expect(hash).toBe(inclusion.seals[0].root);
  });
});

describe('liventix books', () => {
  const books = (...args: string[]) => liventix(['books', ...args], { DATABASE_URL: database.url });
  const refused = (exitCode: number, code: string, says: string) => ({
    exitCode,
    stdout: '',
    stderr: expect.stringMatching(new RegExp(`^liventix: ${code}: [^\\n]*${says}[^\\n]*\\n$`)),
  });

  it('prove prints one JSON document, by position or by id', async () => {
    const run = await books('prove', SPEAKING.toUpperCase());
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(checkProof(JSON.parse(run.stdout), newest().root)).toBe(0);
    const { position } = JSON.parse(run.stdout).event;
    expect(await books('prove', String(position))).toEqual(run);
  });

  it('prove --between prints one JSON document', async () => {
    const roots = [seals[2]?.root.toUpperCase() ?? '', newest().root];
    const run = await books('prove', '--between', ...roots);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(checkProof(JSON.parse(run.stdout), newest().root)).toBe(0);
  });

  it('prove says with one line and exit code 3 that an event is not sealed yet', async () => {
    expect(await books('prove', unsealed.toString())).toEqual(
      refused(3, 'SEAL_EVENT_NOT_SEALED', `Event ${unsealed} of book 1 is not sealed yet`),
    );
  });

  it.each([
    [['999999'], 'LEDGER_EVENT_UNKNOWN', 'no event at position 999999'],
    [['9223372036854775807'], 'LEDGER_EVENT_UNKNOWN', 'no event at position'],
    [[UNKNOWN], 'LEDGER_EVENT_UNKNOWN', `no event with the id ${UNKNOWN}`],
    [['1', '--book', '7'], 'LEDGER_BOOK_UNKNOWN', 'Book 7 does not exist'],
    [['9223372036854775808'], 'USAGE', 'Give a position or a UUID'],
    [["1'; drop table payments.seals"], 'USAGE', 'Give a position or a UUID'],
    [[], 'USAGE', 'Give an event, or --between and two roots'],
    [['--between', 'f'.repeat(64)], 'USAGE', 'Give an event, or --between and two roots'],
    [['--between', 'f'.repeat(64), '1'], 'USAGE', 'roots of 64 hexadecimal digits'],
    [['--between', ...Array<string>(3).fill('f'.repeat(64))], 'USAGE', 'Give an event, or --between and two roots'],
    [['1', '--between', 'f'.repeat(64), 'f'.repeat(64)], 'USAGE', 'Give an event, or --between and two roots'],
    [['--between', 'f'.repeat(64), 'f'.repeat(64)], 'SEAL_ROOT_UNKNOWN', `the root ${'f'.repeat(64)}`],
  ])('prove %j is refused with one line and exit code 2', async (args, code, says) => {
    expect(await books('prove', ...args)).toEqual(refused(2, code, says));
  });

  it('seals lists them, the newest first, for people and for machines', async () => {
    const table = await books('seals', '--limit', '2');
    expect(table).toMatchObject({ exitCode: 0, stderr: '' });
    expect(table.stdout.trimEnd().split('\n')).toHaveLength(3);
    expect(table.stdout).toContain(newest().root);
    const json = JSON.parse((await books('seals', '--json', '--before', '3')).stdout);
    expect(json).toMatchObject([
      { sealNumber: 2, root: seals[1]?.root },
      { sealNumber: 1, root: seals[0]?.root, sealHash: seals[0]?.sealHash },
    ]);
    expect(await books('seals', '--before', '1')).toMatchObject({ exitCode: 0, stdout: '', stderr: /no such seals/ });
    expect(await books('seals', '--book', '7')).toEqual(refused(2, 'LEDGER_BOOK_UNKNOWN', 'Book 7'));
  });

  it('seal says the root and the tree size, and that nothing is new the second time', async () => {
    const own = await createDatabase();
    const run = (...args: string[]) => liventix(['books', ...args], { DATABASE_URL: own.url });
    expect(await run('seal')).toMatchObject({ exitCode: 0, stdout: 'Book 1 has no events to seal.\n' });
    expect(JSON.parse((await run('seal', '--json')).stdout)).toEqual({ book: 1, sealed: [], newest: null });
    await openTestAccounts(own.pool);
    const first = await run('seal');
    const [seal] = await listSeals(own.pool, { bookId: 1, limit: 1 });
    expect(first).toMatchObject({ exitCode: 0, stderr: '' });
    expect(first.stdout).toBe(
      `sealed     4 events in seal 1\ntree size  4\nroot       ${seal?.root}\nseal hash  ${seal?.sealHash}\n`,
    );
    expect((await run('seal')).stdout).toMatch(/^sealed {5}nothing new since seal 1\ntree size {2}4\n/);
    expect(JSON.parse((await run('seal', '--json')).stdout)).toMatchObject({
      book: 1,
      sealed: [],
      newest: { root: seal?.root, treeSize: 4 },
    });
    expect(await run('seal', '--book', '7')).toEqual(refused(2, 'LEDGER_BOOK_UNKNOWN', 'Book 7'));
    await own.drop();
  });
});

describe('what was tampered with', () => {
  const broken = expect.objectContaining({ code: 'SEAL_BROKEN', message: expect.stringContaining('books verify') });
  const whileTampered = async (sql: string, work: () => Promise<unknown>) => {
    const [table = ''] = /payments\.\w+/.exec(sql) ?? [];
    const { pool } = database;
    await pool.query(`create table kept as table ${table}; alter table ${table} disable trigger user; ${sql}`);
    try {
      await work();
    } finally {
      await pool.query(
        `delete from ${table}; insert into ${table} select * from kept; drop table kept; alter table ${table} enable trigger user`,
      );
    }
  };

  it.each([
    [
      'a changed event',
      `update payments.events set payload = payload || '{"description": "other"}' where event_id = '${SPEAKING}'`,
    ],
    [
      'a changed event with a new leaf hash',
      `update payments.events set payload = '{}', leaf_hash = payments.event_leaf_hash(book_id, position, event_id, effective_at,
         recorded_at, type, created_by, idempotency_scope, idempotency_key, request_hash, '{}') where event_id = '${SPEAKING}'`,
    ],
    ['an event removed beside it', 'delete from payments.events where position = 2'],
    ['a changed tile', `update payments.seal_tiles set hash = sha256('x') where tile_number = 1`],
  ])('has no proof any more, but exit code 1: %s', async (_what, sql) => {
    await whileTampered(sql, async () => {
      await expect(proveInclusion(database.pool, 1, { eventId: SPEAKING })).rejects.toEqual(broken);
    });
  });

  it('is told also where a tile is gone: its leaves are read instead', async () => {
    await whileTampered('delete from payments.seal_tiles', async () => {
      expect(checkProof(await proveInclusion(database.pool, 1, { eventId: SPEAKING }), newest().root)).toBe(0);
    });
  });

  it('has no consistency proof any more', async () => {
    const roots = [seals[0]?.root ?? '', newest().root] as const;
    for (const sql of [
      'delete from payments.events where position = 1',
      `update payments.events set leaf_hash = sha256('x') where position = 1`,
    ]) {
      await whileTampered(sql, async () => {
        await expect(proveConsistency(database.pool, 1, roots)).rejects.toEqual(broken);
      });
    }
  });
});
