import {
  allowedBy,
  type BreakerSettings,
  HEALTHY,
  type Health,
  healthAt,
  type JudgedAttempt,
  judgeAttempt,
} from './health.ts';

/** What admission has to know of an endpoint. */
export interface EndpointLimits {
  readonly id: string;
  /** How many of its deliveries may be queued or on their way at once. */
  readonly maxInFlight: number;
  /** How many may be begun in a second; null: any number. */
  readonly ratePerSecond: number | null;
  /** Whether messages of one key go one after the other. */
  readonly ordered: boolean;
}

const SHUT = { maxInFlight: 0, ratePerSecond: null, ordered: false };

/** Places that come free one by one are given again when they are a quarter of all, or the last was given so long ago. */
const WORTH_ASKING = 0.25;
const ASK_INTERVAL_MS = 10;
/** A rate is kept in every part of a second that is so long, rounded up to one request. */
const BURST_MS = 100;

/** Whether an endpoint may be sent something now: by its places, its rate and its health. Times in ms of one clock that only goes forward. */
export class Gate {
  /** From when on something may be due; Infinity: nothing is. */
  dueAt = Number.POSITIVE_INFINITY;
  /** By the database's clock: nothing was due before, when it was last asked. */
  dueFrom: Date | undefined;
  inFlight = 0;
  health: Health = HEALTHY;
  #limits: Omit<EndpointLimits, 'id'> = SHUT;
  #tokens = 0;
  #filledAt = Number.NEGATIVE_INFINITY;
  #takenAt = Number.NEGATIVE_INFINITY;

  /** One that is shut has no places, and gives back those that are taken. */
  get isShut(): boolean {
    return this.#limits.maxInFlight === 0;
  }

  get isOrdered(): boolean {
    return this.#limits.ordered;
  }

  /** Whether somebody may wait behind what is under way. */
  get mayHaveLines(): boolean {
    return this.#limits.ordered || this.isShut;
  }

  setLimits(limits: Omit<EndpointLimits, 'id'>): void {
    this.#limits = limits;
  }

  shut(): void {
    this.#limits = SHUT;
  }

  /** How many more may be queued. */
  free(now: number): number {
    const places = allowedBy(healthAt(this.health, now), this.#limits.maxInFlight) - this.inFlight;
    return Math.max(0, Math.min(places, this.#allowance(now)));
  }

  /** As `free`, but nothing where it is so little that it is better waited for more. */
  worthwhile(now: number): number {
    const free = this.free(now);
    const isPatient = free < WORTH_ASKING * this.#limits.maxInFlight && now - this.#takenAt < ASK_INTERVAL_MS;
    return isPatient ? 0 : free;
  }

  take(now: number): void {
    this.inFlight += 1;
    this.#takenAt = now;
    if (this.#limits.ratePerSecond !== null) this.#tokens -= 1;
  }

  give(): void {
    this.inFlight -= 1;
  }

  /** Answers whether its health is another now. */
  judge(attempt: JudgedAttempt, context: { now: number; wallClock: number; settings: BreakerSettings }): boolean {
    const before = this.health;
    const current = healthAt(before, context.now);
    this.health = judgeAttempt(current, attempt, { ...context, inFlight: this.inFlight });
    if (this.health.slowedTo >= this.#limits.maxInFlight)
      this.health = { ...this.health, slowedTo: Number.POSITIVE_INFINITY };
    return (
      this.health.breaker !== before.breaker || (this.health.failingSince === null) !== (before.failingSince === null)
    );
  }

  expect(at: number): void {
    this.dueAt = Math.min(this.dueAt, at);
  }

  /** Something may be due that was so before. */
  expectAgain(at: number): void {
    this.expect(at);
    this.dueFrom = undefined;
  }

  /** Below `dueFrom` nothing is due any more. */
  passed(dueFrom: Date): void {
    if (this.dueFrom === undefined || this.dueFrom < dueFrom) this.dueFrom = dueFrom;
  }

  /** When it may be sent what is due; Infinity while it waits for what is under way. */
  nextAt(now: number): number {
    return Math.max(this.dueAt, this.openAt(now));
  }

  /** When it may be sent something, whatever that is; Infinity while it waits for what is under way. */
  openAt(now: number): number {
    if (this.free(now) > 0) return now;
    if (this.health.breaker === 'open' && this.inFlight === 0) return this.health.probeAt;
    return this.#allowance(now) === 0 ? now + this.#tokenInMs() : Number.POSITIVE_INFINITY;
  }

  #allowance(now: number): number {
    const { ratePerSecond } = this.#limits;
    if (ratePerSecond === null) return Number.POSITIVE_INFINITY;
    const burst = Math.max(1, (ratePerSecond * BURST_MS) / 1_000);
    this.#tokens = Math.min(burst, this.#tokens + (ratePerSecond * Math.min(now - this.#filledAt, 1_000)) / 1_000);
    this.#filledAt = now;
    return Math.max(0, Math.floor(this.#tokens));
  }

  #tokenInMs(): number {
    return ((1 - this.#tokens) * 1_000) / (this.#limits.ratePerSecond ?? 1);
  }
}
