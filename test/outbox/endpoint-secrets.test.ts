import { setTimeout as pause } from 'node:timers/promises';
import { pino } from 'pino';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { judgeEndpoints } from '../../src/outbox/endpoint-diagnosis.ts';
import { assertKeyFits, listSecrets, settleSecrets } from '../../src/outbox/endpoint-secrets.ts';
import { createKeyRing } from '../../src/outbox/key-ring.ts';
import { rotateSecret } from '../../src/outbox/secret-rotation.ts';
import { newSecret, receiversPart } from '../../src/outbox/signing-secret.ts';
import type { WorkerOptions } from '../../src/outbox/worker-options.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  clearOutbox,
  deliveryStates,
  settled,
  startTestWorker,
  TEST_KEY_RING,
} from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

let database: TestDatabase;
let receiver: TestReceiver;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await clearOutbox(database.pool);
  await receiver?.stop();
});
afterAll(() => database.drop());

const OTHER = Buffer.alloc(32, 'another key');
const OTHER_RING = createKeyRing([OTHER]);
const TEST_KEY = Buffer.alloc(32, 'liventix');
const HOUR_MS = 3_600_000;

const rotate = (
  endpointId: string,
  options: { overlapMs?: number; kind?: 'v1' | 'v1a'; keyRing?: typeof OTHER_RING; isKeyLost?: boolean } = {},
) => {
  const { overlapMs = HOUR_MS, kind = 'v1', keyRing = TEST_KEY_RING, isKeyLost = false } = options;
  const secret = newSecret(kind);
  return rotateSecret(database.pool, keyRing, { endpointId, secret, overlapMs, isKeyLost }).then((rotation) => ({
    ...rotation,
    secret: receiversPart(secret),
  }));
};

const verifies = (secret: string, { body, headers }: TestReceiver['received'][number]): boolean => {
  try {
    new StandardWebhook(secret).verify(body, headers as Record<string, string>);
    return true;
  } catch {
    return false;
  }
};

/** A worker whose log is kept. */
async function startLoggedWorker(options: Partial<WorkerOptions>) {
  let logged = '';
  const write = (line: string) => {
    logged += line;
  };
  const log = pino({ level: 'debug' }, { write });
  const worker = await startTestWorker({ databaseUrl: database.url, log, ...options });
  return { ...worker, logged: () => logged };
}

