-- Wallets that the ledger keeps: the old tables mirror it, and what old code writes there is posted.
--
-- Nothing tells a write of the mirror from one of old code but what the log says: a row that the log has is not posted again, and a
-- balance that the log has is not either. So there is no flag that could be set by somebody else, and no echo.

create table replay.written (
  wallet_id uuid not null,
  source text not null,
  xid xid8 not null,
  rows_cents bigint not null default 0,
  balance_cents bigint not null default 0,
  book_id integer not null constraint written_book_id_fkey references payments.books,
  constraint written_pkey primary key (wallet_id, source, book_id)
);

comment on table replay.written is 'What old code''s last transaction wrote to a wallet as a row without the balance that goes with it, or as a balance without its row: the other of the two may follow in it, and says the same.';

create table replay.row_counts (
  source text not null,
  rows integer not null,
  delta_cents bigint not null,
  id_hash numeric not null,
  book_id integer not null constraint row_counts_book_id_fkey references payments.books
);

comment on table replay.row_counts is 'What progress lacks of rows of wallets that the ledger keeps: whoever writes one would wait for all others there. The next run adds them up.';

-- Counts that the log has a row in place of another (null: of none), or none any more.
create function replay.count_row(p_book_id integer, p_source text, p_old replay.row_image, p_new replay.row_image) returns void
language sql as $$
  insert into replay.row_counts (source, rows, delta_cents, id_hash, book_id)
  values (p_source, (p_new.id is not null)::integer - (p_old.id is not null)::integer,
    coalesce(p_new.delta, 0) - coalesce(p_old.delta, 0),
    coalesce(uuid_hash_extended(p_new.id, 0), 0)::numeric - coalesce(uuid_hash_extended(p_old.id, 0), 0), p_book_id)
$$;

-- Adds those counts to progress.
create function replay.fold_row_counts(p_book_id integer) returns void
language sql as $$
  with counted as (
    delete from replay.row_counts c where c.book_id = p_book_id returning c.source, c.rows, c.delta_cents, c.id_hash
  ), summed as (
    select source, sum(rows) as rows, sum(delta_cents) as delta_cents, sum(id_hash) as id_hash from counted group by source
  )
  update replay.progress p
  set rows = p.rows + s.rows, delta_cents = p.delta_cents + s.delta_cents, id_hash = p.id_hash + s.id_hash
  from summed s
  where p.book_id = p_book_id and p.source = s.source
$$;

-- What the log says a wallet has. The last entry knows it, also where the balance's own row is written after it.
create function replay.balance_of(p_wallet replay.wallets) returns bigint
language sql stable
return coalesce((
  select -e.balance_after_cents from payments.entries e
  where e.book_id = (p_wallet).book_id and e.account_id = (p_wallet).account_id
  order by e.account_seq desc
  limit 1), 0);

-- Notes what this transaction of old code wrote to a wallet, beside what it wrote before; a row counts where its balance has not
-- been written, a balance where its row has not.
create function replay.note_written(p_wallet replay.wallets, p_rows_cents bigint, p_balance_cents bigint) returns void
language sql as $$
  insert into replay.written as w (wallet_id, source, xid, rows_cents, balance_cents, book_id)
  values (p_wallet.wallet_id, p_wallet.source, pg_current_xact_id(), p_rows_cents, p_balance_cents, p_wallet.book_id)
  on conflict (wallet_id, source, book_id) do update
  set xid = excluded.xid,
      rows_cents = excluded.rows_cents + case when w.xid = excluded.xid then w.rows_cents else 0 end,
      balance_cents = excluded.balance_cents + case when w.xid = excluded.xid then w.balance_cents else 0 end
$$;

-- What this transaction wrote to a wallet so far, null where nothing.
create function replay.written_by_now(p_wallet replay.wallets) returns replay.written
language sql stable as $$
  select w.* from replay.written w
  where w.wallet_id = p_wallet.wallet_id and w.source = p_wallet.source and w.book_id = p_wallet.book_id
    and w.xid = pg_current_xact_id_if_assigned()
