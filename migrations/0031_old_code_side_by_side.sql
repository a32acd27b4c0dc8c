-- Writers of old code beside each other, on wallets that the ledger keeps.
--
-- The platform's accounts are given slots at the first cut-over. A writer locks one slot of each, the one that its server process
-- posts to: all in one round as before, because its next statement may post to others, but no longer the same as everybody's.

-- Each of these accounts, or the slot of it that this process of the server posts what old code writes to. Never the account itself, on
-- which the drain and the cut-over post. Returns them in the order given. Locks nothing.
create function replay.slots_of_old_code(p_book_id integer, p_accounts uuid[]) returns uuid[]
language sql stable
return array(
  select coalesce((
    select s.slot_account_id from payments.account_slots s
    where s.account_id = a.id and s.book_id = p_book_id and s.slot_number = 1 + pg_backend_pid() % (
      select max(l.slot_number) from payments.account_slots l where l.account_id = a.id and l.book_id = p_book_id)
  ), a.id)
  from unnest(p_accounts) with ordinality as a (id, nth)
  order by a.nth);

-- Locks what old code's writes to a wallet may post to: all at once, because whoever takes locks in two rounds takes them out of order.
create or replace function replay.lock_for_old_code(p_wallet replay.wallets) returns void
language sql as $$
  select payments.lock_accounts(p_wallet.book_id,
    array[p_wallet.account_id] || replay.slots_of_old_code(p_wallet.book_id, replay.platform_account_ids(p_wallet.book_id)))
$$;

-- Posts what old code wrote to a wallet, on the slots that lock_for_old_code has locked. Which ones, the event says.
create function replay.post_for_old_code(p_wallet replay.wallets, p_event payments.new_event) returns void
language plpgsql as $$
begin
  if p_event.payload ? 'entries' then
    p_event.payload := jsonb_set(p_event.payload, '{entries}', payments.entries_on(p_event.payload -> 'entries',
      replay.slots_of_old_code(p_wallet.book_id, array(
        select (e.value ->> 'account_id')::uuid
        from jsonb_array_elements(p_event.payload -> 'entries') with ordinality as e (value, nth)
        order by e.nth))));
  end if;
  perform payments.import_events(p_wallet.book_id, array[p_wallet.account_id], array[p_event]);
end $$;

-- What is booked on an account for a row, as the row says it: by its event, those that corrected it, and the transaction that it mirrors.
create function replay.booked_cents(p_book_id integer, p_source text, p_id uuid, p_account_id uuid) returns bigint
language sql stable
return coalesce((
  select -sum(e.amount_cents)
  from (
    select replay.row_event_id(p_source, p_id, n) as event_id
    from generate_series(1, coalesce((
      select c.version from replay.changed_rows c where c.legacy_id = p_id and c.source = p_source and c.book_id = p_book_id), 1)) as n
    union all
    select m.event_id from replay.mirrored_rows m
    where m.legacy_id = p_id and m.source = p_source and m.book_id = p_book_id and m.account_id = p_account_id
  ) v
  join payments.entries e on e.book_id = p_book_id and e.transaction_id = v.event_id and e.account_id = p_account_id
), 0)::bigint;

-- As in 0028; what is booked for it by now is asked of the log: an orphan was booked nowhere.
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
  v_metadata constant jsonb := jsonb_build_object('cause', v_cause, 'legacy', jsonb_build_object(
    'table', v_source, 'id', v_id, 'version', p_version, 'operation', p_change.operation, 'xid', p_change.xid::text,
    'old', to_jsonb(p_change.old), 'new', to_jsonb(p_change.new)));
  -- What the wallet gains by it; of an orphan, which was booked nowhere, nothing. A row that went to another wallet is taken from each
  -- by a change of its own.
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

-- As in 0029, on slots.
create or replace function replay.post_row_change(
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
    perform replay.post_for_old_code(p_wallet, replay.row_event(
      v_book_id, v_source, replay.with_free_key(v_book_id, p_new), p_wallet.account_id, v_judgement.cause, v_judgement.explained,
      v_judgement.paid, v_open_since, replay.flow_accounts(v_book_id)));
    v_written_cents := (replay.written_by_now(p_wallet)).balance_cents;
    if p_new.delta <> 0 and sign(v_written_cents) = sign(p_new.delta) and abs(v_written_cents) >= abs(p_new.delta) then
      -- It explains a balance that was written before it.
      perform replay.post_balance(p_wallet, v_balance, 'balance_without_row');
      perform replay.note_written(p_wallet, 0, -p_new.delta);
    else
      perform replay.note_written(p_wallet, coalesce(p_new.delta, 0), 0);
    end if;
    return;
  end if;

  v_version := 1 + (
    select coalesce(max(c.version), 1) from replay.changed_rows c
    where c.legacy_id = v_id and c.source = v_source and c.book_id = v_book_id);
  perform replay.post_for_old_code(p_wallet, replay.correction_event(
    v_book_id,
    row(null, pg_current_xact_id(), clock_timestamp(), v_source, p_operation, p_wallet.wallet_id, p_old, p_new)::replay.captured_rows,
    v_version, p_wallet.account_id, v_open_since));
  perform replay.keep_version(v_book_id, v_source, v_id, v_version, p_new);
  if p_operation = 'insert' then
    perform replay.note_written(p_wallet, coalesce(p_new.delta, 0), 0);
  elsif replay.has_wallet(v_source, p_wallet.wallet_id) then
    perform replay.post_balance(p_wallet, v_balance, 'balance_without_row');
  end if;
end $$;

-- As in 0029, on slots.
create or replace function replay.post_balance(p_wallet replay.wallets, p_balance bigint, p_cause text) returns void
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
  perform replay.post_for_old_code(p_wallet, row('transaction.posted',
    payments.named_uuid('drift:' || p_wallet.source || ':' || p_wallet.wallet_id || ':' || (
      select b.last_seq from payments.balances b where b.account_id = p_wallet.account_id and b.book_id = v_book_id)),
    null, null, null, null, jsonb_build_object(
      'reference_type', 'adjustment', 'reference_id', p_wallet.wallet_id,
      'metadata', jsonb_build_object('cause', p_cause, 'wallet_id', p_wallet.wallet_id, 'legacy_balance_cents', p_balance,
        'ledger_balance_cents', v_before),
      'entries', jsonb_build_array(
        replay.entry(v_suspense, p_balance - v_before),
        replay.entry(p_wallet.account_id, v_before - p_balance))))::payments.new_event);
end $$;

-- The mirror follows an account's own entries. Fired by new slots, from the first cut-over to the end of the mirror.
create function replay.refuse_slots() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_account_id uuid;
begin
  select n.account_id into v_account_id
  from new_slots n
  join replay.wallets w on w.account_id = n.account_id and w.book_id = n.book_id and w.mode = 'ledger'
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format(
      'Account %s cannot be given slots: the old tables mirror it, as one wallet. Give it slots when the old tables are retired.', v_account_id));
  end if;
  return null;
end $$;

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
