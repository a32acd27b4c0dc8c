import type { Pool } from '../../../src/db/pool.ts';
import { post, postAll } from '../../../src/ledger/ledger.ts';
import { openTestAccounts, transfer } from '../books.ts';
import { seal } from '../seals.ts';
import type { Tampering } from './tampering.ts';

export interface SealedBooks {
  /** The positions that each seal covers: 1 of the accounts and three transactions, 2 of two, 3 of 1,100, 4 of one. */
  readonly sealed: readonly (readonly bigint[])[];
  /** Taken by a transaction that was rolled back, before seal 2. */
  readonly gap: bigint;
}

export async function fillSealedBooks(pool: Pool): Promise<SealedBooks> {
  const accounts = await openTestAccounts(pool);
  const give = (count: number) =>
    postAll(
      pool,
      Array.from({ length: count }, () => transfer(accounts.clearing, accounts.wallet)),
    );
  await give(3);
  const sealed = [[], await seal(pool)];
  const { rows } = await pool.query<{ gap: bigint }>(`select nextval('payments.events_position_seq') as gap`);
  await give(2);
  sealed.push(await seal(pool));
  await give(1_100);
  sealed.push(await seal(pool));
  await post(pool, transfer(accounts.clearing, accounts.wallet));
  sealed.push(await seal(pool));
  await pool.query(`insert into payments.books (book_id, name) values (2, 'second')`);
  return { sealed, gap: rows[0]?.gap ?? 0n };
}

/** The position of the nth event that a seal covers; of the last ones where it is negative. */
export const at = ({ sealed }: SealedBooks, number: number, nth: number): bigint => sealed[number]?.at(nth) ?? 0n;

