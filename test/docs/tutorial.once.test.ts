import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyCheckout } from '../support/checkout.ts';
import { startLiventix } from '../support/liventix.ts';
import { readPage } from './pages.ts';
import { patternOf, runSteps, shown, stepsOf, type Told } from './shell.ts';

const steps = stepsOf(readPage('docs/tutorial.md'));

describe('the tutorial, in a new checkout', () => {
  let folder: string;
  let bin: string;
  let told: Told;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'liventix-tutorial-'));
    bin = await copyCheckout(folder);
    const path = [dirname(process.execPath), process.env['PATH']].join(delimiter);
    told = await runSteps(steps, { cwd: folder, env: { PATH: path, HOME: process.env['HOME'] ?? folder } });
  }, 180_000);
  afterAll(async () => {
    // Where it did not come to its end.
    await startLiventix(['demo', '--stop'], {}, { bin, cwd: folder }).done;
    await rm(folder, { recursive: true, force: true });
  });

  it('comes to its end', () => {
    expect(told).toMatchObject({ exitCode: 0, outputs: { length: steps.length } });
  });

  it.each(steps.flatMap(({ at, output }, index) => (output === undefined ? [] : [[at, output, index] as const])))(
    '%s prints what the page says',
    (_at, output, index) => {
      expect(shown(told.outputs[index])).toMatch(patternOf(output));
    },
  );
});

describe('an output block', () => {
  it.each<[string, string, boolean]>([
    ['id …\nsum 5', 'id 6f1c\nsum 5\n', true],
    ['id …\nsum 5', 'id 6f1c\nsum 6\n', false],
    ['id …', 'id 6f1c\nand more\n', false],
    ['a.b (c)', 'axb (c)\n', false],
    ['one', 'one  \n', true],
  ])('%j, of what was printed %j: %s', (said, printed, matches) => {
    expect(patternOf(said).test(shown(printed))).toBe(matches);
  });
});
