-- Generated from src/states/machines/ by npm run states, as they were declared then.

-- ------------------------------------------------------------------------------------------------------------ campaign
-- An advertising campaign of an organization, which its wallet pays for. It begins as draft or scheduled or active.
--
--   draft      schedule    → scheduled  platform, advertiser
--   draft      activate    → active     platform, advertiser
--   draft      cancel      → cancelled  platform, advertiser
--   scheduled  unschedule  → draft      platform, advertiser
--   scheduled  activate    → active     platform, advertiser
--   scheduled  cancel      → cancelled  platform, advertiser
--   active     pause       → paused     platform, advertiser
--   active     complete    → completed  platform, advertiser
--   active     cancel      → cancelled  platform, advertiser
--   paused     resume      → active     platform, advertiser
--   paused     complete    → completed  platform, advertiser
--   paused     cancel      → cancelled  platform, advertiser

create type states.campaign_state as enum ('draft', 'scheduled', 'active', 'paused', 'completed', 'cancelled');
comment on type states.campaign_state is 'draft: it is being written; scheduled: it starts by itself, at its date; active: it is shown, and spends; paused: it is not shown for now; completed: it has come to its end, or spent its budget; cancelled: it was called off';

insert into states.machines (name, about, table_name, state_type, initial_states, label_column, adopted_state) values
  ('campaign', 'An advertising campaign of an organization, which its wallet pays for.', 'public.campaigns', 'states.campaign_state', '{draft,scheduled,active}', 'status', 'states.campaign_said(($1).status::text, $2)');
insert into states.parties (machine, role, condition) values
  ('campaign', 'advertiser', 'states.is_advertiser(($1).org_id, $2)');
insert into states.guards (machine, name, condition, says) values
  ('campaign', 'has_budget_left', '($1).spent_credits < ($1).total_budget_credits', 'it has spent less than its budget');
insert into states.edges (machine, from_state, to_state, event, topic, roles, guards, has_effects, organization, is_of_event) values
  ('campaign', 'draft', 'scheduled', 'schedule', 'campaign.scheduled', '{platform,advertiser}', '{}', false, 'select ($1).org_id', false),
  ('campaign', 'draft', 'active', 'activate', 'campaign.active', '{platform,advertiser}', '{has_budget_left}', false, 'select ($1).org_id', false),
  ('campaign', 'draft', 'cancelled', 'cancel', 'campaign.cancelled', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'scheduled', 'draft', 'unschedule', 'campaign.draft', '{platform,advertiser}', '{}', false, 'select ($1).org_id', false),
  ('campaign', 'scheduled', 'active', 'activate', 'campaign.active', '{platform,advertiser}', '{has_budget_left}', false, 'select ($1).org_id', false),
  ('campaign', 'scheduled', 'cancelled', 'cancel', 'campaign.cancelled', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'active', 'paused', 'pause', 'campaign.paused', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'active', 'completed', 'complete', 'campaign.completed', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'active', 'cancelled', 'cancel', 'campaign.cancelled', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'paused', 'active', 'resume', 'campaign.active', '{platform,advertiser}', '{has_budget_left}', false, 'select ($1).org_id', false),
  ('campaign', 'paused', 'completed', 'complete', 'campaign.completed', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false),
  ('campaign', 'paused', 'cancelled', 'cancel', 'campaign.cancelled', '{platform,advertiser}', '{}', true, 'select ($1).org_id', false);
insert into states.accounts (machine, name, request) values
  ('campaign', 'wallet', 'jsonb_build_object(''type'', ''cash'', ''currency'', ''USD'', ''name'', ''wallet'') || jsonb_build_object(''organization_id'', ($1).org_id)'),
  ('campaign', 'revenue', 'jsonb_build_object(''type'', ''revenue'', ''currency'', ''USD'', ''name'', ''ad_campaigns'')');
insert into states.bookings (machine, event, reverses, reference_type, reference_id) values
  ('campaign', 'pause', null, 'campaign_spend', '($1).id'),
  ('campaign', 'complete', null, 'campaign_spend', '($1).id'),
  ('campaign', 'cancel', null, 'campaign_spend', '($1).id');
