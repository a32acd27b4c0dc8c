import { HAZARD_RATES, type HazardPlan } from './hazards.ts';
import type { Random } from './random.ts';

/** Organizations' part of the rows, where there are both. */
const ORG_PERCENT = 25;

export interface WalletShare {
  readonly rows: number;
  /** Hazard 7: a wallet that has a balance and no rows. */
  readonly openingWithoutRows: boolean;
}

export function rowsByKind(size: { wallets: number; orgWallets: number; transactions: number }): {
  user: number;
  org: number;
} {
  if (size.wallets === 0) return { user: 0, org: size.transactions };
  if (size.orgWallets === 0) return { user: size.transactions, org: 0 };
  const org = Math.floor((size.transactions * ORG_PERCENT) / 100);
  return { user: size.transactions - org, org };
}

/**
 * How many rows each wallet gets: the r-th in rank a part that goes by 1/r, so that a few wallets hold much of the
 * history and most hold little. Sums to `rows` exactly.
 */
export function sharesOf(input: { wallets: number; rows: number; random: Random; hazards: HazardPlan }): WalletShare[] {
  const ranks = shuffledRanks(input.wallets, input.random);
  const weights = ranks.map((rank) => {
    // The only wallet there is must hold the rows.
    const empty = input.wallets > 1 && input.hazards.strikes('openingBalanceWithoutRows');
    return empty ? 0 : 1 / (rank + 1);
  });
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let reached = 0;
  let given = 0;
  return weights.map((weight) => {
    reached += weight;
    // The last part of the sum may fall short of the whole by a rounding error.
    const upTo = reached >= total ? input.rows : Math.floor((input.rows * reached) / total);
    const rows = upTo - given;
    given = upTo;
    return { rows, openingWithoutRows: weight === 0 };
  });
}

/** How many users were deleted since, beside those who stayed (hazard 12). */
export function departedUsers(wallets: number): number {
  return Math.ceil(wallets / HAZARD_RATES.userDeleted);
}

function shuffledRanks(count: number, random: Random): number[] {
  const ranks = Array.from({ length: count }, (_, rank) => rank);
  for (let last = count - 1; last > 0; last -= 1) {
    const other = random.below(last + 1);
    const held = ranks[last] ?? 0;
    ranks[last] = ranks[other] ?? 0;
    ranks[other] = held;
  }
  return ranks;
}
