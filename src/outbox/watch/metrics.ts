import { Counter, collectDefaultMetrics, Gauge, Histogram, type Registry } from 'prom-client';
import type { ObservedAttempt } from '../observer.ts';
import type { WorkerState } from '../worker.ts';
import { PARTS, type Readiness } from './readiness.ts';

/** From a receiver beside us to the longest timeout of an endpoint. */
const ATTEMPT_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** To a day: a message may have waited for an outage. */
const LAG_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3_600, 86_400];
const MS = 1_000;

/** What one worker did since it started. */
export interface WorkerCounters {
  claimed(deliveries: number): void;
  attempted(attempt: ObservedAttempt): void;
  finished(state: 'delivered' | 'dead'): void;
}

export function countWork(register: Registry): WorkerCounters {
  const registers = [register];
  const attempts = new Counter({
    name: 'liventix_attempts_total',
    help: 'HTTP requests that this worker made, by what came of them; error_class is empty for those that were delivered.',
    labelNames: ['outcome', 'error_class'],
    registers,
  });
  const seconds = new Histogram({
    name: 'liventix_attempt_duration_seconds',
    help: 'From the beginning of a request to its outcome.',
    labelNames: ['outcome'],
    buckets: ATTEMPT_SECONDS,
    registers,
  });
  const lag = new Histogram({
    name: 'liventix_delivery_lag_seconds',
    help: "From a message's announcement, or its deliver_after, to the first request of its delivery.",
    buckets: LAG_SECONDS,
    registers,
  });
  const finished = new Counter({
    name: 'liventix_deliveries_finished_total',
    help: 'Deliveries that this worker brought to their end, by what it was.',
    labelNames: ['state'],
    registers,
  });
  const claimed = new Counter({
    name: 'liventix_deliveries_claimed_total',
    help: 'Deliveries that this worker claimed.',
    registers,
  });
  for (const state of ['delivered', 'dead']) finished.inc({ state }, 0);
  attempts.inc({ outcome: 'delivered', error_class: '' }, 0);
  return {
    claimed: (deliveries) => claimed.inc(deliveries),
    attempted: ({ errorClass, durationMs, lagMs }) => {
      const outcome = errorClass === null ? 'delivered' : 'failed';
      attempts.inc({ outcome, error_class: errorClass ?? '' });
      seconds.observe({ outcome }, durationMs / MS);
      if (lagMs !== null) lag.observe(lagMs / MS);
    },
    finished: (state) => finished.inc({ state }),
  };
}

/** How this process stands, asked at each scrape. */
export function gaugeProcess(
  register: Registry,
  ask: {
    readonly state: () => WorkerState | undefined;
    readonly readiness: Readiness;
    readonly faults: () => readonly unknown[];
    readonly notReady: () => readonly unknown[];
    readonly blockedMs: () => number;
  },
): void {
  collectDefaultMetrics({ register });
  // Each scrape empties them for the next, so that of two who scrape one is told nothing: ours remembers for itself.
  for (const { name } of register.getMetricsAsArray())
    if (name.startsWith('nodejs_eventloop_lag')) register.removeSingleMetric(name);
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers: [register],
      collect() {
        this.set(read());
      },
    });
  gauge('liventix_ready', '1 when /readyz answers 200.', () => Number(ask.notReady().length === 0));
  gauge('liventix_alive', '1 when /livez answers 200.', () => Number(ask.faults().length === 0));
  gauge(
    'liventix_event_loop_blocked_seconds',
    'The longest of the last 10 to 20 seconds in which nothing else could run.',
    () => ask.blockedMs() / MS,
  );
  gauge('liventix_relay_leads', '1 when the relay of this process leads.', () => Number(ask.state()?.leads ?? false));
  gauge('liventix_requests_in_flight', 'Requests on their way.', () => ask.state()?.inFlight ?? 0);
  byLabel(register, {
    name: 'liventix_pool_connections',
    help: "Connections of the worker's pool; waiting: those who want one.",
    label: 'state',
    read: () => ({ ...ask.state()?.pool }),
  });
  byLabel(register, {
    name: 'liventix_up',
    help: '1 when the part answered when it was last asked.',
    label: 'part',
    read: () => Object.fromEntries(PARTS.map((part) => [part, Number(!ask.readiness.fails(part))])),
  });
  new Counter({
    name: 'liventix_outages_total',
    help: 'How often the part began to fail.',
    labelNames: ['part'],
    registers: [register],
    collect() {
      this.reset();
      for (const part of PARTS) this.inc({ part }, ask.readiness.outages(part));
    },
  });
}

export interface LabelledGauge {
  readonly name: string;
  readonly help: string;
  readonly label: string;
  readonly read: () => Readonly<Record<string, number>>;
}

/** A gauge whose series are those that `read` answers at the time, and no others. */
export function byLabel(register: Registry, { name, help, label, read }: LabelledGauge): void {
  new Gauge({
    name,
    help,
    labelNames: [label],
    registers: [register],
    collect() {
      this.reset();
      for (const [value, number] of Object.entries(read())) this.set({ [label]: value }, number);
    },
  });
}
