import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { listSeals, sealBook, sealBooks } from '../../src/ledger/seals.ts';
import { openTestAccounts, type TestAccounts, transfer, verifyBooks } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startLiventix } from '../support/liventix.ts';
import { logPositions, rootOfLeaves, seal, sealedPositions } from '../support/seals.ts';

let database: TestDatabase;
let accounts: TestAccounts;
const sessions: Tx[] = [];

beforeEach(async () => {
  database = await createDatabase({ poolMax: 20 });
  accounts = await openTestAccounts(database.pool);
});
afterEach(async () => {
  for (const session of sessions.splice(0)) session.release(true);
  const faults = await brokenChecks();
  await database.drop();
  // Whatever a test did honestly, nothing of it is reported as tampered with.
  expect(faults).toEqual([]);
});

const brokenChecks = async () => (await verifyBooks(database.pool)).filter((check) => !check.holds);

/** A session with an open transaction. */
async function open(): Promise<Tx> {
  const session = await database.pool.connect();
  sessions.push(session);
  await session.query('begin');
  return session;
}

const give = (db: Pick<Tx, 'query'> = database.pool) => post(db, transfer(accounts.clearing, accounts.wallet));
const giveMany = (count: number) =>
  postAll(
    database.pool,
    Array.from({ length: count }, () => transfer(accounts.clearing, accounts.wallet)),
  );
/** Between accounts that no other transaction of these tests holds. */
async function giveYen(): Promise<void> {
  const [sales = ''] = await openAccounts(database.pool, [{ type: 'revenue', currency: 'JPY', name: 'sales' }]);
  await post(database.pool, transfer(accounts.yen, sales, { currency: 'JPY' }));
}
/** Takes positions that no event will ever have, as a transaction does that is rolled back. */
const waste = (count: number, db: Pick<Tx, 'query'> = database.pool) =>
  db.query(`select nextval('payments.events_position_seq') from generate_series(1, $1)`, [count]);

const openPositions = async (bookId = 1) => {
  const { rows } = await database.pool.query<{ open: string }>(
    'select open_positions::text as open from payments.seals where book_id = $1 order by seal_number desc limit 1',
    [bookId],
  );
  return rows[0]?.open;
};