const LOG = 'no event changed since it was written';
const CHAIN = 'every seal follows from the one before';
export const EVENTS = 'every sealed event is there, as it was sealed';
const TILES = 'no sealed tile differs';

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
export const removeFrom = (position: bigint) => `
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

export const missing = (number: number, what: string) =>
  new RegExp(`^seal ${number} of book 1 covers ${what}, which the log does not have$`);
const differs = (number: number, where: string) =>
  new RegExp(`^what is at ${where} is not what seal ${number} of book 1 has there$`);
const empty = (number: number, position: bigint) =>
  new RegExp(`^event ${position} \\(.*\\) of book 1 is in no seal: seal ${number} found its position empty$`);
const chain = (number: number, says: string) => new RegExp(`^seal ${number} of book 1 .*${says}`);

export const SEALED_EVENT_TAMPERINGS: readonly Tampering<SealedBooks>[] = [
  [
    'the last event, with all that it brought about',
    (b) => removeFrom(at(b, 4, 0)),
    (b) => missing(4, `event ${at(b, 4, 0)}`),
    EVENTS,
  ],
  [
    'the last three events, with all that they brought about',
    (b) => removeFrom(at(b, 3, -2)),
    (b) => missing(3, `events ${at(b, 3, -2)} to ${at(b, 3, -1)}`),
    EVENTS,
  ],
  [
    'all that was posted',
    (b) => removeFrom(at(b, 1, 4)),
    (b) => missing(1, `events ${at(b, 1, 4)} to ${at(b, 1, 6)}`),
    EVENTS,
  ],
  [
    'the whole ledger',
    () => ['entries', 'balances', 'accounts', 'events'].map((table) => `delete from payments.${table}`).join('; '),
    () => missing(1, 'events 1 to 7'),
    EVENTS,
  ],
  [
    'an event in the middle',
    (b) => `delete from payments.events where position = ${at(b, 3, 500)}`,
    (b) => missing(3, `event ${at(b, 3, 500)}`),
    EVENTS,
  ],
  ['the first event', () => `delete from payments.events where position = 1`, () => missing(1, 'event 1'), EVENTS],
  [
    'the description of a transaction, in the log, in its leaf hash and in its entries',
    (b) =>
      `${forgeAt(at(b, 2, 0), { payload: `payload || '{"description": "other"}'` })}; update payments.entries set description = 'other' where event_position = ${at(b, 2, 0)}`,
    (b) => differs(2, `position ${at(b, 2, 0)}`),
    EVENTS,
  ],
  [
    'the amounts of a transaction, in all that says them',
    (b) => `
      ${forgeAt(at(b, 4, 0), { payload: `jsonb_set(jsonb_set(payload, '{entries,0,amount_cents}', '1'), '{entries,1,amount_cents}', '-1')` })};
      update payments.entries set amount_cents = sign(amount_cents), balance_after_cents = balance_after_cents - 99 * sign(amount_cents) where event_position = ${at(b, 4, 0)};
      update payments.balances b set balance_cents = (select sum(amount_cents) from payments.entries e where e.account_id = b.account_id) where last_seq > 0`,
    (b) => differs(4, `position ${at(b, 4, 0)}`),
    EVENTS,
  ],
  [
    'when an event was recorded',
    (b) => forgeAt(at(b, 3, 3), { recorded_at: `recorded_at - interval '1 day'` }),
    (b) => differs(3, `one or more of the positions ${at(b, 3, 0)} to ${at(b, 3, 1_014)}`),
    EVENTS,
  ],
  [
    'who did it',
    (b) => forgeAt(at(b, 3, -1), { created_by: `'somebody else'` }),
    (b) => differs(3, `position ${at(b, 3, -1)}`),
    EVENTS,
  ],
  [
    'the idempotency key',
    (b) => forgeAt(at(b, 1, 0), { idempotency_scope: `'x'`, idempotency_key: `'y'` }),
    (b) => differs(1, `one or more of the positions ${at(b, 1, 0)} to ${at(b, 1, 3)}`),
    EVENTS,
  ],
  [
    'the id of an event',
    (b) => forgeAt(at(b, 4, 0), { event_id: `'00000000-0000-4000-8000-00000000beef'::uuid` }),
    (b) => differs(4, `position ${at(b, 4, 0)}`),
    EVENTS,
  ],
  [
    'a leaf hash alone',
    (b) => `update payments.events set leaf_hash = sha256('x') where position = ${at(b, 2, 1)}`,
    (b) => new RegExp(`^event ${at(b, 2, 1)} `),
    LOG,
  ],
  [
    'two events of one seal, swapped',
    (b) => swap(at(b, 2, 0), at(b, 2, 1)),
    (b) => differs(2, `position ${at(b, 2, 0)}`),
    EVENTS,
  ],
  [
    'two events of different seals, swapped',
    (b) => swap(at(b, 2, 1), at(b, 4, 0)),
    (b) => differs(2, `position ${at(b, 2, 1)}`),
    EVENTS,
  ],
  [
    'all events of a seal, the other way round',
    (b) => {
      const [low, high] = [at(b, 3, 0), at(b, 3, -1)];
      return `${forge({ position: `-${low + high} + position` }, `position between ${low} and ${high}`)}; ${forge({ position: '-position' }, 'position < 0')}`;
    },
    () => differs(3, 'one or more of the positions .*'),
    EVENTS,
  ],
  [
    'an event moved into a gap',
    (b) => forgeAt(at(b, 2, 0), { position: `${b.gap}` }),
    (b) => missing(2, `event ${at(b, 2, 0)}`),
    EVENTS,
  ],
  [
    'an event moved to the end',
    (b) => forgeAt(at(b, 2, 0), { position: '1000000' }),
    (b) => missing(2, `event ${at(b, 2, 0)}`),
    EVENTS,
  ],
  [
    'an event moved to another book',
    (b) => forgeAt(at(b, 3, 7), { book_id: '2' }),
    (b) => missing(3, `event ${at(b, 3, 7)}`),
    EVENTS,
  ],
  [
    'an event replaced by another',
    (b) => `delete from payments.events where position = ${at(b, 4, 0)}; ${insertAt(at(b, 4, 0))}`,
    (b) => differs(4, `position ${at(b, 4, 0)}`),
    EVENTS,
  ],
  ['an event put into a gap', (b) => insertAt(b.gap), (b) => empty(2, b.gap), EVENTS],
  ['an event put before the first', () => insertAt(0n), () => empty(1, 0n), EVENTS],
  [
    'an event taken out, and one put into a gap for it',
    (b) => `delete from payments.events where position = ${at(b, 2, 0)}; ${insertAt(b.gap)}`,
    (b) => missing(2, `event ${at(b, 2, 0)}`),
    EVENTS,
  ],
];

export const SEAL_TAMPERINGS: readonly Tampering<SealedBooks>[] = [
  [
    'the root',
    () => editSeal(2, { root: `sha256('x')` }),
    () => chain(2, 'has a frontier that does not give its root, has the hash'),
    CHAIN,
  ],
  [
    'the root with the seal hash, but not the chain',
    () => forgeSeal(2, { root: `sha256('x')` }),
    () => chain(2, 'has a frontier that does not give its root$'),
    CHAIN,
  ],
  [
    'the root, the frontier and the seal hash of the newest seal',
    () =>
      forgeSeal(4, {
        root: `payments.merkle_root(array(select sha256(f) from unnest(frontier) f))`,
        frontier: 'array(select sha256(f) from unnest(frontier) f)',
      }),
    (b) => differs(4, `position ${at(b, 4, 0)}`),
    EVENTS,
  ],
  [
    'a hash of the frontier',
    () => editSeal(3, { 'frontier[1]': `sha256('x')` }),
    () => chain(3, 'has a frontier that does not give its root'),
    CHAIN,
  ],
  [
    'the frontier, shortened',
    () => editSeal(3, { frontier: 'frontier[2:]' }),
    () => chain(3, 'has a frontier that does not give its root'),
    CHAIN,
  ],
  [
    'the frontier, emptied',
    () => editSeal(4, { frontier: `'{}'` }),
    () => chain(4, 'has a frontier that does not give its root'),
    CHAIN,
  ],
  [
    'the positions',
    (b) => editSeal(2, { positions: `positions - '{[${at(b, 2, 0)},${at(b, 2, 0) + 1n})}'` }),
    () => chain(2, 'counts 2 events at 1 positions, has the hash'),
    CHAIN,
  ],
  [
    'the positions with the count, the size and the seal hash, so that it covers nothing',
    () => forgeSeal(4, { positions: `'{}'`, event_count: '0', tree_size: 'tree_size - 1' }),
    () => /^seal 4 of book 1 has another root than its events give$/,
    EVENTS,
  ],
  [
    'the positions, so that they name a gap and not the event',
    (b) =>
      forgeSeal(2, {
        positions: `positions - '{[${at(b, 2, 0)},${at(b, 2, 0) + 1n})}' + '{[${b.gap},${b.gap + 1n})}'`,
      }),
    () => chain(3, 'names [0-9a-f]{64} as the hash of the seal before'),
    CHAIN,
  ],
  [
    'the positions, so that an event is sealed twice',
    (b) => forgeSeal(4, { positions: `'{[${at(b, 3, 0)},${at(b, 3, 0) + 1n})}'` }),
    () => chain(4, 'covers positions that were sealed or empty before'),
    CHAIN,
  ],
  [
    'the positions, without an end',
    (b) => editSeal(4, { positions: `'{[${at(b, 4, 0)},)}'` }),
    () => chain(4, 'counts 1 events at no end of positions'),
    CHAIN,
  ],
  [
    'the count of events',
    () => editSeal(2, { event_count: '3' }),
    () => chain(2, 'counts 3 events at 2 positions'),
    CHAIN,
  ],
  [
    'the size of the tree',
    () => editSeal(2, { tree_size: '10' }),
    () => chain(2, 'makes a tree of 10 out of 7 and 2 events'),
    CHAIN,
  ],
  [
    'the size of the tree, below zero',
    () => editSeal(2, { tree_size: '-10' }),
    () => chain(2, 'makes a tree of -10'),
    CHAIN,
  ],
  [
    'when it was sealed',
    () => editSeal(2, { sealed_at: `sealed_at - interval '1 day'` }),
    () => chain(2, 'has the hash'),
    CHAIN,
  ],
  [
    'when it was sealed, with the seal hash',
    () => forgeSeal(2, { sealed_at: `sealed_at - interval '1 day'` }),
    () => chain(3, 'as the hash of the seal before'),
    CHAIN,
  ],
  [
    'the open positions, so that an event may come into a gap',
    (b) => editSeal(4, { open_positions: `open_positions + '{[${b.gap},${b.gap + 1n})}'` }),
    () => chain(4, 'opens positions that were sealed or empty before'),
    CHAIN,
  ],
  [
    'the open positions with the seal hash, so that an event may come into a gap',
    (b) => forgeSeal(4, { open_positions: `open_positions + '{[${b.gap},${b.gap + 1n})}'` }),
    () => chain(4, 'opens positions that were sealed or empty before'),
    CHAIN,
  ],
  [
    'the numbers, with all hashes from the first to the last',
    () =>
      `update payments.seals set seal_number = -seal_number; update payments.seals set seal_number = 1 - seal_number; ${FORGE_CHAIN}`,
    () => chain(2, 'is its first$'),
    CHAIN,
  ],
  [
    'a seal in the middle, removed, with all hashes from the first to the last',
    () =>
      `delete from payments.seals where seal_number = 2; update payments.seals set seal_number = seal_number - 1 where seal_number > 2; ${FORGE_CHAIN}`,
    () => chain(2, 'makes a tree of 1109 out of 7 and 1100 events'),
    CHAIN,
  ],
  ['who was writing', () => editSeal(4, { open_writers: `'{1/1}'` }), () => chain(4, 'has the hash'), CHAIN],
  [
    'the hash before',
    () => editSeal(3, { previous_seal_hash: `sha256('x')` }),
    () => chain(3, 'as the hash of the seal before'),
    CHAIN,
  ],
  [
    'the hash before, of the first',
    () => editSeal(1, { previous_seal_hash: `sha256('x')` }),
    () => chain(1, 'as the hash of the seal before'),
    CHAIN,
  ],
  ['the hash of the newest', () => editSeal(4, { seal_hash: `sha256('x')` }), () => chain(4, 'has the hash'), CHAIN],
  [
    'a seal in the middle, removed',
    () => 'delete from payments.seals where seal_number = 2',
    () => chain(3, 'comes after seal 1'),
    CHAIN,
  ],
  [
    'the first seal, removed',
    () => 'delete from payments.seals where seal_number = 1',
    () => chain(2, 'is its first'),
    CHAIN,
  ],
  [
    'the seals, numbered anew from 2',
    () =>
      'update payments.seals set seal_number = -seal_number; update payments.seals set seal_number = 1 - seal_number',
    () => chain(2, 'is its first'),
    CHAIN,
  ],
  [
    'two seals, swapped',
    () =>
      `update payments.seals set seal_number = -2 where seal_number = 2; update payments.seals set seal_number = 2 where seal_number = 3; update payments.seals set seal_number = 3 where seal_number = -2`,
    () => chain(2, 'as the hash of the seal before'),
    CHAIN,
  ],
  [
    'a seal added that says nothing of events',
    () =>
      `insert into payments.seals select x.* from payments.seals s cross join lateral (select s.seal_number + 1 as seal_number, s.tree_size,
         s.sealed_at, 0 as event_count, s.book_id, sha256('x') as root, s.seal_hash, s.seal_hash as previous_seal_hash, s.frontier, '{}'::int8multirange,
         s.open_positions, s.open_writers) x where s.seal_number = 4`,
    () => chain(5, 'has a frontier that does not give its root'),
    CHAIN,
  ],
  [
    'a tile',
    () => `update payments.seal_tiles set hash = sha256('x')`,
    () => /^tile 0 of book 1 is [0-9a-f]{64}, its leaves give [0-9a-f]{64}$/,
    TILES,
  ],
  ['a tile, removed', () => 'delete from payments.seal_tiles', () => /^tile 0 of book 1 is missing$/, TILES],
  [
    'a tile, numbered anew',
    () => 'update payments.seal_tiles set tile_number = 1',
    () => /^tile 0 of book 1 is missing$/,
    TILES,
  ],
  [
    'a tile added',
    () => `insert into payments.seal_tiles (tile_number, book_id, hash) values (1, 1, sha256('x'))`,
    () => /^tile 1 of book 1 stands for leaves that no seal has$/,
    TILES,
  ],
  [
    'the newest seals, removed with their events, but not their tile',
    (b) => `${removeFrom(at(b, 3, 0))}; delete from payments.seals where seal_number >= 3`,
    () => /^tile 0 of book 1 stands for leaves that no seal has$/,
    TILES,
  ],
];

/** What is found in book 2, which has no seals of its own. */
export const OTHER_SEAL_TAMPERINGS: readonly Tampering<SealedBooks>[] = [
  ['the book', () => editSeal(4, { book_id: '2' }), () => /^seal 4 of book 2 is its first, /, CHAIN],
  [
    'a tile of a book without seals',
    () => `insert into payments.seal_tiles (tile_number, book_id, hash) values (0, 2, sha256('x'))`,
    () => /^tile 0 of book 2 stands for leaves that no seal has$/,
    TILES,
  ],
];
