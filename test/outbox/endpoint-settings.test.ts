import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { endpointHealth } from '../../src/outbox/endpoint-health.ts';
import { ENDPOINT_BOUNDS } from '../../src/outbox/endpoint-settings.ts';
import {
  differingSettings,
  disableEndpoint,
  enableEndpoint,
  getEndpoint,
  updateEndpoint,
} from '../../src/outbox/endpoints.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { headerFault } from '../../src/outbox/headers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announce, clearOutbox, LOOPBACK, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const URL = 'https://example.com/';
const ID = '11111111-1111-4111-8111-111111111111';

describe('the database refuses, whoever asks,', () => {
  const insert = (columns: Record<string, string>) => {
    const all = { url: `'${URL}'`, topics: `'{*}'`, ...columns };
    return database.pool.query(
      `insert into outbox.endpoints (${Object.keys(all).join(', ')}) values (${Object.values(all).join(', ')})`,
    );
  };

  it.each([
    ['endpoints_url_format', { url: `'ftp://example.com/'` }],
    ['endpoints_url_format', { url: `'https://example.com/' || repeat('x', 10000)` }],
    ['endpoints_url_without_user', { url: `'https://user:pass@example.com/'` }],
    ['endpoints_url_without_user', { url: `'https://user@example.com'` }],
    ['endpoints_url_without_fragment', { url: `'https://example.com/#x'` }],
    ['endpoints_url_is_ascii', { url: `'https://bücher.example/'` }],
    ['endpoints_url_is_ascii', { url: `E'https://example.com/\\n'` }],
    ['endpoints_topics_format', { topics: `'{Ticket}'` }],
    ['endpoints_description_size', { description: `''` }],
    ['endpoints_description_size', { description: `repeat('x', 501)` }],
    ['endpoints_headers_format', { headers: `'[]'` }],
    ['endpoints_headers_format', { headers: `'"x"'` }],
    ['endpoints_headers_format', { headers: `'{"x-a": 1}'` }],
    ['endpoints_headers_format', { headers: `'{"x-a": null}'` }],
    ['endpoints_headers_format', { headers: `'{"X-A": "upper case"}'` }],
    ['endpoints_headers_format', { headers: `'{"webhook-id": "x"}'` }],
    ['endpoints_headers_format', { headers: `'{"host": "x"}'` }],
    ['endpoints_headers_format', { headers: `'{"x-a": "a\\r\\nwebhook-id: forged"}'` }],
    [
      'endpoints_headers_format',
      { headers: `(select jsonb_object_agg('x-' || n, 'a') from generate_series(1, 33) as n)` },
    ],
    ['endpoints_rate_per_second_range', { rate_per_second: '0' }],
    ['endpoints_rate_per_second_range', { rate_per_second: '10001' }],
    ['endpoints_timeout_ms_range', { timeout_ms: '99' }],
    ['endpoints_max_in_flight_range', { max_in_flight: '0' }],
    ['endpoints_retry_delays_ms_range', { retry_delays_ms: `'{999}'` }],
    ['endpoints_retry_delays_ms_range', { retry_delays_ms: `'{604800001}'` }],
    ['endpoints_retry_delays_ms_range', { retry_delays_ms: `'{5000, null}'` }],
    ['endpoints_retry_delays_ms_range', { retry_delays_ms: `'{{5000}, {5000}}'` }],
    ['endpoints_retry_delays_ms_range', { retry_delays_ms: 'array_fill(1000, array[21])' }],
    ['endpoints_filter_is_object', { filter: `'[1]'` }],
    ['endpoints_filter_size', { filter: `jsonb_build_object('x', repeat('x', 8192))` }],
    ['endpoints_disabled_reason_size', { enabled: 'false', disabled_at: 'now()', disabled_reason: `repeat('x', 501)` }],
    ['endpoints_deleted_is_disabled', { deleted_at: 'now()' }],
  ])('%s, %j', async (constraint, columns) => {
    await expect(insert(columns as unknown as Record<string, string>)).rejects.toMatchObject({
      code: '23514',
      constraint,
    });
  });

  it.each([
    ['endpoint_secrets_kind_known', { kind: `'v2'` }],
    ['endpoint_secrets_encrypted_size', { encrypted: `repeat('x', 51)::bytea` }],
    ['endpoint_secrets_encrypted_size', { encrypted: `repeat('x', 93)::bytea` }],
    ['endpoint_secrets_key_id_format', { key_id: `'none'` }],
    ['endpoint_secrets_public_key_of_v1a', { kind: `'v1a'` }],
    ['endpoint_secrets_public_key_of_v1a', { public_key: `'whpk_' || repeat('x', 43) || '='` }],
    ['endpoint_secrets_public_key_format', { kind: `'v1a'`, public_key: `'whsk_' || repeat('x', 43) || '='` }],
    ['endpoint_secrets_expires_after_created', { expires_at: `now() - interval '1 second'` }],
    ['endpoint_secrets_one_current', {}],
    ['endpoint_secrets_endpoint_fkey', { endpoint_id: `'${ID}'` }],
  ])('%s, %j', async (constraint, columns) => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    const all = {
      endpoint_id: `'${id}'`,
      kind: `'v1'`,
      encrypted: `repeat('x', 60)::bytea`,
      key_id: `'0123456789abcdef'`,
      ...columns,
    };
    const refused = database.pool.query(
      `insert into outbox.endpoint_secrets (${Object.keys(all).join(', ')}) values (${Object.values(all).join(', ')})`,
    );
    await expect(refused).rejects.toMatchObject({ constraint });
  });

  it.each(
    Object.entries({ rate_per_second: '10000', retry_delays_ms: `'{}'`, headers: `'{"x-a": ""}'`, filter: `'{}'` }),
  )('but not what is just within its bounds: %s = %s', async (name, value) => {
    await insert({ [name]: value });
  });
});

