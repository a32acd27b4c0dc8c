import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { newSecret, receiversPart } from '../../src/outbox/signing-secret.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  clearOutbox,
  deliveryStates,
  LOOPBACK,
  settled,
} from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

let database: TestDatabase;
let folder: string;
beforeAll(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'liventix-endpoints-'));
});
afterEach(() => clearOutbox(database.pool));
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const URL = 'https://example.com/hooks';
const NOBODY = '11111111-1111-4111-8111-111111111111';
const OTHER_KEY = Buffer.alloc(32, 'another').toString('base64');
const env = (more: Record<string, string> = {}) => ({
  DATABASE_URL: database.url,
  OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
  ...more,
});
const run = (args: readonly string[], more: Record<string, string> = {}) =>
  liventix(['outbox', 'endpoint', ...args], env(more));
const add = async (...flags: string[]) => {
  const { stdout } = await run(['add', '--url', URL, '--topic', '*', ...flags, '--json']);
  return JSON.parse(stdout) as { id: string; kind: string; secret?: string; publicKey?: string };
};
const show = async (id: string) => JSON.parse((await run(['show', id, '--json'])).stdout);
const fan = () => fanOut(database.pool, { limit: 100, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
const stored = async () => {
  const { rows } = await database.pool.query(
    `select (select jsonb_agg(e order by id) from outbox.endpoints as e) as endpoints,
       (select jsonb_agg(s order by id) from outbox.endpoint_secrets as s) as secrets,
       (select jsonb_agg(d order by id) from outbox.deliveries as d) as deliveries`,
  );
  return rows;
};

it('takes every setting as a flag, shows all but what is secret, and clears what is named', async () => {
  const headers = join(folder, 'headers');
  await writeFile(headers, 'Authorization: Bearer hunter2\n\n');
  const { id } = await add(
    ...['--description', 'The till', '--organization', NOBODY, '--header', 'X-Shop: a: b', '--headers-file', headers],
    ...['--timeout', '5s', '--max-in-flight', '3', '--rate', '100', '--ordered', '--filter', '{"status": "paid"}'],
    ...['--retry', '5s,5m,1h'],
  );
  const shown = await show(id);
  expect(shown).toMatchObject({
    description: 'The till',
    organizationId: NOBODY,
    headerNames: ['authorization', 'x-shop'],
    timeoutMs: 5_000,
    maxInFlight: 3,
    ratePerSecond: 100,
    ordered: true,
    filter: '{"status": "paid"}',
    retryDelaysMs: [5_000, 300_000, 3_600_000],
    secrets: [{ kind: 'v1', publicKey: null, expiresAt: null }],
    health: { waiting: 0, amongAttempts: 100_000, lastSuccess: null, lastFailure: null },
  });
  const { rows } = await database.pool.query('select headers from outbox.endpoints');
  expect(rows).toEqual([{ headers: { authorization: 'Bearer hunter2', 'x-shop': 'a: b' } }]);

  const cleared = ['--no-description', '--no-organization', '--no-header', '--no-rate', '--no-ordered', '--no-filter'];
  const updated = await run(['update', id, ...cleared, '--no-retry', '--json']);
  expect(JSON.parse(updated.stdout)).toEqual({
    id,
    changed: {
      description: null,
      organizationId: null,
      headerNames: [],
      ratePerSecond: null,
      ordered: false,
      filter: null,
      retryDelaysMs: null,
    },
  });
  expect(await show(id)).toMatchObject({ description: null, headerNames: [], ordered: false, timeoutMs: 5_000 });
  const words = (await run(['show', id])).stdout;
  expect(words).toMatch(/^retries {7}the standard schedule: 5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 1d$/m);
  for (const what of ['succeeded', 'failed   '])
    expect(words).toContain(`${what}     not in the last 100,000 attempts, of all endpoints\n`);
  expect(`${words}${JSON.stringify(shown)}`).not.toContain('hunter2');
});

it.each([
  ['open', /^breaker {7}open: nothing is sent before 2026-01-03T00:00:00.000Z, and from then on the next/m],
  ['half_open', /^breaker {7}half-open: one delivery tries/m],
])(
  'show says of a breaker that it is %s, since when the endpoint fails, and how much is dead',
  async (breaker, says) => {
    const { id } = await add();
    expect((await run(['show', id])).stdout).toMatch(/^breaker {7}closed\nwaiting {7}0\ndead letters {2}0$/m);
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, breaker, failing_since, opened_at, probe_at)
     values ($1, $2, '2026-01-01Z', '2026-01-02Z', '2026-01-03Z')`,
      [id, breaker],
    );
    await givenDeliveries(database.pool, { endpointId: id, count: 2 });
    const words = (await run(['show', id])).stdout;
    expect(words).toMatch(says);
    expect(words).toMatch(/^failing since 2026-01-01T00:00:00.000Z\nwaiting {7}0\ndead letters {2}2$/m);
    expect(await show(id)).toMatchObject({
      health: { breaker, probeAt: '2026-01-03T00:00:00.000Z', failingSince: '2026-01-01T00:00:00.000Z', dead: 2 },
    });
    await run(['disable', id, '--reason', 'x']);
    expect((await run(['show', id])).stdout).not.toMatch(/^breaker/m);
  },
);

it('text of others reaches a terminal with its control and formatting characters as code points', async () => {
  const nasty = 'a\u001b[31m\nb\u202ec';
  const receiver = await startReceiver(answer(200, {}, nasty));
  const { id } = await addTestEndpoint(database.pool, { url: receiver.url, description: nasty });
  await run(['disable', id, '--reason', nasty]);
  const shown = (await run(['show', id])).stdout;
  expect(shown).toContain('description   a\\u{1b}[31m\\u{a}b\\u{202e}c\n');
  const told = [
    shown,
    ...(
      await Promise.all([['list'], ['test', id], ['update', id, '--description', `${nasty}.`]].map((args) => run(args)))
    ).map(({ stdout }) => stdout),
    (await liventix(['outbox', 'status'], env())).stdout,
  ];
  await receiver.stop();
  expect(told[2]).toContain('\\u{202e}c');
  for (const each of told) expect(each.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  expect(told[1]?.split('\n')).toHaveLength(2);
});

it('add prints the URL as it is kept, and notes that another endpoint has it', async () => {
  const first = await run(['add', '--url', 'HTTPS://Example.com', '--topic', '*']);
  expect(first).toMatchObject({ stderr: '', stdout: expect.stringMatching(/^url {5}https:\/\/example.com\/$/m) });
  const [, id = ''] = /^id {6}(\S+)$/m.exec(first.stdout) ?? [];
  const second = await run(['add', '--url', 'https://example.com/', '--topic', '*', '--dry-run']);
  expect(second).toMatchObject({ exitCode: 0, stderr: `Note: ${id} has this URL too.\n` });
});

it('an argument that is none of its kind is said to be none, and what would be', async () => {
  const { stderr } = await liventix(['outbox', 'show', 'abc'], env());
  expect(stderr).toMatch(/^liventix: USAGE: 'abc' is no id\. Give a message, a UUID/);
});

it('the help of add has the bounds and the standard schedule', async () => {
  const help = (await run(['add', '--help'])).stdout.replace(/\s+/g, ' ');
  for (const said of [
    '1 to 500',
    '100ms to 1m',
    '1 to 1000',
    '1 to 10000',
    'up to 20 waits of 1s to 7d',
    '5s, 5m, 30m',
  ])
    expect(help).toContain(said);
});

it('add reads stdin for one flag alone', async () => {
  const refused = await run(['add', '--url', URL, '--topic', '*', '--secret-file', '-', '--headers-file', '-']);
  expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(/USAGE: [^\n]*stdin can be read once/) });
});

it('list and show only read: a database that takes no writes answers them', async () => {
  const { id } = await add();
  await database.pool.query(`update outbox.endpoints set secret = 'whsec_of before'`);
  const readOnly = new globalThis.URL(database.url);
  readOnly.searchParams.set('options', '-c default_transaction_read_only=on');
  for (const args of [['list'], ['show', id]]) {
    expect(await run(args, { DATABASE_URL: readOnly.href })).toMatchObject({ exitCode: 0, stderr: '' });
  }
});

it('keeps what was not named', async () => {
  const { id } = await add('--retry', 'none', '--filter', '{"a": 1}');
  await run(['update', id, '--topic', 'a.b', '--topic', 'c.*']);
  expect(await show(id)).toMatchObject({ url: URL, topics: ['a.b', 'c.*'], retryDelaysMs: [], filter: '{"a": 1}' });
});

describe('a flag is refused with one line, exit code 2 and nothing changed:', () => {
  it.each([
    ['--retry 5', 'USAGE', ['--retry', '5']],
    ['--retry 1s,,2s', 'USAGE', ['--retry', '1s,,2s']],
    ['--retry 8d', 'USAGE', ['--retry', '8d']],
    ['--retry of 21 waits', 'OUTBOX_ENDPOINT_INVALID', ['--retry', Array.from({ length: 21 }, () => '1s').join()]],
    ['--timeout 0s', 'USAGE', ['--timeout', '0s']],
    ['--timeout 2m', 'USAGE', ['--timeout', '2m']],
    ['--rate 0', 'USAGE', ['--rate', '0']],
    ['--organization 7', 'USAGE', ['--organization', '7']],
    ['--filter that is no JSON', 'OUTBOX_ENDPOINT_INVALID', ['--filter', '{status: paid}']],
    ['--filter with what PostgreSQL has not', 'OUTBOX_ENDPOINT_INVALID', ['--filter', '{"a": "\\u0000"}']],
    ['--header without a name', 'USAGE', ['--header', 'hunter2']],
    ['--header of ours', 'OUTBOX_ENDPOINT_INVALID', ['--header', 'webhook-id: hunter2']],
    ['--header twice', 'USAGE', ['--header', 'a: hunter2', '--header', 'A: hunter2']],
    ['--headers-file that is not there', 'USAGE', ['--headers-file', '/no/such/file']],
    ['--url with credentials', 'OUTBOX_ENDPOINT_URL_INVALID', ['--url', 'https://me:hunter2@example.com/']],
    ['--url with a port of something else', 'OUTBOX_ENDPOINT_URL_INVALID', ['--url', 'https://example.com:25/']],
    ['--url of 10 kB', 'OUTBOX_ENDPOINT_URL_INVALID', ['--url', `https://example.com/${'x'.repeat(10_000)}`]],
  ])('%s is %s', async (_what, code, flags) => {
    const { id } = await add();
    const before = await stored();
    for (const args of [
      ['add', '--url', URL, '--topic', '*', ...flags],
      ['update', id, ...flags],
    ]) {
      const refused = await run(args);
      expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
      expect(refused.stderr).toMatch(new RegExp(`^liventix: ${code}: [^\\n]+\\n$`));
      expect(refused.stderr).not.toContain('hunter2');
    }
    expect(await stored()).toEqual(before);
  });

  it('none at all, for update', async () => {
    const { id } = await add();
    expect(await run(['update', id])).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^liventix: USAGE: /),
    });
  });
});

