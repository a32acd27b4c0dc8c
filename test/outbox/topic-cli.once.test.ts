import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { announce, announceMany, clearOutbox } from '../support/outbox.ts';
import { expectRefusal } from '../support/refusal.ts';

const TOPIC = 'ticket.purchased';
const PERSONAL = 'anna@example.com';
const SCHEMA = { type: 'object', properties: { n: { type: 'integer', maximum: 1_000 } }, required: ['n'] };

let database: TestDatabase;
let folder: string;
beforeAll(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'liventix-topics-'));
});
afterEach(async () => {
  await clearOutbox(database.pool);
  await database.pool.query('delete from outbox.topics');
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const env = () => ({ DATABASE_URL: database.url });
const run = (...args: readonly string[]) => liventix(['outbox', 'topic', ...args], env());
const refused = (code: ErrorCode, says: RegExp, ...args: readonly string[]) =>
  expectRefusal({ code, says }, ['outbox', 'topic', ...args], env());
const file = async (content: unknown) => {
  const path = join(folder, 'schema.json');
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
};
const stored = async () => (await database.pool.query('select topic, schema, version from outbox.topics')).rows;

it('adds, changes, lists, shows and removes a schema', async () => {
  const add = async (schema: unknown, ...more: string[]) => run('add', TOPIC, '--schema', await file(schema), ...more);
  expect((await run('list')).stderr).toMatch(/^No topic has a schema yet/);
  expect((await add(SCHEMA, '--description', 'Paid')).stdout).toBe(`registered  ${TOPIC}  version 1\n`);
  expect((await add(SCHEMA)).stdout).toBe(`unchanged  ${TOPIC}  version 1\n`);
  const changed = { ...SCHEMA, title: 'Ticket' };
  expect(JSON.parse((await add(changed, '--json')).stdout)).toEqual({ topic: TOPIC, version: 2, status: 'changed' });
  expect((await run('list')).stdout).toMatch(/^ticket\.purchased {2}version 2 of \d{4}-\S+Z {2}Paid\n$/);
  expect(JSON.parse((await run('list', '--json')).stdout)).toMatchObject([
    { topic: TOPIC, version: 2, description: 'Paid' },
  ]);
  expect(JSON.parse((await run('show', TOPIC)).stdout)).toEqual(changed);
  expect(JSON.parse((await run('show', TOPIC, '--json')).stdout)).toMatchObject({ version: 2, schema: changed });
  expect((await run('remove', TOPIC, '--dry-run')).stdout).toBe(`would remove  ${TOPIC}  version 2\n`);
  expect(await stored()).toHaveLength(1);
  expect(JSON.parse((await run('remove', TOPIC, '--json')).stdout)).toEqual({ removed: TOPIC, version: 2 });
  expect(await stored()).toEqual([]);
});

it('takes what it showed, from stdin', async () => {
  await run('add', TOPIC, '--schema', await file(SCHEMA));
  const { stdout } = await run('show', TOPIC);
  const adding = startLiventix(['outbox', 'topic', 'add', 'other', '--schema', '-'], env(), { stdin: true });
  adding.stdin.end(stdout);
  expect(await adding.done).toMatchObject({ exitCode: 0, stdout: 'registered  other  version 1\n' });
});

it('says how many of the last messages would not fit, over the days, and changes nothing', async () => {
  const dryRun = async (...more: string[]) => run('add', TOPIC, '--schema', await file(SCHEMA), '--dry-run', ...more);
  expect((await dryRun()).stdout).toBe(`would add  ${TOPIC}  0 of its last 0 messages would not fit\n`);
  await database.pool.query(
    `insert into public.outbox (topic, payload, day)
     select $1, '{"of": "${PERSONAL}"}', (now() at time zone 'UTC')::date - n from generate_series(1, 3) as n`,
    [TOPIC],
  );
  await announceMany(database.pool, 900, TOPIC);
  await announceMany(database.pool, 10, 'ticket.other');
  const newest = await announce(database.pool, { topic: TOPIC, payload: { n: PERSONAL } });
  const { stdout } = await dryRun();
  expect(stdout).toMatch(/^would add {2}ticket\.purchased {2}4 of its last 904 messages would not fit\n/);
  expect(stdout.split('\n')[1]).toBe(`${newest}  /n must be integer`);
  expect(stdout).toContain("it must have required property 'n'");
  expect(stdout).not.toContain(PERSONAL);

  await announceMany(database.pool, 1_100, TOPIC);
  const judged = JSON.parse((await dryRun('--json')).stdout);
  expect(judged).toMatchObject({ wouldAdd: TOPIC, messages: 1_000, misfits: 100 });
  expect(judged.examples).toHaveLength(5);
  expect(judged.examples[0]).toMatchObject({ path: '/n', expected: 'must be <= 1000' });
  expect(await stored()).toEqual([]);
});

it('refuses in one line', async () => {
  const none = join(folder, 'none.json');
  await refused('OUTBOX_TOPIC_INVALID', /"Ticket" is not a topic/, 'add', 'Ticket', '--schema', await file(SCHEMA));
  await refused('OUTBOX_SCHEMA_INVALID', /no JSON/, 'add', TOPIC, '--schema', await file('{'));
  await refused('OUTBOX_SCHEMA_INVALID', /"requird"/, 'add', TOPIC, '--schema', await file({ requird: [] }));
  await refused(
    'OUTBOX_SCHEMA_INVALID',
    /"requird"/,
    'add',
    TOPIC,
    '--schema',
    await file({ requird: [] }),
    '--dry-run',
  );
  await refused('USAGE', /none\.json/, 'add', TOPIC, '--schema', none);
  await refused(
    'OUTBOX_SCHEMA_INVALID',
    /description/,
    'add',
    TOPIC,
    '--schema',
    await file(SCHEMA),
    '--description',
    '',
  );
  await refused('OUTBOX_TOPIC_UNKNOWN', /No schema is registered for the topic "a"/, 'show', 'a');
  await refused('OUTBOX_TOPIC_UNKNOWN', /"a"/, 'remove', 'a');
  await refused('OUTBOX_TOPIC_UNKNOWN', /"a"/, 'remove', 'a', '--dry-run');
  expect(await stored()).toEqual([]);
});
