import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { assertBook } from './books.ts';

/** What a verification looks at: all books, one, or what one has that is new since a seal. */
export interface Scope {
  readonly bookId?: number;
  readonly since?: SealMark;
}

/** Where a seal left its book's log: what it covers was verified before. */
export interface SealMark {
  readonly bookId: number;
  readonly sealNumber: bigint;
  readonly sealHash: string;
  /** Events that the book had sealed by then. */
  readonly treeSize: bigint;
  /** Where events that it does not cover may be: the text of an int8multirange. */
  readonly openPositions: string;
}

/**
 * Finds a seal to go on from.
 * @throws AppError LEDGER_BOOK_UNKNOWN, SEAL_UNKNOWN
 */
export async function markOfSeal(db: Queryable, bookId: number, sealNumber: number): Promise<SealMark> {
  await assertBook(db, bookId);
  const { rows } = await db.query<SealMark>(
    `select book_id as "bookId", seal_number as "sealNumber", encode(seal_hash, 'hex') as "sealHash", tree_size as "treeSize",
            open_positions::text as "openPositions"
     from payments.seals where book_id = $1 and seal_number = $2`,
    [bookId, sealNumber],
  );
  const [mark] = rows;
  if (mark === undefined) {
    throw new AppError(
      'SEAL_UNKNOWN',
      `Book ${bookId} has no seal ${sealNumber}. See: liventix books seals --book ${bookId}`,
    );
  }
  return mark;
}

/**
 * SQL of the rows that a verification looks at, each to stand behind FROM with a name after it. Since a seal, these are the
 * rows of events that it does not cover, found by their position; and what such events touched, with all of its history where
 * that is short.
 */
export interface Rows {
  /** Whether no row of these books is left out. */
  readonly areAll: boolean;
  readonly events: string;
  /** Those of the events that the index `events_rare` has: all but plain postings. */
  readonly rareEvents: string;
  readonly entries: string;
  readonly accounts: string;
  readonly balances: string;
  /** The accounts that must have a balance: book_id, account_id. */
  readonly touched: string;
  readonly accountChanges: string;
  readonly holdEntries: string;
  readonly holds: string;
  /** Those that placed these holds. */
  readonly holdEvents: string;
  readonly reversals: string;
  readonly periods: string;
  /** All of them, new or not: an account has few, and they have its state. */
  readonly accountSlots: string;
  /** With the one that is believed, `afterSeal`, from which the others follow. */
  readonly seals: string;
  readonly sealTiles: string;
  readonly books: string;
  /** Of the rare events, those that these books are opened by are here, new or not. */
  readonly bookEvents: string;
  /** The whole histories that these rows belong to. */
  readonly accountHistories: string;
  readonly holdHistories: string;
  readonly reversalHistories: string;
  /** How accounts stood before: book_id, account_id, seq, cents. No row where nothing came before. */
  readonly standings: string;
  /** 0 where none is believed. */
  readonly afterSeal: bigint;
}

const RARE = `(type <> 'transaction.posted' or payload ?| array['hold_step', 'reversal_step'])`;

export function rowsOf({ bookId, since }: Scope): Rows {
  return since === undefined ? allRows(bookId) : newRows(since);
}

function allRows(bookId: number | undefined): Rows {
  const table = (name: string) =>
    bookId === undefined ? `payments.${name}` : `(select * from payments.${name} where book_id = ${bookId})`;
  const rareEvents = `(select * from ${table('events')} e where ${RARE})`;
  return {
    areAll: true,
    events: table('events'),
    rareEvents,
    entries: table('entries'),
    accounts: table('accounts'),
    balances: table('balances'),
    touched: `(select book_id, id as account_id from ${table('accounts')} a)`,
    accountChanges: table('account_changes'),
    holdEntries: table('hold_entries'),
    holds: table('holds'),
    holdEvents: `(select * from ${rareEvents} e where e.type = 'hold.placed')`,
    reversals: table('reversals'),
    periods: table('periods'),
    accountSlots: table('account_slots'),
    seals: table('seals'),
    sealTiles: table('seal_tiles'),
    books: table('books'),
    bookEvents: rareEvents,
    accountHistories: table('account_changes'),
    holdHistories: table('hold_entries'),
    reversalHistories: table('reversals'),
    standings:
      '(select null::integer as book_id, null::uuid as account_id, null::bigint as seq, null::bigint as cents limit 0)',
    afterSeal: 0n,
  };
}