it.each([
  ['empty', '', 0],
  ['of 501 characters', '\u{1F3AB}'.repeat(501), 501],
])('disable with a reason that is %s says how long it may be, and changes nothing', async (_what, reason, length) => {
  const { id } = await add();
  const before = await stored();
  for (const dryRun of [[], ['--dry-run']]) {
    expect(await run(['disable', id, '--reason', reason, ...dryRun])).toEqual({
      exitCode: 2,
      stdout: '',
      stderr: `liventix: OUTBOX_ENDPOINT_INVALID: The endpoint's reason for being disabled has ${length} characters, not 1 to 500. Nothing was changed: correct it and run again.\n`,
    });
  }
  expect(await stored()).toEqual(before);
  expect((await run(['disable', id, '--reason', '\u{1F3AB}'.repeat(500)])).exitCode).toBe(0);
});

it('disable of one that is disabled says why it was', async () => {
  const { id } = await add();
  expect((await run(['disable', id, '--reason', 'the first'])).stdout).not.toContain('before');
  for (const dryRun of [['--dry-run'], []]) {
    const told = await run(['disable', id, '--reason', 'the second', ...dryRun]);
    expect(told.stdout).toMatch(/^before {2}it was disabled already, at \S+Z: the first$/m);
  }
  expect(JSON.parse((await run(['disable', id, '--reason', 'x', '--json'])).stdout)).toMatchObject({
    disabled: id,
    before: { at: expect.any(String), reason: 'the second' },
  });
});

