import fc from 'fast-check';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { announce, announceAll, type NewMessage } from '../../src/outbox/announce.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { addTestEndpoint, clearOutbox, settled, startTestWorker } from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

const ORGANIZATION = '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query('create table public.tickets (id integer)');
});
afterEach(async () => {
  await clearOutbox(database.pool);
  await database.pool.query('truncate public.tickets');
});
afterAll(() => database.drop());

const inTransaction = <T>(work: (tx: pg.PoolClient) => Promise<T>) => withTransaction(database.pool, work);
const messages = async () => (await database.pool.query('select * from public.outbox order by seq')).rows;
const tickets = async () => (await database.pool.query('select id from public.tickets order by id')).rows;

describe('announcing', () => {
  it('writes all that was named in the transaction of the caller, and answers its id', async () => {
    const deliverAfter = new Date('2030-01-02T03:04:05.678Z');
    const id = await inTransaction(async (tx) => {
      await tx.query('insert into public.tickets values (1)');
      return announce(tx, {
        topic: 'ticket.purchased',
        payload: { seat: 'Ä12', at: new Date(0), gone: undefined, deep: [{ n: 1.5 }] },
        orderingKey: 'ticket 1',
        organizationId: ORGANIZATION,
        headers: { 'X-Shop': 'a' },
        deliverAfter,
      });
    });
    expect(await messages()).toMatchObject([
      {
        id,
        topic: 'ticket.purchased',
        payload: { seat: 'Ä12', at: '1970-01-01T00:00:00.000Z', deep: [{ n: 1.5 }] },
        ordering_key: 'ticket 1',
        organization_id: ORGANIZATION,
        headers: { 'x-shop': 'a' },
        deliver_after: deliverAfter,
        processed_at: null,
      },
    ]);
    expect(await tickets()).toEqual([{ id: 1 }]);
  });

  it('is taken back by a rollback, with the change', async () => {
    const failed = inTransaction(async (tx) => {
      await tx.query('insert into public.tickets values (1)');
      await announce(tx, { topic: 'a', payload: {} });
      throw new Error('the buyer has no money');
    });
    await expect(failed).rejects.toThrow('the buyer has no money');
    expect([await messages(), await tickets()]).toEqual([[], []]);
  });

  it('writes many in their order, and answers their ids in it', async () => {
    const given = Array.from({ length: 500 }, (_, n): NewMessage => ({ topic: `t${n % 3}`, payload: { n } }));
    const ids = await inTransaction((tx) => announceAll(tx, given));
    const rows = await messages();
    expect(rows.map(({ id }) => id)).toEqual(ids);
    expect(rows.map(({ topic, payload }) => ({ topic, payload }))).toEqual(given);
    expect(await inTransaction((tx) => announceAll(tx, []))).toEqual([]);
  });

  it('takes a payload of a megabyte, and refuses what is larger only as PostgreSQL writes it', async () => {
    await inTransaction((tx) => announce(tx, { topic: 'a', payload: { x: 'x'.repeat(1_048_566) } }));
    // Each 1e300 is 300 digits there.
    const grown = inTransaction((tx) => announce(tx, { topic: 'a', payload: { x: Array(4_000).fill(1e300) } }));
    await expect(grown).rejects.toMatchObject({
      code: 'OUTBOX_MESSAGE_INVALID',
      message: expect.stringMatching(/outbox_payload_size/),
    });
    expect(await messages()).toHaveLength(1);
  });

  it('asks for a transaction: neither a pool nor a client before BEGIN will do', async () => {
    const message = { topic: 'a', payload: {} };
    const refusal = { code: 'OUTBOX_TRANSACTION_NEEDED' };
    await expect(announce(database.pool, message)).rejects.toMatchObject(refusal);
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    await expect(announce(client, message)).rejects.toMatchObject(refusal);
    await client.query('begin');
    await announce(client, message);
    await client.query('commit');
    await client.end();
    expect(await messages()).toHaveLength(1);
  });
});

const PERSONAL = 'anna@example.com';
const holdingItself: Record<string, unknown> = { of: PERSONAL };
holdingItself['self'] = holdingItself;
const nested = (depth: number): object => (depth === 0 ? {} : { in: nested(depth - 1) });
const payload = (given: unknown) => ({ topic: 'a', payload: given as object });
const beside = (more: Record<string, unknown>) => ({ topic: 'a', payload: {}, ...more }) as unknown as NewMessage;
const headers = (given: unknown) => beside({ headers: given });

