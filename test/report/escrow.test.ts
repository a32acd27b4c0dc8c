import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { heldByState } from '../../src/states/held.ts';
import { install } from '../../src/states/install.ts';
import { machineNamed } from '../../src/states/machines.ts';
import { transition } from '../../src/states/transition.ts';
import { transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { createMachinesDatabase, createMachineTablesDatabase, givenOrder, givenRowIn } from '../support/machines.ts';

const escrow = machineNamed('escrow');
const STATES = ['pending', 'funded', 'locked', 'released', 'disputed', 'refunded'];

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachinesDatabase();
});
afterAll(() => database?.drop());

const heldAt = (until: string) => withTransaction(database.pool, (tx) => heldByState(tx, until), ONE_SNAPSHOT);
const now = async () => {
  const { rows } = await database.pool.query<{ now: string }>('select payments.instant_text(clock_timestamp()) as now');
  return rows[0]?.now ?? '';
};
const lineOf = (state: string, rows: bigint, heldCents: bigint) => ({
  ...{ machine: 'escrow', type: 'escrow', currency: 'USD' },
  ...{ state, rows, heldCents },
});

/** Where something was held in escrow before any machine saw to it. */
async function escrowByHand() {
  const own = await createMachineTablesDatabase();
  const [other = '', clearing = ''] = await openAccounts(own.pool, [
    { type: 'escrow', currency: 'USD', name: 'by_hand' },
    { type: 'receivable', currency: 'USD', name: 'by_hand' },
  ]);
  await post(own.pool, transfer(clearing, other, { amountCents: 7n }));
  return { ...own, [Symbol.asyncDispose]: () => own.drop() };
}

describe('escrow by state', () => {
  it('is what the rows of each state had when the period ended, whatever became of them since', async () => {
    const { pool } = database;
    for (const state of STATES) await givenRowIn(pool, escrow, state);
    const twice = await givenRowIn(pool, escrow, 'locked');
    const then = await now();
    const held = [
      lineOf('pending', 1n, 0n),
      lineOf('funded', 1n, 50_000n),
      lineOf('locked', 2n, 100_000n),
      lineOf('released', 1n, 0n),
      lineOf('disputed', 1n, 50_000n),
      lineOf('refunded', 1n, 0n),
    ];
    expect(await heldAt(then)).toEqual(held);
    await transition(pool, escrow, twice, 'release');
    await givenOrder(pool);
    expect(await heldAt(then)).toEqual(held);
    expect(await heldAt(await now())).toEqual([
      lineOf('pending', 2n, 0n),
      lineOf('funded', 1n, 50_000n),
      lineOf('locked', 1n, 50_000n),
      lineOf('released', 2n, 0n),
      lineOf('disputed', 1n, 50_000n),
      lineOf('refunded', 1n, 0n),
    ]);
    expect(await heldAt('2020-01-01T00:00:00Z')).toEqual([]);
  });

  it('is in the report with what is held for no row, and both are what the escrow accounts have', async () => {
    await using database = await escrowByHand();
    const { pool } = database;
    await install(pool, escrow);
    await givenRowIn(pool, escrow, 'funded');
    await givenRowIn(pool, escrow, 'disputed');
    const folder = await mkdtemp(join(tmpdir(), 'liventix-test-report-'));
    try {
      const path = join(folder, 'report.csv');
      const year = `${new Date().getUTCFullYear()}`;
      const run = await liventix(
        ['books', 'report', '--period', year, '--format', 'csv', '--no-verify', '--output', path],
        {
          DATABASE_URL: database.url,
        },
      );
      expect(run).toMatchObject({ exitCode: 0 });
      const lines = (await readFile(path, 'utf8')).split('\r\n');
      const { rows } = await pool.query<{ held: string }>(
        `select -sum(balance_cents) as held from payments.balances b join payments.accounts a on a.id = b.account_id where a.type = 'escrow'`,
      );
      expect(lines).toContain(`escrow,USD,escrow,,held,${Number(rows[0]?.held) / 100},${rows[0]?.held}`);
      expect(lines).toContain('escrow,USD,escrow,,held_elsewhere,0.07,7');
      expect(lines).toContain('escrow,USD,escrow,escrow: disputed,held,500.00,50000');
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
