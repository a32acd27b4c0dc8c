import { setTimeout as pause } from 'node:timers/promises';
import { median, print, spread } from '../figures.ts';
import type { Contender, Producer } from './contender.ts';
import { type CpuSeconds, cpuBetween } from './cpu.ts';
import type { Stage } from './stage.ts';

interface Drained {
  readonly perSecond: number;
  /** Per 1,000 deliveries. */
  readonly cpu: CpuSeconds;
}

/** What is owed: parts of what the others deliver. */
const TARGETS: Readonly<Record<string, number>> = { 'raw-bullmq': 0.5, 'graphile-worker': 1, 'pg-boss': 1 };
const OURS = /^ours-/;
const RECORDED_POLL_MS = 20;

/** How many deliveries a second, when there is always more to do? By turns; the worker's start does not count. */
export async function benchSaturation(
  stage: Stage,
  contenders: readonly Contender[],
  size: { readonly rounds: number; readonly messages: number },
): Promise<boolean> {
  const drained = new Map<string, Drained[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 1; round <= size.rounds; round += 1) {
    for (const contender of contenders) {
      const result = await drain(stage, contender, size.messages);
      drained.get(contender.name)?.push(result);
      print(`round ${round}: ${contender.name.padEnd(16)} ${Math.round(result.perSecond).toString().padStart(6)}/s`);
    }
  }
  print(
    `\nsaturation: ${size.messages} messages that wait, to one endpoint; medians of ${size.rounds} rounds (from, to)`,
  );
  for (const [name, rounds] of drained) print(lineOf(name, rounds));
  return report(drained);
}

async function drain(stage: Stage, contender: Contender, messages: number): Promise<Drained> {
  return stage.play(contender, async (place) => {
    const producer = await contender.open(place);
    await stage.receiver.expect({ messages, endpoints: 1, hangMs: 0 });
    await producer.preload(messages);
    const worker = await stage.startWorker(contender, place);
    try {
      await stage.receiver.untilRequests(1);
      const before = worker.cpu();
      await stage.receiver.untilRequests(messages);
      const recordedAtMs = await untilRecorded(producer);
      const cpu = cpuBetween(before, worker.cpu());
      const { firstAtMs, duplicates } = await stage.receiver.report();
      if (duplicates > 0) print(`  ${contender.name} delivered ${duplicates} twice`);
      return { perSecond: (messages / (recordedAtMs - firstAtMs)) * 1_000, cpu: perThousand(cpu, messages) };
    } finally {
      await worker.stop();
      await producer.close();
    }
  });
}

/** @returns when nothing was left to record, on the receiver's clock */
export async function untilRecorded(producer: Producer): Promise<number> {
  for (;;) {
    const askedAtMs = Number(process.hrtime.bigint()) / 1e6;
    if ((await producer.unrecorded()) === 0) return askedAtMs;
    await pause(RECORDED_POLL_MS);
  }
}

function report(drained: ReadonlyMap<string, readonly Drained[]>): boolean {
  const met: boolean[] = [];
  for (const [name, rounds] of drained) {
    if (!OURS.test(name)) continue;
    for (const [peer, target] of Object.entries(TARGETS)) {
      const theirs = drained.get(peer);
      if (theirs === undefined) continue;
      const ratios = rounds.map(({ perSecond }, nth) => perSecond / (theirs[nth]?.perSecond ?? Number.NaN));
      met.push(median(ratios) >= target);
      print(`${name} to ${peer}: ${spread(ratios)}, target ${target}${met.at(-1) ? '' : ' MISSED'}`);
    }
  }
  return met.every(Boolean);
}

function lineOf(name: string, rounds: readonly Drained[]): string {
  const cpu = (of: keyof CpuSeconds) => median(rounds.map((round) => round.cpu[of])).toFixed(2);
  const rate = spread(
    rounds.map(({ perSecond }) => perSecond),
    0,
  );
  return `${name.padEnd(16)} ${rate.padStart(20)} /s; CPU s per 1,000: worker ${cpu('worker')}, postgres ${cpu('postgres')}, redis ${cpu('redis')}, receiver ${cpu('receiver')}`;
}

const perThousand = (cpu: CpuSeconds, deliveries: number): CpuSeconds => ({
  worker: (cpu.worker / deliveries) * 1_000,
  postgres: (cpu.postgres / deliveries) * 1_000,
  redis: (cpu.redis / deliveries) * 1_000,
  receiver: (cpu.receiver / deliveries) * 1_000,
});
