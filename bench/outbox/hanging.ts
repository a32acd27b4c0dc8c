import { type Latency, latencyOf, median, print, spread } from '../figures.ts';
import type { Contender } from './contender.ts';
import { lengthOf, offer, saturationWhileCommitting, withWorker } from './load.ts';
import { OUR_BACKENDS, ours } from './ours.ts';
import type { Stage } from './stage.ts';

const ENDPOINTS = 100;
const HANG_MS = 30_000;
/** Of what it gets through while as many are committed. */
const SHARE = 0.5;
const TARGET = 1.2;
/** Than the rounds of the other parts: requests are to time out, and to be tried again, within one. */
const LONGER = 3;
/** How long after the last commit a message may still come to be counted. */
const GRACE_MS = 5_000;

/**
 * One of 100 endpoints answers after 30 s: what do the other 99 notice? Each gets a hundredth of the messages, and has the limits that an
 * endpoint has when nobody says otherwise. By turns with a time when all of them answer at once.
 */
export async function benchHanging(
  stage: Stage,
  contenders: readonly Contender[],
  size: { readonly rounds: number; readonly seconds: number },
): Promise<boolean> {
  const met: boolean[] = [];
  for (const backend of OUR_BACKENDS) {
    const contender = ours(backend, { endpoints: ENDPOINTS, each: 'to-one' });
    if (!contenders.some(({ name }) => name === contender.name)) continue;
    const perSecond = SHARE * (await saturationWhileCommitting(stage, ours(backend), size.seconds * 1_000));
    const [calm, hanging]: [Latency[], Latency[]] = [[], []];
    const load = { perSecond, seconds: LONGER * size.seconds };
    for (let round = 0; round < size.rounds; round += 1) {
      calm.push(await run(stage, contender, { ...load, hangMs: 0 }));
      hanging.push(await run(stage, contender, { ...load, hangMs: HANG_MS }));
    }
    met.push(report(`${contender.name}, ${Math.round(perSecond)}/s`, calm, hanging));
  }
  return met.every(Boolean);
}

function run(
  stage: Stage,
  contender: Contender,
  load: { perSecond: number; seconds: number; hangMs: number },
): Promise<Latency> {
  const { messages, from } = lengthOf(load);
  return stage.play(contender, async (place) => {
    await stage.receiver.expect({ messages, endpoints: ENDPOINTS, hangMs: load.hangMs });
    return withWorker(stage, contender, place, async (producer) => {
      const { committedAtMs } = await offer(producer, { ...load, messages });
      // The hanging one's are late by what was asked for, and not waited for.
      await stage.receiver.untilRequests(messages, GRACE_MS);
      const { arrivals } = await stage.receiver.report();
      return latencyOfOthers({ arrivals, committedAtMs, from });
    });
  });
}

function latencyOfOthers(run: { arrivals: Float64Array; committedAtMs: Float64Array; from: number }): Latency {
  const tookMs: number[] = [];
  for (let n = run.from; n < run.committedAtMs.length; n += 1) {
    const endpoint = n % ENDPOINTS;
    if (endpoint === 0) continue;
    tookMs.push((run.arrivals[n * ENDPOINTS + endpoint] || Number.POSITIVE_INFINITY) - (run.committedAtMs[n] ?? 0));
  }
  return latencyOf(tookMs);
}

function report(name: string, calm: readonly Latency[], hanging: readonly Latency[]): boolean {
  const ratios = hanging.map(({ p99 }, nth) => p99 / (calm[nth]?.p99 ?? Number.NaN));
  const isMet = median(ratios) <= TARGET;
  const p99 = (rounds: readonly Latency[]) =>
    spread(
      rounds.map((round) => round.p99),
      1,
    );
  print(
    `one of ${ENDPOINTS} hangs ${HANG_MS / 1_000} s, ${name}: p99 of the others ${p99(hanging)} ms, without ${p99(calm)}, ratio ${spread(ratios)}, target ${TARGET}${isMet ? '' : ' MISSED'}`,
  );
  return isMet;
}
