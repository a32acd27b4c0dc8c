import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver } from '../../src/replay/cut-over.ts';
import { finishCutOver } from '../../src/replay/finish.ts';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { plannedLocks } from '../../src/replay/plan/surroundings.ts';
import { replaceWalletFunctions } from '../../src/replay/wallet-functions.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenWallet } from '../support/legacy.ts';

/** Of each mode that a plan names, the weakest that it waits for, and what it goes on beside. */
const WEAKEST_AGAINST = { 'SHARE ROW EXCLUSIVE': 'ROW EXCLUSIVE', 'ACCESS EXCLUSIVE': 'ACCESS SHARE' } as const;
const BESIDE = { 'SHARE ROW EXCLUSIVE': ['ACCESS SHARE', 'ROW SHARE'], 'ACCESS EXCLUSIVE': [] } as const;

/** One try. */
const stop = AbortSignal.abort();

describe('the locks on tables that a plan tells are those that its commands take', () => {
  let database: TestDatabase;
  const { connect, end } = testClients(() => database.url);
  beforeAll(async () => {
    database = await createLegacyTestDatabase(undefined, { isCaptured: false });
    await givenWallet(database.pool);
  });
  afterAll(async () => {
    await end();
    await database.drop();
  });

  /** In the order in which each can be done. */
  const COMMANDS = [
    ['backfill capture on', () => turnCaptureOn(database.pool, { stop })],
    ['backfill abort', () => turnCaptureOff(database.pool, { stop })],
    ['backfill functions, functions --restore', () => replaceWalletFunctions(database.pool, { stop })],
    ['backfill cutover, the first', () => cutOver(database.pool, { owners: 'all', stop, settleMs: 0 })],
    ['backfill finish', () => finishCutOver(database.pool, { stop })],
  ] as const;
  const PREPARED: Readonly<Record<string, () => Promise<unknown>>> = {
    'backfill cutover, the first': async () => {
      await turnCaptureOn(database.pool);
      await runBackfill(database.pool, { settleMs: 0 });
    },
    'backfill finish': () => cutOver(database.pool, { owners: 'all', settleMs: 0 }),
  };

  it.each(COMMANDS)('%s', async (command, run) => {
    await PREPARED[command]?.();
    const locks = plannedLocks(await getLegacyTables(database.pool)).find((lock) => lock.command === command);
    const mode = locks?.mode as keyof typeof WEAKEST_AGAINST;
    const holder = await connect();
    const held = async (table: string, other: string, work: () => Promise<unknown>) => {
      await holder.query(`begin; lock table ${table} in ${other} mode`);
      await work().finally(() => holder.query('rollback'));
    };
    const tables = locks?.on.split(', ') ?? [];
    expect(tables).not.toEqual([]);
    for (const table of tables) {
      await held(table, WEAKEST_AGAINST[mode], () =>
        expect(run(), table).rejects.toMatchObject({ code: expect.stringMatching(/^(CAPTURE|CUTOVER)_BUSY$/) }),
      );
    }
    const readers = await Promise.all(BESIDE[mode].map(() => connect()));
    for (const [nth, reader] of readers.entries()) {
      await reader.query(`begin; lock table ${tables.join(', ')} in ${BESIDE[mode][nth]} mode`);
    }
    await run();
    for (const reader of readers) await reader.query('rollback');
  });
});
