import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild/rebuild.ts';
import type { Machine } from '../../src/states/machine.ts';
import { campaign } from '../../src/states/machines/campaign.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { judgeEvent } from '../../src/states/mirror.ts';
import { transition } from '../../src/states/transition.ts';
import { checkMachines } from '../../src/states/verify.ts';
import { verifyBooks } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  balances,
  createMachinesDatabase,
  givenCampaign,
  givenOrder,
  givenTicketOf,
  givenTicketOrder,
  stateOf,
} from '../support/machines.ts';

// Random walks over the machines that move money: whatever is asked, in whichever state, the mirror foretells the answer, the books balance
// and every escrow has what its order implies.

const RUNS = process.env['LIVENTIX_DRILLS'] === 'full' ? 200 : 12;

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachinesDatabase();
});
afterAll(() => database.drop());

const everyEvent = [...new Set([escrow, ticket, campaign].flatMap(({ events }) => Object.keys(events)))];
const cents = fc.integer({ min: 0, max: 9_999 });
const step = fc.record({
  row: fc.nat({ max: 5 }),
  event: fc.constantFrom(...everyEvent),
  /** Taken by an UPDATE of the old label, by one of the state, or by the function. */
  how: fc.constantFrom('event', 'state', 'label'),
});

interface Row {
  readonly machine: Machine;
  readonly id: string;
  readonly facts: Readonly<Record<string, number>>;
}

async function givenRows(amounts: readonly (readonly [number, number])[]): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const [first, second] of amounts) {
    const facts = { amount_cents: first, application_fee_cents: second };
    rows.push({ machine: escrow, id: await givenOrder(database.pool, facts), facts });
    const { orderId } = await givenTicketOrder(database.pool, { tickets: 2, unitPriceCents: first, feesCents: second });
    rows.push({ machine: ticket, id: await givenTicketOf(database.pool, orderId), facts: {} });
    const spent = { spent_credits: Math.min(first, second), total_budget_credits: first };
    rows.push({ machine: campaign, id: await givenCampaign(database.pool, spent), facts: spent });
  }
  return rows;
}

describe('walks', () => {
  it('books balance and escrow equals state at every step', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(cents, cents), { minLength: 2, maxLength: 2 }),
        fc.array(step, { minLength: 10, maxLength: 30 }),
        async (amounts, steps) => {
          const rows = await givenRows(amounts);
          for (const { row: nth, event, how } of steps) {
            const row = rows[nth % rows.length] as Row;
            const { machine, id, facts } = row;
            const state = (await stateOf(database.pool, machine, id)) ?? '';
            const foretold = judgeEvent(machine, state, event, { id, row: facts });
            const [column, value] = foretold.allowed ? written(machine, how, foretold.to) : [];
            const ask =
              value === undefined
                ? transition(database.pool, machine, id, event)
                : database.pool.query(`update ${machine.table} set ${column} = $1 where id = $2`, [value, id]);
            const answer = await ask.then(
              () => 'ok',
              (error: unknown) => toAppError(error).code,
            );
            expect(answer, `${event} of ${machine.name} in ${state}`).toBe(foretold.allowed ? 'ok' : foretold.code);
            expect(await stateOf(database.pool, machine, id)).toBe(foretold.allowed ? foretold.to : state);
            await expectSums(rows);
          }
        },
      ),
      { numRuns: RUNS, verbose: 1 },
    );
    const machines = await withTransaction(database.pool, (tx) => checkMachines(tx, {}));
    expect(machines.filter(({ holds }) => !holds)).toEqual([]);
    expect((await verifyBooks(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
    expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
  }, 1_200_000);
});

/** Which column is set to what, for a state to come about; undefined for what the function alone can say. */
function written({ old }: Machine, how: string, to: string): readonly [string, string] | readonly [] {
  if (how === 'state') return ['state', to];
  const label = Object.entries(old?.labels ?? {}).find(([, [says]]) => says === to)?.[0];
  return how === 'label' && label !== undefined && old !== undefined ? [old.column, label] : [];
}

/** Debits equal credits, and each escrow of these rows has what its state implies, computed here. */
async function expectSums(rows: readonly Row[]): Promise<void> {
  const { rows: sums } = await database.pool.query<{ sum: bigint | null }>(
    'select sum(amount_cents)::bigint as sum from payments.entries',
  );
  expect(sums[0]?.sum ?? 0n).toBe(0n);
  const all = await balances(database.pool);
  for (const { machine, id, facts } of rows) {
    if (machine.name !== 'escrow') continue;
    const state = await stateOf(database.pool, machine, id);
    const implied = ['funded', 'locked', 'disputed'].includes(state ?? '') ? BigInt(facts['amount_cents'] ?? 0) : 0n;
    expect(all[`escrow sponsorship_order:${id}`] ?? 0n, `${id} is ${state}`).toBe(implied);
  }
}