insert into states.lines (machine, event, number, account, side, amount_cents) values
  ('campaign', 'pause', 1, 'wallet', 'debit', 'states.unbooked_spend(($1).id, ($1).org_id, ($1).spent_credits)'),
  ('campaign', 'pause', 2, 'revenue', 'credit', null),
  ('campaign', 'complete', 1, 'wallet', 'debit', 'states.unbooked_spend(($1).id, ($1).org_id, ($1).spent_credits)'),
  ('campaign', 'complete', 2, 'revenue', 'credit', null),
  ('campaign', 'cancel', 1, 'wallet', 'debit', 'states.unbooked_spend(($1).id, ($1).org_id, ($1).spent_credits)'),
  ('campaign', 'cancel', 2, 'revenue', 'credit', null);

-- What a label of public.campaigns.status says of the state. One that may stand for several says the present one, where that is among them.
create or replace function states.campaign_said(p_label text, p_present text) returns text
language sql immutable parallel safe
return case p_label
  when 'draft' then 'draft'
  when 'scheduled' then 'scheduled'
  when 'active' then 'active'
  when 'paused' then 'paused'
  when 'completed' then 'completed'
  when 'archived' then case when p_present in ('completed') then p_present else 'cancelled' end
end;

-- The label that shows a state to old code: the present one, where that may stand for it.
create or replace function states.campaign_shown(p_state text, p_present text) returns text
language sql immutable parallel safe
return case p_state
  when 'draft' then 'draft'
  when 'scheduled' then 'scheduled'
  when 'active' then 'active'
  when 'paused' then 'paused'
  when 'completed' then case when p_present in ('archived') then p_present else 'completed' end
  when 'cancelled' then 'archived'
end;

-- Before each update: where the state changes, old code sees what it is; where old code changes the label, the state follows. Without a
-- WHEN, which PostgreSQL reads anew for each statement: that takes longer than this.
create or replace function states.campaign_follow() returns trigger
language plpgsql security definer as $$
begin
  if new.state operator(pg_catalog.<>) old.state then
    new.status := states.campaign_shown(new.state::pg_catalog.text, new.status::pg_catalog.text);
  elsif old.state is not null and new.status is not null
    and (old.status is null or new.status operator(pg_catalog.<>) old.status)
  then
    new.state := states.campaign_said(new.status::pg_catalog.text, new.state::pg_catalog.text);
    if new.state is null then
      perform states.refuse_label('campaign', new.id, new.status::pg_catalog.text);
    end if;
  elsif new.status is null and old.status is not null then
    new.status := states.campaign_shown(new.state::pg_catalog.text, null);
  end if;
  return new;
end $$;

-- Before an insert, and before an update of a row of before the machine.
create or replace function states.campaign_take_in() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_state states.campaign_state := new.state;
  v_present text;
begin
  if tg_op = 'INSERT' and v_state is null then
    new.state := case when new.status is null then 'draft' else states.campaign_said(new.status::text, null) end;
    if new.state is null then
      perform states.refuse_label('campaign', new.id, new.status::text);
    end if;
  elsif tg_op = 'INSERT' then
    new.status := states.campaign_shown(v_state::text, new.status::text);
  elsif v_state is null then
    v_present := states.adopted_state('campaign', old.id, old);
    new.state := case when new.status is distinct from old.status
      then states.campaign_said(new.status::text, v_present) else v_present end;
  elsif current_setting('liventix.taking_in', true) = 'campaign' then
    -- By the installation, and nothing else of it changes, whatever other triggers made of it.
    new := old;
    new.state := v_state;
  else
    new.status := states.campaign_shown(v_state::text, new.status::text);
  end if;
  return new;
end $$;

create view states.campaign_history with (security_invoker = true) as
select id, subject_id, from_state::states.campaign_state, to_state::states.campaign_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = 'campaign';
comment on view states.campaign_history is 'Every change of state of every row of public.campaigns: An advertising campaign of an organization, which its wallet pays for.';

-- -------------------------------------------------------------------------------------------------------------- escrow
-- The money of a sponsorship order, from the sponsor to the organiser. It begins as pending.
--
--   pending   pay      → funded    platform
--   pending   cancel   → refunded  platform, sponsor, organiser
--   funded    lock     → locked    platform, organiser
--   funded    refund   → refunded  platform, organiser
--   locked    release  → released  platform
--   locked    dispute  → disputed  platform, sponsor, organiser
--   disputed  release  → released  platform
--   disputed  refund   → refunded  platform

