import type { Random } from './random.ts';

/**
 * What the old platform did to its data, and how often it happens here: once in so many eligible flows. 1 means always:
 * the old code had no other way. The number before the colon is the hazard's in the catalogue of hazards.
 */
export const HAZARD_RATES = {
  /** 1: two processor events of one purchase, each with its own key, both credit the user's wallet. Of user purchases. */
  purchaseCreditedTwice: 200,
  /** 2: the second partial refund of a user's purchase carries the cumulative amount. Of user refunds. */
  refundCumulative: 10,
  /** 2: an organization's second partial refund was rejected: its row is missing. Of organization refunds. */
  orgSecondRefundMissing: 10,
  /** 3: a user row with the wrong sign for its type; the balance moved by what the row says. Of purchases, spends, refunds. */
  wrongSign: 200,
  /** 3: a user row of 0 credits. Of user flows. */
  zeroRow: 400,
  /** 4: a user's spend row whose ad_spend_ledger insert failed unnoticed. Of user spends. */
  userSpendUnrecorded: 200,
  /** 4: an organization's spend row; ad_spend_ledger refuses every one. */
  orgSpendUnrecorded: 1,
  /** 5: the spend path took the lots and then failed: no row, no balance moved. Of user spends. */
  lotsTakenSpendFailed: 200,
  /** 6: a spend overwrote the balance from a value read before the row that precedes it. Of spends. */
  lostUpdate: 200,
  /** 7: a balance moved by hand, without a row. Of flows. */
  balanceMovedWithoutRow: 400,
  /** 7: a wallet with an opening balance and no rows at all. Of wallets. */
  openingBalanceWithoutRows: 50,
  /** 7: an ad_spend_ledger row was deleted and a trigger gave the credits back, without a row. Of user spends. */
  spendDeletedCreditReturned: 200,
  /** 8: ad_spend_ledger.rate_usd_cents holds a hundred times the rate. Of its rows. */
  rateTimesHundred: 50,
  /** 9: a user row's reference_id is a text that is no uuid. Of user rows that have one. */
  referenceNotUuid: 100,
  /** 9: a user row's reference_type is null although it refers to something. Of user rows that refer to something. */
  referenceTypeMissing: 100,
  /** 10: a signed-in user wrote themselves credits: no invoice, or one that does not exist. Of user flows. */
  forgedCredit: 500,
  /** 10: of forged rows, those that no recompute has yet made balance of; after the others' it is the sum of the rows. */
  forgedCreditNotMinted: 4,
  /** 10: somebody called org_wallet_apply_purchase without invoice or event. Of organization flows. */
  forgedOrgCredit: 500,
  /** 11: an organization's spend was charged twice under one metadata idempotency_key. Of keyed organization spends. */
  spendKeyRepeated: 100,
  /**
   * 12: a user was deleted, and wallet, rows, lots and invoices with them; what remains is an organization's invoice
   * that nobody bought, and an adjustment by somebody who is gone. One beside so many user wallets.
   */
  userDeleted: 50,
  /** 13: a user's invoice stayed pending although it was credited. Of user purchases. */
  invoicePendingAfterCredit: 100,
  /** 13: an organization's invoice stayed pending although it was credited. */
  orgInvoicePendingAfterCredit: 1,
  /** 13: an invoice stayed paid (or pending) although it was refunded. */
  refundedInvoiceNotRefunded: 1,
} as const;

export type Hazard = keyof typeof HAZARD_RATES;
export type HazardCounts = Readonly<Record<Hazard, number>>;

/** Each hazard first happens within this many eligible flows, so that a small database has it too. */
const FIRST_WITHIN = 8;

/**
 * Decides which flow meets which hazard: the k-th eligible one and then every rate-th. Counted, not drawn: every run
 * has them, at the stated rate.
 */
export class HazardPlan {
  readonly #phase: Record<Hazard, number>;
  readonly #seen = zeroes();
  readonly #planted = zeroes();

  constructor(random: Random) {
    this.#phase = zeroes();
    for (const hazard of hazards()) this.#phase[hazard] = random.below(Math.min(FIRST_WITHIN, HAZARD_RATES[hazard]));
  }

  /** Whether this eligible flow meets the hazard. Counts it as planted when it does. */
  strikes(hazard: Hazard): boolean {
    const strikes = this.#seen[hazard] % HAZARD_RATES[hazard] === this.#phase[hazard];
    this.#seen[hazard] += 1;
    if (strikes) this.#planted[hazard] += 1;
    return strikes;
  }

  get planted(): HazardCounts {
    return this.#planted;
  }
}

export function sumOfHazards(...counts: readonly HazardCounts[]): HazardCounts {
  const sum = zeroes();
  for (const hazard of hazards()) for (const one of counts) sum[hazard] += one[hazard];
  return sum;
}

export function noHazards(): Record<Hazard, number> {
  return zeroes();
}

function hazards(): Hazard[] {
  return Object.keys(HAZARD_RATES) as Hazard[];
}

function zeroes(): Record<Hazard, number> {
  return Object.fromEntries(hazards().map((hazard) => [hazard, 0])) as Record<Hazard, number>;
}
