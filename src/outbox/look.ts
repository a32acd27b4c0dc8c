import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import { admitDue, findQueued, type QueuedDelivery, returnUnclaimed } from './admission.ts';
import { currentSeq, type Outcome, readOutcomes } from './attempts.ts';
import { findSetBack, followJump } from './clock-jump.ts';
import { listLimits } from './endpoints.ts';
import { type Floor, fanOut, NO_FLOOR } from './fan-out.ts';
import type { BreakerSettings } from './health.ts';
import { disableHopeless, readHealth, writeHealth } from './health-store.ts';
import { startHearing } from './hearing.ts';
import { LineCheck, moveLinesUp } from './lines.ts';
import { Places } from './places.ts';
import type { DeliveryQueue } from './queue.ts';
import type { ClockJump, ServerClock } from './server-clock.ts';
import { createSweep } from './sweep.ts';

export interface LookOptions {
  readonly db: Queryable;
  readonly queue: DeliveryQueue;
  /** Of the server, watched for longer than one relay leads. */
  readonly clock: ServerClock;
  readonly log: Logger;
  readonly sweepMs: number;
  readonly queueLeaseMs: number;
  readonly maxLost: number;
  readonly breaker: BreakerSettings;
}

export interface Seen {
  readonly didSomething: boolean;
  /** Whether something waits for what is under way. */
  readonly isShort: boolean;
  /** In how long something may be sent, as far as is known. */
  readonly nextInMs: number;
}

export interface Looking {
  look(): Promise<Seen>;
  /** Somebody changed endpoints or deliveries: the next look begins from the tables. */
  recheck(): void;
}

const FAN_OUT_LIMIT = 500;
const ADMISSION_LIMIT = 500;
/** So many of the last attempts of before are looked through for endpoints that took something while nobody led. */
const HEARD_AGAIN = 2_000;
/** More are not queued at once, over all endpoints: what keeps Redis small, and a lease longer than the queue. */
const MAX_QUEUED = 5_000;
const ENDPOINTS_EVERY_MS = 1_000;
const EMPTIED_EVERY_MS = 250;
/** Everything is looked at from the beginning after so many sweeps; what is queued, and the lines of ordered endpoints, after more. */
const SWEEPS_A_FULL_LOOK = 5;
const SWEEPS_A_RECOUNT = 30;
/** The floor is where the last look but so long ago had come: who commits later than that is found by the next full look. */
export const FLOOR_LAG_MS = 2_000;

/**
 * What the relay that leads does, look by look: hear what attempts came to, turn messages into deliveries, admit what is due, and queue
 * it. Reads first what its predecessor left.
 */
