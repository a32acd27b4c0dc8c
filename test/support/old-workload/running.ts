import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../../../src/db/pool.ts';
import { type Act, type Turn, Written } from './act.ts';
import type { Draw } from './draw.ts';

/** For what was begun to end, once nothing more is begun. */
const END_MS = 60_000;

export type Pools = Readonly<Record<Act['as'], Pool>>;

export interface Failure {
  readonly act: string;
  readonly sqlstate: string;
  readonly message: string;
  readonly phase: string;
}

export interface Phase {
  /** From when each was due until it was done. */
  readonly tookMs: readonly number[];
  readonly failures: readonly Failure[];
}

/** What is under way, what came of it, and in which phase it was due. */
export class Running {
  readonly written = new Written();
  private readonly pools: Pools;
  private readonly draw: Draw;
  private readonly phases = new Map<string, { tookMs: number[]; failures: Failure[] }>();
  private readonly underWay = new Set<Promise<void>>();
  private current = 'warm-up';

  constructor(pools: Pools, draw: Draw) {
    this.pools = pools;
    this.draw = draw;
  }

  enter(phase: string): void {
    this.current = phase;
  }

  phase(name: string): { tookMs: number[]; failures: Failure[] } {
    const phase = this.phases.get(name) ?? { tookMs: [], failures: [] };
    this.phases.set(name, phase);
    return phase;
  }

  beginAt(perSecond: number): { stop(): void } {
    const startedAt = performance.now();
    let begun = 0;
    const timer = setInterval(() => {
      for (; startedAt + (begun * 1_000) / perSecond <= performance.now(); begun += 1) {
        this.begin(startedAt + (begun * 1_000) / perSecond);
      }
    }, 1);
    return { stop: () => clearInterval(timer) };
  }

  private begin(dueAt: number): void {
    const pick = (below: number) => Math.floor(Math.random() * below);
    const act = this.draw(pick);
    const phase = this.current;
    const done = this.run(act, { pick, written: this.written, isQualified: pick(2) === 0 })
      .catch((error: unknown) => this.fail(act.name, phase, error))
      .finally(() => {
        this.phase(phase).tookMs.push(performance.now() - dueAt);
        this.underWay.delete(done);
      });
    this.underWay.add(done);
  }

  private async run(act: Act, turn: Turn): Promise<void> {
    const client = await this.pools[act.as].connect();
    try {
      await act.run(client, turn);
    } finally {
      client.release();
    }
  }

  fail(act: string, phase: string, error: unknown): void {
    const { code = 'none', message } = error as { code?: string; message: string };
    this.phase(phase).failures.push({ act, sqlstate: code, message, phase });
  }

  get phaseNow(): string {
    return this.current;
  }

  async settled(): Promise<void> {
    const deadline = new AbortController();
    await Promise.race([
      Promise.all(this.underWay),
      sleep(END_MS, undefined, { signal: deadline.signal }).then(() => {
        throw new Error(`${this.underWay.size} acts did not end within ${END_MS} ms`);
      }),
    ]).finally(() => deadline.abort());
  }
}
