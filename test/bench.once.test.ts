import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const MINUTE_MS = 60_000;
const root = fileURLToPath(new URL('..', import.meta.url));

/** Prints what it measured also where a target was missed, which is for the speed drills to judge. */
const bench = (...args: string[]) =>
  promisify(execFile)(process.execPath, ['bench/main.ts', 'backfill', ...args], { cwd: root }).catch(
    (missed: { stdout: string }) => missed,
  );

describe('npm run bench -- backfill', () => {
  it(
    'prints both speeds and their ratio, and stays below 200 MB',
    async () => {
      const { stdout } = await bench('--rows', FULL ? '1000000' : '20000', '--rounds', '1');
      expect(stdout).toMatch(/^round 1: backfill \d+ rows\/s, bare \d+ rows\/s, ratio \d\.\d\d, node peak \d+ MB$/m);
      const peakMb = Number(/; (\d+) MB, target 200$/m.exec(stdout)?.[1]);
      expect(peakMb).toBeGreaterThan(20);
      expect(peakMb).toBeLessThan(200);
    },
    (FULL ? 20 : 2) * MINUTE_MS,
  );
});
