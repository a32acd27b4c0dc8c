import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { dropOldDays, listOldDays, openDays, startDayKeeping } from '../../src/outbox/days.ts';
import { replayPlanned } from '../../src/outbox/replay-messages.ts';
import { planReplay } from '../../src/outbox/replay-plan.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { waitsForLock } from '../support/locks.ts';
import { addTestEndpoint, announce, announceMany, settled, startTestWorker } from '../support/outbox.ts';
import { startReceiver } from '../support/receiver.ts';

const RETENTION = { keepDays: 30, keepDeadDays: 90 };
const TABLES = { messages: 'public.outbox', deliveries: 'outbox.deliveries', attempts: 'outbox.attempts' } as const;
const KINDS = ['messages', 'deliveries', 'attempts'] as const;
type Kind = (typeof KINDS)[number];
/** Every choice of some of them, none and all among them. */
const MIXES = Array.from({ length: 2 ** KINDS.length }, (_, mix) => KINDS.filter((_kind, bit) => mix & (1 << bit)));

describe('the days of the outbox', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  const one = async <T>(sql: string, values: readonly unknown[] = []): Promise<T> => {
    const { rows } = await database.pool.query(sql, [...values]);
    return Object.values(rows[0])[0] as T;
  };
  const daysAgo = (days: number) =>
    one<string>(`select ((clock_timestamp() at time zone 'UTC')::date - $1::integer)::text`, [days]);
  const partitions = async (table: string): Promise<readonly string[]> => {
    const { rows } = await database.pool.query(
      `select relname from pg_inherits join pg_class on pg_class.oid = inhrelid
       where inhparent = $1::regclass and relname !~ 'other_days' order by relname`,
      [table],
    );
    return rows.map(({ relname }) => relname.replace(/^\w+_/, ''));
  };
  /** As migrations before 0046 left days: with partitions of their own in some of the tables. Returns the day. */
  const givenDayWith = async (kinds: readonly Kind[], days: number): Promise<string> => {
    const day = await daysAgo(days);
    await database.pool.query('select outbox.open_days($1, $1)', [day]);
    for (const kind of KINDS.filter((each) => !kinds.includes(each)))
      await database.pool.query(`drop table outbox.${kind}_${day.replaceAll('-', '')}`);
    return day;
  };
  const givenMessage = async (day: string): Promise<void> => {
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await database.pool.query(
      `with message as (
         insert into public.outbox (topic, payload, day, processed_at) values ('a', '{}', $1, clock_timestamp()) returning id, day
       ), delivery as (
         insert into outbox.deliveries (message_id, day, endpoint_id, state, finished_at)
         select id, day, $2, 'delivered', clock_timestamp() from message returning id, day, endpoint_id
       )
       insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms)
       select id, 1, day, endpoint_id, clock_timestamp(), 1 from delivery`,
      [day, id],
    );
  };
  const rowsOf = (kind: Kind, day: string) =>
    one<number>(`select count(*)::integer from ${TABLES[kind]} where day = $1`, [day]);
  /** A message of an old day, in its partition, with a delivery in a state. */
  const givenOld = async (days: number, state: 'delivered' | 'dead' | 'pending' | 'none' | 'unprocessed') => {
    const day = await daysAgo(days);
    await database.pool.query('select outbox.open_days($1, $1)', [day]);
    const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await database.pool.query(
      `with message as (
         insert into public.outbox (topic, payload, day, processed_at)
         values ('a', '{}', $1, case when $3 <> 'unprocessed' then clock_timestamp() end) returning id, day
       )
       insert into outbox.deliveries (message_id, day, endpoint_id, state, finished_at)
       select id, day, $2, $3, case when $3 <> 'pending' then clock_timestamp() end from message
       where $3 not in ('none', 'unprocessed')`,
      [day, id, state],
    );
    return day;
  };

  it('are there for today and the next three, and are made again where they are missing', async () => {
    const expected = await Promise.all([0, -1, -2, -3].map(daysAgo));
    const names = expected.map((day) => day.replaceAll('-', ''));
    // What the database was copied from may be of yesterday.
    await openDays(database.pool);
    const fromToday = async (table: string) => (await partitions(table)).filter((name) => name >= (names[0] ?? ''));
    expect(await fromToday('public.outbox')).toEqual(names);
    await database.pool.query(
      `drop table outbox.messages_${names[3]}, outbox.deliveries_${names[3]}, outbox.attempts_${names[3]}`,
    );
    expect(await openDays(database.pool)).toBe(1);
    for (const table of ['public.outbox', 'outbox.deliveries', 'outbox.attempts'])
      expect(await fromToday(table)).toEqual(names);
    expect(await openDays(database.pool)).toBe(0);
  });

  it('do without partitions: what is announced on a day that has none is delivered all the same', async () => {
    const names = await partitions('public.outbox');
    for (const name of names) {
      await database.pool.query(
        `drop table outbox.messages_${name}, outbox.deliveries_${name}, outbox.attempts_${name}`,
      );
    }
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announceMany(database.pool, 20);
    expect(await one('select count(*)::integer from outbox.messages_of_other_days')).toBe(20);
    const worker = await startTestWorker({ databaseUrl: database.url });
    try {
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 20, dead: 0 });
      // Today stays where it is; the days to come get theirs.
      await eventually('the worker made the next days', async () => (await partitions('public.outbox')).length === 3);
      await announce(database.pool);
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 21 });
    } finally {
      await worker.stop();
      await receiver.stop();
    }
  });

  it('are dropped whole when they are old and over', async () => {
    const [delivered, none] = [await givenOld(31, 'delivered'), await givenOld(45, 'none')];
    const recent = await givenOld(29, 'delivered');
    expect(await listOldDays(database.pool, RETENTION)).toEqual([
      { day: none, fate: 'drop' },
      { day: delivered, fate: 'drop' },
    ]);
    await dropOldDays(database.pool, RETENTION);
    expect(await one('select array_agg(day::text) from public.outbox')).toEqual([recent]);
    for (const table of ['public.outbox', 'outbox.deliveries', 'outbox.attempts']) {
      expect(await partitions(table)).not.toContain(delivered.replaceAll('-', ''));
    }
  });

  it.each(['pending', 'unprocessed'] as const)('are kept for as long as something of them is %s', async (state) => {
    const day = await givenOld(4_000, state);
    expect(await dropOldDays(database.pool, RETENTION)).toEqual([{ day, fate: 'waiting' }]);
    expect(await one('select count(*)::integer from public.outbox')).toBe(1);
  });

  it('are kept for longer when they have a dead letter', async () => {
    const [kept, dropped] = [await givenOld(89, 'dead'), await givenOld(91, 'dead')];
    expect(await dropOldDays(database.pool, RETENTION)).toEqual([
      { day: dropped, fate: 'drop' },
      { day: kept, fate: 'dead' },
    ]);
    expect(await one('select array_agg(day::text) from public.outbox')).toEqual([kept]);
  });

  it('that never had partitions are emptied instead', async () => {
    const day = await daysAgo(40);
    await database.pool.query(
      `insert into public.outbox (topic, payload, day, processed_at) values ('a', '{}', $1, now()), ('b', '{}', current_date, now())`,
      [day],
    );
    expect(await dropOldDays(database.pool, RETENTION)).toEqual([{ day, fate: 'drop' }]);
    expect(await one('select array_agg(topic) from public.outbox')).toEqual(['b']);
  });

  it('wait for nobody for long: a reader of an old day is given way to', async () => {
    const day = await givenOld(31, 'delivered');
    const reader = await database.pool.connect();
    await reader.query('begin');
    await reader.query('select * from public.outbox');
    const dropping = dropOldDays(database.pool, RETENTION);
    // Meanwhile nobody waits behind it.
    for (let announced = 0; announced < 20; announced += 1) await announce(database.pool);
    await reader.query('commit');
    reader.release();
    expect(await dropping).toEqual([{ day, fate: 'drop' }]);
  });

  it('are kept by each worker, once it starts', async () => {
    await givenOld(31, 'delivered');
    const keeping = startDayKeeping({ pool: database.pool, log: pino({ level: 'silent' }), retention: RETENTION });
    await eventually('it is dropped', async () => (await listOldDays(database.pool, RETENTION)).length === 0);
    await keeping.stop();
  });

  it.each(MIXES.map((mix) => [mix.join(', ') || 'none', mix] as const))(
    'are gone altogether when they are dropped, where these had partitions of their own: %s',
    async (_named, mix) => {
      const day = await givenDayWith(mix, 45);
      await givenMessage(day);
      const later = await givenOld(31, 'delivered');
      expect(await dropOldDays(database.pool, RETENTION)).toEqual([
        { day, fate: 'drop' },
        { day: later, fate: 'drop' },
      ]);
      for (const kind of KINDS) {
        expect(await partitions(TABLES[kind])).not.toContain(day.replaceAll('-', ''));
        expect([kind, await rowsOf(kind, day)]).toEqual([kind, 0]);
      }
      expect(await listOldDays(database.pool, RETENTION)).toEqual([]);
    },
  );

  it.each(KINDS)('are found when there is nothing of them but %s', async (kind) => {
    const withPartition = await givenDayWith([kind], 45);
    const withRows = await daysAgo(50);
    await givenMessage(withRows);
    for (const other of KINDS.filter((each) => each !== kind))
      await database.pool.query(`delete from ${TABLES[other]} where day = $1`, [withRows]);
    expect((await listOldDays(database.pool, RETENTION)).map(({ day }) => day)).toEqual([withRows, withPartition]);
  });

  it('are opened whole or not at all: where the default partition of one table has rows, no table gets one', async () => {
    const [begun, free] = [await daysAgo(-10), await daysAgo(-11)];
    await database.pool.query(`insert into public.outbox (topic, payload, day) values ('a', '{}', $1)`, [begun]);
    expect(await one('select outbox.open_days($1, $2)', [begun, free])).toBe(1);
    for (const kind of KINDS) {
      expect(await partitions(TABLES[kind])).not.toContain(begun.replaceAll('-', ''));
      expect(await partitions(TABLES[kind])).toContain(free.replaceAll('-', ''));
    }
  });

  describe.each([
    ['of its own partitions', KINDS],
    ['of the default partitions', []],
  ] as const)('a day %s', (_where, kinds) => {
    /** What `work` does in a transaction commits while the day is being dropped, which begins in between. */
    const dropBesides = async (day: string, work: (tx: Tx) => Promise<unknown>): Promise<string> => {
      const tx = await database.pool.connect();
      try {
        await tx.query('begin');
        await work(tx);
        // Without a lock_timeout: it waits until the other commits, and not for its next try.
        const dropping = one<string>('select outbox.drop_day($1, $1)', [day]);
        await waitsForLock(database.pool, 'drop_day');
        await tx.query('commit');
        return await dropping;
      } finally {
        tx.release(true);
      }
    };

    it('is dropped with what stood for its dead letters in the table of the old platform', async () => {
      const [day, later] = [await givenDayWith(kinds, 40), await daysAgo(39)];
      await database.pool.query('insert into outbox.legacy_letters (delivery_id, day) values (1, $1), (2, $2)', [
        day,
        later,
      ]);
      expect(await one('select outbox.drop_day($1, $1)', [day])).toBe('drop');
      expect(await one('select array_agg(day::text) from outbox.legacy_letters')).toEqual([later]);
    });

    it('is kept when a delivery was opened again by who committed while it was about to be dropped', async () => {
      const day = await givenDayWith(kinds, 40);
      await givenMessage(day);
      const fate = await dropBesides(day, (tx) =>
        tx.query(`update outbox.deliveries set state = 'pending', finished_at = null where day = $1`, [day]),
      );
      expect(fate).toBe('waiting');
      for (const kind of KINDS) expect([kind, await rowsOf(kind, day)]).toEqual([kind, 1]);
    });

    it('is kept when a replay that committed meanwhile sends it to somebody new', async () => {
      const day = await givenDayWith(kinds, 40);
      await givenMessage(day);
      const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/new' });
      const request = { topic: '*', from: '2020-01-01', to: '2100-01-01', endpointId };
      const stop = new AbortController().signal;
      const plan = await planReplay(database.pool, request, { stop });
      const fate = await dropBesides(day, async (tx) => {
        const query = tx.query.bind(tx);
        const within = { query, connect: async () => ({ query, release: () => undefined }) } as unknown as Pool;
        for await (const { added } of replayPlanned(within, request, { plan, stop })) expect(added).toBe(1);
      });
      expect(fate).toBe('waiting');
      expect(await rowsOf('messages', day)).toBe(1);
      expect(await rowsOf('deliveries', day)).toBe(2);
    });
  });
});
