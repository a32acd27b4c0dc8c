-- History: balances at a time, statements, trial balances as of, and the closing of periods.
--
-- Entries are recorded in the order of account_seq, which is the log's: what was recorded at an instant, or at a position
-- of the log, is always the first so many entries of the account, found by halving. created_at does not fall along
-- account_seq, because it is the clock's time under the account's lock; where the server's clock was set back, an instant
-- that came twice means one of the two. An instant is settled once every transaction that was open then has ended.
--
-- Most entries are effective when they are recorded. The others are exceptions: imported, dated back, dated ahead. They
-- alone are in the two indexes below, so that a posting without a date of its own pays nothing for them. With the first k
-- entries recorded up to an instant,
--
--   the balance effective then = the balance after entry k
--                              + the exceptions recorded after k that were effective by then
--                              - the exceptions among the first k that were not effective yet.
--
-- Functions that read belong to their caller's rights. Stable, so that all their looks are of one snapshot.

-- A connection keeps its plans, made for what it believes an average account to be, and a large one must not be read whole for
-- the few exceptions that are asked for. So PostgreSQL is left no choice: the same condition is spelt in two ways, each index
-- has a column of its own, and where account_seq may not lead to the index of all entries, it is written account_seq + 0.
create index entries_exceptions_by_position on payments.entries (account_id, event_position, book_id) include (effective_at, amount_cents)
  where timestamptz_cmp(effective_at, created_at) <> 0;
create index entries_exceptions_by_effective on payments.entries (account_id, effective_at, account_seq, book_id) include (amount_cents)
  where effective_at <> created_at;

-- Raises one of the codes of closing with its SQLSTATE, as raise_code does for the others.
create function payments.raise_period_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEDGER_PERIOD_INVALID' then 'LV021'
      when 'LEDGER_PERIOD_BUSY' then 'LV022'
    end;
end $$;

-- An instant as text to the microsecond, in UTC, whatever the session's settings.
create function payments.instant_text(p_at timestamptz) returns text
language sql stable parallel safe
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- Raises LEDGER_BOOK_UNKNOWN where there is no such book, or none that the caller may read. Locks nothing.
create function payments.check_book(p_book_id integer) returns void
language plpgsql stable as $$
begin
  if not exists (select from payments.books b where b.book_id = p_book_id) then
    perform payments.raise_code('LEDGER_BOOK_UNKNOWN', format('Book %s does not exist.', coalesce(p_book_id::text, 'null')));
  end if;
end $$;

-- The sign that turns an account's signed cents (debit positive) into those of its normal side: 1 or -1.
-- Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN. Locks nothing.
create function payments.normal_sign(p_book_id integer, p_account_id uuid) returns integer
language plpgsql stable as $$
declare
  v_sign integer;
begin
  select case t.normal_side when 'debit' then 1 else -1 end into v_sign
  from payments.accounts a
  join payments.account_types t on t.type = a.type
  where a.book_id = p_book_id and a.id = p_account_id;
  if found then
    return v_sign;
  end if;
  perform payments.check_book(p_book_id);
  perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format(
    'Account %s does not exist in book %s.', coalesce(p_account_id::text, 'null'), p_book_id));
end $$;

-- How many entries of an account were recorded at or before an instant and at or before a position of the log.
-- Null for either means no bound. Halves the account's history: some 20 looks into its index for a million entries.
-- Returns 0 where there were none, or there is no such account. Locks nothing.
create function payments.recorded_seq(p_book_id integer, p_account_id uuid, p_at timestamptz, p_position bigint) returns bigint
language plpgsql stable as $$
declare
  v_low bigint := 0;
  v_high bigint := coalesce((
    select b.last_seq from payments.balances b where b.book_id = p_book_id and b.account_id = p_account_id), 0);
  -- The last one first: what is asked about is mostly later than everything.
  v_look bigint := v_high;
  v_is_in boolean;
begin
  if p_at is null and p_position is null then
    return v_high;
  end if;
  while v_low < v_high loop
    select coalesce(e.created_at <= p_at, true) and coalesce(e.event_position <= p_position, true) into v_is_in
    from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = v_look;
    if v_is_in then
      v_low := v_look;
    else
      v_high := v_look - 1;
    end if;
    v_look := (v_low + v_high + 1) / 2;
  end loop;
  return v_low;
end $$;

