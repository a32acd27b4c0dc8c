import type pg from 'pg';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createPool, openPool } from '../../src/db/pool.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { importChunkSql } from '../../src/replay/mapping.ts';
import { SOURCES, type Source } from '../../src/replay/sources.ts';
import { booksHold, howManyWait, progressOf, undisturbedDigest } from '../support/backfill.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { booksDigest, createLegacyTestDatabase } from '../support/legacy.ts';

const SIZE = { wallets: 60, orgWallets: 6, transactions: 1_200, seed: 23 };
const CHUNK_ROWS = 100;

let undisturbed = '';
let database: TestDatabase;
const { connect, end } = testClients(() => database.url);

beforeAll(async () => {
  undisturbed = await undisturbedDigest(SIZE);
});
beforeEach(async () => {
  database = await createLegacyTestDatabase(SIZE);
});
afterEach(async () => {
  await end();
  await database.drop();
});

const isWaiting = async (client: pg.Client): Promise<boolean> => {
  const { rows } = await database.pool.query('select from pg_stat_activity where pid = $1 and wait_event_type = $2', [
    (client as pg.Client & { processID: number }).processID,
    'Lock',
  ]);
  return rows.length === 1;
};
/** The row of the user wallets' table that comes nth in chronological order, from 1. */
const nthRow = async (nth: number): Promise<string> => {
  const { rows } = await database.pool.query<{ id: string }>(
    'select id from wallet_transactions order by created_at, id offset $1 limit 1',
    [nth - 1],
  );
  return rows[0]?.id ?? '';
};
/** An open transaction of another poster, which the first chunk that moves money waits for. */
const holdClearing = async (): Promise<pg.Client> => {
  await runBackfill(database.pool, { stop: AbortSignal.abort() });
  const poster = await connect();
  const held = await poster.query(
    `begin; select from payments.balances where account_id = (
       select id from payments.accounts where type = 'receivable' and name = 'clearing') for update`,
  );
  expect(held).toMatchObject([{}, { rowCount: 1 }]);
  return poster;
};
const rowsInLog = async () => {
  const { rows } = await database.pool.query<{ id: string }>(
    `select payload #>> '{metadata,legacy,id}' as id from payments.events where payload #>> '{metadata,legacy,id}' is not null order by position`,
  );
  return rows.map(({ id }) => id);
};

