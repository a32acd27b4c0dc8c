import { monitorEventLoopDelay } from 'node:perf_hooks';

const RESOLUTION_MS = 20;
/** A blocked moment is remembered for one to two of these: whoever asks every ten seconds is told of it once or twice. */
const REMEMBERED_MS = 10_000;
const NS_A_MS = 1e6;

export interface EventLoopWatch {
  /** The longest that nothing else could run, of late. */
  blockedMs(): number;
  stop(): void;
}

export function watchEventLoop(): EventLoopWatch {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  let before = 0;
  const timer = setInterval(() => {
    before = delay.max;
    delay.reset();
  }, REMEMBERED_MS);
  timer.unref();
  return {
    blockedMs: () => Math.max(before, delay.max) / NS_A_MS,
    stop: () => {
      clearInterval(timer);
      delay.disable();
    },
  };
}
