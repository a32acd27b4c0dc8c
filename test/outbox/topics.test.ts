import { Writable } from 'node:stream';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import type { Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { announce } from '../../src/outbox/announce.ts';
import { reopen } from '../../src/outbox/reopen.ts';
import { getTopic, listTopics, registerTopic, removeTopic } from '../../src/outbox/topic-registry.ts';
import { createTopicSchemas } from '../../src/outbox/topic-schemas.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { waitsForLock } from '../support/locks.ts';
import {
  addTestEndpoint,
  announce as announceBySql,
  clearOutbox,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

const TOPIC = 'ticket.purchased';
const PERSONAL = 'anna@example.com';
const TICKET = z.object({ buyer: z.object({ age: z.int() }), seat: z.string() });
const FITS = { buyer: { age: 40 }, seat: 'A1' };
const MISFIT = { buyer: { age: PERSONAL }, seat: 'A1' };

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await clearOutbox(database.pool);
  await database.pool.query('delete from outbox.topics');
});
afterAll(() => database.drop());

const register = (schema: Parameters<typeof registerTopic>[1]['schema'], topic = TOPIC) =>
  registerTopic(database.pool, { topic, schema });
const announced = async () => (await database.pool.query('select payload from public.outbox order by seq')).rows;
const topicsVersion = async () =>
  (await database.pool.query('select topics_version as version from outbox.relay')).rows[0].version;

describe('a topic with a schema', () => {
  it('is registered, changed and removed; the same again changes nothing', async () => {
    const before = await topicsVersion();
    expect(await registerTopic(database.pool, { topic: TOPIC, schema: TICKET, description: 'Paid' })).toEqual({
      topic: TOPIC,
      version: 1,
      status: 'registered',
    });
    expect(await register(TICKET)).toEqual({ topic: TOPIC, version: 1, status: 'unchanged' });
    expect(await topicsVersion()).toBe(before + 1n);
    expect(await register(TICKET.extend({ price: z.int() }))).toMatchObject({ version: 2, status: 'changed' });
    expect(await listTopics(database.pool)).toMatchObject([{ topic: TOPIC, version: 2, description: 'Paid' }]);
    expect((await getTopic(database.pool, TOPIC)).schema).toMatchObject({ required: ['buyer', 'seat', 'price'] });
    await removeTopic(database.pool, TOPIC);
    expect(await topicsVersion()).toBe(before + 3n);
    for (const ask of [getTopic, removeTopic]) {
      await expect(ask(database.pool, TOPIC)).rejects.toMatchObject({ code: 'OUTBOX_TOPIC_UNKNOWN' });
    }
  });

  it('is registered once by two at once', async () => {
    const second = await withTransaction(database.pool, async (tx) => {
      await registerTopic(tx, { topic: TOPIC, schema: TICKET });
      const waiting = register(TICKET);
      await waitsForLock(database.pool, 'insert into outbox.topics');
      return { waiting };
    });
    expect(await second.waiting).toEqual({ topic: TOPIC, version: 1, status: 'unchanged' });
  });

  it.each([
    ['no schema', TOPIC, { type: 'objekt' }, 'OUTBOX_SCHEMA_INVALID'],
    ['U+0000 in it', TOPIC, { properties: { '\u0000': {} } }, 'OUTBOX_SCHEMA_INVALID'],
    ['what is longer as jsonb', TOPIC, { enum: Array(32_000).fill(1).with(0, 2) }, 'OUTBOX_SCHEMA_INVALID'],
    ['a pattern as the topic', 'ticket.*', {}, 'OUTBOX_TOPIC_INVALID'],
  ])('is not registered: %s', async (_what, topic, schema, code) => {
    await expect(register(schema, topic)).rejects.toMatchObject({ code });
    expect(await listTopics(database.pool)).toEqual([]);
  });

  it('refuses to announce what does not fit, by path and what is expected, without a value', async () => {
    await register(TICKET);
    const refused = withTransaction(database.pool, (tx) => announce(tx, { topic: TOPIC, payload: MISFIT }));
    const error = await refused.catch((failure) => failure);
    expect(error).toMatchObject({
      code: 'OUTBOX_PAYLOAD_INVALID',
      message: expect.stringContaining('A payload of ticket.purchased does not fit'),
      details: { topic: TOPIC, path: '/buyer/age', expected: 'must be integer' },
    });
    expect(error.message).toContain('/buyer/age must be integer');
    expect(JSON.stringify([error.message, error.details])).not.toContain(PERSONAL);
    await withTransaction(database.pool, (tx) => announce(tx, { topic: TOPIC, payload: FITS }));
    await withTransaction(database.pool, (tx) => announce(tx, { topic: 'ticket.other', payload: MISFIT }));
    expect(await announced()).toEqual([{ payload: FITS }, { payload: MISFIT }]);
  });

  it('is asked for once more before it refuses', async () => {
    await register(TICKET);
    await withTransaction(database.pool, async (tx) => {
      const refused = announce(tx, { topic: TOPIC, payload: MISFIT });
      await expect(refused).rejects.toMatchObject({ code: 'OUTBOX_PAYLOAD_INVALID' });
      await register({ type: 'object' });
      await announce(tx, { topic: TOPIC, payload: MISFIT });
    });
    expect(await announced()).toEqual([{ payload: MISFIT }]);
  });

  it('judges what service_role announces, which may read the schemas and nothing else of schema outbox', async () => {
    await register(TICKET);
    const client = new pg.Client({ connectionString: database.adminUrl });
    await client.connect();
    const asServiceRole = async (work: () => Promise<unknown>) => {
      await client.query('begin; set local role service_role');
      return work().finally(() => client.query('rollback'));
    };
    await expect(asServiceRole(() => announce(client, { topic: TOPIC, payload: MISFIT }))).rejects.toMatchObject({
      code: 'OUTBOX_PAYLOAD_INVALID',
    });
    await asServiceRole(() => announce(client, { topic: TOPIC, payload: FITS }));
    for (const sql of [
      'select description from outbox.topics',
      `insert into outbox.topics (topic, schema) values ('a', '{}')`,
      'delete from outbox.topics',
      'select topics_version from outbox.relay',
    ]) {
      await expect(
        asServiceRole(() => client.query(sql)),
        sql,
      ).rejects.toMatchObject({ code: '42501' });
    }
    await client.end();
  });
});

