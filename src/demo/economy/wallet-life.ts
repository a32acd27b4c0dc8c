import type { Charge } from './ad-spend.ts';
import { type Micros, nextTime, openingTime, REFERENCES_RENAMED } from './calendar.ts';
import type { HazardPlan } from './hazards.ts';
import { Lots } from './lots.ts';
import { type InvoiceOf, type Purchase, writeLot } from './purchases.ts';
import type { Random } from './random.ts';
import type { RowSink } from './rows.ts';

/** Who acts on wallets beside their owners. */
export interface Staff {
  readonly administratorIds: readonly [string, ...string[]];
  /** Users who were deleted since: their wallets are gone with them, what they did to others' stays (hazard 12). */
  readonly departedIds: readonly string[];
}

export interface LifeInput {
  readonly random: Random;
  readonly hazards: HazardPlan;
  readonly sink: RowSink;
  readonly staff: Staff;
  /** Exactly so many transaction rows come of this life. */
  readonly rows: number;
  /** Hazard 7: credits that were there before the first row. */
  readonly openingCredits: number;
}

/** Refunds come within the next purchases; older ones are forgotten, so that a long life stays small. */
const REFUNDABLE_PURCHASES = 8;
/** Above it a wallet spends before it buys again: integer columns end at 2^31. */
const RICH_CREDITS = 100_000;
const POOR_CREDITS = 60;
const DISPUTED_IN = 60;
const DEPARTED_IN = 20;
/** A refund is often the last that is heard of an owner. */
const LEFT_WITH_REFUND_IN = 8;
/** Of a hundred flows, as are the purchases of a kind. */
const REFUNDS = 5;
const ADJUSTMENTS = 6;

/**
 * One wallet of the old platform from its opening to the end of history, flow by flow. The balance is the cached column
 * as the old code would have left it; `rowSum` is what the rows say. They differ where a hazard struck.
 */
export abstract class WalletLife {
  readonly walletId: string;
  readonly openedAt: Micros;
  readonly lots: Lots;
  balance: number;
  rowSum = 0;
  rowsBooked = 0;
  /** The time of the last flow. */
  now: Micros;

  /** Its numbers; what is drawn after the life ended is for the wallet's other columns. */
  readonly random: Random;

  protected readonly hazards: HazardPlan;
  protected readonly sink: RowSink;
  protected readonly staff: Staff;
  protected readonly campaignIds: readonly [string, string, string];
  protected rowsLeft: number;
  /** The balance before the last row: what a racing spend has read. */
  protected staleBalance: number | undefined;
  #refundable: Purchase[] = [];

  protected constructor(input: LifeInput, owner: (walletId: string) => InvoiceOf['owner']) {
    this.random = input.random;
    this.hazards = input.hazards;
    this.sink = input.sink;
    this.staff = input.staff;
    this.rowsLeft = input.rows;
    this.balance = input.openingCredits;
    this.walletId = this.random.uuid();
    this.openedAt = openingTime(this.random);
    this.now = this.openedAt;
    this.campaignIds = [this.random.uuid(), this.random.uuid(), this.random.uuid()];
    this.lots = new Lots((lot) => writeLot(this.sink, lot, owner(this.walletId)));
  }

  /** Lives; stops after each flow, so that the caller can write what has gathered. */
  *live(): Generator<void, void, undefined> {
    while (this.rowsLeft > 0) {
      this.now = nextTime(this.now, this.rowsLeft, this.random);
      this.moveByHand();
      this.flow();
      yield;
    }
    this.lots.close();
  }

  /** Frozen by the code when below zero, or by a dispute, which leaves no row. */
  status(): 'active' | 'frozen' {
    const disputed = this.random.oneIn(DISPUTED_IN);
    return disputed || this.balance < 0 ? 'frozen' : 'active';
  }

  /** Writes at least one row and never more than `rowsLeft`. */
  protected abstract flow(): void;
  /** Of a hundred flows. */
  protected abstract readonly purchases: number;
  protected abstract buy(): void;
  protected abstract refundOf(purchase: Purchase): void;
  protected abstract adjust(): void;
  protected abstract spend(): void;

