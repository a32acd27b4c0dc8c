import { print } from '../figures.ts';
import { untilRecorded } from './clock.ts';
import { CONCURRENCY, type Contender } from './contender.ts';
import { cpuBetween, cpuWords, perThousand } from './cpu.ts';
import { ours } from './ours.ts';
import type { Stage } from './stage.ts';

const FAN_OUTS = [1, 5];
const SAMPLE_MS = 250;
const MEGABYTE = 1_048_576;
/** What Redis may hold more than before, however many messages wait: the jobs in flight, and no more. */
const MOST_GROWTH_MB = 16;

/** A backlog as an outage leaves it, to one endpoint and to five: how fast does it go, and what does Redis hold meanwhile? */
export async function benchDrain(
  stage: Stage,
  contenders: readonly Contender[],
  size: { readonly messages: number },
): Promise<boolean> {
  const met: boolean[] = [];
  for (const backend of ['redis', 'postgres'] as const) {
    if (!contenders.some(({ name }) => name === `ours-${backend}`)) continue;
    for (const fanOut of FAN_OUTS) met.push(await drain(stage, backend, { ...size, fanOut }));
  }
  return met.every(Boolean);
}

function drain(
  stage: Stage,
  backend: 'redis' | 'postgres',
  { messages, fanOut }: { messages: number; fanOut: number },
): Promise<boolean> {
  const contender = ours(backend, { endpoints: fanOut, each: 'to-all', maxInFlight: 2 * CONCURRENCY });
  const deliveries = messages * fanOut;
  return stage.play(contender, async (place) => {
    const producer = await contender.open(place);
    await stage.receiver.expect({ messages, endpoints: fanOut, hangMs: 0 });
    await producer.preload(messages);
    const memory = await watchMemory(stage);
    const worker = await stage.startWorker(contender, place);
    try {
      await stage.receiver.untilRequests(1);
      const before = worker.cpu();
      await stage.receiver.untilRequests(deliveries);
      const recordedAtMs = await untilRecorded(producer);
      const cpu = perThousand(cpuBetween(before, worker.cpu()), deliveries);
      const { firstAtMs, duplicates } = await stage.receiver.report();
      const seconds = (recordedAtMs - firstAtMs) / 1_000;
      print(
        `drain, ${contender.name}: ${messages} messages, fan-out ${fanOut}: ${seconds.toFixed(1)} s, ${Math.round(deliveries / seconds)} deliveries/s, ${duplicates} twice; CPU s per 1,000: ${cpuWords([cpu])}`,
      );
      return reportMemory(await memory.stop());
    } finally {
      await memory.stop();
      await worker.kill();
      await producer.close();
    }
  });
}

interface Memory {
  readonly beforeMb: number;
  readonly peakMb: number;
  readonly afterMb: number;
}

function reportMemory({ beforeMb, peakMb, afterMb }: Memory): boolean {
  const isMet = peakMb - beforeMb <= MOST_GROWTH_MB;
  print(
    `  Redis ${beforeMb.toFixed(1)} MB before, ${peakMb.toFixed(1)} at its peak, ${afterMb.toFixed(1)} after; target at most ${MOST_GROWTH_MB} more${isMet ? '' : ' MISSED'}`,
  );
  return isMet;
}

async function watchMemory({ redis }: Stage): Promise<{ stop(): Promise<Memory> }> {
  const usedMb = async () => Number(/used_memory:(\d+)/.exec(await redis.client.info('memory'))?.[1]) / MEGABYTE;
  const beforeMb = await usedMb();
  let peakMb = beforeMb;
  const timer = setInterval(async () => {
    peakMb = Math.max(peakMb, await usedMb());
  }, SAMPLE_MS);
  return {
    stop: async () => {
      clearInterval(timer);
      return { beforeMb, peakMb, afterMb: await usedMb() };
    },
  };
}
