import type { Queryable } from '../db/pool.ts';
import { ask } from './ask.ts';
import { invalid } from './input.ts';
import type { Account } from './list-accounts.ts';

export interface FoundAccount extends Omit<Account, 'slots'> {
  readonly bookId: number;
}

/** What is left out is not asked for. */
export interface AccountSearch {
  readonly bookId?: number | undefined;
  readonly accountId?: string | undefined;
  /** Of a user or an organization. */
  readonly ownerId?: string | undefined;
  readonly type?: string | undefined;
  readonly currency?: string | undefined;
  readonly namePrefix?: string | undefined;
  readonly status?: Account['status'] | undefined;
}

interface PageOfAccounts {
  readonly limit: number;
  readonly after?: AccountPlace | undefined;
  readonly lookAt?: number;
}

/** Where a page ends: on which of the ways, and what the last account there is sorted by. */
export interface AccountPlace {
  readonly way: number;
  readonly at: readonly string[];
}

export interface AccountsFound {
  readonly accounts: readonly FoundAccount[];
  /** Undefined on the last page. */
  readonly next: AccountPlace | undefined;
  /** Whether the page ends because so many were looked at, and not because it is full. */
  readonly isCutShort: boolean;
}

/** So many accounts, or changes of accounts, a page looks at, where no index has only those that are asked for. */
export const ACCOUNTS_LOOKED_AT = 20_000;

/** A way through accounts `a` in the order of an index. */
interface Way {
  readonly from?: string;
  /** SQL of which it passes: no more than its index has beside each other. */
  readonly where: string;
  readonly order: string;
  /** What tells one account from the next in that order, by its column and type. */
  readonly keys: Readonly<Record<string, 'text' | 'bigint'>>;
  readonly isDescending?: boolean;
  /** SQL of further columns, and of what has to hold of them. */
  readonly columns?: string;
  readonly wanted?: string;
}

/**
 * One page of the accounts that are asked for, of all books that may be read. Where an id or an owner is given, theirs; else those of
 * the platform by type, currency and name, then all others, the newest first; of accounts that are frozen or closed, those that
 * became so last are first. Slots are no accounts of their own here.
 * @throws AppError DB_*
 */
export async function findAccounts(
  db: Queryable,
  search: AccountSearch,
  { limit, after, lookAt = ACCOUNTS_LOOKED_AT }: PageOfAccounts,
): Promise<AccountsFound> {
  const ways = waysOf(search);
  const found: Passed[] = [];
  for (let way = after?.way ?? 0; way < ways.length; way += 1) {
    const from = way === after?.way ? after.at : undefined;
    // One more than there is room for tells whether a page follows.
    const passed = await passAlong(db, search, {
      way: ways[way] as Way,
      from,
      limit: limit + 1 - found.length,
      lookAt,
    });
    found.push(...passed.filter(({ accountId }) => accountId !== null).map((each) => ({ ...each, way })));
    const bound = passed.find(({ accountId }) => accountId === null);
    if (found.length > limit) break;
    if (bound !== undefined) return pageOf(db, { found, next: { way, at: bound.place }, isCutShort: true });
  }
  const last = found[limit - 1];
  const next = found.length > limit && last !== undefined ? { way: last.way, at: last.place } : undefined;
  return pageOf(db, { found: found.slice(0, limit), next, isCutShort: false });
}

interface Passed {
  readonly bookId: number | null;
  /** Null: the last one that was looked at, whatever it is. */
  readonly accountId: string | null;
  readonly place: readonly string[];
  readonly way: number;
}

const BY_NAME = { 'a.type': 'text', 'a.currency': 'text', 'a.name': 'text', 'a.book_id': 'bigint' } as const;

// Accounts are opened open: whichever is not has a change that says so, and there are few.
const BY_CHANGE: Way = {
  from: `payments.account_changes c
    cross join lateral (select * from payments.accounts o where o.id = c.account_id and o.book_id = c.book_id limit 1) a`,
  where: 'true',
  order: 'c.event_position desc, c.book_id desc',
  keys: { 'c.event_position': 'bigint', 'c.book_id': 'bigint' },
  isDescending: true,
  columns: ', c.status as changed_to, c.change_seq',
  wanted: `and a.changed_to = :status and a.change_seq = (
    select l.change_seq from payments.account_changes l where l.account_id = a.id and l.book_id = a.book_id
    order by l.account_id desc, l.change_seq desc limit 1)`,
};

function waysOf({ accountId, ownerId, type, currency, status }: AccountSearch): readonly Way[] {
  if (accountId !== undefined) {
    return [{ where: 'a.id = :accountId', order: 'a.id, a.book_id', keys: { 'a.book_id': 'bigint' } }];
  }
  // Sorted by what is null, too: PostgreSQL does not see by itself that it need not be, and takes no index for the rest.
  const byName = (owner: string): Way => ({
    where: [
      owner,
      ...(type === undefined ? [] : ['a.type = :type']),
      ...(type === undefined || currency === undefined ? [] : ['a.currency = :currency']),
    ].join(' and '),
    order: 'a.organization_id, a.user_id, a.type, a.currency, a.name, a.book_id',
    keys: BY_NAME,
  });
  if (ownerId !== undefined) {
    return [
      byName('a.organization_id = :ownerId and a.user_id is null'),
      byName('a.organization_id is null and a.user_id = :ownerId'),
    ];
  }
  if (status !== undefined && status !== 'open') return [BY_CHANGE];
  return [
    byName('a.organization_id is null and a.user_id is null'),
    {
      where: '(a.organization_id is not null or a.user_id is not null)',
      order: 'a.event_position desc, a.book_id desc',
      keys: { 'a.event_position': 'bigint', 'a.book_id': 'bigint' },
      isDescending: true,
    },
  ];
}

