-- What a row is by the log, wherever that must be told for single rows: after a time in which nothing was captured, after one in which
-- nothing was mirrored, and of a type that nobody knows.

-- A row of a type that no flow is known for is a finding, which somebody must sign for before its owner is cut over.
alter function replay.judge_row(integer, text, replay.row_image, uuid) rename to judge_row_of_known_type;
create function replay.judge_row(p_book_id integer, p_source text, p_row replay.row_image, p_account_id uuid) returns replay.judgement
language plpgsql stable as $$
begin
  if p_row.delta <> 0 and (p_row.type in ('purchase', 'refund', 'spend', 'adjustment', 'promo')) is not true then
    return row('unexplained', 0, null)::replay.judgement;
  end if;
  return replay.judge_row_of_known_type(p_book_id, p_source, p_row, p_account_id);
end $$;

-- What nobody can explain about a wallet, of its balance (signed) and of its rows (without a sign: one does not make up for another).
create function replay.unexplained_cents(p_balance_cents bigint, p_rows_cents bigint) returns bigint
language sql immutable parallel safe
return p_balance_cents + case when p_balance_cents < 0 then -p_rows_cents else p_rows_cents end;

-- A wallet whose account this is; of one that was made anew for its owner, either.
create function replay.wallet_of_account(p_book_id integer, p_source text, p_account_id uuid) returns uuid
language sql stable
return (
  select w.wallet_id from replay.wallets w
  where w.account_id = p_account_id and w.source = p_source and w.book_id = p_book_id order by w.wallet_id limit 1);

-- The row that the mirror writes for a transaction, as replay.mirror_row does.
create function replay.mirrored_image(p_row replay.mirrored_rows) returns replay.row_image
language sql stable
return (
  select row(p_row.legacy_id, replay.wallet_of_account(p_row.book_id, p_row.source, p_row.account_id), e.effective_at, n.cents,
    case
      when e.payload ->> 'reference_type' = 'credit_purchase' and n.cents > 0 then 'purchase'
      when e.payload ->> 'reference_type' = 'campaign_spend' and n.cents < 0 then 'spend'
      when e.payload ->> 'reference_type' = 'refund' and n.cents < 0 then 'refund'
      else 'adjustment' end,
    e.payload ->> 'reference_type',
    coalesce(payments.try_uuid(e.payload ->> 'reference_id')::text,
      case p_row.source when 'wallet_transactions' then replay.bounded(e.payload ->> 'reference_id') end),
    null, null, null, null)::replay.row_image
  from payments.events e
  cross join lateral (
    select -sum(x.amount_cents)::bigint as cents from payments.entries x
    where x.transaction_id = p_row.event_id and x.account_id = p_row.account_id and x.book_id = p_row.book_id
  ) n
  where e.event_id = p_row.event_id and e.book_id = p_row.book_id);

-- The account of an image's wallet; null where it has none, or is not told.
create function replay.account_of_image(p_book_id integer, p_source text, p_image replay.row_image) returns uuid
language sql stable
return (
  select w.account_id from replay.wallets w
  where w.wallet_id = (p_image).wallet_id and w.source = p_source and w.book_id = p_book_id);

