import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { givenWallet } from '../support/legacy.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { commandLinesOf, commandsOf, LIVENTIX } from './command-lines.ts';
import { readPage } from './pages.ts';

const page = readPage('docs/how-to/migrate-a-live-platform.md');
const commands = commandLinesOf(page).flatMap(({ at, line }) =>
  commandsOf(line, LIVENTIX).map((args) => ({ at, args })),
);

/** Not for a person who watches, and not for ten minutes. */
const asTested = (args: readonly string[], folder: string) =>
  args
    .filter((arg) => arg !== '--watch')
    .map((arg, index) => (args[index - 1] === '--seconds' ? '1' : arg))
    .map((arg) => (arg.endsWith('.json') ? join(folder, arg) : arg));

/** What the page says of these: before anything is migrated, and before somebody has signed. */
const MAY_NOT_HOLD = [/^doctor/, /^backfill reconcile/];

describe('the runbook of a migration, command by command', () => {
  let folder: string;
  let database: TestDatabase;
  const runs: { readonly at: string; readonly line: string; readonly run: Run }[] = [];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'liventix-runbook-'));
    database = await createDatabase({ template: EMPTY });
    await createLegacyDatabase(database.pool);
    await fillLegacyDatabase(database.pool, { wallets: 60, orgWallets: 5, transactions: 1_500 });
    await givenOrganizationOfThePage();
    for (const { at, args } of commands) {
      const run = await liventix(asTested(args, folder), { DATABASE_URL: database.url });
      runs.push({ at, line: args.join(' '), run });
    }
  }, 240_000);
  afterAll(async () => {
    await database.drop();
    await rm(folder, { recursive: true, force: true });
  });

  it('succeeds from the first to the last, but where the page says that a rule may be met', () => {
    const failed = runs.filter(({ line, run }) => run.exitCode !== 0 && !MAY_NOT_HOLD.some((each) => each.test(line)));
    expect(failed.map(({ at, line, run }) => `${at}: ${line}: ${run.stderr}`)).toEqual([]);
    expect(runs.length).toBeGreaterThan(25);
  });

  it('shows the figures that the stop rules name', () => {
    const told = (line: string) => runs.filter((each) => each.line.startsWith(line)).map(({ run }) => run.stdout);
    expect(told('backfill plan')[0]).toMatch(/^Time and space$/m);
    expect(told('backfill run')[1]).toMatch(/^\d+ wallets compared, 0 differ$/m);
    expect(told('backfill reconcile')[0]).toMatch(/^unexplained +\d+ wallets?$/m);
    expect(told('backfill status')[0]).toMatch(/waits$/m);
    expect(told('backfill proof write')[0]).toContain('The old tables and the log are the same.');
    expect(told('backfill shadow')[0]).toMatch(/ 0 differ$/m);
    expect(told('backfill cutover --all --dry-run')[0]).toMatch(/, 0 refused$/m);
    expect(told('books verify').at(-1)).toMatch(/^The books balance/m);
  });

  it('ends with every wallet kept by the ledger, and the old tables retired', async () => {
    const { rows } = await database.pool.query('select distinct mode from replay.wallets');
    expect(rows).toEqual([{ mode: 'ledger' }]);
    const refused = database.pool.query('update public.wallets set balance_credits = balance_credits + 1');
    await expect(refused).rejects.toThrow(/retired/i);
  });

  /** By the id that the page has. */
  async function givenOrganizationOfThePage(): Promise<void> {
    const { ownerId } = await givenWallet(database.pool, { kind: 'organization', balance: 500 });
    const id = '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4';
    await database.pool.query(
      'insert into public.organizations (id, name, created_by) select $1, name, created_by from public.organizations where id = $2',
      [id, ownerId],
    );
    await database.pool.query('update public.org_wallets set org_id = $1 where org_id = $2', [id, ownerId]);
  }
});
