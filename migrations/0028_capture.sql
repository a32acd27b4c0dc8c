-- What old code does to the wallets while they are replayed, captured as it happens, and how it comes into the log.
--
-- A capture has a horizon: rows written before it are read from the tables, in bulk; what was written from it on is brought in from
-- here, in the order in which it happened. Which of the two it is, the transaction id that wrote the row decides, and the row of the
-- capture has the same one: nothing is missed, and nothing taken twice.

-- Raises a code of the replay. Parameters: the code, as in docs/errors.md, and a message.
create function replay.raise_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEGACY_TRUNCATE_REFUSED' then 'LV032'
      when 'LEGACY_WALLET_FIXED' then 'LV033'
      when 'MIRROR_OVERFLOW' then 'LV034'
    end;
end $$;

-- ------------------------------------------------------------------------------------------------ what a row is

-- What the replay reads of a row of the legacy wallets: every column that is booked or tells how to book it, and no free text.
create type replay.row_image as (
  id uuid,
  wallet_id uuid,
  created_at timestamptz,
  delta bigint,
  type text,
  reference_type text,
  -- An id as PostgreSQL writes it, where it is one.
  reference_id text,
  -- Scope and key under which the log takes it once; without a scope, another row has the key.
  key_scope text,
  key text,
  usd_cents bigint,
  invoice_id uuid
);

-- A text as it is, or its hash: anybody could write it, and beyond some 2,600 bytes no index takes it. One that looks like a hash is
-- hashed too, so that nobody can write the hash of another's.
create function replay.bounded(p_text text) returns text
language plpgsql immutable parallel safe strict as $$
begin
  if octet_length(p_text) <= 500 and p_text not like 'sha256:%' then
    return p_text;
  end if;
  return 'sha256:' || encode(sha256(convert_to(p_text, 'UTF8')), 'hex');
end $$;

-- The image of a row of wallet_transactions, whatever schema that is in.
create function replay.user_row_image(t record) returns replay.row_image
language plpgsql stable as $$
declare
  v_reference uuid := payments.try_uuid(t.reference_id);
begin
  return row(t.id, t.wallet_id, t.created_at, t.credits_delta, t.type, t.reference_type,
             coalesce(v_reference::text, replay.bounded(t.reference_id)),
             case when t.idempotency_key is not null then 'wallet_transactions' end, replay.bounded(t.idempotency_key),
             t.usd_cents, v_reference)::replay.row_image;
end $$;

-- The image of a row of org_wallet_transactions. The key of a spend is the application's, which nothing there keeps unique.
create function replay.org_row_image(t record) returns replay.row_image
language plpgsql stable as $$
declare
  v_spend_key text := case when t.transaction_type = 'spend' then t.metadata ->> 'idempotency_key' end;
begin
  return row(t.id, t.wallet_id, t.created_at, t.credits_delta, t.transaction_type, t.reference_type,
             coalesce(t.invoice_id, t.reference_id)::text,
             case when v_spend_key is not null then 'org_wallet_transactions:spend'
                  when t.stripe_event_id is not null then 'org_wallet_transactions' end,
             replay.bounded(coalesce(t.wallet_id || ':' || v_spend_key, t.stripe_event_id)),
             null, t.invoice_id)::replay.row_image;
end $$;

-- The platform's accounts that the replay books on: those of the flows, and one of type suspense for each cause.
create function replay.chart() returns table (type text, name text)
language sql immutable parallel safe as $$
  values
    ('receivable', 'clearing'),
    ('revenue', 'ad_campaigns'),
    ('contra_revenue', 'promotions'),
    ('adjustments', 'administrators'),
    -- Found in a row
    ('suspense', 'duplicate_credit'),
    ('suspense', 'cumulative_refund'),
    ('suspense', 'unreferenced_credit'),
    ('suspense', 'orphan'),
    ('suspense', 'wrong_sign'),
    ('suspense', 'duplicate_spend'),
    -- Found in a row that had been booked already
    ('suspense', 'changed_row'),
    ('suspense', 'deleted_row'),
    -- Found in a balance
    ('suspense', 'opening_balance'),
    ('suspense', 'lost_update'),
    ('suspense', 'balance_without_row'),
    ('suspense', 'unexplained')
$$;

create function replay.platform_account_id(p_book_id integer, p_type text, p_name text) returns uuid
language sql immutable parallel safe
return payments.account_id(p_book_id, p_type, 'USD', p_name, null, null);

-- The accounts of the flows, worked out once for many rows.
create type replay.flow_accounts as (clearing uuid, ad_campaigns uuid, promotions uuid, administrators uuid);
create function replay.flow_accounts(p_book_id integer) returns replay.flow_accounts
language sql immutable parallel safe
return row(
  replay.platform_account_id(p_book_id, 'receivable', 'clearing'),
  replay.platform_account_id(p_book_id, 'revenue', 'ad_campaigns'),
  replay.platform_account_id(p_book_id, 'contra_revenue', 'promotions'),
  replay.platform_account_id(p_book_id, 'adjustments', 'administrators'))::replay.flow_accounts;

create function replay.platform_account_ids(p_book_id integer) returns uuid[]
language sql immutable parallel safe
return array(select replay.platform_account_id(p_book_id, c.type, c.name) from replay.chart() c);

