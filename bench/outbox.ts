import { parseArgs } from 'node:util';
import type { Contender } from './outbox/contender.ts';
import { ours } from './outbox/ours.ts';
import { graphileWorker, pgBoss, rawBullMq } from './outbox/peers.ts';
import { benchSaturation } from './outbox/saturation.ts';
import { openStage } from './outbox/stage.ts';

const CONTENDERS: readonly Contender[] = [ours('redis'), ours('postgres'), rawBullMq, graphileWorker, pgBoss];

/**
 * How fast are committed rows delivered, and what does it cost those who commit? Beside raw BullMQ, Graphile Worker and pg-boss, which do
 * the same in the same run. Answers whether the targets were met.
 */
export async function benchOutbox(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string' },
      only: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      backlog: { type: 'string', default: '20000' },
    },
  });
  const only = values.only?.split(',');
  const contenders = CONTENDERS.filter(({ name }) => only === undefined || only.includes(name));
  const stage = await openStage();
  try {
    return await benchSaturation(stage, contenders, {
      rounds: Number(values.rounds),
      messages: Number(values.backlog),
    });
  } finally {
    await stage.close();
  }
}
