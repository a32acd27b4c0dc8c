import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { GUARDS } from '../../src/ledger/guards.ts';
import { post, postAll } from '../../src/ledger/ledger.ts';
import { proveConsistency } from '../../src/ledger/proof.ts';
import { listSeals, sealBook } from '../../src/ledger/seals.ts';
import { type CheckResult, runChecks } from '../../src/ledger/verify.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { logPositions, seal } from '../support/seals.ts';

const LOG = 'no event changed since it was written';
const CHAIN = 'every seal follows from the one before';
const EVENTS = 'every sealed event is there, as it was sealed';
const TILES = 'no sealed tile differs';

let database: TestDatabase;
let accounts: TestAccounts;
/** The positions that each seal covers: 1 of the accounts and three transactions, 2 of two, 3 of 1,100, 4 of one. */
let sealed: bigint[][];
/** Taken by a transaction that was rolled back, before seal 2. */
let gap: bigint;

beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  accounts = await openTestAccounts(pool);
  const give = (count: number) =>
    postAll(
      pool,
      Array.from({ length: count }, () => transfer(accounts.clearing, accounts.wallet)),
    );
  await give(3);
  sealed = [[], await seal(pool)];
  const { rows } = await pool.query<{ gap: bigint }>(`select nextval('payments.events_position_seq') as gap`);
  gap = rows[0]?.gap ?? 0n;
  await give(2);
  sealed.push(await seal(pool));
  await give(1_100);
  sealed.push(await seal(pool));
  await post(pool, transfer(accounts.clearing, accounts.wallet));
  sealed.push(await seal(pool));
  await pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
});
afterAll(() => database.drop());

const at = (number: number, nth: number) => sealed[number]?.at(nth) ?? 0n;

it('the books of these tests hold', async () => {
  expect(sealed.map(({ length }) => length)).toEqual([0, 7, 2, 1_100, 1]);
  expect((await checksAfter('select')).filter(({ holds }) => !holds)).toEqual([]);
});

// What an owner does who disables the triggers, and covers it up as well as he can.

const LEAF = (change: Record<string, string> = {}) => {
  const columns = ['book_id', 'position', 'event_id', 'effective_at', 'recorded_at', 'type', 'created_by'];
  const more = ['idempotency_scope', 'idempotency_key', 'request_hash', 'payload'];
  return `payments.event_leaf_hash(${[...columns, ...more].map((column) => change[column] ?? column).join(', ')})`;
};
/** Changes an event and gives it the leaf hash of what it says then. */
const forge = (change: Record<string, string>, where: string) =>
  `update payments.events set ${Object.entries(change)
    .map(([column, value]) => `${column} = ${value}`)
    .join(', ')}, leaf_hash = ${LEAF(change)} where ${where}`;
const forgeAt = (position: bigint, change: Record<string, string>) => forge(change, `position = ${position}`);
const swap = (one: bigint, other: bigint) =>
  [
    forgeAt(one, { position: '-1' }),
    forgeAt(other, { position: `${one}` }),
    forgeAt(-1n, { position: `${other}` }),
  ].join('; ');
const insertAt = (position: bigint, bookId = 1) =>
  `insert into payments.events (position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, leaf_hash)
   select position, recorded_at, effective_at, event_id, book_id, type, created_by, payload, ${LEAF({ idempotency_scope: 'null', idempotency_key: 'null', request_hash: 'null' })}
   from (select ${position}::bigint as position, recorded_at, effective_at, gen_random_uuid() as event_id, ${bookId} as book_id,
           'note.recorded' as type, created_by, '{}'::jsonb as payload
         from payments.events order by position limit 1) forged`;
/** Takes events out of the log with all that they brought about, as if they had never been. */
const removeFrom = (position: bigint) => `
  delete from payments.entries where event_position >= ${position};
  update payments.balances b set
    last_seq = coalesce((select max(e.account_seq) from payments.entries e where e.account_id = b.account_id), 0),
    balance_cents = coalesce((select sum(e.amount_cents) from payments.entries e where e.account_id = b.account_id), 0);
  delete from payments.events where position >= ${position}`;
