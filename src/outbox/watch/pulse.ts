import type { Part } from '../observer.ts';
import type { Vitals } from './liveness.ts';
import { Standstill } from './standstill.ts';

/** When each part of a worker last got on, and how far the worker is between its start and its end. */
export class Pulse {
  /** Jobs that wait in the queue, and deliveries that are due. */
  readonly standstills = { jobs: new Standstill(), deliveries: new Standstill() };
  readonly #now: () => number;
  readonly #beatAt: Record<Part, number>;
  #stage: { readonly name: Vitals['stage']; readonly at: number; readonly since: Date };

  /** @param now in milliseconds; only differences count */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#beatAt = { relay: now(), presence: now(), attempts: now() };
    this.#stage = { name: 'starting', at: now(), since: new Date() };
  }

  get stage(): { readonly name: Vitals['stage']; readonly since: Date } {
    return this.#stage;
  }

  enter(name: Vitals['stage']): void {
    this.#stage = { name, at: this.#now(), since: new Date() };
    for (const part of Object.keys(this.#beatAt) as Part[]) this.beat(part);
  }

  beat(part: Part): void {
    this.#beatAt[part] = this.#now();
  }

  lastBeat(part: Part): number {
    return this.#beatAt[part];
  }

  vitals(blockedMs: number): Vitals {
    const now = this.#now();
    return {
      stage: this.#stage.name,
      stageMs: now - this.#stage.at,
      blockedMs,
      silentMs: { relay: now - this.#beatAt.relay, presence: now - this.#beatAt.presence },
      jobsLeftMs: this.standstills.jobs.forMs(now),
      standstillMs: this.standstills.deliveries.forMs(now),
    };
  }
}
