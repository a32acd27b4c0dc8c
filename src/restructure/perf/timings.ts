import type { Tx } from '../../db/pool.ts';
import { failureOf, reading, textRows } from './session.ts';
import { limitsOf, type Subject } from './subjects.ts';

export interface TimingOptions {
  /** How often each is asked. */
  readonly rounds: number;
  /** A subject that took as long is not asked any more; a query of a dashboard not before `LEAST_RUNS`. */
  readonly budgetMs: number;
  readonly timeoutMs: number;
  /** How long each took when it was asked for its answer. */
  readonly tookMs: (subject: Subject) => number;
  readonly onProgress: (done: number, total: number) => void;
}

/** With fewer nothing is said of a subject but its times. */
export const LEAST_RUNS = 3;

/**
 * How long each subject took, in milliseconds, run by run. In each round every subject is asked once, so that what disturbs the machine for
 * a while disturbs all of them a little, and none of them a lot.
 * @throws AppError DB_* where the connection is gone
 */
export async function timeRounds(
  client: Tx,
  subjects: readonly Subject[],
  { rounds, tookMs, onProgress, ...options }: TimingOptions,
): Promise<ReadonlyMap<Subject, readonly number[]>> {
  const times = new Map(subjects.map((subject) => [subject, [] as number[]]));
  for (let round = 0; round < rounds; round += 1) {
    for (const [at, subject] of turned(subjects, round).entries()) {
      onProgress(round * subjects.length + at, rounds * subjects.length);
      const taken = times.get(subject) ?? [];
      const { budgetMs, timeoutMs } = limitsOf(subject, options);
      const spentMs = taken.reduce((sum, each) => sum + each, tookMs(subject));
      if (spentMs > budgetMs && (taken.length >= LEAST_RUNS || subject.kind === 'access')) continue;
      const took = await timeOnce(client, subject, { set: round, timeoutMs });
      if (took !== null) taken.push(took);
    }
  }
  // An access that was not asked again has the time of its answer: it is the same statement.
  for (const [subject, taken] of times) if (taken.length === 0) taken.push(tookMs(subject));
  return times;
}

/** Every round begins elsewhere: nobody always comes after the same one. */
const turned = <T>(all: readonly T[], by: number): readonly T[] => {
  const from = (by * 7) % Math.max(1, all.length);
  return [...all.slice(from), ...all.slice(0, from)];
};

/** From the first word sent to the last row received; null where it failed. @throws AppError DB_* where the connection is gone */
export async function timeOnce(
  client: Tx,
  subject: Subject,
  { set, timeoutMs }: { readonly set: number; readonly timeoutMs: number },
): Promise<number | null> {
  const statements = subject.sets[set % subject.sets.length] ?? [];
  try {
    return await reading(client, { ...subject, timeoutMs }, async () => {
      const from = performance.now();
      for (const each of statements) await textRows(client, each);
      return performance.now() - from;
    });
  } catch (error) {
    failureOf(error);
    return null;
  }
}