const SEAL_HASH = (change: Record<string, string> = {}) =>
  `payments.seal_hash(${['book_id', 'seal_number', 'sealed_at', 'tree_size', 'root', 'positions', 'open_positions', 'open_writers', 'previous_seal_hash'].map((column) => change[column] ?? column).join(', ')})`;
const editSeal = (number: number, change: Record<string, string>) =>
  `update payments.seals set ${Object.entries(change)
    .map(([column, value]) => `${column} = ${value}`)
    .join(', ')} where seal_number = ${number}`;
/** With the hash of what it says then; the seals after it keep theirs. */
const forgeSeal = (number: number, change: Record<string, string>) =>
  editSeal(number, { ...change, seal_hash: SEAL_HASH(change) });

/** All seals with hashes of what they say, each with the one before. */
const FORGE_CHAIN = `do $forge$
  declare
    v_number bigint;
    v_hash bytea := decode(repeat('00', 32), 'hex');
  begin
    for v_number in select seal_number from payments.seals where book_id = 1 order by seal_number loop
      update payments.seals set previous_seal_hash = v_hash, seal_hash = ${SEAL_HASH({ previous_seal_hash: 'v_hash' })}
      where seal_number = v_number
      returning seal_hash into v_hash;
    end loop;
  end $forge$`;

type Case = [what: string, sql: () => string, check: string, says: () => RegExp];

const missing = (number: number, what: string) =>
  new RegExp(`^seal ${number} of book 1 covers ${what}, which the log does not have$`);
const differs = (number: number, where: string) =>
  new RegExp(`^what is at ${where} is not what seal ${number} of book 1 has there$`);
const empty = (number: number, position: bigint) =>
  new RegExp(`^event ${position} \\(.*\\) of book 1 is in no seal: seal ${number} found its position empty$`);
const chain = (number: number, says: string) => new RegExp(`^seal ${number} of book 1 .*${says}`);

