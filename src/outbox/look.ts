import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import {
  admitDue,
  findQueued,
  inspectQueued,
  type QueuedDelivery,
  returnLost,
  returnUnclaimed,
  type Standing,
} from './admission.ts';
import { readOutcomes } from './attempts.ts';
import { listLimits } from './endpoints.ts';
import { type Floor, fanOut, NO_FLOOR } from './fan-out.ts';
import { Places } from './places.ts';
import { createAttendance } from './presence.ts';
import type { DeliveryQueue } from './queue.ts';

export interface LookOptions {
  readonly db: Queryable;
  readonly queue: DeliveryQueue;
  readonly log: Logger;
  readonly sweepMs: number;
  readonly queueLeaseMs: number;
  readonly maxLost: number;
}

export interface Seen {
  readonly didSomething: boolean;
  /** Whether an endpoint has something due and no place for it. */
  readonly isShort: boolean;
  /** In how long something will be due, as far as is known. */
  readonly nextDueInMs: number;
}

const FAN_OUT_LIMIT = 500;
const ADMISSION_LIMIT = 500;
const OUTCOMES_LIMIT = 2_000;
/** More are not queued at once, over all endpoints: what keeps Redis small, and a lease longer than the queue. */
const MAX_QUEUED = 5_000;
const ENDPOINTS_REFRESH_MS = 1_000;
const EMPTIED_CHECK_MS = 250;
/** The floor is where the last look but so long ago had come: who commits later than that is found by the next sweep. */
/** Every so many sweeps it looks at everything, from the beginning. */
const SWEEPS_A_FULL_LOOK = 5;
const FLOOR_LAG_MS = 2_000;
/** A worker claims what it takes within milliseconds: nobody having done so after this long is worth a question. */
const SUSPECT_MS = 1_500;

/**
 * What the relay that leads does, look by look: hear what attempts came to, turn messages into deliveries, admit what is due, and queue
 * it. Reads first what its predecessor left.
 */
