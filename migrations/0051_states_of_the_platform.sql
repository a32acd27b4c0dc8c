-- What the declarations of src/states/machines/ ask of the platform's tables. These move between schemas, and a database may have none of
-- them: so they are looked for by name, when they are asked, in the schemas below and nowhere else. As the owner, because row-level
-- security shows a signed-in user less than what decides about him. That an event belongs to an organization is asked at each transition: where
-- tables have moved, by the old name, which is a view then.

-- Whether a user may manage an event: its creator, where it is an individual's; else an owner, administrator or editor of its organization.
create function states.is_organiser(p_event_id uuid, p_user_id uuid) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, events, organizations, public, pg_temp as $$
begin
  return exists (
    select from events e
    where e.id = p_event_id and case e.owner_context_type::text
      when 'organization' then states.is_advertiser(e.owner_context_id, p_user_id)
      else e.created_by = p_user_id end);
end $$;

-- Whether a user may act for an organization: its owners, administrators and editors.
create function states.is_advertiser(p_organization_id uuid, p_user_id uuid) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, organizations, public, pg_temp as $$
begin
  return exists (
    select from org_memberships m
    where m.org_id = p_organization_id and m.user_id = p_user_id and m.role::text in ('owner', 'admin', 'editor'));
end $$;

-- Whether a user may act for a sponsor: its members, those who may only look excepted.
create function states.is_sponsor(p_sponsor_id uuid, p_user_id uuid) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, sponsorship, public, pg_temp as $$
begin
  return exists (
    select from sponsor_members m where m.sponsor_id = p_sponsor_id and m.user_id = p_user_id and m.role::text in ('owner', 'admin', 'editor'));
end $$;

-- Whether a user scans tickets at the doors of an event.
create function states.is_scanner(p_event_id uuid, p_user_id uuid) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, ticketing, events, public, pg_temp as $$
begin
  return exists (
    select from event_scanners s where s.event_id = p_event_id and s.user_id = p_user_id and s.status::text = 'enabled');
end $$;

-- The organization whose event it is; null for one of an individual. Without a search_path of its own, which costs more than all
-- else at each transition: every name and operator is qualified.
create function states.organization_of_event(p_event_id uuid) returns uuid
language plpgsql stable as $$
begin
  return (
    select e.owner_context_id from public.events e
    where e.id operator(pg_catalog.=) p_event_id and e.owner_context_type::pg_catalog.text operator(pg_catalog.=) 'organization');
end $$;

-- Whose the organiser's money of an event is, as payments.open_accounts takes it.
create function states.owner_of_event(p_event_id uuid) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, events, public, pg_temp as $$
begin
  return (
    select case e.owner_context_type::text
      when 'organization' then jsonb_build_object('organization_id', e.owner_context_id)
      else jsonb_build_object('user_id', e.created_by) end
    from events e where e.id = p_event_id);
end $$;

-- The currency of a ticket order, as the ledger spells it.
create function states.currency_of_order(p_order_id uuid) returns text
language plpgsql stable security definer
set search_path = pg_catalog, ticketing, public, pg_temp as $$
begin
  return (select upper(o.currency) from orders o where o.id = p_order_id);
end $$;

-- A ticket's share of what its order says was paid: 'subtotal' (the organiser's) or 'fees' (ours). Each ticket weighs what its tier cost, free ones
-- all the same. Shares are cut from what the tickets refunded before have left, so that those of all tickets are the order, to the cent, and never
-- more than it, whoever deletes tickets; fees are what the order says, never computed anew. Before is by the history: a statement that refunds
-- many has changed all of its rows by then. Zero for an order that was never paid; null where it does not say what the tier cost.
-- Locks: the order's number, so that two refunds of it are cut one after the other; not its row, which old code locks before its tickets.
create function states.share_of_order(p_order_id uuid, p_ticket_id uuid, p_tier_id uuid, p_part text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, ticketing, public, pg_temp as $$
declare
  v_cents numeric;
  v_is_free boolean;
  v_whole numeric;
  v_before numeric;
  v_own numeric;
  v_booked numeric;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.states.order'), hashtext(p_order_id::text));
  select case p_part when 'subtotal' then o.subtotal_cents when 'fees' then o.fees_cents end
  into v_cents
  from orders o where o.id = p_order_id and o.status::text in ('paid', 'refunded');
  if v_cents is null then
    return 0;
  end if;
  select sum(i.quantity::bigint * i.unit_price_cents) <= 0 into v_is_free from order_items i where i.order_id = p_order_id;
  select sum(i.quantity::bigint * w.weight), max(w.weight) filter (where i.tier_id = p_tier_id)
  into v_whole, v_own
  from order_items i
  cross join lateral (select case when v_is_free then 1 else greatest(i.unit_price_cents, 0) end as weight) w
  where i.order_id = p_order_id;
  if v_own is null then
    return null;
  end if;
  select coalesce(sum(w.weight), 0)
  into v_before
  from tickets t
  cross join lateral (
    select case when v_is_free then 1 else max(greatest(i.unit_price_cents, 0)) end as weight
    from order_items i where i.order_id = t.order_id and i.tier_id = t.tier_id
  ) w
  where t.order_id = p_order_id and t.id <> p_ticket_id and exists (
    select from states.history h where h.subject_id = t.id and h.machine = 'ticket' and h.to_state = 'refunded');
  -- What was refunded under the order already, of tickets that are gone as well.
  select coalesce(sum(n.amount_cents), 0)
  into v_booked
  from payments.entries n
  join payments.accounts a on a.id = n.account_id and a.book_id = n.book_id
  where n.reference_id = p_order_id::text and n.reference_type = 'refund' and n.book_id = 1
    and a.type = case p_part when 'subtotal' then 'payable' else 'revenue' end;
  return greatest(0, least(v_cents - v_booked,
    floor(v_cents * least(v_before + v_own, v_whole) / v_whole) - floor(v_cents * least(v_before, v_whole) / v_whole)));
end $$;

-- What a campaign says it has spent and no posting says yet, in cents. Nothing where the organization's wallet is still the old tables': their
-- rows are booked when they are replayed.
-- Locks: the balance row of the wallet, before it reads what is booked: who books it otherwise holds that until he commits.
create function states.unbooked_spend(p_campaign_id uuid, p_organization_id uuid, p_spent_credits bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, payments, organizations, public, pg_temp as $$
declare
  v_is_old boolean := false;
begin
  if to_regclass('org_wallets') is not null and not exists (
    select from replay.wallets w where w.owner_id = p_organization_id and w.source = 'org_wallet_transactions' and w.mode = 'ledger')
  then
    select exists (select from org_wallets w where w.org_id = p_organization_id) into v_is_old;
  end if;
  if v_is_old then
    return 0;
  end if;
  perform payments.lock_accounts(1, array[payments.account_id(1, 'cash', 'USD', 'wallet', null, p_organization_id::text)]);
  return greatest(p_spent_credits - coalesce((
    select -sum(n.amount_cents)
    from payments.entries n
    join payments.accounts a on a.id = n.account_id and a.book_id = n.book_id and a.type = 'revenue'
    where n.reference_id = p_campaign_id::text and n.reference_type = 'campaign_spend' and n.book_id = 1), 0), 0);
end $$;

select states.keep_from_guests();
