import { randomUUID } from 'node:crypto';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { AppError } from '../../src/errors.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { type NewTransaction, openAccounts, post } from '../../src/ledger/ledger.ts';
import { verifyBooks } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { LedgerModel, type Request } from '../support/ledger-model.ts';

const CONNECTIONS = 16;
const OPERATIONS = process.env['LIVENTIX_DRILLS'] === 'full' ? 60 : 15;
const ACCOUNTS = 5;
const HOLDS = 8;

/** What somebody asked for and was answered, and how far the log was before and after. */
interface Operation {
  readonly request: Request | { readonly voids: string };
  readonly answer: string;
  readonly from: bigint;
  readonly to: bigint;
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ poolMax: CONNECTIONS * 2 });
});
afterAll(() => database.drop());

describe('16 connections that post, capture, void, reverse and repeat each other on the same few accounts', () => {
  it.each([1, 2, 3])(
    'leave a history that their order in the log explains, answer by answer (seed %i)',
    async (seed) => {
      const { pool } = database;
      const { model, source, accounts, holds, sold } = await prepare(pool);
      const parties = [...accounts, source];
      const generator = xoroshiro128plus(seed);
      const random = () => uniformInt(generator, 0, 9_999) / 10_000;
      const any = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
      const shared = Array.from({ length: 10 }, () =>
        transferOf(any(parties), any(parties), 1n + BigInt(Math.floor(random() * 90))),
      );

      const draw = (): Operation['request'] => {
        const kind = random();
        if (kind < 0.15) return { voids: any(holds).holdId };
        if (kind < 0.35) {
          const { holdId, account } = any(holds);
          return { ...transferOf(account, any(accounts), 40n), capture: { holdId, final: random() < 0.3 } };
        }
        if (kind < 0.5) return { reverses: any(sold), transactionId: randomUUID() };
        if (kind < 0.75) return any(shared);
        return transferOf(any(parties), any(parties), BigInt(1 + Math.floor(random() * 90)));
      };
      const plans = Array.from({ length: CONNECTIONS }, () => Array.from({ length: OPERATIONS }, draw));
      const operations = (await Promise.all(plans.map((plan) => carryOut(pool, plan)))).flat();

      const unexplained = await replay(pool, model, operations);
      expect(unexplained).toEqual([]);
      const { rows } = await pool.query<{ id: string; balance: bigint }>(
        `select coalesce(k.account_id, b.account_id) as id, sum(b.balance_cents)::bigint as balance
         from payments.balances b
         left join payments.account_slots k on k.slot_account_id = b.account_id
         where coalesce(k.account_id, b.account_id) = any ($1)
         group by 1`,
        [parties],
      );
      expect(rows).toHaveLength(parties.length);
      for (const { id, balance } of rows) expect(balance).toBe(model.accounts.get(id)?.balance);
      expect((await verifyBooks(pool)).filter((check) => !check.holds)).toEqual([]);
    },
  );
});

/** A transfer between two accounts of the same currency; posted twice, it is a duplicate. */
function transferOf(from: string, to: string, cents: bigint): NewTransaction {
  return {
    transactionId: randomUUID(),
    entries: [
      { accountId: from, amountCents: cents, currency: 'USD' },
      { accountId: to, amountCents: -cents, currency: 'USD' },
    ],
  };
}