function newRows({ bookId, sealNumber, treeSize, openPositions }: SealMark): Rows {
  const { gaps, end } = rangesOf(openPositions);
  const rows = (table: string, condition: string) =>
    `select x.* from payments.${table} x where x.book_id = ${bookId} and ${condition}`;
  const of = (table: string, condition: string) => `(${rows(table, condition)})`;
  // The end, where nearly all is, has its bound spelt out, so that PostgreSQL can tell how much that is: otherwise it prepares for
  // millions; whatever somebody put beyond all sense is there too. The gaps come range by range: offset 0 keeps each a walk along an
  // index.
  const within = (table: string, bounds: (first: string, past?: string) => string) => {
    const inGaps = `
      select n.* from unnest('${gaps}'::int8multirange * '{(,${MAX_POSITION})}') as r
      cross join lateral (${rows(table, bounds('lower(r)', 'upper(r)'))} offset 0) n`;
    return `(${[rows(table, bounds(end)), ...(gaps === NO_GAPS ? [] : [inGaps])].join(' union all ')})`;
  };
  const at = (table: string, position: string) => within(table, (first, past) => from(`x.${position}`, first, past));

  const events = at('events', 'position');
  // From one id before a first leg's: what somebody put there is no leg either.
  const entries = within('entries', (first, past) => from('x.id', idsFrom(first), past && idsFrom(past)));
  const rareEvents = `(select * from ${events} e where ${RARE})`;
  const accounts = at('accounts', 'event_position');
  const accountChanges = at('account_changes', 'event_position');
  const holdEntries = at('hold_entries', 'event_position');
  const reversals = at('reversals', 'event_position');
  const touched = `(
    select account_id from ${entries} e union select account_id from ${accountChanges} c
    union select account_id from ${holdEntries} h union select id from ${accounts} a)`;
  return {
    areAll: false,
    events,
    rareEvents,
    entries,
    accounts,
    balances: of('balances', `x.account_id in (select account_id from ${touched} t)`),
    touched: `(select ${bookId} as book_id, t.account_id from ${touched} t)`,
    accountChanges,
    holdEntries,
    holds: `(
      select * from ${at('holds', 'event_position')} h
      union
      ${rows('holds', `x.hold_id in (select hold_id from ${holdEntries} h)`)})`,
    holdEvents: of('events', `x.type = 'hold.placed' and x.event_id in (select hold_id from ${holdEntries} h)`),
    reversals,
    periods: at('periods', 'event_position'),
    accountSlots: of('account_slots', 'true'),
    seals: of('seals', `x.seal_number >= ${sealNumber}`),
    sealTiles: of('seal_tiles', `x.tile_number >= ${treeSize / LEAVES_A_TILE}`),
    books: of('books', 'true'),
    bookEvents: `(
      select * from ${rareEvents} e
      union all
      ${rows('events', `x.event_id = payments.named_uuid('book:${bookId}')`)})`,
    accountHistories: of('account_changes', `x.account_id in (select account_id from ${accountChanges} c)`),
    holdHistories: of('hold_entries', `x.account_id in (select account_id from ${holdEntries} h)`),
    reversalHistories: of('reversals', `x.reverses in (select reverses from ${reversals} r)`),
    standings: `(
      select ${bookId} as book_id, t.account_id, n.account_seq as seq, n.balance_after_cents as cents
      from ${touched} t
      left join (select account_id, min(id) as id from ${entries} e group by account_id) f using (account_id)
      cross join lateral (
        select x.account_seq, x.balance_after_cents from payments.entries x
        where x.book_id = ${bookId} and x.account_id = t.account_id and x.id < coalesce(f.id, ${MAX_INT8})
        order by x.account_seq desc
        limit 1
      ) n)`,
    afterSeal: sealNumber,
  };
}

const from = (value: string, first: string, past?: string) =>
  `${value} >= ${first}${past === undefined ? '' : ` and ${value} < ${past}`}`;
const idsFrom = (position: string) => `${position} * 1024::bigint`;

const LEAVES_A_TILE = 1024n;
const MAX_INT8 = '9223372036854775807';
/** Above it, an entry's id would not be one. */
const MAX_POSITION = '9007199254740991';

const NO_GAPS = '{}';

/** Of the text of an int8multirange: its last range, which has no end, by where it begins; and the ones before. */
function rangesOf(openPositions: string): { gaps: string; end: string } {
  const ranges = [...openPositions.matchAll(/\[(\d+),\d*\)/g)];
  const last = ranges.pop();
  const end = BigInt(last?.[1] ?? MAX_POSITION);
  return {
    gaps: `{${ranges.map(([range]) => range).join(',')}}`,
    end: end < BigInt(MAX_POSITION) ? `${end}` : MAX_POSITION,
  };
}
