import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import type { QueuedDelivery } from './admission.ts';
import { moveLinesUp } from './lines.ts';
import type { Places } from './places.ts';
import { createAttendance } from './presence.ts';
import type { DeliveryQueue } from './queue.ts';
import { inspectQueued, returnLost, type Standing } from './taking-back.ts';

export interface Sweep {
  run(): Promise<void>;
  /** They have something claimed, so they were there a moment ago. */
  expectWorkers(workers: readonly number[]): void;
}

export interface SweepOptions {
  readonly db: Queryable;
  readonly queue: DeliveryQueue;
  readonly log: Logger;
  readonly places: Places;
  readonly maxLost: number;
  readonly giveBack: (deliveries: readonly QueuedDelivery[]) => Promise<void>;
}

/** A worker claims what it takes within milliseconds: nobody having done so after this long is worth a question. */
const SUSPECT_MS = 1_500;

/** A line of the log names so many at most. */
const NAMED_DELIVERIES = 20;

function firstIds(deliveries: readonly QueuedDelivery[]): readonly string[] {
  return deliveries.slice(0, NAMED_DELIVERIES).map(({ deliveryId }) => deliveryId);
}

/** Asks the tables about whatever has had a place for longer than it takes to be claimed and answered. */
export function createSweep({ db, queue, log, places, maxLost, giveBack }: SweepOptions): Sweep {
  const attendance = createAttendance(db);

  async function run(): Promise<void> {
    const suspects = places.heldBefore(performance.now() - SUSPECT_MS);
    if (suspects.length === 0) return;
    const standings = await inspectQueued(db, suspects);
    // Asked afterwards: a worker that came meanwhile may have claimed some of them.
    const workers = await attendance.present();
    const isGone = (worker: number | null) => worker !== null && !workers.includes(worker);
    const byId = new Map(suspects.map((suspect) => [suspect.deliveryId, suspect]));
    const those = (judge: (standing: Standing) => boolean) =>
      standings.filter(judge).flatMap(({ deliveryId }) => byId.get(deliveryId) ?? []);
    await forget(those(({ standing }) => standing === 'over'));
    await giveBack(those(({ standing }) => standing === 'unwanted'));
    await takeBack(
      those(({ standing, claimedBy }) => standing === 'expired' || isGone(claimedBy)),
      workers,
    );
    await queueAgain(those(({ standing }) => standing === 'waiting'));
  }

  // Their outcomes were recorded, and not heard of.
  async function forget(over: readonly QueuedDelivery[]): Promise<void> {
    if (over.length === 0) return;
    await moveLinesUp(db, over);
    const now = performance.now();
    for (const { deliveryId, endpointId } of over) {
      places.give(deliveryId);
      places.expect(endpointId, now);
    }
  }

  async function takeBack(lost: readonly QueuedDelivery[], workers: readonly number[]): Promise<void> {
    if (lost.length === 0) return;
    const returned = await returnLost(db, { jobs: lost, workers, maxLost });
    if (returned > 0)
      log.warn({ returned, deliveryIds: firstIds(lost) }, 'relay: took back deliveries whose worker or lease was lost');
    await forget(lost);
  }

  // While jobs wait in the queue theirs are among them; when none does, somebody took theirs and was lost before he claimed them.
  async function queueAgain(waiting: readonly QueuedDelivery[]): Promise<void> {
    if (waiting.length === 0 || (await queue.hasWaiting())) return;
    const told = { deliveries: waiting.length, deliveryIds: firstIds(waiting) };
    log.warn(told, 'relay: queued again what was handed out and not claimed');
    const now = performance.now();
    for (const delivery of waiting) places.take(delivery, now);
    await queue.enqueue(waiting);
  }

  return { run, expectWorkers: attendance.expect };
}
