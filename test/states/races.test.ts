import { afterAll, beforeAll, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { campaign } from '../../src/states/machines/campaign.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { transition } from '../../src/states/transition.ts';
import { checkMachines } from '../../src/states/verify.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  balances,
  createMachinesDatabase,
  givenOrder,
  givenRow,
  givenRowIn,
  givenTicketOrder,
  historyOf,
  stateOf,
} from '../support/machines.ts';

const CONNECTIONS = 16;

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachinesDatabase();
});
afterAll(() => database.drop());

const codeOf = (error: unknown) => toAppError(error).code;
const everywhere = <T>(work: (nth: number) => Promise<T>) =>
  Promise.all(Array.from({ length: CONNECTIONS }, (_, nth) => work(nth).then(() => 'won', codeOf)));
const faults = async () =>
  (await withTransaction(database.pool, (tx) => checkMachines(tx, {}))).flatMap(({ first }) => first);

it('lets one of 16 win who take the same edge at once, and refuses the others', async () => {
  for (let round = 0; round < 5; round += 1) {
    const id = await givenOrder(database.pool);
    const ends = await everywhere(() => transition(database.pool, escrow, id, 'pay'));
    expect(ends.toSorted()).toEqual([...Array(CONNECTIONS - 1).fill('STATE_EDGE_REFUSED'), 'won']);
    expect(await historyOf(database.pool, id)).toHaveLength(2);
    expect((await balances(database.pool))[`escrow sponsorship_order:${id}`]).toBe(50_000n);
  }
});

it('lets one win of whom each wants something else, and the row is what the winner said', async () => {
  const events = ['redeem', 'transfer', 'refund', 'cancel'] as const;
  const states = ['redeemed', 'transferred', 'refunded', 'cancelled'];
  for (let round = 0; round < 5; round += 1) {
    const { ticketIds } = await givenTicketOrder(database.pool);
    const id = ticketIds[0] ?? '';
    const ends = await everywhere((nth) => transition(database.pool, ticket, id, events[nth % 4] ?? 'redeem'));
    const winner = ends.indexOf('won');
    expect(ends.filter((end) => end === 'won')).toHaveLength(1);
    expect(await stateOf(database.pool, ticket, id)).toBe(states[winner % 4]);
  }
});

it('lets one win of old code and new, of whom none asks for the state first', async () => {
  for (let round = 0; round < 5; round += 1) {
    const { ticketIds } = await givenTicketOrder(database.pool);
    const id = ticketIds[0] ?? '';
    const ends = await everywhere((nth) =>
      nth % 2 === 0
        ? database.pool.query(`update public.tickets set status = 'redeemed', redeemed_at = now() where id = $1`, [id])
        : database.pool.query(`update public.tickets set state = 'refunded' where id = $1`, [id]),
    );
    const history = await historyOf(database.pool, id);
    expect(history).toHaveLength(2);
    // Who finds that the row is already as he wants it changes nothing, and is not refused.
    const won = history[1]?.to === 'redeemed' ? 0 : 1;
    expect(ends.filter((_, nth) => nth % 2 !== won)).toEqual(Array(CONNECTIONS / 2).fill('STATE_EDGE_REFUSED'));
    expect(ends.filter((_, nth) => nth % 2 === won)).toEqual(Array(CONNECTIONS / 2).fill('won'));
  }
});

it('cuts the shares of an order to the cent when all its tickets are refunded at once', async () => {
  const before = await balances(database.pool);
  const { ticketIds } = await givenTicketOrder(database.pool, {
    tickets: CONNECTIONS,
    unitPriceCents: 333,
    subtotalCents: 5_000,
    feesCents: 77,
  });
  const ends = await everywhere((nth) => transition(database.pool, ticket, ticketIds[nth] ?? '', 'refund'));
  expect(ends).toEqual(Array(CONNECTIONS).fill('won'));
  const after = await balances(database.pool);
  const moved = (account: string) => (after[account] ?? 0n) - (before[account] ?? 0n);
  expect([moved('payable ticket_sales'), moved('revenue ticket_fees'), moved('receivable clearing')]).toEqual([
    -5_000n,
    -77n,
    -5_077n,
  ]);
});

it('waits for who holds the row, at most for 2 s, and says that it is held', async () => {
  const id = await givenOrder(database.pool);
  const holder = await database.pool.connect();
  try {
    await holder.query('begin');
    await holder.query('select from public.sponsorship_orders where id = $1 for update', [id]);
    const startedAt = performance.now();
    await expect(transition(database.pool, escrow, id, 'pay')).rejects.toMatchObject({
      code: 'STATE_ROW_LOCKED',
      message: expect.stringContaining(`escrow ${id} is held by another transaction`),
    });
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    expect(await historyOf(database.pool, id)).toHaveLength(1);
  } finally {
    await holder.query('rollback');
    holder.release();
  }
  await transition(database.pool, escrow, id, 'pay');
});

it('leaves the lock_timeout and the reason of whoever asks as they were', async () => {
  const id = await givenOrder(database.pool);
  await withTransaction(database.pool, async (tx) => {
    await tx.query(`set local lock_timeout = '7s'; select set_config('liventix.reason', 'mine', true)`);
    await transition(tx, escrow, id, 'pay', { reason: 'theirs' });
    const { rows } = await tx.query(
      `select current_setting('lock_timeout') as timeout, current_setting('liventix.reason') as reason`,
    );
    expect(rows).toEqual([{ timeout: '7s', reason: 'mine' }]);
  });
});

it('runs again whoever had a snapshot of before, and he finds what was done', async () => {
  const id = await givenRowIn(database.pool, campaign, 'active');
  let tries = 0;
  const late = withTransaction(
    database.pool,
    async (tx) => {
      tries += 1;
      await tx.query('select from public.campaigns where id = $1', [id]);
      if (tries === 1) await transition(database.pool, campaign, id, 'pause');
      return transition(tx, campaign, id, 'resume');
    },
    { mode: 'isolation level repeatable read' },
  );
  await expect(late).resolves.toMatchObject({ from: 'paused', to: 'active' });
  expect(tries).toBe(2);
});

it('holds in the end', async () => {
  await givenRow(database.pool, escrow);
  expect(await faults()).toEqual([]);
});
