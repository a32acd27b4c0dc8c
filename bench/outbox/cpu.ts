import { readdirSync, readFileSync } from 'node:fs';
import { median } from '../figures.ts';

/** Seconds of processor time by process, of a span of time. */
export type CpuSeconds = Readonly<Record<'worker' | 'postgres' | 'redis' | 'receiver', number>>;

export interface Processes {
  readonly worker: number;
  /** The parent of all of the server's processes. */
  readonly postgres: number;
  readonly redis: number;
  readonly receiver: number;
}

/** Of USER_HZ, which Linux shows to programs as 100 whatever its own clock is. */
const TICKS_PER_SECOND = 100;

/** What they have used since they began. NaN where the system does not show processes in /proc. */
export function cpuSeconds({ worker, postgres, redis, receiver }: Processes): CpuSeconds {
  return {
    worker: ownSeconds(worker),
    postgres: familySeconds(postgres),
    redis: ownSeconds(redis),
    receiver: ownSeconds(receiver),
  };
}

export function cpuBetween(before: CpuSeconds, after: CpuSeconds): CpuSeconds {
  return {
    worker: after.worker - before.worker,
    postgres: after.postgres - before.postgres,
    redis: after.redis - before.redis,
    receiver: after.receiver - before.receiver,
  };
}

export const perThousand = (cpu: CpuSeconds, deliveries: number): CpuSeconds => ({
  worker: (cpu.worker / deliveries) * 1_000,
  postgres: (cpu.postgres / deliveries) * 1_000,
  redis: (cpu.redis / deliveries) * 1_000,
  receiver: (cpu.receiver / deliveries) * 1_000,
});

/** `worker 0.10, postgres 0.02, …`: of each the median. */
export function cpuWords(rounds: readonly CpuSeconds[]): string {
  const of = (name: keyof CpuSeconds) => `${name} ${median(rounds.map((round) => round[name])).toFixed(2)}`;
  return [of('worker'), of('postgres'), of('redis'), of('receiver')].join(', ');
}

/** The parent of a process, or 0. */
export function parentOf(pid: number): number {
  return Number(stat(pid)?.[1] ?? 0);
}

const ownSeconds = (pid: number) => seconds(stat(pid), [11, 12]);

// What has ended in between is in its parent's account of children that it has waited for, so that none is lost.
function familySeconds(parent: number): number {
  const pids = readable(() => readdirSync('/proc'))?.filter((name) => /^\d+$/.test(name)) ?? [];
  const children = pids.map((pid) => stat(Number(pid))).filter((fields) => Number(fields?.[1]) === parent);
  return children.reduce((sum, fields) => sum + seconds(fields, [11, 12]), seconds(stat(parent), [11, 12, 13, 14]));
}

const seconds = (fields: readonly string[] | undefined, at: readonly number[]) =>
  at.reduce((sum, index) => sum + Number(fields?.[index] ?? Number.NaN), 0) / TICKS_PER_SECOND;

/** The fields behind the name, which may hold anything: state, parent, … */
function stat(pid: number): readonly string[] | undefined {
  const text = readable(() => readFileSync(`/proc/${pid}/stat`, 'utf8'));
  return text?.slice(text.lastIndexOf(')') + 2).split(' ');
}

// A process may end between being listed and being read.
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