it('database and program agree on which headers may be sent', async () => {
  const names = [
    ...[
      'x-a',
      'x_a',
      "!#$%&'*+.^_`|~-",
      'x-a:',
      'x a',
      '',
      'ü',
      'webhook-id',
      'webhookid',
      'svix-id',
      'proxy-x',
      'cookie',
    ],
    ...[
      'host',
      'te',
      'expect',
      'upgrade',
      'content-type',
      'content-encoding',
      'user-agent',
      'x'.repeat(100),
      'x'.repeat(101),
    ],
  ];
  const values = [
    'a',
    '',
    'a b',
    ' a',
    'a ',
    '\t',
    'a\tb',
    'a\nb',
    'ü',
    '~',
    '\x7f',
    'x'.repeat(1_000),
    'x'.repeat(1_001),
    7,
    null,
    {},
  ];
  const headers = [...names.map((name) => ({ [name]: 'a' })), ...values.map((value) => ({ 'x-a': value }))];
  const { rows } = await database.pool.query<{ fits: boolean }>(
    'select outbox.are_headers(each) as fits from jsonb_array_elements($1::jsonb) with ordinality as list (each, n) order by n',
    [JSON.stringify(headers)],
  );
  const ours = headers.map((each) =>
    Object.entries(each).every(([name, value]) => headerFault(name, value) === undefined),
  );
  expect(rows.map(({ fits }) => fits)).toEqual(ours);
  expect(new Set(ours)).toEqual(new Set([true, false]));
});

