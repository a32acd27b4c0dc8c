import { describe, expect, it } from 'vitest';
import { chainsOf, type PostingLine } from '../../src/ledger/line-chains.ts';

async function chainsOfTexts(texts: Iterable<string>): Promise<(readonly PostingLine[])[]> {
  async function* lines() {
    let number = 0;
    for (const text of texts) {
      number += 1;
      yield { number, text };
    }
  }
  const chains: (readonly PostingLine[])[] = [];
  for await (const chain of chainsOf(lines())) chains.push(chain);
  return chains;
}

const LINKED = '{"linked": true}';
const ALONE = '{}';
/** Each chain as the numbers of its lines, with the codes of those that are refused. */
const told = (chains: readonly (readonly PostingLine[])[]) =>
  chains.map((chain) =>
    chain.map(({ number, refused }) => (refused === undefined ? number : `${number} ${refused.code}`)),
  );

describe('lines that are linked', () => {
  it('come together, and the others one by one', async () => {
    const texts = [ALONE, LINKED, LINKED, ALONE, '{"linked": false}', '{"linked": "true"}', 'null', '5', LINKED];
    expect(told(await chainsOfTexts(texts))).toEqual([[1], [2, 3, 4], [5], [6], [7], [8], [9]]);
  });

  it('are refused together where one cannot be read, up to the next that is not linked, and no further', async () => {
    const [first, ...rest] = await chainsOfTexts([LINKED, 'no JSON', LINKED, ALONE, 'no JSON', ALONE]);
    const failed = 'LEDGER_LINK_FAILED';
    expect(told([first ?? []])).toEqual([[`1 ${failed}`, '2 LEDGER_LINE_INVALID', `3 ${failed}`, `4 ${failed}`]]);
    expect(first?.[3]?.refused?.message).toBe(
      'It is linked to line 2, which cannot be read: none of the chain was posted.',
    );
    expect(told(rest)).toEqual([['5 LEDGER_LINE_INVALID'], [6]]);
  });

  it('are refused to the last one, and none is kept, where they are more than one call takes', async () => {
    const many = 25_000;
    const chains = await chainsOfTexts([...Array.from({ length: many }, () => LINKED), ALONE, ALONE]);
    const lines = chains.flat();
    expect(lines.filter(({ refused }) => refused?.code === 'LEDGER_LINK_FAILED').map(({ number }) => number)).toEqual(
      Array.from({ length: many + 1 }, (_, index) => index + 1),
    );
    expect(Math.max(...chains.map(({ length }) => length))).toBe(10_000);
    expect(told(chains.slice(-1))).toEqual([[many + 2]]);
    const wide = `{"linked": true, "x": "${'x'.repeat(9_000_000)}"}`;
    expect(told(await chainsOfTexts([wide, wide, wide, wide, wide, wide, ALONE, ALONE])).flat()).toEqual([
      ...[1, 2, 3, 4, 5, 6, 7].map((number) => `${number} LEDGER_LINK_FAILED`),
      8,
    ]);
  });
});
