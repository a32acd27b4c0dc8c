import type { Queryable } from '../db/pool.ts';

/** A session that asks the server something at least every so often, whatever whoever uses it waits for meanwhile. */
export interface Beating {
  /** One statement after the other. */
  readonly db: Queryable;
  stop(): void;
}

/**
 * The server tells others for how long a session has asked nothing: one whose user waits for somebody else, as for the queue, would be
 * taken for gone.
 * @param options.onAnswer after each statement that was asked for, answered or not
 */
export function keepBeating(
  session: Queryable,
  { everyMs, onAnswer }: { everyMs: number; onAnswer?: () => void },
): Beating {
  const ask = session.query.bind(session) as (...args: unknown[]) => Promise<unknown>;
  let last: Promise<unknown> = Promise.resolve();
  let [underWay, endedAt] = [0, performance.now()];
  const inTurn = async (...args: unknown[]) => {
    underWay += 1;
    const go = () => ask(...args);
    const turn = last.then(go, go);
    last = turn;
    try {
      return await turn;
    } finally {
      underWay -= 1;
      endedAt = performance.now();
    }
  };
  const query = (...args: unknown[]) => inTurn(...args).finally(onAnswer);
  const timer = setInterval(() => {
    // Whether it fails, whoever asks next is told.
    if (underWay === 0 && performance.now() - endedAt >= everyMs) inTurn('select').catch(() => undefined);
  }, everyMs / 2);
  return { db: { query: query as Queryable['query'] }, stop: () => clearInterval(timer) };
}
