-- The functions of the old platform over wallets, lots and dead letters, under their old names, signatures and result
-- shapes: what callers see stays, what was wrong is put right. docs/wallet-compatibility.md says what changed.
--
-- Applies after the migrations and the legacy tables, PostgreSQL 15 to 18, as the tables' owner, and again at any time.
-- Run it in one transaction (psql --single-transaction), so that no function is anybody's for a moment, and with a
-- lock_timeout: it takes one index away.
--
-- How they write. Triggers on the wallet tables may turn a write into ledger postings, so each of them
--   1. locks the wallet's row before anything else, and reads the balance with it;
--   2. judges what is there already in later statements: one that waited for a lock keeps the snapshot of before;
--   3. inserts the row;
--   4. writes the balance as what was read plus the row's credits.
-- Locks: wallet, invoice, lots, in this order.
--
-- Tables are named without their schema, and found on the functions' search path before the restructuring and after it.
-- The helpers in schema replay have no search path of their own: they run with that of the function that calls them.

-- ----------------------------------------------------------------------------------------------------- the wallet

-- Refuses an amount that is not positive, null included. Parameters: the amount; the message, which callers show.
-- Returns nothing. Locks nothing.
create or replace function replay.refuse_unless_positive(p_amount integer, p_message text) returns void
language plpgsql as $$
begin
  if p_amount is null or p_amount <= 0 then
    raise exception '%', p_message;
  end if;
end $$;

-- A wallet for a change of its balance. Parameters: a user's wallet or an organization's. Returns its balance and status,
-- nulls where there is none. Locks its row; foreign keys to it stay free.
create or replace function replay.find_wallet_locked(
  p_wallet_id uuid, p_org_wallet_id uuid, out balance integer, out status text
)
language plpgsql as $$
begin
  if p_org_wallet_id is null then
    select w.balance_credits, w.status into balance, status from wallets w where w.id = p_wallet_id for no key update;
  else
    select w.balance_credits, w.status into balance, status from org_wallets w where w.id = p_org_wallet_id for no key update;
  end if;
end $$;

-- As find_wallet_locked, but raises 23503 where there is none, as the row's foreign key did.
create or replace function replay.get_wallet_locked(
  p_wallet_id uuid, p_org_wallet_id uuid, out balance integer, out status text
)
language plpgsql as $$
begin
  select w.balance, w.status into balance, status from replay.find_wallet_locked(p_wallet_id, p_org_wallet_id) w;
  if balance is null then
    raise exception 'there is no wallet %', coalesce(p_org_wallet_id, p_wallet_id) using errcode = 'foreign_key_violation';
  end if;
end $$;

-- Refuses to spend from a frozen wallet. Parameter: its status. Returns nothing. Locks nothing.
create or replace function replay.refuse_frozen(p_status text) returns void
language plpgsql as $$
begin
  if p_status = 'frozen' then
    raise exception 'wallet is frozen';
  end if;
end $$;

-- The rows of a wallet. Parameters: a user's wallet or an organization's. Returns their credits and instants. Locks
-- nothing.
create or replace function replay.rows_of_wallet(p_wallet_id uuid, p_org_wallet_id uuid)
returns table (delta integer, inserted_at timestamptz)
language plpgsql as $$
begin
  return query
    select t.credits_delta::integer, t.created_at from wallet_transactions t where t.wallet_id = p_wallet_id
    union all
    select t.credits_delta::integer, t.created_at from org_wallet_transactions t where t.wallet_id = p_org_wallet_id;
end $$;

-- Writes a row about an invoice into a user's wallet, then the balance. Parameters: the wallet, the balance read under its
-- lock, and what the row says. Returns the balance as it is now. Locks the wallet, which the caller has locked.
create or replace function replay.book_user_row(
  p_wallet_id uuid, p_balance integer, p_type text, p_credits integer, p_usd_cents integer, p_invoice_id uuid, p_memo text,
  p_key text
) returns integer
language plpgsql as $$
declare
  v_id constant uuid := gen_random_uuid();
  v_balance integer;
begin
  -- Before the row, whose trigger may book it at once.
  if p_type = 'refund' then
    insert into replay.partial_refunds (legacy_id) values (v_id);
  end if;
  insert into wallet_transactions (
    id, wallet_id, type, credits_delta, usd_cents, reference_type, reference_id, memo, idempotency_key)
  values (v_id, p_wallet_id, p_type, p_credits, p_usd_cents, 'invoice', p_invoice_id::text, p_memo, p_key);

  update wallets w set balance_credits = p_balance + p_credits where w.id = p_wallet_id
  returning w.balance_credits into v_balance;
  return v_balance;
end $$;

-- Writes a row into an organization's wallet, then the balance. Parameters: the wallet, the balance read under its lock, and
-- what the row says. Returns the row's id. Locks the wallet, which the caller has locked.
create or replace function replay.book_org_row(
  p_wallet_id uuid, p_balance integer, p_type text, p_credits integer, p_description text, p_reference_type text,
  p_reference_id uuid, p_invoice_id uuid, p_event_id text
) returns uuid
language plpgsql as $$
declare
  v_id uuid;
