import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { planRetry, type RetryPlan, retryPlanned } from '../../src/outbox/dead-letters.ts';
import { disableEndpoint, enableEndpoint, updateEndpoint } from '../../src/outbox/endpoints.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { moveLinesUp } from '../../src/outbox/lines.ts';
import { replayPlanned } from '../../src/outbox/replay-messages.ts';
import { planReplay } from '../../src/outbox/replay-plan.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { waitsForLock } from '../support/locks.ts';
import { addTestEndpoint, announce, clearOutbox, LOOPBACK, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

describe('an ordered endpoint', () => {
  let database: TestDatabase;
  let receiver: TestReceiver;
  let worker: RunningWorker;
  let respond = answer(204);
  let endpointId: string;

  beforeAll(async () => {
    database = await createDatabase();
    receiver = await startReceiver((response, webhook) => respond(response, webhook));
  });
  afterEach(async () => {
    await worker.stop();
    respond = answer(204);
    await clearOutbox(database.pool);
  });
  afterAll(async () => {
    await receiver.stop();
    await database.drop();
  });

  const start = async (path: string, options: { retryDelaysMs?: readonly number[] } = {}) => {
    ({ id: endpointId } = await addTestEndpoint(database.pool, {
      url: `${receiver.url}${path}`,
      maxInFlight: 20,
      timeoutMs: 1_000,
    }));
    await database.pool.query('update outbox.endpoints set ordered = true');
    worker = await startTestWorker({ databaseUrl: database.url, ...options });
  };
  const announceInLines = (keys: readonly (string | null)[], each: number) =>
    database.pool.query(
      `insert into public.outbox (topic, payload, ordering_key)
       select 'a', jsonb_build_object('key', key, 'n', n), key from generate_series(1, $2) as n, unnest($1::text[]) as key`,
      [keys, each],
    );
  const received = (path: string) =>
    receiver.at(path).map(({ body }) => JSON.parse(body).data as { key: string | null; n: number });
  const ofKey = (path: string, key: string | null) =>
    received(path)
      .filter((data) => data.key === key)
      .map(({ n }) => n);
  const ONE_TO = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

  it('gets the messages of each key one after the other, in the order of their announcement', async () => {
    let underWay = 0;
    const together: Record<string, number> = {};
    respond = (response, webhook) => {
      const { key } = JSON.parse(webhook.body).data;
      together[key] = (together[key] ?? 0) + 1;
      expect(together[key]).toBe(1);
      underWay += 1;
      setTimeout(() => {
        together[key] = (together[key] ?? 0) - 1;
        underWay -= 1;
        answer(204)(response, webhook);
      }, Math.random() * 10);
    };
    await start('/lines');
    await announceInLines(['a', 'b', 'c', 'd'], 15);
    await settled(database.pool);
    for (const key of ['a', 'b', 'c', 'd']) expect(ofKey('/lines', key)).toEqual(ONE_TO(15));
    expect(underWay).toBe(0);
  });

  it('gets a message without a key at once, whatever is in the lines', async () => {
    respond = (response, webhook) => {
      if (JSON.parse(webhook.body).data.key === null) answer(204)(response, webhook);
    };
    await start('/without');
    await announceInLines(['held'], 3);
    await announceInLines([null], 5);
    await eventually('those without a key are there', () => ofKey('/without', null).length === 5);
    expect(ofKey('/without', 'held')).toEqual([1]);
    respond = answer(204);
  });

  it('waits for the head of a line until it is delivered; the other lines do not', async () => {
    let isMended = false;
    respond = (response, webhook) => {
      const { key } = JSON.parse(webhook.body).data;
      answer(key === 'fails' && !isMended ? 404 : 204)(response, webhook);
    };
    await start('/head', { retryDelaysMs: Array.from({ length: 100 }, () => 50) });
    await announceInLines(['fails', 'works'], 5);
    await eventually('the other line is through', () => ofKey('/head', 'works').length === 5);
    await eventually('the head was tried more than once', () => ofKey('/head', 'fails').length > 2);
    expect(new Set(ofKey('/head', 'fails'))).toEqual(new Set([1]));
    isMended = true;
    await settled(database.pool);
    expect([...new Set(ofKey('/head', 'fails'))]).toEqual(ONE_TO(5));
  });

  it('goes on with the line when its head is given up, which stays a dead letter', async () => {
    respond = (response, webhook) => answer(JSON.parse(webhook.body).data.n === 1 ? 404 : 204)(response, webhook);
    await start('/parked', { retryDelaysMs: [20] });
    await announceInLines(['a'], 4);
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 3, dead: 1 });
    expect(ofKey('/parked', 'a')).toEqual([1, 1, 2, 3, 4]);
  });

  it('that is not ordered any more is sent what waited in its lines', async () => {
    respond = (response, webhook) => answer(JSON.parse(webhook.body).data.n === 1 ? 404 : 204)(response, webhook);
    await start('/unordered', { retryDelaysMs: [600_000] });
    await announceInLines(['a', 'b'], 4);
    await eventually('the heads failed', () => received('/unordered').length === 2);
    await updateEndpoint(database.pool, endpointId, { egressAllow: LOOPBACK, settings: { ordered: false } });
    await eventually('the others are there', () => received('/unordered').length === 8);
    expect(ofKey('/unordered', 'a').toSorted()).toEqual(ONE_TO(4));
  });

  it('that was disabled while the head of a line was under way goes on with the line once it is enabled', async () => {
    let release: (() => void) | undefined;
    respond = (response, webhook) => {
      if (JSON.parse(webhook.body).data.n !== 1) answer(204)(response, webhook);
      else release = () => answer(204)(response, webhook);
    };
    await start('/disabled');
    await announceInLines(['a'], 3);
    await eventually('the head is under way', () => received('/disabled').length === 1);
    await disableEndpoint(database.pool, endpointId, 'being moved');
    await eventually('the relay knows', async () => {
      await announce(database.pool, { topic: 'another' });
      const { rows } = await database.pool.query('select from public.outbox where processed_at is null');
      return rows.length === 0;
    });
    release?.();
    await eventually('the head is delivered', async () => {
      const { rows } = await database.pool.query(`select from outbox.deliveries where state = 'delivered'`);
      return rows.length === 1;
    });
    await enableEndpoint(database.pool, endpointId);
    await eventually('the others are there', () => received('/disabled').length === 3, 5_000);
    expect(ofKey('/disabled', 'a')).toEqual(ONE_TO(3));
  });

  it('goes on when whoever led was struck between a head that is delivered and the line that moves up', async () => {
    await start('/struck');
    await worker.stop();
    await announceInLines(['a', 'b'], 4);
    // As it stands then: the heads are finished, and nobody behind them is due.
    await database.pool.query(
      `
      with messages as (update public.outbox set processed_at = clock_timestamp() returning id, day, seq, ordering_key)
      insert into outbox.deliveries (message_id, day, endpoint_id, ordering_key, state, due_at, finished_at)
      select id, day, $1, ordering_key, case when turn = 1 then 'delivered' else 'pending' end, null,
        case when turn = 1 then clock_timestamp() end
      from (select *, row_number() over (partition by ordering_key order by seq) as turn from messages order by seq) as lines`,
      [endpointId],
    );
    worker = await startTestWorker({ databaseUrl: database.url });
    await settled(database.pool);
    expect(ofKey('/struck', 'a')).toEqual([2, 3, 4]);
    expect(ofKey('/struck', 'b')).toEqual([2, 3, 4]);
  });

  describe('to which messages are sent again', () => {
    const LINES = ['a', 'b', 'c'];
    const never = new AbortController().signal;
    /** Announced in two topics, so that they are replayed by two statements. */
    const givenLines = async (each: number) => {
      await announceInLines(LINES, each);
      await database.pool.query(`update public.outbox set topic = 'b' where (payload ->> 'n')::integer > $1`, [
        each / 2,
      ]);
    };
    const retryAll = async () => {
      const planned = await planRetry(database.pool, {});
      const plan: RetryPlan = { ...planned, keys: () => planned.keys(7) };
      for await (const _ of retryPlanned(database.pool, plan, { stop: never }));
    };
    const replay = async (topic: string) => {
      const request = { topic, from: '2020-01-01', to: '2100-01-01' };
      const plan = await planReplay(database.pool, request, { stop: never });
      for await (const _ of replayPlanned(database.pool, request, { plan, stop: never }));
    };
    /** Of what waits: which is due at no time though nobody is in front of it, and which is due though somebody is. */
    const misplaced = async () => {
      const { rows } = await database.pool.query(
        `select ordering_key as key, id, due_at is null as never from outbox.deliveries as waiting
         where state = 'pending' and (due_at is null) <> exists (
           select from outbox.deliveries as front
           where front.endpoint_id = waiting.endpoint_id and front.ordering_key = waiting.ordering_key
             and front.state in ('pending', 'queued') and front.id < waiting.id
         )`,
      );
      return rows;
    };
    const waiting = async () =>
      (await database.pool.query(`select from outbox.deliveries where state = 'pending'`)).rowCount;

    it('a retry keeps the order of each line, of which its head alone is due', async () => {
      respond = answer(404);
      await start('/retried', { retryDelaysMs: [] });
      await givenLines(10);
      expect((await settled(database.pool)).deliveries).toMatchObject({ dead: 30 });
      await worker.stop();
      await retryAll();
      expect(await waiting()).toBe(30);
      expect(await misplaced()).toEqual([]);
      respond = answer(204);
      worker = await startTestWorker({ databaseUrl: database.url });
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 30, dead: 0 });
      for (const key of LINES) expect(ofKey('/retried', key)).toEqual([...ONE_TO(10), ...ONE_TO(10)]);
    });

    it('a retried one is sent before what waits', async () => {
      respond = answer(404);
      await start('/before', { retryDelaysMs: [] });
      await announceInLines(LINES, 4);
      await settled(database.pool);
      await worker.stop();
      await database.pool.query(
        `insert into public.outbox (topic, payload, ordering_key)
         select 'a', jsonb_build_object('key', key, 'n', n), key from generate_series(5, 8) as n, unnest($1::text[]) as key`,
        [LINES],
      );
      await fanOut(database.pool, { limit: 100, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
      await retryAll();
      respond = answer(204);
      worker = await startTestWorker({ databaseUrl: database.url });
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 24, dead: 0 });
      for (const key of LINES) expect(ofKey('/before', key).slice(4)).toEqual(ONE_TO(8));
    });

    it('a replay keeps the order of each line, of what it had and of what it has for the first time', async () => {
      await start('/replayed');
      await givenLines(10);
      await settled(database.pool);
      await worker.stop();
      const late = await addTestEndpoint(database.pool, { url: `${receiver.url}/late`, maxInFlight: 20 });
      await database.pool.query('update outbox.endpoints set ordered = true where id = $1', [late.id]);
      for (const topic of ['a', 'b']) await replay(topic);
      expect(await waiting()).toBe(60);
      expect(await misplaced()).toEqual([]);
      worker = await startTestWorker({ databaseUrl: database.url });
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 60, dead: 0 });
      for (const key of LINES) {
        expect(ofKey('/replayed', key)).toEqual([...ONE_TO(10), ...ONE_TO(10)]);
        expect(ofKey('/late', key)).toEqual(ONE_TO(10));
      }
    });

    it('a replay goes by whether the endpoint is ordered now', async () => {
      await start('/now');
      await worker.stop();
      await announceInLines(LINES, 4);
      const setOrdered = (ordered: boolean) =>
        database.pool.query('update outbox.endpoints set ordered = $1', [ordered]);
      const finishAll = () =>
        database.pool.query(`update outbox.deliveries set state = 'delivered', finished_at = clock_timestamp()`);
      await setOrdered(false);
      await fanOut(database.pool, { limit: 100, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
      await finishAll();
      const counts = async () => {
        const { rows } = await database.pool.query(
          'select count(due_at)::integer as due, count(ordering_key)::integer as keyed from outbox.deliveries',
        );
        return rows[0];
      };
      await setOrdered(true);
      await replay('*');
      expect(await counts()).toEqual({ due: LINES.length, keyed: 12 });
      await finishAll();
      await setOrdered(false);
      await replay('*');
      expect(await counts()).toEqual({ due: 12, keyed: 0 });
    });

    it('nobody waits behind a head that was delivered while a replay put others behind it', async () => {
      await start('/meanwhile');
      await worker.stop();
      await announceInLines(['held', 'line'], 2);
      await fanOut(database.pool, { limit: 100, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
      await database.pool.query(
        `update outbox.deliveries set
           state = case when is_head then 'queued' else 'dead' end, lease_until = case when is_head then now() end,
           finished_at = case when not is_head then now() end
         from (select id as message_id, ordering_key = 'line' and (payload ->> 'n')::integer = 1 as is_head from public.outbox) as messages
         where deliveries.message_id = messages.message_id`,
      );
      const holder = await database.pool.connect();
      await holder.query(`begin; select from outbox.deliveries where ordering_key = 'held' for update`);
      const replaying = replay('*');
      try {
        await waitsForLock(database.pool, 'with taken as');
        // As a worker and the relay do.
        const { rows } = await database.pool.query<{ deliveryId: string; day: string }>(
          `update outbox.deliveries set state = 'delivered', lease_until = null, finished_at = now() where state = 'queued'
           returning id::text as "deliveryId", day::text`,
        );
        await moveLinesUp(database.pool, rows);
        await holder.query('commit');
        await replaying;
      } finally {
        holder.release(true);
      }
      expect([await waiting(), await misplaced()]).toEqual([3, []]);
    });
  });
});