it('settings are kept as they were given, changed as named, and cleared', async () => {
  const { min, max } = ENDPOINT_BOUNDS.retryDelayMs;
  const settings = {
    url: 'https://example.com/hooks?a=1',
    topics: ['ticket.*', 'payment.received'],
    description: 'The till, "Ä"',
    organizationId: ID,
    timeoutMs: 5_000,
    maxInFlight: 3,
    ratePerSecond: 100,
    ordered: true,
    filter: '{"cents": 12345678901234567890.5}',
    retryDelaysMs: [min, max],
  };
  const { id } = await addTestEndpoint(database.pool, {
    ...settings,
    headers: { 'X-Shop': '7', authorization: 'Bearer x' },
  });
  const kept = await getEndpoint(database.pool, id);
  expect(kept).toMatchObject({ ...settings, headerNames: ['authorization', 'x-shop'], enabled: true });
  expect(JSON.stringify(kept)).not.toContain('Bearer');

  const change = (changed: Parameters<typeof updateEndpoint>[2]['settings']) =>
    updateEndpoint(database.pool, id, { settings: changed, egressAllow: [] });
  await change({ timeoutMs: 6_000 });
  expect(await getEndpoint(database.pool, id)).toEqual({ ...kept, timeoutMs: 6_000 });
  const cleared = { description: null, organizationId: null, ratePerSecond: null, filter: null, retryDelaysMs: null };
  await change({ ...cleared, ordered: false, headers: {} });
  expect(await getEndpoint(database.pool, id)).toMatchObject({
    ...cleared,
    ordered: false,
    headerNames: [],
    timeoutMs: 6_000,
  });
  await expect(change({ filter: '{"x": "\\u0000"}' })).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_INVALID' });
  await expect(
    updateEndpoint(database.pool, ID, { settings: { timeoutMs: 1_000 }, egressAllow: [] }),
  ).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_UNKNOWN' });
});

it('a relay is told of every change', async () => {
  const listener = await database.pool.connect();
  const heard: (string | undefined)[] = [];
  listener.on('notification', ({ payload }) => heard.push(payload));
  await listener.query('listen liventix_outbox');
  try {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await updateEndpoint(database.pool, id, { settings: { timeoutMs: 1_000 }, egressAllow: [] });
    await disableEndpoint(database.pool, id, 'a test');
    await enableEndpoint(database.pool, id);
    await eventually('four notifications', () => heard.length >= 4);
    expect(heard).toEqual(['changed', 'changed', 'changed', 'changed']);
  } finally {
    listener.release(true);
  }
});