describe('sealing', () => {
  it('covers every committed event once, in the order of the log, and then finds nothing new', async () => {
    await giveMany(3);
    const [first, ...more] = await sealBook(database.pool, 1);
    expect(more).toEqual([]);
    expect(first).toMatchObject({ book: 1, sealNumber: 1n, events: 7, treeSize: 7n });
    expect(first?.previousSealHash).toBe('00'.repeat(32));
    expect(first?.root).toBe(await rootOfLeaves(database.pool, 7n));
    expect((await sealedPositions(database.pool)).map(({ position }) => position)).toEqual(
      await logPositions(database.pool),
    );
    expect(await sealBook(database.pool, 1)).toEqual([]);

    await give();
    const [second] = await sealBook(database.pool, 1);
    expect(second).toMatchObject({ sealNumber: 2n, events: 1, treeSize: 8n, previousSealHash: first?.sealHash });
    expect(second?.root).toBe(await rootOfLeaves(database.pool, 8n));
    expect(await listSeals(database.pool, { bookId: 1, limit: 10 })).toEqual([second, first]);
    expect(await listSeals(database.pool, { bookId: 1, limit: 10, before: 2 })).toEqual([first]);
  });

  it('finds nothing in a book without events', async () => {
    await database.pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
    expect(await sealBook(database.pool, 2)).toEqual([]);
    const empty = await createDatabase();
    expect(await sealBooks(empty.pool)).toEqual([]);
    await empty.drop();
  });

  it.each([1, 2, 3, 7])('takes %i events a batch when told so, and covers the same', async (batchEvents) => {
    await giveMany(6);
    const seals = await sealBook(database.pool, 1, { batchEvents });
    expect(seals).toHaveLength(Math.ceil(10 / batchEvents));
    expect(await seal(database.pool)).toEqual([]);
    expect((await sealedPositions(database.pool)).map(({ position }) => position)).toEqual(
      await logPositions(database.pool),
    );
    for (const { root, treeSize } of seals) expect(root).toBe(await rootOfLeaves(database.pool, treeSize));
  });

  it('keeps a tile for every 1,024 leaves, whatever the batches', async () => {
    await giveMany(1_500);
    await sealBook(database.pool, 1, { batchEvents: 700 });
    await giveMany(1_500);
    await sealBook(database.pool, 1);
    const { rows } = await database.pool.query('select tile_number from payments.seal_tiles order by tile_number');
    expect(rows).toEqual([{ tile_number: 0n }, { tile_number: 1n }]);
    const [newest] = await listSeals(database.pool, { bookId: 1, limit: 1 });
    expect(newest?.root).toBe(await rootOfLeaves(database.pool, 3_004n));
  });

  it('stops after the batch under way when it is told to', async () => {
    await giveMany(6);
    const stop = new AbortController();
    stop.abort();
    expect(await sealBook(database.pool, 1, { stop: stop.signal })).toEqual([]);
    expect(await seal(database.pool)).toHaveLength(10);
  });

  it.each([0, -1, 1_000_001])('refuses batches of %i events', async (batchEvents) => {
    await expect(sealBook(database.pool, 1, { batchEvents })).rejects.toMatchObject({ code: 'LEDGER_INVALID' });
  });

  it('refuses a batch of no number, and a book that does not exist', async () => {
    await expect(database.pool.query('select payments.seal_events(1, null)')).rejects.toMatchObject({ code: 'LV001' });
    await expect(sealBook(database.pool, 99)).rejects.toMatchObject({ code: 'LEDGER_BOOK_UNKNOWN' });
    await expect(database.pool.query('select payments.seal_events(null)')).rejects.toMatchObject({ code: 'LV010' });
    await expect(listSeals(database.pool, { bookId: 99, limit: 1 })).rejects.toMatchObject({
      code: 'LEDGER_BOOK_UNKNOWN',
    });
  });

  it.each(['repeatable read', 'serializable'])(
    'is refused at isolation level %s, whose snapshot may be older than a commit that it has to see',
    async (level) => {
      await expect(
        withTransaction(database.pool, (tx) => tx.query('select payments.seal_events(1)'), {
          mode: `isolation level ${level}`,
        }),
      ).rejects.toMatchObject({ code: 'SEAL_NEEDS_READ_COMMITTED' });
    },
  );
});

