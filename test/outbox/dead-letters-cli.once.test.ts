import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { deleteEndpoint } from '../../src/outbox/endpoint-delete.ts';
import { WORKER_LOCK } from '../../src/outbox/presence.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { addTestEndpoint, announce, clearOutbox } from '../support/outbox.ts';
import { expectRefusal } from '../support/refusal.ts';

const NOBODY = '00000000-0000-4000-8000-000000000000';
const NO_WORKER = 'No worker runs: they are sent when one does (liventix worker).\n';
const RANGE = ['--from', '2026-03-01', '--to', '2026-03-31'];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const run = (...args: readonly string[]) => liventix(['outbox', ...args], { DATABASE_URL: database.url });
const start = (...args: readonly string[]) => startLiventix(['outbox', ...args], { DATABASE_URL: database.url });
const refused = (code: ErrorCode, says: RegExp, ...args: readonly string[]) =>
  expectRefusal({ code, says }, ['outbox', ...args], { DATABASE_URL: database.url });
const endpoint = (path = '') => addTestEndpoint(database.pool, { url: `https://example.com/${path}` });
const disable = (id: string) =>
  database.pool.query(
    `update outbox.endpoints set enabled = false, disabled_at = now(), disabled_reason = 'answered 410 Gone' where id = $1`,
    [id],
  );
const countOf = async (condition: string) =>
  (await database.pool.query(`select count(*)::integer as n from outbox.deliveries where ${condition}`)).rows[0].n;