it('update names what changes, and says so where nothing does', async () => {
  const { id } = await add('--timeout', '5s');
  for (const dryRun of [[], ['--dry-run']]) {
    const same = ['update', id, '--timeout', '5s', '--topic', '*', ...dryRun];
    expect((await run(same)).stdout).toBe(`unchanged  ${id}  it is so already\n`);
    expect(Object.values(JSON.parse((await run([...same, '--json'])).stdout))).toEqual([id, {}]);
  }
  const changed = await run(['update', id, '--timeout', '5s', '--rate', '7']);
  expect(changed.stdout).toBe(`changed  ${id}\n  ratePerSecond  7\n`);
});

it.each([
  ['show', []],
  ['update', ['--timeout', '5s']],
  ['rotate-secret', []],
  ['disable', ['--reason', 'x']],
  ['enable', []],
  ['test', []],
  ['delete', []],
])('%s of an unknown id, or of none, says where ids are', async (command, flags) => {
  for (const id of [NOBODY, 'my-endpoint', '']) {
    const refused = await run([command, id, ...flags]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: OUTBOX_ENDPOINT_UNKNOWN: [^\n]+endpoint list[^\n]+\n$/);
  }
});

it.each([
  ['update', ['--timeout', '5s', '--no-header']],
  ['rotate-secret', ['--overlap', '1h']],
  ['disable', ['--reason', 'x']],
  ['enable', []],
  ['test', []],
  ['delete', []],
])('%s --dry-run says what it would do, and changes nothing', async (command, flags) => {
  const { id } = await add();
  await announce(database.pool);
  await fan();
  const before = await stored();
  for (const json of [[], ['--json']]) {
    const dry = await run([command, id, ...flags, '--dry-run', ...json]);
    expect(dry).toMatchObject({ exitCode: 0, stderr: '' });
    expect(dry.stdout).toMatch(json.length > 0 ? /^\{.*"would[A-Z]/ : /would|to delete/);
    expect(dry.stdout).not.toMatch(/whsec_|whsk_/);
  }
  expect(await stored()).toEqual(before);
});

describe('a secret', () => {
  it("of one's own is read from a file or from stdin, and printed back as the receiver has it", async () => {
    const [first, second] = [receiversPart(newSecret('v1')), receiversPart(newSecret('v1'))];
    const file = join(folder, 'secret');
    await writeFile(file, `${first}\n`);
    const { id, secret } = await add('--secret-file', file);
    expect(secret).toBe(first);
    const rotating = startLiventix(['outbox', 'endpoint', 'rotate-secret', id, '--secret-file', '-', '--json'], env(), {
      stdin: true,
    });
    rotating.stdin.end(second);
    const rotated = await rotating.done;
    expect(JSON.parse(rotated.stdout)).toMatchObject({
      id,
      kind: 'v1',
      secret: second,
      previousUntil: expect.any(String),
    });
  });

  it.each([
    ['too short', `whsec_${Buffer.alloc(16, 'hunter2').toString('base64')}`],
    ['no base64', 'whsec_hunter2 hunter2 hunter2 hunter2'],
    ['nothing', ''],
  ])('that is %s is refused and not repeated', async (_what, text) => {
    const file = join(folder, 'bad');
    await writeFile(file, text);
    const refused = await run(['add', '--url', URL, '--topic', '*', '--secret-file', file]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: OUTBOX_SECRET_INVALID: [^\n]+\n$/);
    if (text !== '') expect(refused.stderr).not.toContain(text.slice(6));
    expect((await run(['list', '--json'])).stdout).toBe('[]\n');
  });

  it('is shown once: by add and rotate-secret, and by nothing else', async () => {
    const { id, secret = '' } = await add();
    const rotated = await run(['rotate-secret', id, '--overlap', '1h']);
    const [, second = ''] = /^secret {2}(whsec_\S+)$/m.exec(rotated.stdout) ?? [];
    expect(rotated.stdout).toMatch(/^before {2}signs too, until \S+Z$/m);
    expect(second).not.toBe(secret);
    for (const args of [
      ['list'],
      ['list', '--json'],
      ['show', id],
      ['show', id, '--json'],
      ['delete', id, '--dry-run'],
    ]) {
      const { stdout, stderr } = await run(args);
      expect(stdout).toContain(id);
      for (const each of [secret, second]) expect(`${stdout}${stderr}`).not.toContain(each.slice('whsec_'.length));
    }
    const third = await run(['rotate-secret', id]);
    expect(third).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringContaining('OUTBOX_ROTATION_UNDER_WAY'),
    });
    expect((await run(['rotate-secret', id, '--overlap', '0s'])).stdout).toMatch(/^before {2}signs nothing any more$/m);
  });

  it('of kind v1a is never shown, its public key at any time', async () => {
    const { id, kind, publicKey = '', secret } = await add('--kind', 'v1a');
    expect([kind, secret]).toEqual(['v1a', undefined]);
    expect((await run(['show', id])).stdout).toContain(`public key ${publicKey}`);
    expect((await show(id)).secrets).toMatchObject([{ kind: 'v1a', publicKey }]);
  });
});

