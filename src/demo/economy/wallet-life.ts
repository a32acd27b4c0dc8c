import { type Micros, nextTime, openingTime } from './calendar.ts';
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

  protected get leavesWithRefund(): boolean {
    return this.rowsLeft === 1 && this.random.oneIn(LEFT_WITH_REFUND_IN);
  }

  protected get mustBuy(): boolean {
    return this.balance < POOR_CREDITS;
  }

  protected get mayBuy(): boolean {
    return this.balance < RICH_CREDITS;
  }

  protected get spendable(): number {
    return Math.min(this.balance, this.lots.availableAt(this.now));
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
  protected refundable(): Purchase | undefined {
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
