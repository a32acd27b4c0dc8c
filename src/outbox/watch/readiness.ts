import { toAppError } from '../../db/sqlstate.ts';
import { inTime } from '../deadline.ts';

export const PARTS = ['postgresql', 'migrations', 'queue', 'listener'] as const;
type ReadinessPart = (typeof PARTS)[number];

/** Rejects with what is wrong. */
type Question = () => Promise<unknown>;

export interface NotReady {
  readonly part: ReadinessPart | 'worker';
  readonly since: Date;
  readonly why: string;
}

export interface Readiness {
  /** Asks every part once, each for `ANSWER_MS` at most. */
  ask(questions: Readonly<Record<ReadinessPart, Question>>, signal: AbortSignal): Promise<void>;
  fails(part: ReadinessPart): boolean;
  failing(): readonly NotReady[];
  /** How often a part began to fail. */
  outages(part: ReadinessPart): number;
}

const ANSWER_MS = 1_500;

/** Remembers of every part whether it answered when it was last asked, and since when not. */
export function createReadiness(now: () => Date = () => new Date()): Readiness {
  const failing = new Map<ReadinessPart, NotReady>();
  const outages = new Map<ReadinessPart, number>();

  function note(part: ReadinessPart, failure: unknown): void {
    if (failure === undefined) {
      failing.delete(part);
      return;
    }
    if (!failing.has(part)) outages.set(part, (outages.get(part) ?? 0) + 1);
    const { code, message } = toAppError(failure);
    const why = code === 'INTERNAL' ? message : `${code}: ${message}`;
    failing.set(part, { part, since: failing.get(part)?.since ?? now(), why });
  }

  return {
    ask: async (questions, signal) => {
      await Promise.all(
        PARTS.map(async (part) => {
          const failure = await inTime(questions[part](), { ms: ANSWER_MS, signal }).then(
            () => undefined,
            (error: unknown) => error ?? new Error('failed'),
          );
          if (!signal.aborted) note(part, failure);
        }),
      );
    },
    fails: (part) => failing.has(part),
    failing: () => PARTS.flatMap((part) => failing.get(part) ?? []),
    outages: (part) => outages.get(part) ?? 0,
  };
}
