-- What the replay does where the ledger refuses: one account that finance has frozen keeps its wallet back and no other. And what it
-- finds changed while nobody captured.

-- Not a column of replay.wallets: who writes to a wallet locks its row there.
create table replay.held_back (
  wallet_id uuid not null,
  source text not null,
  reason text not null,
  book_id integer not null constraint held_back_book_id_fkey references payments.books,
  constraint held_back_pkey primary key (wallet_id, source, book_id)
);
comment on table replay.held_back is 'Wallets that the ledger refused to post to in the last run, which passes them over, and why.';

create table replay.unseen (
  wallet_id uuid not null,
  source text not null,
  book_id integer not null constraint unseen_book_id_fkey references payments.books,
  constraint unseen_pkey primary key (wallet_id, source, book_id)
);
comment on table replay.unseen is 'Wallets whose difference could not be looked at before the first run ended: what they differ by did not come since.';

create index wallets_owner on replay.wallets (owner_id);

-- A row of a database at another revision may belong to no wallet: it is a note then, and no fault of who writes it.
alter table replay.captured_rows
  alter wallet_id drop not null,
  drop constraint captured_rows_operation_values,
  add constraint captured_rows_operation_values check (operation in ('insert', 'update', 'delete', 'resync'));
comment on column replay.captured_rows.operation is 'resync: found by comparing the table with the log, after a time in which nothing was captured.';

alter table replay.progress add is_repeat boolean not null default false;
comment on column replay.progress.is_repeat is 'Whether rows were read before, under another capture: those that the log has are passed over.';

-- As large as it was, and to which side.
update replay.approvals a
set cents = sign(d.cents) * a.cents
from replay.drift d
where d.wallet_id = a.wallet_id and d.source = a.source and d.book_id = a.book_id and d.cause = 'unexplained';
comment on column replay.approvals.cents is 'Signed for: positive where the wallet has more than its rows explain.';

-- How much of a wallet's unexplained difference nobody has signed for, without a sign.
create function replay.unapproved_cents(p_unexplained_cents bigint, p_approved_cents bigint) returns bigint
language sql immutable parallel safe
return case
  when p_approved_cents is null or sign(p_approved_cents) <> sign(p_unexplained_cents) then abs(p_unexplained_cents)
  else greatest(abs(p_unexplained_cents) - abs(p_approved_cents), 0) end;

create table replay.old_functions (
  id bigint generated always as identity,
  restore text not null,
  constraint old_functions_pkey primary key (id)
);
comment on table replay.old_functions is 'The statements that bring back the old functions over wallets as they were before they were replaced, with what they could do; in their order.';

create function replay.note_unreconciled(p_book_id integer, p_sources text[], p_wallet_ids uuid[], p_changed_at timestamptz[]) returns void
language sql as $$
  insert into replay.unreconciled as u (wallet_id, source, changed_at, book_id)
  select n.wallet_id, n.source, max(n.changed_at), p_book_id
  from unnest(p_sources, p_wallet_ids, p_changed_at) as n (source, wallet_id, changed_at)
  where n.wallet_id is not null
  group by n.wallet_id, n.source
  -- In one order: two drains would otherwise wait for each other.
  order by 1, 2
  on conflict (wallet_id, source, book_id) do update set changed_at = excluded.changed_at
$$;

-- As in 0028.
create or replace function replay.drain_wallets(p_book_id integer, p_limit integer, p_wallet_ids uuid[] default null) returns integer
language plpgsql as $$
declare
  v_changes replay.captured_wallets[];
begin
  with taken as (
    delete from replay.captured_wallets c
    where c.id in (
      select n.id from replay.captured_wallets n
      where p_wallet_ids is null or n.wallet_id = any (p_wallet_ids)
      order by n.id
      limit p_limit
      for update)
    returning c
  )
  select array_agg(t.c order by (t.c).id) into v_changes from taken t;
  if v_changes is null then
    return 0;
  end if;

  perform replay.bind_wallets(
    p_book_id, n.source, array_agg(n.wallet_id order by n.id), array_agg(coalesce(n.new_owner_id, n.old_owner_id) order by n.id))
  from unnest(v_changes) n
  group by n.source;
  perform replay.note_unreconciled(p_book_id, array_agg(n.source), array_agg(n.wallet_id), array_agg(n.captured_at))
  from unnest(v_changes) n;
  return cardinality(v_changes);
end $$;