describe('a worker', () => {
  const log: string[] = [];
  let receiver: TestReceiver;
  let worker: RunningWorker;
  beforeAll(async () => {
    receiver = await startReceiver();
    const sink = new Writable({
      write: (chunk, _encoding, done) => {
        log.push(String(chunk));
        done();
      },
    });
    worker = await startTestWorker({ databaseUrl: database.url, log: pino({}, sink), pollMs: 50 });
  });
  afterAll(async () => {
    await worker.stop();
    await receiver.stop();
  });

  let endpoints = 0;
  const endpoint = async (settings: { ordered?: boolean } = {}) => {
    endpoints += 1;
    const path = `/${endpoints}`;
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}${path}`, ...settings });
    return { id, arrived: () => receiver.at(path).map(({ body }) => JSON.parse(body).data) };
  };
  const bySql = (payload: Record<string, unknown>) => announceBySql(database.pool, { topic: TOPIC, payload });
  const deliveries = async () =>
    (
      await database.pool.query(
        `select state, attempts.attempt, error_class as "errorClass", error, status_code as "statusCode"
         from outbox.deliveries join outbox.attempts on delivery_id = deliveries.id order by deliveries.id, attempts.attempt`,
      )
    ).rows;

  it('makes a dead letter at once of what SQL announced and does not fit, and sends it nowhere', async () => {
    await register(TICKET);
    const { arrived } = await endpoint();
    await bySql(MISFIT);
    await bySql(FITS);
    await settled(database.pool);
    expect(arrived()).toEqual([FITS]);
    const error =
      'not sent: the payload does not fit version 1 of the schema of ticket.purchased: /buyer/age must be integer';
    expect(await deliveries()).toEqual([
      { state: 'dead', attempt: 1, errorClass: 'payload_invalid', error, statusCode: null },
      { state: 'delivered', attempt: 1, errorClass: null, error: null, statusCode: 204 },
    ]);
    expect(log.join('')).not.toContain(PERSONAL);
  });

  it('charges no endpoint with it: its breaker stays closed, and it is as healthy as before', async () => {
    await register(TICKET);
    const { arrived } = await endpoint();
    for (let nth = 0; nth < 20; nth += 1) await bySql(MISFIT);
    await settled(database.pool);
    await bySql(FITS);
    await settled(database.pool);
    expect(arrived()).toEqual([FITS]);
    const { rows } = await database.pool.query('select * from outbox.endpoint_health');
    expect(rows).toEqual([]);
  });

  it('goes on with the line of an ordered endpoint', async () => {
    await register(TICKET);
    const { arrived } = await endpoint({ ordered: true });
    await database.pool.query(
      `insert into public.outbox (topic, payload, ordering_key) select $1, payload, 'key' from unnest($2::jsonb[]) as payload`,
      [TOPIC, [FITS, MISFIT, { ...FITS, seat: 'A2' }].map((each) => JSON.stringify(each))],
    );
    await settled(database.pool);
    expect(arrived()).toEqual([FITS, { ...FITS, seat: 'A2' }]);
  });

  it('delivers it once the schema was put right and the dead letter retried', async () => {
    await register(TICKET);
    const { arrived } = await endpoint();
    await bySql(MISFIT);
    await settled(database.pool);
    const { rows } = await database.pool.query<{ deliveryId: string; day: string }>(
      `select id::text as "deliveryId", day::text from outbox.deliveries where state = 'dead'`,
    );
    await register(TICKET.extend({ buyer: z.object({ age: z.unknown() }) }));
    expect(await reopen(database.pool, rows)).toBe(1);
    await settled(database.pool);
    expect(arrived()).toEqual([MISFIT]);
  });

  it('knows each schema that was registered before a message was announced', async () => {
    const { arrived } = await endpoint();
    for (let nth = 0; nth < 30; nth += 1) {
      await register({ properties: { n: { const: nth } } });
      await bySql({ n: nth - 1 });
      await bySql({ n: nth });
      await settled(database.pool);
    }
    expect(arrived().map(({ n }) => n)).toEqual(Array.from({ length: 30 }, (_, nth) => nth));
  });

  it('judges by none once it was removed', async () => {
    await register(TICKET);
    const { arrived } = await endpoint();
    await removeTopic(database.pool, TOPIC);
    await bySql(MISFIT);
    await settled(database.pool);
    expect(arrived()).toEqual([MISFIT]);
  });

  it('judges by no schema that SQL wrote and nobody can read, and says so; nor does announce', async () => {
    await database.pool.query(`insert into outbox.topics (topic, schema) values ($1, '{"type": "objekt"}')`, [TOPIC]);
    const { arrived } = await endpoint();
    await withTransaction(database.pool, (tx) => announce(tx, { topic: TOPIC, payload: MISFIT }));
    await settled(database.pool);
    expect(arrived()).toEqual([MISFIT]);
    expect(log.join('')).toMatch(/"topic":"ticket.purchased".*a schema of a topic cannot be read, and judges nothing/);
  });

  it('stops nobody by a payload that its schema would judge for minutes, and says which topic it is of', async () => {
    await register({ properties: { a: { type: 'string', pattern: '^(a+)+$' } } });
    const { arrived } = await endpoint();
    for (const a of [`${'a'.repeat(60)}!`, 'aaa']) {
      await database.pool.query('insert into public.outbox (topic, payload) values ($1, $2)', [TOPIC, { a }]);
    }
    await settled(database.pool);
    expect(arrived()).toEqual([{ a: 'aaa' }]);
    expect((await deliveries())[0]).toMatchObject({ state: 'dead', errorClass: 'payload_invalid' });
  });

  it('judges what a role announces that may insert and do nothing else', async () => {
    const role = `writer_${database.name}`;
    await asSuperuser(database, `create role ${role}; grant insert on public.outbox to ${role}`);
    const client = new pg.Client({ connectionString: database.adminUrl });
    await client.connect();
    try {
      await register(TICKET);
      const { arrived } = await endpoint();
      for (const payload of [MISFIT, FITS]) {
        await client.query(`begin; set local role ${role}`);
        await announce(client, { topic: TOPIC, payload });
        await client.query('commit');
      }
      await settled(database.pool);
      expect(arrived()).toEqual([FITS]);
      expect((await deliveries())[0]).toMatchObject({ state: 'dead', errorClass: 'payload_invalid' });
    } finally {
      await client.end();
      await asSuperuser(database, `drop owned by ${role}; drop role ${role}`);
    }
  });
});

it('asks nothing where nothing was ever registered, and once a change', async () => {
  let asked = 0;
  const db = {
    query: async () => {
      asked += 1;
      return { rows: [{ topicsVersion: 2n, topic: TOPIC, version: 1, schemaJson: '{"required": ["a"]}' }] };
    },
  } as unknown as Parameters<typeof createTopicSchemas>[0]['db'];
  const schemas = createTopicSchemas({ db, log: pino({ level: 'silent' }) });
  const claimed = (topicsVersion: bigint) =>
    schemas.judge([{ topicsVersion, message: { topic: TOPIC, payloadJson: '{}' } }]);
  expect(await claimed(0n)).toEqual([undefined]);
  expect(asked).toBe(0);
  for (const version of [1n, 2n, 2n]) {
    expect(await claimed(version)).toEqual([expect.stringMatching(/must have required property 'a'/)]);
  }
  expect(asked).toBe(1);
});

it('goes on with whatever else there is to do while it judges many that all take too long', async () => {
  const schemaJson = JSON.stringify({ properties: { a: { pattern: '^(a+)+$' } } });
  const db = { query: async () => ({ rows: [{ topicsVersion: 1n, topic: TOPIC, version: 1, schemaJson }] }) };
  const schemas = createTopicSchemas({ db: db as unknown as Queryable, log: pino({ level: 'silent' }) });
  const startedAt = performance.now();
  let [longestMs, at] = [0, startedAt];
  const beat = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - at);
    at = performance.now();
  }, 10);
  try {
    const payloadJson = JSON.stringify({ a: `${'a'.repeat(60)}!` });
    const judged = await schemas.judge(
      Array.from({ length: 20 }, () => ({ topicsVersion: 1n, message: { topic: TOPIC, payloadJson } })),
    );
    expect(judged.filter((misfit) => misfit === undefined)).toEqual([]);
  } finally {
    clearInterval(beat);
  }
  // As long as one of them took, and not as all of them.
  expect(longestMs).toBeLessThan((performance.now() - startedAt) / 4);
});

it('judges many that are claimed together each by itself, where one takes too long', async () => {
  const schemaJson = JSON.stringify({ properties: { a: { pattern: '^(a+)+$' } } });
  const db = { query: async () => ({ rows: [{ topicsVersion: 1n, topic: TOPIC, version: 1, schemaJson }] }) };
  const schemas = createTopicSchemas({ db: db as unknown as Queryable, log: pino({ level: 'silent' }) });
  const payloads = [{ a: 'aaa' }, { a: `${'a'.repeat(60)}!` }, { a: 'b' }];
  const judged = await schemas.judge(
    payloads.map((payload) => ({ topicsVersion: 1n, message: { topic: TOPIC, payloadJson: JSON.stringify(payload) } })),
  );
  expect(judged).toEqual([
    undefined,
    expect.stringMatching(/takes more than 100 ms/),
    expect.stringMatching(/must match pattern/),
  ]);
});
