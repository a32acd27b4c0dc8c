import { xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { JumpableRandomGenerator } from 'pure-rand/types/JumpableRandomGenerator';

const TWO_TO_32 = 0x1_0000_0000;
const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/**
 * A stream of its own for each (seed, purpose, index), so that one wallet's life can be lived again without the others.
 * Integer arithmetic and IEEE division only: the same numbers on every machine.
 */
export class Random {
  readonly #generator: JumpableRandomGenerator;

  constructor(origin: { seed: number; purpose: number; index: number }) {
    this.#generator = xoroshiro128plusFromState(stateOf(origin));
  }

  /** A whole number from 0 up to, and without, `bound`. */
  below(bound: number): number {
    return Math.floor(this.fraction() * bound);
  }

  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  oneIn(rate: number): boolean {
    return this.below(rate) === 0;
  }

  pick<T>(choices: readonly [T, ...T[]]): T {
    return choices[this.below(choices.length)] ?? choices[0];
  }

  /** At least 0, below 1. */
  fraction(): number {
    return this.#word() / TWO_TO_32;
  }

  /** 24 characters, 96 bits: never twice in practice. */
  token(): string {
    return hexOf(this.#word()) + hexOf(this.#word()) + hexOf(this.#word());
  }

  /** A version 4 UUID, as gen_random_uuid() makes them. */
  uuid(): string {
    const [a, b, c, d] = [this.#word(), this.#word(), this.#word(), this.#word()];
    const middle = hexOf((b & 0xffff_0fff) | 0x4000);
    const variant = hexOf((c & 0x3fff_ffff) | 0x8000_0000);
    return `${hexOf(a)}-${middle.slice(0, 4)}-${middle.slice(4)}-${variant.slice(0, 4)}-${variant.slice(4)}${hexOf(d)}`;
  }

  #word(): number {
    return this.#generator.next() >>> 0;
  }
}

// Four well-mixed words: seeding by a single one would let two of a million wallets share a stream, and so their ids.
function stateOf({ seed, purpose, index }: { seed: number; purpose: number; index: number }): number[] {
  let mixed = 0x9e37_79b9;
  for (const part of [seed | 0, Math.floor(seed / TWO_TO_32) | 0, purpose, index])
    mixed = mix(Math.imul(mixed, 31) ^ part);
  const words = [
    mixed,
    mix(index ^ 0x85eb_ca6b),
    mix(mixed ^ 0xc2b2_ae35),
    mix(seed ^ Math.imul(purpose + 1, 0x27d4_eb2f)),
  ];
  return words.every((word) => word === 0) ? [1, 2, 3, 4] : words;
}

// The finalizer of MurmurHash3: every bit of the input moves about half of the output's.
function mix(value: number): number {
  let word = value ^ (value >>> 16);
  word = Math.imul(word, 0x85eb_ca6b);
  word ^= word >>> 13;
  word = Math.imul(word, 0xc2b2_ae35);
  return word ^ (word >>> 16);
}

function hexOf(word: number): string {
  return (
    (HEX[word >>> 24] ?? '') +
    (HEX[(word >>> 16) & 0xff] ?? '') +
    (HEX[(word >>> 8) & 0xff] ?? '') +
    (HEX[word & 0xff] ?? '')
  );
}
