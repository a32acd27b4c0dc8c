import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Line, readLines } from '../../src/ledger/lines.ts';
import { eventually } from '../support/eventually.ts';

/** The bytes, cut into pieces of these sizes in turn. */
async function* pieces(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let at = 0;
  for (let turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

async function linesOf(bytes: Uint8Array, sizes: readonly number[] = [7], maxBytes = 1_000): Promise<Line[]> {
  const lines: Line[] = [];
  for await (const line of readLines(pieces(bytes, sizes), { maxBytes })) lines.push(line);
  return lines;
}

const utf8 = (text: string) => new TextEncoder().encode(text);

describe('the lines of a file', () => {
  it('are numbered as an editor does, blank ones not given', async () => {
    expect(await linesOf(utf8('one\n\n  \r\nfour\r\nfive'))).toEqual([
      { number: 1, text: 'one' },
      { number: 4, text: 'four\r' },
      { number: 5, text: 'five' },
    ]);
    expect(await linesOf(utf8(''))).toEqual([]);
  });

  it('are the same however the file arrives', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: 'binary', maxLength: 20 }).map((text) => text.replace(/\n|^\uFEFF/g, '.'))),
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }),
        async (texts, sizes) => {
          const expected = texts
            .map((text, index) => ({ number: index + 1, text }))
            .filter(({ text }) => text.trim() !== '');
          expect(await linesOf(utf8(texts.join('\n')), sizes)).toEqual(expected);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('that are too long, or not UTF-8, are told by number, and the others are there', async () => {
    const bytes = Buffer.concat([
      utf8(`a\n${'x'.repeat(1_000)}\n${'x'.repeat(1_001)}\nb\n`),
      Buffer.from([0xff]),
      utf8('\nc'),
    ]);
    expect(await linesOf(bytes)).toEqual([
      { number: 1, text: 'a' },
      { number: 2, text: 'x'.repeat(1_000) },
      { number: 3, fault: 'It has more than 1000 bytes.' },
      { number: 4, text: 'b' },
      { number: 5, fault: 'It is not UTF-8.' },
      { number: 6, text: 'c' },
    ]);
  });

  it('that are too long take no memory', async () => {
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void;
    const heldBytes = () => {
      collectGarbage();
      return process.memoryUsage().arrayBuffers;
    };
    const before = heldBytes();
    async function* endless() {
      for (let n = 0; n < 500; n += 1) yield Buffer.alloc(1_000_000, 'x');
      // The engine gives back what was collected beside the program, so it is told a moment after.
      await eventually('the pieces are let go', () => heldBytes() - before < 50_000_000);
      yield utf8('\nlast');
    }
    const lines: Line[] = [];
    for await (const line of readLines(endless(), { maxBytes: 10_000_000 })) lines.push(line);
    expect(lines.map(({ number }) => number)).toEqual([1, 2]);
  });
});
