import { BOOK_TABLES, CONSTRAINTS, UNIQUE_INDEXES } from '../../../src/ledger/constraints.ts';
import { GUARD_FUNCTIONS, GUARDS, type Guard } from '../../../src/ledger/guards.ts';
import type { Tampering } from './tampering.ts';

export const IN_PLACE = 'every guard of the ledger is in place';

const WRONGS: readonly [how: string, sql: (guard: Guard) => string, state: string][] = [
  ['disabled', ({ table, trigger }) => `alter table payments.${table} disable trigger ${trigger}`, 'is disabled'],
  [
    'enabled for ordinary sessions only',
    ({ table, trigger }) => `alter table payments.${table} enable trigger ${trigger}`,
    'is not enabled always',
  ],
  [
    'enabled for replicas only',
    ({ table, trigger }) => `alter table payments.${table} enable replica trigger ${trigger}`,
    'is not enabled always',
  ],
  ['dropped', ({ table, trigger }) => `drop trigger ${trigger} on payments.${table}`, 'is missing'],
  [
    'replaced by one that does nothing',
    ({ table, trigger }) =>
      `drop trigger ${trigger} on payments.${table}; create trigger ${trigger} before insert on payments.${table}
         for each row when (false) execute function payments.refuse_change();
       alter table payments.${table} enable always trigger ${trigger}`,
    'was replaced by another',
  ],
];

interface GuardTampering {
  readonly guard: string;
  readonly how: string;
  readonly sql: string;
  readonly state: string;
}

const TRIGGER_TAMPERINGS = GUARDS.flatMap((guard) =>
  WRONGS.map(([how, sql, state]) => ({
    guard: `trigger ${guard.trigger} on payments.${guard.table}`,
    how,
    sql: sql(guard),
    state,
  })),
);

const CONSTRAINT_TAMPERINGS = CONSTRAINTS.map(({ table, name }) => ({
  guard: `constraint ${name} on payments.${table}`,
  how: 'dropped, with the foreign keys to it',
  sql: `alter table payments.${table} drop constraint ${name} cascade`,
  state: 'is missing',
}));

const INDEX_TAMPERINGS = UNIQUE_INDEXES.map(({ table, name }) => ({
  guard: `index ${name} on payments.${table}`,
  how: 'dropped',
  sql: `drop index payments.${name}`,
  state: 'is missing',
}));

const RLS_TAMPERINGS = BOOK_TABLES.map((table) => ({
  guard: `policy of payments.${table}`,
  how: 'switched off',
  sql: `alter table payments.${table} disable row level security`,
  state: 'is off',
}));

const ANOTHER_POLICY = 'is not the one that shows the books granted';
const POLICY_TAMPERINGS = [
  ['altered', 'alter policy books_granted on payments.entries using (true)'],
  ['dropped', 'drop policy books_granted on payments.entries'],
  ['joined by another', 'create policy "All of it" on payments.entries for select using (true)'],
  [
    'asking a function of the same name from another schema',
    `create schema elsewhere; create function elsewhere.books_of(name) returns integer[] language sql return '{1,2}'::integer[];
     alter policy books_granted on payments.entries using (book_id = any ((select elsewhere.books_of(current_user))::integer[]));
     set local search_path = elsewhere`,
  ],
].map(([how = '', sql = '']) => ({ guard: 'policy of payments.entries', how, sql, state: ANOTHER_POLICY }));

const ANOTHER_CONSTRAINT = 'is another one, or is not enforced';
const OTHER_TAMPERINGS = [
  {
    guard: 'constraint events_event_id_key on payments.events',
    how: 'over one column more',
    sql: `alter table payments.events drop constraint events_event_id_key;
          alter table payments.events add constraint events_event_id_key unique (event_id, book_id, position)`,
    state: ANOTHER_CONSTRAINT,
  },
  {
    guard: 'constraint entries_amount_not_zero on payments.entries',
    how: 'one that lets everything in',
    sql: `alter table payments.entries drop constraint entries_amount_not_zero;
          alter table payments.entries add constraint entries_amount_not_zero check (amount_cents is not null)`,
    state: ANOTHER_CONSTRAINT,
  },
  {
    guard: 'constraint accounts_book_id_fkey on payments.accounts',
    how: 'to a table of the same name in another schema',
    sql: `create schema elsewhere; create table elsewhere.books as select * from payments.books; alter table elsewhere.books add primary key (book_id);
          alter table payments.accounts drop constraint accounts_book_id_fkey;
          alter table payments.accounts add constraint accounts_book_id_fkey foreign key (book_id) references elsewhere.books;
          set local search_path = elsewhere`,
    state: ANOTHER_CONSTRAINT,
  },
  {
    guard: 'index events_idempotency_key on payments.events',
    how: 'not unique',
    sql: `drop index payments.events_idempotency_key;
          create index events_idempotency_key on payments.events (idempotency_key, idempotency_scope, book_id) where idempotency_key is not null`,
    state: 'is not unique, not valid or over something else',
  },
];

