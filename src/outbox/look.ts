import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import { findQueued, type QueuedDelivery } from './admission.ts';
import { findSetBack, followJump } from './clock-jump.ts';
import { listLimits } from './endpoints.ts';
import type { BreakerSettings } from './health.ts';
import { disableHopeless, readHealth, writeHealth } from './health-store.ts';
import { startHearing } from './hearing.ts';
import { createIntake } from './intake.ts';
import { LineCheck, moveLinesUp } from './lines.ts';
import type { Outcome } from './outcomes.ts';
import { Places } from './places.ts';
import type { DeliveryQueue } from './queue.ts';
import type { ClockJump, ServerClock } from './server-clock.ts';
import { createSweep } from './sweep.ts';
import { createTimetable } from './timetable.ts';

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

/** So many of the last attempts of before are looked through for endpoints that took something while nobody led. */
const HEARD_AGAIN = 2_000;
const ENDPOINTS_EVERY_MS = 1_000;
const EMPTIED_EVERY_MS = 250;
/** Everything is looked at from the beginning after so many sweeps; what is queued, and the lines of ordered endpoints, after more. */
const SWEEPS_A_FULL_LOOK = 5;
const SWEEPS_A_RECOUNT = 30;

/**
 * What the relay that leads does, look by look: hear what attempts came to, turn messages into deliveries, admit what is due, and queue
 * it. Reads first what its predecessor left.
 */
export async function startLooking(options: LookOptions): Promise<Looking> {
  const { db, queue, log } = options;
  const places = new Places(options.breaker);
  const isTime = createTimetable();
  const intake = createIntake({ ...options, places, onUnknown: () => isTime.again('endpoints') });
  const sweep = createSweep({ ...options, places, giveBack: intake.giveBack });
  const lineCheck = new LineCheck(db);
  const hearing = await startHearing(db);
  let sweeps = 0;

  let inherited: readonly QueuedDelivery[] = await takeOver();
  return { look, recheck };

  // What ran past while nobody led is read from the deliveries themselves.
  async function takeOver(): Promise<readonly QueuedDelivery[]> {
    const unseen = (await options.clock.watch(db, follow)) ? undefined : await findSetBack(db);
    if (unseen !== undefined) await follow(unseen);
    const now = performance.now();
    places.setEndpoints(await listLimits(db), now);
    for (const [endpointId, health] of await readHealth(db, now)) places.setHealth(endpointId, health);
    for (const { endpointId, errorClass } of await hearing.before(HEARD_AGAIN)) {
      if (errorClass === null) places.noteDelivered(endpointId);
    }
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
    const { messages, isHeldUp } = await intake.takeMessages();
    const admitted = await intake.admit();
    const now = performance.now();
    return {
      didSomething: messages + admitted > 0 || lineCheck.isUnderWay,
      isShort: places.isShort(now) || (isHeldUp && places.size > 0),
      nextInMs: places.nextAt(now, isHeldUp) - now,
    };
  }

  /** What need not be looked at each time. */
  async function refresh(): Promise<void> {
    if (isTime('emptied', EMPTIED_EVERY_MS) && (await queue.wasEmptied())) await refill();
    if (isTime('sweep', options.sweepMs)) {
      sweeps += 1;
      // Before leases are judged.
      await options.clock.watch(db, follow);
      if (sweeps % SWEEPS_A_FULL_LOOK === 0) intake.beginAnew();
      if (sweeps % SWEEPS_A_RECOUNT === 0) await recount();
      await sweep.run();
    }
    if (isTime('endpoints', ENDPOINTS_EVERY_MS)) {
      places.setEndpoints(await listLimits(db), performance.now());
      lineCheck.begin({ ordered: [], unordered: places.takeUnlined() });
    }
  }

  // Every instant in the tables is by the server's clock.
  async function follow(jump: ClockJump): Promise<void> {
    const followed = await followJump(db, jump);
    log.warn({ byMs: jump.byMs, ...followed }, "relay: the database server's clock jumped; what waits went with it");
    // What is announced now may be of a day before.
    intake.forgetFloor();
    intake.beginAnew();
  }

  function recheck(): void {
    intake.beginAnew();
    isTime.again('endpoints');
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
}
