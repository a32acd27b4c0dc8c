import { setTimeout as pause } from 'node:timers/promises';

interface Waiting<T, R> {
  readonly item: T;
  readonly resolve: (result: R) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Does for many at once what each asks for alone: what is asked while one batch is under way makes the next. So it costs nobody a wait
 * while there is little to do, and a statement serves the more of them the more there are.
 * @param work answers in the order of its items; what it throws, every one of them is told
 * @param options.gatherMs how long the first of a batch waits for others
 */
export function createBatcher<T, R>(
  work: (items: readonly T[]) => Promise<readonly R[]>,
  options: { readonly maxItems: number; readonly gatherMs?: number },
): (item: T) => Promise<R> {
  const { maxItems, gatherMs = 0 } = options;
  let waiting: Waiting<T, R>[] = [];
  let isUnderWay = false;

  async function runAll(): Promise<void> {
    while (waiting.length > 0) {
      if (gatherMs > 0 && waiting.length < maxItems) await pause(gatherMs);
      const batch = waiting.slice(0, maxItems);
      waiting = waiting.slice(maxItems);
      try {
        const results = await work(batch.map(({ item }) => item));
        for (const [index, { resolve }] of batch.entries()) resolve(results[index] as R);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    isUnderWay = false;
  }

  return (item) =>
    new Promise<R>((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      // All that is asked in this turn of the event loop is one batch.
      if (!isUnderWay) {
        isUnderWay = true;
        queueMicrotask(() => void runAll());
      }
    });
}