describe('chunks, mapped side by side', () => {
  it('are judged alike by a survey in steps of any size, stopped on its way and begun again', async () => {
    for (const chunkRows of [1, 7]) {
      const stop = new AbortController();
      const stepped: bigint[] = [];
      const stopped = await runBackfill(database.pool, {
        chunkRows,
        stop: stop.signal,
        onProgress: ({ step, source, done }) => {
          if (step !== 'survey' || source !== 'wallet_transactions') return;
          stepped.push(done);
          if (stepped.length === 4) stop.abort();
        },
      });
      expect(stopped).toMatchObject({ finished: false, imported: 0n });
      expect(stepped).toEqual([0, 1, 2, 3].map((nth) => BigInt(nth * chunkRows * 10)));
    }
    expect(await runBackfill(database.pool, { chunkRows: 7 })).toMatchObject({ finished: true });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('come into the log in the order of their rows', async () => {
    await runBackfill(database.pool, { chunkRows: 7 });
    const log = await rowsInLog();
    for (const table of ['wallet_transactions', 'org_wallet_transactions']) {
      const { rows } = await database.pool.query<{ id: string }>(`select id from ${table} order by created_at, id`);
      const chronological = rows.map(({ id }) => id);
      const ofTable = new Set(chronological);
      expect(log.filter((id) => ofTable.has(id))).toEqual(chronological);
    }
  });

  it('are mapped while the one before is written', async () => {
    const poster = await holdClearing();
    const finished = runBackfill(database.pool, { chunkRows: CHUNK_ROWS });
    await eventually('one chunk waits for the account, the next for its turn', async () => {
      const { rows } = await database.pool.query(
        `select from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '%with chunk as %'`,
      );
      return rows.length === 2;
    });
    await poster.query('commit');
    expect(await finished).toMatchObject({ finished: true, imported: BigInt(SIZE.transactions) });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('do not mind a row that is deleted while they are under way: it is booked as it was, and taken back', async () => {
    const meanwhile = await connect();
    let log: number[] = [];
    let waiting = Promise.resolve();
    const result = await runBackfill(database.pool, {
      chunkRows: CHUNK_ROWS,
      settleMs: 0,
      onProgress: ({ step, source, done }) => {
        if (source === 'wallet_transactions' && step === 'rows') log = [...log, Number(done)];
        if (step !== 'accounts' || source !== 'wallet_transactions') return;
        // From here on chunks read the findings, and whoever looks where they end does not.
        waiting = meanwhile.query('begin; lock table replay.findings').then(async () => {
          await eventually('both chunks wait for the findings', () => howManyWait(database.pool, 2));
          const gone = await nthRow(CHUNK_ROWS / 2);
          await database.pool.query('delete from wallet_transactions where id = $1', [gone]);
          await meanwhile.query('commit');
        });
      },
    });
    await waiting;
    expect(result).toMatchObject({ finished: true, imported: BigInt(SIZE.transactions), corrected: 1n });
    expect(log).toEqual(log.toSorted((a, b) => a - b));
    await booksHold(database.pool);
  });

  it('are all counted when a stop finds two under way', async () => {
    const poster = await holdClearing();
    const stop = new AbortController();
    const finished = runBackfill(database.pool, { chunkRows: CHUNK_ROWS, stop: stop.signal });
    await eventually('two are under way', () => howManyWait(database.pool, 2));
    stop.abort();
    await poster.query('commit');
    expect(await finished).toMatchObject({ finished: false, imported: BigInt(2 * CHUNK_ROWS) });
    expect(await progressOf(database.pool)).toBe(BigInt(2 * CHUNK_ROWS));
  });

  it("wait for their turn whatever the role's lock_timeout is", async () => {
    await database.pool.query(`alter database ${database.name} set lock_timeout = '1ms'`);
    const impatient = await openPool({ databaseUrl: database.url });
    expect(await runBackfill(impatient, { chunkRows: CHUNK_ROWS })).toMatchObject({ finished: true });
    await impatient.end();
  });

  it('come one after the other on a single connection, however long one takes', async () => {
    const poster = await holdClearing();
    const single = createPool({ databaseUrl: database.url, max: 1 }, { connectionTimeoutMillis: 300 });
    const finished = runBackfill(single, { chunkRows: CHUNK_ROWS });
    await eventually('a chunk has waited for longer than for a connection', async () => {
      const { rows } = await database.pool.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
           and query like '%with chunk as %' and query_start < clock_timestamp() - interval '600 ms'`,
      );
      return rows.length === 1;
    });
    await poster.query('commit');
    expect(await finished).toMatchObject({ finished: true });
    await single.end();
  });

  it('are begun again after a conflict, whichever of the two under way meets it', async () => {
    await database.pool.query(
      `create sequence public.tries;
       create function conflict() returns trigger language plpgsql as $$
       begin
         if nextval('public.tries') in (2, 5, 6, 9) then raise exception using errcode = 'serialization_failure'; end if;
         return null;
       end $$;
       create trigger conflict after insert on payments.events for each statement execute function conflict()`,
    );
    expect(await runBackfill(database.pool, { chunkRows: CHUNK_ROWS })).toMatchObject({
      finished: true,
      imported: BigInt(SIZE.transactions),
    });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('are given up with DB_CONFLICT where the checkpoint is never where they begin', async () => {
    await database.pool.query(
      `create or replace function replay.take_turn(
         p_book_id integer, p_number integer, p_source text, p_after_created_at timestamptz, p_after_id uuid, p_capture_id bigint
       ) returns boolean language sql as 'select false'`,
    );
    await expect(runBackfill(database.pool, { chunkRows: CHUNK_ROWS })).rejects.toMatchObject({
      code: 'DB_CONFLICT',
      message: expect.stringMatching(/wallet_transactions was given up after 20 tries .* when no other backfill/),
    });
    expect(await rowsInLog()).toEqual([]);
  });

  it('look findings and wallets up in an index, also where nothing was ever analyzed', async () => {
    const { pool } = database;
    await runBackfill(pool, { stop: AbortSignal.abort() });
    await pool.query(
      `alter table replay.findings set (autovacuum_enabled = false);
       alter table replay.wallets set (autovacuum_enabled = false);
       insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
       select 1, 'wallet_transactions', gen_random_uuid(), 'orphan', 0 from generate_series(1, 5000);
       insert into replay.wallets (wallet_id, source, owner_id, account_id, book_id)
       select gen_random_uuid(), 'wallet_transactions', gen_random_uuid(), gen_random_uuid(), 1 from generate_series(1, 5000)`,
    );
    const [source] = SOURCES;
    const key = [
      '2000-01-01',
      '00000000-0000-0000-0000-000000000000',
      '2100-01-01',
      '00000000-0000-0000-0000-000000000000',
    ];
    const { rows } = await pool.query<{ 'QUERY PLAN': string }>(
      `explain ${importChunkSql(source as Source, await getLegacyTables(pool))}`,
      [1, source?.name, ...key, 1, 1],
    );
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    // By the row's id: by book and source alone, the same index gives all of them, once for every row.
    expect(plan).toMatch(/using findings_pkey on findings f .*\n *Index Cond: .*legacy_id/);
    expect(plan).toMatch(/using wallets_pkey on wallets w .*\n *Index Cond: .*wallet_id/);
    expect(plan).not.toContain('Materialize');
  });

  it('do not wait for a vacuum of the accounts', async () => {
    const vacuum = await connect();
    await vacuum.query('begin; lock table payments.accounts, payments.balances in share update exclusive mode');
    expect(await runBackfill(database.pool, { chunkRows: CHUNK_ROWS })).toMatchObject({ finished: true });
    await vacuum.query('commit');
  });

  it('leave nothing in the log beyond one that fails, and go on with it', async () => {
    const bad = await nthRow(2 * CHUNK_ROWS + 50);
    await database.pool.query(
      `create function refuse() returns trigger language plpgsql as $$
       begin
         if new.payload #>> '{metadata,legacy,id}' = '${bad}' then raise exception 'refused for the test'; end if;
         return new;
       end $$`,
    );
    await database.pool.query(
      'create trigger refuse before insert on payments.events for each row execute function refuse()',
    );
    await expect(runBackfill(database.pool, { chunkRows: CHUNK_ROWS })).rejects.toThrow('refused for the test');
    expect(await rowsInLog()).toHaveLength(2 * CHUNK_ROWS);
    expect((await database.pool.query('select rows, last_id from replay.progress where rows > 0')).rows).toEqual([
      { rows: BigInt(2 * CHUNK_ROWS), last_id: await nthRow(2 * CHUNK_ROWS) },
    ]);
    await database.pool.query('drop trigger refuse on payments.events');
    expect(await runBackfill(database.pool, { chunkRows: CHUNK_ROWS })).toMatchObject({ finished: true });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('take in what is written at the end of the old history while they run', async () => {
    const { rows: wallets } = await database.pool.query<{ id: string }>('select id from wallets order by id limit 1');
    let written: Promise<unknown> = Promise.resolve();
    let count = 0n;
    const result = await runBackfill(database.pool, {
      chunkRows: CHUNK_ROWS,
      onProgress: ({ step }) => {
        if (step !== 'rows' || count === 20n) return;
        count += 1n;
        written = written.then(() =>
          database.pool.query(
            `with paid as (update wallets set balance_credits = balance_credits - 1 where id = $1)
             insert into public.wallet_transactions (wallet_id, type, credits_delta, created_at)
             values ($1, 'spend', -1, clock_timestamp() + interval '1 year')`,
            [wallets[0]?.id],
          ),
        );
      },
    });
    await written;
    const again = await runBackfill(database.pool);
    expect(result.imported + again.imported).toBe(BigInt(SIZE.transactions) + count);
    await booksHold(database.pool);
  });
});

describe('replay.take_turn', () => {
  const SOURCE = 'wallet_transactions';
  const CAPTURE = 7;
  const KEY = ['2024-03-01 00:00:00+00', '11111111-1111-4111-8111-111111111111'] as const;
  const LATER = ['2024-03-02 00:00:00+00', '22222222-2222-4222-8222-222222222222'] as const;
  const takeTurn = async (client: pg.Client, key: readonly [string | null, string | null], number = 1) => {
    const { rows } = await client.query<{ turn: boolean }>('select replay.take_turn(1, $1, $2, $3, $4, $5) as turn', [
      number,
      SOURCE,
      ...key,
      CAPTURE,
    ]);
    return rows[0]?.turn;
  };
  const begin = (client: pg.Client, number: number, book = 1) =>
    client.query(`begin; select replay.begin_chunk(${book}, ${number})`);
  const moveTo = (client: pg.Client, key: readonly [string, string]) =>
    client.query('update replay.progress set last_created_at = $2, last_id = $3 where source = $1', [SOURCE, ...key]);
  beforeEach(async () => {
    await database.pool.query('insert into replay.progress (book_id, source, capture_id) values (1, $1, $2)', [
      SOURCE,
      CAPTURE,
    ]);
  });

  it('is given to the chunk that begins where the checkpoint stands, and to no other', async () => {
    const client = await connect();
    expect(await takeTurn(client, [null, null])).toBe(true);
    expect(await takeTurn(client, KEY)).toBe(false);
    await moveTo(client, KEY);
    expect(await takeTurn(client, KEY)).toBe(true);
    expect(await takeTurn(client, LATER)).toBe(false);
    expect(await takeTurn(client, [KEY[0], LATER[1]])).toBe(false);
    expect(await takeTurn(client, [null, null])).toBe(false);
  });

  it('is not given to a chunk that was judged under another capture', async () => {
    const client = await connect();
    await client.query(`update replay.progress set capture_id = 8`);
    expect(await takeTurn(client, [null, null])).toBe(false);
  });

  it.each([
    ['commits', 'commit', true],
    ['fails', 'rollback', false],
  ] as const)('waits for the chunk before, and sees what became of it when that %s', async (_, end, turn) => {
    const [first, second] = [await connect(), await connect()];
    await first.query('begin');
    expect(await takeTurn(first, [null, null])).toBe(true);
    await moveTo(first, KEY);
    const waiting = takeTurn(second, KEY);
    await eventually('the second waits', () => isWaiting(second));
    await first.query(end);
    expect(await waiting).toBe(turn);
  });

  it('is waited for by a chunk that is mapped sooner than the one before', async () => {
    const [first, second] = [await connect(), await connect()];
    await begin(first, 1);
    await begin(second, 2);
    const waiting = takeTurn(second, KEY, 2);
    await eventually('the second waits', () => isWaiting(second));
    expect(await takeTurn(first, [null, null], 1)).toBe(true);
    await moveTo(first, KEY);
    await first.query('commit');
    expect(await waiting).toBe(true);
  });

  it('does not wait for a chunk that comes later, nor for one of another book', async () => {
    const [first, second] = [await connect(), await connect()];
    await begin(first, 2);
    await begin(second, 1);
    expect(await takeTurn(second, [null, null], 1)).toBe(true);
    await second.query('commit');
    await begin(second, 1, 2);
    expect(await takeTurn(first, [null, null], 2)).toBe(true);
    await first.query('commit');
    await second.query('commit');
  });
});
