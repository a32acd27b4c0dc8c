-- A period is closed for ever: books that do not sum to zero are not closed, and have no certificate.

-- As in 0010, with one more.
create or replace function payments.raise_period_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEDGER_PERIOD_INVALID' then 'LV021'
      when 'LEDGER_PERIOD_BUSY' then 'LV022'
      when 'LEDGER_BOOK_UNBALANCED' then 'LV029'
    end;
end $$;

-- Raises LEDGER_BOOK_UNBALANCED where the balances of a certificate do not sum to zero, which somebody's own hand must have brought
-- about: no guard lets it through.
create function payments.check_certificate(p_certificate jsonb) returns void
language plpgsql stable as $$
declare
  v_sums text;
begin
  select string_agg(format('%s %s', b.cents, b.currency), ', ' order by b.currency) into v_sums
  from (
    select l ->> 'currency' as currency, sum((l ->> 'balance_cents')::numeric) as cents
    from jsonb_array_elements(p_certificate -> 'balances') l
    group by 1
  ) b
  where b.cents <> 0;
  if v_sums is not null then
    perform payments.raise_period_code('LEDGER_BOOK_UNBALANCED', format(
      'Book %s sums to %s until %s, not to zero, and is not closed: liventix books verify says what was changed.',
      p_certificate ->> 'book', v_sums, p_certificate ->> 'until'));
  end if;
end $$;

-- As in 0010; what does not balance has no certificate.
create or replace function payments.next_certificate(p_book_id integer, p_until timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_untils constant timestamptz[] := payments.next_period(p_book_id, p_until);
  v_certificate jsonb;
begin
  select c.certificate into v_certificate
  from payments.certificates_of(p_book_id, v_untils, payments.period_movements(p_book_id, v_untils, null, null)) c
  where c.closed_until = p_until;
  perform payments.check_certificate(v_certificate);
  return v_certificate;
end $$;

-- As in 0022, likewise.
create or replace function payments.close_period(p_book_id integer, p_until timestamptz) returns payments.periods
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
declare
  v_untils timestamptz[];
  v_settled bigint;
  v_movements payments.period_movement[];
  v_certificate jsonb;
  v_event_id uuid;
  v_positions bigint[];
  v_period payments.periods;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform payments.raise_period_code('LEDGER_PERIOD_INVALID', format(
      'A period is not closed in a transaction of isolation level %s, which does not see what it waited for. Use read committed.',
      current_setting('transaction_isolation')));
  end if;
  perform payments.check_call(p_book_id);
  v_untils := payments.next_period(p_book_id, p_until);

  begin
    perform payments.lock_period(p_book_id);
    select s.last_value into v_settled from payments.events_position_seq s;
    -- Undone, to let others post again.
    raise exception using errcode = 'LV000';
  exception when sqlstate 'LV000' then
    v_movements := payments.period_movements(p_book_id, v_untils, null, v_settled);
  end;

  perform payments.lock_period(p_book_id);
  if payments.next_period(p_book_id, p_until) <> v_untils then
    -- Another close came in between.
    v_untils := payments.next_period(p_book_id, p_until);
    v_movements := payments.period_movements(p_book_id, v_untils, null, v_settled);
  end if;
  v_movements := v_movements || payments.period_movements(p_book_id, v_untils, v_settled, null);
  select c.certificate into v_certificate
  from payments.certificates_of(p_book_id, v_untils, v_movements) c
  where c.closed_until = p_until;
  perform payments.check_certificate(v_certificate);

  v_event_id := payments.named_uuid(format('period:%s:%s', p_book_id, v_certificate ->> 'until'));
  perform payments.check_named_ids(p_book_id, 'period.closed', array[v_event_id]);
  v_positions := payments.append_events(p_book_id, array[jsonb_populate_record(null::payments.new_event, jsonb_build_object(
    'type', 'period.closed',
    'event_id', v_event_id,
    'payload', jsonb_build_object('until', v_certificate -> 'until', 'certificate', v_certificate,
      'hash', encode(payments.certificate_hash(v_certificate), 'hex'))))]);
  perform payments.project_periods(p_book_id, v_positions[1], v_positions[1], pg_current_xact_id());
  update payments.books set closed_until = p_until where book_id = p_book_id;
  select * into v_period from payments.periods p where p.book_id = p_book_id and p.event_position = v_positions[1];
  return v_period;
end $$;

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on function payments.check_certificate(jsonb) from %s', v_role);
  end loop;
  -- What a close would come to is asked with the caller's rights.
  for v_role in
    select quote_ident(r.rolname) from pg_roles r
    where r.rolname = 'service_role' or r.rolname in (select g.grantee from payments.book_grants g)
  loop
    execute format('grant execute on function payments.check_certificate(jsonb) to %s', v_role);
  end loop;
end $$;