const EVENT_CASES: Case[] = [
  [
    'the last event, with all that it brought about',
    () => removeFrom(at(4, 0)),
    EVENTS,
    () => missing(4, `event ${at(4, 0)}`),
  ],
  [
    'the last three events, with all that they brought about',
    () => removeFrom(at(3, -2)),
    EVENTS,
    () => missing(3, `events ${at(3, -2)} to ${at(3, -1)}`),
  ],
  ['all that was posted', () => removeFrom(at(1, 4)), EVENTS, () => missing(1, `events ${at(1, 4)} to ${at(1, 6)}`)],
  [
    'the whole ledger',
    () => ['entries', 'balances', 'accounts', 'events'].map((table) => `delete from payments.${table}`).join('; '),
    EVENTS,
    () => missing(1, 'events 1 to 7'),
  ],
  [
    'an event in the middle',
    () => `delete from payments.events where position = ${at(3, 500)}`,
    EVENTS,
    () => missing(3, `event ${at(3, 500)}`),
  ],
  ['the first event', () => `delete from payments.events where position = 1`, EVENTS, () => missing(1, 'event 1')],
  [
    'the description of a transaction, in the log, in its leaf hash and in its entries',
    () =>
      `${forgeAt(at(2, 0), { payload: `payload || '{"description": "other"}'` })}; update payments.entries set description = 'other' where event_position = ${at(2, 0)}`,
    EVENTS,
    () => differs(2, `position ${at(2, 0)}`),
  ],
  [
    'the amounts of a transaction, in all that says them',
    () => `
      ${forgeAt(at(4, 0), { payload: `jsonb_set(jsonb_set(payload, '{entries,0,amount_cents}', '1'), '{entries,1,amount_cents}', '-1')` })};
      update payments.entries set amount_cents = sign(amount_cents), balance_after_cents = balance_after_cents - 99 * sign(amount_cents) where event_position = ${at(4, 0)};
      update payments.balances b set balance_cents = (select sum(amount_cents) from payments.entries e where e.account_id = b.account_id) where last_seq > 0`,
    EVENTS,
    () => differs(4, `position ${at(4, 0)}`),
  ],
  [
    'when an event was recorded',
    () => forgeAt(at(3, 3), { recorded_at: `recorded_at - interval '1 day'` }),
    EVENTS,
    () => differs(3, `one or more of the positions ${at(3, 0)} to ${at(3, 1_014)}`),
  ],
  [
    'who did it',
    () => forgeAt(at(3, -1), { created_by: `'somebody else'` }),
    EVENTS,
    () => differs(3, `position ${at(3, -1)}`),
  ],
  [
    'the idempotency key',
    () => forgeAt(at(1, 0), { idempotency_scope: `'x'`, idempotency_key: `'y'` }),
    EVENTS,
    () => differs(1, `one or more of the positions ${at(1, 0)} to ${at(1, 3)}`),
  ],
  [
    'the id of an event',
    () => forgeAt(at(4, 0), { event_id: `'00000000-0000-4000-8000-00000000beef'::uuid` }),
    EVENTS,
    () => differs(4, `position ${at(4, 0)}`),
  ],
  [
    'a leaf hash alone',
    () => `update payments.events set leaf_hash = sha256('x') where position = ${at(2, 1)}`,
    LOG,
    () => new RegExp(`^event ${at(2, 1)} `),
  ],
  ['two events of one seal, swapped', () => swap(at(2, 0), at(2, 1)), EVENTS, () => differs(2, `position ${at(2, 0)}`)],
  [
    'two events of different seals, swapped',
    () => swap(at(2, 1), at(4, 0)),
    EVENTS,
    () => differs(2, `position ${at(2, 1)}`),
  ],
  [
    'all events of a seal, the other way round',
    () => {
      const [low, high] = [at(3, 0), at(3, -1)];
      return `${forge({ position: `-${low + high} + position` }, `position between ${low} and ${high}`)}; ${forge({ position: '-position' }, 'position < 0')}`;
    },
    EVENTS,
    () => differs(3, 'one or more of the positions .*'),
  ],
  [
    'an event moved into a gap',
    () => forgeAt(at(2, 0), { position: `${gap}` }),
    EVENTS,
    () => missing(2, `event ${at(2, 0)}`),
  ],
  [
    'an event moved to the end',
    () => forgeAt(at(2, 0), { position: '1000000' }),
    EVENTS,
    () => missing(2, `event ${at(2, 0)}`),
  ],
  [
    'an event moved to another book',
    () => forgeAt(at(3, 7), { book_id: '2' }),
    EVENTS,
    () => missing(3, `event ${at(3, 7)}`),
  ],
  [
    'an event replaced by another',
    () => `delete from payments.events where position = ${at(4, 0)}; ${insertAt(at(4, 0))}`,
    EVENTS,
    () => differs(4, `position ${at(4, 0)}`),
  ],
  ['an event put into a gap', () => insertAt(gap), EVENTS, () => empty(2, gap)],
  ['an event put before the first', () => insertAt(0n), EVENTS, () => empty(1, 0n)],
  [
    'an event taken out, and one put into a gap for it',
    () => `delete from payments.events where position = ${at(2, 0)}; ${insertAt(gap)}`,
    EVENTS,
    () => missing(2, `event ${at(2, 0)}`),
  ],
];

