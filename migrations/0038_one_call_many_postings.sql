-- Postings of one call on one wallet, a row that two bring into the log at once, and what stays of the old tables in the end.

-- ---------------------------------------------------------------------------------------------- the old tables' balance

-- The balance of a wallet of the old tables; null where it is gone.
create function replay.old_balance(p_source text, p_wallet_id uuid) returns bigint
language plpgsql stable as $$
begin
  if p_source = 'wallet_transactions' then
    return (select w.balance_credits from wallets w where w.id = p_wallet_id);
  end if;
  return (select w.balance_credits from org_wallets w where w.id = p_wallet_id);
end $$;

-- Writes a balance to a wallet of the old tables, where it has another one; it may be gone.
create function replay.write_old_balance(p_source text, p_wallet_id uuid, p_balance bigint) returns void
language plpgsql as $$
begin
  if p_source = 'wallet_transactions' then
    update wallets w set balance_credits = p_balance where w.id = p_wallet_id and w.balance_credits <> p_balance;
  else
    update org_wallets w set balance_credits = p_balance where w.id = p_wallet_id and w.balance_credits <> p_balance;
  end if;
end $$;

-- The type of the row that mirrors a transaction, by what the old tables' own checks allow.
create function replay.mirrored_type(p_reference_type text, p_delta bigint) returns text
language sql immutable parallel safe
return case
  when p_reference_type = 'credit_purchase' and p_delta > 0 then 'purchase'
  when p_reference_type = 'campaign_spend' and p_delta < 0 then 'spend'
  when p_reference_type = 'refund' and p_delta < 0 then 'refund'
  else 'adjustment' end;

-- As in 0029.
create or replace function replay.mirror_row(
  p_source text, p_wallet_id uuid, p_delta bigint, p_reference_type text, p_reference_id text, p_at timestamptz, p_event_id uuid,
  p_account_id uuid, p_book_id integer
) returns void
language plpgsql as $$
declare
  v_id constant uuid := payments.named_uuid('mirror:' || p_event_id || ':' || p_account_id);
  v_type constant text := replay.mirrored_type(p_reference_type, p_delta);
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

-- As in 0036.
create or replace function replay.mirrored_image(p_row replay.mirrored_rows) returns replay.row_image
language sql stable
return (
  select row(p_row.legacy_id, replay.wallet_of_account(p_row.book_id, p_row.source, p_row.account_id), e.effective_at, n.cents,
    replay.mirrored_type(e.payload ->> 'reference_type', n.cents), e.payload ->> 'reference_type',
    coalesce(payments.try_uuid(e.payload ->> 'reference_id')::text,
      case p_row.source when 'wallet_transactions' then replay.bounded(e.payload ->> 'reference_id') end),
    null, null, null, null)::replay.row_image
  from payments.events e
  cross join lateral (
    select -sum(x.amount_cents)::bigint as cents from payments.entries x
    where x.transaction_id = p_row.event_id and x.account_id = p_row.account_id and x.book_id = p_row.book_id
  ) n
  where e.event_id = p_row.event_id and e.book_id = p_row.book_id);

-- As in 0029, for many transactions of one statement: first the rows of all of them, then each wallet's balance, once. One that was
-- true in between is not what the log says when it is written, and would be taken for old code's word.
create or replace function replay.mirror_entries() returns trigger
language plpgsql security definer
set search_path = pg_catalog, public, payments, organizations, pg_temp
set lock_timeout = '20ms' as $$
declare
  v_wallet replay.wallets;