create function replay.entry(p_account_id uuid, p_cents bigint) returns jsonb
language sql stable parallel safe
return jsonb_build_object('account_id', p_account_id, 'amount_cents', p_cents, 'currency', 'USD');

-- The id of the event that a version of a row becomes; its first is 1.
create function replay.row_event_id(p_source text, p_id uuid, p_version integer) returns uuid
language sql immutable parallel safe
return payments.named_uuid(p_source || ':' || p_id || ':' || p_version);

-- The event that a row becomes, by the flows of the platform (1 credit = 1 US cent):
--
--   purchase    Dr clearing paid, promotions (credits - paid)   Cr wallet credits
--   refund      Dr wallet                                       Cr clearing
--   spend       Dr wallet                                       Cr ad_campaigns (revenue)
--   adjustment  Dr administrators                               Cr wallet, or the reverse
--   promo       Dr promotions, Cr wallet; taken back: Dr wallet, Cr ad_campaigns
--
-- What these do not explain is booked as it was, against the suspense account of its cause. Nothing is booked for zero: a row of
-- zero credits and one whose wallet is not there are notes. Parameters: the row; its holder's account; its cause, null where the
-- flows explain it; the part of it that they explain; what was paid, for a purchase; the instant that the book is open since, to
-- which an older row's effective date is moved, its own kept in the metadata; and the accounts of the flows.
create function replay.row_event(
  p_book_id integer, p_source text, p_row replay.row_image, p_account_id uuid, p_cause text, p_explained bigint, p_paid bigint,
  p_open_since timestamptz, p_flows replay.flow_accounts
) returns payments.new_event
language plpgsql stable as $$
declare
  v_event_id constant uuid := replay.row_event_id(p_source, p_row.id, 1);
  v_wallet constant jsonb := replay.entry(p_account_id, -p_row.delta);
  v_legacy jsonb := jsonb_build_object(
    'table', p_source, 'id', p_row.id, 'type', p_row.type, 'reference_type', p_row.reference_type);
  v_metadata jsonb;
  -- Null, which is when it is recorded, for a row without a time.
  v_effective_at constant timestamptz := case when p_row.created_at is not null then greatest(p_row.created_at, p_open_since) end;
  v_has_key constant boolean := p_row.key_scope is not null and p_cause is distinct from 'duplicate_spend';
  v_settled bigint := p_explained;
  v_flow uuid;
  v_entries jsonb := '[]';
begin
  if p_row.created_at < p_open_since then
    v_legacy := v_legacy || jsonb_build_object('created_at', p_row.created_at);
  end if;
  -- Whoever came first under a key has it in the log; of the others it is kept here.
  if p_row.key is not null and not v_has_key then
    v_legacy := v_legacy || jsonb_build_object('key', p_row.key);
  end if;
  v_metadata := case when p_cause is null then jsonb_build_object('legacy', v_legacy)
                     else jsonb_build_object('cause', p_cause, 'legacy', v_legacy) end;

  if p_row.delta = 0 or p_account_id is null then
    return row('note.recorded', v_event_id, v_effective_at, null, null, null, jsonb_build_object(
      'note', case when p_account_id is null then 'orphan' else 'zero_row' end, 'metadata', v_metadata))::payments.new_event;
  end if;

  v_flow := case p_row.type
    when 'purchase' then p_flows.clearing
    when 'refund' then p_flows.clearing
    when 'spend' then p_flows.ad_campaigns
    when 'adjustment' then p_flows.administrators
    when 'promo' then case when p_explained > 0 then p_flows.promotions else p_flows.ad_campaigns end
  end;
  if p_row.type = 'purchase' and p_cause is null then
    v_settled := coalesce(p_paid, p_explained);
  end if;
  if v_settled = p_row.delta then
    -- Nearly every row.
    v_entries := jsonb_build_array(replay.entry(v_flow, v_settled), v_wallet);
  else
    if v_settled <> 0 then
      v_entries := jsonb_build_array(replay.entry(v_flow, v_settled));
    end if;
    v_entries := v_entries || replay.entry(
      case when p_cause is null then p_flows.promotions else replay.platform_account_id(p_book_id, 'suspense', p_cause) end,
      p_row.delta - v_settled) || v_wallet;
  end if;
  return row('transaction.posted', v_event_id, v_effective_at,
    case when v_has_key then p_row.key_scope end, case when v_has_key then p_row.key end, null, jsonb_build_object(
      'reference_type', case p_row.type
        when 'purchase' then 'credit_purchase' when 'refund' then 'refund' when 'spend' then 'campaign_spend'
        when 'adjustment' then 'adjustment' when 'promo' then 'adjustment' else p_row.reference_type end,
      'reference_id', p_row.reference_id,
      'metadata', v_metadata,
      'entries', v_entries))::payments.new_event;
end $$;

-- -------------------------------------------------------------------------------------------------- the capture

create table replay.capture (
  only_one boolean not null default true constraint capture_only_one check (only_one),
  id bigint generated always as identity,
  book_id integer not null constraint capture_book_id_fkey references payments.books,
  horizon xid8,
  triggers text[] not null,
  new_wallets text not null default 'legacy' constraint capture_new_wallets_values check (new_wallets in ('legacy', 'ledger')),
  installed_at timestamptz not null default clock_timestamp(),
  constraint capture_pkey primary key (only_one)
);