create type states.escrow_state as enum ('pending', 'funded', 'locked', 'released', 'disputed', 'refunded');
comment on type states.escrow_state is 'pending: nothing is paid yet; funded: the sponsor has paid, and may still have it back; locked: the organiser has accepted, and delivers; released: the organiser has it; disputed: sponsor and organiser do not agree, and nobody gets anything; refunded: the sponsor has it back, or never paid';

insert into states.machines (name, about, table_name, state_type, initial_states, label_column, adopted_state) values
  ('escrow', 'The money of a sponsorship order, from the sponsor to the organiser.', 'public.sponsorship_orders', 'states.escrow_state', '{pending}', 'escrow_state', 'coalesce(states.escrow_said(($1).escrow_state::text, $2), $2, case ($1).status::text
    when ''completed'' then ''released''
    when ''refunded'' then ''refunded''
    when ''cancelled'' then ''refunded''
    when ''live'' then case when ($1).stripe_payment_intent_id is null then ''pending'' else ''locked'' end
    when ''accepted'' then case when ($1).stripe_payment_intent_id is null then ''pending'' else ''funded'' end
    else ''pending''
  end)');
insert into states.parties (machine, role, condition) values
  ('escrow', 'sponsor', 'states.is_sponsor(($1).sponsor_id, $2)'),
  ('escrow', 'organiser', 'states.is_organiser(($1).event_id, $2)');
insert into states.guards (machine, name, condition, says) values
  ('escrow', 'has_an_amount', '($1).amount_cents > 0', 'its amount_cents is above 0'),
  ('escrow', 'has_a_fee', '($1).application_fee_cents >= 0', 'its application_fee_cents is 0 or more'),
  ('escrow', 'fee_within_amount', '($1).application_fee_cents <= ($1).amount_cents', 'its application_fee_cents is no more than its amount_cents');
insert into states.edges (machine, from_state, to_state, event, topic, roles, guards, has_effects, organization, is_of_event) values
  ('escrow', 'pending', 'funded', 'pay', 'escrow.funded', '{platform}', '{has_an_amount,has_a_fee,fee_within_amount}', true, 'select ($1).event_id', true),
  ('escrow', 'pending', 'refunded', 'cancel', 'escrow.refunded', '{platform,sponsor,organiser}', '{}', true, 'select ($1).event_id', true),
  ('escrow', 'funded', 'locked', 'lock', 'escrow.locked', '{platform,organiser}', '{}', true, 'select ($1).event_id', true),
  ('escrow', 'funded', 'refunded', 'refund', 'escrow.refunded', '{platform,organiser}', '{}', true, 'select ($1).event_id', true),
  ('escrow', 'locked', 'released', 'release', 'escrow.released', '{platform}', '{has_a_fee,fee_within_amount}', true, 'select ($1).event_id', true),
  ('escrow', 'locked', 'disputed', 'dispute', 'escrow.disputed', '{platform,sponsor,organiser}', '{}', true, 'select ($1).event_id', true),
  ('escrow', 'disputed', 'released', 'release', 'escrow.released', '{platform}', '{has_a_fee,fee_within_amount}', true, 'select ($1).event_id', true),
  ('escrow', 'disputed', 'refunded', 'refund', 'escrow.refunded', '{platform}', '{}', true, 'select ($1).event_id', true);
insert into states.accounts (machine, name, request) values
  ('escrow', 'clearing', 'jsonb_build_object(''type'', ''receivable'', ''currency'', upper(($1).currency), ''name'', ''clearing'')'),
  ('escrow', 'escrow', 'jsonb_build_object(''type'', ''escrow'', ''currency'', upper(($1).currency), ''name'', ''sponsorship_order:'' || ($1).id, ''floor_cents'', 0) || jsonb_build_object(''organization_id'', ($1).sponsor_id)'),
  ('escrow', 'organiser', 'jsonb_build_object(''type'', ''payable'', ''currency'', upper(($1).currency), ''name'', ''sponsorships'') || states.owner_of_event(($1).event_id)'),
  ('escrow', 'fees', 'jsonb_build_object(''type'', ''revenue'', ''currency'', upper(($1).currency), ''name'', ''sponsorship_fees'')');