const SEAL_CASES: Case[] = [
  [
    'the root',
    () => editSeal(2, { root: `sha256('x')` }),
    CHAIN,
    () => chain(2, 'has a frontier that does not give its root, has the hash'),
  ],
  [
    'the root with the seal hash, but not the chain',
    () => forgeSeal(2, { root: `sha256('x')` }),
    CHAIN,
    () => chain(2, 'has a frontier that does not give its root$'),
  ],
  [
    'the root, the frontier and the seal hash of the newest seal',
    () =>
      forgeSeal(4, {
        root: `payments.merkle_root(array(select sha256(f) from unnest(frontier) f))`,
        frontier: 'array(select sha256(f) from unnest(frontier) f)',
      }),
    EVENTS,
    () => differs(4, `position ${at(4, 0)}`),
  ],
  [
    'a hash of the frontier',
    () => editSeal(3, { 'frontier[1]': `sha256('x')` }),
    CHAIN,
    () => chain(3, 'has a frontier that does not give its root'),
  ],
  [
    'the frontier, shortened',
    () => editSeal(3, { frontier: 'frontier[2:]' }),
    CHAIN,
    () => chain(3, 'has a frontier that does not give its root'),
  ],
  [
    'the frontier, emptied',
    () => editSeal(4, { frontier: `'{}'` }),
    CHAIN,
    () => chain(4, 'has a frontier that does not give its root'),
  ],
  [
    'the positions',
    () => editSeal(2, { positions: `positions - '{[${at(2, 0)},${at(2, 0) + 1n})}'` }),
    CHAIN,
    () => chain(2, 'counts 2 events at 1 positions, has the hash'),
  ],
  [
    'the positions with the count, the size and the seal hash, so that it covers nothing',
    () => forgeSeal(4, { positions: `'{}'`, event_count: '0', tree_size: 'tree_size - 1' }),
    EVENTS,
    () => /^seal 4 of book 1 has another root than its events give$/,
  ],
  [
    'the positions, so that they name a gap and not the event',
    () => forgeSeal(2, { positions: `positions - '{[${at(2, 0)},${at(2, 0) + 1n})}' + '{[${gap},${gap + 1n})}'` }),
    CHAIN,
    () => chain(3, 'names [0-9a-f]{64} as the hash of the seal before'),
  ],
  [
    'the positions, so that an event is sealed twice',
    () => forgeSeal(4, { positions: `'{[${at(3, 0)},${at(3, 0) + 1n})}'` }),
    CHAIN,
    () => chain(4, 'covers positions that were sealed or empty before'),
  ],
  [
    'the positions, without an end',
    () => editSeal(4, { positions: `'{[${at(4, 0)},)}'` }),
    CHAIN,
    () => chain(4, 'counts 1 events at no end of positions'),
  ],
  [
    'the count of events',
    () => editSeal(2, { event_count: '3' }),
    CHAIN,
    () => chain(2, 'counts 3 events at 2 positions'),
  ],
  [
    'the size of the tree',
    () => editSeal(2, { tree_size: '10' }),
    CHAIN,
    () => chain(2, 'makes a tree of 10 out of 7 and 2 events'),
  ],
  [
    'the size of the tree, below zero',
    () => editSeal(2, { tree_size: '-10' }),
    CHAIN,
    () => chain(2, 'makes a tree of -10'),
  ],
  [
    'when it was sealed',
    () => editSeal(2, { sealed_at: `sealed_at - interval '1 day'` }),
    CHAIN,
    () => chain(2, 'has the hash'),
  ],
  [
    'when it was sealed, with the seal hash',
    () => forgeSeal(2, { sealed_at: `sealed_at - interval '1 day'` }),
    CHAIN,
    () => chain(3, 'as the hash of the seal before'),
  ],
  [
    'the open positions, so that an event may come into a gap',
    () => editSeal(4, { open_positions: `open_positions + '{[${gap},${gap + 1n})}'` }),
    CHAIN,
    () => chain(4, 'opens positions that were sealed or empty before'),
  ],
  [
    'the open positions with the seal hash, so that an event may come into a gap',
    () => forgeSeal(4, { open_positions: `open_positions + '{[${gap},${gap + 1n})}'` }),
    CHAIN,
    () => chain(4, 'opens positions that were sealed or empty before'),
  ],
  [
    'the numbers, with all hashes from the first to the last',
    () =>
      `update payments.seals set seal_number = -seal_number; update payments.seals set seal_number = 1 - seal_number; ${FORGE_CHAIN}`,
    CHAIN,
    () => chain(2, 'is its first$'),
  ],
  [
    'a seal in the middle, removed, with all hashes from the first to the last',
    () =>
      `delete from payments.seals where seal_number = 2; update payments.seals set seal_number = seal_number - 1 where seal_number > 2; ${FORGE_CHAIN}`,
    CHAIN,
    () => chain(2, 'makes a tree of 1109 out of 7 and 1100 events'),
  ],
  ['who was writing', () => editSeal(4, { open_writers: `'{1/1}'` }), CHAIN, () => chain(4, 'has the hash')],
  [
    'the hash before',
    () => editSeal(3, { previous_seal_hash: `sha256('x')` }),
    CHAIN,
    () => chain(3, 'as the hash of the seal before'),
  ],
  [
    'the hash before, of the first',
    () => editSeal(1, { previous_seal_hash: `sha256('x')` }),
    CHAIN,
    () => chain(1, 'as the hash of the seal before'),
  ],
  ['the hash of the newest', () => editSeal(4, { seal_hash: `sha256('x')` }), CHAIN, () => chain(4, 'has the hash')],
  ['the book', () => editSeal(4, { book_id: '2' }), CHAIN, () => /^seal 4 of book 2 is its first, /],
  [
    'a seal in the middle, removed',
    () => 'delete from payments.seals where seal_number = 2',
    CHAIN,
    () => chain(3, 'comes after seal 1'),
  ],
  [
    'the first seal, removed',
    () => 'delete from payments.seals where seal_number = 1',
    CHAIN,
    () => chain(2, 'is its first'),
  ],
  [
    'the seals, numbered anew from 2',
    () =>
      'update payments.seals set seal_number = -seal_number; update payments.seals set seal_number = 1 - seal_number',
    CHAIN,
    () => chain(2, 'is its first'),
  ],
  [
    'two seals, swapped',
    () =>
      `update payments.seals set seal_number = -2 where seal_number = 2; update payments.seals set seal_number = 2 where seal_number = 3; update payments.seals set seal_number = 3 where seal_number = -2`,
    CHAIN,
    () => chain(2, 'as the hash of the seal before'),
  ],
  [
    'a seal added that says nothing of events',
    () =>
      `insert into payments.seals select x.* from payments.seals s cross join lateral (select s.seal_number + 1 as seal_number, s.tree_size,
         s.sealed_at, 0 as event_count, s.book_id, sha256('x') as root, s.seal_hash, s.seal_hash as previous_seal_hash, s.frontier, '{}'::int8multirange,
         s.open_positions, s.open_writers) x where s.seal_number = 4`,
    CHAIN,
    () => chain(5, 'has a frontier that does not give its root'),
  ],
  [
    'a tile',
    () => `update payments.seal_tiles set hash = sha256('x')`,
    TILES,
    () => /^tile 0 of book 1 is [0-9a-f]{64}, its leaves give [0-9a-f]{64}$/,
  ],
  ['a tile, removed', () => 'delete from payments.seal_tiles', TILES, () => /^tile 0 of book 1 is missing$/],
  [
    'a tile, numbered anew',
    () => 'update payments.seal_tiles set tile_number = 1',
    TILES,
    () => /^tile 0 of book 1 is missing$/,
  ],
  [
    'a tile added',
    () => `insert into payments.seal_tiles (tile_number, book_id, hash) values (1, 1, sha256('x'))`,
    TILES,
    () => /^tile 1 of book 1 stands for leaves that no seal has$/,
  ],
  [
    'a tile of a book without seals',
    () => `insert into payments.seal_tiles (tile_number, book_id, hash) values (0, 2, sha256('x'))`,
    TILES,
    () => /^tile 0 of book 2 stands for leaves that no seal has$/,
  ],
  [
    'the newest seals, removed with their events, but not their tile',
    () => `${removeFrom(at(3, 0))}; delete from payments.seals where seal_number >= 3`,
    TILES,
    () => /^tile 0 of book 1 stands for leaves that no seal has$/,
  ],
];