-- Takes captured changes to rows out of the queue, the oldest first, and passes over those of wallets that are held back, unless they
-- are asked for by name. Changes of before the horizon are dropped: their rows were read from the table.
create function replay.take_changes(
  p_limit integer, p_wallet_ids uuid[], out taken integer, out changes replay.captured_rows[]
)
language plpgsql as $$
declare
  v_due bigint[];
begin
  -- Two statements: a plan for both would read the whole queue for one wallet.
  if p_wallet_ids is null then
    v_due := array(
      select n.id from replay.captured_rows n
      where not exists (select from replay.held_back h where h.wallet_id = n.wallet_id and h.source = n.source)
      order by n.id
      limit p_limit
      for update of n);
  else
    v_due := array(
      select n.id from replay.captured_rows n
      where n.wallet_id = any (p_wallet_ids) or n.wallet_id is null and array_position(p_wallet_ids, null) is not null
      order by n.id
      limit p_limit
      for update of n);
  end if;
  with gone as (
    delete from replay.captured_rows c where c.id = any (v_due)
    -- A change and its row have one xmin.
    returning c, replay.is_before_horizon(c.xmin, (select h from replay.capture_horizon() h)) as is_before_horizon
  )
  select count(*), array_agg(g.c order by (g.c).id) filter (where not g.is_before_horizon)
  into taken, changes
  from gone g;
end $$;

-- Counts in progress what changes left of the tables' rows. p_late: those whose row was booked as it had been before, first.
create function replay.count_changes(p_book_id integer, p_changes replay.captured_rows[], p_late replay.captured_rows[]) returns void
language sql as $$
  update replay.progress p
  set rows = p.rows + d.rows, delta_cents = p.delta_cents + d.delta_cents, id_hash = p.id_hash + d.id_hash
  from (
    select m.source, sum(m.sign) as rows, sum(m.sign * coalesce((m.image).delta, 0)) as delta_cents,
           sum(m.sign * uuid_hash_extended((m.image).id, 0)::numeric) as id_hash
    from (
      -- What was found by comparison is counted where the table was read.
      select n.source, 1 as sign, n.new as image from unnest(p_changes) n where n.operation <> 'resync'
      union all
      select n.source, -1, n.old from unnest(p_changes) n where n.operation <> 'resync'
      union all
      select n.source, 1, n.old from unnest(p_late) n
    ) m
    where (m.image).id is not null
    group by m.source
  ) d
  where p.book_id = p_book_id and p.source = d.source
$$;

-- As in 0028, in parts that have names; wallets that are held back are passed over.
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
  v_judgement replay.judgement;
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
    v_version := (
      select coalesce(max(c.version), 1) from replay.changed_rows c
      where c.legacy_id = v_row.id and c.source = v_change.source and c.book_id = p_book_id);

    if not replay.is_in_log(p_book_id, v_change.source, v_row.id) then
      v_judgement := replay.judge_row(p_book_id, v_change.source, v_row, v_account_id);
      v_events := v_events || replay.row_event(
        p_book_id, v_change.source, replay.with_free_key(p_book_id, v_row), v_account_id, v_judgement.cause, v_judgement.explained,
        v_judgement.paid, v_open_since, v_flows);
      v_waiting := v_waiting || v_touched;
      imported := imported + 1;
      if v_judgement.cause is not null then
        insert into replay.findings (book_id, source, legacy_id, cause, explained_cents)
        values (p_book_id, v_change.source, v_row.id, v_judgement.cause, v_judgement.explained)
        on conflict (book_id, source, legacy_id) do update set cause = excluded.cause, explained_cents = excluded.explained_cents;
      end if;
      continue when (v_change.old).id is null;
      -- It was there before the capture began, and had not been reached: booked as it was, and corrected then.
      v_late := v_late || v_change;
      perform payments.import_events(p_book_id, v_account_ids, v_events);
      v_events := '{}';
      v_waiting := '{}';
    end if;

    continue when v_change.old is not distinct from v_change.new;
    v_events := v_events || replay.correction_event(p_book_id, v_change, v_version + 1, v_account_id, v_open_since);
    v_waiting := v_waiting || v_touched;
    corrected := corrected + 1;
    perform replay.keep_version(p_book_id, v_change.source, v_row.id, v_version + 1, v_change.new);
  end loop;
  perform payments.import_events(p_book_id, v_account_ids, v_events);

  perform replay.count_changes(p_book_id, v_changes, v_late);
  perform replay.note_unreconciled(p_book_id, array_agg(n.source), array_agg(n.wallet_id), array_agg(n.captured_at))
  from unnest(v_changes) n;
end $$;

revoke all on all tables in schema replay from public;
revoke all on all functions in schema replay from public;