/** Wallets with a floor and money in them, holds on them, and sales to reverse, from an account in slots; in the model and in the database. */
async function prepare(pool: Pool) {
  const model = new LedgerModel();
  const [source = '', ...accounts] = await openAccounts(pool, [
    { type: 'receivable', currency: 'USD', name: randomUUID() },
    ...Array.from({ length: ACCOUNTS }, () => ({
      type: 'cash',
      currency: 'USD',
      name: 'w',
      userId: randomUUID(),
      floorCents: 0n,
    })),
  ]);
  for (const [nth, id] of [source, ...accounts].entries()) {
    model.accounts.set(id, {
      id,
      currency: 'USD',
      side: nth === 0 ? 1n : -1n,
      balance: 0n,
      floor: nth === 0 ? undefined : 0n,
      ceiling: undefined,
      status: 'open',
    });
  }
  await addSlots(pool, { accountId: source, slots: 3 });
  const sold = [];
  for (const account of accounts) {
    for (const cents of [150n, 200n, 250n]) {
      const sale = transferOf(source, account, cents);
      await post(pool, sale);
      expect(model.postAll([sale])).toEqual(['posted']);
      sold.push(sale.transactionId as string);
    }
  }
  const holds = [];
  for (let nth = 0; nth < HOLDS; nth += 1) {
    const account = accounts[nth % ACCOUNTS] as string;
    const { holdId } = await placeHold(pool, { accountId: account, amountCents: 100n, currency: 'USD' });
    expect(model.placeHold(holdId, account, 100n)).toBe('placed');
    holds.push({ holdId, account });
  }
  return { model, source, accounts, holds, sold };
}

async function carryOut(pool: Pool, plan: readonly Operation['request'][]): Promise<Operation[]> {
  const done: Operation[] = [];
  for (const request of plan) {
    const from = await logLength(pool);
    // A deadlock, or a race for one id, is healed by running the whole transaction again; none may come through.
    const answer = await withTransaction<{ status: string }>(pool, async (tx) =>
      'voids' in request ? voidHold(tx, { holdId: request.voids }) : post(tx, request),
    ).then(
      ({ status }) => status,
      (error: unknown) => {
        if (error instanceof AppError) return error.code;
        throw error;
      },
    );
    done.push({ request, answer, from, to: await logLength(pool) });
  }
  return done;
}

async function logLength(pool: Pool): Promise<bigint> {
  const { rows } = await pool.query<{ last: bigint }>('select max(position) as last from payments.events');
  return rows[0]?.last ?? 0n;
}

/**
 * Carries out in the model what the log says was done, in the log's order. An answer is explained when the model gives the same
 * one at some point between the question and the answer.
 * @returns the operations that nothing explains
 */
async function replay(pool: Pool, model: LedgerModel, operations: readonly Operation[]): Promise<Operation[]> {
  const [begins = 0n] = operations.map(({ from }) => from).toSorted((a, b) => Number(a - b));
  const { rows: log } = await pool.query<{ position: bigint; type: string; id: string; hold_id: string | null }>(
    `select position, type, event_id as id, payload -> 'hold_step' ->> 'hold_id' as hold_id from payments.events
     where position > $1 order by position`,
    [begins],
  );
  const open = new Set(operations);
  const explain = (position: bigint) => {
    for (const operation of open) {
      if (operation.from > position || operation.to < position) continue;
      const { request, answer } = operation;
      const verdict = 'voids' in request ? judgeVoid(model, request.voids) : model.judge(request);
      if (verdict === answer) open.delete(operation);
    }
  };
  explain(begins);
  for (const { position, type, id, hold_id } of log) {
    const isThis = ({ request, answer }: Operation) =>
      'voids' in request
        ? type === 'hold.voided' && answer === 'voided' && request.voids === hold_id
        : type === 'transaction.posted' && answer === 'posted' && request.transactionId === id;
    const operation = operations.find(isThis);
    if (operation === undefined) throw new Error(`nobody asked for event ${position} (${type} ${id})`);
    const { request, answer } = operation;
    const [verdict] = 'voids' in request ? [model.voidHold(request.voids)] : model.postAll([request]);
    expect({ position, verdict }).toEqual({ position, verdict: answer });
    open.delete(operation);
    explain(position);
  }
  return [...open];
}

function judgeVoid(model: LedgerModel, holdId: string): string {
  const hold = model.holds.get(holdId);
  return hold?.state === 'voided' ? 'duplicate' : hold?.state === 'active' ? 'voided' : 'LEDGER_HOLD_RESOLVED';
}
