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

create index findings_unexplained on replay.findings (source, book_id, legacy_id) where cause = 'unexplained';

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

-- A row as the log has it: as its last correction left it, as it mirrors a transaction, or as it was read; of one that moves nothing,
-- without its wallet. Null for one that the log does not have, or has as deleted.
create function replay.booked_image(p_book_id integer, p_source text, p_id uuid) returns replay.row_image
language plpgsql stable as $$
declare
  v_changed replay.changed_rows;
  v_mirrored replay.mirrored_rows;
begin
  select c.* into v_changed
  from replay.changed_rows c
  where c.legacy_id = p_id and c.source = p_source and c.book_id = p_book_id;
  if found then
    return v_changed.image;
  end if;
  select m.* into v_mirrored
  from replay.mirrored_rows m
  where m.legacy_id = p_id and m.source = p_source and m.book_id = p_book_id;
  if found then
    return replay.mirrored_image(v_mirrored);
  end if;
  return (select row(p_id, replay.wallet_of_account(p_book_id, p_source, l.account_id),
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
end $$;

-- Writes to an old wallet that the ledger keeps what its trigger on entries did not, while it was not there: a row for each transaction
-- that was asked for and has none, and what that comes to. What else the balance differs by stays: old code may have written it. The
-- caller holds the wallet's row; this locks its account, too.
create function replay.mirror_missed(p_book_id integer, p_source text, p_wallet_id uuid) returns void
language plpgsql
set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_missed record;
  v_last_seq bigint;
  v_gain bigint := 0;
begin
  select w.* into v_wallet
  from replay.wallets w
  where w.wallet_id = p_wallet_id and w.source = p_source and w.book_id = p_book_id and w.mode = 'ledger'
  for share;
  if not found or not replay.has_wallet(p_source, p_wallet_id) then
    return;
  end if;
  perform payments.lock_accounts(p_book_id, array[v_wallet.account_id]);
  -- With every row it writes, the mirror puts the balance right.
  v_last_seq := (
    select n.account_seq
    from payments.entries n
    where n.account_id = v_wallet.account_id and n.book_id = p_book_id and exists (
      select from replay.mirrored_rows m
      where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    order by n.account_seq desc
    limit 1);
  for v_missed in
    select n.transaction_id, min(n.account_seq) as account_seq, -sum(n.amount_cents)::bigint as delta, min(n.effective_at) as effective_at,
           min(n.reference_type) as reference_type, min(n.reference_id) as reference_id
    from payments.entries n
    where n.book_id = p_book_id and n.account_id = v_wallet.account_id
      and (select v.request_hash is not null from payments.events v where v.book_id = n.book_id and v.position = n.event_position)
      and not exists (
        select from replay.mirrored_rows m
        where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    group by n.transaction_id
    having sum(n.amount_cents) <> 0
    order by min(n.account_seq)
  loop
    perform replay.mirror_row(p_source, p_wallet_id, v_missed.delta, v_missed.reference_type, v_missed.reference_id,
      v_missed.effective_at, v_missed.transaction_id, v_wallet.account_id, p_book_id);
    if v_missed.account_seq > v_last_seq is not false then
      v_gain := v_gain + v_missed.delta;
    end if;
  end loop;
  if p_source = 'wallet_transactions' then
    update wallets w set balance_credits = w.balance_credits + v_gain
    where w.id = p_wallet_id and v_gain <> 0 and w.balance_credits <> replay.balance_of(v_wallet);
  else
    update org_wallets w set balance_credits = w.balance_credits + v_gain
    where w.id = p_wallet_id and v_gain <> 0 and w.balance_credits <> replay.balance_of(v_wallet);
  end if;
end $$;

revoke all on all functions in schema replay from public;
