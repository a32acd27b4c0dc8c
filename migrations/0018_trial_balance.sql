-- As in 0010; an account with slots is one account, with what they come to.
create or replace function payments.trial_balance(p_book_id integer, p_by text, p_at timestamptz)
returns table (
  currency text, decimal_places integer, type text, cause text, accounts bigint, debit_cents numeric, credit_cents numeric
)
language plpgsql stable as $$
begin
  perform payments.check_book(p_book_id);
  perform payments.check_order(p_by);
  if p_at is null then
    perform payments.raise_code('LEDGER_INVALID', 'A trial balance as of an instant needs one.');
  end if;
  return query
  select a.currency, c.decimal_places::integer, a.type, case when a.type = 'suspense' and b.cents is not null then a.name end as cause,
         count(*), coalesce(sum(b.cents) filter (where b.cents > 0), 0), coalesce(-sum(b.cents) filter (where b.cents < 0), 0)
  from payments.accounts a
  left join (
    select coalesce(k.account_id, s.account_id) as account_id, sum(s.cents) as cents
    from (
      select e.account_id, sum(e.amount_cents) as cents
      from payments.entries e
      where e.book_id = p_book_id and case p_by when 'recorded' then e.created_at else e.effective_at end <= p_at
      group by e.account_id
    ) s
    left join payments.account_slots k on k.slot_account_id = s.account_id and k.book_id = p_book_id
    group by 1
  ) b on b.account_id = a.id
  join ref.currencies c on c.code = a.currency
  where a.book_id = p_book_id and (p_by = 'effective' or a.created_at <= p_at)
    and not exists (select from payments.account_slots k where k.slot_account_id = a.id and k.book_id = a.book_id)
  group by a.currency, c.decimal_places, a.type, 4
  order by a.currency, a.type, 4;
end $$;