it('its last success and failure are looked for among so many attempts of all endpoints, and no further back', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: URL });
  const { id: busy } = await addTestEndpoint(database.pool, { url: URL });
  const attempt = (endpointId: string, errorClass: string | null) =>
    database.pool.query(
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error)
       values (nextval('outbox.delivery_ids'), 1, current_date, $1, now(), 1, 204, $2, $2)`,
      [endpointId, errorClass],
    );
  await attempt(id, 'status');
  await attempt(id, null);
  for (let n = 0; n < 3; n += 1) await attempt(busy, null);
  expect(await endpointHealth(database.pool, id, { latest: 5 })).toMatchObject({
    amongAttempts: 5,
    lastSuccess: { statusCode: 204 },
    lastFailure: { errorClass: 'status' },
  });
  expect(await endpointHealth(database.pool, id, { latest: 4 })).toMatchObject({
    lastSuccess: { statusCode: 204 },
    lastFailure: null,
  });
  expect(await endpointHealth(database.pool, id, { latest: 3 })).toMatchObject({
    lastSuccess: null,
    lastFailure: null,
  });
});

it('a change of what is so already is none: it is not told, and how it is written makes no difference', async () => {
  const settings = { filter: '{"a": 1, "b": 2}', headers: { 'x-a': '1' }, retryDelaysMs: [1_000], timeoutMs: 2_000 };
  const { id } = await addTestEndpoint(database.pool, { url: URL, ...settings });
  const versions = async () => (await database.pool.query('select version, xmin::text from outbox.endpoints')).rows;
  const before = await versions();
  const again = {
    settings: { ...settings, filter: '{"b":2,"a":1}', topics: ['*'], description: null },
    egressAllow: [],
  };
  expect(await updateEndpoint(database.pool, id, again)).toEqual([]);
  expect(await versions()).toEqual(before);
  const change = { settings: { ...settings, headers: { 'x-a': '2' }, description: 'The till' }, egressAllow: [] };
  expect(await differingSettings(database.pool, id, change)).toEqual(['description', 'headers']);
  expect(await versions()).toEqual(before);
  expect(await updateEndpoint(database.pool, id, change)).toEqual(['description', 'headers']);
  expect(await differingSettings(database.pool, id, change)).toEqual([]);
});

it('one that is disabled anew keeps since when it is, and answers why it had been', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: URL });
  expect(await disableEndpoint(database.pool, id, 'the first reason')).toBeNull();
  const { disabledAt } = await getEndpoint(database.pool, id);
  expect(await disableEndpoint(database.pool, id, 'the second')).toEqual({
    at: disabledAt,
    reason: 'the first reason',
  });
  expect(await getEndpoint(database.pool, id)).toMatchObject({ disabledAt, disabledReason: 'the second' });
});

describe('how an endpoint is doing', () => {
  it('is what the relay judged, since when it fails, what waits and what is dead, of this one alone', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    const { id: other } = await addTestEndpoint(database.pool, { url: URL });
    expect(await endpointHealth(database.pool, id)).toMatchObject({
      ...{ breaker: 'closed', probeAt: null, failingSince: null, waiting: 0, dead: 0, isCut: false },
    });
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, breaker, failing_since, opened_at, probe_at)
       values ($1, 'open', '2026-01-01Z', '2026-01-02Z', '2026-01-03Z')`,
      [id],
    );
    await givenDeliveries(database.pool, { endpointId: id, count: 3 });
    await givenDeliveries(database.pool, { endpointId: id, count: 2, state: 'pending' });
    await givenDeliveries(database.pool, { endpointId: other, count: 4 });
    expect(await endpointHealth(database.pool, id)).toMatchObject({
      breaker: 'open',
      failingSince: new Date('2026-01-01Z'),
      probeAt: new Date('2026-01-03Z'),
      ...{ waiting: 2, dead: 3, isCut: false },
    });
  });

  it('counts so many and no more, and says so', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await givenDeliveries(database.pool, { endpointId: id, count: 3 });
    const cut = await endpointHealth(database.pool, id, { countLimit: 2 });
    expect(cut).toMatchObject({ dead: 2, isCut: true });
  });
});

