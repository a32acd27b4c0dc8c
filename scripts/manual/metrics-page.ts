import { Registry } from 'prom-client';
import { gaugeDatabase } from '../../src/outbox/watch/database-metrics.ts';
import { countWork, gaugeProcess } from '../../src/outbox/watch/metrics.ts';
import { createReadiness } from '../../src/outbox/watch/readiness.ts';
import { code, opening, page, table } from './markdown.ts';

interface DocumentedMetric {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly help: string;
}

const INTRO = [
  'What `GET /metrics` of `liventix worker --http` answers. Which of them to be woken by, and what to do then, is in',
  '[operations](../operations.md#metrics); ready-made: [alert rules](../../ops/alert-rules.yml), [a Grafana dashboard](../../ops/grafana-dashboard.json).',
  'A histogram is exposed as `_bucket` (label `le`), `_sum` and `_count`.',
];

/** docs/reference/metrics.md */
export async function metricsPage(): Promise<string> {
  const metrics = await documentedMetrics();
  const rows = (wanted: boolean) =>
    metrics
      .filter(({ name }) => name.startsWith('liventix_') === wanted)
      .map(({ name, type, labels, help }) => [code(name), type, labels.map(code).join(', '), help]);
  const head = ['metric', 'type', 'labels', 'what it says'];
  return page([
    ...opening('Metrics', INTRO),
    ...table(head, rows(true)),
    '## Of the process',
    '',
    'What every program on Node tells, by [prom-client](https://github.com/siimon/prom-client).',
    '',
    ...table(head, rows(false)),
  ]);
}

/** Those of a worker, from the registry that it answers from. */
async function documentedMetrics(): Promise<DocumentedMetric[]> {
  const register = new Registry();
  const nothing = () => [];
  countWork(register);
  gaugeProcess(register, {
    state: () => undefined,
    readiness: createReadiness(),
    faults: nothing,
    notReady: nothing,
    blockedMs: () => 0,
  });
  gaugeDatabase(register, { refresh: async () => undefined, latest: () => undefined, isUp: () => false });
  // What is exposed is told by prom-client; which labels a series may have, the metric itself says.
  const labels = new Map(register.getMetricsAsArray().map((metric) => [metric.name, labelNamesOf(metric)]));
  return (await register.getMetricsAsJSON())
    .map(({ name, type, help }) => ({ name, type: String(type), labels: labels.get(name) ?? [], help }))
    .toSorted((one, other) => (one.name < other.name ? -1 : 1));
}

function labelNamesOf(metric: object): readonly string[] {
  return 'labelNames' in metric && Array.isArray(metric.labelNames) ? metric.labelNames.map(String) : [];
}
