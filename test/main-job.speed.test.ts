import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { startLiventix } from './support/liventix.ts';

const MINUTE_MS = 60_000;
const root = fileURLToPath(new URL('..', import.meta.url));

// Speed is only told by a machine that does nothing else: these run by themselves, after all other drills.
describe('on 2 cores', () => {
  it(
    'the backfill of 100,000 rows has 0.6 of the speed of the bare INSERT … SELECT, or more',
    async () => {
      const bench = promisify(execFile)(
        process.execPath,
        ['bench/main.ts', 'backfill', '--rows', '100000', '--rounds', '5', '--seconds', '0'],
        { cwd: root },
      );
      await expect(bench).resolves.toMatchObject({ stdout: expect.stringMatching(/target 0\.6/) });
    },
    10 * MINUTE_MS,
  );

  it(
    'the demo at its default size ends within a minute once everything is installed',
    async () => {
      const startedAt = performance.now();
      const run = await startLiventix(['demo', '--json']).done;
      expect(run.exitCode).toBe(0);
      expect(JSON.parse(run.stdout)).toMatchObject({ legacyTransactions: 100_000 });
      expect(performance.now() - startedAt).toBeLessThan(MINUTE_MS);
    },
    3 * MINUTE_MS,
  );
});