begin
  insert into org_wallet_transactions (
    wallet_id, transaction_type, credits_delta, description, reference_type, reference_id, invoice_id, stripe_event_id)
  values (
    p_wallet_id, p_type, p_credits, p_description, p_reference_type, p_reference_id, p_invoice_id, p_event_id)
  returning id into v_id;

  update org_wallets w set balance_credits = p_balance + p_credits where w.id = p_wallet_id;
  return v_id;
end $$;

-- ------------------------------------------------------------------------------------------- invoices and their rows

-- Refuses a key that says something else than it did. Not 23505, which callers take for "done already". Parameter: the key.
-- Returns nothing. Locks nothing.
create or replace function replay.raise_key_conflict(p_key text) returns void
language plpgsql as $$
begin
  raise exception 'key % belongs to another operation', p_key;
end $$;

-- The row that has a key. Parameters: the key; type, invoice and wallet of the operation that comes under it now, which must
-- be those of the row. Returns the row's id and credits, nulls where the key is new or null. Locks nothing.
create or replace function replay.row_of_key(
  p_key text, p_type text, p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid, out id uuid, out delta integer
)
language plpgsql as $$
declare
  v_is_same boolean;
begin
  if p_org_wallet_id is null then
    select t.id, t.credits_delta,
           (t.type, t.reference_type, t.reference_id, t.wallet_id)
             is not distinct from (p_type, 'invoice', p_invoice_id::text, p_wallet_id)
    into id, delta, v_is_same
    from wallet_transactions t
    where t.idempotency_key = p_key;
  else
    select t.id, t.credits_delta,
           (t.transaction_type, t.invoice_id, t.wallet_id) is not distinct from (p_type, p_invoice_id, p_org_wallet_id)
    into id, delta, v_is_same
    from org_wallet_transactions t
    where t.stripe_event_id = p_key;
  end if;
  if not v_is_same then
    perform replay.raise_key_conflict(p_key);
  end if;
end $$;

-- The row that credited a wallet for an invoice. Parameters: the invoice, the wallet. Returns its id, null where there is
-- none. Locks nothing.
create or replace function replay.purchase_of_invoice(p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid) returns uuid
language plpgsql as $$
begin
  if p_org_wallet_id is null then
    return (
      select t.id from wallet_transactions t
      where t.reference_type = 'invoice' and t.reference_id = p_invoice_id::text and t.type = 'purchase'
        and t.wallet_id = p_wallet_id
      order by t.created_at, t.id
      limit 1);
  end if;
  return (
    select t.id from org_wallet_transactions t
    where t.invoice_id = p_invoice_id and t.transaction_type = 'purchase' and t.wallet_id = p_org_wallet_id);
end $$;

-- An invoice of a wallet. Parameters: the invoice, the wallet. Returns its status and amount; raises where there is none or
-- where it is another wallet's. Locks its row.
create or replace function replay.get_invoice_locked(
  p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid, out status text, out amount_cents integer
)
language plpgsql as $$
declare
  v_is_of_wallet boolean;
begin
  select i.status, i.amount_usd_cents,
         (i.wallet_id, i.org_wallet_id) is not distinct from (p_wallet_id, p_org_wallet_id)
  into status, amount_cents, v_is_of_wallet
  from invoices i
  where i.id = p_invoice_id
  for no key update;
  if not found then
    raise exception 'there is no invoice %', p_invoice_id;
  end if;
  if not v_is_of_wallet then
    raise exception 'invoice % is of another wallet', p_invoice_id;
  end if;
end $$;

-- ----------------------------------------------------------------------------------------------------------- lots

-- Takes credits from a lot, which has them. Parameters: the lot, the credits. Returns nothing. Locks the lot, which the
-- caller has locked.
create or replace function replay.take_from_lot(p_lot_id uuid, p_credits integer) returns void
language plpgsql as $$
begin
  update credit_lots l
  set quantity_remaining = l.quantity_remaining - p_credits,
      depleted_at = case when l.quantity_remaining = p_credits then now() end
  where l.id = p_lot_id;
end $$;

-- What a wallet can spend beyond its lots: the balance that no lot stands for, because a purchase, an adjustment or a promo
-- wrote none. Credits taken from a lot whose spend is not in the balance yet are not among them: they would be spent twice.
-- Parameters: the wallet, its balance, and what the caller itself took from its lots. Returns credits. Locks nothing.
create or replace function replay.credits_without_lot(
  p_wallet_id uuid, p_org_wallet_id uuid, p_balance integer, p_taken bigint
) returns bigint
language plpgsql as $$
declare
  v_in_lots bigint;
  v_left_lots bigint;
  v_left_balance bigint;
