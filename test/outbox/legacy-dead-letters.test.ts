import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { planRetry, planRetryOf, retryPlanned } from '../../src/outbox/dead-letters.ts';
import { judgeLetters } from '../../src/outbox/letters-diagnosis.ts';
import { replaceWalletFunctions } from '../../src/replay/wallet-functions.ts';
import { asSuperuser, type TestDatabase } from '../support/database.ts';
import { createDeadLetterDatabase, givenDeliveries } from '../support/dead-letters.ts';
import { addTestEndpoint, announce, clearOutbox, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

interface Letter {
  readonly id: string;
  readonly correlation_id: string;
  readonly webhook_type: string;
  readonly payload: unknown;
  readonly original_timestamp: Date;
  readonly failure_reason: string;
  readonly retry_count: number;
  readonly status: string;
}

let database: TestDatabase;
let receiver: TestReceiver;
let status = 500;
beforeAll(async () => {
  database = await createDeadLetterDatabase();
  await replaceWalletFunctions(database.pool);
  receiver = await startReceiver((response, webhook) => answer(status)(response, webhook));
});
beforeEach(async () => {
  await clearOutbox(database.pool);
  await database.pool.query('truncate public.dead_letter_webhooks, outbox.legacy_letters');
  status = 500;
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

const letters = async () =>
  (await database.pool.query<Letter>('select * from public.dead_letter_webhooks order by created_at')).rows;
const retryAll = async () => {
  for await (const _ of retryPlanned(database.pool, await planRetry(database.pool, {}), {
    stop: new AbortController().signal,
  }));
};
const setState = (state: string) =>
  database.pool.query(
    `update outbox.deliveries set state = $1::text, last_error = 'answered 500',
       finished_at = case when $1 in ('dead', 'delivered') then clock_timestamp() end`,
    [state],
  );
const pop = async () => (await database.pool.query('select * from public.dlq_pop_next()')).rows;

describe('the old platform’s table of dead letters', () => {
  it('has a row for a delivery that died, says that it is retried, failed again, and succeeded in the end', async () => {
    const worker = await startTestWorker({ databaseUrl: database.url });
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: receiver.url });
    const messageId = await announce(database.pool, { topic: 'ticket.sold', payload: { seat: 7 } });
    await settled(database.pool);
    const { rows } = await database.pool.query('select created_at from public.outbox where id = $1', [messageId]);
    const [letter] = await letters();
    expect(letter).toMatchObject({
      correlation_id: letter?.id,
      webhook_type: 'ticket.sold',
      payload: { seat: 7 },
      original_timestamp: rows[0].created_at,
      failure_reason: `endpoint ${endpointId}: answered 500`,
      retry_count: 0,
      status: 'pending',
    });
    const found = await database.pool.query(
      `select message_id from outbox.legacy_letters join outbox.deliveries on deliveries.id = delivery_id and deliveries.day = legacy_letters.day
       where letter_id = $1`,
      [letter?.correlation_id],
    );
    expect(found.rows).toEqual([{ message_id: messageId }]);

    await retryAll();
    await settled(database.pool);
    expect(await letters()).toMatchObject([{ id: letter?.id, retry_count: 1, status: 'failed' }]);
    status = 204;
    await retryAll();
    await settled(database.pool);
    expect(await letters()).toMatchObject([{ id: letter?.id, retry_count: 2, status: 'succeeded' }]);
    await worker.stop();
  });

  it('says that a delivery is being retried while it is', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await setState('dead');
    await retryAll();
    expect(await letters()).toMatchObject([{ status: 'retrying', retry_count: 1, last_retry_at: expect.any(Date) }]);
  });

  it('hears nothing of deliveries that never died', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending', count: 50 });
    const plan = async (state: string) =>
      (
        await database.pool.query<{ 'QUERY PLAN': string }>(
          `explain (analyze, costs off) update outbox.deliveries set state = '${state}', finished_at = clock_timestamp()`,
        )
      ).rows
        .map((row) => row['QUERY PLAN'])
        .join('\n');
    expect(await plan('delivered')).not.toMatch(/Trigger/);
    expect(await plan('dead')).toMatch(/Trigger deliveries_tell_dead_letter .*calls=50/);
    expect(await letters()).toHaveLength(50);
  });

  it('goes back with the transaction in which the delivery died', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await database.pool.query(
      `begin; update outbox.deliveries set state = 'dead', finished_at = clock_timestamp(); rollback`,
    );
    expect(await letters()).toEqual([]);
  });

  it.each([
    ['is gone', 'alter table public.dead_letter_webhooks rename to gone'],
    ['refuses the row', `alter table public.dead_letter_webhooks add constraint never check (webhook_type = 'x')`],
    ['has lost a column', 'alter table public.dead_letter_webhooks rename column failure_reason to why'],
  ])('stops no delivery where it %s', async (_what, change) => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    const tx = await database.pool.connect();
    await tx.query('begin');
    await tx.query(change);
    await tx.query(`update outbox.deliveries set state = 'dead', finished_at = clock_timestamp()`);
    const { rows } = await tx.query(
      'select state, (select count(*)::integer from outbox.legacy_letters) as letters from outbox.deliveries',
    );
    expect(rows).toEqual([{ state: 'dead', letters: 0 }]);
    await tx.query('rollback');
    tx.release();
  });

  it('does not keep a delivery waiting for who holds its row', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await setState('dead');
    const old = await database.pool.connect();
    await old.query('begin; select public.dlq_pop_next()');
    await retryAll();
    await old.query('commit');
    old.release();
    expect((await database.pool.query('select state from outbox.deliveries')).rows).toEqual([{ state: 'pending' }]);
    expect(await letters()).toMatchObject([{ status: 'retrying' }]);
  });
});