describe('OUTBOX_ENCRYPTION_KEY', () => {
  const missing = { OUTBOX_ENCRYPTION_KEY: '' };
  const wrong = { OUTBOX_ENCRYPTION_KEY: OTHER_KEY };

  it.each([
    ['add', ['outbox', 'endpoint', 'add', '--url', URL, '--topic', '*']],
    ['add --dry-run', ['outbox', 'endpoint', 'add', '--url', URL, '--topic', '*', '--dry-run']],
    ['worker', ['worker']],
  ])(
    'missing: %s says how to make one, exit code 2, and wrong: which endpoints it does not fit',
    async (_what, args) => {
      const { id } = await add();
      const before = await stored();
      const without = await liventix(args, env(missing));
      expect(without).toMatchObject({ exitCode: 2, stdout: '' });
      expect(without.stderr).toMatch(/^liventix: OUTBOX_KEY_MISSING: [^\n]*openssl rand -base64 32[^\n]+\n$/);
      const other = await liventix(args, env(wrong));
      expect(other).toMatchObject({ exitCode: 2, stdout: '' });
      expect(other.stderr).toMatch(new RegExp(`^liventix: OUTBOX_KEY_WRONG: [^\\n]*${id}[^\\n]+\\n$`));
      expect(await stored()).toEqual(before);
    },
  );

  it('is not needed to look, to change, to stop and to delete', async () => {
    const { id } = await add();
    for (const [command = '', ...flags] of [
      ['show'],
      ['update', '--timeout', '5s'],
      ['disable', '--reason', 'x'],
      ['enable'],
      ['delete'],
    ]) {
      expect(await run([command, id, ...flags], missing)).toMatchObject({ exitCode: 0 });
    }
    expect((await run(['list', '--deleted', '--json'], missing)).stdout).toContain(id);
  });

  it.each([
    ['hunter2', 1, 1],
    [`${OTHER_KEY},hunter2`, 2, 2],
    [`${OTHER_KEY},`, 2, 2],
    [Buffer.alloc(31).toString('base64'), 1, 1],
    [Buffer.alloc(33).toString('base64'), 1, 1],
    [Buffer.alloc(32).toString('hex'), 1, 1],
  ])('"%s" is refused with element %i of %i named and nothing repeated', async (value, element, of) => {
    const refused = await run(['list'], { OUTBOX_ENCRYPTION_KEY: value, LOG_LEVEL: 'loud' });
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(
      /^liventix: CONFIG_INVALID: OUTBOX_ENCRYPTION_KEY must be 32 bytes in base64[^\n]+LOG_LEVEL[^\n]+\n$/,
    );
    expect(refused.stderr).toContain(`element ${element} of ${of}`);
    for (const part of value.split(',').filter((each) => each !== '')) expect(refused.stderr).not.toContain(part);
  });

  it('of before, named second, decrypts what it encrypted', async () => {
    const { id } = await add();
    const { OUTBOX_ENCRYPTION_KEY: first } = wrong;
    const second = Buffer.alloc(32, 'liventix').toString('base64');
    expect((await run(['rotate-secret', id], { OUTBOX_ENCRYPTION_KEY: `${first}, ${second}` })).stdout).toContain(
      'signs too',
    );
    const doctor = await liventix(['doctor', '--json'], env({ OUTBOX_ENCRYPTION_KEY: first }));
    const { checks } = JSON.parse(doctor.stdout) as { checks: { name: string; result: string }[] };
    expect(checks.find(({ name }) => name === 'endpoints')).toMatchObject({ result: 'ok' });
  });

  it('that is wrong rotates nothing, and one that is lost is put right by saying so, which says what it costs', async () => {
    const { id } = await add();
    const doctor = await liventix(['doctor'], env(wrong));
    expect(doctor.stdout).toMatch(
      new RegExp(`^FAILED +endpoints +OUTBOX_ENCRYPTION_KEY does not decrypt[^\\n]*${id}[^→]*→[^\\n]*--lost-key`, 'm'),
    );
    expect(doctor.exitCode).toBe(1);
    const before = await stored();
    for (const dryRun of [[], ['--dry-run']]) {
      const refused = await run(['rotate-secret', id, ...dryRun], wrong);
      expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
      expect(refused.stderr).toMatch(
        new RegExp(`^liventix: OUTBOX_KEY_WRONG: [^\\n]*${id}, which would be lost[^\\n]*--lost-key[^\\n]+\\n$`),
      );
    }
    expect((await run(['rotate-secret', id, '--lost-key', '--dry-run'], wrong)).stdout).toMatch(
      /^before {2}would be lost/m,
    );
    const dry = await run(['rotate-secret', id, '--lost-key', '--dry-run', '--json'], wrong);
    expect(JSON.parse(dry.stdout)).toMatchObject({ wouldRotate: { id, previousWouldBeLost: true } });
    expect(await stored()).toEqual(before);
    const rotated = await run(['rotate-secret', id, '--lost-key'], wrong);
    expect(rotated).toMatchObject({ exitCode: 0, stderr: '' });
    expect(rotated.stdout).toMatch(/^before {2}signs nothing any more: no key that is set decrypts it$/m);
    expect((await liventix(['doctor'], env(wrong))).stdout).toMatch(/^ok +endpoints +1 endpoints/m);
  });
});

