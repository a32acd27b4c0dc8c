import { median, print, spread } from '../figures.ts';
import { untilRecorded } from './clock.ts';
import type { Contender } from './contender.ts';
import { type CpuSeconds, cpuBetween, cpuWords, perThousand } from './cpu.ts';
import type { Stage } from './stage.ts';

interface Drained {
  readonly perSecond: number;
  /** Per 1,000 deliveries. */
  readonly cpu: CpuSeconds;
}

/** What is owed: parts of what the others deliver. */
const TARGETS: Readonly<Record<string, number>> = { 'raw-bullmq': 0.5, 'graphile-worker': 1, 'pg-boss': 1 };
const OURS = /^ours-/;

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
      await worker.kill();
      await producer.close();
    }
  });
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
  const rates = rounds.map(({ perSecond }) => perSecond);
  return `${name.padEnd(16)} ${spread(rates, 0).padStart(20)} /s; CPU s per 1,000: ${cpuWords(rounds.map(({ cpu }) => cpu))}`;
}
