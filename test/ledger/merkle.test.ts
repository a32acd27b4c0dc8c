import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { consistencyPath, inclusionPath, isConsistent, rootOfInclusion } from '../../src/ledger/merkle.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { auditPath, consistencyProof, frontierOf, leafHash, treeHash } from '../support/merkle.ts';

const TILE = 1_024;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const leaves = Array.from({ length: 3 * TILE + 70 }, (_, nth) => createHash('sha256').update(`leaf ${nth}`).digest());
/** The hash of nothing in the tree. */
const WRONG = Buffer.alloc(32, 0xff);
const first = (count: number) => leaves.slice(0, count);
/** What the product asks its tiles for, answered by the other implementation. */
const subtree = async (start: bigint, count: bigint) => treeHash(leaves.slice(Number(start), Number(start + count)));

/** The example leaves that the CT project publishes with its trees, and the roots of the first 0 to 8 of them. */
const CT_LEAVES = [
  '',
  '00',
  '10',
  '2021',
  '3031',
  '40414243',
  '5051525354555657',
  '606162636465666768696a6b6c6d6e6f',
].map((hex) => leafHash(Buffer.from(hex, 'hex')));
const CT_ROOTS = [
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
];
/** Leaf 0 of 8, and the first 6 of 8. */
const CT_PATH = [
  '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7',
  '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
  '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4',
];
const CT_CONSISTENCY = [
  '0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a',
  'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
];

interface Tree {
  readonly frontier: Buffer[];
  readonly tiles: Buffer[];
  readonly root: Buffer;
}

async function append(before: number, added: readonly Buffer[]): Promise<Tree> {
  const { rows } = await database.pool.query<Tree>(
    `select m.frontier, m.tiles, payments.merkle_root(m.frontier) as root from payments.merkle_append($1, $2, $3) m`,
    [before, frontierOf(first(before)), added],
  );
  return rows[0] as Tree;
}

describe('the tree of the seals', () => {
  it('is the one of RFC 6962: the published roots of 0 to 8 leaves', async () => {
    for (const [size, root] of CT_ROOTS.entries()) {
      expect(treeHash(CT_LEAVES.slice(0, size)).toString('hex')).toBe(root);
      expect((await append(0, CT_LEAVES.slice(0, size))).root.toString('hex')).toBe(root);
    }
  });

  it('goes on from its frontier, whatever its size and whatever is added, up to 70 leaves', async () => {
    for (let size = 0; size <= 70; size += 1) {
      for (const before of new Set([0, 1, 2, 3, 31, 32, 33, size - 1, size].filter((n) => n >= 0 && n <= size))) {
        const tree = await append(before, leaves.slice(before, size));
        expect(tree.frontier, `${before} and ${size - before} more`).toEqual(frontierOf(first(size)));
        expect(tree.root).toEqual(treeHash(first(size)));
        expect(tree.tiles).toEqual([]);
      }
    }
  });

  it('names each tile that becomes complete, and goes on at any size', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: leaves.length }),
        fc.integer({ min: 0, max: leaves.length }),
        async (a, b) => {
          const [before, size] = [Math.min(a, b), Math.max(a, b)];
          const tree = await append(before, leaves.slice(before, size));
          expect(tree.frontier).toEqual(frontierOf(first(size)));
          expect(tree.root).toEqual(treeHash(first(size)));
          const complete = Array.from({ length: Math.floor(size / TILE) }, (_, nth) =>
            treeHash(leaves.slice(nth * TILE, (nth + 1) * TILE)),
          );
          expect(tree.tiles).toEqual(complete.slice(Math.floor(before / TILE)));
        },
      ),
      {
        numRuns: 30,
        examples: [
          [TILE - 1, TILE],
          [TILE, 2 * TILE],
          [0, leaves.length],
        ],
      },
    );
  }, 120_000);
});