-- The image of a row as it was read; of one that moves nothing, without its wallet.
create function replay.imported_image(p_book_id integer, p_source text, p_id uuid) returns replay.row_image
language sql stable
return (
  select row(p_id, replay.wallet_of_account(p_book_id, p_source, l.account_id),
    -- A row without a time is effective when it was recorded.
    coalesce((l.legacy ->> 'created_at')::timestamptz, nullif(e.effective_at, e.recorded_at)),
    l.delta, l.legacy ->> 'type', l.legacy ->> 'reference_type', e.payload ->> 'reference_id',
    e.idempotency_scope, coalesce(e.idempotency_key, l.legacy ->> 'key'), null, null)::replay.row_image
  from payments.events e
  cross join lateral (
    select e.payload #> '{metadata,legacy}' as legacy, payments.try_uuid(e.payload #>> '{entries,-1,account_id}') as account_id,
           coalesce(-payments.try_amount(e.payload #>> '{entries,-1,amount_cents}'), 0) as delta
  ) l
  where e.book_id = p_book_id and e.event_id = replay.row_event_id(p_source, p_id, 1));

-- A row as the log has it: as its corrections left it, as it mirrors a transaction, or as it was read. None where the log does not have
-- it, or has it as deleted; two where it went to another wallet, and what it left has not been told yet.
create function replay.booked_images(p_book_id integer, p_source text, p_id uuid) returns setof replay.row_image
language plpgsql stable as $$
declare
  c_none constant uuid := '00000000-0000-0000-0000-000000000000';
  v_told uuid[] := '{}';
  v_step record;
begin
  -- Of each account, the last word.
  for v_step in
    select i.image, i.is_there, coalesce(replay.account_of_image(p_book_id, p_source, i.image), c_none) as account_id
    from (
      select n.version, side.is_there,
             jsonb_populate_record(null::replay.row_image,
               nullif(e.payload #> array['metadata', 'legacy', side.name], 'null')) as image
      from generate_series(2, (
        select c.version from replay.changed_rows c
        where c.legacy_id = p_id and c.source = p_source and c.book_id = p_book_id)) as n (version)
      join payments.events e on e.book_id = p_book_id and e.event_id = replay.row_event_id(p_source, p_id, n.version)
      cross join (values ('new', true), ('old', false)) as side (name, is_there)
      union all
      select 1, true, replay.mirrored_image(m)
      from replay.mirrored_rows m
      where m.legacy_id = p_id and m.source = p_source and m.book_id = p_book_id
      union all
      select 1, true, replay.imported_image(p_book_id, p_source, p_id)
    ) i
    where (i.image).id is not null
    order by i.version desc, i.is_there desc
  loop
    continue when v_step.account_id = any (v_told);
    v_told := v_told || v_step.account_id;
    if v_step.is_there then
      return next v_step.image;
    end if;
  end loop;
end $$;

-- As in 0031; what the row was before is asked of the log too: what somebody changed unseen is no part of what is taken back.
create or replace function replay.correction_event(
  p_book_id integer, p_change replay.captured_rows, p_version integer, p_account_id uuid, p_open_since timestamptz
) returns payments.new_event
language plpgsql stable as $$
declare
  v_source constant text := p_change.source;
  v_id constant uuid := coalesce((p_change.new).id, (p_change.old).id);
  v_cause constant text := case when (p_change.new).id is null then 'deleted_row' else 'changed_row' end;
  v_event_id constant uuid := replay.row_event_id(v_source, v_id, p_version);
  v_effective_at constant timestamptz := greatest(p_change.captured_at, p_open_since);
  -- On its wallet's account, or nowhere. A row that went to another wallet is taken from each by a change of its own.
  v_old constant jsonb := (
    select to_jsonb(i)
    from replay.booked_images(p_book_id, v_source, v_id) i
    cross join lateral (select replay.account_of_image(p_book_id, v_source, i) as id) a
    where a.id is null or a.id = p_account_id
    order by a.id nulls last
    limit 1);
  v_metadata constant jsonb := jsonb_build_object('cause', v_cause, 'legacy', jsonb_build_object(
    'table', v_source, 'id', v_id, 'version', p_version, 'operation', p_change.operation, 'xid', p_change.xid::text,
    'old', v_old, 'new', to_jsonb(p_change.new)));
  -- What the wallet gains by it; of an orphan, which was booked nowhere, nothing.
  v_gain constant bigint := case when p_account_id is null then 0
    else coalesce((p_change.new).delta, 0) - replay.booked_cents(p_book_id, v_source, v_id, p_account_id) end;
begin
  if v_gain = 0 then
    return row('note.recorded', v_event_id, v_effective_at, null, null, null,
      jsonb_build_object('note', v_cause, 'metadata', v_metadata))::payments.new_event;
  end if;
  return row('transaction.posted', v_event_id, v_effective_at, null, null, null, jsonb_build_object(
    'reference_type', 'adjustment', 'reference_id', v_id, 'metadata', v_metadata, 'entries', jsonb_build_array(
      replay.entry(p_account_id, -v_gain),
      replay.entry(replay.platform_account_id(p_book_id, 'suspense', v_cause), v_gain))))::payments.new_event;
end $$;

create table replay.unmirrored (
  wallet_id uuid not null,
  source text not null,
  book_id integer not null constraint unmirrored_book_id_fkey references payments.books,
  constraint unmirrored_pkey primary key (wallet_id, source, book_id)
);
comment on table replay.unmirrored is 'Wallets that the ledger kept when the mirror was found gone, until somebody has looked whether they lack something.';

-- Writes to an old wallet that the ledger keeps what its trigger on entries did not, while it was not there: a row for each transaction
-- that was asked for and has none. And to its balance what the last of these come to, where that makes it what the ledger has: what else
-- it differs by, old code may have written; p_also_differing: then too, and it stays different. The caller holds the wallet's row; this
-- locks its account, too.
create function replay.mirror_missed(p_book_id integer, p_source text, p_wallet_id uuid, p_also_differing boolean) returns void
language plpgsql
set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_missed record;
  v_balance bigint;
  v_lacking bigint;
  -- By what is posted since the mirror wrote its last row, with which it put the balance right.
  v_last_seq bigint;
  v_since bigint := 0;
  v_from_here bigint := 0;
  v_gain bigint;
begin
  select w.* into v_wallet
  from replay.wallets w
  where w.wallet_id = p_wallet_id and w.source = p_source and w.book_id = p_book_id and w.mode = 'ledger'
  for share;
  delete from replay.unmirrored u where u.wallet_id = p_wallet_id and u.source = p_source and u.book_id = p_book_id;
  if v_wallet.wallet_id is null or not replay.has_wallet(p_source, p_wallet_id) then
    return;
  end if;
  perform payments.lock_accounts(p_book_id, array[v_wallet.account_id]);
  if p_source = 'wallet_transactions' then
    select w.balance_credits into v_balance from wallets w where w.id = p_wallet_id;
  else
    select w.balance_credits into v_balance from org_wallets w where w.id = p_wallet_id;
  end if;
  v_lacking := replay.balance_of(v_wallet) - v_balance;
  v_last_seq := coalesce((
    select n.account_seq
    from payments.entries n
    where n.account_id = v_wallet.account_id and n.book_id = p_book_id and exists (
      select from replay.mirrored_rows m
      where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    order by n.account_seq desc
    limit 1), 0);
  for v_missed in
    select n.transaction_id, min(n.account_seq) as account_seq, -sum(n.amount_cents)::bigint as delta,
           min(n.effective_at) as effective_at, min(n.reference_type) as reference_type, min(n.reference_id) as reference_id
    from payments.entries n
    where n.book_id = p_book_id and n.account_id = v_wallet.account_id
      and (select v.request_hash is not null from payments.events v where v.book_id = n.book_id and v.position = n.event_position)
      and not exists (
        select from replay.mirrored_rows m
        where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    group by n.transaction_id
    having sum(n.amount_cents) <> 0
    order by min(n.account_seq) desc
  loop
    perform replay.mirror_row(p_source, p_wallet_id, v_missed.delta, v_missed.reference_type, v_missed.reference_id,
      v_missed.effective_at, v_missed.transaction_id, v_wallet.account_id, p_book_id);
    v_from_here := v_from_here + v_missed.delta;
    if v_from_here = v_lacking then
      v_gain := v_lacking;
    end if;
    if v_missed.account_seq > v_last_seq then
      v_since := v_from_here;
    end if;
  end loop;
  if v_lacking = 0 or v_gain is null and not p_also_differing then
    return;
  end if;
  v_balance := v_balance + coalesce(v_gain, v_since);
  if p_source = 'wallet_transactions' then
    update wallets w set balance_credits = v_balance where w.id = p_wallet_id and w.balance_credits <> v_balance;
  else
    update org_wallets w set balance_credits = v_balance where w.id = p_wallet_id and w.balance_credits <> v_balance;
  end if;
exception
  when numeric_value_out_of_range then
    perform replay.raise_code('MIRROR_OVERFLOW', format(
      'Wallet %s would hold or move more than its old column takes. Post the opposite first.', p_wallet_id));
end $$;

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