$$;

-- Posts a change that old code made to a row of a wallet that the ledger keeps. A row that is written moves the wallet by its delta,
-- unless its transaction moved the balance by that before; one that is changed or deleted leaves the balance as it is, as it did in
-- the old platform, and is corrected against suspense. A row that mirrors the log is not posted. Locks the accounts that it posts to.
create function replay.post_row_change(
  p_wallet replay.wallets, p_operation text, p_old replay.row_image, p_new replay.row_image
) returns void
language plpgsql set timezone = 'UTC' as $$
declare
  v_book_id constant integer := p_wallet.book_id;
  v_source constant text := p_wallet.source;
  v_id constant uuid := coalesce(p_new.id, p_old.id);
  v_judgement replay.judgement;
  v_open_since timestamptz;
  v_balance bigint;
  v_written_cents bigint;
  v_version integer;
begin
  if p_operation = 'insert' and exists (
      select from replay.mirrored_rows m where m.legacy_id = v_id and m.source = v_source and m.book_id = v_book_id
        and not exists (
          select from replay.changed_rows c where c.legacy_id = v_id and c.source = v_source and c.book_id = v_book_id))
  then
    perform replay.count_row(v_book_id, v_source, null, p_new);
    return;
  end if;
  perform replay.count_row(v_book_id, v_source, p_old, p_new);
  v_open_since := payments.open_since(v_book_id);
  perform replay.lock_for_old_code(p_wallet);

  v_balance := replay.balance_of(p_wallet);

  if not replay.is_in_log(v_book_id, v_source, v_id) then
    v_judgement := replay.judge_row(v_book_id, v_source, p_new, p_wallet.account_id);
    perform payments.import_events(v_book_id, array[p_wallet.account_id], array[replay.row_event(
      v_book_id, v_source, replay.with_free_key(v_book_id, p_new), p_wallet.account_id, v_judgement.cause, v_judgement.explained,
      v_judgement.paid, v_open_since, replay.flow_accounts(v_book_id))]);
    v_written_cents := (replay.written_by_now(p_wallet)).balance_cents;
    if p_new.delta <> 0 and sign(v_written_cents) = sign(p_new.delta) and abs(v_written_cents) >= abs(p_new.delta) then
      -- It explains a balance that was written before it.
      perform replay.post_balance(p_wallet, v_balance, 'balance_without_row');
      perform replay.note_written(p_wallet, 0, -p_new.delta);
    else
      perform replay.note_written(p_wallet, p_new.delta, 0);
    end if;
    return;
  end if;

  v_version := 1 + (
    select coalesce(max(c.version), 1) from replay.changed_rows c
    where c.legacy_id = v_id and c.source = v_source and c.book_id = v_book_id);
  perform payments.import_events(v_book_id, array[p_wallet.account_id], array[replay.correction_event(
    v_book_id,
    row(null, pg_current_xact_id(), clock_timestamp(), v_source, p_operation, p_wallet.wallet_id, p_old, p_new)::replay.captured_rows,
    v_version, p_wallet.account_id, v_open_since)]);
  perform replay.keep_version(v_book_id, v_source, v_id, v_version, p_new);
  if p_operation = 'insert' then
    perform replay.note_written(p_wallet, p_new.delta, 0);
  elsif replay.has_wallet(v_source, p_wallet.wallet_id) then
    perform replay.post_balance(p_wallet, v_balance, 'balance_without_row');
  end if;
end $$;

-- Locks every account that old code's writes to a wallet may post to: all at once, because its next statement may post to others, and
-- whoever takes locks in two rounds takes them out of order.
create function replay.lock_for_old_code(p_wallet replay.wallets) returns void
language sql as $$
  select payments.lock_accounts(p_wallet.book_id, array[p_wallet.account_id] || replay.platform_account_ids(p_wallet.book_id))
$$;