describe('an inclusion proof', () => {
  it('is the published one', async () => {
    const ct = async (start: bigint, count: bigint) => treeHash(CT_LEAVES.slice(Number(start), Number(start + count)));
    expect((await inclusionPath(0n, 8n, ct)).map((hash) => hash.toString('hex'))).toEqual(CT_PATH);
  });

  it('is the path of RFC 6962 and gives the root, for every leaf of every tree up to 70 leaves', async () => {
    for (let size = 1; size <= 70; size += 1) {
      const root = treeHash(first(size));
      for (let index = 0; index < size; index += 1) {
        const path = await inclusionPath(BigInt(index), BigInt(size), subtree);
        expect(path, `leaf ${index} of ${size}`).toEqual(auditPath(index, first(size)));
        expect(rootOf(index, size, path)).toEqual(root);
      }
    }
  });

  it('holds for no other leaf, place, size or path', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 300 }), fc.nat(), fc.nat(), async (size, a, b) => {
        const [index, other] = [a % size, b % 300];
        const root = treeHash(first(size));
        const path = auditPath(index, first(size));
        expect(rootOf(index, size, path)).toEqual(root);
        const at = other % Math.max(path.length, 1);
        const wrongs = [
          ...(other === index ? [] : [rootOf(other, size, path)]),
          rootOf(index, size, [...path, WRONG]),
          ...(path.length === 0 ? [] : [rootOf(index, size, path.toSpliced(at, 1))]),
          ...(path.length === 0 ? [] : [rootOf(index, size, path.with(at, WRONG))]),
          rootOf(size, size, path),
          rootOfInclusion({ leafHash: Buffer.alloc(32), leafIndex: BigInt(index), treeSize: BigInt(size), path }),
        ];
        for (const wrong of wrongs) expect(wrong?.equals(root) ?? false).toBe(false);
      }),
    );
  });

  function rootOf(index: number, size: number, path: readonly Buffer[]): Buffer | undefined {
    const leaf = leaves[index] as Buffer;
    return rootOfInclusion({ leafHash: leaf, leafIndex: BigInt(index), treeSize: BigInt(size), path });
  }
});

describe('a consistency proof', () => {
  it('is the published one', async () => {
    const ct = async (start: bigint, count: bigint) => treeHash(CT_LEAVES.slice(Number(start), Number(start + count)));
    expect((await consistencyPath(6n, 8n, ct)).map((hash) => hash.toString('hex'))).toEqual(CT_CONSISTENCY);
  });

  it('is the proof of RFC 6962 and holds, between every two trees up to 70 leaves', async () => {
    for (let size = 1; size <= 70; size += 1) {
      for (let before = 1; before <= size; before += 1) {
        const path = await consistencyPath(BigInt(before), BigInt(size), subtree);
        expect(path, `${before} of ${size}`).toEqual(consistencyProof(before, first(size)));
        expect(holds(before, size, path), `${before} of ${size}`).toBe(true);
      }
    }
  });

  it('holds between no other sizes, roots or paths', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 300 }), fc.nat(), fc.nat(), async (size, a, b) => {
        const before = 1 + (a % size);
        const path = consistencyProof(before, first(size));
        expect(holds(before, size, path)).toBe(true);
        const at = b % Math.max(path.length, 1);
        expect(holds(before, size, [...path, WRONG])).toBe(false);
        if (path.length > 0) {
          expect(holds(before, size, path.toSpliced(at, 1))).toBe(false);
          expect(holds(before, size, path.with(at, WRONG))).toBe(false);
          expect(holds(before, size, path, { firstRoot: WRONG })).toBe(false);
        }
        expect(holds(before, size, path, { secondRoot: WRONG })).toBe(false);
        expect(holds(size + 1, size, path)).toBe(false);
        expect(holds(0, size, path)).toBe(false);
        expect(holds(0, size, [])).toBe(false);
      }),
    );
  });

  function holds(before: number, size: number, path: readonly Buffer[], wrong: object = {}): boolean {
    return isConsistent({
      firstSize: BigInt(before),
      firstRoot: treeHash(first(before)),
      secondSize: BigInt(size),
      secondRoot: treeHash(first(size)),
      path,
      ...wrong,
    });
  }
});
