import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { registerBackfill } from '../../src/cli/backfill.ts';
import { loadConfig } from '../../src/config.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createLegacyTestDatabase } from '../support/legacy.ts';
import { liventix, startLiventix } from '../support/liventix.ts';

const ROWS = 1_200;

let database: TestDatabase;
beforeAll(async () => {
  database = await createLegacyTestDatabase({ wallets: 40, orgWallets: 5, transactions: ROWS, seed: 3 });
});
afterAll(() => database.drop());

async function rowsInLog(): Promise<number> {
  const { rows } = await database.pool.query<{ n: number }>(
    'select coalesce(sum(rows), 0)::integer as n from replay.progress',
  );
  return rows[0]?.n ?? 0;
}

/** Runs it in this process, told to stop before it begins. */
async function runStopped(...flags: string[]): Promise<{ exitCode: number; stdout: string }> {
  let [exitCode, stdout] = [0, ''];
  const program = new Command();
  registerBackfill(program, {
    config: loadConfig({ DATABASE_URL: database.url }),
    out: {
      write: (text) => {
        stdout += text;
      },
    },
    err: { write: () => undefined },
    stop: AbortSignal.abort(),
    exitWith: (code) => {
      exitCode = code;
    },
  });
  await program.parseAsync(['backfill', 'run', ...flags], { from: 'user' });
  return { exitCode, stdout };
}

describe('backfill run', () => {
  it('exits with 3 when it was stopped, and the run that goes on says what all of them brought in', async () => {
    const first = startLiventix(['backfill', 'run', '--chunk', '20'], { DATABASE_URL: database.url });
    await eventually('it is under way', async () => (await rowsInLog()) >= 100);
    first.kill('SIGTERM');
    const stopped = await first.done;
    const before = await rowsInLog();
    expect(before).toBeLessThan(ROWS);
    expect(stopped).toMatchObject({ exitCode: 3, stderr: '' });
    expect(stopped.stdout).toMatch(
      new RegExp(`^${before} of 1,200 rows replayed in .*\\n${before} of 1,200 rows are in`),
    );
    expect(stopped.stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
    expect(stopped.stdout).not.toContain('wallets compared');

    const rest = await liventix(['backfill', 'run', '--json'], { DATABASE_URL: database.url });
    expect(rest).toMatchObject({ exitCode: 0, stderr: '' });
    expect(JSON.parse(rest.stdout)).toMatchObject({
      finished: true,
      imported: ROWS - before,
      inLog: ROWS,
      legacyTransactions: ROWS,
      walletsCompared: 45,
      walletsDiffering: 0,
    });
  });

  it('does not call itself stopped when nothing was left to do', async () => {
    const { exitCode, stdout } = await runStopped();
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^0 of 1,200 rows replayed in .*\n1,200 of 1,200 rows are in the log\n/);
    expect(stdout).toMatch(/\n45 wallets compared, 0 differ\n$/);
    expect(JSON.parse((await runStopped('--json')).stdout)).toMatchObject({ finished: true });
  });

  it('calls itself stopped when something was left to do, though an earlier run had finished', async () => {
    await database.pool.query('update public.wallets set balance_credits = balance_credits + 1');
    const { exitCode, stdout } = await runStopped();
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
  });
});