comment on table replay.capture is 'The capture that is on. The old tables have one set of triggers, so it is for one book.';
comment on column replay.capture.horizon is 'Transactions from this one on are captured, and no older one was still open when a survey began; null until its transaction is known.';
comment on column replay.capture.new_wallets is 'The mode of a wallet that is made from now on.';
comment on column replay.capture.triggers is 'Row and version of each trigger in pg_trigger: where one was dropped, disabled or made anew since, they differ.';

create table replay.captured_rows (
  id bigint generated always as identity,
  xid xid8 not null default pg_current_xact_id(),
  captured_at timestamptz not null default clock_timestamp(),
  source text not null,
  operation text not null constraint captured_rows_operation_values check (operation in ('insert', 'update', 'delete')),
  wallet_id uuid not null,
  old replay.row_image,
  new replay.row_image,
  constraint captured_rows_pkey primary key (id)
);
create index captured_rows_wallet on replay.captured_rows (wallet_id, id);

comment on table replay.captured_rows is 'Changes to rows that are not in the log yet. What brings them there deletes them, in one transaction; changes to one row are in the order of their ids.';

create table replay.captured_wallets (
  id bigint generated always as identity,
  xid xid8 not null default pg_current_xact_id(),
  captured_at timestamptz not null default clock_timestamp(),
  source text not null,
  operation text not null constraint captured_wallets_operation_values check (operation in ('insert', 'update', 'delete')),
  wallet_id uuid not null,
  old_owner_id uuid,
  new_owner_id uuid,
  old_balance bigint,
  new_balance bigint,
  constraint captured_wallets_pkey primary key (id)
);
create index captured_wallets_wallet on replay.captured_wallets (wallet_id, id);

comment on table replay.captured_wallets is 'Wallets that were made, removed, or whose balance moved, and whose difference has not been looked at since.';

create table replay.wallets (
  wallet_id uuid not null,
  source text not null,
  owner_id uuid not null,
  account_id uuid not null,
  mode text not null default 'legacy' constraint wallets_mode_values check (mode in ('legacy', 'ledger')),
  book_id integer not null constraint wallets_book_id_fkey references payments.books,
  constraint wallets_pkey primary key (wallet_id, source, book_id)
);
create index wallets_account on replay.wallets (account_id, book_id);

comment on table replay.wallets is 'The account of each legacy wallet, kept when the wallet is gone.';
comment on column replay.wallets.mode is 'Whose word counts: legacy, the old tables'', which the log follows; ledger, the log''s, which the old tables mirror. Who writes to either holds a share lock on the row until it commits.';

create table replay.unreconciled (
  wallet_id uuid not null,
  source text not null,
  changed_at timestamptz not null,
  book_id integer not null constraint unreconciled_book_id_fkey references payments.books,
  constraint unreconciled_pkey primary key (wallet_id, source, book_id)
);

comment on table replay.unreconciled is 'Wallets of which something changed since their difference was looked at.';

create table replay.drift (
  wallet_id uuid not null,
  source text not null,
  cause text not null,
  cents bigint not null,
  book_id integer not null constraint drift_book_id_fkey references payments.books,
  constraint drift_pkey primary key (wallet_id, source, cause, book_id)
);

comment on table replay.drift is 'What was posted between a wallet and suspense, by cause: what its balance is beyond the sum of its rows.';

-- What an earlier version posted.
insert into replay.drift (wallet_id, source, cause, cents, book_id)
select payments.try_uuid(s.metadata ->> 'wallet_id'),
       case when w.user_id is not null then 'wallet_transactions' else 'org_wallet_transactions' end,
       a.name, sum(s.amount_cents), s.book_id
from payments.accounts a
join payments.entries s on s.book_id = a.book_id and s.account_id = a.id and s.metadata ? 'legacy_balance_cents'
join payments.entries e on e.book_id = s.book_id and e.transaction_id = s.transaction_id and e.account_id <> s.account_id
join payments.accounts w on w.book_id = e.book_id and w.id = e.account_id
where a.type = 'suspense' and payments.try_uuid(s.metadata ->> 'wallet_id') is not null
  -- Of a request: somebody else's.
  and (select v.request_hash from payments.events v where v.book_id = s.book_id and v.position = s.event_position) is null
group by 1, 2, 3, 5;

create table replay.changed_rows (
  legacy_id uuid not null,
  source text not null,
  version integer not null,
  image replay.row_image,
  book_id integer not null constraint changed_rows_book_id_fkey references payments.books,
  constraint changed_rows_pkey primary key (legacy_id, source, book_id)
);

comment on table replay.changed_rows is 'Rows that were corrected after they had been booked: the number of the last event, and the row as that left it, null where it was deleted.';

alter table replay.progress add capture_id bigint, add surveyed_at timestamptz, add read_at timestamptz, add retired_at timestamptz, drop survey;
drop function replay.take_turn(integer, integer, text, timestamptz, uuid, pg_snapshot);

comment on column replay.progress.capture_id is 'The capture whose horizon the rows were read up to: under another one, they are read again.';
comment on column replay.progress.read_at is 'When the last row of before the horizon was read; from then on there is only what is captured.';

