import { print } from '../figures.ts';
import { drainBacklog } from './backlog.ts';
import { CONCURRENCY, type Contender } from './contender.ts';
import { cpuWords } from './cpu.ts';
import { OUR_BACKENDS, type OurBackend, ours } from './ours.ts';
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
  for (const backend of OUR_BACKENDS) {
    if (!contenders.some(({ name }) => name === ours(backend).name)) continue;
    for (const endpoints of FAN_OUTS) met.push(await drain(stage, backend, { ...size, endpoints }));
  }
  return met.every(Boolean);
}

function drain(stage: Stage, backend: OurBackend, size: { messages: number; endpoints: number }): Promise<boolean> {
  const { messages, endpoints } = size;
  const contender = ours(backend, { endpoints, each: 'to-all', maxInFlight: 2 * CONCURRENCY });
  return stage.play(contender, async (place) => {
    const memory = await watchMemory(stage);
    try {
      const { seconds, perSecond, duplicates, cpu } = await drainBacklog(stage, contender, place, size);
      print(
        `drain, ${contender.name}: ${messages} messages, fan-out ${endpoints}: ${seconds.toFixed(1)} s, ${Math.round(perSecond)} deliveries/s, ${duplicates} twice; CPU s per 1,000: ${cpuWords([cpu])}`,
      );
    } finally {
      memory.stop();
    }
    return reportMemory(await memory.seen());
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

async function watchMemory({ redis }: Stage): Promise<{ stop(): void; seen(): Promise<Memory> }> {
  const usedMb = async () => Number(/used_memory:(\d+)/.exec(await redis.client.info('memory'))?.[1]) / MEGABYTE;
  const beforeMb = await usedMb();
  let peakMb = beforeMb;
  const timer = setInterval(async () => {
    peakMb = Math.max(peakMb, await usedMb());
  }, SAMPLE_MS);
  return {
    stop: () => clearInterval(timer),
    seen: async () => ({ beforeMb, peakMb, afterMb: await usedMb() }),
  };
}
