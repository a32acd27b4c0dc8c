import { describe, expect, it } from 'vitest';
import { type Hazard, HazardPlan } from '../../src/demo/economy/hazards.ts';
import { OrgWalletLife } from '../../src/demo/economy/org-wallet.ts';
import { Random } from '../../src/demo/economy/random.ts';
import type { Field, RowSink } from '../../src/demo/economy/rows.ts';
import { UserWalletLife } from '../../src/demo/economy/user-wallet.ts';

/** Only one hazard, at the first flow that could bear it. */
class Once extends HazardPlan {
  readonly #only: Hazard | undefined;
  #struck = false;

  constructor(only: Hazard | undefined) {
    super(new Random({ seed: 1, purpose: 0, index: 0 }));
    this.#only = only;
  }

  override strikes(hazard: Hazard): boolean {
    if (this.#struck || hazard !== this.#only) return false;
    this.#struck = true;
    return true;
  }
}

const DELTA = 3;

function lived(Life: typeof UserWalletLife | typeof OrgWalletLife, options: { seed: number; hazard?: Hazard }) {
  const written: { table: string; fields: readonly Field[] }[] = [];
  const sink: RowSink = { add: (table, fields) => written.push({ table, fields: fields as readonly Field[] }) };
  const life = new Life({
    random: new Random({ seed: options.seed, purpose: 9, index: 0 }),
    hazards: new Once(options.hazard),
    sink,
    staff: { administratorIds: ['a'], departedIds: [] },
    rows: 60,
    openingCredits: 0,
  });
  for (const _ of life.live());
  const rows = written.filter(({ table }) => table.endsWith('wallet_transactions')).map(({ fields }) => fields);
  return { life, rows, deltas: rows.map((row) => Number(row[DELTA])), drift: life.balance - life.rowSum };
}

describe.each([
  { whose: 'a user', Life: UserWalletLife },
  { whose: 'an organization', Life: OrgWalletLife },
])('the life of a wallet of $whose', ({ Life }) => {
  const seeds = Array.from({ length: 20 }, (_, seed) => seed);

  it.each(seeds)('without a hazard, ends with the balance that its rows add up to (seed %i)', (seed) => {
    const { life, deltas, drift } = lived(Life, { seed });
    expect(deltas).toHaveLength(60);
    expect(life.rowSum).toBe(deltas.reduce((sum, delta) => sum + delta, 0));
    expect(drift).toBe(0);
  });

  it.each(seeds)('with a lost update, lacks exactly a row that a spend follows (seed %i)', (seed) => {
    const { rows, deltas, drift } = lived(Life, { seed, hazard: 'lostUpdate' });
    const lost = deltas.filter((_, index) => rows[index + 1]?.[2] === 'spend').map((delta) => -delta);
    expect(drift).not.toBe(0);
    expect(lost).toContain(drift);
  });

  it('moved by hand, drifts by a round sum without a row', () => {
    const { deltas, drift } = lived(Life, { seed: 1, hazard: 'balanceMovedWithoutRow' });
    expect(deltas).toHaveLength(60);
    expect(drift).not.toBe(0);
    expect(Math.abs(drift) % 25).toBe(0);
  });
});

it('a spend whose record was deleted leaves its row and gives its credits back', () => {
  const { deltas, drift } = lived(UserWalletLife, { seed: 1, hazard: 'spendDeletedCreditReturned' });
  expect(drift).toBeGreaterThan(0);
  expect(deltas).toContain(-drift);
});

it('a forged row becomes balance by the recompute that follows', () => {
  expect(lived(UserWalletLife, { seed: 1, hazard: 'forgedCredit' }).drift).toBe(0);
});

it('a second refund takes what both took together', () => {
  const refunds = (life: ReturnType<typeof lived>) => life.rows.filter((row) => row[2] === 'refund');
  for (let seed = 0; seed < 20; seed += 1) {
    const again = refunds(lived(UserWalletLife, { seed, hazard: 'refundCumulative' }));
    const first = again.find((row) => again.filter((other) => other[6] === row[6]).length === 2);
    if (first === undefined) continue;
    const second = again.findLast((row) => row[6] === first[6]);
    // Each part is at least a fifth of what was paid, and 500 cents is the least that is paid.
    expect(Number(second?.[DELTA])).toBeLessThanOrEqual(Number(first[DELTA]) - 100);
    expect(Number(second?.[DELTA])).toBeLessThan(1.44 * Number(first[DELTA]));
  }
});
