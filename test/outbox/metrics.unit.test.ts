import { readFileSync } from 'node:fs';
import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { gaugeDatabase } from '../../src/outbox/watch/database-metrics.ts';
import { countWork, gaugeProcess } from '../../src/outbox/watch/metrics.ts';
import { createReadiness } from '../../src/outbox/watch/readiness.ts';

const page = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');

function register(): Registry {
  const made = new Registry();
  const nothing = () => [];
  const state = () => undefined;
  countWork(made);
  gaugeProcess(made, { state, readiness: createReadiness(), faults: nothing, notReady: nothing, blockedMs: () => 0 });
  gaugeDatabase(made, { refresh: async () => undefined, latest: () => undefined, isUp: () => false });
  return made;
}

it('are all in docs/operations.md, and those that are there exist', () => {
  const names = register()
    .getMetricsAsArray()
    .map(({ name }) => name);
  const ours = names.filter((name) => name.startsWith('liventix_')).toSorted();
  const documented = [...new Set(page.match(/liventix_[a-z_]+/g))].toSorted();
  expect(documented).toEqual(ours);
});

it('say nothing of the database before it was read', async () => {
  const text = await register().metrics();
  expect(text).toMatch(/^liventix_database_read 0$/m);
  expect(text).not.toMatch(/^liventix_(oldest|messages|deliveries\{)/m);
});
