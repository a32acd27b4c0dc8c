import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const MINUTE_MS = 60_000;
const root = fileURLToPath(new URL('..', import.meta.url));

/** Prints what it measured also where a target was missed, which is for the speed drills to judge. */
const bench = (...args: string[]) =>
  promisify(execFile)(process.execPath, ['bench/main.ts', ...args], { cwd: root }).catch(
    (missed: { stdout: string; stderr: string; code: number }) => missed,
  );

describe('npm run bench', () => {
  it.each([
    [['outbx'], 'npm run bench -- analytics|backfill|capture|'],
    [['outbox', '--prt', 'drain'], "Unknown option '--prt'"],
    [
      ['outbox', '--part', 'drian'],
      'drian is none of saturation, latency, commits, drain, hanging; docs/benchmarks.md has the commands',
    ],
  ])('says of %s in one line what there is', async (args, expected) => {
    const refused = await bench(...args);
    expect(refused).toMatchObject({ code: 2, stdout: '', stderr: expect.stringMatching(/^usage: [^\n]+\n$/) });
    expect(refused.stderr).toContain(expected);
  });
});

describe('npm run bench -- backfill', () => {
  it(
    'prints both speeds and their ratio, what old code noticed of it, and stays below 200 MB',
    async () => {
      const size = FULL ? ['--rows', '1000000', '--seconds', '30'] : ['--rows', '10000', '--seconds', '1'];
      const { stdout } = await bench('backfill', ...size, '--rounds', '1');
      expect(stdout).toMatch(
        /^round 1: backfill \d+ rows\/s, WAL \d+ bytes a row, node peak \d+ MB, again [\d.]+ times faster\n {2}the bare INSERT … SELECT \d+ rows\/s, ratio \d\.\d\d, WAL \d+ bytes a row$/m,
      );
      expect(stdout).toMatch(
        /^ {2}beside the backfill of rows: p50 [\d.]+ ms, p99 [\d.]+, max \d+; p99 of a turn [\d.]+ .*; 0 errors\n[\s\S]*^old code beside it: p99 at [\d.]+ .*, target 1\.5; 0 errors$/m,
      );
      const peakMb = Number(/; (\d+) MB, target 200$/m.exec(stdout)?.[1]);
      expect(peakMb).toBeGreaterThan(20);
      expect(peakMb).toBeLessThan(200);
    },
    (FULL ? 20 : 2) * MINUTE_MS,
  );
});

/** What each part of it prints; `drain` alone where there is little time. */
const OF_PARTS = {
  saturation: [
    /^ours-redis +\d+ \(.*\) \/s; CPU s per 1,000: worker [\d.]+, postgres [\d.]+, redis [\d.]+, receiver [\d.]+$/m,
    /^ours-redis to graphile-worker: \d\.\d\d \(.*\), target 1( MISSED)?$/m,
  ],
  latency: [/^latency at 50 %: .*\nours-redis +\d+\/s: p50 [\d.]+ \(.*\), p99 [\d.]+ /m],
  commits: [/^ours, awake +\d+ \(.*\) \/s, ratio \d\.\d\d /m],
  drain: [
    /^drain, ours-redis: 200 messages, fan-out 5: [\d.]+ s, \d+ deliveries\/s, 0 twice;.*\n {2}Redis [\d.]+ MB before/m,
  ],
  hanging: [/^one of 100 hangs 30 s, ours-redis, \d+\/s: p99 of the others [\d.]+ /m],
};

describe('npm run bench -- outbox', () => {
  it(
    'prints what ours and the others deliver, how long it takes, what it costs who commits, what Redis holds, and who notices one that hangs',
    async () => {
      const size = ['--rounds', '1', '--seconds', '1', '--backlog', '200', '--messages', '200'];
      const few = ['--only', 'ours-redis,graphile-worker', '--part', 'drain'];
      const { stdout } = await bench('outbox', ...size, ...(FULL ? [] : few));
      for (const line of FULL ? Object.values(OF_PARTS).flat() : OF_PARTS.drain) expect(stdout).toMatch(line);
    },
    3 * MINUTE_MS,
  );
});