begin
  select coalesce(sum(l.quantity_remaining), 0) + p_taken,
         coalesce(sum(l.quantity_purchased - l.quantity_remaining), 0) - p_taken
  into v_in_lots, v_left_lots
  from credit_lots l
  where l.wallet_id = p_wallet_id or l.org_wallet_id = p_org_wallet_id;
  select coalesce(-sum(r.delta), 0) into v_left_balance
  from replay.rows_of_wallet(p_wallet_id, p_org_wallet_id) r
  where r.delta < 0;
  return coalesce(greatest(p_balance - greatest(v_left_lots - v_left_balance, 0) - v_in_lots, 0), 0);
end $$;

-- ----------------------------------------------------------------------------------------- purchases and refunds

-- The row of a purchase that was booked before: under its key, or for its invoice under another. Parameters: the purchase.
-- Returns the row's id, null for a new purchase. Locks nothing.
create or replace function replay.find_purchase(
  p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid, p_credits integer, p_key text
) returns uuid
language plpgsql as $$
declare
  v_row constant record := replay.row_of_key(p_key, 'purchase', p_invoice_id, p_wallet_id, p_org_wallet_id);
begin
  if v_row.delta <> p_credits then
    perform replay.raise_key_conflict(p_key);
  end if;
  return coalesce(v_row.id, replay.purchase_of_invoice(p_invoice_id, p_wallet_id, p_org_wallet_id));
end $$;

-- Marks the invoice of a purchase paid. Parameters: the invoice, its wallet, the receipt (null: keeps the one it has).
-- Returns nothing. Locks the invoice.
create or replace function replay.pay_invoice(p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid, p_receipt_url text)
returns void
language plpgsql as $$
begin
  -- Nothing of it is in the wallet: what was paid back is not credited any more.
  if (replay.get_invoice_locked(p_invoice_id, p_wallet_id, p_org_wallet_id)).status = 'refunded' then
    raise exception 'invoice % was refunded', p_invoice_id;
  end if;
  update invoices i
  set status = 'paid', receipt_url = coalesce(p_receipt_url, i.receipt_url)
  where i.id = p_invoice_id
    and (i.status, i.receipt_url) is distinct from ('paid', coalesce(p_receipt_url, i.receipt_url));
end $$;

-- What is left to take for a refund. The processor reports what was refunded of an invoice so far, so of each report only
-- what goes beyond the rows is new. Parameters: the total, the invoice, its wallet, the key. Returns credits, 0 where all of
-- it was taken before. Locks the invoice of a key that is new.
create or replace function replay.refund_to_take(
  p_total integer, p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid, p_key text
) returns integer
language plpgsql as $$
declare
  v_row constant record := replay.row_of_key(p_key, 'refund', p_invoice_id, p_wallet_id, p_org_wallet_id);
  v_invoice record;
  v_taken bigint;
begin
  if p_org_wallet_id is null then
    select coalesce(-sum(t.credits_delta), 0) into v_taken from wallet_transactions t
    where t.reference_type = 'invoice' and t.reference_id = p_invoice_id::text and t.type = 'refund'
      and t.wallet_id = p_wallet_id;
  else
    select coalesce(-sum(t.credits_delta), 0) into v_taken from org_wallet_transactions t
    where t.wallet_id = p_org_wallet_id and t.transaction_type = 'refund' and t.invoice_id = p_invoice_id;
  end if;
  if v_row.id is not null then
    -- Its row took what was new then, so the total lies between that and all that was taken since.
    if p_total not between -v_row.delta and v_taken then
      perform replay.raise_key_conflict(p_key);
    end if;
    return 0;
  end if;

  v_invoice := replay.get_invoice_locked(p_invoice_id, p_wallet_id, p_org_wallet_id);
  -- An organization's invoice used to stay pending when it was credited.
  if v_invoice.status not in ('paid', 'refunded')
    and replay.purchase_of_invoice(p_invoice_id, p_wallet_id, p_org_wallet_id) is null
  then
    raise exception 'invoice % was not paid', p_invoice_id;
  end if;
  if p_total > v_invoice.amount_cents then
    raise exception 'at most the % cents of invoice % can be refunded, not %', v_invoice.amount_cents, p_invoice_id, p_total;
  end if;
  return greatest(p_total - greatest(v_taken, 0), 0);
end $$;

-- Brings lots and invoice in line with a refund. Parameters: the total refunded so far, what was taken just now, the
-- invoice and its wallet. Returns nothing. Locks the invoice's lots in their order, and the invoice, which has been locked.
create or replace function replay.settle_refund(
  p_total integer, p_taken integer, p_invoice_id uuid, p_wallet_id uuid, p_org_wallet_id uuid
) returns void
language plpgsql as $$
declare
  v_rest integer := p_taken;
  v_lot record;