-- The signed balance of an account after its first so many entries; 0 after none. Locks nothing.
create function payments.balance_after_seq(p_book_id integer, p_account_id uuid, p_seq bigint) returns bigint
language plpgsql stable as $$
begin
  return coalesce((
    select e.balance_after_cents from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = p_seq), 0);
end $$;

-- The signed balance of an account by what was effective at or before an instant, and of how many entries it is the sum.
-- Numeric, because dates in another order than the log's may pass 64 bits where no balance did.
-- Costs as much as there are exceptions recorded after the instant, and exceptions effective after it. Locks nothing.
create function payments.effective_sum(
  p_book_id integer, p_account_id uuid, p_at timestamptz, out signed_cents numeric, out entries bigint
)
language plpgsql stable as $$
declare
  v_seq constant bigint := payments.recorded_seq(p_book_id, p_account_id, p_at, null);
  -- One event's entries are recorded at one instant: all of them among the first, or none.
  v_position constant bigint := coalesce((
    select e.event_position from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = v_seq), 0);
begin
  select payments.balance_after_seq(p_book_id, p_account_id, v_seq) + late.cents - early.cents, v_seq + late.entries - early.entries
  into signed_cents, entries
  from (
    select coalesce(sum(e.amount_cents), 0) as cents, count(*) as entries
    from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and timestamptz_cmp(e.effective_at, e.created_at) <> 0
      and e.event_position > v_position
      and e.effective_at <= p_at
  ) late
  cross join (
    select coalesce(sum(e.amount_cents), 0) as cents, count(*) as entries
    from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.effective_at <> e.created_at
      and e.effective_at > p_at
      and e.account_seq + 0 <= v_seq
  ) early;
end $$;

-- The balance of an account as it was recorded at an instant, at a position of the log, or now (both null).
-- Returns balance_cents in the sign of the account's normal side, signed_cents (debit positive), and how many entries they
-- are the sum of. Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN. Locks nothing.
create function payments.recorded_balance(
  p_book_id integer, p_account_id uuid, p_at timestamptz default null, p_position bigint default null,
  out balance_cents bigint, out signed_cents bigint, out entries bigint
)
language plpgsql stable as $$
declare
  v_sign constant integer := payments.normal_sign(p_book_id, p_account_id);
begin
  entries := payments.recorded_seq(p_book_id, p_account_id, p_at, p_position);
  signed_cents := payments.balance_after_seq(p_book_id, p_account_id, entries);
  balance_cents := v_sign * signed_cents;
end $$;

-- The balance of an account by what was effective in the world at or before an instant, as far as is known now.
-- Returns as recorded_balance, in numeric. Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN, LEDGER_INVALID without an
-- instant. Locks nothing.
create function payments.effective_balance(
  p_book_id integer, p_account_id uuid, p_at timestamptz, out balance_cents numeric, out signed_cents numeric, out entries bigint
)
language plpgsql stable as $$
declare
  v_sign constant integer := payments.normal_sign(p_book_id, p_account_id);
begin
  if p_at is null then
    perform payments.raise_code('LEDGER_INVALID', 'An effective balance is that of an instant: give one.');
  end if;
  select s.signed_cents, s.entries into signed_cents, entries
  from payments.effective_sum(p_book_id, p_account_id, p_at) s;
  balance_cents := v_sign * signed_cents;
end $$;

-- Raises LEDGER_INVALID where something is by another order than these two.
create function payments.check_order(p_by text) returns void
language plpgsql stable as $$
begin
  if p_by is null or p_by not in ('recorded', 'effective') then
    perform payments.raise_code('LEDGER_INVALID', format(
      'History goes by ''recorded'' or ''effective'', not by %s.', coalesce(quote_literal(left(p_by, 100)), 'null')));
  end if;
end $$;

-- What a statement of an account begins and ends with: by 'recorded' or 'effective', from p_from (included) to p_to (not
-- included); null means from the beginning, and to the end.
-- Returns the signed balances before its first line and after its last, and known_seq: the entries known now. Pages of the
-- statement name it, so that what is posted between two of them changes none, whatever its date.
-- Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN, LEDGER_INVALID. Locks nothing.
create function payments.statement_bounds(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz,
  out known_seq bigint, out opening_cents numeric, out closing_cents numeric
)
language plpgsql stable as $$
declare
  -- Instants are whole microseconds: before one is at or before the one that precedes it.
  v_before_from constant timestamptz := p_from - interval '1 microsecond';
  v_before_to constant timestamptz := p_to - interval '1 microsecond';
