import { Registry } from 'prom-client';
import { trackSockets } from '../../db/sockets.ts';
import { within } from '../deadline.ts';
import type { Observer } from '../observer.ts';
import type { RunningWorker } from '../worker.ts';
import { createDatabaseReader, type DatabaseReader, gaugeDatabase } from './database-metrics.ts';
import { watchEventLoop } from './event-loop.ts';
import { type Fault, judgeLiveness } from './liveness.ts';
import { countWork, gaugeProcess } from './metrics.ts';
import { createWatchPool } from './pool.ts';
import { Pulse } from './pulse.ts';
import { createReadiness, type NotReady } from './readiness.ts';
import { goRounds } from './rounds.ts';
import { asJson, type HttpAddress, type Pages, serve } from './server.ts';

export interface WatchOptions {
  readonly databaseUrl: string;
  readonly address: HttpAddress;
}

/** Answers whoever looks at a worker from outside: /livez, /readyz and /metrics. */
export interface Watch {
  /** Is to be told by the worker what it does. */
  readonly observer: Observer;
  /** It has started. */
  watch(worker: RunningWorker): void;
  /** It was told to stop: it is not ready any more, and alive until it has. */
  stopping(): void;
  close(): Promise<void>;
}

/** One for the rounds, one for scrapes; of their own, so that neither waits for what the worker does, nor the other way round. */
const POOL = { applicationName: 'liventix-watch', max: 2, timeoutMs: 1_500 };
const GOODBYE_MS = 500;

/** @throws AppError HTTP_UNAVAILABLE */
export async function startWatch(options: WatchOptions): Promise<Watch> {
  const closing = new AbortController();
  const sockets = trackSockets();
  const pool = createWatchPool({ ...POOL, databaseUrl: options.databaseUrl, sockets });
  const eventLoop = watchEventLoop();
  const [pulse, readiness, register] = [new Pulse(), createReadiness(), new Registry()];
  let worker: RunningWorker | undefined;

  const faults = () => judgeLiveness(pulse.vitals(eventLoop.blockedMs()));
  const notReady = (): readonly NotReady[] => [
    ...(pulse.stage.name === 'running'
      ? []
      : [{ part: 'worker', since: pulse.stage.since, why: `it is ${pulse.stage.name}` } as const]),
    ...readiness.failing(),
  ];
  const counters = countWork(register);
  gaugeProcess(register, { state: () => worker?.state(), readiness, faults, notReady, blockedMs: eventLoop.blockedMs });
  const reader = createDatabaseReader(pool, closing.signal);
  gaugeDatabase(register, reader);

  const close = async () => {
    closing.abort();
    eventLoop.stop();
    await within(GOODBYE_MS, pool.end());
    sockets.destroyAll();
  };
  const pages = pagesOf({ pulse, faults, notReady, register, reader });
  const server = await serve(options.address, pages).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  return {
    observer: { beat: (part) => pulse.beat(part), ...counters },
    watch: (started) => {
      worker = started;
      void goRounds({ pool, worker: started, pulse, readiness, until: closing.signal });
    },
    stopping: () => pulse.enter('stopping'),
    close: async () => {
      server.close();
      await close();
    },
  };
}

function pagesOf(watched: {
  readonly pulse: Pulse;
  readonly faults: () => readonly Fault[];
  readonly notReady: () => readonly NotReady[];
  readonly register: Registry;
  readonly reader: DatabaseReader;
}): Pages {
  const { pulse, register } = watched;
  return {
    '/livez': () => {
      const faults = watched.faults();
      const alive = faults.length === 0;
      return asJson(alive ? 200 : 503, { alive, stage: pulse.stage.name, faults });
    },
    '/readyz': () => {
      const failing = watched.notReady();
      const ready = failing.length === 0;
      return asJson(ready ? 200 : 503, { ready, failing });
    },
    '/metrics': async () => {
      await watched.reader.refresh();
      return { statusCode: 200, contentType: register.contentType, body: await register.metrics() };
    },
  };
}