create table replay.mirrored_rows (
  legacy_id uuid not null,
  source text not null,
  event_id uuid not null,
  account_id uuid not null,
  book_id integer not null constraint mirrored_rows_book_id_fkey references payments.books,
  constraint mirrored_rows_pkey primary key (legacy_id, source, book_id),
  constraint mirrored_rows_event_key unique (event_id, account_id, book_id)
);

comment on table replay.mirrored_rows is 'Rows of the old tables that mirror a transaction of the ledger: what its entries moved on the wallet''s account.';

comment on column replay.progress.retired_at is 'When the old tables were retired: they are neither captured nor compared any more.';

create table replay.pause (
  book_id integer not null constraint pause_book_id_fkey references payments.books,
  paused_at timestamptz not null default clock_timestamp(),
  constraint pause_pkey primary key (book_id)
);

comment on table replay.pause is 'Books whose backfill stands still until it is resumed.';

-- The wallet's row, kept from changing its mode until this transaction ends. Made here for a wallet that has none yet, so that nobody
-- writes without the lock; its account is opened when it is drained. Returns null for a wallet that is not there.
create function replay.hold_wallet(p_source text, p_wallet_id uuid) returns replay.wallets
language plpgsql as $$
declare
  v_wallet replay.wallets;
  v_owner_id uuid;
begin
  for i in 1 .. 2 loop
    select w.* into v_wallet
    from replay.wallets w
    join replay.capture c on c.book_id = w.book_id
    where w.wallet_id = p_wallet_id and w.source = p_source
    for share of w;
    exit when found;
    if p_source = 'wallet_transactions' then
      select w.user_id into v_owner_id from wallets w where w.id = p_wallet_id;
    else
      select w.org_id into v_owner_id from org_wallets w where w.id = p_wallet_id;
    end if;
    exit when v_owner_id is null;
    insert into replay.wallets (wallet_id, source, owner_id, account_id, mode, book_id)
    select p_wallet_id, p_source, v_owner_id, replay.wallet_account_id(c.book_id, p_source, v_owner_id), c.new_wallets, c.book_id
    from replay.capture c
    on conflict do nothing;
  end loop;
  return v_wallet;
end $$;

create function replay.wallet_account_id(p_book_id integer, p_source text, p_owner_id uuid) returns uuid
language sql immutable parallel safe
return payments.account_id(p_book_id, 'cash', 'USD', 'wallet',
  case p_source when 'wallet_transactions' then p_owner_id::text end,
  case p_source when 'wallet_transactions' then null else p_owner_id::text end);

-- Keeps a change to a row for the drain, or posts it, as the wallet's mode says. Parameter: the source. A row that goes to another
-- wallet, or is given another id, leaves one place and comes to another: two changes. Kept for the drain is also what changes nothing
-- that the replay reads: the row is younger than the horizon then, and read from the table no more.
create function replay.capture_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_source constant text := tg_argv[0];
  v_old replay.row_image;
  v_new replay.row_image;
begin
  if v_source = 'wallet_transactions' then
    if tg_op <> 'INSERT' then v_old := replay.user_row_image(old); end if;
    if tg_op <> 'DELETE' then v_new := replay.user_row_image(new); end if;
  else
    if tg_op <> 'INSERT' then v_old := replay.org_row_image(old); end if;
    if tg_op <> 'DELETE' then v_new := replay.org_row_image(new); end if;
  end if;

  if tg_op = 'UPDATE' and (v_old.id, v_old.wallet_id) is distinct from (v_new.id, v_new.wallet_id) then
    perform replay.take_row_change(v_source, 'delete', v_old.wallet_id, v_old, null);
    perform replay.take_row_change(v_source, 'insert', v_new.wallet_id, null, v_new);
  else
    perform replay.take_row_change(v_source, lower(tg_op), coalesce(v_new.wallet_id, v_old.wallet_id), v_old, v_new);
  end if;
  return null;
end $$;

create function replay.take_row_change(
  p_source text, p_operation text, p_wallet_id uuid, p_old replay.row_image, p_new replay.row_image
) returns void
language plpgsql as $$
declare
  v_wallet constant replay.wallets := replay.hold_wallet(p_source, p_wallet_id);
begin
  if v_wallet.mode = 'ledger' then
    if p_old is not distinct from p_new then
      return;
    end if;
    -- Before any account: others of old code have locked it first, and post then.
    perform replay.lock_old_wallet(p_source, p_wallet_id);
    perform replay.post_row_change(v_wallet, p_operation, p_old, p_new);
  else
    insert into replay.captured_rows (source, operation, wallet_id, old, new)
    values (p_source, p_operation, p_wallet_id, p_old, p_new);
  end if;
end $$;

-- Keeps for the drain that a wallet was made, removed, or its balance moved, or posts it, as the wallet's mode says. Parameter: the
-- source.
create function replay.capture_wallet() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_source constant text := tg_argv[0];
  v_old_owner_id uuid;
  v_new_owner_id uuid;
  v_wallet replay.wallets;
