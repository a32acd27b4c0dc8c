import { setTimeout as pause } from 'node:timers/promises';
import { nowMs } from './clock.ts';
import type { Contender, Place, Producer } from './contender.ts';
import { type CpuSeconds, cpuBetween, perThousand } from './cpu.ts';
import type { Stage } from './stage.ts';

export interface Drained {
  readonly seconds: number;
  readonly perSecond: number;
  /** Per 1,000 deliveries. */
  readonly cpu: CpuSeconds;
  readonly duplicates: number;
}

const RECORDED_POLL_MS = 20;

/**
 * Messages that wait when the worker starts: from the first that comes until all are delivered and recorded, so that its start does not
 * count.
 */
export async function drainBacklog(
  { receiver, startWorker }: Stage,
  contender: Contender,
  place: Place,
  { messages, endpoints }: { messages: number; endpoints: number },
): Promise<Drained> {
  const deliveries = messages * endpoints;
  const producer = await contender.open(place);
  await receiver.expect({ messages, endpoints, hangMs: 0 });
  await producer.preload(messages);
  const worker = await startWorker(contender, place);
  try {
    await receiver.untilRequests(1);
    const before = worker.cpu();
    await receiver.untilRequests(deliveries);
    const recordedAtMs = await untilRecorded(producer);
    const cpu = perThousand(cpuBetween(before, worker.cpu()), deliveries);
    const { firstAtMs, duplicates } = await receiver.report();
    const seconds = (recordedAtMs - firstAtMs) / 1_000;
    return { seconds, perSecond: deliveries / seconds, cpu, duplicates };
  } finally {
    await worker.kill();
    await producer.close();
  }
}

/** @returns when nothing was left to record, on the receiver's clock */
async function untilRecorded(producer: Producer): Promise<number> {
  for (;;) {
    const askedAtMs = nowMs();
    if ((await producer.unrecorded()) === 0) return askedAtMs;
    await pause(RECORDED_POLL_MS);
  }
}
