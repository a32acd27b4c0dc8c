import { describe, expect, it } from 'vitest';
import { shortened, tableLines, tableText, widthOf } from '../../src/cli/table.ts';

const id = '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4';
const rows = [
  ['id', 'url', 'dead'],
  [id, 'https://example.com/a/rather/long/path', '12'],
];
const columns = [{}, { shortens: 12 }, { align: 'right' }] as const;

describe('a table', () => {
  it('is as wide as it must be, with numbers at the right', () => {
    expect(tableLines(rows, columns)).toEqual([
      `id${' '.repeat(36)}url${' '.repeat(37)}dead`,
      `${id}  https://example.com/a/rather/long/path    12`,
    ]);
  });

  it('fits a terminal by shortening what may be, and never an id', () => {
    const [, line] = tableLines(rows, columns, { width: 70 });
    expect(line).toBe(`${id}  https://example.com/a/rat…    12`);
    expect(line).toHaveLength(70);
  });

  it('shortens the widest first, and no column beyond its least', () => {
    const wide = [['a'.repeat(30), 'b'.repeat(20), 'c'.repeat(10)]];
    const all = [{ shortens: 8 }, { shortens: 8 }, {}];
    expect(tableLines(wide, all, { width: 44 })).toEqual([`${'a'.repeat(14)}…  ${'b'.repeat(14)}…  ${'c'.repeat(10)}`]);
    expect(tableLines(wide, all, { width: 5 })).toEqual([`aaaaaaa…  bbbbbbb…  ${'c'.repeat(10)}`]);
  });

  it('counts a wide character as two columns, a combined one as one, and cuts neither in half', () => {
    expect(
      tableLines(
        [
          ['東京', 'x'],
          ['e\u0301te', 'x'],
          ['👩‍👩‍👧', 'x'],
        ],
        [{}, {}],
      ),
    ).toEqual(['東京  x', 'e\u0301te   x', '👩‍👩‍👧    x']);
    expect(shortened('東京都', 4)).toBe('東…');
    expect(shortened('東京都', 5)).toBe('東京…');
    expect(shortened('👩‍👩‍👧👩‍👩‍👧', 3)).toBe('👩‍👩‍👧…');
    expect(shortened('as it is', 8)).toBe('as it is');
  });

  it('gives a colour no room, and paints what is left of a cell that was shortened', () => {
    const red = { text: 'dead letters', paint: (text: string) => `<${text}>` };
    expect(tableLines([[red, 'x']], [{ min: 14 }, {}])).toEqual(['<dead letters>    x']);
    expect(tableLines([[red, 'x']], [{ shortens: 4 }, {}], { width: 8 })).toEqual(['<dead…>  x']);
  });

  it('is never cut in a pipe, nor on a terminal that does not say how wide it is', () => {
    const write = () => undefined;
    const streams = (out: object) => ({ out: { write, ...out }, err: { write } });
    expect(widthOf(streams({ columns: 10 }))).toBeUndefined();
    expect(widthOf(streams({ isTTY: true, columns: 0 }))).toBeUndefined();
    expect(tableText(streams({ columns: 10 }), rows, columns)).toContain('a/rather/long/path');
    expect(tableText(streams({ isTTY: true, columns: 60 }), rows, columns)).not.toContain('a/rather/long/path');
  });
});
