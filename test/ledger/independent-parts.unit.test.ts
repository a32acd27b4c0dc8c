import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { elementsOf, membersOf, textOf } from '../../src/ledger/independent/json-text.ts';
import { MerkleTree, rootOfFrontier } from '../../src/ledger/independent/merkle-tree.ts';
import { isoOf, microsecondsOf } from '../../src/ledger/independent/microseconds.ts';
import {
  countOf,
  includes,
  type Multirange,
  multirangeOf,
  openFrom,
  textOfMultirange,
  without,
} from '../../src/ledger/independent/multirange.ts';
import { centsOf, uuidOf } from '../../src/ledger/independent/values.ts';
import { frontierOf, leafHash, treeHash } from '../support/merkle.ts';

/** As PostgreSQL prints jsonb: one space after each comma and colon. */
function printed(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(printed).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([key, inner]) => `${JSON.stringify(key)}: ${printed(inner)}`)
    .join(', ')}}`;
}

describe('the text of a jsonb value', () => {
  it('is taken apart into the texts of its values, whatever they are', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ noUnicodeString: false })), (object) => {
        expect(new Map(membersOf(printed(object)))).toEqual(
          new Map(Object.entries(object).map(([key, value]) => [key, printed(value)])),
        );
      }),
    );
    fc.assert(
      fc.property(fc.array(fc.jsonValue()), (list) => {
        expect(elementsOf(printed(list))).toEqual(list.map(printed));
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(textOf(JSON.stringify(text))).toBe(text);
      }),
    );
  });

  it('keeps every digit, and every key, whatever it is called', () => {
    const text = '{"__proto__": 9223372036854775807, "constructor": 1.00, "a\\"}": "\\\\", "n": null}';
    const members = membersOf(text);
    expect(textOf(members.get('__proto__'))).toBe('9223372036854775807');
    expect(textOf(members.get('constructor'))).toBe('1.00');
    expect(textOf(members.get('a"}'))).toBe('\\');
    expect(textOf(members.get('n'))).toBeNull();
    expect(textOf(members.get('missing'))).toBeNull();
  });

  it('is read however deep it is nested', () => {
    const deep = `${'['.repeat(500_000)}${']'.repeat(500_000)}`;
    expect(membersOf(`{"a": ${deep}, "b": 1}`).get('b')).toBe('1');
  });

  it.each(['5', '"{}"', 'null', '[]', '{}', 'true'])(
    'has no members where it is no object, or an empty one: %s',
    (text) => expect(membersOf(text).size).toBe(0),
  );
  it.each(['5', '"[]"', 'null', '{}'])('has no elements where it is no list: %s', (text) =>
    expect(elementsOf(text)).toBeUndefined(),
  );
});

describe('an amount', () => {
  it.each([
    ['9223372036854775807', 9_223_372_036_854_775_807n],
    ['-9223372036854775807', -9_223_372_036_854_775_807n],
    ['007', 7n],
  ])('is %s', (text, cents) => expect(centsOf(text)).toBe(cents));
  it.each([
    '9223372036854775808',
    '-9223372036854775808',
    '1.0',
    '1e3',
    '',
    '-',
    '--1',
    ' 1',
    '0x1',
    '1'.repeat(30),
    null,
  ])('is not %s', (text) => expect(centsOf(text)).toBeNull());
});

describe('a UUID', () => {
  it('is read in either case, and nothing else is', () => {
    expect(uuidOf('41719BCD-494e-8561-9432-13c469e2e9f0')).toBe('41719bcd-494e-8561-9432-13c469e2e9f0');
    for (const text of ['', 'x', '41719bcd494e8561943213c469e2e9f0', '41719bcd-494e-8561-9432-13c469e2e9fg', null]) {
      expect(uuidOf(text)).toBeNull();
    }
  });
});

describe('an instant', () => {
  const EPOCH_MS = 946_684_800_000;
  it('is what JavaScript takes it for, in every year that both know', () => {
    const date = fc.date({
      min: new Date('0001-01-01T00:00:00Z'),
      max: new Date('9999-12-31T23:59:59.999Z'),
      noInvalidDate: true,
    });
    fc.assert(
      fc.property(date, fc.nat({ max: 999 }), (at, micros) => {
        const expected = BigInt(at.getTime() - EPOCH_MS) * 1_000n + BigInt(micros);
        const iso = at.toISOString().replace('Z', `${String(micros).padStart(3, '0')}Z`);
        expect(microsecondsOf(iso)).toBe(expected);
        expect(microsecondsOf(iso.replace('T', ' ').replace(/\.?0*Z$/, '+00'))).toBe(expected);
        expect(isoOf(expected)).toBe(iso);
      }),
    );
  });
  it.each([
    ['2026-03-01T02:00:00+02:00', '2026-03-01T00:00:00.000000Z'],
    ['2026-03-01 00:00-0530', '2026-03-01T05:30:00.000000Z'],
    ['2026-02-28T24:00:00Z', '2026-03-01T00:00:00.000000Z'],
    ['infinity', 'infinity'],
    ['-infinity', '-infinity'],
    ['4713-01-01 00:00:00+00 BC', '-004712-01-01T00:00:00.000000Z'],
  ])('may be written as %s', (text, iso) => expect(isoOf(microsecondsOf(text) ?? 1n)).toBe(iso));
  it.each([
    '',
    'soon',
    '2026-02-30T00:00Z',
    '2026-13-01T00:00Z',
    '2026-01-01T25:00Z',
    '2026-01-01',
    '2026-01-01T00:00',
  ])('is not %s', (text) => expect(microsecondsOf(text)).toBeUndefined());
});

describe('a multirange', () => {
  const set = fc.uniqueArray(fc.integer({ min: -8, max: 12 })).map((numbers) => new Set(numbers));
  const rangesOf = (numbers: ReadonlySet<number>): Multirange => {
    const ranges: { from: bigint; to: bigint }[] = [];
    for (const number of [...numbers].toSorted((a, b) => a - b).map(BigInt)) {
      const last = ranges.at(-1);
      if (last?.to === number) last.to += 1n;
      else ranges.push({ from: number, to: number + 1n });
    }
    return ranges;
  };
  it('is a set of numbers', () => {
    fc.assert(
      fc.property(set, set, (one, other) => {
        const ranges = rangesOf(one);
        expect(multirangeOf(textOfMultirange(ranges))).toEqual(ranges);
        expect(countOf(ranges)).toBe(BigInt(one.size));
        for (let number = -10; number < 15; number += 1) {
          expect(includes(ranges, BigInt(number))).toBe(one.has(number));
        }
        expect(without(ranges, rangesOf(other))).toEqual(
          rangesOf(new Set([...one].filter((number) => !other.has(number)))),
        );
      }),
    );
  });
  it('may have no end, and no beginning', () => {
    const open = multirangeOf('{[1,3),[5,)}');
    expect(countOf(open)).toBeUndefined();
    expect(openFrom(open)).toBe(5n);
    expect(includes(open, 2n ** 63n - 1n)).toBe(true);
    expect(includes(open, 3n)).toBe(false);
    expect(textOfMultirange(without(multirangeOf('{(,)}'), open))).toBe('{(,1),[3,5)}');
    expect(textOfMultirange(multirangeOf('{}'))).toBe('{}');
  });
});

describe('a tree that grows leaf by leaf', () => {
  it('has the root, the frontier and the tiles of RFC 6962 at every size', () => {
    const leaves = Array.from({ length: 2_100 }, (_, nth) => leafHash(Buffer.from(`leaf ${nth}`)));
    const tree = new MerkleTree();
    const tiles: string[] = [];
    expect(tree.root()).toBe(treeHash([]).toString('hex'));
    leaves.forEach((leaf, nth) => {
      tree.append(leaf.toString('hex'), BigInt(nth));
      tiles.push(...tree.takeTiles().map(({ hash, first, last }) => `${hash} ${first} ${last}`));
      if (nth > 40 && nth % 397 !== 0 && nth !== 1_023 && nth !== 2_047) return;
      const upTo = leaves.slice(0, nth + 1);
      const frontier = frontierOf(upTo).map((each) => each.toString('hex'));
      expect(tree.root()).toBe(treeHash(upTo).toString('hex'));
      expect(tree.frontier.map(({ hash }) => hash)).toEqual(frontier);
      expect(rootOfFrontier(frontier)).toBe(tree.root());
    });
    expect(tiles).toEqual(
      [0, 1].map((tile) => {
        const from = tile * 1_024;
        return `${treeHash(leaves.slice(from, from + 1_024)).toString('hex')} ${from} ${from + 1_023}`;
      }),
    );
  });

  it('goes on from a frontier as if it had grown', () => {
    const leaves = Array.from({ length: 30 }, (_, nth) => leafHash(Buffer.from(`${nth}`)));
    for (let size = 0; size <= 20; size += 1) {
      const tree = new MerkleTree();
      tree.continueFrom(
        size,
        frontierOf(leaves.slice(0, size)).map((each) => each.toString('hex')),
      );
      for (const leaf of leaves.slice(size)) tree.append(leaf.toString('hex'), 0n);
      expect(tree.root()).toBe(treeHash(leaves).toString('hex'));
    }
  });
});
