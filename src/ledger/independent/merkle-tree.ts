import { hash } from 'node:crypto';

/** A complete subtree: its hash, where its leaves begin in the tree, and what the first and the last of them stand for. */
export interface Subtree {
  readonly hash: string;
  readonly firstLeaf: number;
  readonly leaves: number;
  /** Unknown where the hash was taken over from a seal. */
  readonly first: bigint | undefined;
  readonly last: bigint | undefined;
}

/** The leaves of a tile: a node of height 10. */
export const TILE_LEAVES = 1_024;

const scratch = Buffer.alloc(65, 1);

function hashOfChildren(left: string, right: string): string {
  scratch.write(left, 1, 'hex');
  scratch.write(right, 33, 'hex');
  return hash('sha256', scratch, 'hex');
}

/** An RFC 6962 tree that grows leaf by leaf: of all that is in it, the complete subtrees are kept, one per bit of its size. */
export class MerkleTree {
  private subtrees: Subtree[] = [];
  private completed: Subtree[] = [];
  size = 0;

  append(leafHash: string, position: bigint): void {
    let grown: Subtree = { hash: leafHash, firstLeaf: this.size, leaves: 1, first: position, last: position };
    for (let left = this.subtrees.at(-1); left?.leaves === grown.leaves; left = this.subtrees.at(-1)) {
      this.subtrees.pop();
      grown = {
        hash: hashOfChildren(left.hash, grown.hash),
        firstLeaf: left.firstLeaf,
        leaves: left.leaves * 2,
        first: left.first,
        last: position,
      };
      if (grown.leaves === TILE_LEAVES) this.completed.push(grown);
    }
    this.subtrees.push(grown);
    this.size += 1;
  }

  root(): string {
    const [last, ...others] = this.subtrees.toReversed();
    if (last === undefined) return hash('sha256', '', 'hex');
    return others.reduce((right, left) => hashOfChildren(left.hash, right), last.hash);
  }

  /** The complete subtrees, the largest first. */
  get frontier(): readonly Subtree[] {
    return this.subtrees;
  }

  /** The tiles that became complete since this was asked last. */
  takeTiles(): Subtree[] {
    const tiles = this.completed;
    this.completed = [];
    return tiles;
  }

  /** Goes on from a tree of which only size and frontier are known. */
  continueFrom(size: number, frontier: readonly string[]): void {
    this.size = Math.max(size, 0);
    this.subtrees = [];
    let firstLeaf = 0;
    for (let leaves = 2 ** 52; leaves >= 1; leaves /= 2) {
      if (Math.floor(this.size / leaves) % 2 === 0) continue;
      this.subtrees.push({
        hash: frontier[this.subtrees.length] ?? '',
        firstLeaf,
        leaves,
        first: undefined,
        last: undefined,
      });
      firstLeaf += leaves;
    }
  }
}

/** The root that a frontier stands for, the largest subtree first. */
export function rootOfFrontier(frontier: readonly string[]): string {
  const [last, ...others] = frontier.toReversed();
  return last === undefined
    ? hash('sha256', '', 'hex')
    : others.reduce((right, left) => hashOfChildren(left, right), last);
}
