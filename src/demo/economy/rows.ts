/** What COPY writes: null, numbers and booleans as they are, text escaped. */
export type Field = string | number | boolean | null;

/** The tables that the fill writes, each after those it refers to, with the columns it gives; the rest are defaults. */
export const COLUMNS = {
  'auth.users': ['id', 'email', 'created_at'],
  'public.organizations': ['id', 'name', 'handle', 'created_by', 'created_at', 'support_email'],
  'public.org_memberships': ['org_id', 'user_id', 'role', 'created_at'],
  'public.wallets': [
    'id',
    'user_id',
    'balance_credits',
    'auto_reload_enabled',
    'auto_reload_topup_credits',
    'default_payment_method_id',
    'status',
    'created_at',
    'updated_at',
  ],
  'public.org_wallets': ['id', 'org_id', 'balance_credits', 'status', 'created_at', 'updated_at'],
  'public.invoices': [
    'id',
    'wallet_id',
    'org_wallet_id',
    'stripe_payment_intent_id',
    'amount_usd_cents',
    'credits_purchased',
    'promo_code',
    'status',
    'receipt_url',
    'purchased_by_user_id',
    'created_at',
    'updated_at',
  ],
  'public.wallet_transactions': [
    'id',
    'wallet_id',
    'type',
    'credits_delta',
    'usd_cents',
    'reference_type',
    'reference_id',
    'memo',
    'idempotency_key',
    'created_at',
  ],
  'public.org_wallet_transactions': [
    'id',
    'wallet_id',
    'transaction_type',
    'credits_delta',
    'description',
    'reference_type',
    'reference_id',
    'invoice_id',
    'stripe_event_id',
    'metadata',
    'created_at',
  ],
  'public.credit_lots': [
    'id',
    'wallet_id',
    'org_wallet_id',
    'quantity_purchased',
    'quantity_remaining',
    'unit_price_cents',
    'source',
    'stripe_checkout_session_id',
    'invoice_id',
    'expires_at',
    'created_at',
    'depleted_at',
  ],
  'public.ad_spend_ledger': [
    'id',
    'campaign_id',
    'wallet_id',
    'metric_type',
    'quantity',
    'rate_model',
    'rate_usd_cents',
    'credits_charged',
    'occurred_at',
    'wallet_transaction_id',
    'created_at',
  ],
} as const;

export type Table = keyof typeof COLUMNS;

/** Fields in the order of COLUMNS: the compiler counts them. */
export type FieldsOf<T extends Table> = FieldPerColumn<(typeof COLUMNS)[T]>;
type FieldPerColumn<Columns extends readonly string[]> = { readonly [Index in keyof Columns]: Field };

export interface RowSink {
  add<T extends Table>(table: T, fields: FieldsOf<T>): void;
}

/** For living a wallet's life only to learn how it ends. */
export const NOWHERE: RowSink = { add: () => undefined };
