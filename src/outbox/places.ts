import type { Admitted, QueuedDelivery, Wanted } from './admission.ts';
import { type EndpointLimits, Gate } from './gate.ts';
import { type BreakerSettings, HEALTHY, type Health } from './health.ts';
import type { Outcome } from './outcomes.ts';

export interface HeldPlace extends QueuedDelivery {
  /** As `now` of `take` had it. */
  readonly takenAt: number;
}

/** What is written beside an admission, and was timed before it, is at most this much older. */
const DUE_MARGIN_MS = 2_000;
const ONE_DAY_MS = 86_400_000;

/**
 * Who has a place: a delivery that is queued or on its way holds one of its endpoint's, until the relay hears what came of it. What is
 * here is a memory of the tables, made anew by each relay that begins to lead; where they differ, the tables are right.
 * All times are in ms of one clock that only goes forward.
 */
export class Places {
  readonly #gates = new Map<string, Gate>();
  readonly #held = new Map<string, HeldPlace>();
  readonly #days = new Map<string, number>();
  readonly #breaker: BreakerSettings;
  #changed = new Set<string>();
  #hopeless = new Set<string>();
  #unlined = new Set<string>();

  constructor(breaker: BreakerSettings) {
    this.#breaker = breaker;
  }

  get size(): number {
    return this.#held.size;
  }

  knows(endpointId: string): boolean {
    return this.#gates.has(endpointId);
  }

  /** The endpoints that may be sent to. Others keep the places of what is under way, and get no more. */
  setEndpoints(endpoints: readonly EndpointLimits[], now: number): void {
    const named = new Set(endpoints.map(({ id }) => id));
    for (const [id, gate] of this.#gates) {
      if (named.has(id)) continue;
      gate.shut();
      if (gate.inFlight === 0) this.#gates.delete(id);
    }
    for (const { id, ...limits } of endpoints) {
      const gate = this.#gate(id);
      // One that is new, or enabled again, may have had something to wait for, and begins anew.
      if (gate.isShut) {
        gate.expect(now);
        gate.health = HEALTHY;
      }
      if (gate.isOrdered && !limits.ordered) this.#unlined.add(id);
      gate.setLimits(limits);
    }
  }

  setHealth(endpointId: string, health: Health): void {
    this.#gate(endpointId).health = health;
  }

  /** How many new deliveries each endpoint may queue, `most` at most, where nothing has been waiting for longer. */
  free(now: number, most: number): ReadonlyMap<string, number> {
    const free = new Map<string, number>();
    for (const [id, gate] of this.#gates) {
      const count = gate.dueAt > now ? Math.min(most, gate.worthwhile(now)) : 0;
      if (count > 0) free.set(id, count);
    }
    return free;
  }

  /** Of whom there is to send to, how many could be sent nothing new. */
  crowded(now: number): 'all' | 'some' | 'none' {
    const open = this.#open();
    const crowded = open.filter((gate) => gate.dueAt <= now || gate.free(now) === 0);
    if (crowded.length === 0) return 'none';
    return crowded.length === open.length ? 'all' : 'some';
  }

  holds(deliveryId: string): boolean {
    return this.#held.has(deliveryId);
  }

  take(delivery: QueuedDelivery, now: number): void {
    this.give(delivery.deliveryId);
    this.#held.set(delivery.deliveryId, { ...delivery, takenAt: now });
    this.#gate(delivery.endpointId).take(now);
    this.#days.set(delivery.day, (this.#days.get(delivery.day) ?? 0) + 1);
  }

