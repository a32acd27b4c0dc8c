import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { AppError } from '../../src/errors.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { expireHolds, type HoldOutcome, type NewHold, placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, type PostOutcome, postAll } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild/rebuild.ts';
import { verifyBooks, verifyBooksIndependently } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { LedgerModel, type ModelAccount, type Request, type Verdict } from '../support/ledger-model.ts';

const CURRENCIES = ['USD', 'JPY'] as const;
const KINDS = [
  { type: 'cash', side: -1n, floorCents: 0n },
  { type: 'payable', side: -1n },
  { type: 'receivable', side: 1n },
  { type: 'receivable', side: 1n, floorCents: -500n, ceilingCents: 500n },
] as const;
const RUNS = process.env['LIVENTIX_DRILLS'] === 'full' ? 150 : 20;
const TIMEOUT_MS = 1_200_000;
/** The days that periods end and that transactions are dated at. */
const DAYS = 12;
const dayOf = (day: number) => new Date(Date.UTC(2020, 0, 1 + day));

let database: TestDatabase;
/** What is posted to slots goes to that of its connection. */
let connections: (Tx & { release(): void })[];
beforeAll(async () => {
  database = await createDatabase();
  connections = await Promise.all(Array.from({ length: 3 }, () => database.pool.connect()));
});
afterAll(async () => {
  for (const connection of connections) connection.release();
  await database.drop();
});

const nth = fc.nat({ max: 1_000 });
const cents = fc.integer({ min: 1, max: 300 }).map(BigInt);
const posting = fc.record({
  kind: fc.constantFrom(
    'transfer',
    'transfer',
    'split',
    'exchange',
    'capture',
    'reverse',
    'reverse in part',
    'again',
    'unbalanced',
  ),
  nth,
  other: nth,
  cents,
  key: fc.option(fc.nat({ max: 30 }), { nil: undefined }),
  day: fc.option(fc.nat({ max: DAYS }), { nil: undefined }),
  isFinal: fc.boolean(),
  isLinked: fc.nat({ max: 9 }).map((drawn) => drawn === 0),
});
const command = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('post' as const),
      connection: nth,
      postings: fc.array(posting, { minLength: 1, maxLength: 6 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('hold' as const), nth, cents, expires: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('void' as const), nth }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('expire' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('close' as const), day: fc.nat({ max: DAYS }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('replay' as const), nth }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('rebuild' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('slots' as const), nth, slots: fc.integer({ min: 2, max: 4 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('change' as const),
      nth,
      status: fc.option(fc.constantFrom('open', 'open', 'open', 'frozen', 'closed'), { nil: undefined }),
      floorCents: fc.option(
        fc.option(
          cents.map((c) => c - 300n),
          { nil: null },
        ),
        { nil: undefined },
      ),
      ceilingCents: fc.option(
        fc.option(
          cents.map((c) => c + 600n),
          { nil: null },
        ),
        { nil: undefined },
      ),
    }),
  },
);

type Posting = typeof posting extends fc.Arbitrary<infer T> ? T : never;
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never;

describe('whatever is asked of the ledger, in whatever order', () => {
  it(
    'it answers as the model does, holds what the model holds, and every invariant stands',
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(command, { minLength: 1, maxLength: 25, size: 'max' }), async (commands) => {
          const run = await Run.begin(database);
          for (const each of commands) await run.carryOut(each);
          expect(await run.balances()).toEqual(run.expectedBalances());
          expect((await verifyBooks(database.pool)).filter((check) => !check.holds)).toEqual([]);
          expect((await verifyBooksIndependently(database.pool)).filter((check) => !check.holds)).toEqual([]);
          await expectRebuilt();
        }),
        { numRuns: RUNS, verbose: 1 },
      );
    },
    TIMEOUT_MS,
  );
});

