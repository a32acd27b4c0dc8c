import { createHash } from 'node:crypto';

/** Reads the tree hash (RFC 6962, 2.1) of leaves `first` to `first + count - 1`. */
export type ReadSubtree = (first: bigint, count: bigint) => Promise<Buffer>;

export const hashChildren = (left: Uint8Array, right: Uint8Array): Buffer =>
  createHash('sha256').update(Buffer.of(1)).update(left).update(right).digest();

/** The largest power of two below `size`, which is 2 or more: where RFC 6962 splits a tree. */
export function splitOf(size: bigint): bigint {
  return 1n << BigInt((size - 1n).toString(2).length - 1);
}

/** The audit path of a leaf (RFC 6962, 2.1.1), from the leaf upwards. */
export async function inclusionPath(leafIndex: bigint, treeSize: bigint, read: ReadSubtree): Promise<Buffer[]> {
  const path: Buffer[] = [];
  let [first, size] = [0n, treeSize];
  while (size > 1n) {
    const split = splitOf(size);
    if (leafIndex < first + split) {
      path.push(await read(first + split, size - split));
      size = split;
    } else {
      path.push(await read(first, split));
      [first, size] = [first + split, size - split];
    }
  }
  return path.reverse();
}

/** The nodes that show that a tree begins with a smaller one of a leaf or more (RFC 6962, 2.1.2), from below upwards. */
export async function consistencyPath(firstSize: bigint, secondSize: bigint, read: ReadSubtree): Promise<Buffer[]> {
  const path: Buffer[] = [];
  let [first, size, isWhole] = [0n, secondSize, true];
  while (first + size > firstSize) {
    const split = splitOf(size);
    if (firstSize <= first + split) {
      path.push(await read(first + split, size - split));
      size = split;
    } else {
      path.push(await read(first, split));
      [first, size, isWhole] = [first + split, size - split, false];
    }
  }
  // The smaller tree's own root is known to whoever checks.
  if (!isWhole) path.push(await read(first, size));
  return path.reverse();
}

/**
 * The root that a leaf and its audit path give (RFC 9162, 2.1.3.2); undefined where the path has not as many nodes as
 * the place of the leaf wants.
 */
export function rootOfInclusion(input: {
  leafHash: Uint8Array;
  leafIndex: bigint;
  treeSize: bigint;
  path: readonly Uint8Array[];
}): Buffer | undefined {
  if (input.leafIndex < 0n || input.leafIndex >= input.treeSize) return undefined;
  let [index, last] = [input.leafIndex, input.treeSize - 1n];
  let hash: Buffer = Buffer.from(input.leafHash);
  for (const node of input.path) {
    if (last === 0n) return undefined;
    if (index % 2n === 1n || index === last) {
      hash = hashChildren(node, hash);
      while (index % 2n === 0n && index > 0n) [index, last] = [index / 2n, last / 2n];
    } else {
      hash = hashChildren(hash, node);
    }
    [index, last] = [index / 2n, last / 2n];
  }
  return last === 0n ? hash : undefined;
}

/** Whether the second tree begins with the leaves of the first, in their order (RFC 9162, 2.1.4.2). */
export function isConsistent(input: {
  firstSize: bigint;
  firstRoot: Uint8Array;
  secondSize: bigint;
  secondRoot: Uint8Array;
  path: readonly Uint8Array[];
}): boolean {
  const { firstSize, secondSize } = input;
  if (firstSize < 1n || firstSize > secondSize) return false;
  if (firstSize === secondSize) return input.path.length === 0 && Buffer.from(input.firstRoot).equals(input.secondRoot);
  // A first tree of a power of two leaves is a node of the second one.
  const isNode = (firstSize & (firstSize - 1n)) === 0n;
  const [start, ...nodes] = isNode ? [input.firstRoot, ...input.path] : input.path;
  if (start === undefined) return false;
  let [index, last] = [firstSize - 1n, secondSize - 1n];
  while (index % 2n === 1n) [index, last] = [index / 2n, last / 2n];
  let [first, second]: [Buffer, Buffer] = [Buffer.from(start), Buffer.from(start)];
  for (const node of nodes) {
    if (last === 0n) return false;
    if (index % 2n === 1n || index === last) {
      [first, second] = [hashChildren(node, first), hashChildren(node, second)];
      while (index % 2n === 0n && index > 0n) [index, last] = [index / 2n, last / 2n];
    } else {
      second = hashChildren(second, node);
    }
    [index, last] = [index / 2n, last / 2n];
  }
  return last === 0n && first.equals(input.firstRoot) && second.equals(input.secondRoot);
}