/** What of each account is looked at where its way has others too. Each a subquery for itself: a join would read whole tables for few. */
const WANTED = {
  bookId: 'a.book_id = :bookId',
  type: 'a.type = :type',
  currency: 'a.currency = :currency',
  namePrefix: 'starts_with(a.name, :namePrefix)',
  status: '(select b.status from payments.balances b where b.account_id = a.id and b.book_id = a.book_id) = :status',
} as const;

const TYPES: Readonly<Record<keyof AccountSearch, string>> = {
  bookId: 'integer',
  accountId: 'uuid',
  ownerId: 'uuid',
  type: 'text',
  currency: 'text',
  namePrefix: 'text',
  status: 'text',
};

/** The next accounts on a way that are as they are asked for, and where the bound was reached, that place. */
function passAlong(
  db: Queryable,
  search: AccountSearch,
  { way, from, limit, lookAt }: { way: Way; from: readonly string[] | undefined; limit: number; lookAt: number },
): Promise<readonly Omit<Passed, 'way'>[]> {
  const values: unknown[] = [];
  const given = (value: unknown, type: string): string => `$${values.push(value)}::${type}`;
  const filled = (sql: string): string =>
    sql.replaceAll(/(?<!:):(\w+)/g, (_, name: keyof AccountSearch) => given(search[name], TYPES[name]));
  const wanted = Object.entries(WANTED).filter(([name]) => search[name as keyof AccountSearch] !== undefined);
  return ask<Omit<Passed, 'way'>>(
    db,
    `with looked as materialized (
       select a.book_id, a.id, a.type, a.currency, a.name,
              array[${Object.keys(way.keys).map((column) => `${column}::text`)}] as place${way.columns ?? ''}
       from ${way.from ?? 'payments.accounts a'}
       where ${filled(way.where)} ${from === undefined ? '' : `and ${afterSql(way, from, given)}`}
       order by ${way.order}
       limit ${given(lookAt, 'bigint')}
     ), found as materialized (
       select a.book_id, a.id, a.place
       from looked a
       where (select k.account_id from payments.account_slots k where k.slot_account_id = a.id and k.book_id = a.book_id) is null
         ${wanted.map(([, sql]) => `and ${filled(sql)}`).join(' ')}
         ${filled(way.wanted ?? '')}
       limit ${given(limit, 'bigint')}
     )
     select f.book_id as "bookId", f.id as "accountId", f.place from found f
     union all
     (select null, null, l.place from looked l
      where (select count(*) from found) < ${given(limit, 'bigint')}
      offset ${given(lookAt - 1, 'bigint')})`,
    values,
  );
}

const SHAPES = { text: /^[^\0]*$/s, bigint: /^\d{1,18}$/ } as const;

/** @throws AppError LEDGER_INVALID where it is no place on that way */
function afterSql(
  { keys, isDescending }: Way,
  at: readonly string[],
  given: (value: string, type: string) => string,
): string {
  const columns = Object.entries(keys);
  const isPlace = at.length === columns.length && columns.every(([, type], nth) => SHAPES[type].test(at[nth] ?? ''));
  if (!isPlace) throw invalid('There is no such place in a list of accounts. Begin with the first page.');
  const values = columns.map(([, type], nth) => given(at[nth] ?? '', type));
  return `(${columns.map(([column]) => column).join(', ')}) ${isDescending === true ? '<' : '>'} (${values.join(', ')})`;
}

async function pageOf(
  db: Queryable,
  { found, ...page }: Omit<AccountsFound, 'accounts'> & { found: readonly Passed[] },
): Promise<AccountsFound> {
  const accounts = await ask<FoundAccount>(
    db,
    `select b.book_id as "bookId", b.account_id as "accountId", b.type, b.currency, b.name, b.user_id as "userId",
            b.organization_id as "organizationId", b.balance_cents as "balanceCents", b.available_cents as "availableCents",
            b.floor_cents as "floorCents", b.ceiling_cents as "ceilingCents", c.decimal_places as "decimalPlaces", b.entries, b.status
     from unnest($1::integer[], $2::uuid[]) with ordinality as f (book_id, id, nth)
     cross join lateral (
       select * from payments.account_balances v where v.book_id = f.book_id and v.account_id = f.id offset 0
     ) b
     join ref.currencies c on c.code = b.currency
     order by f.nth`,
    [found.map(({ bookId }) => bookId), found.map(({ accountId }) => accountId)],
  );
  return { ...page, accounts };
}