begin
  for v_lot in
    select l.id, l.quantity_remaining from credit_lots l
    where (l.wallet_id = p_wallet_id or l.org_wallet_id = p_org_wallet_id) and l.quantity_remaining > 0
      and l.invoice_id = p_invoice_id
    order by l.created_at, l.id
    for no key update
  loop
    exit when v_rest = 0;
    perform replay.take_from_lot(v_lot.id, least(v_rest, v_lot.quantity_remaining));
    v_rest := v_rest - least(v_rest, v_lot.quantity_remaining);
  end loop;

  update invoices i set status = 'refunded'
  where i.id = p_invoice_id and (i.wallet_id = p_wallet_id or i.org_wallet_id = p_org_wallet_id)
    and i.amount_usd_cents <= p_total and i.status <> 'refunded';
end $$;

-- Credits a user's wallet for a paid invoice, once per invoice. Parameters: the invoice and its wallet; the credits; the cents
-- paid; the receipt; the processor's event id. Returns the balance. Locks the wallet, then the invoice.
create or replace function public.wallet_apply_purchase(
  p_invoice_id uuid, p_wallet_id uuid, p_credits integer, p_usd_cents integer, p_receipt_url text, p_idempotency_key text
) returns table (new_balance integer)
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  perform replay.refuse_unless_positive(p_credits, 'credits must be positive');
  new_balance := (replay.get_wallet_locked(p_wallet_id, null)).balance;
  if replay.find_purchase(p_invoice_id, p_wallet_id, null, p_credits, p_idempotency_key) is null then
    perform replay.pay_invoice(p_invoice_id, p_wallet_id, null, p_receipt_url);
    new_balance := replay.book_user_row(
      p_wallet_id, new_balance, 'purchase', p_credits, p_usd_cents, p_invoice_id, 'Credit purchase via Stripe',
      p_idempotency_key);
  end if;
  return next;
end $$;

-- Takes back one credit per refunded cent from a user's wallet; the balance may go below zero. Parameters: the invoice and
-- its wallet; the cents refunded of it so far; the processor's event id. Returns the balance. Locks the wallet, the invoice,
-- its lots.
create or replace function public.wallet_apply_refund(
  p_invoice_id uuid, p_wallet_id uuid, p_refund_usd_cents integer, p_idempotency_key text
) returns table (new_balance integer)
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_taken integer;
begin
  perform replay.refuse_unless_positive(p_refund_usd_cents, 'refund cents must be positive');
  new_balance := (replay.get_wallet_locked(p_wallet_id, null)).balance;
  v_taken := replay.refund_to_take(p_refund_usd_cents, p_invoice_id, p_wallet_id, null, p_idempotency_key);
  if v_taken > 0 then
    new_balance := replay.book_user_row(
      p_wallet_id, new_balance, 'refund', -v_taken, -v_taken, p_invoice_id, 'Stripe refund', p_idempotency_key);
  end if;
  perform replay.settle_refund(p_refund_usd_cents, v_taken, p_invoice_id, p_wallet_id, null);
  return next;
end $$;