describe('an event that commits late', () => {
  it('comes in the next seal with its lower position, and nothing is ever missed or reported', async () => {
    const late = await open();
    const { eventPosition } = await give(late);
    await giveYen();
    const first = await seal(database.pool);
    expect(first).not.toContain(eventPosition);
    expect(first.at(-1)).toBeGreaterThan(eventPosition);
    expect(await brokenChecks()).toEqual([]);
    // Nothing new, however often it is asked; the place is still open.
    expect(await seal(database.pool)).toEqual([]);

    await late.query('commit');
    expect(await brokenChecks()).toEqual([]);
    expect(await seal(database.pool)).toEqual([eventPosition]);
    const [newest] = await listSeals(database.pool, { bookId: 1, limit: 1 });
    expect(newest?.root).toBe(await rootOfLeaves(database.pool, newest?.treeSize ?? 0n));
  });

  it('is waited for across any number of seals, and only until the transaction that may have taken its place ends', async () => {
    const late = await open();
    await waste(1, late);
    await give(late);
    await waste(1, late);
    for (let round = 0; round < 3; round += 1) {
      await giveYen();
      expect(await seal(database.pool)).not.toEqual([]);
      expect(await openPositions()).toMatch(/^\{\[5,8\),\[\d+,\)\}$/);
    }
    await late.query('commit');
    await giveYen();
    expect(await seal(database.pool)).toEqual([6n, expect.any(BigInt)]);
    expect(await openPositions()).toMatch(/^\{\[\d+,\)\}$/);
  });

  it('is waited for no longer when only younger transactions are at work', async () => {
    const [older, younger] = [await open(), await open()];
    await waste(1, older);
    await give();
    await seal(database.pool);
    expect(await openPositions()).toMatch(/^\{\[5,6\),/);
    await waste(1, younger);
    await give();
    await older.query('rollback');
    await seal(database.pool);
    // What the younger one may have taken is open instead.
    expect(await openPositions()).toMatch(/^\{\[7,8\),\[9,\)\}$/);
  });

  it('comes with all others of its transaction, also where they are more than a batch', async () => {
    const late = await open();
    await postAll(
      late,
      Array.from({ length: 20 }, () => transfer(accounts.clearing, accounts.wallet)),
    );
    await giveYen();
    await seal(database.pool, { batchEvents: 3 });
    await late.query('commit');
    await giveYen();
    await seal(database.pool, { batchEvents: 3 });
    expect((await sealedPositions(database.pool)).map(({ position }) => position).toSorted(ascending)).toEqual(
      await logPositions(database.pool),
    );
    expect(await openPositions()).toMatch(/^\{\[\d+,\)\}$/);
  });

  it('is found where a part of its transaction was rolled back to a savepoint', async () => {
    const late = await open();
    await late.query('savepoint before');
    await give(late);
    await late.query('rollback to savepoint before');
    await giveYen();
    await seal(database.pool);
    expect(await openPositions()).toMatch(/^\{\[5,6\),/);
    const { eventPosition } = await give(late);
    await late.query('commit');
    expect(await seal(database.pool)).toEqual([eventPosition]);
    expect(await openPositions()).toMatch(/^\{\[\d+,\)\}$/);
  });
});

const ascending = (a: bigint, b: bigint) => Number(a - b);

describe('positions that were taken and never used', () => {
  it('are settled by the very next seal where nobody is at work', async () => {
    await waste(3);
    await give();
    await seal(database.pool);
    expect(await openPositions()).toBe('{[9,)}');
  });

  it('are looked at no more once the transactions that wasted them have ended', async () => {
    const GAPS = 2_000;
    const holder = await open();
    await waste(1, holder);
    // Every second position is a gap.
    await database.pool.query(
      `do $$ begin
         for nth in 1..${GAPS} loop
           perform nextval('payments.events_position_seq');
           perform payments.open_accounts(1, jsonb_build_array(jsonb_build_object(
             'type', 'cash', 'currency', 'USD', 'name', 'holder-' || nth)));
         end loop;
       end $$`,
    );
    await seal(database.pool);
    expect(await openPositions()).toMatch(/^(\{|,|\[\d+,\d+\))+,\[\d+,\)\}$/);
    expect(await lookUps()).toBeGreaterThan(GAPS);
    await holder.query('rollback');
    await give();
    await seal(database.pool);
    expect(await openPositions()).toMatch(/^\{\[\d+,\)\}$/);
    expect(await lookUps()).toBeLessThan(10);
  });

  /** How often one more look for what is new goes into the log's index. */
  async function lookUps(): Promise<number> {
    const client = await database.pool.connect();
    try {
      const scans = async () => {
        await client.query('select pg_stat_force_next_flush()');
        const { rows } = await client.query<{ scans: bigint }>(
          `select idx_scan as scans from pg_stat_user_indexes where indexrelname = 'events_pkey'`,
        );
        return Number(rows[0]?.scans);
      };
      const before = await scans();
      expect((await client.query('select from payments.seal_events(1)')).rowCount).toBe(0);
      return (await scans()) - before;
    } finally {
      client.release();
    }
  }
});

describe('books', () => {
  beforeEach(() => database.pool.query(`insert into payments.books (book_id, name) values (2, 'second')`));

  const openInSecond = (name: string) =>
    openAccounts(database.pool, [{ type: 'cash', currency: 'USD', name }], { bookId: 2 });

  it('have a chain and a tree each, also where their events alternate', async () => {
    for (let round = 0; round < 4; round += 1) {
      await give();
      await openInSecond(`account-${round}`);
      if (round === 1) await sealBooks(database.pool);
    }
    await sealBooks(database.pool);
    for (const bookId of [1, 2]) {
      expect((await sealedPositions(database.pool, bookId)).map(({ position }) => position)).toEqual(
        await logPositions(database.pool, bookId),
      );
      const seals = await listSeals(database.pool, { bookId, limit: 10 });
      expect(seals.map(({ sealNumber }) => sealNumber)).toEqual([2n, 1n]);
      for (const { root, treeSize } of seals) expect(root).toBe(await rootOfLeaves(database.pool, treeSize, bookId));
      // The other book's events leave no places to look at again.
      expect(await openPositions(bookId)).toMatch(/^\{\[\d+,\)\}$/);
    }
  });

  it('pass over any number of events of others in batches, and never over the same ones twice', async () => {
    await openInSecond('before');
    await giveMany(10);
    await openInSecond('after');
    const seals = await sealBook(database.pool, 2, { batchEvents: 4 });
    expect(seals.map(({ events }) => events)).toEqual([0, 1, 0, 1]);
    expect(seals.map(({ treeSize }) => treeSize)).toEqual([0n, 1n, 1n, 2n]);
    expect(seals[0]?.root).toBe(await rootOfLeaves(database.pool, 0n, 2));
    await giveMany(3);
    expect(await sealBook(database.pool, 2, { batchEvents: 4 })).toEqual([]);
  });
});

describe('at once', () => {
  it('2 sealers and 8 posters leave every event in exactly one seal, rolled back ones and slow ones included', async () => {
    const POSTERS = 8;
    const ROUNDS = 15;
    const wallets = await openAccounts(
      database.pool,
      Array.from({ length: POSTERS }, (_, nth) => ({ type: 'payable', currency: 'USD', name: `payable-${nth}` })),
    );
    let posting = true;
    const poster = async (nth: number) => {
      for (let round = 0; round < ROUNDS; round += 1) {
        const [debit = '', credit = ''] = [wallets[nth], wallets[(nth + 1 + round) % POSTERS] ?? ''];
        if (debit === credit) continue;
        const work = async (tx: Tx) => {
          await post(tx, transfer(debit, credit));
          if (round % 3 === 0) await tx.query('select pg_sleep(0.02)');
          if (round % 5 === 4) throw new Error('changed its mind');
          await post(tx, transfer(debit, credit));
        };
        await withTransaction(database.pool, work).catch((error: Error) => {
          if (!error.message.includes('changed its mind')) throw error;
        });
      }
    };
    const sealer = async () => {
      let seals = 0;
      while (posting) seals += (await sealBook(database.pool, 1, { batchEvents: 5 })).length;
      return seals;
    };
    const sealers = Promise.all([sealer(), sealer()]);
    await Promise.all(Array.from({ length: POSTERS }, (_, nth) => poster(nth))).finally(() => {
      posting = false;
    });
    expect(Math.min(...(await sealers))).toBeGreaterThan(0);
    await seal(database.pool);
    const sealed = (await sealedPositions(database.pool)).map(({ position }) => position);
    expect(sealed.toSorted(ascending)).toEqual(await logPositions(database.pool));
    await give();
    await seal(database.pool);
    expect(await openPositions()).toMatch(/^\{\[\d+,\)\}$/);
  });

  it('what commits while a sealer looks is not taken for something that never came', async () => {
    // So many places to look at that one look takes its time, and nobody at work who would keep them open.
    const holder = await open();
    await waste(1, holder);
    await database.pool.query(
      `insert into payments.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, leaf_hash)
       select n.position, n.at, n.at, n.id, 1, 'note.recorded', 'test', '{}',
              payments.event_leaf_hash(1, n.position, n.id, n.at, n.at, 'note.recorded', 'test', null, null, null, '{}')
       from (
         select nextval('payments.events_position_seq') as position, gen_random_uuid() as id, now() as at,
                nextval('payments.events_position_seq') as wasted
         from generate_series(1, 20000) offset 0
       ) n`,
    );
    await seal(database.pool);
    await holder.query('rollback');
    const [late, sealer] = [await open(), await open()];
    for (let delayMs = 0; delayMs <= 100; delayMs += 10) {
      const { eventPosition } = await give(late);
      await giveYen();
      const committed = late.query(`select pg_sleep(${delayMs / 1_000}); commit`);
      const { rows } = await sealer.query<{ covered: boolean }>(
        'select $1::bigint <@ (positions + open_positions) as covered from payments.seal_events(1)',
        [eventPosition],
      );
      await committed;
      expect(rows, `committed ${delayMs} ms after the seal was begun`).toEqual([{ covered: true }]);
      // So that the next look takes as long.
      await sealer.query('rollback; begin');
      await late.query('begin');
    }
  });

  it('a sealer waits for no writer, and no writer for a sealer', async () => {
    const [writer, sealer] = [await open(), await open()];
    await give(writer);
    await sealer.query(`set local lock_timeout = '1ms'`);
    expect((await sealer.query('select from payments.seal_events(1)')).rowCount).toBe(1);
    await writer.query(`set local lock_timeout = '1ms'`);
    await give(writer);
    await writer.query('commit');
    await sealer.query('commit');
    expect(await seal(database.pool)).toHaveLength(2);
  });

  it('a sealer waits for another one of the same book, and goes on from its seal', async () => {
    const [first, second] = [await open(), await open()];
    await first.query('select from payments.seal_events(1)');
    const waiting = second.query<{ number: bigint }>('select seal_number as number from payments.seal_events(1)');
    await eventually('the second sealer waits', async () => {
      const { rows } = await database.pool.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'`,
      );
      return rows.length === 1;
    });
    await give();
    await first.query('commit');
    expect((await waiting).rows).toEqual([{ number: 2n }]);
    await second.query('commit');
  });
});

describe('a crash', () => {
  it('between two writes of a seal leaves nothing of it, and the next one seals all', async () => {
    await giveMany(1_200);
    const blocker = await open();
    await blocker.query('lock table payments.seal_tiles in share mode');
    const process = startLiventix(['books', 'seal'], { DATABASE_URL: database.url });
    // The seal's row is written by then, its tile is not.
    const pid = await eventually('the sealer waits to write the tile', async () => {
      const { rows } = await database.pool.query<{ pid: number }>(
        `select pid from pg_locks where relation = 'payments.seal_tiles'::regclass and not granted`,
      );
      return rows[0]?.pid;
    });
    process.kill('SIGKILL');
    await process.done;
    await database.pool.query('select pg_terminate_backend($1)', [pid]);
    await eventually('its session is gone', async () => {
      const { rows } = await database.pool.query('select from pg_stat_activity where pid = $1', [pid]);
      return rows.length === 0;
    });
    await blocker.query('rollback');
    expect(await sealedPositions(database.pool)).toEqual([]);
    expect(await seal(database.pool)).toHaveLength(1_204);
  });

  it('before the commit leaves nothing, and keeps nobody waiting', async () => {
    const crashing = new pg.Client({ connectionString: database.url });
    crashing.on('error', () => undefined);
    await crashing.connect();
    await crashing.query('begin');
    await crashing.query('select from payments.seal_events(1)');
    await database.pool.query(
      `select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`,
    );
    expect(await seal(database.pool)).toHaveLength(4);
  });
});

describe('a seal that somebody inserts', () => {
  const wrongs: [string, string, string][] = [
    ['out of number', `seal_number = seal_number + 1`, 'it is to be number 2'],
    ['again', `seal_number = seal_number - 1`, 'it is to be number 2'],
    ['without the hash before', `previous_seal_hash = sha256('x')`, 'it does not name the hash of the seal before'],
    ['with a count that is not its own', 'event_count = event_count + 1', 'it counts 2 events at 1 positions'],
    ['with a tree of another size', 'tree_size = tree_size + 1', 'a tree of 4 leaves and 1 more are not 6'],
    [
      'over events that are sealed',
      `positions = '{[2,3)}', event_count = 1`,
      'it covers positions that are sealed or empty',
    ],
    [
      'that opens what was sealed',
      `open_positions = open_positions + '{[1,2)}'`,
      'it opens positions that are sealed or empty',
    ],
    ['with another root', `root = sha256('x')`, 'its frontier does not give its root'],
    ['with another frontier', `frontier = '{"\\\\x00"}'`, 'its frontier does not give its root'],
    ['with another hash', `seal_hash = sha256('x')`, 'its hash is not that of its columns'],
    ['at another time', `sealed_at = sealed_at - interval '1 day'`, 'its hash is not that of its columns'],
    ['with other writers', `open_writers = '{1/1}'`, 'its hash is not that of its columns'],
  ];
  it.each(wrongs)('is refused %s', async (_what, change, says) => {
    await seal(database.pool);
    await give();
    const tx = await open();
    // The seal that would come next, with one thing changed.
    await tx.query(`create temp table next on commit drop as select * from payments.seals limit 0`);
    await tx.query('savepoint before');
    await tx.query(`create temp table made on commit drop as select * from payments.seal_events(1)`);
    const { rows } = await tx.query<{ made: string }>('select made::text as made from made');
    await tx.query('rollback to savepoint before');
    await tx.query('insert into next select (($1::text)::payments.seals).*', [rows[0]?.made]);
    await tx.query('savepoint unchanged');
    await tx.query('insert into payments.seals select * from next');
    await tx.query('rollback to savepoint unchanged');
    await tx.query(`update next set ${change}`);
    await expect(tx.query('insert into payments.seals select * from next')).rejects.toMatchObject({
      code: 'LV030',
      message: expect.stringContaining(says),
    });
  });

  it.each(['seals', 'seal_tiles'])('can be neither changed nor removed: %s', async (table) => {
    for (const sql of [
      `delete from payments.${table}`,
      `update payments.${table} set book_id = 1`,
      `truncate payments.${table}`,
    ]) {
      await expect(database.pool.query(sql)).rejects.toMatchObject({ code: 'LV009' });
    }
  });
});

describe('grants', () => {
  let admin: pg.Client;
  beforeEach(async () => {
    admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
  });
  afterEach(() => admin.end());

  it('service_role seals and reads seals, and writes no table of them', async () => {
    await admin.query('set role service_role');
    expect((await admin.query('select from payments.seal_events(1)')).rowCount).toBe(1);
    expect((await admin.query('select from payments.seals')).rowCount).toBe(1);
    for (const sql of [
      'insert into payments.seals (book_id) values (1)',
      'insert into payments.seal_tiles (book_id) values (1)',
      `select payments.merkle_root('{}')`,
      'select payments.check_sealed_events(1)',
    ]) {
      await expect(admin.query(sql)).rejects.toMatchObject({ code: '42501' });
    }
  });

  it('service_role sees and seals the books that it is granted, and no other', async () => {
    await database.pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
    await openAccounts(database.pool, [{ type: 'cash', currency: 'USD', name: 'other' }], { bookId: 2 });
    await sealBooks(database.pool);
    await admin.query('set role service_role');
    expect((await admin.query('select book_id from payments.seals')).rows).toEqual([{ book_id: 1 }]);
    await expect(admin.query('select from payments.seal_events(2)')).rejects.toMatchObject({ code: 'LV026' });
  });

  it.each(['anon', 'authenticated'])('%s can neither seal nor read seals', async (role) => {
    await admin.query(`set role ${role}`);
    for (const sql of [
      'select payments.seal_events(1)',
      'select from payments.seals',
      'select from payments.seal_tiles',
    ]) {
      await expect(admin.query(sql)).rejects.toMatchObject({ code: '42501' });
    }
  });
});