describe('liventix outbox endpoint test', () => {
  it('sends one signed message and says what came of it, even while the endpoint is disabled', async () => {
    const receiver = await startReceiver(answer(200, {}, 'thank you\n'));
    const { id, secret } = await addTestEndpoint(database.pool, { url: receiver.url, headers: { 'x-shop': '7' } });
    await run(['disable', id, '--reason', 'not yet']);
    const tested = await run(['test', id]);
    expect(tested).toMatchObject({ exitCode: 0, stderr: '' });
    expect(tested.stdout).toMatch(/^delivered {2}msg_\S+ {2}answered 200 in \d+ ms: "thank you\\n"\n$/);
    await receiver.stop();
    const [webhook] = receiver.received;
    const verified = new StandardWebhook(secret).verify(
      webhook?.body ?? '',
      webhook?.headers as Record<string, string>,
    );
    expect(verified).toMatchObject({ type: 'outbox.test', data: { endpoint_id: id } });
    expect(webhook?.headers['x-shop']).toBe('7');
    expect((await database.pool.query('select from outbox.attempts')).rowCount).toBe(0);
  });

  it.each([
    ['an error', '/', /^failed {2}\S+ {2}answered 500 in \d+ ms: "told 500"\n$/],
    ['nothing in time', '/hang', /^failed {2}\S+ {2}no answer within 300 ms in \d+ ms\n$/],
  ])('exits with 1 when it is answered with %s', async (_what, path, says) => {
    const receiver = await startReceiver((response, webhook) => {
      if (webhook.path !== '/hang') answer(500, {}, 'told 500')(response, webhook);
    });
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}${path}`, timeoutMs: 300 });
    const tested = await run(['test', id]);
    expect(tested).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(says) });
    await receiver.stop();
  });

  it('passes the guard that every webhook passes', async () => {
    const receiver = await startReceiver();
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url });
    const tested = await run(['test', id, '--json'], { OUTBOX_EGRESS_ALLOW: '' });
    expect(tested.exitCode).toBe(1);
    expect(JSON.parse(tested.stdout)).toMatchObject({
      status: 'failed',
      statusCode: null,
      error: expect.stringMatching(/not a public address/),
    });
    expect(receiver.connections()).toBe(0);
    await receiver.stop();
  });
});

describe('liventix outbox endpoint delete', () => {
  it('asks for --yes when something waits, says what it does and to which database, and does it once', async () => {
    const { id } = await add();
    await announceMany(database.pool, 3);
    await fan();
    const refused = await run(['delete', id]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: 3 deliveries wait [^\n]+--yes[^\n]+\n$/);
    expect(await deliveryStates(database.pool, id)).toEqual({ pending: 3 });
    const deleted = await run(['delete', id, '--yes']);
    expect(deleted.stdout).toBe(`deleted  ${id}  3 deliveries became dead letters\n`);
    expect(deleted.stderr).toContain(database.name);
    expect(deleted.stderr).not.toContain(new globalThis.URL(database.url).password);
    expect(await deliveryStates(database.pool, id)).toEqual({ dead: 3 });
    expect((await run(['list', '--json'])).stdout).toBe('[]\n');
    expect((await run(['list', '--deleted'])).stdout).toMatch(new RegExp(`^${id} .* deleted \\S+Z\\n$`));
    const again = await run(['delete', id]);
    expect(again).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/OUTBOX_ENDPOINT_UNKNOWN: [^\n]+was deleted at/),
    });
    expect(await run(['enable', id])).toMatchObject({ exitCode: 2 });
  });

  it('gives way to who holds the deliveries for long, says so, and is finished by running it again', async () => {
    const { id } = await add();
    await announce(database.pool);
    await fan();
    const holder = await database.pool.connect();
    await holder.query('begin; lock table outbox.deliveries in row exclusive mode');
    const busy = await run(['delete', id, '--yes']);
    await holder.query('rollback');
    holder.release();
    expect(busy).toMatchObject({ exitCode: 3, stderr: expect.stringMatching(/^liventix: OUTBOX_ENDPOINT_BUSY: /m) });
    expect(await deliveryStates(database.pool, id)).toEqual({ pending: 1 });
    expect(JSON.parse((await run(['delete', id, '--yes', '--json'])).stdout)).toEqual({ deleted: id, deadLetters: 1 });
  }, 60_000);
});

it('enable says what was announced meanwhile and not kept, and the replay that it names sends it', async () => {
  const { id } = await add();
  await run(['disable', id, '--reason', 'maintenance']);
  await announce(database.pool);
  await fan();
  const dry = await run(['enable', id, '--dry-run']);
  expect(dry.stderr).toMatch(/^What was announced while it was disabled, since \S+Z, was not kept for it\.\n$/);
  const enabled = await run(['enable', id]);
  expect(enabled.stdout).toBe(`enabled  ${id}  0 deliveries wait for it\n`);
  const [, replay = ''] = /To send it: liventix (outbox replay .*)\n$/.exec(enabled.stderr) ?? [];
  const replayed = await liventix(replay.replaceAll("'", '').split(' '), env());
  // That it was disabled was announced too.
  expect(replayed.stdout).toMatch(/0 deliveries again, 2 for the first time/);
  // Of one that was not disabled there is nothing to say.
  expect(await run(['enable', id])).toMatchObject({ exitCode: 0, stderr: '' });
  expect(JSON.parse((await run(['enable', id, '--json'])).stdout)).toMatchObject({ disabledAt: null });
});

it('a worker with a key goes on where another without it stopped, and its log holds no secret', async () => {
  const receiver = await startReceiver((response, webhook) =>
    answer(receiver.received.length === 1 ? 500 : 204)(response, webhook),
  );
  const { id, secret = '' } = await add('--header', 'authorization: Bearer hunter2', '--retry', '1s');
  await run(['update', id, '--url', receiver.url]);
  await announce(database.pool);
  expect((await liventix(['worker'], env({ OUTBOX_ENCRYPTION_KEY: '' }))).exitCode).toBe(2);
  expect(receiver.received).toEqual([]);
  const worker = startLiventix(['worker'], env({ LOG_LEVEL: 'trace' }));
  await settled(database.pool, 20_000);
  await eventually('two requests', () => receiver.received.length === 2);
  worker.kill('SIGTERM');
  const { stdout, stderr } = await worker.done;
  await receiver.stop();
  for (const webhook of receiver.received) {
    new StandardWebhook(secret).verify(webhook.body, webhook.headers as Record<string, string>);
    expect(webhook.headers['authorization']).toBe('Bearer hunter2');
  }
  const told = `${stdout}${stderr}`;
  expect(told).toContain(id);
  for (const each of [secret.slice('whsec_'.length), 'hunter2', Buffer.alloc(32, 'liventix').toString('base64')]) {
    expect(told).not.toContain(each);
  }
  expect(await show(id)).toMatchObject({
    health: {
      waiting: 0,
      lastSuccess: { statusCode: 204 },
      lastFailure: { errorClass: 'status', error: 'answered 500' },
    },
  });
});