insert into states.bookings (machine, event, reverses, reference_type, reference_id) values
  ('escrow', 'pay', null, 'sponsorship_order', '($1).id'),
  ('escrow', 'release', null, 'payout', '($1).id'),
  ('escrow', 'refund', 'pay', 'refund', '($1).id');
insert into states.lines (machine, event, number, account, side, amount_cents) values
  ('escrow', 'pay', 1, 'clearing', 'debit', '($1).amount_cents'),
  ('escrow', 'pay', 2, 'escrow', 'credit', '($1).amount_cents'),
  ('escrow', 'release', 1, 'escrow', 'debit', '($1).amount_cents'),
  ('escrow', 'release', 2, 'organiser', 'credit', '($1).amount_cents - ($1).application_fee_cents'),
  ('escrow', 'release', 3, 'fees', 'credit', '($1).application_fee_cents');
insert into states.kept_accounts (machine, account, amount_cents, in_states, frozen_states, filled_by, fixed_columns) values
  ('escrow', 'escrow', '($1).amount_cents', '{funded,locked,disputed}', '{disputed}', 'pay', '{amount_cents,application_fee_cents,currency,sponsor_id,event_id}');

-- What a label of public.sponsorship_orders.escrow_state says of the state. One that may stand for several says the present one, where that is among them.
create or replace function states.escrow_said(p_label text, p_present text) returns text
language sql immutable parallel safe
return case p_label
  when 'pending' then 'pending'
  when 'funded' then 'funded'
  when 'locked' then case when p_present in ('disputed') then p_present else 'locked' end
  when 'released' then 'released'
  when 'refunded' then 'refunded'
end;

-- The label that shows a state to old code: the present one, where that may stand for it.
create or replace function states.escrow_shown(p_state text, p_present text) returns text
language sql immutable parallel safe
return case p_state
  when 'pending' then 'pending'
  when 'funded' then 'funded'
  when 'locked' then 'locked'
  when 'released' then 'released'
  when 'disputed' then 'locked'
  when 'refunded' then 'refunded'
end;

-- Before each update: where the state changes, old code sees what it is; where old code changes the label, the state follows. Without a
-- WHEN, which PostgreSQL reads anew for each statement: that takes longer than this.
create or replace function states.escrow_follow() returns trigger
language plpgsql security definer as $$
begin
  if new.state operator(pg_catalog.<>) old.state then
    new.escrow_state := states.escrow_shown(new.state::pg_catalog.text, new.escrow_state::pg_catalog.text);
  elsif old.state is not null and new.escrow_state is not null
    and (old.escrow_state is null or new.escrow_state operator(pg_catalog.<>) old.escrow_state)
  then
    new.state := states.escrow_said(new.escrow_state::pg_catalog.text, new.state::pg_catalog.text);
    if new.state is null then
      perform states.refuse_label('escrow', new.id, new.escrow_state::pg_catalog.text);
    end if;
  elsif new.escrow_state is null and old.escrow_state is not null then
    new.escrow_state := states.escrow_shown(new.state::pg_catalog.text, null);
  end if;
  return new;
end $$;

-- Before an insert, and before an update of a row of before the machine.
create or replace function states.escrow_take_in() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_state states.escrow_state := new.state;
  v_present text;
begin
  if tg_op = 'INSERT' and v_state is null then
    new.state := case when new.escrow_state is null then 'pending' else states.escrow_said(new.escrow_state::text, null) end;
    if new.state is null then
      perform states.refuse_label('escrow', new.id, new.escrow_state::text);
    end if;
  elsif tg_op = 'INSERT' then
    new.escrow_state := states.escrow_shown(v_state::text, new.escrow_state::text);
  elsif v_state is null then
    v_present := states.adopted_state('escrow', old.id, old);
    new.state := case when new.escrow_state is distinct from old.escrow_state
      then states.escrow_said(new.escrow_state::text, v_present) else v_present end;
  elsif current_setting('liventix.taking_in', true) = 'escrow' then
    -- By the installation, and nothing else of it changes, whatever other triggers made of it.
    new := old;
    new.state := v_state;
  else
    new.escrow_state := states.escrow_shown(v_state::text, new.escrow_state::text);
  end if;
  return new;
end $$;

create view states.escrow_history with (security_invoker = true) as
select id, subject_id, from_state::states.escrow_state, to_state::states.escrow_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = 'escrow';
comment on view states.escrow_history is 'Every change of state of every row of public.sponsorship_orders: The money of a sponsorship order, from the sponsor to the organiser.';