begin
  if v_source = 'wallet_transactions' then
    if tg_op <> 'INSERT' then v_old_owner_id := old.user_id; end if;
    if tg_op <> 'DELETE' then v_new_owner_id := new.user_id; end if;
  else
    if tg_op <> 'INSERT' then v_old_owner_id := old.org_id; end if;
    if tg_op <> 'DELETE' then v_new_owner_id := new.org_id; end if;
  end if;
  -- Not a condition of the trigger, which would keep the columns from being altered.
  if tg_op = 'UPDATE'
    and (old.id, v_old_owner_id, old.balance_credits) is not distinct from (new.id, v_new_owner_id, new.balance_credits)
  then
    return null;
  end if;

  v_wallet := replay.hold_wallet(v_source, case tg_op when 'INSERT' then new.id else old.id end);
  if v_wallet.mode = 'ledger' then
    if tg_op = 'UPDATE' and (old.id, v_old_owner_id) is distinct from (new.id, v_new_owner_id) then
      perform replay.raise_code('LEGACY_WALLET_FIXED', format(
        'Wallet %s is kept by the ledger: its id and its owner stay as they are. Move the money to another wallet instead.', old.id));
    end if;
    if tg_op = 'DELETE' then
      perform replay.post_removal(v_wallet);
    elsif tg_op = 'INSERT' then
      perform replay.post_opening(v_wallet, new.balance_credits);
    else
      perform replay.post_balance_change(v_wallet, new.balance_credits);
    end if;
  else
    insert into replay.captured_wallets (
      source, operation, wallet_id, old_owner_id, new_owner_id, old_balance, new_balance)
    values (v_source, lower(tg_op), case tg_op when 'DELETE' then old.id else new.id end, v_old_owner_id, v_new_owner_id,
      case when tg_op <> 'INSERT' then old.balance_credits end, case when tg_op <> 'DELETE' then new.balance_credits end);
  end if;
  return null;
end $$;

create function replay.refuse_truncate() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform replay.raise_code('LEGACY_TRUNCATE_REFUSED', format(
    'TRUNCATE of %s is refused while its changes are captured: no row would say what is gone. Delete the rows instead, or end the capture.',
    tg_relid::regclass));
end $$;

-- Where the horizon is, as seen by the current statement: the next transaction id, and how far the horizon lies behind it.
create type replay.horizon as (next_xid bigint, distance bigint);
create function replay.capture_horizon() returns replay.horizon
language sql stable as $$
  select row(n.next_xid, n.next_xid - c.horizon::text::bigint)::replay.horizon
  from replay.capture c, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next_xid) n
$$;

-- Whether a row that this statement sees was written before the horizon, by the 32 bits of its transaction id. Not by age(), which
-- counts from where the whole transaction began: whoever committed since is younger than that, and of negative age.
create function replay.is_before_horizon(p_xmin xid, p_horizon replay.horizon) returns boolean
language sql immutable parallel safe
return (((p_horizon).next_xid - p_xmin::text::bigint) & 4294967295) > (p_horizon).distance;

-- ---------------------------------------------------------------------------------------------- judging one row

create table replay.partial_refunds (
  legacy_id uuid not null,
  constraint partial_refunds_pkey primary key (legacy_id)
);

comment on table replay.partial_refunds is 'Refund rows of users that say what was refunded by them, and not, as the old function''s, what was refunded so far. Noted by the new function.';

create type replay.judgement as (cause text, explained bigint, paid bigint);

-- What the flows do not explain about a row, judged by what is in the log: as the survey judges all rows of a table at once, by those
-- before each. Parameters: the row, and its holder's account. Reads the invoices by the caller's search path.
create function replay.judge_row(p_book_id integer, p_source text, p_row replay.row_image, p_account_id uuid)
returns replay.judgement
language plpgsql stable as $$
declare
  v_invoice_cents bigint;
  v_is_credit constant boolean := p_row.type = 'purchase' and p_row.delta > 0;
  v_is_refund constant boolean := p_row.type = 'refund' and p_row.delta < 0;
  v_refunded_before bigint;
  v_cause text;
  v_explained bigint := 0;
begin
  if p_row.type in ('purchase', 'refund') then
    select i.amount_usd_cents into v_invoice_cents
    from invoices i
    where i.id = p_row.invoice_id
      and case p_source when 'wallet_transactions' then i.wallet_id else i.org_wallet_id end = p_row.wallet_id;
  end if;

  if p_row.delta = 0 then
    v_cause := 'zero_row';
  -- Where the old table's own constraints hold the sign, and one credit and one refund per invoice, it is not asked.
  elsif p_source = 'wallet_transactions'
    and (p_row.type = 'purchase' and p_row.delta < 0 or p_row.type in ('refund', 'spend') and p_row.delta > 0) then
    v_cause := 'wrong_sign';
  -- A credit counts as paid only beside an invoice of the same wallet, and only for what that invoice says.
  elsif v_is_credit and (v_invoice_cents is null or p_row.usd_cents > v_invoice_cents) then
    v_cause := 'unreferenced_credit';
  elsif p_source = 'wallet_transactions' and p_row.type = 'adjustment' and p_row.delta > 0
    and p_row.reference_type is distinct from 'system' then
    v_cause := 'unreferenced_credit';
  elsif v_is_refund and v_invoice_cents is null then
    v_cause := 'orphan';
  elsif v_is_credit and p_source = 'wallet_transactions' and exists (
      select from payments.entries e
      where e.book_id = p_book_id and e.reference_id = p_row.reference_id and e.reference_type = 'credit_purchase'
        and e.account_id = p_account_id and e.amount_cents < 0
        and e.metadata ->> 'cause' is distinct from 'unreferenced_credit') then
    v_cause := 'duplicate_credit';
  elsif v_is_refund and p_source = 'wallet_transactions'
    and not exists (select from replay.partial_refunds r where r.legacy_id = p_row.id) then
    select max(e.amount_cents) into v_refunded_before
    from payments.entries e
    where e.book_id = p_book_id and e.reference_id = p_row.reference_id and e.reference_type = 'refund'
      and e.account_id = p_account_id and e.amount_cents > 0;
    -- The processor reports what was refunded so far, and each report was booked in full.
    if v_refunded_before is not null then
      v_cause := 'cumulative_refund';
      v_explained := least(p_row.delta + v_refunded_before, 0);
    end if;
  elsif p_row.type = 'spend' and p_row.key_scope = 'org_wallet_transactions:spend' and exists (
      select from payments.events v
      where v.book_id = p_book_id and v.idempotency_scope = p_row.key_scope and v.idempotency_key = p_row.key) then
    v_cause := 'duplicate_spend';
  end if;
  return row(v_cause, case when v_cause is null then p_row.delta else v_explained end,
             case when p_row.type = 'purchase' then coalesce(p_row.usd_cents, v_invoice_cents) end)::replay.judgement;
