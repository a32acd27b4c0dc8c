import { type Latency, latencyOf, median, print, spread } from '../figures.ts';
import type { Contender } from './contender.ts';
import { GRACE_MS, lengthOf, offer, saturationWhileCommitting, waitsOf, withWorker } from './load.ts';
import { OUR_BACKENDS, ours } from './ours.ts';
import type { Stage } from './stage.ts';

const ENDPOINTS = 100;
/** As the receiver has it. */
const HANGING = 0;
const HANG_MS = 30_000;
/** Of what it gets through while as many are committed. */
const SHARE = 0.5;
const TARGET = 1.2;
/** Than the rounds of the other parts: requests are to time out, and to be tried again, within one. */
const LONGER = 3;

interface Others extends Latency {
  /** What had not come when the round was over; counted as if it came then. */
  readonly missing: number;
}

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
    const [calm, hanging]: [Others[], Others[]] = [[], []];
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
): Promise<Others> {
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

function latencyOfOthers(run: { arrivals: Float64Array; committedAtMs: Float64Array; from: number }): Others {
  const all = [...run.committedAtMs].map((sinceMs, n) => ({ n, at: n * ENDPOINTS + (n % ENDPOINTS), sinceMs }));
  const { tookMs, missing } = waitsOf(
    run.arrivals,
    all.slice(run.from).filter(({ n }) => n % ENDPOINTS !== HANGING),
  );
  return { ...latencyOf(tookMs), missing };
}

function report(name: string, calm: readonly Others[], hanging: readonly Others[]): boolean {
  const ratios = hanging.map(({ p99 }, nth) => p99 / (calm[nth]?.p99 ?? Number.NaN));
  const isMet = median(ratios) <= TARGET;
  const p99 = (rounds: readonly Others[]) =>
    spread(
      rounds.map((round) => round.p99),
      1,
    );
  const missing = [...calm, ...hanging].reduce((sum, round) => sum + round.missing, 0);
  const late = missing === 0 ? '' : `; ${missing} had not come ${GRACE_MS / 1_000} s after the last commit`;
  print(
    `one of ${ENDPOINTS} hangs ${HANG_MS / 1_000} s, ${name}: p99 of the others ${p99(hanging)} ms, without ${p99(calm)}, ratio ${spread(ratios)}, target ${TARGET}${isMet ? '' : ' MISSED'}${late}`,
  );
  return isMet;
}