begin
  perform payments.check_order(p_by);
  perform payments.normal_sign(p_book_id, p_account_id);
  if p_from > p_to then
    perform payments.raise_code('LEDGER_INVALID', format(
      'A statement cannot go from %s to %s: it would end before it begins.', payments.instant_text(p_from), payments.instant_text(p_to)));
  end if;
  known_seq := payments.recorded_seq(p_book_id, p_account_id, null, null);
  opening_cents := case
    when p_from is null then 0
    when p_by = 'effective' then (payments.effective_sum(p_book_id, p_account_id, v_before_from)).signed_cents
    else payments.balance_after_seq(p_book_id, p_account_id, payments.recorded_seq(p_book_id, p_account_id, v_before_from, null)) end;
  closing_cents := case
    when p_by = 'effective' and p_to is not null
      then (payments.effective_sum(p_book_id, p_account_id, v_before_to)).signed_cents
    else payments.balance_after_seq(p_book_id, p_account_id, payments.recorded_seq(p_book_id, p_account_id, v_before_to, null)) end;
end $$;

-- The numbers (account_seq) of the entries on one page of a statement by effective date, in its order: those after
-- (p_after_at, p_after_seq) and before p_to, of the first p_known_seq entries, at most p_limit.
-- Two streams are merged: the exceptions by their index, and the ordinary entries, which are in the order of account_seq.
-- Of these only what is recorded up to the page's last exception is looked at. Locks nothing.
create function payments.effective_page(
  p_book_id integer, p_account_id uuid, p_to timestamptz, p_known_seq bigint, p_after_at timestamptz, p_after_seq bigint, p_limit integer
) returns bigint[]
language plpgsql stable as $$
declare
  v_exceptions bigint[];
  v_last_at timestamptz;
  v_first_seq bigint;
  v_last_seq bigint;
begin
  select array_agg(x.account_seq), case when count(*) = p_limit then max(x.effective_at) end into v_exceptions, v_last_at
  from (
    select e.account_seq, e.effective_at
    from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.effective_at <> e.created_at
      and e.effective_at >= p_after_at and (e.effective_at, e.account_seq) > (p_after_at, p_after_seq)
      and e.effective_at < p_to and e.account_seq + 0 <= p_known_seq
    order by e.effective_at, e.account_seq
    limit p_limit
  ) x;
  v_first_seq := 1 + payments.recorded_seq(p_book_id, p_account_id, p_after_at - interval '1 microsecond', null);
  v_last_seq := least(p_known_seq,
    payments.recorded_seq(p_book_id, p_account_id, least(p_to - interval '1 microsecond', v_last_at), null));
  return array(
    select e.account_seq
    from (
      (select e.account_seq, e.effective_at
       from payments.entries e
       where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq between v_first_seq and v_last_seq
         and e.effective_at = e.created_at and (e.effective_at, e.account_seq) > (p_after_at, p_after_seq)
       order by e.account_seq
       limit p_limit)
      union all
      select x.account_seq, (
        select e.effective_at from payments.entries e
        where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = x.account_seq)
      from unnest(v_exceptions) as x (account_seq)
    ) e
    order by e.effective_at, e.account_seq
    limit p_limit);
end $$;

-- One page of the lines of a statement, in its order. Parameters as of statement_bounds, and
-- p_known_seq: what statement_bounds said.
-- p_balance_cents, p_after_at, p_after_seq: the signed balance after the last line of the page before, its effective date
--   and its number; the opening balance, null and null for the first page.
-- p_limit: how many lines at most, 1 to 10001.
-- Returns each line's entry with the signed balance after it. Raises LEDGER_INVALID. Locks nothing.
create function payments.statement_lines(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz, p_known_seq bigint,
  p_balance_cents numeric, p_after_at timestamptz, p_after_seq bigint, p_limit integer
) returns table (
  account_seq bigint, entry_id bigint, event_position bigint, transaction_id uuid, effective_at timestamptz, recorded_at timestamptz,
  amount_cents bigint, balance_cents numeric, reference_type text, reference_id text, description text, metadata jsonb
)
language plpgsql stable as $$
declare
  v_page bigint[];
  v_first_seq bigint;
  v_last_seq bigint;