end $$;

-- ---------------------------------------------------------------------------------------------------- draining

-- The event of a change to a row that was booked before: what the wallet gains or loses by it, against suspense. Parameters: the
-- change; the number of this version of the row; the account of the row's wallet; the instant that the book is open since.
create function replay.correction_event(
  p_book_id integer, p_change replay.captured_rows, p_version integer, p_account_id uuid, p_open_since timestamptz
) returns payments.new_event
language plpgsql stable as $$
declare
  v_source constant text := p_change.source;
  v_id constant uuid := coalesce((p_change.new).id, (p_change.old).id);
  v_cause constant text := case when (p_change.new).id is null then 'deleted_row' else 'changed_row' end;
  v_event_id constant uuid := replay.row_event_id(v_source, v_id, p_version);
  v_effective_at constant timestamptz := greatest(p_change.captured_at, p_open_since);
  v_metadata constant jsonb := jsonb_build_object('cause', v_cause, 'legacy', jsonb_build_object(
    'table', v_source, 'id', v_id, 'version', p_version, 'operation', p_change.operation, 'xid', p_change.xid::text,
    'old', to_jsonb(p_change.old), 'new', to_jsonb(p_change.new)));
  v_entries jsonb;
  v_rest bigint;
begin
  -- What is booked for it by now is asked of the log: an orphan was booked nowhere.
  select coalesce(jsonb_agg(replay.entry(c.account_id, c.cents) order by c.account_id), '[]'), coalesce(-sum(c.cents), 0)
  into v_entries, v_rest
  from (
    select m.account_id, sum(m.cents)::bigint as cents
    from (
      select e.account_id, -e.amount_cents as cents
      from generate_series(1, p_version - 1) as n
      join payments.entries e on e.book_id = p_book_id and e.transaction_id = replay.row_event_id(v_source, v_id, n)
        -- A row that went to another wallet is taken from each by a change of its own.
        and e.account_id = p_account_id
      union all
      -- A row that mirrors a transaction of the ledger has that one for its first.
      select e.account_id, -e.amount_cents
      from replay.mirrored_rows m
      join payments.entries e on e.book_id = p_book_id and e.transaction_id = m.event_id and e.account_id = m.account_id
      where m.legacy_id = v_id and m.source = v_source and m.book_id = p_book_id and m.account_id = p_account_id
      union all
      select p_account_id, -(p_change.new).delta where (p_change.new).id is not null and p_account_id is not null
    ) m
    group by m.account_id
    having sum(m.cents) <> 0
  ) c;
  if v_entries = '[]' then
    return row('note.recorded', v_event_id, v_effective_at, null, null, null,
      jsonb_build_object('note', v_cause, 'metadata', v_metadata))::payments.new_event;
  end if;
  if v_rest <> 0 then
    v_entries := v_entries || replay.entry(replay.platform_account_id(p_book_id, 'suspense', v_cause), v_rest);
  end if;
  return row('transaction.posted', v_event_id, v_effective_at, null, null, null, jsonb_build_object(
    'reference_type', 'adjustment', 'reference_id', v_id, 'metadata', v_metadata, 'entries', v_entries))::payments.new_event;
end $$;

-- Opens the accounts of captured wallets, and notes that their differences must be looked at. Parameters: how many changes at most;
-- the wallets whose changes are taken (null: of all). Returns how many were taken.
create function replay.drain_wallets(p_book_id integer, p_limit integer, p_wallet_ids uuid[] default null) returns integer
language plpgsql as $$
declare
  v_changes replay.captured_wallets[];
begin
  with taken as (
    delete from replay.captured_wallets c
    where c.id in (
      select n.id from replay.captured_wallets n
      where p_wallet_ids is null or n.wallet_id = any (p_wallet_ids)
      order by n.id
      limit p_limit
      for update)
    returning c
  )
  select array_agg(t.c order by (t.c).id) into v_changes from taken t;
  if v_changes is null then
    return 0;
  end if;

  perform replay.bind_wallets(p_book_id, n.source, array_agg(n.wallet_id order by n.id), array_agg(coalesce(n.new_owner_id, n.old_owner_id) order by n.id))
  from unnest(v_changes) n
  group by n.source;

  insert into replay.unreconciled as u (wallet_id, source, changed_at, book_id)
  select n.wallet_id, n.source, max(n.captured_at), p_book_id from unnest(v_changes) n group by n.wallet_id, n.source
  order by 1, 2
  on conflict (wallet_id, source, book_id) do update set changed_at = excluded.changed_at;
  return cardinality(v_changes);