-- ------------------------------------------------------------------------------------------------------------ proposal
-- An offer of a sponsorship, and what comes back. It begins as draft or sent.
--
--   draft    send     → sent      platform, organiser, sponsor
--   draft    expire   → expired   platform
--   sent     view     → viewed    platform, organiser, sponsor
--   sent     counter  → counter   platform, organiser, sponsor
--   sent     accept   → accepted  platform, organiser, sponsor
--   sent     reject   → rejected  platform, organiser, sponsor
--   sent     expire   → expired   platform
--   viewed   counter  → counter   platform, organiser, sponsor
--   viewed   accept   → accepted  platform, organiser, sponsor
--   viewed   reject   → rejected  platform, organiser, sponsor
--   viewed   expire   → expired   platform
--   counter  send     → sent      platform, organiser, sponsor
--   counter  accept   → accepted  platform, organiser, sponsor
--   counter  reject   → rejected  platform, organiser, sponsor
--   counter  expire   → expired   platform

create type states.proposal_state as enum ('draft', 'sent', 'viewed', 'counter', 'accepted', 'rejected', 'expired');
comment on type states.proposal_state is 'draft: nobody but its author has seen it; sent: the other side has it; viewed: the other side has read it; counter: the other side has made another offer; accepted: both agree; rejected: one side does not want it; expired: its time is over';

insert into states.machines (name, about, table_name, state_type, initial_states, label_column, adopted_state) values
  ('proposal', 'An offer of a sponsorship, and what comes back.', 'public.proposal_threads', 'states.proposal_state', '{draft,sent}', 'status', 'states.proposal_said(($1).status::text, $2)');
insert into states.parties (machine, role, condition) values
  ('proposal', 'organiser', 'states.is_organiser(($1).event_id, $2)'),
  ('proposal', 'sponsor', 'states.is_sponsor(($1).sponsor_id, $2)');