-- Credits an organization's wallet for a paid invoice, once per invoice. Parameters: the wallet, the credits, its invoice, the
-- processor's event id, a description. Returns the row's id. Locks the wallet, then the invoice.
create or replace function public.org_wallet_apply_purchase(
  p_wallet_id uuid, p_credits integer, p_invoice_id uuid, p_stripe_event_id text, p_description text default 'Credit purchase'
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_balance integer;
  v_id uuid;
begin
  perform replay.refuse_unless_positive(p_credits, 'credits must be positive');
  v_balance := (replay.get_wallet_locked(null, p_wallet_id)).balance;
  v_id := replay.find_purchase(p_invoice_id, null, p_wallet_id, p_credits, p_stripe_event_id);
  if v_id is null then
    perform replay.pay_invoice(p_invoice_id, null, p_wallet_id, null);
    v_id := replay.book_org_row(
      p_wallet_id, v_balance, 'purchase', p_credits, p_description, null, null, p_invoice_id, p_stripe_event_id);
  end if;
  return v_id;
end $$;

-- Takes credits back from an organization's wallet; the balance may go below zero. Parameters: the wallet, the credits
-- refunded of its invoice so far, the invoice, the processor's event id, a description. Returns the id of the row, of an
-- earlier one where all of it was taken before. Locks the wallet, the invoice, its lots.
create or replace function public.org_wallet_apply_refund(
  p_wallet_id uuid, p_refund_credits integer, p_invoice_id uuid, p_stripe_event_id text, p_description text default 'Refund'
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_balance integer;
  v_taken integer;
  v_id uuid;
begin
  perform replay.refuse_unless_positive(p_refund_credits, 'refund credits must be positive');
  v_balance := (replay.get_wallet_locked(null, p_wallet_id)).balance;
  v_taken := replay.refund_to_take(p_refund_credits, p_invoice_id, null, p_wallet_id, p_stripe_event_id);
  if v_taken > 0 then
    v_id := replay.book_org_row(
      p_wallet_id, v_balance, 'refund', -v_taken, p_description, null, null, p_invoice_id, p_stripe_event_id);
  else
    select t.id into v_id from org_wallet_transactions t
    where t.wallet_id = p_wallet_id and t.transaction_type = 'refund' and t.invoice_id = p_invoice_id
    order by coalesce(t.stripe_event_id = p_stripe_event_id, false) desc, t.created_at desc, t.id
    limit 1;
  end if;
  perform replay.settle_refund(p_refund_credits, v_taken, p_invoice_id, null, p_wallet_id);
  return v_id;
end $$;

-- --------------------------------------------------------------------------------------------------------- spends

-- Takes credits from an organization's wallet where the balance covers them. Parameters: the wallet, the credits, what they
-- paid for, a description. Returns the row's id. Locks the wallet.
create or replace function public.org_wallet_apply_spend(
  p_wallet_id uuid, p_credits integer, p_reference_type text, p_reference_id uuid,
  p_description text default 'Campaign spend'
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_wallet record;
begin
  perform replay.refuse_unless_positive(p_credits, 'spend credits must be positive');
  if p_reference_type is null or p_reference_id is null then
    raise exception 'a spend must name what it paid for';
  end if;
  v_wallet := replay.get_wallet_locked(null, p_wallet_id);
  perform replay.refuse_frozen(v_wallet.status);
  if v_wallet.balance < p_credits then
    raise exception 'insufficient funds';
  end if;
  return replay.book_org_row(
    p_wallet_id, v_wallet.balance, 'spend', -p_credits, p_description, p_reference_type, p_reference_id, null, null);
end $$;

-- Takes an amount from the unexpired lots of one wallet, soonest to expire first, then the never-expiring, oldest first; what
-- they lack, from the balance that no lot stands for. The caller moves the balance. Parameters: the amount, and a user's
-- wallet or an organization's. Returns what it took from each lot, and with a null lot what it took from none, so that the
-- sum is the amount. Locks the wallet, then the lots in that order.
create or replace function public.deduct_credits_fifo(
  p_amount integer, p_wallet_id uuid default null, p_org_wallet_id uuid default null
) returns table (lot_id uuid, deducted integer)
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_rest integer := p_amount;
  v_wallet record;
  v_lot record;
  v_without_lot bigint;
begin
  perform replay.refuse_unless_positive(p_amount, 'Deduction amount must be positive');
  if p_wallet_id is not null and p_org_wallet_id is not null then
    raise exception 'credits are taken from one wallet, not from two';
  end if;
  v_wallet := replay.find_wallet_locked(p_wallet_id, p_org_wallet_id);
  perform replay.refuse_frozen(v_wallet.status);

  for v_lot in
    select l.id, l.quantity_remaining from credit_lots l
    where (l.wallet_id = p_wallet_id or l.org_wallet_id = p_org_wallet_id) and l.quantity_remaining > 0
      and (l.expires_at is null or l.expires_at > now())
    order by l.expires_at nulls last, l.created_at, l.id
    for no key update
  loop
    exit when v_rest = 0;
    lot_id := v_lot.id;
    deducted := least(v_rest, v_lot.quantity_remaining);
    perform replay.take_from_lot(lot_id, deducted);
    v_rest := v_rest - deducted;
    return next;
  end loop;
  if v_rest = 0 then
    return;
  end if;

  v_without_lot := replay.credits_without_lot(p_wallet_id, p_org_wallet_id, v_wallet.balance, p_amount - v_rest);
  if v_without_lot < v_rest then
    raise exception 'Insufficient credits: needed %, only had %', p_amount, p_amount - v_rest + v_without_lot;
  end if;
  lot_id := null;
  deducted := v_rest;
  return next;
end $$;

-- --------------------------------------------------------------------------------------------------------- reading

-- Whether the platform itself calls, and not a signed-in user: service_role, or the owner. Parameters: none. Locks nothing.
-- Asks for the role that the session took, which a security definer function does not change.
create or replace function replay.is_called_by_platform() returns boolean
language plpgsql as $$
declare
  v_caller constant name := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  return pg_has_role(v_caller, current_user, 'usage') or exists (
    select from pg_roles r where r.rolname = 'service_role' and pg_has_role(v_caller, r.oid, 'usage'));
end $$;

-- The wallet, where the caller may see its lots: the platform, its user; of an organization's, the members. Row-level
-- security on credit_lots says the same. Parameters: a user's wallet or an organization's. Returns its id or null. Locks
-- nothing.
create or replace function replay.readable_wallet(p_wallet_id uuid, p_org_wallet_id uuid) returns uuid
language plpgsql as $$
begin
  if replay.is_called_by_platform() then
    return coalesce(p_org_wallet_id, p_wallet_id);
  end if;
  return (
    select w.id from wallets w where w.id = p_wallet_id and w.user_id = auth.uid()
    union all
    select w.id from org_wallets w join org_memberships m on m.org_id = w.org_id
    where w.id = p_org_wallet_id and m.user_id = auth.uid());
end $$;

-- What is left in the unexpired lots of a wallet. Parameters: a user's wallet, an organization's, or both, which are added.
-- Returns credits, 0 for a wallet that the caller may not see. Locks nothing.
create or replace function public.get_available_credits(p_wallet_id uuid default null, p_org_wallet_id uuid default null)
returns integer
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_wallet_id constant uuid := replay.readable_wallet(p_wallet_id, null);
  v_org_wallet_id constant uuid := replay.readable_wallet(null, p_org_wallet_id);
begin
  return (
    select coalesce(sum(l.quantity_remaining), 0) from credit_lots l
    where (l.wallet_id = v_wallet_id or l.org_wallet_id = v_org_wallet_id) and l.quantity_remaining > 0
      and (l.expires_at is null or l.expires_at > now()));
end $$;

-- The lots of a wallet that have something left, in spending order; expired ones are among them. Parameters: a user's
-- wallet, an organization's, or both. Returns none of a wallet that the caller may not see. Locks nothing.
create or replace function public.get_credit_lot_breakdown(p_wallet_id uuid default null, p_org_wallet_id uuid default null)
returns table (
  lot_id uuid, remaining integer, purchased integer, unit_price_cents integer, source text, expires_at timestamptz,
  created_at timestamptz
)
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_wallet_id constant uuid := replay.readable_wallet(p_wallet_id, null);
  v_org_wallet_id constant uuid := replay.readable_wallet(null, p_org_wallet_id);
begin
  return query
    select l.id, l.quantity_remaining, l.quantity_purchased, l.unit_price_cents, l.source, l.expires_at, l.created_at
    from credit_lots l
    where (l.wallet_id = v_wallet_id or l.org_wallet_id = v_org_wallet_id) and l.quantity_remaining > 0
    order by l.expires_at nulls last, l.created_at, l.id;
end $$;

-- ------------------------------------------------------------------------------------------ wallets and their state

-- The signed-in user's wallet. Parameters: none. Returns its id; makes it where there is none. Locks what it makes.
create or replace function public.ensure_wallet_exists_for_auth_user() returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_user_id constant uuid := auth.uid();
begin
  if v_user_id is null then
    raise exception 'unauthorized';
  end if;
  if not exists (select from wallets w where w.user_id = v_user_id) then
    insert into wallets (user_id) values (v_user_id) on conflict (user_id) do nothing;
  end if;
  return (select w.id from wallets w where w.user_id = v_user_id);
end $$;

-- An organization's wallet, for an owner or admin of it. Parameter: the organization. Returns its id; makes it where there is
-- none. Locks what it makes.
create or replace function public.ensure_org_wallet_exists(p_org_id uuid) returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  if auth.uid() is null then
    raise exception 'unauthorized';
  end if;
  if not exists (
    select from org_memberships m
    where m.org_id = p_org_id and m.user_id = auth.uid() and m.role in ('owner', 'admin'))
  then
    raise exception 'forbidden';
  end if;
  if not exists (select from org_wallets w where w.org_id = p_org_id) then
    insert into org_wallets (org_id) values (p_org_id) on conflict (org_id) do nothing;
  end if;
  return (select w.id from org_wallets w where w.org_id = p_org_id);
end $$;

-- Freezes a user's wallet whose balance is below zero. Parameter: the wallet. Returns nothing. Locks it.
create or replace function public.wallet_freeze_if_negative(p_wallet_id uuid) returns void
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  update wallets w set status = 'frozen' where w.id = p_wallet_id and w.balance_credits < 0 and w.status <> 'frozen';
end $$;

-- Freezes an organization's wallet whose balance is below zero. Parameter: the wallet. Returns nothing. Locks it.
create or replace function public.org_wallet_freeze_if_negative(p_wallet_id uuid) returns void
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  update org_wallets w set status = 'frozen' where w.id = p_wallet_id and w.balance_credits < 0 and w.status <> 'frozen';
end $$;

-- The credits of rows that came without their balance. Those are the rows since the wallet was written last; what the older
-- ones do not explain has always been there, and its owner saw it. Parameters: the wallet, its balance, when it was made
-- and written last. Returns credits. Locks nothing.
create or replace function replay.credits_not_in_balance(
  p_wallet_id uuid, p_org_wallet_id uuid, p_balance integer, p_made_at timestamptz, p_written_at timestamptz
) returns bigint
language plpgsql as $$
declare
  v_total bigint;
  v_newer bigint;
  v_are_all_newer boolean;
begin
  select coalesce(sum(r.delta), 0), coalesce(sum(r.delta) filter (where r.inserted_at > p_written_at), 0),
         bool_and(r.inserted_at > p_written_at)
  into v_total, v_newer, v_are_all_newer
  from replay.rows_of_wallet(p_wallet_id, p_org_wallet_id) r;

  if v_total = p_balance then
    return 0;
  end if;
  -- A wallet that was brought in with its balance, its rows after it: the instants say nothing. Then the newest rows are
  -- missing where the balance is the sum of all the others.
  if v_are_all_newer and p_written_at = p_made_at and p_balance <> 0 then
    return case when p_balance in (
      select sum(sum(r.delta)) over (order by r.inserted_at)
      from replay.rows_of_wallet(p_wallet_id, p_org_wallet_id) r
      group by r.inserted_at
    ) then v_total - p_balance else 0 end;
  end if;
  return v_newer;
end $$;

-- Brings the rows that came without their balance into it. Parameters: a user's wallet or an organization's. Returns the
-- balance, 0 where there is no wallet. Locks the wallet, and waits for whoever inserts a row of it.
create or replace function replay.recompute_balance(p_wallet_id uuid, p_org_wallet_id uuid) returns integer
language plpgsql as $$
declare
  v_wallet record;
  v_balance integer;
begin
  -- `for update`, which an uncommitted row keeps away by its foreign key: its credits are seen below.
  if p_org_wallet_id is null then
    select w.balance_credits::integer, w.created_at, w.updated_at into v_wallet from wallets w where w.id = p_wallet_id for update;
  else
    select w.balance_credits::integer, w.created_at, w.updated_at into v_wallet from org_wallets w where w.id = p_org_wallet_id for update;
  end if;
  if not found then
    return 0;
  end if;

  v_balance := v_wallet.balance_credits + replay.credits_not_in_balance(
    p_wallet_id, p_org_wallet_id, v_wallet.balance_credits, v_wallet.created_at, v_wallet.updated_at);
  if v_balance = v_wallet.balance_credits then
    return v_balance;
  end if;
  if p_org_wallet_id is null then
    update wallets w set balance_credits = v_balance where w.id = p_wallet_id returning w.balance_credits into v_balance;
  else
    update org_wallets w set balance_credits = v_balance where w.id = p_org_wallet_id returning w.balance_credits into v_balance;
  end if;
  return v_balance;
end $$;

-- Brings rows that were inserted without their balance into a user's wallet. Parameter: the wallet. Returns the balance, 0
-- where there is no wallet. Locks the wallet.
create or replace function public.recompute_wallet_balance(p_wallet uuid) returns integer
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  return replay.recompute_balance(p_wallet, null);
end $$;

-- Brings rows that were inserted without their balance into an organization's wallet. Parameter: the wallet. Returns the
-- balance, 0 where there is no wallet. Locks the wallet.
create or replace function public.recompute_org_wallet_balance(p_wallet_id uuid) returns integer
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  return replay.recompute_balance(null, p_wallet_id);
end $$;

-- ----------------------------------------------------------------------------------------------------- dead letters

-- Keeps a failed webhook until it is replayed, one per correlation id and type. Parameters: both, the payload, when it was
-- sent, why it failed. Returns its id. Locks the pair until the transaction ends, and the letter.
create or replace function public.dlq_enqueue_webhook(
  p_correlation_id uuid, p_webhook_type text, p_payload jsonb, p_original_timestamp timestamptz, p_failure_reason text
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
declare
  v_id uuid;
begin
  if p_payload is null or p_original_timestamp is null then
    raise exception 'a dead letter needs its payload and its original time' using errcode = 'not_null_violation';
  end if;
  -- The table has letters from before that are there twice, so nothing in it can be unique.
  perform pg_advisory_xact_lock(hashtext('liventix.dead_letter'), hashtext(p_webhook_type || ':' || p_correlation_id));
  select d.id into v_id from dead_letter_webhooks d
  where d.correlation_id = p_correlation_id and d.webhook_type = p_webhook_type
  order by d.status = 'succeeded', d.created_at, d.id
  limit 1;
  if v_id is null then
    insert into dead_letter_webhooks (correlation_id, webhook_type, payload, original_timestamp, failure_reason)
    values (p_correlation_id, p_webhook_type, p_payload, p_original_timestamp, p_failure_reason)
    returning id into v_id;
    return v_id;
  end if;
  -- One that failed again after it had succeeded is waiting once more: pruned, it would be lost.
  update dead_letter_webhooks d
  set failure_reason = coalesce(p_failure_reason, d.failure_reason),
      status = case when d.status = 'succeeded' then 'pending' else d.status end
  where d.id = v_id;
  return v_id;
end $$;

-- Sets a dead letter's status. Parameters: the letter; the status; why it failed (null: keeps the reason it has). Returns
-- nothing. Locks the letter.
create or replace function public.dlq_set_status(p_id uuid, p_status text, p_failure_reason text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  if p_status is null then
    raise exception 'a dead letter needs a status' using errcode = 'not_null_violation';
  end if;
  update dead_letter_webhooks d
  set status = p_status, failure_reason = coalesce(p_failure_reason, d.failure_reason)
  where d.id = p_id;
end $$;

-- Takes the waiting dead letter that was touched longest ago, to be replayed: it is retrying then, with one more retry.
-- Parameter: its type (null: any). Returns it, or nothing. Locks it, and passes over what another caller is taking.
create or replace function public.dlq_pop_next(p_webhook_type text default null)
returns table (id uuid, correlation_id uuid, webhook_type text, payload jsonb)
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  return query
    update dead_letter_webhooks d
    set status = 'retrying', retry_count = coalesce(d.retry_count, 0) + 1, last_retry_at = now()
    where d.id = (
      select w.id from dead_letter_webhooks w
      where w.status in ('pending', 'failed') and (p_webhook_type is null or w.webhook_type = p_webhook_type)
      order by w.updated_at nulls first, w.created_at, w.id
      limit 1
      for update skip locked)
    returning d.id, d.correlation_id, d.webhook_type, d.payload;
end $$;

-- Deletes succeeded dead letters. Parameter: for how many days they were not touched (null: deletes none). Returns nothing.
-- Locks what it deletes.
create or replace function public.prune_dead_letters(p_keep_days integer default 30) returns void
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, messaging, pg_temp as $$
begin
  delete from dead_letter_webhooks d
  where d.status = 'succeeded' and d.updated_at < now() - make_interval(days => p_keep_days);
end $$;

-- ------------------------------------------------------------------------------------------------------ who may what

-- Refunds come in parts. The second row of an invoice names it too, which this index forbade.
drop index if exists public.uq_org_wallet_txn_invoice_refund, organizations.uq_org_wallet_txn_invoice_refund;

revoke all on all functions in schema replay from public;

-- By name for each role that there is: they may have been given the right by name before.
do $$
declare
  v_of_users constant text[] := array[
    'public.ensure_wallet_exists_for_auth_user()',
    'public.ensure_org_wallet_exists(uuid)',
    'public.get_available_credits(uuid, uuid)',
    'public.get_credit_lot_breakdown(uuid, uuid)'];
  v_of_the_platform constant text[] := array[
    'public.wallet_apply_purchase(uuid, uuid, integer, integer, text, text)',
    'public.wallet_apply_refund(uuid, uuid, integer, text)',
    'public.wallet_freeze_if_negative(uuid)',
    'public.recompute_wallet_balance(uuid)',
    'public.org_wallet_apply_purchase(uuid, integer, uuid, text, text)',
    'public.org_wallet_apply_refund(uuid, integer, uuid, text, text)',
    'public.org_wallet_apply_spend(uuid, integer, text, uuid, text)',
    'public.org_wallet_freeze_if_negative(uuid)',
    'public.recompute_org_wallet_balance(uuid)',
    'public.deduct_credits_fifo(integer, uuid, uuid)',
    'public.dlq_enqueue_webhook(uuid, text, jsonb, timestamptz, text)',
    'public.dlq_set_status(uuid, text, text)',
    'public.dlq_pop_next(text)',
    'public.prune_dead_letters(integer)'];
  v_functions constant text := array_to_string(v_of_users || v_of_the_platform, ', ');
  v_function text;
  v_role text;
  v_table regclass;
begin
  execute format('revoke all on function %s from public', v_functions);
  -- By which it is known that they are these.
  foreach v_function in array v_of_users || v_of_the_platform loop
    execute format('comment on function %s is %L', v_function, 'liventix');
  end loop;
  for v_role in select r.rolname from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on function %s from %I', v_functions, v_role);
    if v_role = 'service_role' then
      execute format('grant execute on function %s to %I', v_functions, v_role);
    elsif v_role = 'authenticated' then
      execute format('grant execute on function %s to %I', array_to_string(v_of_users, ', '), v_role);
    end if;
  end loop;

  -- Whoever can insert rows of a wallet can have them brought into its balance. The table, and the view under its old name.
  for v_table, v_role in
    select to_regclass(t.name), r.rolname
    from unnest(array['public.wallet_transactions', 'payments.wallet_transactions']) as t (name), pg_roles r
    where to_regclass(t.name) is not null and r.rolname in ('anon', 'authenticated')
  loop
    execute format('revoke insert on table %s from %I', v_table, v_role);
  end loop;

  -- A policy lets users change their own wallet: its settings, but not what it holds, whose it is and whether it is frozen.
  for v_table, v_role in
    select to_regclass(t.name), r.rolname
    from unnest(array['public.wallets', 'payments.wallets', 'public.org_wallets', 'organizations.org_wallets']) as t (name), pg_roles r
    where to_regclass(t.name) is not null and r.rolname in ('anon', 'authenticated')
  loop
    execute format('revoke update on table %s from %I', v_table, v_role);
    execute (
      select format('grant update (%s) on table %s to %I', string_agg(quote_ident(a.attname), ', ' order by a.attnum), v_table, v_role)
      from pg_attribute a
      where a.attrelid = v_table and a.attnum > 0 and not a.attisdropped
        and a.attname not in ('id', 'user_id', 'org_id', 'balance_credits', 'status', 'created_at'));
  end loop;
end $$;