  /** A flow that every wallet knows, or `otherwise`, with a number from 0 on by which to share out what is left over. */
  protected ordinaryFlow(otherwise: (share: number) => void): void {
    if (this.leavesWithRefund) {
      this.refund();
      return;
    }
    const share = this.random.below(100);
    const [refundsFrom, adjustmentsFrom] = [this.purchases, this.purchases + REFUNDS];
    if (this.mustBuy || (share < refundsFrom && this.mayBuy)) this.buy();
    else if (share < adjustmentsFrom) this.refund();
    else if (share < adjustmentsFrom + ADJUSTMENTS) this.adjust();
    else otherwise(share - adjustmentsFrom - ADJUSTMENTS);
  }

  private get leavesWithRefund(): boolean {
    return this.rowsLeft === 1 && this.random.oneIn(LEFT_WITH_REFUND_IN);
  }

  private get mustBuy(): boolean {
    return this.balance < POOR_CREDITS;
  }

  private get mayBuy(): boolean {
    return this.balance < RICH_CREDITS;
  }

  private refund(): void {
    const purchase = this.refundable();
    if (purchase === undefined) {
      this.spend();
      return;
    }
    this.hazards.strikes('refundedInvoiceNotRefunded');
    this.refundOf(purchase);
  }

  protected get spendable(): number {
    return Math.min(this.balance, this.lots.availableAt(this.now));
  }

  /** What an administrator gives, or takes. */
  protected adjustment(): number {
    const credits = this.random.between(1, 30) * 50;
    return this.random.oneIn(3) ? -credits : credits;
  }

  /** Takes the lots of a charge. Returns the campaign it is for, and the balance that the spending code had read. */
  protected takeLots(charge: Charge): { campaignId: string; readBefore: number | undefined } {
    const readBefore = this.staleBalance;
    this.lots.take(charge.credits, this.now);
    return { campaignId: this.random.pick(this.campaignIds), readBefore };
  }

  protected campaignReference(id: string): { type: string; id: string } {
    return { type: this.now < REFERENCES_RENAMED ? 'campaign_spend' : 'campaign', id };
  }

  /** Some time later, within the same flow. */
  protected pass(): void {
    this.now = nextTime(this.now, this.rowsLeft + 1, this.random);
  }

  /** Every row moves the cached balance; what moved it otherwise says so. */
  protected bookRow(delta: number): void {
    this.staleBalance = this.balance;
    this.balance += delta;
    this.rowSum += delta;
    this.rowsLeft -= 1;
    this.rowsBooked += 1;
  }

  /** Hazard 6: the spend of `credits` just booked wrote a balance computed from one read before the row that precedes it. */
  protected overwriteBalance(input: { readBefore: number | undefined; credits: number }): void {
    const { readBefore, credits } = input;
    // What was read must have covered the spend, and must not be what the balance was anyway.
    if (readBefore === undefined || readBefore < credits || readBefore - credits === this.balance) return;
    if (this.hazards.strikes('lostUpdate')) this.balance = readBefore - credits;
  }

  protected remember(purchase: Purchase): void {
    this.#refundable.push(purchase);
    if (this.#refundable.length > REFUNDABLE_PURCHASES) this.#refundable.shift();
  }

  /** A recent purchase, which then cannot be refunded again. */
  private refundable(): Purchase | undefined {
    if (this.#refundable.length === 0) return undefined;
    return this.#refundable.splice(this.random.below(this.#refundable.length), 1)[0];
  }

  /** Who adjusts: mostly an administrator, sometimes one who has left since. */
  protected actingUserId(): string {
    const departed = this.random.oneIn(DEPARTED_IN)
      ? this.staff.departedIds[this.random.below(this.staff.departedIds.length)]
      : undefined;
    return departed ?? this.random.pick(this.staff.administratorIds);
  }

  private moveByHand(): void {
    if (!this.hazards.strikes('balanceMovedWithoutRow')) return;
    this.balance += this.random.pick([-1, 1]) * this.random.between(1, 40) * 25;
    this.staleBalance = undefined;
  }
}
