import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { print } from './figures.ts';
import { Misuse } from './misuse.ts';
import { benchCommits } from './outbox/commits.ts';
import type { Contender } from './outbox/contender.ts';
import { benchDrain } from './outbox/drain.ts';
import { benchHanging } from './outbox/hanging.ts';
import { benchLatency } from './outbox/latency.ts';
import { ours } from './outbox/ours.ts';
import { graphileWorker, pgBoss, rawBullMq } from './outbox/peers.ts';
import { benchSaturation } from './outbox/saturation.ts';
import { openStage, type Stage } from './outbox/stage.ts';

const CONTENDERS: readonly Contender[] = [ours('redis'), ours('postgres'), rawBullMq, graphileWorker, pgBoss];

interface Size {
  readonly rounds: number;
  /** How long one round of one contender lasts, where it is not a number of messages that ends it. */
  readonly seconds: number;
  /** What waits in the saturation part, and in the drain. */
  readonly backlog: number;
  readonly messages: number;
}

/** Each answers whether its targets were met. */
const PARTS: Readonly<
  Record<string, (stage: Stage, contenders: readonly Contender[], size: Size) => Promise<boolean>>
> = {
  saturation: (stage, contenders, size) => benchSaturation(stage, contenders, { ...size, messages: size.backlog }),
  latency: benchLatency,
  commits: (stage, _contenders, size) => benchCommits(stage, size),
  drain: benchDrain,
  hanging: benchHanging,
};

/**
 * How fast are committed rows delivered, and what does it cost those who commit? Beside raw BullMQ, Graphile Worker and pg-boss, which do
 * the same in the same run. Answers whether the targets were met.
 */
export async function benchOutbox(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string', default: Object.keys(PARTS).join(',') },
      only: { type: 'string', default: CONTENDERS.map(({ name }) => name).join(',') },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '10' },
      backlog: { type: 'string', default: '20000' },
      messages: { type: 'string', default: '1000000' },
    },
  });
  const parts = known(values.part, PARTS);
  const contenders = known(values.only, Object.fromEntries(CONTENDERS.map((contender) => [contender.name, contender])));
  const size = {
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    backlog: Number(values.backlog),
    messages: Number(values.messages),
  };
  const stage = await openStage();
  try {
    const met: boolean[] = [];
    for (const part of parts) {
      // Of whoever else is at work as well: then the rates are his too, and the seconds of processor time alone are ours.
      print(`load of the machine: ${loadavg()[0]?.toFixed(1)}`);
      met.push(await part(stage, contenders, size));
    }
    if (!met.every(Boolean)) print('\na target was MISSED');
    return met.every(Boolean);
  } finally {
    await stage.close();
  }
}

/** What a list of names means. @throws Misuse when it means nothing */
function known<T>(names: string, all: Readonly<Record<string, T>>): readonly T[] {
  return names.split(',').map((name) => {
    const one = all[name];
    if (one === undefined) throw new Misuse(`${name} is none of ${Object.keys(all).join(', ')}`);
    return one;
  });
}
