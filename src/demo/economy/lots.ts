import type { Micros } from './calendar.ts';

export interface Lot {
  readonly id: string;
  readonly quantity: number;
  remaining: number;
  readonly unitPriceCents: number;
  readonly source: 'purchase' | 'promo';
  readonly checkoutSessionId: string | null;
  readonly invoiceId: string | null;
  readonly createdAt: Micros;
  readonly expiresAt: Micros | null;
  depletedAt: Micros | null;
}

/** Spent heads are cut off once there are this many, so that a wallet with a long history stays small. */
const COMPACT_AFTER = 256;

/** Lots in the order in which they are spent; the oldest at the head. */
class Queue {
  readonly #lots: Lot[] = [];
  #head = 0;
  remaining = 0;

  get first(): Lot | undefined {
    return this.#lots[this.#head];
  }

  push(lot: Lot): void {
    this.#lots.push(lot);
    this.remaining += lot.remaining;
  }

  shift(): void {
    this.remaining -= this.first?.remaining ?? 0;
    this.#head += 1;
    if (this.#head < COMPACT_AFTER) return;
    this.#lots.splice(0, this.#head);
    this.#head = 0;
  }
}

/**
 * A wallet's credit lots as `deduct_credits_fifo` spends them: soonest to expire first, then those that never expire,
 * oldest first. All expiring lots live equally long, so that order is the order in which they came.
 */
export class Lots {
  readonly #expiring = new Queue();
  readonly #lasting = new Queue();
  readonly #write: (lot: Lot) => void;

  /** `write` gets each lot once, when nothing more happens to it. */
  constructor(write: (lot: Lot) => void) {
    this.#write = write;
  }

  add(lot: Lot): void {
    (lot.expiresAt === null ? this.#lasting : this.#expiring).push(lot);
  }

  availableAt(now: Micros): number {
    for (let lot = this.#expiring.first; lot?.expiresAt != null && lot.expiresAt <= now; lot = this.#expiring.first) {
      this.#expiring.shift();
      this.#write(lot);
    }
    return this.#expiring.remaining + this.#lasting.remaining;
  }

  /** Takes `credits`, which must be available. */
  take(credits: number, now: Micros): void {
    const fromExpiring = Math.min(credits, this.#expiring.remaining);
    this.#takeFrom(this.#expiring, fromExpiring, now);
    this.#takeFrom(this.#lasting, credits - fromExpiring, now);
  }

  /** Writes what is left. */
  close(): void {
    for (const queue of [this.#expiring, this.#lasting]) {
      for (let lot = queue.first; lot !== undefined; lot = queue.first) {
        queue.shift();
        this.#write(lot);
      }
    }
  }

  #takeFrom(queue: Queue, credits: number, now: Micros): void {
    let missing = credits;
    while (missing > 0 && queue.first !== undefined) {
      const lot = queue.first;
      const taken = Math.min(missing, lot.remaining);
      lot.remaining -= taken;
      queue.remaining -= taken;
      missing -= taken;
      if (lot.remaining > 0) continue;
      lot.depletedAt = now;
      queue.shift();
      this.#write(lot);
    }
  }
}