/** Every value of every table of the outbox, as one text. */
async function everythingStored(): Promise<string> {
  const { rows: tables } = await database.pool.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and (n.nspname = 'outbox' or c.oid = 'public.outbox'::regclass)`,
  );
  const texts: string[] = [];
  for (const { name } of tables) {
    const { rows } = await database.pool.query<{ text: string }>(
      `select row_to_json(t)::text as text from ${name} as t`,
    );
    texts.push(...rows.map(({ text }) => text));
  }
  expect(tables.length).toBeGreaterThan(5);
  return texts.join('\n');
}

/** In any of the forms in which PostgreSQL might print it. */
function formsOf(secret: string): readonly string[] {
  const encoded = secret.replace(/^whsec_/, '');
  return [encoded, Buffer.from(encoded, 'base64').toString('hex'), Buffer.from(encoded).toString('hex')];
}

describe('a rotation', () => {
  it('leaves no gap: who knows the old secret, and later the new one, verifies every request', async () => {
    receiver = await startReceiver();
    const { id, secret: old } = await addTestEndpoint(database.pool, { url: receiver.url });
    const worker = await startTestWorker({ databaseUrl: database.url });
    let announcing = true;
    const announcer = (async () => {
      while (announcing) {
        await announceMany(database.pool, 3);
        await pause(5);
      }
    })();
    await eventually('some requests before it', () => receiver.received.length > 10);
    const { secret, previousUntil } = await rotate(id);
    const atRotation = receiver.received.length;
    await eventually('many after it', () => receiver.received.length > atRotation + 50);
    announcing = false;
    await announcer;
    await settled(database.pool);
    await worker.stop();

    expect(previousUntil?.getTime()).toBeGreaterThan(Date.now() + HOUR_MS - 60_000);
    expect(receiver.received.every((request) => verifies(old, request))).toBe(true);
    const first = receiver.received.findIndex((request) => verifies(secret, request));
    expect(first).toBeGreaterThanOrEqual(0);
    const changedOver = receiver.received.slice(first + 10);
    expect(changedOver.length).toBeGreaterThan(20);
    expect(changedOver.every((request) => verifies(secret, request))).toBe(true);
    // The newer signature is the first.
    const [signature = ''] = String(changedOver[0]?.headers['webhook-signature']).split(' ');
    const alone = { ...changedOver[0]?.headers, 'webhook-signature': signature };
    expect(verifies(secret, { path: '', body: changedOver[0]?.body ?? '', headers: alone })).toBe(true);
  });

  it('ends the old secret when the overlap is over, without a change of anything', async () => {
    receiver = await startReceiver();
    const { id, secret: old } = await addTestEndpoint(database.pool, { url: receiver.url });
    const { secret } = await rotate(id, { overlapMs: 60_000 });
    let aheadMs = 0;
    const now = () => new Date(Date.now() + aheadMs);
    const worker = await startTestWorker({ databaseUrl: database.url, now });
    await announce(database.pool);
    await settled(database.pool);
    const version = await database.pool.query('select version from outbox.endpoints');
    aheadMs = 60_000;
    await announce(database.pool);
    await settled(database.pool);
    await worker.stop();
    expect(receiver.received.map((request) => [verifies(old, request), verifies(secret, request)])).toEqual([
      [true, true],
      [false, true],
    ]);
    expect((await database.pool.query('select version from outbox.endpoints')).rows).toEqual(version.rows);
  });

  it('to v1a signs by both kinds, and shows the public key and nothing else', async () => {
    receiver = await startReceiver();
    const { id, secret: old } = await addTestEndpoint(database.pool, { url: receiver.url });
    const { secret } = await rotate(id, { kind: 'v1a' });
    const worker = await startTestWorker({ databaseUrl: database.url });
    await announce(database.pool);
    await settled(database.pool);
    await worker.stop();
    expect(receiver.received[0]?.headers['webhook-signature']).toMatch(/^v1a,\S{88} v1,\S{44}$/);
    expect(receiver.received.every((request) => verifies(old, request))).toBe(true);
    expect(await listSecrets(database.pool, id)).toMatchObject([
      { kind: 'v1a', publicKey: secret, expiresAt: null },
      { kind: 'v1', publicKey: null, expiresAt: expect.any(Date) },
    ]);
  });

  it('with no overlap ends whatever was valid, at once', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await rotate(id);
    expect(await listSecrets(database.pool, id)).toHaveLength(2);
    expect(await rotate(id, { overlapMs: 0 })).toMatchObject({ previousUntil: null, previousWasLost: false });
    expect(await listSecrets(database.pool, id)).toHaveLength(1);
  });

  it.each([
    ['the current one', 'v1', 1],
    ['the current one, ed25519', 'v1a', 1],
    ['the one before, which signs too', 'v1', 0],
  ] as const)('is refused when the new secret is %s', async (_which, kind, index) => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const secrets = [newSecret(kind), newSecret(kind)];
    const rotateTo = (secret = newSecret(kind), overlapMs = HOUR_MS) =>
      rotateSecret(database.pool, TEST_KEY_RING, { endpointId: id, secret, overlapMs });
    await rotateTo(secrets[0], 0);
    await rotateTo(secrets[1]);
    const before = await listSecrets(database.pool, id);
    await expect(rotateTo(secrets[index], 0)).rejects.toMatchObject({
      code: 'OUTBOX_SECRET_INVALID',
      message: expect.stringMatching(/signs with already/),
    });
    expect(await listSecrets(database.pool, id)).toEqual(before);
  });

  it('is refused while two secrets are valid, and changes nothing', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await rotate(id);
    const before = await database.pool.query('select * from outbox.endpoint_secrets order by id');
    await expect(rotate(id)).rejects.toMatchObject({ code: 'OUTBOX_ROTATION_UNDER_WAY' });
    expect((await database.pool.query('select * from outbox.endpoint_secrets order by id')).rows).toEqual(before.rows);
  });

  it('by twenty at once ends with one current secret and at most one before it', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => rotate(id)));
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(await listSecrets(database.pool, id)).toHaveLength(2);
  });

  it('drops a secret that was lost with its key, when told so', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/', keyRing: OTHER_RING });
    expect(await rotate(id, { isKeyLost: true })).toMatchObject({ previousUntil: null, previousWasLost: true });
    expect(await assertKeyFits(database.pool, TEST_KEY_RING)).toMatchObject({ signable: 1, undecryptable: [] });
  });

  it('told so of a secret that can be read all the same lets it sign for the overlap', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const rotation = await rotate(id, { isKeyLost: true });
    expect(rotation).toMatchObject({ previousUntil: expect.any(Date), previousWasLost: false });
    expect(await listSecrets(database.pool, id)).toHaveLength(2);
  });
});

describe('a rotation by a key that the workers do not have changes nothing, and names the endpoint:', () => {
  const url = 'https://example.com/';
  const everySecret = async () => {
    const { rows } = await database.pool.query(
      `select endpoints.id, secret, encrypted, expires_at from outbox.endpoints
       left join outbox.endpoint_secrets on endpoint_id = endpoints.id order by endpoints.id, expires_at`,
    );
    return rows;
  };
  const refuses = async (id: string, named: string, options: Parameters<typeof rotate>[1]) => {
    const before = await everySecret();
    await expect(rotate(id, options)).rejects.toMatchObject({
      code: 'OUTBOX_KEY_WRONG',
      message: expect.stringMatching(new RegExp(`${named}.*--lost-key`)),
    });
    expect(await everySecret()).toEqual(before);
  };

  it.each([HOUR_MS, 0])('with an overlap of %i ms', async (overlapMs) => {
    const { id } = await addTestEndpoint(database.pool, { url });
    await refuses(id, id, { keyRing: OTHER_RING, overlapMs });
  });

  it('several keys, none of them the one', async () => {
    const { id } = await addTestEndpoint(database.pool, { url });
    await refuses(id, id, { keyRing: createKeyRing([OTHER, Buffer.alloc(32, 'a third')]) });
  });

  it('of an endpoint beside others whose secrets the key decrypts', async () => {
    const { id } = await addTestEndpoint(database.pool, { url });
    await addTestEndpoint(database.pool, { url, keyRing: OTHER_RING });
    await refuses(id, id, { keyRing: OTHER_RING });
  });

  it('of the older of two secrets', async () => {
    const { id } = await addTestEndpoint(database.pool, { url, keyRing: OTHER_RING });
    await rotate(id, { keyRing: createKeyRing([TEST_KEY, OTHER]) });
    await refuses(id, id, { keyRing: TEST_KEY_RING });
  });

  it.each([
    ['without a secret', null],
    ['whose secret in plain text is none', 'whsec_no base64!'],
    ['whose secret is in plain text', receiversPart(newSecret('v1'))],
  ])('of one %s, beside another whose secret the key does not decrypt', async (_which, secret) => {
    const { id: other } = await addTestEndpoint(database.pool, { url });
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into outbox.endpoints (url, topics, secret) values ($1, '{*}', $2) returning id`,
      [url, secret],
    );
    await refuses(rows[0]?.id ?? '', other, { keyRing: OTHER_RING });
  });
});