export async function startLooking(options: LookOptions): Promise<Looking> {
  const { db, queue, log } = options;
  const places = new Places(options.breaker);
  const sweep = createSweep({ ...options, places, giveBack });
  const isTime = createTimetable();
  let [floor, nextFloor, floorAt]: [Floor, Floor, number] = [NO_FLOOR, NO_FLOOR, 0];
  const lineCheck = new LineCheck(db);
  const hearing = await startHearing(db);
  let isFromTheBeginning = true;
  let sweeps = 0;

  let inherited: readonly QueuedDelivery[] = await takeOver();
  return { look, recheck };

  // What ran past while nobody led is read from the deliveries themselves.
  async function takeOver(): Promise<readonly QueuedDelivery[]> {
    await follow((await options.clock.jump(db)) ?? (await findSetBack(db)));
    const now = performance.now();
    places.setEndpoints(await listLimits(db), now);
    for (const [endpointId, health] of await readHealth(db, now)) places.setHealth(endpointId, health);
    const since = (await currentSeq(db)) - BigInt(HEARD_AGAIN);
    for (const { endpointId, errorClass } of await readOutcomes(db, {
      since,
      fromDay: '-infinity',
      limit: HEARD_AGAIN,
    }))
      if (errorClass === null) places.noteDelivered(endpointId);
    lineCheck.begin(places.byOrder());
    const queued = await findQueued(db);
    for (const delivery of queued) places.take(delivery, now);
    places.expectAll(now);
    sweep.expectWorkers(queued.flatMap(({ claimedBy }) => claimedBy ?? []));
    // Who led before may have been struck between his statement and the queue; where he was not, a job comes twice, and is claimed once.
    return queued.filter(({ claimedBy }) => claimedBy === null);
  }

  async function look(): Promise<Seen> {
    await refresh();
    if (inherited.length > 0) await queue.enqueue(inherited);
    inherited = [];
    await hearOutcomes();
    await checkLines();
    const messages = await takeMessages();
    const admitted = await admit();
    const now = performance.now();
    return {
      didSomething: messages + admitted > 0 || lineCheck.isUnderWay,
      isShort: places.isShort(now),
      nextInMs: places.nextAt(now) - now,
    };
  }

  /** What need not be looked at each time. */
  async function refresh(): Promise<void> {
    if (isTime('emptied', EMPTIED_EVERY_MS) && (await queue.wasEmptied())) await refill();
    if (isTime('sweep', options.sweepMs)) {
      sweeps += 1;
      // Before leases are judged.
      await follow(await options.clock.jump(db));
      if (sweeps % SWEEPS_A_FULL_LOOK === 0) lookFromTheBeginning();
      if (sweeps % SWEEPS_A_RECOUNT === 0) await recount();
      await sweep.run();
    }
    if (isTime('endpoints', ENDPOINTS_EVERY_MS)) {
      places.setEndpoints(await listLimits(db), performance.now());
      lineCheck.begin({ ordered: [], unordered: places.takeUnlined() });
    }
  }

  // Every instant in the tables is by the server's clock.
  async function follow(jump: ClockJump | undefined): Promise<void> {
    if (jump === undefined) return;
    const followed = await followJump(db, jump);
    log.warn({ byMs: jump.byMs, ...followed }, "relay: the database server's clock jumped; what waits went with it");
    lookFromTheBeginning();
  }

  function recheck(): void {
    lookFromTheBeginning();
    isTime.again('endpoints');
  }

  function lookFromTheBeginning(): void {
    isFromTheBeginning = true;
    places.expectAll(performance.now());
  }

  async function refill(): Promise<void> {
    const waiting = (await findQueued(db)).filter(({ claimedBy }) => claimedBy === null);
    await queue.enqueue(waiting);
    // Only now: a crash before it repeats the work, a crash after the other order would skip it.
    await queue.markIntact();
    log[waiting.length > 0 ? 'warn' : 'info'](
      { deliveries: waiting.length },
      'relay: the queue is new or was emptied; queueing again',
    );
  }

  async function hearOutcomes(): Promise<void> {
    const fromDay = places.oldestDay();
    if (fromDay === undefined) return;
    const outcomes = await hearing.hear(fromDay);
    if (outcomes.length === 0) return;
    const clock = { now: performance.now(), wallClock: Date.now() };
    for (const outcome of outcomes) places.finish(outcome, clock);
    await moveUp(outcomes);
    await noteHealth(clock.now);
  }

  /** Finds what this relay should know of and does not, whatever the reason. */
  async function recount(): Promise<void> {
    const now = performance.now();
    for (const delivery of await findQueued(db)) if (!places.holds(delivery.deliveryId)) places.take(delivery, now);
    lineCheck.begin(places.byOrder());
  }

  async function moveUp(outcomes: readonly Outcome[]): Promise<void> {
    const finished = outcomes.filter(
      ({ retryInMs, endpointId }) => retryInMs === null && places.mayHaveLines(endpointId),
    );
    if (finished.length === 0) return;
    await moveLinesUp(db, finished);
    for (const { endpointId } of finished) places.expect(endpointId, performance.now());
  }

  async function checkLines(): Promise<void> {
    for (const endpointId of await lineCheck.go()) places.expect(endpointId, performance.now());
  }

  async function noteHealth(now: number): Promise<void> {
    const changed = places.takeChangedHealth();
    if (changed.size > 0) await writeHealth(db, changed, now);
    for (const endpointId of places.takeHopeless()) {
      if (!(await disableHopeless(db, endpointId, options.breaker.hopelessAfterDays))) continue;
      log.warn({ endpointId }, 'relay: disabled an endpoint that took nothing for days');
      isTime.again('endpoints');
    }
  }

  async function takeMessages(): Promise<number> {
    const now = performance.now();
    // They wait as well as messages, and cost less then. Whom they are for is not known before they are taken: so they are, while
    // anybody could be sent one.
    const crowded = places.crowded(now);
    if (crowded === 'all') return 0;
    const free = queue.answers() && places.size < MAX_QUEUED ? places.free(now, share()) : new Map<string, number>();
    const total = [...free.values()].reduce((sum, count) => sum + count, 0);
    // Behind the messages of who is crowded there may be others'.
    const limit = total === 0 || crowded === 'some' ? FAN_OUT_LIMIT : Math.min(FAN_OUT_LIMIT, total);
    const fanned = await fanOut(db, {
      limit,
      floor: isFromTheBeginning ? NO_FLOOR : floor,
      places: free,
      queueLeaseMs: options.queueLeaseMs,
    });
    for (const delivery of fanned.queued) places.take(delivery, now);
    for (const endpointId of fanned.waiting) {
      if (!places.knows(endpointId)) isTime.again('endpoints');
      places.expect(endpointId, now);
    }
    // While an old snapshot is held it passes all that there ever was, so that it is done once, unless there was more.
    isFromTheBeginning &&= fanned.messages === limit;
    if (fanned.reached !== undefined) moveFloor(fanned.reached, now);
    await enqueue(fanned.queued);
    return fanned.messages;
  }

  /** What one endpoint may have queued at once: however many take all they get, something is left for the next. */
  function share(): number {
    return Math.ceil((MAX_QUEUED - places.size) / 2);
  }

  function moveFloor(reached: Floor, now: number): void {
    // Who committed late is no place to go on from.
    if (reached.seq > nextFloor.seq && now - floorAt >= FLOOR_LAG_MS)
      [floor, nextFloor, floorAt] = [nextFloor, reached, now];
  }

  async function admit(): Promise<number> {
    const now = performance.now();
    const limit = Math.min(ADMISSION_LIMIT, MAX_QUEUED - places.size);
    const wanted = places.wanted(now, share());
    if (wanted.length === 0 || limit <= 0 || !queue.answers()) return 0;
    const found = await admitDue(db, { wanted, limit, queueLeaseMs: options.queueLeaseMs });
    places.asked(wanted, found, performance.now());
    await enqueue(found.queued);
    return found.queued.length;
  }

  async function enqueue(deliveries: readonly QueuedDelivery[]): Promise<void> {
    if (deliveries.length === 0) return;
    try {
      await queue.enqueue(deliveries);
    } catch (error) {
      await giveBack(deliveries);
      throw error;
    }
  }

  async function giveBack(deliveries: readonly QueuedDelivery[]): Promise<void> {
    if (deliveries.length === 0) return;
    await returnUnclaimed(db, deliveries);
    const now = performance.now();
    for (const { deliveryId, endpointId } of deliveries) {
      places.give(deliveryId);
      places.expectAgain(endpointId, now);
    }
  }
}

/** Whether it is time again for something that is done every so often; the first time comes when that has passed once. */
function createTimetable() {
  const doneAt = new Map<string, number>();
  const beganAt = performance.now();
  const isTime = (what: string, everyMs: number): boolean => {
    const now = performance.now();
    if (now - (doneAt.get(what) ?? beganAt) < everyMs) return false;
    doneAt.set(what, now);
    return true;
  };
  return Object.assign(isTime, {
    /** At the next opportunity. */
    again: (what: string): void => {
      doneAt.set(what, Number.NEGATIVE_INFINITY);
    },
  });
}
