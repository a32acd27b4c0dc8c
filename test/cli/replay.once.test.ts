import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dropVerified } from '../support/books.ts';
import { damage, PROJECTIONS } from '../support/damage.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { fillEveryProjection } from '../support/rebuild-book.ts';
import { expectRefusal } from '../support/refusal.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await fillEveryProjection(database.pool);
});
afterAll(() => dropVerified(database));

const run = (...args: string[]) => liventix(['replay', ...args], { DATABASE_URL: database.url });
const WRONG_BALANCE = 'update payments.balances set balance_cents = 1 where balance_cents > 0';

describe('replay', () => {
  it.each(['rebuild', 'verify'])('%s --help has an example, and no line is too long', async (command) => {
    const { stdout } = await run(command, '--help');
    expect(stdout).toMatch(/^Examples?:\n {2}liventix replay /m);
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(140);
  });

  it('finds nothing to do where every table is what the log gives', async () => {
    for (const command of ['rebuild', 'verify']) {
      const { exitCode, stdout, stderr } = await run(command);
      expect([exitCode, stderr]).toEqual([0, '']);
      expect(stdout.match(/^same /gm)).toHaveLength(PROJECTIONS.length);
      expect(stdout).toMatch(/\n\nEvery table is what the log gives\.\n$/);
    }
    expect(await run('rebuild', '--discard')).toMatchObject({ exitCode: 0, stdout: 'Nothing was there.\n' });
  });

  it('says what differs, swaps it when told, and then it holds', async () => {
    await damage(database.pool, `${WRONG_BALANCE}; delete from payments.periods`);
    const found = await run('rebuild');
    expect(found.exitCode).toBe(1);
    expect(found.stdout).toMatch(
      /^DIFFERS {2}balances +8 rows, rebuilt +8 {3}differing 1, missing 0, surplus 0\n {9}account_id [0-9a-f-]{36}, book_id 1: balance_cents is 1, by the log \d+$/m,
    );
    expect(found.stdout).toMatch(
      /^DIFFERS {2}periods .* differing 0, missing 1, surplus 0\n {9}closed_until .*, book_id 1: is missing$/m,
    );
    expect(found.stdout).toMatch(/put it in place with --swap, or remove it with --discard\.\n$/);

    const verified = await run('verify', '--json');
    expect(verified.exitCode).toBe(1);
    expect(JSON.parse(verified.stdout)).toMatchObject({ equal: false, swap: null, kept: true });

    const swapped = await run('rebuild', '--swap');
    expect(swapped.exitCode).toBe(0);
    expect(swapped.stdout).toMatch(/^What a run before had rebuilt, up to position \d+, was found again\.$/m);
    expect(swapped.stdout).toMatch(/^2 rows were put in place, under a lock of \d+ ms\. .* liventix books verify$/m);
    expect(await liventix(['books', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0 });
    expect(await liventix(['books', 'verify', '--independent'], { DATABASE_URL: database.url })).toMatchObject({
      exitCode: 0,
    });
    expect(JSON.parse((await run('rebuild', '--swap', '--json')).stdout)).toMatchObject({
      equal: true,
      swap: null,
      kept: false,
    });
  });

  it('removes what a run has left, and verify leaves nothing', async () => {
    await damage(database.pool, WRONG_BALANCE);
    expect(JSON.parse((await run('verify', '--json')).stdout)).toMatchObject({ equal: false, kept: false });
    expect(JSON.parse((await run('rebuild', '--discard', '--json')).stdout)).toEqual({ discarded: false });
    expect((await run('verify')).stdout).toMatch(/Put it right: liventix replay rebuild --swap\n$/);
    await run('rebuild');
    expect((await run('rebuild', '--discard')).stdout).toBe('What was rebuilt is removed.\n');
    const json = JSON.parse((await run('rebuild', '--swap', '--json')).stdout);
    expect(json).toMatchObject({ equal: false, resumedAt: 0, swap: { rows: 1, tries: 1 }, kept: false });
    expect(json.swap.lockedMs).toBeGreaterThan(0);
  });

  it('is stopped by Ctrl-C between two steps, and says that it goes on', async () => {
    const stopped = await liventix(['replay', 'rebuild'], { DATABASE_URL: database.url }, AbortSignal.abort('SIGINT'));
    expect(stopped).toEqual({
      exitCode: 3,
      stdout: '',
      stderr:
        'liventix: STOPPED: SIGINT stopped the rebuild between two steps. The live tables are as they were; run it again: it goes on where it stopped.\n',
    });
    expect(await run('rebuild')).toMatchObject({ exitCode: 0 });
  });

  it('refuses what contradicts itself', async () => {
    for (const flag of ['--swap', '--book']) {
      const args = ['replay', 'rebuild', '--discard', flag, ...(flag === '--book' ? ['1'] : [])];
      await expectRefusal({ code: 'USAGE', says: /cannot be used with option/ }, args, { DATABASE_URL: database.url });
    }
  });
});
