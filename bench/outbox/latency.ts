import { type Latency, latencyOf, median, print, spread } from '../figures.ts';
import { type Contender, isOurs } from './contender.ts';
import {
  CommitFailed,
  GRACE_MS,
  lengthOf,
  type Offered,
  offer,
  saturationWhileCommitting,
  waitsOf,
  withWorker,
} from './load.ts';
import type { Stage } from './stage.ts';

const SHARES = [0.1, 0.5, 0.9];
const JUDGED_SHARE = 0.5;
const TARGET_MS = { p50: 5, p99: 50 };
/** What counts as 100 % where none of ours takes part. */
const PEERS_ALONE_PER_SECOND = 1_000;

interface Round {
  /** From the commit to the first byte that the receiver got. */
  readonly fromCommit: Latency;
  /** From before the INSERT was sent. */
  readonly fromBegin: Latency;
  readonly missing: number;
}

/**
 * How long from a commit to the first byte, at parts of what each of ours gets through while as many are committed? The peers at the rates
 * of our first, which may be more than they take.
 */
export async function benchLatency(
  stage: Stage,
  contenders: readonly Contender[],
  size: { readonly rounds: number; readonly seconds: number },
): Promise<boolean> {
  const rates = await ratesOf(stage, contenders, size.seconds * 1_000);
  const met: boolean[] = [];
  for (const share of SHARES) {
    const rounds = new Map<string, Round[]>(contenders.map(({ name }) => [name, []]));
    for (let round = 0; round < size.rounds; round += 1) {
      for (const contender of contenders) {
        const perSecond = share * (rates.get(contender.name) ?? 0);
        const result = await runUnlessTooMuch(stage, contender, { perSecond, seconds: size.seconds });
        if (result !== undefined) rounds.get(contender.name)?.push(result);
      }
    }
    print(
      `\nlatency at ${share * 100} %: from commit to first byte, ms; medians of ${size.rounds} rounds of ${size.seconds} s`,
    );
    for (const [name, all] of rounds) {
      if (all.length > 0) print(lineOf(name, share * (rates.get(name) ?? 0), all));
      if (share === JUDGED_SHARE && isOurs(name)) met.push(judge(name, all));
    }
  }
  return met.every(Boolean);
}

async function ratesOf(
  stage: Stage,
  contenders: readonly Contender[],
  ms: number,
): Promise<ReadonlyMap<string, number>> {
  const rates = new Map<string, number>();
  for (const contender of contenders) {
    const perSecond = await saturationWhileCommitting(stage, contender, ms);
    print(`${contender.name}: ${Math.round(perSecond)} deliveries/s while as many are committed`);
    if (isOurs(contender.name)) rates.set(contender.name, perSecond);
  }
  const [ofTheFirst = PEERS_ALONE_PER_SECOND] = rates.values();
  for (const { name } of contenders) if (!rates.has(name)) rates.set(name, ofTheFirst);
  return rates;
}

/** Whoever cannot commit as many has no latency; of ours that is a failure. */
async function runUnlessTooMuch(
  stage: Stage,
  contender: Contender,
  load: { perSecond: number; seconds: number },
): Promise<Round | undefined> {
  try {
    return await run(stage, contender, load);
  } catch (error) {
    if (isOurs(contender.name) || !(error instanceof CommitFailed)) throw error;
    print(`${contender.name}: cannot be given ${Math.round(load.perSecond)}/s: ${error.message}`);
    return undefined;
  }
}

function run(stage: Stage, contender: Contender, load: { perSecond: number; seconds: number }): Promise<Round> {
  const { messages, from } = lengthOf(load);
  return stage.play(contender, async (place) => {
    await stage.receiver.expect({ messages, endpoints: 1, hangMs: 0 });
    return withWorker(stage, contender, place, async (producer) => {
      const offered = await offer(producer, { ...load, messages });
      await stage.receiver.untilRequests(messages, GRACE_MS);
      const { arrivals } = await stage.receiver.report();
      return roundOf(offered, arrivals, from);
    });
  });
}

function roundOf({ begunAtMs, committedAtMs }: Offered, arrivals: Float64Array, from: number): Round {
  const since = (times: Float64Array) =>
    waitsOf(arrivals, [...times].map((sinceMs, at) => ({ at, sinceMs })).slice(from));
  const { tookMs, missing } = since(committedAtMs);
  return { fromCommit: latencyOf(tookMs), fromBegin: latencyOf(since(begunAtMs).tookMs), missing };
}

function lineOf(name: string, perSecond: number, rounds: readonly Round[]): string {
  const of = (pick: (round: Round) => number) => spread(rounds.map(pick), 1);
  const missing = rounds.reduce((sum, round) => sum + round.missing, 0);
  return `${name.padEnd(16)} ${Math.round(perSecond).toString().padStart(5)}/s: p50 ${of(({ fromCommit }) => fromCommit.p50)}, p99 ${of(({ fromCommit }) => fromCommit.p99)}; from before the INSERT p50 ${of(({ fromBegin }) => fromBegin.p50)}, p99 ${of(({ fromBegin }) => fromBegin.p99)}${missing === 0 ? '' : `; ${missing} had not come ${GRACE_MS / 1_000} s later`}`;
}

function judge(name: string, rounds: readonly Round[]): boolean {
  const [p50, p99] = [median(rounds.map((r) => r.fromCommit.p50)), median(rounds.map((r) => r.fromCommit.p99))];
  const isMet = p50 < TARGET_MS.p50 && p99 < TARGET_MS.p99;
  print(`  ${name}: target p50 below ${TARGET_MS.p50} ms and p99 below ${TARGET_MS.p99}${isMet ? '' : ' MISSED'}`);
  return isMet;
}
