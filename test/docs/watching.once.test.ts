import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { parser } from '@prometheus-io/lezer-promql';
import { beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { anchorOf } from '../../scripts/manual/markdown.ts';
import { watchedAt } from '../outbox/watched.ts';
import { startWorkerProcess } from '../outbox/worker-process.ts';
import { createDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announceMany, LOOPBACK } from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

const RULES = 'ops/alert-rules.yml';
const DASHBOARD = 'ops/grafana-dashboard.json';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: Readonly<Record<string, string>>;
}

interface Panel {
  readonly title: string;
  readonly description?: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}

const rules = (parse(readFileSync(RULES, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
);
const dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as { panels: Panel[] };
const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const queries = panels.flatMap(({ title, targets = [] }) => targets.map((target) => ({ ...target, title })));

type SyntaxNode = ReturnType<typeof parser.parse>['topNode'];

/** Labels by the names of what has them. */
type Exposed = ReadonlyMap<string, ReadonlySet<string>>;

/** Of Prometheus itself, at each target: https://prometheus.io/docs/concepts/jobs_instances/ */
const OF_EVERY_TARGET = ['job', 'instance'];

describe('alert rules and dashboard', () => {
  let exposed: Exposed;
  let alertLabels: (expression: string) => readonly string[];
  beforeAll(async () => {
    exposed = await scrapeWorkerAtWork();
    alertLabels = (expression) => [
      ...OF_EVERY_TARGET,
      ...selectorsOf(expression).flatMap(({ metric }) => [...(exposed.get(metric) ?? [])]),
    ];
  }, 60_000);

  it.each([...rules.map(({ alert, expr }) => [alert, expr]), ...queries.map(({ title, expr }) => [title, expr])])(
    '%s: %s names what a worker exposes, by the labels that it has',
    (_name, expression = '') => {
      expect(faultsOf(expression)).toEqual([]);
      for (const { metric, labels } of selectorsOf(expression)) {
        expect([...exposed.keys(), 'up']).toContain(metric);
        expect([...OF_EVERY_TARGET, ...(exposed.get(metric) ?? [])]).toEqual(expect.arrayContaining(labels));
      }
      expect(alertLabels(expression)).toEqual(expect.arrayContaining(groupingsOf(expression)));
    },
  );

  it('says in texts and legends nothing but labels that their series have', () => {
    const told = [
      ...rules.map(({ expr, annotations }) => ({
        expr,
        text: Object.values(annotations).join(' '),
        pattern: /\$labels\.(\w+)/g,
      })),
      ...queries.map(({ expr, legendFormat }) => ({ expr, text: legendFormat, pattern: /\{\{(\w+)\}\}/g })),
    ];
    for (const { expr, text, pattern } of told) {
      const names = [...text.matchAll(pattern)].map(([, name]) => name);
      expect(keptLabels(expr, alertLabels(expr)), expr).toEqual(expect.arrayContaining(names));
    }
  });

  it('finds an expression that names what there is not', () => {
    expect(selectorsOf('rate(liventix_attempts_total{colour="red"}[5m])')).toEqual([
      { metric: 'liventix_attempts_total', labels: ['colour'] },
    ]);
    expect(faultsOf('sum(rate(liventix_attempts_total[5m])')).not.toEqual([]);
  });
});

describe('the alert rules', () => {
  const page = readFileSync('docs/how-to/answer-an-alert.md', 'utf8');
  const headings = [...page.matchAll(/^## (.+)$/gm)].map(([, heading = '']) => heading);

  it.each(rules.map((rule) => [rule.alert, rule] as const))(
    '%s says what is wrong, how bad it is, and where to read on',
    (_name, rule) => {
      expect(rule.annotations['summary']).toMatch(/^.{15,}$/);
      expect(['page', 'ticket']).toContain(rule.labels.severity);
      const [path, anchor] = rule.annotations['runbook_url']?.split('#') ?? [];
      expect(path).toBe('docs/how-to/answer-an-alert.md');
      expect(headings.map(anchorOf)).toContain(anchor);
      expect(page.split(`## ${rule.alert}\n`)[1]).toMatch(
        rule.labels.severity === 'page' ? /^\nPage: / : /^\nTicket: /,
      );
    },
  );

  it('have each a heading there, and no heading is left over', () => {
    expect(headings).toEqual(rules.map(({ alert }) => alert));
  });

  // Debian's package prometheus has it. Where it is not there, the expressions were parsed above by Prometheus' own grammar for editors.
  const promtool = spawnSync('promtool', ['--version']).status === 0;
  it.runIf(promtool)('are good rules by promtool', () => {
    const checked = spawnSync('promtool', ['check', 'rules', RULES], { encoding: 'utf8' });
    expect(checked.stderr + checked.stdout).toContain(`SUCCESS: ${rules.length} rules found`);
  });
});

describe('the dashboard', () => {
  it('has a title and a description on each panel, none twice', () => {
    for (const { title, description = '' } of panels) expect(description, title).toMatch(/^.{8,}\.$/);
    expect(new Set(panels.map(({ title }) => title)).size).toBe(panels.length);
  });

  it('shows every metric of ours', () => {
    const shown = queries.flatMap(({ expr }) => selectorsOf(expr).map(({ metric }) => metric.replace(/_bucket$/, '')));
    const page = readFileSync('docs/reference/metrics.md', 'utf8');
    const ours = [...page.matchAll(/^\| `(liventix_\w+)`/gm)].map(([, name]) => name);
    expect(ours.length).toBeGreaterThan(20);
    expect(shown).toEqual(expect.arrayContaining(ours));
  });
});

/** Everything that a worker exposes once it has delivered, failed, and given up an endpoint. */
async function scrapeWorkerAtWork(): Promise<Exposed> {
  const database = await createDatabase();
  const receiver = await startReceiver((response, webhook) =>
    answer(webhook.path === '/fails' ? 500 : 204)(response, webhook),
  );
  const watched = await watchedAt();
  const worker = startWorkerProcess(['--poll-ms', '100', '--http', watched.address], {
    DATABASE_URL: database.url,
    OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
  });
  try {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/good` });
    await addTestEndpoint(database.pool, { url: `${receiver.url}/fails` });
    await announceMany(database.pool, 20);
    await eventually('one was delivered, and a breaker is open', async () => {
      const names = [...(await watched.metrics()).keys()].join();
      return (
        names.includes('liventix_endpoint_breaker_open{') && names.includes('liventix_attempt_duration_seconds_bucket{')
      );
    });
    return labelsByName([...(await watched.metrics()).keys()]);
  } finally {
    worker.kill('SIGKILL');
    await worker.exitCode;
    await receiver.stop();
    await database.drop();
  }
}

/** @param samples as they are written in what was scraped: `name{label="value"}` */
function labelsByName(samples: readonly string[]): Exposed {
  const exposed = new Map<string, Set<string>>();
  for (const sample of samples) {
    const [, name = '', labels = ''] = /^(\w+)(?:\{(.*)\})?$/.exec(sample) ?? [];
    const known = exposed.get(name) ?? new Set();
    for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) known.add(label);
    exposed.set(name, known);
  }
  return exposed;
}

/** An expression with Grafana's variables replaced by what they may stand for. */
const resolved = (expression: string) => expression.replaceAll('$__rate_interval', '1m').replaceAll(/\$\w+/g, '.+');

function nodesOf(expression: string, names: readonly string[]): { readonly node: SyntaxNode; readonly text: string }[] {
  const source = resolved(expression);
  const found: { node: SyntaxNode; text: string }[] = [];
  parser.parse(source).iterate({
    enter: ({ node }) => {
      if (names.includes(node.name) || (node.type.isError && names.includes('error'))) {
        found.push({ node, text: source.slice(node.from, node.to) });
      }
    },
  });
  return found;
}

const faultsOf = (expression: string) =>
  nodesOf(expression, ['error']).map(({ node, text }) => `${node.from}: ${text}`);

const selectorsOf = (expression: string) =>
  nodesOf(expression, ['VectorSelector']).map(({ text }) => ({
    metric: /^\w+/.exec(text)?.[0] ?? '',
    labels: [...text.matchAll(/[{,]\s*(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, label = '']) => label),
  }));

/** What `by (…)` names; `le` is of histograms. */
const groupingsOf = (expression: string) =>
  nodesOf(expression, ['GroupingLabels'])
    .flatMap(({ text }) => text.replace(/[()\s]/g, '').split(','))
    .filter((label) => label !== '');

/** Which labels are left of those that there were: of what is aggregated, those that it names. */
function keptLabels(expression: string, all: readonly string[]): readonly string[] {
  const [aggregation] = nodesOf(expression, ['AggregateExpr']);
  return aggregation === undefined ? all : groupingsOf(expression);
}
