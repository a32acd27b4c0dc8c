import { median, print, spread } from '../figures.ts';
import { type Drained, drainBacklog } from './backlog.ts';
import { type Contender, isOurs } from './contender.ts';
import { cpuWords } from './cpu.ts';
import type { Stage } from './stage.ts';

/** What is owed: parts of what the others deliver. */
const TARGETS: Readonly<Record<string, number>> = { 'raw-bullmq': 0.5, 'graphile-worker': 1, 'pg-boss': 1 };

/** How many deliveries a second, when there is always more to do? By turns. */
export async function benchSaturation(
  stage: Stage,
  contenders: readonly Contender[],
  size: { readonly rounds: number; readonly messages: number },
): Promise<boolean> {
  const drained = new Map<string, Drained[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 1; round <= size.rounds; round += 1) {
    for (const contender of contenders) {
      const result = await stage.play(contender, (place) =>
        drainBacklog(stage, contender, place, { ...size, endpoints: 1 }),
      );
      drained.get(contender.name)?.push(result);
      const twice = result.duplicates === 0 ? '' : `, ${result.duplicates} twice`;
      print(
        `round ${round}: ${contender.name.padEnd(16)} ${Math.round(result.perSecond).toString().padStart(6)}/s${twice}`,
      );
    }
  }
  print(
    `\nsaturation: ${size.messages} messages that wait, to one endpoint; medians of ${size.rounds} rounds (from, to)`,
  );
  for (const [name, rounds] of drained) print(lineOf(name, rounds));
  return report(drained);
}

function report(drained: ReadonlyMap<string, readonly Drained[]>): boolean {
  const met: boolean[] = [];
  for (const [name, rounds] of drained) {
    if (!isOurs(name)) continue;
    for (const [peer, target] of Object.entries(TARGETS)) {
      const theirs = drained.get(peer);
      if (theirs === undefined) continue;
      const ratios = rounds.map(({ perSecond }, nth) => perSecond / (theirs[nth]?.perSecond ?? Number.NaN));
      const isMet = median(ratios) >= target;
      met.push(isMet);
      print(`${name} to ${peer}: ${spread(ratios)}, target ${target}${isMet ? '' : ' MISSED'}`);
    }
  }
  return met.every(Boolean);
}

function lineOf(name: string, rounds: readonly Drained[]): string {
  const rates = rounds.map(({ perSecond }) => perSecond);
  return `${name.padEnd(16)} ${spread(rates, 0).padStart(20)} /s; CPU s per 1,000: ${cpuWords(rounds.map(({ cpu }) => cpu))}`;
}
