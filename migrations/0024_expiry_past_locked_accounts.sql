-- Expired holds are written down beside accounts that stay locked.

-- As in 0022, but past accounts that somebody else has locked. One of those is waited for only where no other was found, so that one
-- that is never found free has its turn too: any of them, so that one that stays locked keeps it from no other. Where a transaction
-- calls it twice, the second may wait while it keeps the locks of the first, out of order.
create or replace function payments.expire_holds(p_book_id integer, p_limit integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_account_id uuid;
  v_locked uuid[] := '{}';
  v_keeps_locks boolean := false;
  v_expired integer := 0;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  if p_limit is null or p_limit not between 1 and 100000 then
    perform payments.raise_code('LEDGER_INVALID', format('p_limit is %s: give 1 to 100000.', coalesce(p_limit::text, 'null')));
  end if;
  for v_account_id in
    select h.account_id from payments.holds h
    where h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
      -- One whose balance somebody removed is for books verify to name.
      and exists (select from payments.balances b where b.account_id = h.account_id and b.book_id = p_book_id)
    group by h.account_id
    order by min(h.expires_at)
  loop
    exit when v_expired >= p_limit;
    -- Out of order, which deadlocks with nobody as long as nothing is waited for.
    perform from payments.balances b where b.account_id = v_account_id and b.book_id = p_book_id for no key update skip locked;
    if found then
      v_keeps_locks := true;
      v_expired := v_expired + payments.expire_account_holds(p_book_id, v_account_id, p_limit - v_expired);
    else
      v_locked := v_locked || v_account_id;
    end if;
  end loop;
  if not v_keeps_locks and v_locked <> '{}' then
    v_account_id := v_locked[1 + floor(random() * cardinality(v_locked))::integer];
    perform payments.lock_accounts(p_book_id, array[v_account_id]);
    v_expired := payments.expire_account_holds(p_book_id, v_account_id, p_limit);
  end if;
  return v_expired;
end $$;