end $$;

-- Opens the accounts of wallets that have none yet. Parameters: the wallets' ids, and beside each its owner's.
create function replay.bind_wallets(p_book_id integer, p_source text, p_wallet_ids uuid[], p_owner_ids uuid[]) returns void
language plpgsql as $$
declare
  v_owner_key constant text := case p_source when 'wallet_transactions' then 'user_id' else 'organization_id' end;
  v_events payments.new_event[];
begin
  -- As payments.open_accounts does; that asks for a grant of whoever the request is of, and old code has none.
  select array_agg(row('account.opened', o.account_id, null, null, null, null, jsonb_build_object(
           'type', 'cash', 'currency', 'USD', 'name', 'wallet', v_owner_key, o.owner_id))::payments.new_event order by o.account_id)
  into v_events
  from (
    select distinct n.owner_id, replay.wallet_account_id(p_book_id, p_source, n.owner_id) as account_id
    from unnest(p_owner_ids) as n (owner_id)
    where n.owner_id is not null
  ) o
  where not exists (select from payments.accounts a where a.id = o.account_id and a.book_id = p_book_id);
  if v_events is not null then
    perform payments.import_events(p_book_id, '{}', v_events);
  end if;
  insert into replay.wallets (wallet_id, source, owner_id, account_id, book_id)
  select distinct on (n.wallet_id)
         n.wallet_id, p_source, n.owner_id, replay.wallet_account_id(p_book_id, p_source, n.owner_id), p_book_id
  from unnest(p_wallet_ids, p_owner_ids) as n (wallet_id, owner_id)
  where n.owner_id is not null
  order by n.wallet_id
  on conflict do nothing;
end $$;

-- Whether the log has a row, as an event of its own or as one that the row mirrors.
create function replay.is_in_log(p_book_id integer, p_source text, p_id uuid) returns boolean
language sql stable
return exists (
    select from payments.events e where e.book_id = p_book_id and e.event_id = replay.row_event_id(p_source, p_id, 1))
  or exists (
    select from replay.mirrored_rows m where m.legacy_id = p_id and m.source = p_source and m.book_id = p_book_id);

-- The row, without the scope of its key where the log has an event under it.
create function replay.with_free_key(p_book_id integer, p_row replay.row_image) returns replay.row_image
language plpgsql stable as $$
begin
  if exists (
    select from payments.events v
    where v.book_id = p_book_id and v.idempotency_scope = p_row.key_scope and v.idempotency_key = p_row.key)
  then
    p_row.key_scope := null;
  end if;
  return p_row;
end $$;

-- Keeps the last version of a row that was corrected: its number, and the row as that left it (null: deleted).
create function replay.keep_version(
  p_book_id integer, p_source text, p_id uuid, p_version integer, p_image replay.row_image
) returns void
language sql as $$
  insert into replay.changed_rows (legacy_id, source, version, image, book_id)
  values (p_id, p_source, p_version, p_image, p_book_id)
  on conflict (legacy_id, source, book_id) do update set version = excluded.version, image = excluded.image
$$;

-- Brings captured changes to rows into the log, in their order. Parameters: how many at most; the wallets whose changes are taken
-- (null: of all). Returns how many were taken, how many rows came into the log, and how many that were there were corrected. Locks
-- the changes, then the accounts of their wallets and the platform's, in the order of their ids. Changes of before the horizon are
-- passed over: their rows were read from the table. The legacy tables are found by name, before the restructuring and after it.
create function replay.drain_rows(
  p_book_id integer, p_limit integer, p_wallet_ids uuid[] default null, out taken integer, out imported integer, out corrected integer
)
language plpgsql
set search_path = pg_catalog, public, payments, organizations, pg_temp
set timezone = 'UTC' as $$
declare
  v_changes replay.captured_rows[];
  v_open_since timestamptz;
  v_flows constant replay.flow_accounts := replay.flow_accounts(p_book_id);
  v_account_ids uuid[];
  v_account_id uuid;
  v_change replay.captured_rows;
  v_row replay.row_image;
  v_id uuid;
  v_version integer;
  v_judgement replay.judgement;
  v_events payments.new_event[] := '{}';
  -- What the waiting events are judged by: whoever touches one of these must find them in the log.
  v_waiting text[] := '{}';
  v_touched text[];
  -- Changes of rows that were booked as they had been before, first.
  v_late replay.captured_rows[] := '{}';
