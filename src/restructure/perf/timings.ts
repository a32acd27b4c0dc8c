import type { Tx } from '../../db/pool.ts';
import { type Failure, failureOf, reading, textRows } from './session.ts';
import { limitsOf, type Subject } from './subjects.ts';

export interface TimingOptions {
  /** How often each is asked, with all of its values. */
  readonly rounds: number;
  /** A subject that took as long is not asked any more, but not before `LEAST_RUNS` rounds. */
  readonly budgetMs: number;
  readonly timeoutMs: number;
  /** How long each took when it was asked for its answer. */
  readonly tookMs: (subject: Subject) => number;
  readonly onProgress: (done: number, total: number) => void;
}

/** With fewer nothing is said of a subject but its times. */
export const LEAST_RUNS = 3;

/** What became of a subject's rounds. */
export interface Timed {
  /** Of each round that was answered, how long it took with each set of values, in milliseconds. */
  readonly roundsMs: readonly (readonly number[])[];
  /** Of each round that was not, why. */
  readonly failures: readonly Failure[];
}

/**
 * How long each subject took. In each round every subject is asked with every set of its values, so that what disturbs the machine for a
 * while disturbs all of them a little, and none of them a lot, and no round has other values than the next.
 * @throws AppError DB_* where the connection is gone
 */
export async function timeRounds(
  client: Tx,
  subjects: readonly Subject[],
  { rounds, tookMs, onProgress, ...options }: TimingOptions,
): Promise<ReadonlyMap<Subject, Timed>> {
  const tallies: readonly Tally[] = subjects.map((subject) => ({ subject, spentMs: tookMs(subject), rounds: [] }));
  for (let round = 0; round < rounds; round += 1) {
    for (const [at, tally] of turned(tallies, round).entries()) {
      onProgress(round * subjects.length + at, rounds * subjects.length);
      const { budgetMs, timeoutMs } = limitsOf(tally.subject, options);
      if (tally.spentMs > budgetMs && tally.rounds.length >= LEAST_RUNS) continue;
      const from = performance.now();
      tally.rounds.push(await timeRound(client, tally.subject, { timeoutMs }));
      tally.spentMs += performance.now() - from;
    }
  }
  return new Map(tallies.map(({ subject, rounds: each }) => [subject, timedOf(each)]));
}

interface Tally {
  readonly subject: Subject;
  spentMs: number;
  readonly rounds: (readonly number[] | Failure)[];
}

export const timedOf = (rounds: readonly (readonly number[] | Failure)[]): Timed => ({
  roundsMs: rounds.flatMap((each) => ('code' in each ? [] : [each])),
  failures: rounds.flatMap((each) => ('code' in each ? [each] : [])),
});

/** Every round begins elsewhere: nobody always comes after the same one. */
const turned = <T>(all: readonly T[], by: number): readonly T[] => {
  const from = (by * 7) % Math.max(1, all.length);
  return [...all.slice(from), ...all.slice(0, from)];
};

/**
 * With each set of values, from the first word sent to the last row received; or why one of them failed. Before each it does what comes `first`.
 * @throws AppError DB_* where the connection is gone
 */
export async function timeRound(
  client: Tx,
  subject: Subject,
  { timeoutMs, first }: { readonly timeoutMs: number; readonly first?: () => Promise<void> },
): Promise<readonly number[] | Failure> {
  const took: number[] = [];
  try {
    for (const statements of subject.sets) {
      await first?.();
      await reading(client, { ...subject, timeoutMs }, async () => {
        const from = performance.now();
        for (const each of statements) await textRows(client, each);
        took.push(performance.now() - from);
      });
    }
    return took;
  } catch (error) {
    return failureOf(error);
  }
}