/** The projections, made anew from the log, are the live ones. */
async function expectRebuilt(): Promise<void> {
  expect((await compareWithRebuild(database.pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
}

/** One sequence against model and database, in a book of its own. */
class Run {
  private readonly model = new LedgerModel();
  private readonly posted: string[] = [];
  private readonly holds: string[] = [];
  private readonly requests: Request[] = [];
  private readonly scope = randomUUID();
  /** Each sends something that was done once more, and expects the first result. */
  private readonly replays: (() => Promise<void>)[] = [];
  private readonly options: { readonly bookId: number };

  private constructor(bookId: number) {
    this.options = { bookId };
  }

  static async begin({ pool }: TestDatabase): Promise<Run> {
    const run = new Run(await openBook(pool, randomUUID()));
    const specs = CURRENCIES.flatMap((currency) =>
      KINDS.map((kind, index) => ({ ...kind, currency, name: `a${index}`, userId: randomUUID() })),
    );
    const accounts = specs.map(({ side: _, ...account }) => account);
    const open = () => openAccounts(pool, accounts, run.options);
    const ids = await open();
    run.replays.push(async () => expect(await open()).toEqual(ids));
    specs.forEach((spec, index) => {
      const id = ids[index] ?? '';
      const limits = spec as { floorCents?: bigint; ceilingCents?: bigint };
      run.model.accounts.set(id, {
        id,
        currency: spec.currency,
        side: spec.side,
        balance: 0n,
        floor: limits.floorCents,
        ceiling: limits.ceilingCents,
        status: 'open',
      });
    });
    return run;
  }

  async carryOut(each: Command): Promise<void> {
    const { pool } = database;
    switch (each.do) {
      case 'post': {
        const requests = each.postings.map((plan) => this.request(plan));
        const expected = this.model.postAll(requests);
        const outcomes = await postAll(pick(connections, each.connection) ?? pool, requests, this.options);
        expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.code : outcome.status))).toEqual(
          expected,
        );
        requests.forEach((request, index) => {
          if (expected[index] === 'posted' && request.transactionId !== undefined)
            this.posted.push(request.transactionId);
        });
        this.requests.push(...requests);
        this.rememberPosted(requests, outcomes);
        return;
      }
      case 'hold':
        return this.placeHold(each);
      case 'void': {
        const holdId = pick(this.holds, each.nth) ?? randomUUID();
        const sent = () => verdictOf(voidHold(pool, { holdId }, this.options));
        const expected = this.model.voidHold(holdId);
        expect(await sent()).toBe(expected);
        if (expected === 'voided') this.replays.push(async () => expect(await sent()).toBe('duplicate'));
        return;
      }
      case 'slots': {
        const accountId = this.account(each.nth).id;
        const given = addSlots(pool, { accountId, slots: each.slots, ...this.options }).then(() => ({
          status: 'slotted',
        }));
        const verdict = this.model.addSlots(accountId, each.slots);
        expect(await verdictOf(given)).toBe(verdict);
        return;
      }
      case 'expire':
        await expireHolds(pool, this.options);
        return;
      case 'close':
        return this.close(dayOf(each.day));
      case 'replay':
        return pick(this.replays, each.nth)?.();
      case 'rebuild':
        return expectRebuilt();
      case 'change': {
        const accountId = this.account(each.nth).id;
        const { status, floorCents, ceilingCents } = each;
        if (status === undefined && floorCents === undefined && ceilingCents === undefined) return;
        const change = {
          ...(status === undefined ? {} : { status }),
          ...(floorCents === undefined ? {} : { floorCents }),
          ...(ceilingCents === undefined ? {} : { ceilingCents }),
        };
        const key = { idempotencyKey: randomUUID(), idempotencyScope: this.scope };
        const send = () => changeAccount(pool, { accountId, ...change, ...key }, this.options);
        const first = send();
        const expected = this.model.change(accountId, change);
        expect(await verdictOf(first)).toBe(expected);
        if (expected !== 'changed') return;
        const again = { ...(await first), status: 'duplicate' };
        this.replays.push(async () => expect(await send()).toEqual(again));
        return;
      }
    }
  }

  /** What was posted is posted once, whatever has become of its accounts, its hold and its period. */
  private rememberPosted(requests: readonly Request[], outcomes: readonly PostOutcome[]): void {
    const replay = (sent: readonly Request[], first: readonly PostOutcome[]) =>
      this.replays.push(async () =>
        expect(await postAll(database.pool, sent, this.options)).toEqual(
          first.map((outcome) => ({ ...outcome, status: 'duplicate' })),
        ),
      );
    if (outcomes.every(({ status }) => status !== 'rejected')) replay(requests, outcomes);
    for (const [index, request] of requests.entries()) {
      const outcome = outcomes[index];
      // Alone, one that is linked to the next is refused.
      if (outcome?.status === 'posted' && request.linked !== true) replay([request], [outcome]);
    }
  }

  private async close(until: Date): Promise<void> {
    const expected = this.model.close(until);
    const closing = closePeriod(database.pool, { until: until.toISOString(), ...this.options });
    expect(await verdictOf(closing.then(() => ({ status: 'closed' })))).toBe(expected);
    if (expected !== 'closed') return;
    expect(await closing).toMatchObject({ events: this.model.effectiveBefore(until) });
    // Closing is not repeated: it says until when the book is closed.
    this.replays.push(async () => {
      const again = closePeriod(database.pool, { until: until.toISOString(), ...this.options });
      await expect(again).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
    });
  }

  private async placeHold(each: { nth: number; cents: bigint; expires: boolean }): Promise<void> {
    const { id: accountId, currency } = this.account(each.nth);
    const holdId = randomUUID();
    const expected = this.model.placeHold(holdId, accountId, each.cents);
    let hold: NewHold;
    let first: Promise<HoldOutcome>;
    const send = () => placeHold(database.pool, hold, this.options);
    let aheadMs = each.expires ? 30 : 3_600_000;
    do {
      // An expiry may have passed before it is asked for, where the machine has other things to do: later, then.
      aheadMs *= 2;
      hold = { holdId, accountId, amountCents: each.cents, currency, expiresAt: await serverTime(aheadMs) };
      first = send();
    } while (each.expires && aheadMs < 60_000 && (await verdictOf(first)) === 'LEDGER_INVALID');
    expect(await verdictOf(first)).toBe(expected);
    const { expiresAt } = hold;
    const placed = this.model.holds.get(holdId);
    if (placed === undefined) return;
    const { eventPosition } = await first;
    // How it stands now, not how it was placed.
    this.replays.push(async () => {
      const now = { state: placed.state, remainingCents: placed.remaining };
      expect(await send()).toMatchObject({ status: 'duplicate', holdId, eventPosition, ...now });
    });
    this.holds.push(holdId);
    if (!each.expires) return;
    await eventually('the hold has expired', async () => (await serverTime(0)) > (expiresAt ?? 0));
    Object.assign(placed, { state: 'expired', remaining: 0n });
  }

  private request(plan: Posting): Request {
    const again = pick(this.requests, plan.nth);
    if (plan.kind === 'again' && again !== undefined) return { ...again, linked: plan.isLinked };
    const transaction = this.transaction(plan);
    return {
      ...transaction,
      transactionId: randomUUID(),
      linked: plan.isLinked,
      ...(plan.day === undefined ? {} : { effectiveAt: dayOf(plan.day) }),
      ...(plan.key === undefined ? {} : { idempotencyKey: `k${plan.key}`, idempotencyScope: this.scope }),
    };
  }

  private transaction(plan: Posting): Request {
    const from = this.account(plan.nth);
    const to = this.account(plan.other, from);
    const third = this.account(plan.other + 1, from);
    const leg = (account: ModelAccount, amountCents: bigint) => ({
      accountId: account.id,
      amountCents,
      currency: account.currency,
    });
    const transfer = { entries: [leg(from, plan.cents), leg(to, -plan.cents)] };
    switch (plan.kind) {
      case 'unbalanced':
        return { entries: [leg(from, plan.cents), leg(to, -plan.cents - 1n)] };
      case 'split':
        return { entries: [leg(from, plan.cents + 1n), leg(to, -plan.cents), leg(third, -1n)] };
      case 'exchange': {
        const [usd, jpy] = CURRENCIES.map((currency) =>
          [...this.model.accounts.values()].filter((account) => account.currency === currency),
        );
        const [a, b, c, d] = [
          pick(usd, plan.nth),
          pick(usd, plan.nth + 1),
          pick(jpy, plan.other),
          pick(jpy, plan.other + 1),
        ];
        if (a === undefined || b === undefined || c === undefined || d === undefined) return transfer;
        return { entries: [leg(a, plan.cents), leg(b, -plan.cents), leg(c, 100n), leg(d, -100n)] };
      }
      case 'capture': {
        const holdId = pick(this.holds, plan.nth) ?? randomUUID();
        const held = this.model.holds.get(holdId)?.account ?? from;
        const other = this.account(plan.other, held);
        return {
          entries: [leg(held, -held.side * plan.cents), leg(other, held.side * plan.cents)],
          capture: { holdId, final: plan.isFinal },
        };
      }
      case 'reverse':
        return { reverses: pick(this.posted, plan.nth) ?? randomUUID() };
      case 'reverse in part':
        return {
          reverses: pick(this.posted, plan.nth) ?? randomUUID(),
          entries: [leg(from, plan.cents), leg(to, -plan.cents)],
        };
      default:
        return transfer;
    }
  }

  /** Any account; or one of the same currency as another and not that one. */
  private account(index: number, other?: ModelAccount): ModelAccount {
    const eligible = [...this.model.accounts.values()].filter(
      (account) => other === undefined || (account !== other && account.currency === other.currency),
    );
    return pick(eligible, index) as ModelAccount;
  }

  expectedBalances() {
    return [...this.model.accounts.values()]
      .map((account) => ({
        id: account.id,
        balance: account.side * account.balance,
        available: this.model.available(account),
        status: account.status,
      }))
      .toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }

  async balances() {
    const { rows } = await database.pool.query(
      `select account_id as id, balance_cents as balance, available_cents as available, status
       from payments.account_balances where account_id = any ($1) order by account_id`,
      [[...this.model.accounts.keys()]],
    );
    return rows;
  }
}

function pick<T>(items: readonly T[] | undefined, index: number): T | undefined {
  return items === undefined || items.length === 0 ? undefined : items[index % items.length];
}

async function serverTime(aheadMs: number): Promise<Date> {
  const { rows } = await database.pool.query<{ at: Date }>(`select clock_timestamp() + $1 * interval '1 ms' as at`, [
    aheadMs,
  ]);
  return rows[0]?.at ?? new Date(Number.NaN);
}

async function verdictOf(call: Promise<{ status: string }>): Promise<Verdict> {
  try {
    return (await call).status;
  } catch (error) {
    if (error instanceof AppError) return error.code;
    throw error;
  }
}