it('a rotation to the very secret that is in plain text of before is refused', async () => {
  const secret = newSecret('v1');
  const { rows } = await database.pool.query<{ id: string }>(
    `insert into outbox.endpoints (url, topics, secret) values ('https://example.com/', '{*}', $1) returning id`,
    [receiversPart(secret)],
  );
  const request = { endpointId: rows[0]?.id ?? '', secret, overlapMs: 0 };
  const rotated = rotateSecret(database.pool, TEST_KEY_RING, request);
  await expect(rotated).rejects.toMatchObject({ code: 'OUTBOX_SECRET_INVALID' });
});

it('a rotation of a secret in plain text of before lets it sign for the overlap too', async () => {
  const { rows } = await database.pool.query<{ id: string }>(
    `insert into outbox.endpoints (url, topics, secret) values ('https://example.com/', '{*}', $1) returning id`,
    [receiversPart(newSecret('v1'))],
  );
  const id = rows[0]?.id ?? '';
  expect(await rotate(id)).toMatchObject({ previousUntil: expect.any(Date), previousWasLost: false });
  expect(await listSecrets(database.pool, id)).toMatchObject([{ expiresAt: null }, { expiresAt: expect.any(Date) }]);
});

describe('a wrong key', () => {
  it('that decrypts nothing keeps a worker from starting, and from changing anything', async () => {
    receiver = await startReceiver();
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url });
    await database.pool.query(`insert into outbox.endpoints (url, topics, secret) values ($1, '{*}', $2)`, [
      'https://example.com/',
      receiversPart(newSecret('v1')),
    ]);
    await announce(database.pool);
    const started = startTestWorker({ databaseUrl: database.url, keyRing: OTHER_RING });
    await expect(started).rejects.toMatchObject({ code: 'OUTBOX_KEY_WRONG', message: expect.stringContaining(id) });
    const { rows } = await database.pool.query(
      'select count(*)::integer as n from outbox.endpoints where secret is not null',
    );
    expect(rows).toEqual([{ n: 1 }]);
    expect(receiver.connections()).toBe(0);
  });

  it('for some endpoints lets theirs wait, counts no attempt, tells, and delivers to the others', async () => {
    receiver = await startReceiver();
    const sealed = await addTestEndpoint(database.pool, { url: `${receiver.url}/sealed`, keyRing: OTHER_RING });
    const open = await addTestEndpoint(database.pool, { url: `${receiver.url}/open` });
    const worker = await startLoggedWorker({});
    await announceMany(database.pool, 5);
    await eventually('the other one has everything', () => receiver.at('/open').length === 5);
    await eventually('what cannot be signed waits', async () => {
      const states = await deliveryStates(database.pool, sealed.id);
      return states['pending'] === 5;
    });
    expect(receiver.at('/sealed')).toEqual([]);
    const { rows } = await database.pool.query(
      'select count(*)::integer as n, max(attempt) as attempt from outbox.deliveries where endpoint_id = $1 and attempt = 1',
      [sealed.id],
    );
    expect(rows).toEqual([{ n: 5, attempt: 1 }]);
    expect(
      (await database.pool.query('select from outbox.attempts where endpoint_id = $1', [sealed.id])).rowCount,
    ).toBe(0);
    await worker.stop();
    const errors = worker
      .logged()
      .split('\n')
      .filter((line) => line.includes('"level":50'));
    expect(errors.length).toBeGreaterThan(0);
    expect(errors.join('')).toContain(sealed.id);
    expect(worker.logged()).not.toContain(open.secret.replace('whsec_', ''));

    expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({
      result: 'failed',
      found: expect.stringContaining(sealed.id),
      todo: expect.stringContaining('rotate-secret --lost-key'),
    });
    // With the key they are sent, as first attempts.
    await database.pool.query('update outbox.deliveries set due_at = now() where due_at > now()');
    const both = await startTestWorker({ databaseUrl: database.url, keyRing: createKeyRing([TEST_KEY, OTHER]) });
    await settled(database.pool);
    await both.stop();
    expect(receiver.at('/sealed')).toHaveLength(5);
    expect(receiver.at('/sealed').every((request) => verifies(sealed.secret, request))).toBe(true);
  });

  it('is none where it was added in front: secrets are encrypted anew by it, and the old one can go', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await rotate(id);
    const ring = createKeyRing([OTHER, TEST_KEY]);
    expect(await settleSecrets(database.pool, ring)).toEqual({ moved: 0, encryptedAnew: 2 });
    expect(await settleSecrets(database.pool, ring)).toEqual({ moved: 0, encryptedAnew: 0 });
    expect(await assertKeyFits(database.pool, OTHER_RING)).toMatchObject({ signable: 1, undecryptable: [] });
    await expect(assertKeyFits(database.pool, TEST_KEY_RING)).rejects.toMatchObject({ code: 'OUTBOX_KEY_WRONG' });
  });

  it('reads no secret that was copied to another endpoint', async () => {
    const [one, other] = [
      await addTestEndpoint(database.pool, { url: 'https://example.com/1' }),
      await addTestEndpoint(database.pool, { url: 'https://example.com/2' }),
    ];
    await database.pool.query(
      `update outbox.endpoint_secrets set encrypted = (select encrypted from outbox.endpoint_secrets where endpoint_id = $1)
       where endpoint_id = $2`,
      [one.id, other.id],
    );
    expect(await assertKeyFits(database.pool, TEST_KEY_RING)).toMatchObject({ undecryptable: [other.id] });
  });
});