const BAD: readonly (readonly [string, unknown, RegExp])[] = [
  ['no message', null, /an object/],
  ['a field of another name', beside({ deliverAt: new Date() }), /no field "deliverAt"/],
  ['a payload of null', payload(null), /is an object/],
  ['no payload', payload(undefined), /type undefined/],
  ['an array', payload([PERSONAL]), /is an object/],
  ['a text', payload(PERSONAL), /is an object/],
  ['a Date', payload(new Date()), /is an object/],
  ['NUL in a text', payload({ of: `${PERSONAL}\u0000` }), /U\+0000/],
  ['NUL in a key', payload({ 'a\u0000': 1 }), /U\+0000/],
  ['half a surrogate pair in a text', payload({ of: `${PERSONAL}\ud800` }), /surrogate/],
  ['half a surrogate pair in a key', payload({ '\udc00': 1 }), /surrogate/],
  ['more than a megabyte', payload({ x: 'x'.repeat(1_048_569) }), /1048577 bytes, more than 1048576/],
  ['a bigint', payload({ of: PERSONAL, price: { cents: 5n } }), / at "\/price\/cents": a value of type bigint/],
  ['NaN', payload({ list: [1, Number.NaN] }), / at "\/list\/1": NaN/],
  ['Infinity', payload({ n: Number.POSITIVE_INFINITY }), /Infinity/],
  ['undefined in an array', payload({ list: [undefined] }), /type undefined/],
  ['a function', payload({ f: () => 1 }), /type function/],
  ['a symbol', payload({ s: Symbol('s') }), /type symbol/],
  ['an invalid Date', payload({ at: new Date('soon') }), /an invalid Date/],
  ['a Map', payload({ map: new Map([[PERSONAL, 1]]) }), /instance of a class/],
  ['what holds itself', payload(holdingItself), /holds itself/],
  ['what is nested too deep', payload(nested(1_001)), /more than 1000 deep/],
  [
    'a toJSON that fails',
    payload({
      a: {
        toJSON: () => {
          throw new Error(PERSONAL);
        },
      },
    }),
    /toJSON fails/,
  ],
  ['an ordering key that is empty', beside({ orderingKey: '' }), /1 to 255/],
  ['an ordering key of 256 characters', beside({ orderingKey: 'x'.repeat(256) }), /1 to 255/],
  ['an ordering key with NUL', beside({ orderingKey: '\u0000' }), /U\+0000/],
  ['an ordering key that is a number', beside({ orderingKey: 1 }), /a text/],
  ['an organization that is no UUID', beside({ organizationId: 'acme' }), /UUID/],
  ['an invalid instant', beside({ deliverAfter: new Date('soon') }), /valid Date/],
  ['an instant that is a text', beside({ deliverAfter: '2030-01-01' }), /valid Date/],
  ['an instant of the year 10000', beside({ deliverAfter: new Date(253_402_300_800_000) }), /1 to 9999/],
  ['headers in an array', headers(['a: b']), /an object of texts/],
  ['a header of ours', headers({ 'Webhook-Id': PERSONAL }), /"webhook-id" is one that Liventix/],
  ['a header with a line break', headers({ a: `x\r\n${PERSONAL}` }), /printable ASCII/],
  ['a header that is a number', headers({ a: 1 }), /no text/],
  ['a header given twice', headers({ A: 'x', a: 'y' }), /"a" is given twice/],
  ['33 headers', headers(Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`h${n}`, '']))), /at most 32/],
];
const BAD_TOPICS: readonly (readonly [string, unknown])[] = [
  ['an empty topic', ''],
  ['capitals', 'Ticket'],
  ['a blank', 'ticket sold'],
  ['a pattern', 'ticket.*'],
  ['129 characters', 'a'.repeat(129)],
  ['no topic', undefined],
  ['a number as the topic', 5],
];