begin
  perform payments.check_order(p_by);
  if p_limit is null or p_limit not between 1 and 10001 then
    perform payments.raise_code('LEDGER_INVALID', format(
      'A page has 1 to 10001 lines, not %s.', coalesce(p_limit::text, 'null')));
  end if;
  if p_by = 'effective' then
    v_page := payments.effective_page(p_book_id, p_account_id, coalesce(p_to, 'infinity'), p_known_seq,
      coalesce(p_after_at, p_from, '-infinity'), coalesce(p_after_seq, 0), p_limit);
  else
    v_first_seq := 1 + coalesce(p_after_seq, case when p_from is null then 0 else
      payments.recorded_seq(p_book_id, p_account_id, p_from - interval '1 microsecond', null) end);
    v_last_seq := least(p_known_seq, payments.recorded_seq(p_book_id, p_account_id, p_to - interval '1 microsecond', null));
    v_page := array(select n from generate_series(v_first_seq, least(v_last_seq, v_first_seq + p_limit - 1)) as n);
  end if;
  return query
  select e.account_seq, e.id, e.event_position, e.transaction_id, e.effective_at, e.created_at, e.amount_cents,
         p_balance_cents + sum(e.amount_cents) over (order by p.ordinality), e.reference_type, e.reference_id, e.description, e.metadata
  from unnest(v_page) with ordinality as p (account_seq, ordinality)
  cross join lateral (
    select * from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = p.account_seq
    limit 1
  ) e
  order by p.ordinality;
end $$;

-- Every account's balance at an instant on its side, by account type, per currency: as recorded at it, or as effective at
-- it by what is known now. cause: the name of a suspense account that was posted to by then; those are rows of their own.
-- Returns debit_cents and credit_cents, both positive. Accounts: as recorded, those that were open; as effective, all.
-- Reads all entries of the book. Raises LEDGER_BOOK_UNKNOWN, LEDGER_INVALID. Locks nothing.
create function payments.trial_balance(p_book_id integer, p_by text, p_at timestamptz)
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
    select e.account_id, sum(e.amount_cents) as cents
    from payments.entries e
    where e.book_id = p_book_id and case p_by when 'recorded' then e.created_at else e.effective_at end <= p_at
    group by e.account_id
  ) b on b.account_id = a.id
  join ref.currencies c on c.code = a.currency
  where a.book_id = p_book_id and (p_by = 'effective' or a.created_at <= p_at)
  group by a.currency, c.decimal_places, a.type, 4
  order by a.currency, a.type, 4;
end $$;

-- Periods.

create table payments.periods (
  closed_until timestamptz not null,
  closed_at timestamptz not null,
  event_position bigint not null,
  book_id integer not null constraint periods_book_id_fkey references payments.books,
  closed_by text not null,
  certificate jsonb not null,
  certificate_hash bytea not null,
  constraint periods_pkey primary key (closed_until, book_id),
  constraint periods_event_position_key unique (event_position, book_id)
);

comment on table payments.periods is 'Closed periods, a projection of the events period.closed: nothing effective before closed_until is posted any more, and nothing reopens one.';
comment on column payments.periods.certificate is 'What payments.certificates_of said when the period was closed.';
comment on column payments.periods.certificate_hash is 'SHA-256 of payments.certificate_text over the certificate.';

-- What one account moved in one period: 1 the first, which begins with the book. In all periods together: how it stands.
create type payments.period_movement as (
  account_id uuid, period integer, cents numeric, entries bigint, transactions bigint, last_position bigint
);

-- The movements of a book in the periods that end at the given instants, in ascending order, by the effective dates of the
-- entries whose positions are above p_after and up to p_up_to (null: no bound). One pass over these. Locks nothing.
create function payments.period_movements(p_book_id integer, p_untils timestamptz[], p_after bigint, p_up_to bigint)
returns payments.period_movement[]
language sql stable as $$
  select coalesce(array_agg(m::payments.period_movement), '{}')
  from (
    select e.account_id, width_bucket(e.effective_at, p_untils) + 1, sum(e.amount_cents), count(*),
           -- Every transaction has a leg 1, and one.
           count(*) filter (where e.id % 1024 = 1), max(e.event_position)
    from payments.entries e
    where e.book_id = p_book_id and e.effective_at < p_untils[cardinality(p_untils)]
      and e.id > coalesce(p_after, -1) * 1024 + 1023 and e.id <= coalesce(p_up_to, 9007199254740990) * 1024 + 1023
    group by 1, 2
  ) m
