-- The tables of the legacy database that ship with attachments: their real columns, types, defaults, primary keys and checks, without
-- what points at other tables. Applies on PostgreSQL 15 to 18, as an ordinary owner.

create type public.order_status as enum ('pending', 'paid', 'refunded', 'canceled');
create type public.owner_context as enum ('individual', 'organization');
create type public.ticket_status as enum ('issued', 'transferred', 'refunded', 'redeemed', 'void');
create type public.sponsorship_status as enum ('pending', 'accepted', 'live', 'completed', 'refunded', 'cancelled');

create table public.orders (
  id uuid not null default gen_random_uuid(),
  user_id uuid not null,
  event_id uuid not null,
  status public.order_status not null default 'pending',
  subtotal_cents integer not null default 0,
  fees_cents integer not null default 0,
  total_cents integer not null default 0,
  currency text not null default 'USD',
  stripe_session_id text,
  stripe_payment_intent_id text,
  payout_destination_owner public.owner_context,
  payout_destination_id uuid,
  created_at timestamp with time zone default now(),
  paid_at timestamp with time zone,
  hold_ids uuid[] default '{}',
  tickets_issued_count integer default 0,
  checkout_session_id text,
  contact_email text,
  contact_name text,
  contact_phone text,
  constraint orders_pkey primary key (id),
  constraint check_currency check (currency in ('USD', 'EUR', 'GBP', 'CAD'))
);

create table public.tickets (
  id uuid not null default gen_random_uuid(),
  event_id uuid not null,
  tier_id uuid not null,
  order_id uuid not null,
  owner_user_id uuid not null,
  status public.ticket_status not null default 'issued',
  qr_code text not null default '23456789',
  wallet_pass_url text,
  redeemed_at timestamp with time zone,
  created_at timestamp with time zone default now(),
  serial_no integer not null,
  constraint tickets_pkey primary key (id),
  constraint ck_tickets_serial_positive check (serial_no >= 1)
);

create table public.sponsorship_orders (
  id uuid not null default gen_random_uuid(),
  package_id uuid not null,
  sponsor_id uuid not null,
  event_id uuid not null,
  amount_cents integer not null,
  status public.sponsorship_status not null default 'pending',
  escrow_tx_id text,
  notes text,
  created_at timestamp with time zone not null default now(),
  currency text not null default 'USD',
  stripe_payment_intent_id text,
  stripe_charge_id text,
  stripe_transfer_id text,
  transfer_group text,
  application_fee_cents integer not null default 0,
  updated_at timestamp with time zone default now(),
  milestone jsonb default '{}',
  proof_assets jsonb default '{}',
  roi_report_id uuid,
  created_by_user_id uuid,
  last_modified_by uuid,
  version_number integer default 1,
  review_score numeric(3,2),
  organizer_stripe_account_id text,
  payout_status text default 'pending',
  payout_attempts integer default 0,
  last_payout_attempt_at timestamp with time zone,
  payout_failure_reason text,
  contract_url text,
  escrow_state text,
  cancellation_policy jsonb,
  invoice_id uuid,
  constraint sponsorship_orders_pkey primary key (id),
  constraint sponsorship_orders_amount_positive check (amount_cents >= 0),
  constraint sponsorship_orders_currency_chk check (currency in ('USD', 'EUR', 'GBP', 'CAD')),
  constraint sponsorship_orders_escrow_state_check check (escrow_state in ('pending', 'funded', 'locked', 'released', 'refunded')),
  constraint sponsorship_orders_payout_status_check check (payout_status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);

create table public.proposal_threads (
  id uuid not null default gen_random_uuid(),
  event_id uuid not null,
  sponsor_id uuid not null,
  status text not null default 'draft',
  created_by uuid not null,
  created_at timestamp with time zone not null default now(),
  updated_at timestamp with time zone not null default now(),
  constraint proposal_threads_pkey primary key (id),
  constraint proposal_threads_status_check check (status in ('draft', 'sent', 'counter', 'accepted', 'rejected', 'expired'))
);

create table public.sponsorship_payouts (
  id uuid not null default gen_random_uuid(),
  order_id uuid not null,
  organizer_id uuid not null,
  amount_cents integer not null,
  application_fee_cents integer not null default 0,
  stripe_transfer_id text,
  stripe_payout_id text,
  status text not null default 'pending',
  failure_reason text,
  created_at timestamp with time zone not null default now(),
  processed_at timestamp with time zone,
  constraint sponsorship_payouts_pkey primary key (id),
  constraint sponsorship_payouts_amount_cents_check check (amount_cents > 0),
  constraint sponsorship_payouts_amount_positive check (amount_cents > 0),
  constraint sponsorship_payouts_application_fee_cents_check check (application_fee_cents >= 0),
  constraint sponsorship_payouts_status_check check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);

create table public.payout_queue (
  id uuid not null default gen_random_uuid(),
  order_id uuid not null,
  priority integer default 0,
  scheduled_for timestamp with time zone not null default now(),
  attempts integer default 0,
  max_attempts integer default 3,
  status text not null default 'pending',
  error_message text,
  created_at timestamp with time zone not null default now(),
  processed_at timestamp with time zone,
  constraint payout_queue_pkey primary key (id),
  constraint payout_queue_priority_check check (priority >= 0),
  constraint payout_queue_status_check check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);
