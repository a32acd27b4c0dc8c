import pg from 'pg';
import { afterEach, expect, inject } from 'vitest';
import { dropDatabase } from '../../src/db/databases.ts';
import { type Run, type RunningLiventix, startLiventix } from './liventix.ts';
import { query } from './query.ts';

const SMALL = ['demo', '--wallets', '60', '--transactions', '1500'];
export const A_DEMO_MS = 120_000;

export interface DemoJson {
  readonly trialBalance: readonly { readonly currency: string; debitCents: number; creditCents: number }[];
  readonly drift: Readonly<Record<string, { readonly count: number; readonly cents: number }>>;
  readonly webhooks: { messages: number; deliveries: number; delivered: number; received: number; verified: number };
  readonly restructured: { moved: number; left: number; isolated: number; faults: readonly string[] };
  readonly cutOver: { organizations: number; refused: number };
  readonly seconds: Readonly<Record<string, number>>;
  readonly walletsCompared: number;
  readonly databaseUrl?: string;
}

export const given = () => inject('ownerUrl');
export const demoUrl = () => Object.assign(new URL(given()), { pathname: '/liventix_demo' }).href;

export async function demoDatabaseExists(): Promise<boolean> {
  const found = await query(given(), `select from pg_database where datname = 'liventix_demo'`);
  return found.length === 1;
}

/** Asserts that the run ended well and printed exactly one JSON object, on one line. */
export function jsonOf(end: Run): DemoJson {
  expect(end).toMatchObject({ exitCode: 0, stderr: '' });
  expect(end.stdout).toMatch(/^\{[^\n]+\}\n$/);
  return JSON.parse(end.stdout) as DemoJson;
}

/**
 * Small demos on the server under test; what is left of them is removed after each test. The name of their database is fixed, so
 * that one test file of a project may ask for them.
 */
export function demosOnGivenServer() {
  let started: RunningLiventix[] = [];
  afterEach(async () => {
    for (const demo of started) demo.kill('SIGKILL');
    await Promise.all(started.map((demo) => demo.done));
    started = [];
    const client = new pg.Client({ connectionString: given() });
    await client.connect();
    await dropDatabase(client, 'liventix_demo');
    await client.end();
  });
  const start = (flags: readonly string[] = [], env: Record<string, string> = {}): RunningLiventix => {
    const demo = startLiventix([...SMALL, ...flags], { DATABASE_URL: given(), ...env });
    started.push(demo);
    return demo;
  };
  const run = (flags: readonly string[] = [], env: Record<string, string> = {}) => start(flags, env).done;
  return { start, run };
}