begin
  -- A snapshot of before a cut-over shows the mode of before: whoever has one fails here, and runs again.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from replay.wallets w
    where exists (select from new_entries n where n.account_id = w.account_id and n.book_id = w.book_id)
    for share;
  end if;
  for v_wallet in
    select w.*
    from (select distinct account_id, book_id from new_entries) n
    join replay.wallets w on w.account_id = n.account_id and w.book_id = n.book_id and w.mode = 'ledger'
    order by w.wallet_id
  loop
    -- Of a wallet that was deleted the account remains.
    continue when not replay.has_wallet(v_wallet.source, v_wallet.wallet_id);
    perform from replay.wallets w
    where w.wallet_id = v_wallet.wallet_id and w.source = v_wallet.source and w.book_id = v_wallet.book_id
    for share;
    perform replay.mirror_row(v_wallet.source, v_wallet.wallet_id, n.delta, n.reference_type, n.reference_id, n.effective_at,
      n.transaction_id, v_wallet.account_id, v_wallet.book_id)
    from (
      select e.transaction_id, e.event_position, -sum(e.amount_cents)::bigint as delta, min(e.effective_at) as effective_at,
             min(e.reference_type) as reference_type, min(e.reference_id) as reference_id
      from new_entries e
      where e.account_id = v_wallet.account_id and e.book_id = v_wallet.book_id
      group by e.transaction_id, e.event_position
      having sum(e.amount_cents) <> 0
      order by e.event_position
    ) n
    -- What the replay posted stands for something that old code wrote, and was asked for by nobody.
    where (
      select v.request_hash is not null from payments.events v
      where v.book_id = v_wallet.book_id and v.position = n.event_position);
    perform replay.write_old_balance(v_wallet.source, v_wallet.wallet_id, replay.balance_of(v_wallet));
  end loop;
  return null;
exception
  when lock_not_available then
    raise exception using errcode = 'deadlock_detected', message =
      'A wallet of the old platform is locked by a transaction that may wait for this one: run the whole transaction again.';
  when numeric_value_out_of_range then
    perform replay.raise_code('MIRROR_OVERFLOW', format(
      'Wallet %s would hold %s credits, or move by more than its old columns take. Post a smaller amount.',
      v_wallet.wallet_id, replay.balance_of(v_wallet)));
end $$;

