-- What the mirror missed, and old code that writes meanwhile; columns of the old tables that are altered.

-- Whether a wallet's balance lacks this much because the mirror missed it: it is what the last of those come to.
create function replay.was_missed(p_wallet replay.wallets, p_cents bigint) returns boolean
language sql stable as $$
  select coalesce(bool_or(t.from_here = p_cents), false)
  from (select sum(m.delta) over (order by m.account_seq desc) as from_here from replay.unmirrored_transactions(p_wallet) m) t
$$;

-- As in 0038, by that.
create or replace function replay.mirror_missed(p_book_id integer, p_source text, p_wallet_id uuid, p_also_differing boolean) returns void
language plpgsql
set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_balance bigint;
  v_lacking bigint;
  v_is_explained boolean;
  -- What those of after the mirror's last row come to: with that row it put the balance right.
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
  v_is_explained := replay.was_missed(v_wallet, v_lacking);
  v_since := (
    select coalesce(sum(m.delta), 0)
    from replay.unmirrored_transactions(v_wallet) m
    where m.account_seq > coalesce((
      select n.account_seq
      from payments.entries n
      where n.account_id = v_wallet.account_id and n.book_id = p_book_id and exists (
        select from replay.mirrored_rows r
        where r.event_id = n.transaction_id and r.account_id = n.account_id and r.book_id = n.book_id)
      order by n.account_seq desc
      limit 1), 0));
  perform replay.mirror_transactions(v_wallet);
  if v_lacking <> 0 and (v_is_explained or p_also_differing) then
    perform replay.write_old_balance(p_source, p_wallet_id, v_balance + case when v_is_explained then v_lacking else v_since end);
  end if;
exception
  when numeric_value_out_of_range then
    perform replay.raise_code('MIRROR_OVERFLOW', format(
      'Wallet %s would hold or move more than its old column takes. Post the opposite first.', p_wallet_id));
end $$;

-- As in 0029. Old code that writes a balance while somebody has taken the mirror away has read one that lacks what was posted since:
-- that is put on top of what it writes, as if it had been mirrored. The same where the mirror is back and has not caught up with the
-- wallet, and wrote the balance when old code's own row came, after old code had read it. Locks the accounts that old code posts to.
-- Reads all entries of the wallet, but only then.
create or replace function replay.take_balance() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, payments, organizations, pg_temp as $$
declare
  v_wallet replay.wallets;
  v_rows_cents bigint;
  v_balance bigint;
  v_missed bigint;
begin
  if new.balance_credits is not distinct from old.balance_credits then
    return new;
  end if;
  v_wallet := replay.hold_wallet(tg_argv[0], old.id);
  if v_wallet.mode is distinct from 'ledger' then
    return new;
  end if;
  v_rows_cents := coalesce((replay.written_by_now(v_wallet)).rows_cents, 0);
  v_balance := replay.balance_of(v_wallet);
  -- As the mirror itself writes it: it has locked what it posts to, and no more is to be locked beside that.
  if new.balance_credits = v_balance then
    return new;
  end if;
  perform replay.lock_for_old_code(v_wallet);
  v_balance := replay.balance_of(v_wallet);
  if old.balance_credits <> v_balance then
    v_missed := v_balance - v_rows_cents - old.balance_credits;
  elsif v_rows_cents <> 0 and exists (
    select from replay.unmirrored u
    where u.wallet_id = v_wallet.wallet_id and u.source = v_wallet.source and u.book_id = v_wallet.book_id)
  then
    v_missed := v_balance - new.balance_credits;
  end if;
  if v_missed <> 0 and replay.was_missed(v_wallet, v_missed) then
    begin
      new.balance_credits := new.balance_credits + v_missed;
    exception
      when numeric_value_out_of_range then
        perform replay.raise_code('MIRROR_OVERFLOW', format(
          'Wallet %s would hold %s credits with what was posted meanwhile, more than its old column takes. Post the opposite first.',
          old.id, new.balance_credits + v_missed));
    end;
  end if;
  if sign(new.balance_credits - v_balance) = sign(v_rows_cents) and abs(new.balance_credits - v_balance) <= abs(v_rows_cents) then
    perform replay.note_written(v_wallet, v_balance - new.balance_credits, 0);
    new.balance_credits := v_balance;
  end if;
  return new;
end $$;

-- As in 0038. The wallet has all of it also where the mirror is gone.
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
  end if;
  perform replay.write_old_balance(p_wallet.source, p_wallet.wallet_id, replay.balance_of(p_wallet));
end $$;

-- Lets every session read columns of the old tables that were altered: it remembers the types of before otherwise, and fails until it
-- connects again. To be called in the transaction that alters them, by the owner of the functions. Returns nothing.
create function replay.columns_altered() returns void
language plpgsql as $$
declare
  v_function record;
begin
  for v_function in
    select p.oid::regprocedure as name, p.procost as cost
    from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = 'replay'::regnamespace and l.lanname = 'plpgsql'
  loop
    -- Whatever is altered, to whatever it is already: a function that was replaced is compiled anew.
    execute format('alter function %s cost %s', v_function.name, v_function.cost);
  end loop;
end $$;

revoke all on all functions in schema replay from public;