describe('books verify finds, and names first', () => {
  it.each(EVENT_CASES)('what was changed of the events: %s', (_what, sql, check, says) =>
    expectFound(sql(), check, says()),
  );
  it.each(SEAL_CASES)('what was changed of the seals: %s', (_what, sql, check, says) =>
    expectFound(sql(), check, says()),
  );

  it.each([
    [
      'check_sealed_events',
      '(p_book_id integer, p_after_seal bigint default 0) returns table (kind text, message text) language sql as $$ select null, null where false $$',
    ],
    ['merkle_root', '(p_frontier bytea[]) returns bytea language sql as $$ select p_frontier[1] $$'],
    ['check_new_seal', '() returns trigger language plpgsql as $$ begin return new; end $$'],
    [
      'seal_events',
      '(p_book_id integer, p_max_events integer default 100000) returns setof payments.seals language sql as $$ select * from payments.seals where false $$',
    ],
  ])('the function that says nothing any more: %s', async (name, definition) => {
    await expectFound(
      `create or replace function payments.${name}${definition}`,
      'every guard of the ledger is in place',
      new RegExp(`^function payments.${name} was given another body; put it back: .*migrations/0012_seals.sql`),
    );
  });

  it('says so on the command line, with the check, the seal and the position', async () => {
    const own = await createDatabase();
    const { wallet, clearing } = await openTestAccounts(own.pool);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    await own.pool.query(`${disguised(removeFrom(5n))}`);
    const run = await liventix(['books', 'verify'], { DATABASE_URL: own.url });
    await own.drop();
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(run.stdout.match(/^FAILS .*\n.*$/gm)).toEqual([
      expect.stringMatching(
        new RegExp(`^FAILS  ${EVENTS} .*\n {9}seal 1 of book 1 covers event 5, which the log does not have$`),
      ),
    ]);
  });
});

