/** A set of whole numbers, as a multirange of PostgreSQL: ranges in ascending order that do not touch. */
export type Multirange = readonly Range[];

interface Range {
  readonly from: bigint;
  /** Not included. */
  readonly to: bigint;
}

/** Beyond every 64-bit number: where a range has no end. */
const INFINITE = 2n ** 64n;

export const FROM_ONE: Multirange = [{ from: 1n, to: INFINITE }];

/** Of the text that PostgreSQL prints of an int8multirange. */
export function multirangeOf(text: string): Multirange {
  return [...text.matchAll(/[[(](-?\d*),(-?\d*)\)/g)].map(([, from = '', to = '']) => ({
    from: from === '' ? -INFINITE : BigInt(from),
    to: to === '' ? INFINITE : BigInt(to),
  }));
}

export function textOfMultirange(ranges: Multirange): string {
  const bound = (number: bigint) => (number === INFINITE || number === -INFINITE ? '' : number);
  return `{${ranges.map(({ from, to }) => `${from === -INFINITE ? '(' : '['}${bound(from)},${bound(to)})`).join(',')}}`;
}

/** How many numbers there are; undefined where there is no end of them. */
export function countOf(ranges: Multirange): bigint | undefined {
  let count = 0n;
  for (const { from, to } of ranges) {
    if (from === -INFINITE || to === INFINITE) return undefined;
    count += to - from;
  }
  return count;
}

/** What is in the first and not in the second. */
export function without(ranges: Multirange, taken: Multirange): Multirange {
  const left: Range[] = [];
  let next = 0;
  for (const range of ranges) {
    let { from } = range;
    while ((taken[next]?.to ?? INFINITE + 1n) <= from) next += 1;
    // A taken range may reach into the next one too.
    for (let nth = next; from < range.to; nth += 1) {
      const hole = taken[nth];
      if (hole === undefined || hole.from >= range.to) {
        left.push({ from, to: range.to });
        break;
      }
      if (hole.from > from) left.push({ from, to: hole.from });
      from = hole.to;
    }
  }
  return left;
}

export function includes(ranges: Multirange, number: bigint): boolean {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ranges[middle] as Range).to <= number) low = middle + 1;
    else high = middle;
  }
  const range = ranges[low];
  return range !== undefined && range.from <= number;
}

/** From where on all numbers are in it; undefined where it ends. */
export function openFrom(ranges: Multirange): bigint | undefined {
  const last = ranges.at(-1);
  return last?.to === INFINITE ? last.from : undefined;
}