describe('what nobody could deliver', () => {
  const refusedBeforeAnything = async (message: unknown, code: ErrorCode): Promise<string> => {
    const error = await inTransaction(async (tx) => {
      const refusal = await announceAll(tx, [{ topic: 'a', payload: {} }, message as NewMessage]).catch((e) => e);
      // The transaction can go on: no statement of it has failed.
      await tx.query('insert into public.tickets values (1)');
      return refusal;
    });
    expect(error).toMatchObject({ name: 'AppError', code });
    expect(await messages()).toEqual([]);
    expect(await tickets()).toEqual([{ id: 1 }]);
    expect(error.message).not.toMatch(/[\n\r]/);
    return error.message;
  };

  it.each(BAD)('is refused before anything is written: %s', async (_what, message, says) => {
    const said = await refusedBeforeAnything(message, 'OUTBOX_MESSAGE_INVALID');
    expect(said).toMatch(says);
    expect(said).not.toContain(PERSONAL);
  });

  it.each(BAD_TOPICS)('is refused before anything is written: %s', async (_what, topic) => {
    await refusedBeforeAnything({ topic, payload: {} }, 'OUTBOX_TOPIC_INVALID');
  });

  it('is refused for more than 10,000 messages, and for what is no list of them', async () => {
    const many = Array<NewMessage>(10_001).fill({ topic: 'a', payload: {} });
    for (const given of [many, null, 'x', {}]) {
      const refused = inTransaction((tx) => announceAll(tx, given as readonly NewMessage[]));
      await expect(refused).rejects.toMatchObject({ code: 'OUTBOX_MESSAGE_INVALID' });
    }
  });

  // As for announce: the change does not happen either. Held by constraints of the table, from its first day.
  it.each([
    ['null', `('a', null)`, '23502'],
    ['JSON null', `('a', 'null')`, '23514'],
    ['an array', `('a', '[1]')`, '23514'],
    ['a number', `('a', '5')`, '23514'],
    ['a text', `('a', '"x"')`, '23514'],
    ['more than a megabyte', `('a', jsonb_build_object('x', repeat('x', 1048576)))`, '23514'],
    ['U+0000', String.raw`('a', '{"x": "\u0000"}')`, '22P05'],
    ['half a surrogate pair', String.raw`('a', '{"x": "\ud800"}')`, '22P02'],
    ['an empty topic', `('', '{}')`, '23514'],
    ['a topic with capitals', `('Ticket', '{}')`, '23514'],
    ['a topic with a blank', `('ticket sold', '{}')`, '23514'],
  ])('fails the transaction of SQL that announces it, change and all: %s', async (_what, values, sqlstate) => {
    const failed = inTransaction(async (tx) => {
      await tx.query('insert into public.tickets values (1)');
      await tx.query(`insert into public.outbox (topic, payload) values ${values}`);
    });
    await expect(failed).rejects.toMatchObject({ details: { sqlstate } });
    expect([await messages(), await tickets()]).toEqual([[], []]);
  });
});

describe('what was announced', () => {
  let receiver: TestReceiver;
  let worker: RunningWorker;
  beforeAll(async () => {
    receiver = await startReceiver();
    worker = await startTestWorker({ databaseUrl: database.url });
  });
  afterAll(async () => {
    await worker.stop();
    await receiver.stop();
  });

  const text = fc.string({ unit: 'binary', maxLength: 20 }).map((given) => given.replaceAll('\u0000', ''));
  const json = fc.letrec<{ value: unknown }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom(null, true, false, -0, 5e-324, 1.7976931348623157e308, 2 ** 53, 0.1 + 0.2),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      text,
      fc.array(tie('value'), { maxLength: 4 }),
      fc.dictionary(text, tie('value'), { maxKeys: 4 }),
    ),
  })).value;
  const payloads = fc.array(fc.dictionary(text, json, { maxKeys: 5 }), { minLength: 1, maxLength: 25 });

  it('arrives byte for byte as PostgreSQL writes it, and says what was given', async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(payloads, async (given) => {
        run += 1;
        await clearOutbox(database.pool);
        await addTestEndpoint(database.pool, { url: `${receiver.url}/${run}` });
        const ids = await inTransaction((tx) =>
          announceAll(
            tx,
            given.map((each) => ({ topic: 'any', payload: each })),
          ),
        );
        await settled(database.pool);
        const { rows } = await database.pool.query<{ id: string; written: string }>(
          'select id, payload::text as written from public.outbox',
        );
        const written = new Map(rows.map((row) => [row.id, row.written]));
        const arrived = new Map(
          receiver.at(`/${run}`).map(({ headers: sent, body }) => [`${sent['webhook-id']}`, body]),
        );
        for (const [nth, id] of ids.entries()) {
          const body = arrived.get(`msg_${id}`) ?? '';
          expect(body.slice(body.indexOf('"data":'))).toBe(`"data":${written.get(id)}}`);
          expect(JSON.parse(body).data).toEqual(JSON.parse(JSON.stringify(given[nth])));
        }
      }),
      { numRuns: 20, verbose: 1 },
    );
  });

  it('is not sent before it is to be', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/later` });
    const deliverAfter = new Date(Date.now() + 500);
    await inTransaction((tx) => announce(tx, { topic: 'a', payload: {}, deliverAfter }));
    await settled(database.pool);
    const { rows } = await database.pool.query('select started_at from outbox.attempts');
    expect(rows).toHaveLength(1);
    expect(rows[0].started_at.getTime()).toBeGreaterThanOrEqual(deliverAfter.getTime());
  });
});