/** Each trigger in each way in which it may not be in place, each constraint, unique index and policy; nothing is disguised. */
export const GUARD_TAMPERINGS: readonly GuardTampering[] = [
  ...TRIGGER_TAMPERINGS,
  ...CONSTRAINT_TAMPERINGS,
  ...INDEX_TAMPERINGS,
  ...RLS_TAMPERINGS,
  ...POLICY_TAMPERINGS,
  ...OTHER_TAMPERINGS,
];

const LEAF_ARGUMENTS = `p_book_id integer, p_position bigint, p_event_id uuid, p_effective_at timestamptz, p_recorded_at timestamptz,
  p_type text, p_created_by text, p_scope text, p_key text, p_request_hash bytea, p_payload jsonb`;

const BODIES: readonly [name: keyof typeof GUARD_FUNCTIONS, signature: string][] = [
  ['refuse_change', '() returns trigger language plpgsql as $$ begin return null; end $$'],
  ['check_new_entries', '() returns trigger language plpgsql as $$ begin return null; end $$'],
  ['check_changed_balances', '() returns trigger language plpgsql as $$ begin return null; end $$'],
  ['raise_code', '(p_code text, p_message text) returns void language plpgsql as $$ begin end $$'],
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
  [
    'event_leaf_hash',
    `(${LEAF_ARGUMENTS}) returns bytea language sql stable return (
       select e.leaf_hash from payments.events e where e.position = p_position and e.book_id = p_book_id)`,
  ],
  ['chain_hash', `(bigint) (sfunc = int8larger, stype = bigint, initcond = '0')`],
  ['chain_hash', `(bigint) (sfunc = hashint8extended, stype = bigint, initcond = '1')`],
  ['try_amount', '(p_text text) returns bigint language sql immutable return 0::bigint'],
  [
    'certificate_text',
    `(p_certificate jsonb) returns text language sql stable as $$ select p_certificate ->> 'version' $$`,
  ],
];

const SETTINGS: readonly [name: keyof typeof GUARD_FUNCTIONS, signature: string, setting: string][] = [
  ['check_new_entries', '()', `set search_path = pg_temp, payments`],
  ['check_changed_balances', '()', 'security definer'],
  ['certificate_text', '(jsonb)', 'strict'],
  ['seal_events', '(integer, integer)', 'reset search_path'],
  ['books_of', '(name)', 'immutable'],
];

const notInPlace = (name: keyof typeof GUARD_FUNCTIONS) => () =>
  `function payments.${name} was given another body, other settings or another owner; put it back: run its definition in migrations/${GUARD_FUNCTIONS[name].migration}.sql as "create or replace"`;

/** Functions of the guards that were given another body, or run under other settings. */
export const FUNCTION_TAMPERINGS: readonly Tampering<unknown>[] = [
  ...BODIES.map(
    ([name, definition]): Tampering<unknown> => [
      name,
      () => `create or replace ${name === 'chain_hash' ? 'aggregate' : 'function'} payments.${name}${definition}`,
      notInPlace(name),
      IN_PLACE,
    ],
  ),
  ...SETTINGS.map(
    ([name, signature, setting]): Tampering<unknown> => [
      `${name}: ${setting}`,
      () => `alter function payments.${name}${signature} ${setting}`,
      notInPlace(name),
      IN_PLACE,
    ],
  ),
  [
    'seal_events: another owner',
    () => `create role stranger; grant stranger to current_user; grant create on schema payments to stranger;
           alter function payments.seal_events(integer, integer) owner to stranger`,
    notInPlace('seal_events'),
    IN_PLACE,
  ],
];