it('a worker without a key says so, and doctor too, the louder where there are endpoints', async () => {
  const doctor = () => judgeEndpoints(database.pool, createKeyRing([]));
  expect(await doctor()).toMatchObject({ result: 'warning', found: expect.stringMatching(/is not set/) });
  await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  expect(await doctor()).toMatchObject({ result: 'failed', found: expect.stringMatching(/is not set/) });
  const started = startTestWorker({ databaseUrl: database.url, keyRing: createKeyRing([]) });
  await expect(started).rejects.toMatchObject({
    code: 'OUTBOX_KEY_MISSING',
    message: expect.stringContaining('openssl rand'),
  });
});

it.each([
  ['http://127.0.0.1/', [], 'warning'],
  ['http://[::ffff:10.0.0.1]/', [], 'warning'],
  ['http://localhost:8080/', [], 'warning'],
  ['http://localhost:8080/', ['127.0.0.0/8'], 'ok'],
  ['http://10.0.0.1/', ['10.0.0.0/8'], 'ok'],
  ['https://93.184.215.14/', [], 'ok'],
  ['https://localhost.example/', [], 'ok'],
])(
  'doctor judges an endpoint at %s by what may be reached from its environment, %j: %s',
  async (url, egressAllow, result) => {
    const { id } = await addTestEndpoint(database.pool, { url, egressAllow: ['0.0.0.0/0', '::/0'] });
    const finding = await judgeEndpoints(database.pool, TEST_KEY_RING, { egressAllow });
    expect(finding.result).toBe(result);
    if (result === 'warning')
      expect(`${finding.found} ${finding.todo}`).toMatch(new RegExp(`${id}.*OUTBOX_EGRESS_ALLOW`));
    await database.pool.query('update outbox.endpoints set enabled = false, disabled_at = now()');
    expect(await judgeEndpoints(database.pool, TEST_KEY_RING, { egressAllow })).toMatchObject({ result: 'ok' });
  },
);

