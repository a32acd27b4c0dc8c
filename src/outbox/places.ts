import type { Admitted, QueuedDelivery, Wanted } from './admission.ts';
import type { Outcome } from './attempts.ts';

/** What admission has to know of an endpoint. */
export interface EndpointLimits {
  readonly id: string;
  /** How many of its deliveries may be queued or on their way at once. */
  readonly maxInFlight: number;
}

export interface HeldPlace extends QueuedDelivery {
  /** As `now` of `take` had it. */
  readonly takenAt: number;
}

interface EndpointState {
  maxInFlight: number;
  inFlight: number;
  /** From when on something may be due; Infinity: nothing is. */
  dueAt: number;
  /** By the database's clock: nothing was due before, when it was last asked. */
  dueFrom: Date | undefined;
  takenAt: number;
}

/** What is written beside an admission, and was timed before it, is at most this much older. */
const DUE_MARGIN_MS = 2_000;
/** Places that come free one by one are given again when they are a quarter of all, or the last was given so long ago. */
const WORTH_ASKING = 0.25;
const ASK_INTERVAL_MS = 10;

/**
 * Who has a place: a delivery that is queued or on its way holds one of its endpoint's `maxInFlight`, until the relay hears what came of
 * it. What is here is a memory of the tables, made anew by each relay that begins to lead; where they differ, the tables are right.
 * All times are in ms of one clock that only goes forward.
 */
export class Places {
  readonly #endpoints = new Map<string, EndpointState>();
  readonly #held = new Map<string, HeldPlace>();
  readonly #days = new Map<string, number>();

  get size(): number {
    return this.#held.size;
  }

  knows(endpointId: string): boolean {
    return this.#endpoints.has(endpointId);
  }

  /** The endpoints that may be sent to. Others keep the places of what is under way, and get no more. */
  setEndpoints(endpoints: readonly EndpointLimits[], now: number): void {
    const named = new Map(endpoints.map((endpoint) => [endpoint.id, endpoint]));
    for (const [id, state] of this.#endpoints) {
      if (named.has(id)) continue;
      if (state.inFlight === 0) this.#endpoints.delete(id);
      state.maxInFlight = 0;
    }
    for (const { id, maxInFlight } of endpoints) {
      const known = this.#endpoints.get(id);
      // One that is new, or enabled again, may have had something to wait for.
      if (known === undefined || known.maxInFlight === 0) this.expect(id, now);
      this.#state(id).maxInFlight = maxInFlight;
    }
  }

  /** How many new deliveries each endpoint may queue, where nothing has been waiting for longer. */
  free(now: number): ReadonlyMap<string, number> {
    const free = new Map<string, number>();
    for (const [id, state] of this.#endpoints) {
      if (state.dueAt > now && isWorthAsking(state, now)) free.set(id, state.maxInFlight - state.inFlight);
    }
    return free;
  }

  /** Whether there is anybody to send to. */
  isAnyOpen(): boolean {
    return [...this.#endpoints.values()].some(({ maxInFlight }) => maxInFlight > 0);
  }

  take(delivery: QueuedDelivery, now: number): void {
    if (this.#held.has(delivery.deliveryId)) this.give(delivery.deliveryId);
    this.#held.set(delivery.deliveryId, { ...delivery, takenAt: now });
    const state = this.#state(delivery.endpointId);
    state.inFlight += 1;
    state.takenAt = now;
    this.#days.set(delivery.day, (this.#days.get(delivery.day) ?? 0) + 1);
  }

  give(deliveryId: string): void {
    const held = this.#held.get(deliveryId);
    if (held === undefined) return;
    this.#held.delete(deliveryId);
    this.#state(held.endpointId).inFlight -= 1;
    const ofDay = (this.#days.get(held.day) ?? 0) - 1;
    if (ofDay > 0) this.#days.set(held.day, ofDay);
    else this.#days.delete(held.day);
  }

  /** An attempt is over: its place is free, and it is known when the next is due. */
  finish(outcome: Outcome, now: number): void {
    if (this.#held.get(outcome.deliveryId)?.attempt === outcome.attempt) this.give(outcome.deliveryId);
    if (outcome.retryInMs !== null) this.expect(outcome.endpointId, now + outcome.retryInMs);
  }

  /** Something may be due at the endpoint from then on. */
  expect(endpointId: string, at: number): void {
    const state = this.#state(endpointId);
    state.dueAt = Math.min(state.dueAt, at);
  }

  /** Something may be due at every endpoint, from whenever: others write to the tables too. */
  expectAll(now: number): void {
    for (const state of this.#endpoints.values()) {
      state.dueAt = Math.min(state.dueAt, now);
      state.dueFrom = undefined;
    }
  }

  /** The endpoints that have places, and where something may be due. */
  wanted(now: number): readonly Wanted[] {
    const wanted: Wanted[] = [];
    for (const [endpointId, state] of this.#endpoints) {
      if (state.dueAt > now || !isWorthAsking(state, now)) continue;
      wanted.push({ endpointId, free: state.maxInFlight - state.inFlight, dueFrom: state.dueFrom });
    }
    return wanted;
  }

  /** They were asked for, and this was found: up to where all was admitted, and when the next is due. */
  asked(wanted: readonly Wanted[], { queued, nextDueInMs }: Admitted, now: number): void {
    for (const delivery of queued) {
      this.take(delivery, now);
      const state = this.#state(delivery.endpointId);
      const from = new Date(delivery.dueAt.getTime() - DUE_MARGIN_MS);
      if (state.dueFrom === undefined || state.dueFrom < from) state.dueFrom = from;
    }
    for (const { endpointId } of wanted) {
      const state = this.#state(endpointId);
      state.dueAt = now + (nextDueInMs.get(endpointId) ?? Number.POSITIVE_INFINITY);
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

  /** When something may be due next at an endpoint that has places; Infinity when nothing is known of. */
  nextDueAt(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { dueAt, maxInFlight, inFlight } of this.#endpoints.values()) {
      if (maxInFlight > inFlight) next = Math.min(next, dueAt);
    }
    return next;
  }

  /** Whether some endpoint has something to wait for that is due, and no place for it. */
  isShort(now: number): boolean {
    return [...this.#endpoints.values()].some(
      ({ dueAt, maxInFlight, inFlight }) => dueAt <= now && maxInFlight > 0 && inFlight >= maxInFlight,
    );
  }

  #state(endpointId: string): EndpointState {
    const known = this.#endpoints.get(endpointId);
    if (known !== undefined) return known;
    const state: EndpointState = {
      maxInFlight: 0,
      inFlight: 0,
      dueAt: Number.POSITIVE_INFINITY,
      dueFrom: undefined,
      takenAt: Number.NEGATIVE_INFINITY,
    };
    this.#endpoints.set(endpointId, state);
    return state;
  }
}

function isWorthAsking({ maxInFlight, inFlight, takenAt }: EndpointState, now: number): boolean {
  const free = maxInFlight - inFlight;
  return free > 0 && (free >= WORTH_ASKING * maxInFlight || now - takenAt >= ASK_INTERVAL_MS);
}
