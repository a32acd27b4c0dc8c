import type { Random } from '../../economy/random.ts';

/**
 * Things in order of how much happens to them: the r-th gets a part that goes by 1/r, so that a few have most and most
 * have little. Sums and divisions only: the same numbers on every machine.
 */
export class Ranks {
  /** Up to which sum of parts each rank reaches. */
  readonly #reached: Float64Array;
  readonly #total: number;

  constructor(count: number) {
    this.#reached = new Float64Array(count);
    let sum = 0;
    for (let rank = 0; rank < count; rank += 1) {
      sum += 1 / (rank + 1);
      this.#reached[rank] = sum;
    }
    this.#total = sum;
  }

  draw(random: Random): number {
    const sought = random.fraction() * this.#total;
    let [low, high] = [0, this.#reached.length - 1];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#reached[middle] ?? 0) > sought) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** How many of the rows each rank gets, none more than `most`; what that leaves over goes to the ranks that follow. */
  deal({ rows, most }: { rows: number; most: number }): Int32Array {
    const dealt = new Int32Array(this.#reached.length);
    let left = rows;
    for (let rank = 0; rank < dealt.length; rank += 1) {
      const before = rank === 0 ? 0 : (this.#reached[rank - 1] ?? 0);
      const fair = Math.round(left / (rank + 1) / (this.#total - before));
      const given = Math.min(fair, most, left);
      dealt[rank] = given;
      left -= given;
    }
    return dealt;
  }
}