-- Locks a wallet of the old tables as an update of its balance does; it may be gone.
create function replay.lock_old_wallet(p_source text, p_wallet_id uuid) returns void
language plpgsql as $$
begin
  if p_source = 'wallet_transactions' then
    perform from wallets w where w.id = p_wallet_id for no key update;
  else
    perform from org_wallets w where w.id = p_wallet_id for no key update;
  end if;
end $$;

-- Whether the old table still has a wallet: where it was deleted, its rows go after it.
create function replay.has_wallet(p_source text, p_wallet_id uuid) returns boolean
language plpgsql stable as $$
begin
  if p_source = 'wallet_transactions' then
    return exists (select from wallets w where w.id = p_wallet_id);
  end if;
  return exists (select from org_wallets w where w.id = p_wallet_id);
end $$;

create function replay.count_drift(p_wallet replay.wallets, p_cause text, p_cents bigint) returns void
language sql as $$
  insert into replay.drift as d (wallet_id, source, cause, cents, book_id)
  values (p_wallet.wallet_id, p_wallet.source, p_cause, p_cents, p_wallet.book_id)
  on conflict (wallet_id, source, cause, book_id) do update set cents = d.cents + excluded.cents
$$;

-- Posts to suspense what a balance is beyond the log's; nothing where they agree. The account is locked by the caller.
create function replay.post_balance(p_wallet replay.wallets, p_balance bigint, p_cause text) returns void
language plpgsql as $$
declare
  v_book_id constant integer := p_wallet.book_id;
  v_before constant bigint := replay.balance_of(p_wallet);
  v_suspense constant uuid := replay.platform_account_id(p_wallet.book_id, 'suspense', p_cause);
begin
  if p_balance = v_before then
    return;
  end if;
  perform replay.count_drift(p_wallet, p_cause, p_balance - v_before);
  perform payments.import_events(v_book_id, array[p_wallet.account_id, v_suspense], array[row('transaction.posted',
    payments.named_uuid('drift:' || p_wallet.source || ':' || p_wallet.wallet_id || ':' || (
      select b.last_seq from payments.balances b where b.account_id = p_wallet.account_id and b.book_id = v_book_id)),
    null, null, null, null, jsonb_build_object(
      'reference_type', 'adjustment', 'reference_id', p_wallet.wallet_id,
      'metadata', jsonb_build_object('cause', p_cause, 'wallet_id', p_wallet.wallet_id, 'legacy_balance_cents', p_balance,
        'ledger_balance_cents', v_before),
      'entries', jsonb_build_array(
        replay.entry(v_suspense, p_balance - v_before),
        replay.entry(p_wallet.account_id, v_before - p_balance))))::payments.new_event]);
end $$;

-- Posts what old code wrote over the balance of a wallet that the ledger keeps, as far as the log does not say it already.
create function replay.post_balance_change(p_wallet replay.wallets, p_balance bigint) returns void
language plpgsql as $$
declare
  v_before bigint;
begin
  -- As the mirror itself writes it: it has locked what it posts to, and no more is to be locked beside that.
  if p_balance = replay.balance_of(p_wallet) then
    return;
  end if;
  perform replay.lock_for_old_code(p_wallet);
  v_before := replay.balance_of(p_wallet);
  if p_balance <> v_before then
    perform replay.post_balance(p_wallet, p_balance, 'balance_without_row');
    perform replay.note_written(p_wallet, 0, p_balance - v_before);
  end if;
end $$;

-- Posts what old code opened a wallet with that the ledger keeps from its beginning: on top of what its owner has there already,
-- of which the wallet is given the rows and the balance. Locks its account.
create function replay.post_opening(p_wallet replay.wallets, p_balance bigint) returns void
language plpgsql as $$
declare
  v_before bigint;