describe('liventix outbox deliveries', () => {
  it('lists one a line, the newest first, as a table or one JSON array', async () => {
    const { id } = await endpoint();
    const [first = 0n] = await givenDeliveries(database.pool, { endpointId: id, topic: 'ticket.sold' });
    const [second = 0n] = await givenDeliveries(database.pool, { endpointId: id, state: 'delivered' });
    const { exitCode, stdout, stderr } = await run('deliveries');
    expect([exitCode, stderr]).toEqual([0, '']);
    const lines = stdout.split('\n').slice(0, -1);
    expect(lines[0]).toMatch(/^id +message +topic +endpoint +state +attempts +due or finished +last error$/);
    expect(lines[1]).toMatch(
      new RegExp(`^${second} +[-0-9a-f]{36}  test.happened  ${id}  delivered  3 +\\d{4}-\\S+Z$`),
    );
    expect(lines[2]).toMatch(new RegExp(`^${first} .* ticket.sold .* dead .* 3 .*  answered 500$`));
    expect(JSON.parse((await run('deliveries', '--json', '--state', 'dead')).stdout)).toMatchObject([
      {
        id: Number(first),
        topic: 'ticket.sold',
        endpointId: id,
        state: 'dead',
        attempts: 3,
        lastError: 'answered 500',
      },
    ]);
    expect(
      JSON.parse((await run('deliveries', '--json', '--before', `${second}`, '--topic', 'ticket.*')).stdout),
    ).toHaveLength(1);
  });

  it('says when there are none, and [] to machines', async () => {
    expect(await run('deliveries', '--state', 'dead')).toEqual({
      exitCode: 0,
      stdout: '',
      stderr: 'There are no such deliveries.\n',
    });
    expect((await run('deliveries', '--json')).stdout).toBe('[]\n');
  });

  it('tells what is queued from what is being delivered', async () => {
    const { id: endpointId } = await endpoint();
    const [queued, claimed] = await givenDeliveries(database.pool, { endpointId, state: 'pending', count: 2 });
    await database.pool.query(`update outbox.deliveries set state = 'queued', lease_until = now()`);
    await database.pool.query('update outbox.deliveries set claimed_by = 1 where id = $1', [claimed]);
    for (const [state, id] of [
      ['queued', queued],
      ['delivering', claimed],
    ] as const) {
      expect(JSON.parse((await run('deliveries', '--state', state, '--json')).stdout)).toMatchObject([
        { id: Number(id), state, attempts: 2 },
      ]);
    }
  });

  it('gives a terminal nothing that moves its cursor', async () => {
    const { id: endpointId } = await endpoint();
    await givenDeliveries(database.pool, { endpointId });
    await database.pool.query(`update outbox.deliveries set last_error = E'\\x1b[2Jgone\\n\\u202e'`);
    expect((await run('deliveries')).stdout).toMatch(/ {2}\\u\{1b\}\[2Jgone\\u\{a\}\\u\{202e\}\n$/);
  });
});

describe('liventix outbox show', () => {
  it('shows a message by its id or webhook-id, a delivery by its number, with every attempt and the exact payload', async () => {
    const { id: endpointId } = await endpoint();
    const [one = 0n] = await givenDeliveries(database.pool, { endpointId });
    const { rows } = await database.pool.query(
      `update public.outbox set payload = '{"n": 12345678901234567890}', headers = '{"x-trace": "1"}' returning id`,
    );
    await database.pool.query(
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error, response, address)
       select id, 3, day, endpoint_id, '2026-03-01T12:00:00Z', 17, 500, 'status', 'answered 500', E'oops\\x1b[31m', '192.0.2.1' from outbox.deliveries`,
    );
    const byMessage = await run('show', `msg_${rows[0].id}`);
    expect(byMessage).toMatchObject({ exitCode: 0, stderr: '' });
    expect(byMessage.stdout).toContain('payload    {"n": 12345678901234567890}\n');
    expect(byMessage.stdout).toContain('headers    {"x-trace":"1"}\n');
    expect(byMessage.stdout).toContain(`endpoint   ${endpointId}  https://example.com/\n`);
    expect(byMessage.stdout).toContain(
      'attempt 3  2026-03-01T12:00:00.000Z  17 ms  status: answered 500, address 192.0.2.1\nresponse   oops\\u{1b}[31m\n',
    );
    expect(await run('show', `${one}`)).toEqual(byMessage);
    const { stdout } = await run('show', rows[0].id, '--json');
    expect(stdout).toContain('"payload":{"n": 12345678901234567890}}');
    expect(JSON.parse(stdout)).toMatchObject({
      topic: 'test.happened',
      deliveries: [{ id: Number(one), attempts: [{ attempt: 3, statusCode: 500, response: 'oops\u001b[31m' }] }],
    });
  });

  it('shows, and so does the list, that one is due after others of its key', async () => {
    const { id: endpointId } = await endpoint();
    const [one = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await database.pool.query(`update outbox.deliveries set due_at = null, ordering_key = 'k'`);
    expect((await run('show', `${one}`)).stdout).toMatch(/^delivery {3}\d+ {2}pending {2}after others of its key$/m);
    expect((await run('deliveries')).stdout).toMatch(/ pending .* after others of its key /);
  });

  it('shows why one died without an attempt, and how many were made: of one that waited none, or those of before', async () => {
    const { id: endpointId } = await endpoint();
    const [never = 0n, once = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'pending', count: 2 });
    await database.pool.query('update outbox.deliveries set attempt = case when id = $1 then 1 else 2 end', [never]);
    await database.pool.query(
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, error_class, error)
       select id, 1, day, endpoint_id, now(), 17, 'status', 'answered 500' from outbox.deliveries where id = $1`,
      [once],
    );
    await deleteEndpoint(database.pool, { id: endpointId, deletedAt: null });
    expect((await run('show', `${never}`)).stdout).toMatch(/^reason {5}endpoint deleted\nattempts {3}none$/m);
    expect((await run('show', `${once}`)).stdout).toMatch(/^reason {5}endpoint deleted\nattempt 1 .* answered 500$/m);
    for (const [id, made] of [
      [never, 0],
      [once, 1],
    ] as const) {
      expect(JSON.parse((await run('show', `${id}`, '--json')).stdout).deliveries).toMatchObject([
        { attemptsMade: made, lastError: 'endpoint deleted' },
      ]);
    }
    const listed = JSON.parse((await run('deliveries', '--json')).stdout);
    expect(listed.map(({ attempts }: { attempts: number }) => attempts)).toEqual([1, 0]);
    // Its last attempt was under way when the endpoint was deleted.
    await database.pool.query('update outbox.deliveries set attempt = 1 where id = $1', [once]);
    expect(JSON.parse((await run('deliveries', '--json')).stdout)[0]).toMatchObject({ attempts: 1 });
  });

  it('shows a message that has no deliveries yet', async () => {
    const id = await announce(database.pool);
    expect((await run('show', id)).stdout).toMatch(
      /^processed {2}not yet turned into deliveries$[\s\S]*^deliveries none yet$/m,
    );
  });
});

describe('liventix outbox show, of a message that was sent to nobody', () => {
  const message = async (topic = 'ticket.sold') => {
    const id = await announce(database.pool, { topic, payload: { n: 1 } });
    await database.pool.query('update public.outbox set processed_at = clock_timestamp() where id = $1', [id]);
    return id;
  };
  const configure = (id: string, assignment: string) =>
    database.pool.query(`update outbox.endpoints set ${assignment} where id = $1`, [id]);

  it('says of each endpoint that subscribes now why it was not: filter, disabled, added later, or it was another then', async () => {
    const [filtered, off, changed] = [await endpoint('filtered'), await endpoint('off'), await endpoint('changed')];
    await configure(filtered.id, `filter = '{"n": 2}'`);
    await disable(off.id);
    const id = await message();
    const late = await endpoint('late');
    const { stdout } = await run('show', id);
    expect(stdout).toContain(`not sent   ${filtered.id}  https://example.com/filtered  its filter does not match\n`);
    expect(stdout).toMatch(new RegExp(`not sent {3}${off.id} .* it was disabled, since \\S+Z: enable it first\n`));
    expect(stdout).toMatch(new RegExp(`not sent {3}${changed.id} .* it would be sent it now: it was disabled then`));
    expect(stdout).toMatch(new RegExp(`not sent {3}${late.id} .* it was added later, at \\S+Z\n`));
    expect(JSON.parse((await run('show', id, '--json')).stdout).passedOver).toMatchObject({
      endpoints: [{ why: 'filter' }, { why: 'disabled' }, { why: 'changed' }, { why: 'added_later' }],
      isCut: false,
    });
    const [, replay = ''] = /^to send it liventix outbox (replay .*) <id>$/m.exec(stdout) ?? [];
    expect((await run(...replay.split(' '), late.id)).stdout).toBe(
      'replayed  1 messages: 0 deliveries again, 1 for the first time\n',
    );
  });

  it('says so where nobody subscribes to its topic, and nothing of whoever may not have it', async () => {
    const other = await endpoint('other');
    await configure(other.id, `topics = '{payment.*}'`);
    const owned = await endpoint('owned');
    await configure(owned.id, `organization_id = '${NOBODY}'`);
    expect((await run('show', await message())).stdout).toMatch(
      /^deliveries none: no endpoint that may have it subscribes to ticket\.sold now\n$/m,
    );
  });

  it('shows the first 20 of many, and that there are more', async () => {
    for (let n = 0; n < 21; n += 1) await endpoint(`${n}`);
    const { stdout } = await run('show', await message());
    expect(stdout.match(/^not sent {3}[-0-9a-f]{36} /gm)).toHaveLength(20);
    expect(stdout).toContain('not sent   and to others, which were added later than these\n');
  });
});

describe('liventix outbox retry', () => {
  it('says what it does, to which database, and of a second run that nothing is left', async () => {
    const { id: endpointId } = await endpoint();
    const [one = 0n, two = 0n] = await givenDeliveries(database.pool, { endpointId, count: 2 });
    const [three = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'delivered' });
    expect(await run('retry', `${one}`, `${two}`, `${three}`)).toEqual({
      exitCode: 0,
      stdout: 'retried  2, left alone: 1 delivered\n',
      stderr: `Retrying 2 deliveries of the database ${database.name}.\n${NO_WORKER}`,
    });
    expect(await run('retry', `${one}`)).toEqual({
      exitCode: 0,
      stdout: 'nothing to retry, left alone: 1 pending\n',
      stderr: '',
    });
    expect(await run('retry', '--dead', '--json')).toEqual({
      exitCode: 0,
      stdout: '{"retried":0,"leftAlone":{},"ofDeletedEndpoints":0,"waiting":[],"workers":0}\n',
      stderr: '',
    });
  });

  it('is refused while an endpoint of them is disabled, and so is its --dry-run, which tells whose they are', async () => {
    const [on, off] = [await endpoint('on'), await endpoint('off')];
    await givenDeliveries(database.pool, { endpointId: on.id, count: 2 });
    const [dead = 0n] = await givenDeliveries(database.pool, { endpointId: off.id });
    await disable(off.id);
    const says = new RegExp(
      `Nothing was changed\\. .* these are: ${off.id} \\(answered 410 Gone; 1 deliveries\\)\\. Enable it`,
    );
    await refused('OUTBOX_ENDPOINT_DISABLED', says, 'retry', '--dead');
    await refused('OUTBOX_ENDPOINT_DISABLED', says, 'retry', `${dead}`);
    expect(await countOf(`state = 'dead'`)).toBe(3);
    const dry = await run('retry', '--dead', '--dry-run');
    expect(dry).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(says) });
    expect(dry.stdout).toMatch(/^would be refused, all 3\n/);
    expect(dry.stdout).toContain(
      `${off.id}  https://example.com/off  DISABLED (answered 410 Gone): a retry is refused\n`,
    );
    expect(JSON.parse((await run('retry', '--dead', '--dry-run', '--json')).stdout)).toMatchObject({
      wouldRetry: 0,
      isRefused: true,
    });
    expect((await run('retry', '--dead', '--endpoint', on.id)).stdout).toBe('retried  2\n');
  });

  it('leaves the dead letters of deleted endpoints alone, whatever they were disabled for before, and says so', async () => {
    const [on, gone, stopped] = [await endpoint('on'), await endpoint('gone'), await endpoint('stopped')];
    await givenDeliveries(database.pool, { endpointId: on.id, count: 2 });
    const [dead = 0n] = await givenDeliveries(database.pool, { endpointId: gone.id, count: 3 });
    await givenDeliveries(database.pool, { endpointId: stopped.id });
    await disable(stopped.id);
    for (const { id } of [gone, stopped]) await deleteEndpoint(database.pool, { id, deletedAt: null });
    const dry = await run('retry', '--dead', '--topic', '*', '--dry-run');
    expect(dry).toMatchObject({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(dry.stdout).toMatch(/^would retry {2}2, left alone: 4 dead of deleted endpoints\n/);
    expect(dry.stdout).toContain(`3  ${gone.id}  https://example.com/gone  DELETED\n`);
    expect(JSON.parse((await run('retry', '--dead', '--dry-run', '--json')).stdout)).toMatchObject({
      wouldRetry: 2,
      isRefused: false,
      ofDeletedEndpoints: 4,
    });
    await refused(
      'OUTBOX_ENDPOINT_DISABLED',
      new RegExp(`cannot be attempted again, and these are deleted for good: ${gone.id} .*outbox replay --endpoint`),
      'retry',
      `${dead}`,
    );
    expect((await run('retry', '--dead', '--topic', '*')).stdout).toBe(
      'retried  2, left alone: 4 dead of deleted endpoints\n',
    );
    expect((await run('retry', '--dead', '--endpoint', gone.id)).stdout).toBe(
      'nothing to retry, left alone: 3 dead of deleted endpoints\n',
    );
    expect(await countOf(`state = 'dead'`)).toBe(4);
  });

  it('keeps on Ctrl-C what it did, says how much, and does the rest when it is run again', async () => {
    const { id: endpointId } = await endpoint();
    await givenDeliveries(database.pool, { endpointId, count: 60 });
    const retrying = start('retry', '--dead', '--rate', '10');
    await eventually('a batch is done', async () => (await countOf(`state = 'pending'`)) > 0);
    retrying.kill('SIGINT');
    const { exitCode, stdout, stderr } = await retrying.done;
    expect([exitCode, stdout]).toEqual([3, '']);
    const retried = Number(/STOPPED: SIGINT stopped the retry after (\d+) of 60 deliveries/.exec(stderr)?.[1]);
    expect(retried).toBeGreaterThan(0);
    expect(retried).toBeLessThan(60);
    expect(await countOf(`state = 'pending'`)).toBe(retried);
    expect((await run('retry', '--dead')).stdout).toBe(`retried  ${60 - retried}\n`);
    expect(await countOf(`state = 'pending' and attempt = 4`)).toBe(60);
  });

  it('says nothing of workers where one runs, but to machines how many there are', async () => {
    const { id: endpointId } = await endpoint();
    const [one = 0n] = await givenDeliveries(database.pool, { endpointId });
    const client = await database.pool.connect();
    await client.query('select pg_advisory_lock(hashtext($1), 7)', [WORKER_LOCK]);
    expect((await run('retry', `${one}`)).stderr).not.toContain(NO_WORKER);
    expect(JSON.parse((await run('retry', `${one}`, '--json')).stdout)).toMatchObject({ workers: 1 });
    expect((await run('replay', '--topic', '*', ...RANGE)).stderr).not.toContain(NO_WORKER);
    client.release(true);
  });

  it('retries more than a batch holds', async () => {
    const { id: endpointId } = await endpoint();
    await givenDeliveries(database.pool, { endpointId, count: 1_201 });
    expect((await run('retry', '--dead')).stdout).toBe('retried  1,201\n');
  });
});