describe('what no verification inside the database can find', () => {
  it('is told by a root that was kept elsewhere: events and seals that were all made anew', async () => {
    const own = await createDatabase();
    const { wallet, clearing } = await openTestAccounts(own.pool);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    const [kept] = await listSeals(own.pool, { bookId: 1, limit: 1 });
    // The newest event is gone, and the seal that had it is made anew over another one.
    await own.pool.query(disguised(`${removeFrom(6n)}; delete from payments.seals where seal_number = 2`));
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    const [forged, first] = await listSeals(own.pool, { bookId: 1, limit: 2 });
    expect((await checksIn(own.pool)).filter(({ holds }) => !holds)).toEqual([]);
    await expect(proveConsistency(own.pool, 1, [first?.root ?? '', forged?.root ?? ''])).resolves.toBeDefined();
    await expect(proveConsistency(own.pool, 1, [kept?.root ?? '', forged?.root ?? ''])).rejects.toMatchObject({
      code: 'SEAL_ROOT_UNKNOWN',
    });
    await own.drop();
  });
});

describe('going on after a seal', () => {
  it('finds only what came after it, with the same words', async () => {
    await inTransaction(async (tx) => {
      await tx.query(disguised(`delete from payments.events where position in (${at(1, 0)}, ${at(3, 0)})`, false));
      const faults = async (after: number) => {
        const { rows } = await tx.query<{ message: string }>(
          `select message from payments.check_sealed_events(1, $1)`,
          [after],
        );
        return rows.map(({ message }) => message);
      };
      expect(await faults(0)).toEqual([
        expect.stringMatching(missing(1, `event ${at(1, 0)}`)),
        expect.stringMatching(missing(3, `event ${at(3, 0)}`)),
      ]);
      expect(await faults(2)).toEqual([expect.stringMatching(missing(3, `event ${at(3, 0)}`))]);
      expect(await faults(3)).toEqual([]);
    });
  });
});

it('these tests left the log as it was', async () => {
  expect(await logPositions(database.pool)).toEqual(sealed.flat());
});

async function expectFound(sql: string, check: string, says: RegExp): Promise<void> {
  const failed = (await checksAfter(sql)).filter(({ holds }) => !holds);
  expect(failed[0]?.check).toBe(check);
  expect(failed[0]?.first[0]).toMatch(says);
}

/** The triggers of all tables disabled for it, and put back afterwards. */
function disguised(sql: string, whole = true): string {
  const tables = new Set(GUARDS.map(({ table }) => table));
  const disable = [...tables].map((table) => `alter table payments.${table} disable trigger user`);
  const enable = GUARDS.map(({ table, trigger }) => `alter table payments.${table} enable always trigger ${trigger}`);
  return [...(whole ? ['begin'] : []), ...disable, sql, ...enable, ...(whole ? ['commit'] : [])].join('; ');
}

/** What the checks say after something was done, which is undone again. */
async function checksAfter(sql: string): Promise<CheckResult[]> {
  let results: CheckResult[] = [];
  await inTransaction(async (tx) => {
    await tx.query(disguised(sql, false));
    results = await runChecks(tx);
  });
  return results;
}

async function checksIn(pool: TestDatabase['pool']): Promise<CheckResult[]> {
  const tx = await pool.connect();
  try {
    return await runChecks(tx);
  } finally {
    tx.release();
  }
}

async function inTransaction(work: (tx: Tx) => Promise<void>): Promise<void> {
  const tx = await database.pool.connect();
  try {
    await tx.query('begin');
    await work(tx);
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}
