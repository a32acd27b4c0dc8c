import { describe, expect, it } from 'vitest';
import { checkLines } from '../../src/cli/check-lines.ts';
import { runCommand } from '../../src/cli/main.ts';
import { isColoured, paintOf } from '../../src/cli/paint.ts';

const ESCAPE = '\u001b[';

// https://no-color.org, https://force-color.org
describe('whether a stream is coloured', () => {
  it.each<[says: string, isTTY: boolean, env: Record<string, string>, coloured: boolean]>([
    ['a terminal is', true, { TERM: 'xterm-256color' }, true],
    ['a pipe is not', false, { TERM: 'xterm-256color' }, false],
    ['NO_COLOR, whatever is in it, says no', true, { NO_COLOR: '0' }, false],
    ['an empty NO_COLOR says nothing', true, { NO_COLOR: '' }, true],
    ['a dumb terminal is not', true, { TERM: 'dumb' }, false],
    ['FORCE_COLOR colours a pipe', false, { FORCE_COLOR: '1' }, true],
    ['FORCE_COLOR colours a dumb terminal', true, { FORCE_COLOR: '1', TERM: 'dumb' }, true],
    ['an empty FORCE_COLOR colours too', false, { FORCE_COLOR: '' }, true],
    ['FORCE_COLOR=0 colours nothing', true, { FORCE_COLOR: '0' }, false],
    ['NO_COLOR is asked first', true, { NO_COLOR: '1', FORCE_COLOR: '1' }, false],
  ])('%s', (_says, isTTY, env, coloured) => {
    expect(isColoured({ isTTY }, env)).toBe(coloured);
  });
});

describe('a command', () => {
  const run = async (args: string[], { out = false, err = false, env = {} }: Partial<Terminals> = {}) => {
    const written = { out: '', err: '' };
    const stream = (name: 'out' | 'err', isTTY: boolean) => ({
      isTTY,
      write: (text: string) => {
        written[name] += text;
      },
    });
    const surroundings = { env, out: stream('out', out), err: stream('err', err), stop: new AbortController().signal };
    await runCommand(args, surroundings);
    return written;
  };
  interface Terminals {
    readonly out: boolean;
    readonly err: boolean;
    readonly env: Record<string, string>;
  }

  it('colours the code of a failure where stderr is a terminal, and the same words are there without', async () => {
    const coloured = await run(['nosuch'], { err: true });
    expect(coloured.err).toContain(`liventix: ${paintOf(true).bad('USAGE')}: unknown command 'nosuch'.`);
    const plain = await run(['nosuch'], { out: true });
    expect(plain.err).toContain("liventix: USAGE: unknown command 'nosuch'.");
    expect(plain.err).not.toContain(ESCAPE);
  });

  it('judges stdout and stderr each by itself', async () => {
    expect((await run(['--help'], { out: true })).out).toContain(paintOf(true).strong('Usage:'));
    expect((await run(['--help'], { err: true })).out).not.toContain(ESCAPE);
    expect((await run(['--help'], { out: true, err: true, env: { NO_COLOR: '1' } })).out).not.toContain(ESCAPE);
  });

  it('never colours JSON', async () => {
    const forced = await run(['states', 'show', 'escrow', '--json'], { out: true, env: { FORCE_COLOR: '1' } });
    expect(forced.out).not.toContain(ESCAPE);
    expect(JSON.parse(forced.out)).toMatchObject({ name: 'escrow' });
  });
});

it('a check that fails is red, one that holds is green, and both say so in words', () => {
  const result = { check: 'it balances', examined: 12n, unit: 'entries', faults: 0n, first: [], seconds: 0.5 };
  const write = () => undefined;
  const terminal = { out: { write, isTTY: true, columns: 70 }, err: { write }, colours: { out: true, err: true } };
  const { good, bad } = paintOf(true);
  expect(checkLines({ ...result, holds: true }, terminal)).toContain(`${good('holds')}  it balances`);
  expect(checkLines({ ...result, holds: false }, terminal)).toContain(`${bad('FAILS')}  it balances`);
  const plain = checkLines({ ...result, holds: false });
  expect(plain).toMatch(/^FAILS {2}it balances {61} {13}12 entries {5}0\.5 s\n$/);
});