it('one that is enabled again begins healthy, by command or by SQL, and no other change makes it so', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: URL });
  const { id: other } = await addTestEndpoint(database.pool, { url: URL });
  const failWith = (endpointId: string) =>
    database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, breaker, failures_in_row, failing_since, opened_at, probe_at)
       values ($1, 'open', 9, now() - interval '5 days', now(), now() + interval '5 minutes')`,
      [endpointId],
    );
  const failing = async () =>
    (await database.pool.query<{ endpoint_id: string }>('select endpoint_id from outbox.endpoint_health')).rows.map(
      (row) => row.endpoint_id,
    );
  await failWith(other);
  for (const enable of [
    () => enableEndpoint(database.pool, id),
    () => database.pool.query('update outbox.endpoints set enabled = true, disabled_at = null where id = $1', [id]),
  ]) {
    await failWith(id);
    await updateEndpoint(database.pool, id, { settings: { timeoutMs: 1_000 }, egressAllow: [] });
    await enable();
    await disableEndpoint(database.pool, id, 'a test');
    expect(await failing()).toEqual([other, id]);
    await enable();
    expect(await failing()).toEqual([other]);
  }
});

describe('a worker', () => {
  it("sends the endpoint's headers, then the message's, and never either in place of a signing header", async () => {
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, {
      url: receiver.url,
      headers: { 'x-shop': 'endpoint', 'x-token': 'endpoint', 'user-agent': 'shop' },
    });
    const worker = await startTestWorker({ databaseUrl: database.url });
    const forged = { 'webhook-id': 'forged', 'Webhook-Signature': 'v1,forged', 'content-type': 'text/plain' };
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into public.outbox (topic, payload, headers) values ('a', '{}', $1) returning id`,
      [{ 'X-Token': 'message', 'x-n': 7, 'x-split': 'a\r\nb', ...forged }],
    );
    await settled(database.pool);
    await worker.stop();
    await receiver.stop();
    const [webhook] = receiver.received;
    expect(webhook?.headers).toMatchObject({
      'x-shop': 'endpoint',
      'x-token': 'message',
      'user-agent': 'shop',
      'content-type': 'application/json',
      'webhook-id': `msg_${rows[0]?.id}`,
      'webhook-signature': expect.stringMatching(/^v1,[A-Za-z0-9+/]{43}=$/),
    });
    expect(webhook?.headers).not.toHaveProperty('x-n');
    expect(webhook?.headers).not.toHaveProperty('x-split');
  });

  it("retries by the endpoint's schedule, where it has one", async () => {
    const receiver = await startReceiver(answer(500));
    const own = await addTestEndpoint(database.pool, { url: `${receiver.url}/own`, retryDelaysMs: [1_000] });
    const none = await addTestEndpoint(database.pool, { url: `${receiver.url}/none`, retryDelaysMs: [] });
    const worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: [20, 20] });
    await addTestEndpoint(database.pool, { url: `${receiver.url}/usual` });
    await announce(database.pool);
    await settled(database.pool);
    await worker.stop();
    await receiver.stop();
    expect(['/own', '/none', '/usual'].map((path) => receiver.at(path).length)).toEqual([2, 1, 3]);
    const { rows } = await database.pool.query<{ endpoint_id: string; waited: number }>(
      `select endpoint_id, (extract(epoch from retry_at - started_at) * 1000)::float8 as waited from outbox.attempts
       where endpoint_id = any ($1) and attempt = 1 and retry_at is not null`,
      [[own.id, none.id]],
    );
    expect(rows).toMatchObject([{ endpoint_id: own.id }]);
    expect(rows[0]?.waited).toBeGreaterThan(799);
  });

  it('knows at the next attempt that an endpoint was changed', async () => {
    const receiver = await startReceiver();
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/before` });
    const worker = await startTestWorker({ databaseUrl: database.url });
    await announce(database.pool);
    await settled(database.pool);
    await updateEndpoint(database.pool, id, {
      settings: { url: `${receiver.url}/after`, headers: { 'x-new': 'yes' } },
      egressAllow: LOOPBACK,
    });
    await announce(database.pool);
    await settled(database.pool);
    await worker.stop();
    await receiver.stop();
    expect(receiver.received.map(({ path }) => path)).toEqual(['/before', '/after']);
    expect(receiver.at('/after')[0]?.headers).toMatchObject({ 'x-new': 'yes' });
  });

  it('sends nothing while an endpoint is disabled, and what waited when it is enabled', async () => {
    const receiver = await startReceiver();
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    await fanOut(database.pool, { limit: 10, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
    await disableEndpoint(database.pool, id, 'their till is on fire');
    expect(await getEndpoint(database.pool, id)).toMatchObject({
      enabled: false,
      disabledReason: 'their till is on fire',
    });
    const [other, worker] = [await startReceiver(), await startTestWorker({ databaseUrl: database.url })];
    await addTestEndpoint(database.pool, { url: other.url });
    await announce(database.pool);
    await eventually('the other one has its message', () => other.received.length === 1);
    expect(receiver.received).toEqual([]);
    await enableEndpoint(database.pool, id);
    await settled(database.pool);
    await worker.stop();
    await Promise.all([receiver.stop(), other.stop()]);
    expect(receiver.received).toHaveLength(1);
    expect(await getEndpoint(database.pool, id)).toMatchObject({
      enabled: true,
      disabledAt: null,
      disabledReason: null,
    });
  });
});
