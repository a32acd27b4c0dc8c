import { type ChildProcess, fork } from 'node:child_process';
import { on } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

interface Expected {
  readonly messages: number;
  readonly endpoints: number;
  /** How long the first endpoint takes to answer; 0 when it answers at once, as the others do. */
  readonly hangMs: number;
}

export type ReceiverCommand = ({ readonly command: 'expect' } & Expected) | { readonly command: 'report' };

export type ReceiverEvent =
  | { readonly event: 'listening'; readonly port: number }
  | { readonly event: 'expecting' }
  | { readonly event: 'progress'; readonly requests: number }
  | { readonly event: 'report'; readonly report: ReceiverReport };

export interface ReceiverReport {
  /** Of different deliveries. */
  readonly requests: number;
  readonly duplicates: number;
  readonly firstAtMs: number;
  readonly lastAtMs: number;
  /** When message n came to endpoint e, at `n * endpoints + e`, on the clock of `process.hrtime`; 0 when it did not. */
  readonly arrivals: Float64Array;
}

/** The process that answers 200 to everybody, and writes down when what came. */
export interface Receiver {
  readonly pid: number;
  readonly url: string;
  /** Forgets what came before. */
  expect(expected: Expected): Promise<void>;
  /** Until so many have come, or there is no more time. @throws when none comes for a minute */
  untilRequests(count: number, withinMs?: number): Promise<void>;
  /** How many have come, as far as it has said. */
  requests(): number;
  report(): Promise<ReceiverReport>;
  stop(): void;
}

const STALLED_MS = 60_000;
const POLL_MS = 5;
const PROCESS = fileURLToPath(new URL('receiver-process.ts', import.meta.url));

export async function startReceiver(): Promise<Receiver> {
  // Advanced, so that the times go through as they are, and not as a million keys of JSON.
  const child = fork(PROCESS, { serialization: 'advanced', stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const { port } = await next(child, 'listening');
  let requests = 0;
  child.on('message', (event: ReceiverEvent) => {
    if (event.event === 'progress') requests = event.requests;
  });
  return {
    pid: child.pid ?? -1,
    url: `http://127.0.0.1:${port}`,
    expect: async (expected) => {
      const ready = next(child, 'expecting');
      child.send({ command: 'expect', ...expected } satisfies ReceiverCommand);
      await ready;
      requests = 0;
    },
    untilRequests: async (count, withinMs = Number.POSITIVE_INFINITY) => {
      const endsAt = performance.now() + withinMs;
      let [seen, seenAt] = [requests, performance.now()];
      while (requests < count && performance.now() < endsAt) {
        await pause(POLL_MS);
        if (requests > seen) [seen, seenAt] = [requests, performance.now()];
        if (performance.now() - seenAt > STALLED_MS) throw stalled(`${requests} of ${count} deliveries`);
      }
    },
    requests: () => requests,
    report: async () => {
      const reported = next(child, 'report');
      child.send({ command: 'report' } satisfies ReceiverCommand);
      return (await reported).report;
    },
    stop: () => child.disconnect(),
  };
}

async function next<E extends ReceiverEvent['event']>(
  child: ChildProcess,
  event: E,
): Promise<Extract<ReceiverEvent, { event: E }>> {
  for await (const [told] of on(child, 'message', { signal: AbortSignal.timeout(STALLED_MS) })) {
    if (told.event === event) return told;
  }
  throw stalled(event);
}

const stalled = (what: string) => new Error(`the receiver said nothing new for ${STALLED_MS} ms: ${what}`);
