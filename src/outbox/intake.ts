import type { Queryable } from '../db/pool.ts';
import { admitDue, type QueuedDelivery } from './admission.ts';
import { fanOut } from './fan-out.ts';
import { MessageFloor } from './floor.ts';
import type { Places } from './places.ts';
import type { DeliveryQueue } from './queue.ts';
import { returnUnclaimed } from './taking-back.ts';

/** What brings work into the queue: new messages, and deliveries that are due, to whoever has a place. */
export interface Intake {
  /** Turns messages into deliveries. */
  takeMessages(): Promise<Taken>;
  /** Queues what is due; answers how many. */
  admit(): Promise<number>;
  /** Takes back what was queued and is not to be claimed. */
  giveBack(deliveries: readonly QueuedDelivery[]): Promise<void>;
  /** The next look passes over nothing that it has passed before. */
  beginAnew(): void;
  /** What comes may be below all that came before. */
  forgetFloor(): void;
}

interface Taken {
  readonly messages: number;
  /** Whether messages were left to wait, if there are any, because nobody could be sent one. */
  readonly isHeldUp: boolean;
}

export interface IntakeOptions {
  readonly db: Queryable;
  readonly queue: DeliveryQueue;
  readonly places: Places;
  readonly queueLeaseMs: number;
  /** There is an endpoint of which nothing is known yet. */
  readonly onUnknown: () => void;
}

const FAN_OUT_LIMIT = 500;
/** Of deliveries: a statement that made many more would be given up, and tried again for ever. */
const FANNED_OUT_AT_ONCE = 5_000;
/** Deliveries of a message, while none was seen: the first look takes ten messages. */
const SUPPOSED_FAN_OUT = 500;
/** What is left, after each look, of what messages made before. */
const FORGET_FAN_OUT = 0.5;
const ADMISSION_LIMIT = 500;
/** More are not queued at once, over all endpoints: what keeps Redis small, and a lease longer than the queue. */
const MAX_QUEUED = 5_000;

export function createIntake({ db, queue, places, queueLeaseMs, onUnknown }: IntakeOptions): Intake {
  let floor = new MessageFloor();
  /** The most deliveries of a message of late, on the average of a look. */
  let usualFanOut = SUPPOSED_FAN_OUT;

  async function takeMessages(): Promise<Taken> {
    const now = performance.now();
    // They wait as well as messages, and cost less then. Whom they are for is not known before they are taken: so they are, while
    // anybody could be sent one.
    const crowded = places.crowded(now);
    if (crowded === 'all') return { messages: 0, isHeldUp: true };
    const room = queue.answers() ? Math.max(MAX_QUEUED - places.size, 0) : 0;
    const free = room > 0 ? within(room, places.free(now, share())) : new Map<string, number>();
    const total = [...free.values()].reduce((sum, count) => sum + count, 0);
    // Behind the messages of who is crowded there may be others'.
    const most = Math.min(FAN_OUT_LIMIT, Math.ceil(FANNED_OUT_AT_ONCE / usualFanOut));
    const limit = total === 0 || crowded === 'some' ? most : Math.min(most, total);
    const fanned = await fanOut(db, {
      limit,
      floor: floor.get(now),
      places: free,
      queueLeaseMs,
    });
    if (fanned.messages > 0) {
      usualFanOut = Math.max(fanned.deliveries / fanned.messages, usualFanOut * FORGET_FAN_OUT, 1);
    }
    for (const delivery of fanned.queued) places.take(delivery, now);
    for (const endpointId of fanned.waiting) {
      if (!places.knows(endpointId)) onUnknown();
      places.expect(endpointId, now);
    }
    floor.reached(fanned.reached, now);
    await enqueue(fanned.queued);
    return { messages: fanned.messages, isHeldUp: false };
  }

  /** What one endpoint may have queued at once: however many take all they get, something is left for the next. */
  function share(): number {
    return Math.ceil((MAX_QUEUED - places.size) / 2);
  }

  async function admit(): Promise<number> {
    const now = performance.now();
    const limit = Math.min(ADMISSION_LIMIT, MAX_QUEUED - places.size);
    const wanted = places.wanted(now, share());
    if (wanted.length === 0 || limit <= 0 || !queue.answers()) return 0;
    const found = await admitDue(db, { wanted, limit, queueLeaseMs });
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

  return {
    takeMessages,
    admit,
    giveBack,
    beginAnew: () => {
      floor.fall();
      places.expectAll(performance.now());
    },
    forgetFloor: () => {
      floor = new MessageFloor();
    },
  };
}

/** Less of each, and of those with many more so, where all of them together are too many. */
function within(room: number, free: ReadonlyMap<string, number>): ReadonlyMap<string, number> {
  let left = room;
  const fewestFirst = [...free].sort(([, a], [, b]) => a - b);
  return new Map(
    fewestFirst.flatMap(([id, count], at) => {
      const given = Math.min(count, Math.ceil(left / (fewestFirst.length - at)));
      left -= given;
      return given > 0 ? [[id, given]] : [];
    }),
  );
}