  /** Does nothing when it had none. */
  give(deliveryId: string): void {
    const held = this.#held.get(deliveryId);
    if (held === undefined) return;
    this.#held.delete(deliveryId);
    this.#gate(held.endpointId).give();
    const ofDay = (this.#days.get(held.day) ?? 0) - 1;
    if (ofDay > 0) this.#days.set(held.day, ofDay);
    else this.#days.delete(held.day);
  }

  /** An attempt is over: its place is free, it is known when the next is due, and how its endpoint does. */
  finish(outcome: Outcome, clock: { readonly now: number; readonly wallClock: number }): void {
    if (this.#held.get(outcome.deliveryId)?.attempt === outcome.attempt) this.give(outcome.deliveryId);
    if (outcome.retryInMs !== null) this.expect(outcome.endpointId, clock.now + outcome.retryInMs);
    const gate = this.#gate(outcome.endpointId);
    if (gate.judge(outcome, { ...clock, settings: this.#breaker })) this.#changed.add(outcome.endpointId);
    const { failingSince } = gate.health;
    const isHopeless =
      outcome.errorClass !== null &&
      failingSince !== null &&
      clock.wallClock - failingSince >= this.#breaker.hopelessAfterDays * ONE_DAY_MS;
    if (isHopeless) this.#hopeless.add(outcome.endpointId);
  }

  /** The endpoints whose health became another since this was last asked. */
  takeChangedHealth(): ReadonlyMap<string, Health> {
    const changed = new Map([...this.#changed].map((id) => [id, this.#gate(id).health]));
    this.#changed = new Set();
    return changed;
  }

  /** The endpoints that failed again after having failed, as far as is known, for days and nothing else. */
  takeHopeless(): readonly string[] {
    const hopeless = [...this.#hopeless];
    this.#hopeless = new Set();
    return hopeless;
  }

  /** Whether somebody may wait behind what is under way with it. Nothing is known of one that is disabled. */
  mayHaveLines(endpointId: string): boolean {
    return this.#gates.get(endpointId)?.mayHaveLines !== false;
  }

  /** The endpoints that are sent to, by whether they are ordered. */
  byOrder(): { readonly ordered: readonly string[]; readonly unordered: readonly string[] } {
    const open = [...this.#gates].filter(([, { isShut }]) => !isShut);
    const those = (ordered: boolean) => open.filter(([, gate]) => gate.isOrdered === ordered).map(([id]) => id);
    return { ordered: those(true), unordered: those(false) };
  }

  /** The endpoints that are not ordered any more since this was last asked. */
  takeUnlined(): readonly string[] {
    const unlined = [...this.#unlined];
    this.#unlined = new Set();
    return unlined;
  }

  /** It took something while nobody led: it has not been failing since before. */
  noteDelivered(endpointId: string): void {
    const gate = this.#gate(endpointId);
    gate.health = { ...gate.health, failingSince: null };
  }

  /** Something may be due at the endpoint from then on. */
  expect(endpointId: string, at: number): void {
    this.#gate(endpointId).expect(at);
  }

  /** Something may be due at every endpoint, from whenever: others write to the tables too. */
  expectAll(now: number): void {
    for (const gate of this.#gates.values()) gate.expectAgain(now);
  }

  /** As `expectAll`, of one endpoint: something waits again that was passed. */
  expectAgain(endpointId: string, now: number): void {
    this.#gate(endpointId).expectAgain(now);
  }

  /** The endpoints that have places, `most` at most, and where something may be due. */
  wanted(now: number, most: number): readonly Wanted[] {
    const wanted: Wanted[] = [];
    for (const [endpointId, gate] of this.#gates) {
      const free = gate.dueAt <= now ? Math.min(most, gate.worthwhile(now)) : 0;
      if (free > 0) wanted.push({ endpointId, free, dueFrom: gate.dueFrom });
    }
    return wanted;
  }

  /** They were asked for, and this was found: up to where all was admitted, and when the next is due. */
  asked(wanted: readonly Wanted[], found: Admitted, now: number): void {
    const last = new Map<string, { count: number; dueAt: Date }>();
    for (const delivery of found.queued) {
      this.take(delivery, now);
      const count = (last.get(delivery.endpointId)?.count ?? 0) + 1;
      last.set(delivery.endpointId, { count, dueAt: delivery.dueAt });
    }
    for (const { endpointId, free } of wanted) {
      const gate = this.#gate(endpointId);
      gate.dueAt = now + (found.nextDueInMs.get(endpointId) ?? Number.POSITIVE_INFINITY);
      const admitted = last.get(endpointId);
      // At an ordered endpoint something may be due and wait for its line.
      const isAll = found.isComplete && !gate.isOrdered && (admitted?.count ?? 0) < free && gate.dueAt > now;
      const upTo = isAll ? found.askedAt : admitted?.dueAt;
      if (upTo !== undefined) gate.passed(new Date(upTo.getTime() - DUE_MARGIN_MS));
    }
  }

  /** Whose places were taken before. */
  heldBefore(takenBefore: number): readonly HeldPlace[] {
    return [...this.#held.values()].filter(({ takenAt }) => takenAt < takenBefore);
  }

  /** The day of the oldest message that has a place. */
  oldestDay(): string | undefined {
    let oldest: string | undefined;
    for (const day of this.#days.keys()) if (oldest === undefined || day < oldest) oldest = day;
    return oldest;
  }

  /**
   * When something may be sent next; Infinity when nothing is known of.
   * @param isHeldUp whether messages may wait for whoever can be sent one first
   */
  nextAt(now: number, isHeldUp: boolean): number {
    return Math.min(...this.#open().map((gate) => (isHeldUp ? gate.openAt(now) : gate.nextAt(now))));
  }

  /** Whether something waits for what is under way: for a place, or, as it may be at an ordered endpoint, for its line to move up. */
  isShort(now: number): boolean {
    return this.#open().some((gate) => gate.inFlight > 0 && (gate.dueAt <= now || gate.isOrdered));
  }

  #open(): readonly Gate[] {
    return [...this.#gates.values()].filter(({ isShut }) => !isShut);
  }

  #gate(endpointId: string): Gate {
    const known = this.#gates.get(endpointId);
    if (known !== undefined) return known;
    const gate = new Gate();
    this.#gates.set(endpointId, gate);
    return gate;
  }
}