begin
  imported := 0;
  corrected := 0;
  with taken as (
    delete from replay.captured_rows c
    where c.id in (
      select n.id from replay.captured_rows n
      where p_wallet_ids is null or n.wallet_id = any (p_wallet_ids)
      order by n.id
      limit p_limit
      for update)
    -- A change and its row have one xmin.
    returning c, replay.is_before_horizon(c.xmin, (select h from replay.capture_horizon() h)) as is_before_horizon
  )
  select count(*), array_agg(t.c order by (t.c).id) filter (where not t.is_before_horizon)
  into taken, v_changes
  from taken t;
  if v_changes is null then
    return;
  end if;

  -- A wallet that was made since the last look is seen by now, as its rows were.
  perform replay.drain_wallets(p_book_id, null, array(
    select n.wallet_id from unnest(v_changes) n
    where not exists (
      select from replay.wallets w join payments.accounts a on a.id = w.account_id and a.book_id = w.book_id
      where w.wallet_id = n.wallet_id and w.source = n.source and w.book_id = p_book_id)));
  v_open_since := payments.open_since(p_book_id);
  v_account_ids := replay.platform_account_ids(p_book_id) || array(
    select w.account_id from replay.wallets w
    where w.book_id = p_book_id and w.wallet_id in (select n.wallet_id from unnest(v_changes) n));
  perform payments.lock_accounts(p_book_id, v_account_ids);

  foreach v_change in array v_changes loop
    v_row := case when (v_change.old).id is null then v_change.new else v_change.old end;
    v_id := v_row.id;
    v_account_id := (
      select w.account_id from replay.wallets w
      where w.wallet_id = v_change.wallet_id and w.source = v_change.source and w.book_id = p_book_id);
    v_touched := array[v_id::text, case when v_row.type in ('purchase', 'refund') then v_row.reference_id end, v_row.key];
    if v_touched && v_waiting then
      perform payments.import_events(p_book_id, v_account_ids, v_events);
      v_events := '{}';
      v_waiting := '{}';
    end if;
    v_version := (
      select coalesce(max(c.version), 1) from replay.changed_rows c
      where c.legacy_id = v_id and c.source = v_change.source and c.book_id = p_book_id);

    if not replay.is_in_log(p_book_id, v_change.source, v_id) then
      v_judgement := replay.judge_row(p_book_id, v_change.source, v_row, v_account_id);
      v_events := v_events || replay.row_event(
        p_book_id, v_change.source, replay.with_free_key(p_book_id, v_row), v_account_id, v_judgement.cause, v_judgement.explained, v_judgement.paid, v_open_since, v_flows);
      v_waiting := v_waiting || v_touched;
      imported := imported + 1;
      if v_judgement.cause is not null then
        insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
        values (p_book_id, v_change.source, v_id, v_judgement.cause, v_judgement.explained)
        on conflict (book_id, source, legacy_id) do update set cause = excluded.cause, explained_cents = excluded.explained_cents;
      end if;
      continue when (v_change.old).id is null;
      -- It was there before the capture began, and had not been reached: booked as it was, and corrected then.
      v_late := v_late || v_change;
      perform payments.import_events(p_book_id, v_account_ids, v_events);
      v_events := '{}';
      v_waiting := '{}';
    end if;

    continue when v_change.old is not distinct from v_change.new;
    v_events := v_events || replay.correction_event(p_book_id, v_change, v_version + 1, v_account_id, v_open_since);
    v_waiting := v_waiting || v_touched;
    corrected := corrected + 1;
    perform replay.keep_version(p_book_id, v_change.source, v_id, v_version + 1, v_change.new);
  end loop;
  perform payments.import_events(p_book_id, v_account_ids, v_events);

  update replay.progress p
  set rows = p.rows + d.rows, delta_cents = p.delta_cents + d.delta_cents, id_hash = p.id_hash + d.id_hash
  from (
    select m.source, sum(m.sign) as rows, sum(m.sign * (m.image).delta) as delta_cents,
           sum(m.sign * uuid_hash_extended((m.image).id, 0)::numeric) as id_hash
    from (
      select n.source, 1 as sign, n.new as image from unnest(v_changes) n
      union all
      select n.source, -1, n.old from unnest(v_changes) n
      union all
      select n.source, 1, n.old from unnest(v_late) n
    ) m
    where (m.image).id is not null
    group by m.source
  ) d
  where p.book_id = p_book_id and p.source = d.source;

  insert into replay.unreconciled as u (wallet_id, source, changed_at, book_id)
  select n.wallet_id, n.source, max(n.captured_at), p_book_id from unnest(v_changes) n group by n.wallet_id, n.source
  order by 1, 2
  on conflict (wallet_id, source, book_id) do update set changed_at = excluded.changed_at;
end $$;

-- Takes the checkpoint of a source for the chunk that begins after the given key (null: the first) and was judged under the given
-- capture, and tells whether it is that one's turn. Waits for the transaction of the chunk before: chunks are mapped side by side
-- and written in order, also where a later one is mapped sooner. The role's lock_timeout, which is meant for requests, does not
-- bound that wait.
create function replay.take_turn(
  p_book_id integer, p_number integer, p_source text, p_after_created_at timestamptz, p_after_id uuid, p_capture_id bigint
) returns boolean
language plpgsql set lock_timeout = '10min' as $$
declare
  v_is_next boolean;
begin
  perform pg_advisory_xact_lock_shared(hashtext('liventix.backfill.chunk:' || p_book_id), p_number - 1);
  select (p.last_created_at, p.last_id, p.capture_id) is not distinct from (p_after_created_at, p_after_id, p_capture_id)
  into v_is_next
  from replay.progress p
  where p.book_id = p_book_id and p.source = p_source
  for update;
  return v_is_next;
end $$;

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
