import { afterEach, beforeEach, expect, it } from 'vitest';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { compareWithRebuild, rebuildProjections } from '../../src/ledger/rebuild/rebuild.ts';
import { dropVerified, openTestAccounts, transfer } from '../support/books.ts';
import { damage } from '../support/damage.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const [WRITERS, ROUNDS] = FULL ? [6, 10] : [4, 1];
/** In books of their own: a swap takes as long as the log, which grows meanwhile, so that the fortieth would take a hundred times the first. */
const SWAPS = 4;
const ACCOUNTS = 8;
const firstSeed = Number(process.env['LIVENTIX_SEED'] ?? Math.floor(Math.random() * 1_000_000));

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase({ poolMax: 16 });
});
// Its books are verified in both ways.
afterEach(() => dropVerified(database));

/** Mulberry32: the same numbers for a seed, whoever draws them. */
function numbers(from: number): () => number {
  let state = from;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The first is of an account that everybody posts to: it moves on with every posting, and what comes meanwhile is wrong too. */
const DAMAGES = [
  (hot: string) => `update payments.balances set balance_cents = balance_cents + 7 where account_id = '${hot}'`,
  () => 'update payments.entries set description = $$x$$ where id = (select max(id) from payments.entries)',
  () => 'delete from payments.entries where id = (select min(id) from payments.entries)',
  (hot: string) => `update payments.accounts set name = 'damaged' where id = '${hot}'`,
];

it.each(Array.from({ length: ROUNDS }, (_, nth) => firstSeed + nth))(
  'no posting under way while projections are damaged, rebuilt and swapped is lost or doubled (seed %i)',
  async (seed) => {
    const { pool } = database;
    const random = numbers(seed);
    const accounts = await openAccounts(
      pool,
      Array.from({ length: ACCOUNTS }, (_, nth) => ({ type: 'payable', currency: 'USD', name: `a${nth}` })),
    );
    const { clearing } = await openTestAccounts(pool);
    const posted: string[] = [];
    const failures: unknown[] = [];
    let isOver = false;
    const write = async (draw: () => number) => {
      const some = () => accounts[Math.floor(draw() * ACCOUNTS)] ?? '';
      while (!isOver) {
        const outcome = await post(
          pool,
          transfer(clearing, some(), { amountCents: BigInt(1 + Math.floor(draw() * 9)) }),
        );
        posted.push(outcome.transactionId);
        if (draw() < 0.1)
          await voidHold(pool, await placeHold(pool, { accountId: some(), amountCents: 1n, currency: 'USD' }));
      }
    };
    const writers = Array.from({ length: WRITERS }, (_, nth) =>
      write(numbers(seed + 1 + nth)).catch((error: unknown) => failures.push(error)),
    );
    let [swaps, busy] = [0, 0];
    try {
      while (swaps < SWAPS) {
        const drawn = random() < 0.5 ? 0 : Math.floor(random() * DAMAGES.length);
        await damage(pool, DAMAGES[drawn]?.(clearing) ?? '');
        const { swap } = await rebuildProjections(pool, {
          stepEvents: 100 + Math.floor(random() * 2_000),
          swap: { maxRows: 100_000n },
          onBusy: () => {
            busy += 1;
          },
        });
        if (swap === undefined) continue;
        swaps += 1;
        // Also what came between its comparison and its lock.
        expect((await compareWithRebuild(pool)).filter(({ isEqual }) => !isEqual)).toEqual([]);
      }
    } finally {
      isOver = true;
      await Promise.all(writers);
    }
    expect(failures).toEqual([]);
    const { rows } = await pool.query<{ lost: bigint; entries: bigint; unknown: bigint }>(
      `select (select count(*) from unnest($1::uuid[]) as p (id) where not exists (select from payments.events e where e.event_id = p.id)) as lost,
              (select count(*) from payments.entries) as entries,
              (select count(*) from payments.entries e where not e.transaction_id = any ($1)) as unknown`,
      [posted],
    );
    expect(rows[0]).toEqual({ lost: 0n, entries: BigInt(posted.length) * 2n, unknown: 0n });
    expect(posted.length, `${busy} tries met a lock`).toBeGreaterThan(SWAPS);
  },
  90_000,
);