$$;

-- The certificates of the periods of a book that end at the given instants, in ascending order, from what moved in them; the
-- first one begins with the book, each other one where the one before ends.
-- Returns for each: {version, book, from (null: the beginning), until,
--   balances: [{currency, type, debit_cents, credit_cents, balance_cents}], by what was effective before `until`: of each
--     type with entries, the sums of its accounts on the debit and on the credit side, as text; balance = debit - credit;
--   transactions, entries: how many were effective in the period;
--   events, last_position: the events of the log that the balances stand on, and the position of the last of them}.
-- Locks nothing: the figures are final only where no earlier effective date can be posted any more.
create function payments.certificates_of(p_book_id integer, p_untils timestamptz[], p_movements payments.period_movement[])
returns table (closed_until timestamptz, certificate jsonb)
language sql stable as $$
  with moved as materialized (
    select m.account_id, m.period, sum(m.cents) as cents, sum(m.entries) as entries, sum(m.transactions) as transactions,
           max(m.last_position) as last_position
    from unnest(p_movements) as m
    group by m.account_id, m.period
  ), stood as (
    select m.account_id, m.period, m.cents, sum(m.cents) over (partition by m.account_id order by m.period) as after_cents
    from moved m
  ), side as materialized (
    -- By how much each period moved the sums of either side: an account may change sides.
    select a.currency, a.type, s.period,
           sum(greatest(s.after_cents, 0) - greatest(s.after_cents - s.cents, 0)) as debit_cents,
           sum(greatest(-s.after_cents, 0) - greatest(s.cents - s.after_cents, 0)) as credit_cents
    from stood s
    join payments.accounts a on a.book_id = p_book_id and a.id = s.account_id
    group by a.currency, a.type, s.period
  ), counted as materialized (
    select m.period, sum(m.entries) as entries, sum(m.transactions) as transactions, max(m.last_position) as last_position
    from moved m
    group by m.period
  )
  select u.closed_until, jsonb_build_object(
           'version', 1, 'book', p_book_id, 'from', payments.instant_text(p_untils[u.period - 1]), 'until', payments.instant_text(u.closed_until),
           'balances', (
             select coalesce(jsonb_agg(jsonb_build_object(
                      'currency', b.currency, 'type', b.type, 'debit_cents', b.debit_cents::text, 'credit_cents', b.credit_cents::text,
                      'balance_cents', (b.debit_cents - b.credit_cents)::text) order by b.currency collate "C", b.type collate "C"), '[]')
             from (
               select s.currency, s.type, sum(s.debit_cents) as debit_cents, sum(s.credit_cents) as credit_cents
               from side s
               where s.period <= u.period
               group by s.currency, s.type
             ) b),
           'transactions', coalesce((select c.transactions from counted c where c.period = u.period), 0),
           'entries', coalesce((select c.entries from counted c where c.period = u.period), 0),
           'events', coalesce((select sum(c.transactions) from counted c where c.period <= u.period), 0),
           'last_position', coalesce((select max(c.last_position) from counted c where c.period <= u.period), 0))
  from unnest(p_untils) with ordinality as u (closed_until, period)
$$;

-- The canonical text of a certificate, version 1, that its hash is made over: UTF-8, each line ended by a line feed, the
-- balances in byte order of currency and type. Anybody can write it down from the certificate; docs/periods.md shows one.
create function payments.certificate_text(p_certificate jsonb) returns text
language sql stable parallel safe
return concat(
  'liventix period certificate ', p_certificate ->> 'version', E'\n',
  'book ', p_certificate ->> 'book', E'\n',
  'from ', coalesce(p_certificate ->> 'from', 'the beginning'), E'\n',
  'until ', p_certificate ->> 'until', E'\n',
  (select string_agg(format(E'%s %s debit %s credit %s balance %s\n', b.value ->> 'currency', b.value ->> 'type',
            b.value ->> 'debit_cents', b.value ->> 'credit_cents', b.value ->> 'balance_cents'),
            '' order by b.value ->> 'currency' collate "C", b.value ->> 'type' collate "C")
   from jsonb_array_elements(case jsonb_typeof(p_certificate -> 'balances') when 'array' then p_certificate -> 'balances' end) as b),
  'transactions ', p_certificate ->> 'transactions', E'\n',
  'entries ', p_certificate ->> 'entries', E'\n',
  'events ', p_certificate ->> 'events', E'\n',
  'last position ', p_certificate ->> 'last_position', E'\n');