insert into states.edges (machine, from_state, to_state, event, topic, roles, guards, has_effects, organization, is_of_event) values
  ('proposal', 'draft', 'sent', 'send', 'proposal.sent', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'draft', 'expired', 'expire', 'proposal.expired', '{platform}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'sent', 'viewed', 'view', 'proposal.viewed', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'sent', 'counter', 'counter', 'proposal.counter', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'sent', 'accepted', 'accept', 'proposal.accepted', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'sent', 'rejected', 'reject', 'proposal.rejected', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'sent', 'expired', 'expire', 'proposal.expired', '{platform}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'viewed', 'counter', 'counter', 'proposal.counter', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'viewed', 'accepted', 'accept', 'proposal.accepted', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'viewed', 'rejected', 'reject', 'proposal.rejected', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'viewed', 'expired', 'expire', 'proposal.expired', '{platform}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'counter', 'sent', 'send', 'proposal.sent', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'counter', 'accepted', 'accept', 'proposal.accepted', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'counter', 'rejected', 'reject', 'proposal.rejected', '{platform,organiser,sponsor}', '{}', false, 'select ($1).event_id', true),
  ('proposal', 'counter', 'expired', 'expire', 'proposal.expired', '{platform}', '{}', false, 'select ($1).event_id', true);

-- What a label of public.proposal_threads.status says of the state. One that may stand for several says the present one, where that is among them.
create or replace function states.proposal_said(p_label text, p_present text) returns text
language sql immutable parallel safe
return case p_label
  when 'draft' then 'draft'
  when 'sent' then case when p_present in ('viewed') then p_present else 'sent' end
  when 'counter' then 'counter'
  when 'accepted' then 'accepted'
  when 'rejected' then 'rejected'
  when 'expired' then 'expired'
end;

-- The label that shows a state to old code: the present one, where that may stand for it.
create or replace function states.proposal_shown(p_state text, p_present text) returns text
language sql immutable parallel safe
return case p_state
  when 'draft' then 'draft'
  when 'sent' then 'sent'
  when 'viewed' then 'sent'
  when 'counter' then 'counter'
  when 'accepted' then 'accepted'
  when 'rejected' then 'rejected'
  when 'expired' then 'expired'
end;

-- Before each update: where the state changes, old code sees what it is; where old code changes the label, the state follows. Without a
-- WHEN, which PostgreSQL reads anew for each statement: that takes longer than this.
create or replace function states.proposal_follow() returns trigger
language plpgsql security definer as $$
begin
  if new.state operator(pg_catalog.<>) old.state then
    new.status := states.proposal_shown(new.state::pg_catalog.text, new.status::pg_catalog.text);
  elsif old.state is not null and new.status is not null
    and (old.status is null or new.status operator(pg_catalog.<>) old.status)
  then
    new.state := states.proposal_said(new.status::pg_catalog.text, new.state::pg_catalog.text);
    if new.state is null then
      perform states.refuse_label('proposal', new.id, new.status::pg_catalog.text);
    end if;
  elsif new.status is null and old.status is not null then
    new.status := states.proposal_shown(new.state::pg_catalog.text, null);
  end if;
  return new;
end $$;

-- Before an insert, and before an update of a row of before the machine.
create or replace function states.proposal_take_in() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_state states.proposal_state := new.state;
  v_present text;
begin
  if tg_op = 'INSERT' and v_state is null then
    new.state := case when new.status is null then 'draft' else states.proposal_said(new.status::text, null) end;
    if new.state is null then
      perform states.refuse_label('proposal', new.id, new.status::text);
    end if;
  elsif tg_op = 'INSERT' then
    new.status := states.proposal_shown(v_state::text, new.status::text);
  elsif v_state is null then
    v_present := states.adopted_state('proposal', old.id, old);
    new.state := case when new.status is distinct from old.status
      then states.proposal_said(new.status::text, v_present) else v_present end;
  elsif current_setting('liventix.taking_in', true) = 'proposal' then
    -- By the installation, and nothing else of it changes, whatever other triggers made of it.
    new := old;
    new.state := v_state;
  else
    new.status := states.proposal_shown(v_state::text, new.status::text);
  end if;
  return new;
end $$;

create view states.proposal_history with (security_invoker = true) as
select id, subject_id, from_state::states.proposal_state, to_state::states.proposal_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = 'proposal';
comment on view states.proposal_history is 'Every change of state of every row of public.proposal_threads: An offer of a sponsorship, and what comes back.';

-- -------------------------------------------------------------------------------------------------------------- ticket
-- A ticket that was sold, until somebody comes in with it or nobody can any more. It begins as issued.
--
--   issued  redeem    → redeemed     platform, scanner, organiser
--   issued  transfer  → transferred  platform, holder
--   issued  refund    → refunded     platform, organiser
--   issued  cancel    → cancelled    platform, organiser

create type states.ticket_state as enum ('issued', 'redeemed', 'transferred', 'refunded', 'cancelled');
comment on type states.ticket_state is 'issued: whoever has it may come in; redeemed: somebody came in with it; transferred: it was given away: another ticket stands for it; refunded: its price was given back; cancelled: it is void, and nothing was given back';

insert into states.machines (name, about, table_name, state_type, initial_states, label_column, adopted_state) values
  ('ticket', 'A ticket that was sold, until somebody comes in with it or nobody can any more.', 'public.tickets', 'states.ticket_state', '{issued}', 'status', 'states.ticket_said(($1).status::text, $2)');
insert into states.parties (machine, role, condition) values
  ('ticket', 'holder', '($1).owner_user_id = $2'),
  ('ticket', 'organiser', 'states.is_organiser(($1).event_id, $2)'),
  ('ticket', 'scanner', 'states.is_scanner(($1).event_id, $2)');
insert into states.edges (machine, from_state, to_state, event, topic, roles, guards, has_effects, organization, is_of_event) values
  ('ticket', 'issued', 'redeemed', 'redeem', 'ticket.redeemed', '{platform,scanner,organiser}', '{}', false, 'select ($1).event_id', true),
  ('ticket', 'issued', 'transferred', 'transfer', 'ticket.transferred', '{platform,holder}', '{}', false, 'select ($1).event_id', true),
  ('ticket', 'issued', 'refunded', 'refund', 'ticket.refunded', '{platform,organiser}', '{}', true, 'select ($1).event_id', true),
  ('ticket', 'issued', 'cancelled', 'cancel', 'ticket.cancelled', '{platform,organiser}', '{}', false, 'select ($1).event_id', true);
insert into states.accounts (machine, name, request) values
  ('ticket', 'clearing', 'jsonb_build_object(''type'', ''receivable'', ''currency'', states.currency_of_order(($1).order_id), ''name'', ''clearing'')'),
  ('ticket', 'organiser', 'jsonb_build_object(''type'', ''payable'', ''currency'', states.currency_of_order(($1).order_id), ''name'', ''ticket_sales'') || states.owner_of_event(($1).event_id)'),
  ('ticket', 'fees', 'jsonb_build_object(''type'', ''revenue'', ''currency'', states.currency_of_order(($1).order_id), ''name'', ''ticket_fees'')');
insert into states.bookings (machine, event, reverses, reference_type, reference_id) values
  ('ticket', 'refund', null, 'refund', '($1).order_id');
insert into states.lines (machine, event, number, account, side, amount_cents) values
  ('ticket', 'refund', 1, 'organiser', 'debit', 'states.share_of_order(($1).order_id, ($1).id, ($1).tier_id, ''subtotal'')'),
  ('ticket', 'refund', 2, 'fees', 'debit', 'states.share_of_order(($1).order_id, ($1).id, ($1).tier_id, ''fees'')'),
  ('ticket', 'refund', 3, 'clearing', 'credit', null);

-- What a label of public.tickets.status says of the state. One that may stand for several says the present one, where that is among them.
create or replace function states.ticket_said(p_label text, p_present text) returns text
language sql immutable parallel safe
return case p_label
  when 'issued' then 'issued'
  when 'redeemed' then 'redeemed'
  when 'transferred' then 'transferred'
  when 'refunded' then 'refunded'
  when 'void' then 'cancelled'
end;

-- The label that shows a state to old code: the present one, where that may stand for it.
create or replace function states.ticket_shown(p_state text, p_present text) returns text
language sql immutable parallel safe
return case p_state
  when 'issued' then 'issued'
  when 'redeemed' then 'redeemed'
  when 'transferred' then 'transferred'
  when 'refunded' then 'refunded'
  when 'cancelled' then 'void'
end;

-- Before each update: where the state changes, old code sees what it is; where old code changes the label, the state follows. Without a
-- WHEN, which PostgreSQL reads anew for each statement: that takes longer than this.
create or replace function states.ticket_follow() returns trigger
language plpgsql security definer as $$
begin
  if new.state operator(pg_catalog.<>) old.state then
    new.status := states.ticket_shown(new.state::pg_catalog.text, new.status::pg_catalog.text);
  elsif old.state is not null and new.status is not null
    and (old.status is null or new.status operator(pg_catalog.<>) old.status)
  then
    new.state := states.ticket_said(new.status::pg_catalog.text, new.state::pg_catalog.text);
    if new.state is null then
      perform states.refuse_label('ticket', new.id, new.status::pg_catalog.text);
    end if;
  elsif new.status is null and old.status is not null then
    new.status := states.ticket_shown(new.state::pg_catalog.text, null);
  end if;
  return new;
end $$;

-- Before an insert, and before an update of a row of before the machine.
create or replace function states.ticket_take_in() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_state states.ticket_state := new.state;
  v_present text;
begin
  if tg_op = 'INSERT' and v_state is null then
    new.state := case when new.status is null then 'issued' else states.ticket_said(new.status::text, null) end;
    if new.state is null then
      perform states.refuse_label('ticket', new.id, new.status::text);
    end if;
  elsif tg_op = 'INSERT' then
    new.status := states.ticket_shown(v_state::text, new.status::text);
  elsif v_state is null then
    v_present := states.adopted_state('ticket', old.id, old);
    new.state := case when new.status is distinct from old.status
      then states.ticket_said(new.status::text, v_present) else v_present end;
  elsif current_setting('liventix.taking_in', true) = 'ticket' then
    -- By the installation, and nothing else of it changes, whatever other triggers made of it.
    new := old;
    new.state := v_state;
  else
    new.status := states.ticket_shown(v_state::text, new.status::text);
  end if;
  return new;
end $$;

create view states.ticket_history with (security_invoker = true) as
select id, subject_id, from_state::states.ticket_state, to_state::states.ticket_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = 'ticket';
comment on view states.ticket_history is 'Every change of state of every row of public.tickets: A ticket that was sold, until somebody comes in with it or nobody can any more.';

select states.keep_from_guests();
