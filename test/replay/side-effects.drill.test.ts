import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { finishCutOver } from '../../src/replay/finish.ts';
import { booksHold } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, setBalance } from '../support/legacy.ts';
import { addTestEndpoint, announce, settled, startTestWorker } from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

const TOPIC = 'ticket.purchased';
const ALL = { owners: 'all' } as const;
const ADJUSTMENT = { type: 'adjustment', referenceType: 'system' } as const;

let database: TestDatabase;
let receiver: TestReceiver;
let listener: pg.Client;
const heard: string[] = [];

/** An endpoint that takes everything, and a relay that sleeps, so that whatever is announced wakes it. */
beforeEach(async () => {
  heard.length = 0;
  database = await createLegacyTestDatabase(undefined, { isCaptured: false });
  receiver = await startReceiver();
  await addTestEndpoint(database.pool, { url: receiver.url });
  listener = new pg.Client({ connectionString: database.url });
  await listener.connect();
  await listener.query(`select pg_advisory_lock(hashtext('liventix.relay.sleeps'), 0)`);
  listener.on('notification', ({ channel, payload }) => heard.push(`${channel} ${payload ?? ''}`.trim()));
  await listener.query('listen liventix_outbox; listen marker');
});
afterEach(async () => {
  await listener.end();
  await receiver.stop();
  await database.drop();
});

const announced = async () => (await database.pool.query<{ topic: string }>('select topic from public.outbox')).rows;
/** What was notified up to now: notifications arrive in the order of their commits. */
const heardSoFar = async () => {
  await database.pool.query(`select pg_notify('marker', '')`);
  await eventually('the marker is heard', () => heard.includes('marker'));
  return heard.splice(0).filter((each) => each !== 'marker');
};

describe('side effects', () => {
  it('come of nothing that is replayed, drained, flipped or retired, and of nothing that old code writes meanwhile', async () => {
    const { pool } = database;
    const wallets = [
      await givenWallet(pool, { balance: 9 }),
      await givenWallet(pool, { kind: 'organization', balance: 5 }),
    ];
    const write = async (delta: number) => {
      for (const wallet of wallets) {
        await givenRow(pool, wallet, { ...ADJUSTMENT, delta });
        await setBalance(pool, wallet, 10 + delta);
      }
    };
    const replay = () => runBackfill(pool, { settleMs: 0 });
    await write(5);
    await turnCaptureOn(pool);
    await replay();
    await write(1);
    await pool.query('update wallet_transactions set credits_delta = 7');
    await replay();
    expect(await cutOver(pool, { ...ALL, maxUnexplainedCents: 100n })).toMatchObject({ flipped: 2n });
    await write(2);
    await pool.query('delete from org_wallet_transactions');
    expect(await rollBack(pool, ALL)).toMatchObject({ flipped: 2n });
    await write(3);
    await turnCaptureOff(pool);
    await turnCaptureOn(pool);
    await replay();
    expect(await cutOver(pool, { ...ALL, maxUnexplainedCents: 100n })).toMatchObject({ flipped: 2n });
    await finishCutOver(pool);
    await booksHold(pool);
    expect(await announced()).toEqual([]);
    expect(await heardSoFar()).toEqual([]);
  });

  it('come of what new code posts meanwhile, once, and reach whoever subscribed', async () => {
    const { pool } = database;
    const wallet = await givenWallet(pool, { balance: 5 });
    await givenRow(pool, wallet, { ...ADJUSTMENT, delta: 5 });
    const [clearing = '', cash = ''] = await openAccounts(pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'cash', currency: 'USD', name: 'wallet', userId: wallet.ownerId },
    ]);
    const others = await openAccounts(pool, [{ type: 'revenue', currency: 'USD', name: 'tickets' }]);
    const postNew = (credit: string) => post(pool, transfer(clearing, credit, { announce: TOPIC }));
    await turnCaptureOn(pool);
    let posted: Promise<unknown> | undefined;
    await runBackfill(pool, {
      settleMs: 0,
      onProgress: ({ step }) => {
        if (step === 'accounts') posted ??= postNew(others[0] ?? '');
      },
    });
    await posted;
    expect(await cutOver(pool, ALL)).toMatchObject({ flipped: 1n, refused: [] });
    await postNew(cash);
    await rollBack(pool, ALL);
    await announce(pool, { topic: 'the.application' });
    expect((await announced()).map(({ topic }) => topic).toSorted()).toEqual(['the.application', TOPIC, TOPIC]);
    expect(await heardSoFar()).toEqual(['liventix_outbox', 'liventix_outbox', 'liventix_outbox']);
    const worker = await startTestWorker({ databaseUrl: database.url });
    await settled(pool);
    await worker.stop();
    expect(receiver.received).toHaveLength(3);
    await booksHold(pool);
  });
});