create function payments.certificate_hash(p_certificate jsonb) returns bytea
language sql stable parallel safe
return sha256(convert_to(payments.certificate_text(p_certificate), 'UTF8'));

-- The ends of a book's last closed period, if any, and of the one that closing it until an instant would close.
-- Raises LEDGER_BOOK_UNKNOWN; LEDGER_PERIOD_INVALID where the instant is none, or still to come; LEDGER_PERIOD_CLOSED where
-- the book is closed until then already. Locks nothing.
create function payments.next_period(p_book_id integer, p_until timestamptz) returns timestamptz[]
language plpgsql stable as $$
declare
  v_closed_until timestamptz;
begin
  perform payments.check_book(p_book_id);
  if p_until is null or not isfinite(p_until) or p_until > clock_timestamp() then
    perform payments.raise_period_code('LEDGER_PERIOD_INVALID', format(
      'Book %s cannot be closed until %s: it is %s. Give an instant that has passed.',
      p_book_id, coalesce(payments.instant_text(p_until), 'null'), payments.instant_text(clock_timestamp())));
  end if;
  select b.closed_until into v_closed_until from payments.books b where b.book_id = p_book_id;
  if p_until <= v_closed_until then
    perform payments.raise_code('LEDGER_PERIOD_CLOSED', format(
      'Book %s is closed until %s, so it cannot be closed until %s. No period is reopened: post a correction with an effective date in the open period.',
      p_book_id, payments.instant_text(v_closed_until), payments.instant_text(p_until)));
  end if;
  return array_remove(array[v_closed_until, p_until], null);
end $$;

-- The certificate that closing a book until an instant would give, as far as is known now. Raises as next_period. Locks nothing.
create function payments.next_certificate(p_book_id integer, p_until timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_untils constant timestamptz[] := payments.next_period(p_book_id, p_until);
begin
  return (
    select c.certificate
    from payments.certificates_of(p_book_id, v_untils, payments.period_movements(p_book_id, v_untils, null, null)) c
    where c.closed_until = p_until);
end $$;

-- Applies the events period.closed to their projection. Parameters and locks as of project_events.
create function payments.project_periods(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into payments.periods (book_id, closed_until, closed_at, closed_by, event_position, certificate, certificate_hash)
  select e.book_id, (e.payload ->> 'until')::timestamptz, e.recorded_at, e.created_by, e.position, e.payload -> 'certificate',
         decode(e.payload ->> 'hash', 'hex')
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last
    and e.type = 'period.closed' and (p_xid is null or e.xid = p_xid);
end $$;

-- Waits for every posting to a book under way, and keeps others waiting until this transaction, or subtransaction, ends.
-- Raises LEDGER_PERIOD_BUSY where that takes longer than lock_timeout.
create function payments.lock_period(p_book_id integer) returns void
language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtext('liventix.period'), p_book_id);
exception when lock_not_available then
  perform payments.raise_period_code('LEDGER_PERIOD_BUSY', format(
    'Book %s was not closed: another transaction that posts to it, or closes it, stayed open for longer than %s. End it, or run again.',
    p_book_id, current_setting('lock_timeout')));
end $$;

-- Closes the periods of a book up to an instant: effective dates before it are refused from then on, for ever.
-- Returns the period with its certificate.
-- Raises as next_period; LEDGER_BOOK_FORBIDDEN where the calling role may not post in the book; LEDGER_PERIOD_INVALID in a
-- transaction whose snapshot may be older than the lock; LEDGER_PERIOD_BUSY where a posting stayed open for too long.
-- Locks: the book's period, exclusively. Postings hold it shared, from before they read closed_until and take their positions
-- to their end: each has ended before, and is in the certificate, or begins afterwards, and is refused. They wait as long, so
-- the wait for them is bounded, and nearly all is summed before: up to a position that nobody can come below any more.
create function payments.close_period(p_book_id integer, p_until timestamptz) returns payments.periods
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
declare
  v_untils timestamptz[];
  v_settled bigint;
  v_movements payments.period_movement[];
  v_certificate jsonb;
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

  v_positions := payments.append_events(p_book_id, array[jsonb_populate_record(null::payments.new_event, jsonb_build_object(
    'type', 'period.closed',
    'event_id', payments.named_uuid(format('period:%s:%s', p_book_id, v_certificate ->> 'until')),
    'payload', jsonb_build_object('until', v_certificate -> 'until', 'certificate', v_certificate,
      'hash', encode(payments.certificate_hash(v_certificate), 'hex'))))]);
  perform payments.project_periods(p_book_id, v_positions[1], v_positions[1], pg_current_xact_id());
  update payments.books set closed_until = p_until where book_id = p_book_id;
  select * into v_period from payments.periods p where p.book_id = p_book_id and p.event_position = v_positions[1];
  return v_period;
end $$;

-- Every new period is what an event of the log says, and ends later than those before it.
create function payments.check_new_periods() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select n.book_id, n.closed_until into v_fault
  from new_periods n
  where not exists (
      select from payments.events e
      where e.book_id = n.book_id and e.position = n.event_position and e.type = 'period.closed'
        and (e.payload ->> 'until')::timestamptz = n.closed_until and e.payload -> 'certificate' = n.certificate
        and e.payload ->> 'hash' = encode(n.certificate_hash, 'hex') and e.recorded_at = n.closed_at and e.created_by = n.closed_by)
    or exists (
      select from payments.periods p
      where p.book_id = n.book_id
        and (p.event_position < n.event_position and p.closed_until >= n.closed_until
          or p.event_position > n.event_position and p.closed_until <= n.closed_until))
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'A period of book %s until %s refused: the log does not say so, or a later one is closed. Close it with payments.close_period.',
      v_fault.book_id, payments.instant_text(v_fault.closed_until)));
  end if;
  return null;