-- What was asked for on a wallet's account and no row of the old tables mirrors, by transaction; the first of its entries tells the order.
create function replay.unmirrored_transactions(p_wallet replay.wallets)
returns table (transaction_id uuid, account_seq bigint, delta bigint, effective_at timestamptz, reference_type text, reference_id text)
language sql stable as $$
  select n.transaction_id, min(n.account_seq), -sum(n.amount_cents)::bigint, min(n.effective_at), min(n.reference_type), min(n.reference_id)
  from payments.entries n
  where n.book_id = p_wallet.book_id and n.account_id = p_wallet.account_id
    and (select v.request_hash is not null from payments.events v where v.book_id = n.book_id and v.position = n.event_position)
    and not exists (
      select from replay.mirrored_rows m
      where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
  group by n.transaction_id
  having sum(n.amount_cents) <> 0
$$;

-- Writes the rows that mirror those.
create function replay.mirror_transactions(p_wallet replay.wallets) returns void
language plpgsql as $$
begin
  perform replay.mirror_row(p_wallet.source, p_wallet.wallet_id, t.delta, t.reference_type, t.reference_id, t.effective_at,
    t.transaction_id, p_wallet.account_id, p_wallet.book_id)
  from (select m.* from replay.unmirrored_transactions(p_wallet) m order by m.account_seq) t;
end $$;

-- As in 0029.
create or replace function replay.post_opening(p_wallet replay.wallets, p_balance bigint) returns void
language plpgsql as $$
declare
  v_before bigint;
begin
  perform replay.bind_wallets(p_wallet.book_id, p_wallet.source, array[p_wallet.wallet_id], array[p_wallet.owner_id]);
  perform replay.lock_for_old_code(p_wallet);
  v_before := replay.balance_of(p_wallet);
  perform replay.mirror_transactions(p_wallet);
  if p_balance <> 0 then
    perform replay.post_balance(p_wallet, v_before + p_balance, 'opening_balance');
    perform replay.note_written(p_wallet, 0, p_balance);
  else
    perform replay.write_old_balance(p_wallet.source, p_wallet.wallet_id, v_before);
  end if;
end $$;

-- As in 0036.
create or replace function replay.mirror_missed(p_book_id integer, p_source text, p_wallet_id uuid, p_also_differing boolean) returns void
language plpgsql
set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_balance bigint;
  v_lacking bigint;
  -- Whether what the last of the missed come to is what the balance lacks, and what those of after the mirror's last row come to: with
  -- that row it put the balance right.
  v_is_explained boolean;
  v_since bigint;
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
  v_balance := replay.old_balance(p_source, p_wallet_id);
  v_lacking := replay.balance_of(v_wallet) - v_balance;
  select bool_or(t.from_here = v_lacking),
         coalesce(sum(t.delta) filter (where t.account_seq > coalesce((
           select n.account_seq
           from payments.entries n
           where n.account_id = v_wallet.account_id and n.book_id = p_book_id and exists (
             select from replay.mirrored_rows m
             where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
           order by n.account_seq desc
           limit 1), 0)), 0)
  into v_is_explained, v_since
  from (
    select m.*, sum(m.delta) over (order by m.account_seq desc) as from_here from replay.unmirrored_transactions(v_wallet) m
  ) t;
  perform replay.mirror_transactions(v_wallet);
  if v_lacking <> 0 and (v_is_explained or p_also_differing) then
    perform replay.write_old_balance(p_source, p_wallet_id, v_balance + case when v_is_explained then v_lacking else v_since end);
  end if;
exception
  when numeric_value_out_of_range then
    perform replay.raise_code('MIRROR_OVERFLOW', format(
      'Wallet %s would hold or move more than its old column takes. Post the opposite first.', p_wallet_id));
end $$;

-- ------------------------------------------------------------------------------------------- versions of one row

-- The number of the next version of a row. Whoever asks holds the row's versions until its transaction ends: a drain and old code could
-- otherwise take the same one, and the log would pass over the second.
create function replay.next_version(p_book_id integer, p_source text, p_id uuid) returns integer
language sql as $$
  insert into replay.changed_rows as c (legacy_id, source, version, book_id)
  values (p_id, p_source, 1, p_book_id)
  on conflict (legacy_id, source, book_id) do update set version = c.version
  returning c.version + 1
$$;

-- As in 0031; returns whether the log has it by this call, and not by another's that was waited for.
drop function replay.post_for_old_code(replay.wallets, payments.new_event);
create function replay.post_for_old_code(p_wallet replay.wallets, p_event payments.new_event) returns boolean
language plpgsql as $$
begin
  if p_event.payload ? 'entries' then
    p_event.payload := jsonb_set(p_event.payload, '{entries}', payments.entries_on(p_event.payload -> 'entries',
      replay.slots_of_old_code(p_wallet.book_id, array(
        select (e.value ->> 'account_id')::uuid
        from jsonb_array_elements(p_event.payload -> 'entries') with ordinality as e (value, nth)
        order by e.nth))));
  end if;
  return payments.import_events(p_wallet.book_id, array[p_wallet.account_id], array[p_event]) = 1;
end $$;

-- Posts a row of old code that the log does not have; false where somebody else brought it in meanwhile. The accounts are locked by the
-- caller.
create function replay.post_new_row(p_wallet replay.wallets, p_row replay.row_image, p_open_since timestamptz) returns boolean
language plpgsql as $$
declare
  v_book_id constant integer := p_wallet.book_id;
  v_source constant text := p_wallet.source;
  v_before constant bigint := replay.balance_of(p_wallet);
  v_judgement constant replay.judgement := replay.judge_row(v_book_id, v_source, p_row, p_wallet.account_id);
  v_written_cents bigint;
begin
  if not replay.post_for_old_code(p_wallet, replay.row_event(
    v_book_id, v_source, replay.with_free_key(v_book_id, p_row), p_wallet.account_id, v_judgement.cause, v_judgement.explained,
    v_judgement.paid, p_open_since, replay.flow_accounts(v_book_id)))
  then
    return false;
  end if;
  v_written_cents := (replay.written_by_now(p_wallet)).balance_cents;
  if p_row.delta <> 0 and sign(v_written_cents) = sign(p_row.delta) and abs(v_written_cents) >= abs(p_row.delta) then
    -- It explains a balance that was written before it.
    perform replay.post_balance(p_wallet, v_before, 'balance_without_row');
    perform replay.note_written(p_wallet, 0, -p_row.delta);
  else
    perform replay.note_written(p_wallet, coalesce(p_row.delta, 0), 0);
  end if;
  return true;
end $$;

-- As in 0031, in parts that have names. A row that goes to another wallet may be on its way into the log for the one that it leaves.
create or replace function replay.post_row_change(
  p_wallet replay.wallets, p_operation text, p_old replay.row_image, p_new replay.row_image
) returns void
language plpgsql set timezone = 'UTC' as $$
declare
  v_book_id constant integer := p_wallet.book_id;
  v_source constant text := p_wallet.source;
  v_id constant uuid := coalesce(p_new.id, p_old.id);
  v_open_since timestamptz;
  v_before bigint;
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
  if not replay.is_in_log(v_book_id, v_source, v_id) and replay.post_new_row(p_wallet, p_new, v_open_since) then
    return;
  end if;

  v_before := replay.balance_of(p_wallet);
  v_version := replay.next_version(v_book_id, v_source, v_id);
  perform replay.post_for_old_code(p_wallet, replay.correction_event(
    v_book_id,
    row(null, pg_current_xact_id(), clock_timestamp(), v_source, p_operation, p_wallet.wallet_id, p_old, p_new)::replay.captured_rows,
    v_version, p_wallet.account_id, v_open_since));
  perform replay.keep_version(v_book_id, v_source, v_id, v_version, p_new);
  if p_operation = 'insert' then
    perform replay.note_written(p_wallet, coalesce(p_new.delta, 0), 0);
  elsif replay.has_wallet(v_source, p_wallet.wallet_id) then
    perform replay.post_balance(p_wallet, v_before, 'balance_without_row');
  end if;
end $$;

-- The event that a captured row becomes, judged by what is in the log, and kept as a finding where the flows do not explain it.
create function replay.event_of_change(
  p_book_id integer, p_source text, p_row replay.row_image, p_account_id uuid, p_open_since timestamptz, p_flows replay.flow_accounts
) returns payments.new_event
language plpgsql as $$
declare
  v_judgement constant replay.judgement := replay.judge_row(p_book_id, p_source, p_row, p_account_id);
begin
  if v_judgement.cause is not null then
    insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
    values (p_book_id, p_source, p_row.id, v_judgement.cause, v_judgement.explained)
    on conflict (book_id, source, legacy_id) do update set cause = excluded.cause, explained_cents = excluded.explained_cents;
  end if;
  return replay.row_event(p_book_id, p_source, replay.with_free_key(p_book_id, p_row), p_account_id, v_judgement.cause,
    v_judgement.explained, v_judgement.paid, p_open_since, p_flows);
end $$;

-- As in 0030, in parts that have names.
create or replace function replay.drain_rows(
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
  v_version integer;
  v_events payments.new_event[] := '{}';
  -- What the waiting events are judged by: whoever touches one of these must find them in the log.
  v_waiting text[] := '{}';
  v_touched text[];
  v_late replay.captured_rows[] := '{}';
begin
  imported := 0;
  corrected := 0;
  select t.taken, t.changes into taken, v_changes from replay.take_changes(p_limit, p_wallet_ids) t;
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
    v_account_id := (
      select w.account_id from replay.wallets w
      where w.wallet_id = v_change.wallet_id and w.source = v_change.source and w.book_id = p_book_id);
    v_touched := array[v_row.id::text, case when v_row.type in ('purchase', 'refund') then v_row.reference_id end, v_row.key];
    if v_touched && v_waiting then
      perform payments.import_events(p_book_id, v_account_ids, v_events);
      v_events := '{}';
      v_waiting := '{}';
    end if;

    if not replay.is_in_log(p_book_id, v_change.source, v_row.id) then
      v_events := v_events || replay.event_of_change(p_book_id, v_change.source, v_row, v_account_id, v_open_since, v_flows);
      v_waiting := v_waiting || v_touched;
      imported := imported + 1;
      continue when (v_change.old).id is null;
      -- It was there before the capture began, and had not been reached: booked as it was, and corrected then.
      v_late := v_late || v_change;
      perform payments.import_events(p_book_id, v_account_ids, v_events);
      v_events := '{}';
      v_waiting := '{}';
    end if;

    continue when v_change.old is not distinct from v_change.new;
    v_version := replay.next_version(p_book_id, v_change.source, v_row.id);
    v_events := v_events || replay.correction_event(p_book_id, v_change, v_version, v_account_id, v_open_since);
    v_waiting := v_waiting || v_touched;
    corrected := corrected + 1;
    perform replay.keep_version(p_book_id, v_change.source, v_row.id, v_version, v_change.new);
  end loop;
  perform payments.import_events(p_book_id, v_account_ids, v_events);

  perform replay.count_changes(p_book_id, v_changes, v_late);
  perform replay.note_unreconciled(p_book_id, array_agg(n.source), array_agg(n.wallet_id), array_agg(n.captured_at))
  from unnest(v_changes) n;
end $$;

-- ------------------------------------------------------------------------------------------------ the capture

alter table replay.capture add settled_at timestamptz;
comment on column replay.capture.settled_at is 'When no transaction was left that is older than the horizon. Asked once: after two thousand million transactions, whoever is older than what cannot be told by 32 bits any more.';

create view replay.changing as
select wallet_id, source, captured_at as changed_at, (select c.book_id from replay.capture c) as book_id
from replay.captured_rows where wallet_id is not null
union all
select wallet_id, source, captured_at, (select c.book_id from replay.capture c) from replay.captured_wallets
union all
select wallet_id, source, changed_at, book_id from replay.unreconciled;
comment on view replay.changing is 'Wallets of which something is captured, or came into the log and was not looked at since. One may be named more than once.';

-- ------------------------------------------------------------------------------------------- retired old tables

-- As in 0028.
create or replace function replay.raise_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEGACY_TRUNCATE_REFUSED' then 'LV032'
      when 'LEGACY_WALLET_FIXED' then 'LV033'
      when 'MIRROR_OVERFLOW' then 'LV034'
      when 'LEGACY_RETIRED' then 'LV035'
    end;
end $$;

-- Stands on the old tables once they are retired: who moves money there would be told that it worked, and the ledger would never know.
-- What moves none goes on, as a wallet that is made empty for a new user, or whatever a deleted user takes along. Parameter: the table.
create function replay.refuse_retired() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_moves_money boolean;
begin
  if tg_argv[0] in ('wallets', 'org_wallets') then
    v_moves_money := new.balance_credits is distinct from case tg_op when 'UPDATE' then old.balance_credits else 0 end;
  elsif tg_op = 'UPDATE' then
    v_moves_money := (new.wallet_id, new.credits_delta) is distinct from (old.wallet_id, old.credits_delta);
  else
    v_moves_money := new.credits_delta is distinct from 0;
  end if;
  if v_moves_money then
    perform replay.raise_code('LEGACY_RETIRED', format(
      'What %s of %s would move is not in the ledger, which keeps the wallets: the old tables are retired. Post to the ledger instead.',
      tg_op, tg_relid::regclass));
  end if;
  return new;
end $$;

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