describe('secrets in plain text of before', () => {
  const addPlain = async (secret: string, url = 'https://example.com/') => {
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into outbox.endpoints (url, topics, secret) values ($1, '{*}', $2) returning id`,
      [url, secret],
    );
    return rows[0]?.id ?? '';
  };

  it('are encrypted by the next worker, are then nowhere in plain, and sign as before', async () => {
    receiver = await startReceiver();
    const secret = receiversPart(newSecret('v1'));
    await addPlain(secret, receiver.url);
    expect(await everythingStored()).toContain(formsOf(secret)[0]);
    expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({ result: 'warning' });
    const worker = await startLoggedWorker({});
    await announce(database.pool);
    await settled(database.pool);
    await worker.stop();
    expect(receiver.received.map((request) => verifies(secret, request))).toEqual([true]);
    const stored = await everythingStored();
    for (const form of formsOf(secret)) {
      expect(stored).not.toContain(form);
      expect(worker.logged()).not.toContain(form);
    }
    expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({ result: 'ok' });
  });

  it('are encrypted once, by however many workers at once', async () => {
    for (let n = 0; n < 10; n += 1) await addPlain(receiversPart(newSecret('v1')));
    const outcomes = await Promise.all(Array.from({ length: 8 }, () => settleSecrets(database.pool, TEST_KEY_RING)));
    expect(outcomes.reduce((sum, { moved }) => sum + moved, 0)).toBe(10);
    const { rows } = await database.pool.query(
      `select count(*)::integer as n, count(secret)::integer as plain from outbox.endpoints
       join outbox.endpoint_secrets on endpoint_id = endpoints.id`,
    );
    expect(rows).toEqual([{ n: 10, plain: 0 }]);
  });

  it('stay where they are when they are none; their deliveries wait, and doctor says what to do', async () => {
    receiver = await startReceiver();
    const id = await addPlain('whsec_no base64!', receiver.url);
    const worker = await startTestWorker({ databaseUrl: database.url });
    await announce(database.pool);
    await eventually('it waits', async () => (await deliveryStates(database.pool, id))['pending'] === 1);
    expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({
      result: 'failed',
      found: expect.stringContaining(id),
    });
    await rotate(id);
    await database.pool.query('update outbox.deliveries set due_at = now() where due_at > now()');
    await settled(database.pool);
    await worker.stop();
    expect(receiver.received).toHaveLength(1);
    expect(await everythingStored()).not.toContain('no base64!');
  });
});