end $$;

-- A book is closed until its last period ends, and open where it has none.
create function payments.check_changed_books() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select c.book_id, c.closed_until into v_fault
  from changed c
  where c.closed_until is distinct from (select max(p.closed_until) from payments.periods p where p.book_id = c.book_id)
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'Book %s is not closed until %s: its periods say otherwise, and none is reopened. Close one with payments.close_period.',
      v_fault.book_id, coalesce(payments.instant_text(v_fault.closed_until), 'null')));
  end if;
  return null;
end $$;

create trigger periods_append_only before update or delete or truncate on payments.periods
  for each statement execute function payments.refuse_change();
create trigger periods_follow_log after insert on payments.periods
  referencing new table as new_periods for each statement execute function payments.check_new_periods();
create trigger books_begin_open after insert on payments.books
  referencing new table as changed for each statement execute function payments.check_changed_books();
create trigger books_follow_periods after update on payments.books
  referencing new table as changed for each statement execute function payments.check_changed_books();
alter table payments.periods enable always trigger periods_append_only;
alter table payments.periods enable always trigger periods_follow_log;
alter table payments.books enable always trigger books_begin_open;
alter table payments.books enable always trigger books_follow_periods;

alter table payments.periods enable row level security;
create policy books_granted on payments.periods for select using (book_id = any ((select payments.books_of(current_user))::integer[]));

-- Nobody but the owner writes; Supabase's server role reads with its own rights, and closes through the function.
revoke all on payments.periods from public;
do $$
declare
  v_function regprocedure;
  v_role text;
  v_is_read constant text[] := array['instant_text', 'check_book', 'normal_sign', 'recorded_seq', 'balance_after_seq', 'effective_sum',
    'recorded_balance', 'effective_balance', 'check_order', 'statement_bounds', 'effective_page', 'statement_lines', 'trial_balance',
    'period_movements', 'certificates_of', 'certificate_text', 'certificate_hash'];
begin
  for v_function in
    select p.oid from pg_proc p
    where p.pronamespace = 'payments'::regnamespace
      and p.proname = any (v_is_read || array['raise_period_code', 'next_period', 'next_certificate', 'project_periods',
        'lock_period', 'close_period', 'check_new_periods', 'check_changed_books'])
  loop
    execute format('revoke all on function %s from public', v_function);
    for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
      execute format('revoke all on function %s from %I', v_function, v_role);
    end loop;
  end loop;
  for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on payments.periods from %I', v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant select on payments.periods to service_role;
    for v_function in
      select p.oid from pg_proc p
      where p.pronamespace = 'payments'::regnamespace
        and p.proname = any (v_is_read || array['raise_period_code', 'next_period', 'next_certificate', 'close_period',
          'raise_code', 'try_uuid'])
    loop
      execute format('grant execute on function %s to service_role', v_function);
    end loop;
  end if;
end $$;