export async function startLook(options: LookOptions): Promise<() => Promise<Seen>> {
  const { db, queue, log } = options;
  const places = new Places();
  const attendance = createAttendance(db);
  let inherited: readonly QueuedDelivery[] = [];
  let [floor, nextFloor, floorAt]: [Floor, Floor, number] = [NO_FLOOR, NO_FLOOR, 0];
  let [sweptAt, sweeps, refreshedAt, emptiedCheckedAt] = [
    performance.now(),
    0,
    Number.NEGATIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ];
  let heardOf = await lastOutcome(db);

  await takeOver();
  return look;

  async function takeOver(): Promise<void> {
    const now = performance.now();
    const queued = await findQueued(db);
    for (const delivery of queued) places.take(delivery, now);
    places.expectAll(now);
    attendance.expect(queued.flatMap(({ claimedBy }) => claimedBy ?? []));
    // Who led before may have been struck between his statement and the queue; where he was not, a job comes twice, and is claimed once.
    inherited = queued.filter(({ claimedBy }) => claimedBy === null);
  }

  async function look(): Promise<Seen> {
    await refresh();
    if (inherited.length > 0) await queue.enqueue(inherited);
    inherited = [];
    await hearOutcomes();
    const messages = await takeMessages();
    const admitted = await admit();
    const now = performance.now();
    return {
      didSomething: messages + admitted > 0,
      isShort: places.isShort(now),
      nextDueInMs: places.nextDueAt() - now,
    };
  }

  /** What need not be looked at each time. */
  async function refresh(): Promise<void> {
    const now = performance.now();
    if (now - emptiedCheckedAt >= EMPTIED_CHECK_MS) {
      emptiedCheckedAt = now;
      if (await queue.wasEmptied()) await refill();
    }
    if (now - sweptAt >= options.sweepMs) {
      sweptAt = now;
      sweeps += 1;
      if (sweeps % SWEEPS_A_FULL_LOOK === 0) {
        [floor, nextFloor] = [NO_FLOOR, NO_FLOOR];
        places.expectAll(now);
      }
      await sweep();
    }
    if (now - refreshedAt >= ENDPOINTS_REFRESH_MS) {
      refreshedAt = now;
      places.setEndpoints(await listLimits(db), now);
    }
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
    const outcomes = await readOutcomes(db, { since: heardOf, fromDay, limit: OUTCOMES_LIMIT });
    const now = performance.now();
    for (const outcome of outcomes) places.finish(outcome, now);
    heardOf = outcomes.at(-1)?.seq ?? heardOf;
  }

  async function takeMessages(): Promise<number> {
    const now = performance.now();
    const free = queue.answers() && places.size < MAX_QUEUED ? places.free(now) : new Map<string, number>();
    const total = [...free.values()].reduce((sum, count) => sum + count, 0);
    // They wait as well as messages, and cost less then. Whom they are for is not known before they are taken: so they are, while
    // anybody could be sent one.
    if (total === 0 && places.isAnyOpen()) return 0;
    const fanned = await fanOut(db, {
      limit: total === 0 ? FAN_OUT_LIMIT : Math.min(FAN_OUT_LIMIT, total),
      floor,
      places: free,
      queueLeaseMs: options.queueLeaseMs,
    });
    for (const delivery of fanned.queued) places.take(delivery, now);
    for (const endpointId of fanned.waiting) {
      if (!places.knows(endpointId)) refreshedAt = Number.NEGATIVE_INFINITY;
      places.expect(endpointId, now);
    }
    if (fanned.reached !== undefined) moveFloor(fanned.reached, now);
    await enqueue(fanned.queued);
    return fanned.messages;
  }

  function moveFloor(reached: Floor, now: number): void {
    if (now - floorAt >= FLOOR_LAG_MS) [floor, nextFloor, floorAt] = [nextFloor, reached, now];
  }

  async function admit(): Promise<number> {
    const now = performance.now();
    const limit = Math.min(ADMISSION_LIMIT, MAX_QUEUED - places.size);
    const wanted = places.wanted(now);
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
    await returnUnclaimed(db, deliveries);
    const now = performance.now();
    for (const { deliveryId, endpointId } of deliveries) {
      places.give(deliveryId);
      places.expect(endpointId, now);
    }
  }

  /** Asks the tables about whatever has had a place for longer than it takes to be claimed and answered. */
  async function sweep(): Promise<void> {
    const suspects = places.heldBefore(performance.now() - SUSPECT_MS);
    if (suspects.length === 0) return;
    const standings = await inspectQueued(db, suspects);
    // Asked afterwards: a worker that came meanwhile may have claimed some of them.
    const workers = await attendance.present();
    const isGone = (worker: number | null) => worker !== null && !workers.includes(worker);
    const byId = new Map(suspects.map((suspect) => [suspect.deliveryId, suspect]));
    const those = (judge: (standing: Standing) => boolean) =>
      standings.filter(judge).flatMap(({ deliveryId }) => byId.get(deliveryId) ?? []);
    for (const { deliveryId } of those(({ standing }) => standing === 'over')) places.give(deliveryId);
    await giveBack(those(({ standing }) => standing === 'unwanted'));
    await takeBack(
      those(({ standing, claimedBy }) => standing === 'expired' || isGone(claimedBy)),
      workers,
    );
    await queueAgain(those(({ standing }) => standing === 'waiting'));
  }

  async function takeBack(lost: readonly QueuedDelivery[], workers: readonly number[]): Promise<void> {
    if (lost.length === 0) return;
    const returned = await returnLost(db, { jobs: lost, workers, maxLost: options.maxLost });
    if (returned > 0) log.warn({ returned }, 'relay: took back deliveries whose worker or lease was lost');
    const now = performance.now();
    for (const { deliveryId, endpointId } of lost) {
      places.give(deliveryId);
      places.expect(endpointId, now);
    }
  }

  // While jobs wait in the queue theirs are among them; when none does, somebody took theirs and was lost before he claimed them.
  async function queueAgain(waiting: readonly QueuedDelivery[]): Promise<void> {
    if (waiting.length === 0 || (await queue.hasWaiting())) return;
    log.warn({ deliveries: waiting.length }, 'relay: queued again what was handed out and not claimed');
    for (const delivery of waiting) places.take(delivery, performance.now());
    await queue.enqueue(waiting);
  }
}

async function lastOutcome(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ seq: bigint }>('select last_value as seq from outbox.attempt_seqs');
  return rows[0]?.seq ?? 0n;
}
