-- The ledger's tables. payments.events is the log and the truth; accounts, entries and balances are projections of it,
-- written in the same database transaction by payments.project_events and by nothing else.
-- book_id comes first in every key: each book sums to zero by itself and can live on a server of its own.

create schema if not exists payments;

create table payments.books (
  book_id integer constraint books_pkey primary key,
  name text not null constraint books_name_key unique,
  created_at timestamptz not null default clock_timestamp()
);
insert into payments.books (book_id, name) values (1, 'main');

create table payments.account_types (
  type text constraint account_types_pkey primary key,
  normal_side text not null constraint account_types_normal_side_values check (normal_side in ('debit', 'credit')),
  description text not null
);

comment on table payments.account_types is
  'The chart of accounts. Entries are signed, debit positive and credit negative, whatever the type; the normal side only says which sign reads as a positive balance.';

-- The first seven are the plan's. The others have no place among them: what the platform gives away is neither fee nor
-- revenue, a hand''s correction is not trade, and what the old history cannot explain must stay visible by itself.
insert into payments.account_types (type, normal_side, description) values
  ('cash', 'credit', 'what a holder has with us: a wallet, our debt to them'),
  ('escrow', 'credit', 'money held for a deal until it is released or refunded'),
  ('receivable', 'debit', 'what others owe us, the card processor above all'),
  ('payable', 'credit', 'what we owe others, such as an organiser''s share of ticket sales'),
  ('revenue', 'credit', 'what we earned'),
  ('fees', 'debit', 'what the processor keeps'),
  ('taxes', 'credit', 'taxes collected and owed'),
  ('contra_revenue', 'debit', 'credits granted beyond what was paid for them'),
  ('adjustments', 'debit', 'corrections made by an administrator'),
  ('suspense', 'debit', 'what the old history cannot explain, one account per cause');

create sequence payments.events_position_seq as bigint;

create table payments.events (
  position bigint not null,
  recorded_at timestamptz not null,
  effective_at timestamptz not null,
  -- For reading below the snapshot horizon; means nothing on another server, so the leaf hash leaves it out.
  xid xid8 not null default pg_current_xact_id(),
  event_id uuid not null,
  -- No foreign key, which would look the book up for every event: accounts have one, and events need accounts.
  book_id integer not null,
  type text not null constraint events_type_values check (type in ('account.opened', 'transaction.posted', 'note.recorded')),
  created_by text not null,
  idempotency_scope text,
  idempotency_key text,
  request_hash bytea,
  payload jsonb not null,
  leaf_hash bytea not null,
  constraint events_pkey primary key (book_id, position),
  constraint events_event_id_key unique (book_id, event_id),
  constraint events_idempotency_whole check ((idempotency_scope is null) = (idempotency_key is null))
);
create unique index events_idempotency_key on payments.events (book_id, idempotency_scope, idempotency_key)
  where idempotency_key is not null;

comment on table payments.events is 'The append-only log. Replaying it in order of position rebuilds accounts, entries and balances exactly.';
comment on column payments.events.event_id is 'The id of what the event brought about: the account, or the transaction.';
comment on column payments.events.effective_at is 'When it happened in the world; recorded_at is when we wrote it down.';
comment on column payments.events.request_hash is 'SHA-256 of the request as it came; null where the event was imported, not asked for.';
comment on column payments.events.leaf_hash is 'payments.event_leaf_hash over every column but xid.';

create table payments.accounts (
  id uuid not null,
  created_at timestamptz not null,
  event_position bigint not null,
  organization_id uuid,
  user_id uuid,
  book_id integer not null constraint accounts_book_id_fkey references payments.books,
  type text not null constraint accounts_type_fkey references payments.account_types,
  currency text not null constraint accounts_currency_fkey references ref.currencies,
  name text not null constraint accounts_name_format check (name ~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'),
  constraint accounts_pkey primary key (book_id, id),
  constraint accounts_one_owner check (organization_id is null or user_id is null),
  constraint accounts_natural_key unique nulls not distinct (book_id, organization_id, user_id, type, currency, name)
);
create index accounts_user_id on payments.accounts (book_id, user_id) where user_id is not null;

comment on table payments.accounts is 'Owned by an organization, by a user, or by the platform (neither). Owners are ids without a foreign key: their tables move between schemas.';

-- Wide columns first by alignment, so that a row carries no padding.
create table payments.entries (
  id bigint not null,
  event_position bigint not null,
  account_seq bigint not null,
  amount_cents bigint not null constraint entries_amount_not_zero check (amount_cents <> 0),
  balance_after_cents bigint not null,
  effective_at timestamptz not null,
  created_at timestamptz not null,
  account_id uuid not null,
  transaction_id uuid not null,
  book_id integer not null,
  currency text not null,
  created_by text not null,
  reference_type text,
  reference_id text,
  description text,
  metadata jsonb not null,
  constraint entries_pkey primary key (book_id, id),
  constraint entries_account_seq_key unique (book_id, account_id, account_seq)
);
create index entries_transaction_id on payments.entries (book_id, transaction_id);
create index entries_reference on payments.entries (book_id, reference_type, reference_id) where reference_id is not null;

comment on column payments.entries.id is 'event_position * 1024 + the leg''s number, so that a replay gives every entry the id it had.';
comment on column payments.entries.amount_cents is 'Signed minor units of the currency: debit positive, credit negative.';
comment on column payments.entries.account_seq is 'Order within the account, from 1, without gaps: history is ordered by it, never by a timestamp.';
comment on column payments.entries.balance_after_cents is 'Sum of the account''s amounts up to and with this entry.';

create table payments.balances (
  balance_cents bigint not null default 0,
  last_seq bigint not null default 0,
  account_id uuid not null,
  book_id integer not null,
  constraint balances_pkey primary key (book_id, account_id)
) with (fillfactor = 50);

comment on table payments.balances is 'The sum of each account''s entries, kept for speed; posting locks these rows. Signed like entries.';

-- What others read: an account with its balance in the sign its holder expects.
create view payments.account_balances with (security_invoker = true) as
select a.book_id, a.id as account_id, a.type, a.currency, a.name, a.user_id, a.organization_id,
       case t.normal_side when 'debit' then b.balance_cents else -b.balance_cents end as balance_cents,
       b.last_seq as entries
from payments.accounts a
join payments.account_types t using (type)
join payments.balances b on (b.book_id, b.account_id) = (a.book_id, a.id);

comment on view payments.account_balances is 'balance_cents is positive on the account type''s normal side.';