begin
  perform replay.bind_wallets(p_wallet.book_id, p_wallet.source, array[p_wallet.wallet_id], array[p_wallet.owner_id]);
  perform replay.lock_for_old_code(p_wallet);
  v_before := replay.balance_of(p_wallet);
  perform replay.mirror_row(p_wallet.source, p_wallet.wallet_id, m.delta, m.reference_type, m.reference_id, m.effective_at,
    m.transaction_id, p_wallet.account_id, p_wallet.book_id)
  from (
    select n.transaction_id, -sum(n.amount_cents)::bigint as delta, min(n.effective_at) as effective_at,
           min(n.reference_type) as reference_type, min(n.reference_id) as reference_id
    from payments.entries n
    join payments.events v on v.book_id = n.book_id and v.position = n.event_position and v.request_hash is not null
    where n.book_id = p_wallet.book_id and n.account_id = p_wallet.account_id and not exists (
      select from replay.mirrored_rows m
      where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    group by n.transaction_id, n.event_position
    having sum(n.amount_cents) <> 0
    order by n.event_position
  ) m;
  if p_balance <> 0 then
    perform replay.post_balance(p_wallet, v_before + p_balance, 'opening_balance');
    perform replay.note_written(p_wallet, 0, p_balance);
  elsif v_before <> 0 and p_wallet.source = 'wallet_transactions' then
    update wallets w set balance_credits = v_before where w.id = p_wallet.wallet_id;
  elsif v_before <> 0 then
    update org_wallets w set balance_credits = v_before where w.id = p_wallet.wallet_id;
  end if;
end $$;

-- Posts that a wallet that the ledger keeps is gone: what it had beyond its rows. They go with it, each by a change of its own, which
-- comes after this one.
create function replay.post_removal(p_wallet replay.wallets) returns void
language plpgsql as $$
declare
  v_drift constant bigint := (
    select coalesce(sum(d.cents), 0) from replay.drift d
    where d.wallet_id = p_wallet.wallet_id and d.source = p_wallet.source and d.book_id = p_wallet.book_id);
begin
  perform replay.lock_for_old_code(p_wallet);
  perform replay.post_balance(p_wallet, replay.balance_of(p_wallet) - v_drift, 'orphan');
end $$;

-- Before the balance of a wallet that the ledger keeps is written: where it moves by what the rows of this very transaction moved
-- already, as in `balance = balance + 5` after a row of 5, it is what the log says. Parameter: the source.
create function replay.take_balance() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_written replay.written;
  v_balance bigint;
begin
  if new.balance_credits is not distinct from old.balance_credits then
    return new;
  end if;
  v_wallet := replay.hold_wallet(tg_argv[0], old.id);
  if v_wallet.mode is distinct from 'ledger' then
    return new;
  end if;
  v_written := replay.written_by_now(v_wallet);
  if v_written.rows_cents <> 0 then
    perform replay.lock_for_old_code(v_wallet);
    v_balance := replay.balance_of(v_wallet);
    if sign(new.balance_credits - v_balance) = sign(v_written.rows_cents)
      and abs(new.balance_credits - v_balance) <= abs(v_written.rows_cents)
    then
      perform replay.note_written(v_wallet, v_balance - new.balance_credits, 0);
      new.balance_credits := v_balance;
    end if;
  end if;
  return new;
end $$;

-- Mirrors new entries on the accounts of wallets that the ledger keeps: a row for each transaction that is not one of old code's own
-- rows, and the balance. It holds the locks of those accounts already, while old code takes a wallet's row first and then posts: so
-- it waits for that row only so long, and the whole transaction is to be run again then, as after a deadlock.
create function replay.mirror_entries() returns trigger
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, pg_temp
set lock_timeout = '20ms' as $$
declare
  v_moved record;
begin
  -- A snapshot of before a cut-over shows the mode of before: whoever has one fails here, and runs again.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from replay.wallets w
    where exists (select from new_entries n where n.account_id = w.account_id and n.book_id = w.book_id)
    for share;
  end if;
  for v_moved in
    select w.wallet_id, w.source, n.event_position, n.transaction_id, w.account_id, w.book_id,
           -sum(n.amount_cents)::bigint as delta,
           -(array_agg(n.balance_after_cents order by n.account_seq desc))[1] as balance,
           min(n.effective_at) as effective_at, min(n.reference_type) as reference_type, min(n.reference_id) as reference_id
    from new_entries n
    join replay.wallets w on w.account_id = n.account_id and w.book_id = n.book_id and w.mode = 'ledger'
    group by w.wallet_id, w.source, n.event_position, n.transaction_id, w.account_id, w.book_id
    order by w.wallet_id, n.event_position
  loop
    -- Of a wallet that was deleted the account remains.
    continue when not replay.has_wallet(v_moved.source, v_moved.wallet_id);
    perform from replay.wallets w
    where w.wallet_id = v_moved.wallet_id and w.source = v_moved.source and w.book_id = v_moved.book_id
    for share;
    -- What the replay posted stands for something that old code wrote, and was asked for by nobody.
    if v_moved.delta <> 0 and (
      select v.request_hash is not null from payments.events v
      where v.book_id = v_moved.book_id and v.position = v_moved.event_position)
    then
      perform replay.mirror_row(v_moved.source, v_moved.wallet_id, v_moved.delta, v_moved.reference_type, v_moved.reference_id,
        v_moved.effective_at, v_moved.transaction_id, v_moved.account_id, v_moved.book_id);
    end if;
    if v_moved.source = 'wallet_transactions' then
      update wallets w set balance_credits = v_moved.balance
      where w.id = v_moved.wallet_id and w.balance_credits <> v_moved.balance;
    else
      update org_wallets w set balance_credits = v_moved.balance
      where w.id = v_moved.wallet_id and w.balance_credits <> v_moved.balance;
    end if;
  end loop;
  return null;
exception
  when lock_not_available then
    raise exception using errcode = 'deadlock_detected', message =
      'A wallet of the old platform is locked by a transaction that may wait for this one: run the whole transaction again.';
  when numeric_value_out_of_range then
    perform replay.raise_code('MIRROR_OVERFLOW', format(
      'Wallet %s would hold %s credits, more than its old column takes. Post a smaller amount.', v_moved.wallet_id, v_moved.balance));
end $$;

-- Writes the row of the old tables that mirrors a transaction, and that it does.
create function replay.mirror_row(
  p_source text, p_wallet_id uuid, p_delta bigint, p_reference_type text, p_reference_id text, p_at timestamptz, p_event_id uuid,
  p_account_id uuid, p_book_id integer
) returns void
language plpgsql as $$
declare
  v_id constant uuid := payments.named_uuid('mirror:' || p_event_id || ':' || p_account_id);
  -- By what the old tables' own checks allow.
  v_type constant text := case
    when p_reference_type = 'credit_purchase' and p_delta > 0 then 'purchase'
    when p_reference_type = 'campaign_spend' and p_delta < 0 then 'spend'
    when p_reference_type = 'refund' and p_delta < 0 then 'refund'
    else 'adjustment' end;
begin
  insert into replay.mirrored_rows (legacy_id, source, event_id, account_id, book_id)
  values (v_id, p_source, p_event_id, p_account_id, p_book_id);
  if p_source = 'wallet_transactions' then
    insert into wallet_transactions (id, wallet_id, type, credits_delta, reference_type, reference_id, created_at)
    values (v_id, p_wallet_id, v_type, p_delta, p_reference_type, p_reference_id, p_at);
  else
    insert into org_wallet_transactions (id, wallet_id, transaction_type, credits_delta, reference_type, reference_id, created_at)
    values (v_id, p_wallet_id, v_type, p_delta, p_reference_type, payments.try_uuid(p_reference_id), p_at);
  end if;
end $$;

create table replay.approvals (
  wallet_id uuid not null,
  source text not null,
  cents bigint not null,
  event_id uuid not null,
  book_id integer not null constraint approvals_book_id_fkey references payments.books,
  constraint approvals_pkey primary key (wallet_id, source, book_id)
);

comment on table replay.approvals is 'Unexplained differences that somebody signed for, as large as they were then; the event says who and why.';

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
