import { setTimeout as pause } from 'node:timers/promises';
import type { Producer } from './contender.ts';

const RECORDED_POLL_MS = 20;

/** The clock that all processes of a machine share; the receiver writes down arrivals by it. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** @returns when nothing was left to record */
export async function untilRecorded(producer: Producer): Promise<number> {
  for (;;) {
    const askedAtMs = nowMs();
    if ((await producer.unrecorded()) === 0) return askedAtMs;
    await pause(RECORDED_POLL_MS);
  }
}
