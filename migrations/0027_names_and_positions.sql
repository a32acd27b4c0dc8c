-- Who acts has a name of bounded length; what is new since a seal is found by its position.

-- As in 0008; who calls himself by more than 200 characters is recorded by the first of them, with each entry.
create or replace function payments.acting_user() returns text
language plpgsql stable as $$
declare
  v_claims constant text := nullif(current_setting('request.jwt.claims', true), '');
begin
  if v_claims is null then
    return session_user;
  end if;
  begin
    return coalesce(nullif(left(v_claims::jsonb ->> 'sub', 200), ''), session_user);
  exception when data_exception then
    -- Claims that are no JSON name nobody.
    return session_user;
  end;
end $$;

-- What is new since a seal is found by its position, however much was there before.
create index accounts_event_position on payments.accounts (event_position, book_id);
create index holds_event_position on payments.holds (event_position, book_id);
create index reversals_event_position on payments.reversals (event_position, book_id);
