/**
 * Waits for `work`, but no longer than `ms`. What it throws is swallowed: this is for goodbyes, when nobody can do
 * anything about it any more.
 */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work.catch(() => undefined), bound]);
  clearTimeout(timer);
}

/**
 * What `work` comes to, if it does within `ms` and before `signal` is aborted. A driver's own time limit would do, but
 * its timers outlive the connection.
 */
export async function inTime<T>(work: Promise<T>, limit: { ms: number; signal: AbortSignal }): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const bound = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(new Error('closed meanwhile'));
    timer = setTimeout(() => reject(new Error(`no answer within ${limit.ms} ms`)), limit.ms);
    limit.signal.addEventListener('abort', onAbort, { once: true });
    // One that was aborted before tells nobody any more.
    if (limit.signal.aborted) onAbort();
  });
  try {
    return await Promise.race([work, bound]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) limit.signal.removeEventListener('abort', onAbort);
  }
}