describe('a table of that name that anybody could have made', () => {
  const stranger = () => `stranger_${database.name}`;
  const setOwner = (owner: string) =>
    asSuperuser(database, `alter table public.dead_letter_webhooks owner to ${owner}`);
  beforeEach(async () => {
    const { rows } = await database.pool.query<{ me: string }>('select current_user as me');
    outboxOwner = rows[0]?.me ?? '';
    await asSuperuser(database, `create role ${stranger()} nologin; grant create on schema public to public`);
    await setOwner(stranger());
    // As whoever made it to be told would.
    await asSuperuser(
      database,
      `grant insert, select, update on public.dead_letter_webhooks to ${outboxOwner};
       alter table public.dead_letter_webhooks disable row level security`,
    );
  });
  afterEach(async () => {
    await setOwner(outboxOwner);
    await asSuperuser(
      database,
      `alter table public.dead_letter_webhooks enable row level security;
       revoke create on schema public from public; drop role ${stranger()}`,
    );
  });
  let outboxOwner: string;

  it('is told nothing, which the doctor says, and delivery goes on', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending', count: 3 });
    await setState('dead');
    expect(await judgeLetters(database.pool)).toMatchObject({
      result: 'warning',
      found: expect.stringContaining(`it is ${stranger()}'s`),
    });
    await setOwner(outboxOwner);
    expect(await letters()).toEqual([]);
    expect(await judgeLetters(database.pool)).toMatchObject({ result: 'ok' });
    expect((await planRetry(database.pool, {})).deliveries).toBe(3);
  });

  it('is judged for nobody who may not see the outbox', async () => {
    const client = new pg.Client({ connectionString: database.adminUrl });
    await client.connect();
    try {
      await client.query('set role anon');
      expect(await judgeLetters(client)).toMatchObject({ result: 'skipped' });
    } finally {
      await client.end();
    }
  });

  it('is told again when nobody else may make tables there', async () => {
    await asSuperuser(database, 'revoke create on schema public from public');
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await setState('dead');
    expect(await letters()).toHaveLength(1);
    expect(await judgeLetters(database.pool)).toMatchObject({ result: 'ok' });
  });
});

describe('while somebody holds the whole table', () => {
  const HELD = 100;
  /** A transaction that holds the table while `work` runs. */
  const whileHeld = async (work: () => Promise<unknown>) => {
    const holder = await database.pool.connect();
    await holder.query('begin; lock table public.dead_letter_webhooks in access exclusive mode');
    await work().finally(() => holder.query('rollback').finally(() => holder.release()));
  };
  const die = (client: Tx) =>
    client.query(`update outbox.deliveries set state = 'dead', finished_at = clock_timestamp()`);
  const givenPending = async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending', count: HELD });
  };

  it('a hundred deliveries die in less than a second, with one warning, and none is lost', async () => {
    await givenPending();
    const client = await database.pool.connect();
    const warnings: string[] = [];
    client.on('notice', ({ message }) => warnings.push(message ?? ''));
    const began = performance.now();
    await whileHeld(() => die(client)).finally(() => client.release(true));
    expect(performance.now() - began).toBeLessThan(1_000);
    expect(warnings).toEqual([expect.stringContaining('public.dead_letter_webhooks')]);
    const { rows } = await database.pool.query(
      'select state, count(*)::integer as n from outbox.deliveries group by state',
    );
    expect(rows).toEqual([{ state: 'dead', n: HELD }]);
    expect(await letters()).toEqual([]);
  });

  it('the next transaction on that connection tells again', async () => {
    await givenPending();
    const client = await database.pool.connect();
    try {
      await whileHeld(() => die(client));
      await client.query(`update outbox.deliveries set state = 'pending', finished_at = null`);
      await die(client);
    } finally {
      client.release(true);
    }
    expect(await letters()).toHaveLength(HELD);
  });
});

describe('the old functions, of a row that stands for a delivery', () => {
  let endpointId: string;
  let deliveryId: bigint;
  beforeEach(async () => {
    ({ id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' }));
    [deliveryId = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'pending', topic: 'ticket.sold' });
    await setState('dead');
  });

  it('pop it once, and mark it in their table alone', async () => {
    const [letter] = await letters();
    expect(await pop()).toEqual([
      { id: letter?.id, correlation_id: letter?.id, webhook_type: 'ticket.sold', payload: { n: 1 } },
    ]);
    expect(await pop()).toEqual([]);
    expect(await letters()).toMatchObject([{ status: 'retrying', retry_count: 1 }]);
    expect((await planRetryOf(database.pool, [deliveryId])).deliveries).toBe(1);
  });

  it('do not settle the delivery by what they are told: whoever may call them has no say in it', async () => {
    const [letter] = await letters();
    await database.pool.query(`select public.dlq_set_status($1, 'succeeded')`, [letter?.id]);
    expect((await database.pool.query('select state from outbox.deliveries')).rows).toEqual([{ state: 'dead' }]);
    // Delivered or dead once more, the row says so again, pruned or not.
    await database.pool.query(`update public.dead_letter_webhooks set updated_at = now() - interval '1 year'`);
    await database.pool.query('delete from public.dead_letter_webhooks');
    await retryAll();
    await setState('dead');
    expect(await letters()).toMatchObject([{ id: letter?.id, status: 'pending' }]);
  });
});