describe('liventix outbox replay', () => {
  const replay = (...args: readonly string[]) => run('replay', '--topic', '*', ...RANGE, ...args);

  it('counts by endpoint with --dry-run, does it, and says so', async () => {
    const [had, late] = [await endpoint('had'), await endpoint('late')];
    await givenDeliveries(database.pool, {
      endpointId: had.id,
      state: 'delivered',
      count: 2,
      at: '2026-03-31T23:59:59Z',
    });
    await givenDeliveries(database.pool, { endpointId: had.id, state: 'delivered', at: '2026-04-01T00:00:00Z' });
    const dry = await replay('--dry-run');
    expect(dry).toMatchObject({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(dry.stdout).toMatch(/^2 messages, 4 deliveries\n/);
    expect(dry.stdout).toContain(`${had.id}  https://example.com/had  2 again, 0 for the first time, 0 left alone\n`);
    expect(dry.stdout).toContain(`${late.id}  https://example.com/late  0 again, 2 for the first time, 0 left alone\n`);
    expect(await countOf(`state = 'pending'`)).toBe(0);
    const done = await replay();
    expect(done.stdout).toBe('replayed  2 messages: 2 deliveries again, 2 for the first time\n');
    expect(done.stderr).toContain(`Into the database ${database.name}:\n2 messages, 4 deliveries\n`);
    expect(done.stderr.endsWith(NO_WORKER)).toBe(true);
    expect((await replay()).stdout).toBe('nothing to send again, left alone: 4\n');
    expect(JSON.parse((await replay('--json')).stdout)).toEqual({ messages: 0, added: 0, again: 0, workers: 0 });
  });

  it('wants --yes for more than 1,000 deliveries', async () => {
    const { id: endpointId } = await endpoint();
    await givenDeliveries(database.pool, { endpointId, state: 'delivered', count: 1_001, at: '2026-03-02T00:00:00Z' });
    const args = ['replay', '--topic', '*', ...RANGE];
    await refused(
      'OUTBOX_CONFIRMATION_NEEDED',
      /^liventix: \S+ 1,001 deliveries would be sent.*confirm with --yes/,
      ...args,
    );
    expect(await countOf(`state = 'pending'`)).toBe(0);
    expect((await replay('--yes')).stdout).toBe(
      'replayed  1,001 messages: 1,001 deliveries again, 0 for the first time\n',
    );
  });

  it('keeps on Ctrl-C what it did, and says how another run does the rest and nothing twice', async () => {
    const { id: endpointId } = await endpoint();
    await givenDeliveries(database.pool, { endpointId, state: 'delivered', count: 60, at: '2026-03-02T00:00:00Z' });
    const replaying = start('replay', '--topic', '*', ...RANGE, '--rate', '10');
    await eventually('a batch is done', async () => (await countOf(`state = 'pending'`)) > 0);
    replaying.kill('SIGINT');
    const { exitCode, stderr } = await replaying.done;
    expect(exitCode).toBe(3);
    const [, sent, since = ''] =
      /STOPPED: SIGINT stopped the replay after (\d+) of 60 messages; .* --unless-since (\S+)\n$/.exec(stderr) ?? [];
    await database.pool.query(
      `update outbox.deliveries set state = 'delivered', finished_at = clock_timestamp() where state = 'pending'`,
    );
    const rest = 60 - Number(sent);
    expect(rest).toBeGreaterThan(0);
    expect((await replay('--unless-since', since)).stdout).toBe(
      `replayed  60 messages: ${rest} deliveries again, 0 for the first time\n`,
    );
  });
});

describe('a line that is stuck behind its head', () => {
  /** Three deliveries of one key, of which the first waits for an hour, and one of another. */
  async function givenLine() {
    const { id: endpointId } = await endpoint();
    const [head = 0n, second = 0n, other = 0n] = await givenDeliveries(database.pool, {
      endpointId,
      state: 'pending',
      count: 3,
      dueAt: '2100-01-01T00:00:00Z',
    });
    await database.pool.query(
      `update outbox.deliveries set ordering_key = case when id = $1 then 'order-8' else 'order-7' end,
         due_at = case when id = $2 then null else due_at end`,
      [other, second],
    );
    return { head, second, other };
  }

  it('names the head, and the key, in text and JSON, and lists those of a key alone', async () => {
    const { head, second, other } = await givenLine();
    expect((await run('show', `${second}`)).stdout).toMatch(
      new RegExp(`^delivery {3}${second} {2}pending {2}behind ${head}\nendpoint .*\nline {7}order-7$`, 'm'),
    );
    expect(JSON.parse((await run('show', `${second}`, '--json')).stdout).deliveries).toMatchObject([
      { behind: Number(head), orderingKey: 'order-7' },
    ]);
    const { stdout } = await run('deliveries');
    expect(stdout).toMatch(/^id .* due or finished +key +last error$/m);
    expect(stdout).toMatch(new RegExp(`^${second} .* behind ${head} +order-7 {2}answered 500$`, 'm'));
    const listed = JSON.parse((await run('deliveries', '--key', 'order-7', '--json')).stdout);
    expect(listed).toMatchObject([
      { id: Number(second), behind: Number(head), orderingKey: 'order-7' },
      { id: Number(head), behind: null, orderingKey: 'order-7' },
    ]);
    expect(JSON.parse((await run('deliveries', '--key', 'order-8', '--json')).stdout)).toMatchObject([
      { id: Number(other) },
    ]);
  });

  it('is told by a retry of one behind it, which says what to retry, and goes on when that is done', async () => {
    const { head, second } = await givenLine();
    const { stdout } = await run('retry', `${second}`);
    expect(stdout).toMatch(
      new RegExp(
        `^nothing to retry, left alone: 1 pending\n${second} waits behind ${head}, .*: liventix outbox retry ${head}\n$`,
      ),
    );
    expect(JSON.parse((await run('retry', `${second}`, '--json')).stdout).waiting).toMatchObject([
      { deliveryId: `${second}`, behind: Number(head), notBefore: null },
    ]);
    expect((await run('retry', `${head}`)).stdout).toBe('retried  1\n');
    expect(await countOf(`id = ${head} and due_at <= clock_timestamp()`)).toBe(1);
  });

  it('says of one whose message is to be sent later until when, and how it is sent sooner, which does it', async () => {
    const { head } = await givenLine();
    await database.pool.query(`update public.outbox set deliver_after = '2100-01-01T00:00:00Z'`);
    const { stdout } = await run('retry', `${head}`);
    expect(stdout).toMatch(
      new RegExp(
        `^nothing to retry, left alone: 1 pending\n${head} is not to be sent before 2100-01-01T00:00:00.000Z, as`,
      ),
    );
    expect((await run('retry', `${head}`, '--dry-run')).stdout).toContain(`\n${head} is not to be sent before 2100`);
    const [, update = ''] = /(update public\.outbox .*); and/.exec(stdout) ?? [];
    expect((await database.pool.query(update)).rowCount).toBe(1);
    expect((await run('retry', `${head}`)).stdout).toBe('retried  1\n');
  });

  it('explains the first 20 that wait, and counts the others', async () => {
    const { id: endpointId } = await endpoint();
    const ids = await givenDeliveries(database.pool, { endpointId, state: 'pending', count: 23 });
    await database.pool.query(
      `update outbox.deliveries set ordering_key = 'k', due_at = case when id = $1 then now() + interval '1 hour' end`,
      [ids[0]],
    );
    const { stdout } = await run('retry', ...ids.slice(1).map((id) => `${id}`));
    expect(stdout.match(/ waits behind /g)).toHaveLength(20);
    expect(stdout).toMatch(/\nand 2 more that wait\n$/);
  });
});

describe('what cannot be', () => {
  it.each<[ErrorCode, RegExp, string]>([
    ['OUTBOX_DELIVERY_UNKNOWN', /no delivery 9223372036854775807, 8/, 'retry 9223372036854775807 8'],
    ['OUTBOX_DELIVERY_UNKNOWN', /no delivery 17/, 'show 17'],
    ['OUTBOX_MESSAGE_UNKNOWN', /no message 0000/, `show ${NOBODY}`],
    ['OUTBOX_ENDPOINT_UNKNOWN', /no endpoint 0000/, `deliveries --endpoint ${NOBODY}`],
    ['OUTBOX_ENDPOINT_UNKNOWN', /no endpoint 0000/, `retry --dead --endpoint ${NOBODY}`],
    ['OUTBOX_ENDPOINT_UNKNOWN', /no endpoint 0000/, `replay --topic * ${RANGE.join(' ')} --endpoint ${NOBODY}`],
    ['OUTBOX_TOPIC_INVALID', /"Ticket" is not a topic/, 'deliveries --topic Ticket'],
    [
      'USAGE',
      /--from 2026-04-01T00:00:00Z is after --to 2026-03-02T00:00:00Z/,
      'deliveries --from 2026-04-01 --to 2026-03-01',
    ],
    ['USAGE', /is after/, 'retry --dead --from 2026-04-01 --to 2026-03-01'],
    ['USAGE', /is after/, 'replay --topic * --from 2026-04-01 --to 2026-03-01'],
    ['USAGE', /Give an instant with its offset/, 'deliveries --from yesterday'],
    ['USAGE', /Give an instant with its offset/, 'replay --topic * --from 2026-03-01T12:00:00 --to 2026-03-02'],
    ['USAGE', /Give a UUID/, 'deliveries --endpoint 7'],
    ['USAGE', /Allowed choices are pending, queued, delivering, delivered, dead/, 'deliveries --state lost'],
    ['USAGE', /Give ids of deliveries, or --dead/, 'retry'],
    ['USAGE', /Give either ids of deliveries, or --dead/, 'retry 7 --dead'],
    ['USAGE', /Give either ids of deliveries, or --dead/, 'retry 7 --topic ticket.sold'],
    ['USAGE', /the id of a delivery, a whole number/, 'retry 9223372036854775808'],
    ['USAGE', /Give a message, a UUID, or a delivery, a number/, 'show seven'],
    ['USAGE', /'--topic <topic>' not specified/, `replay ${RANGE.join(' ')}`],
  ])('%s, %s: %s', (code, says, line) => refused(code, says, ...line.split(' ')));
});
