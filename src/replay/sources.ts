import type { LegacyTables } from './legacy.ts';

/**
 * How the old wallet rows are booked, per legacy table, by the flows of the platform:
 *
 *   purchase    Dr clearing paid, promotions (credits − paid)   Cr wallet credits
 *   refund      Dr wallet                                       Cr clearing
 *   spend       Dr wallet                                       Cr ad_campaigns (revenue)
 *   adjustment  Dr administrators                               Cr wallet, or the reverse
 *   promo       Dr promotions, Cr wallet; taken back: Dr wallet, Cr ad_campaigns
 *
 * A row that these do not explain is booked as it was, its unexplained part against a suspense account that bears the
 * cause. 1 credit = 1 US cent.
 */
export const REPLAY_CURRENCY = 'USD';

/** The holder's account; its type is `cash`. */
export const WALLET_ACCOUNT = 'wallet';

export const PLATFORM_ACCOUNTS = [
  { type: 'receivable', name: 'clearing' },
  { type: 'revenue', name: 'ad_campaigns' },
  { type: 'contra_revenue', name: 'promotions' },
  { type: 'adjustments', name: 'administrators' },
] as const;

/** Why something went to suspense; each is an account of type `suspense` by this name. */
export const CAUSES = [
  // Found in a row, by the survey
  'duplicate_credit',
  'cumulative_refund',
  'unreferenced_credit',
  'orphan',
  'wrong_sign',
  'duplicate_spend',
  // Found in a balance, by the reconciliation
  'opening_balance',
  'lost_update',
  'balance_without_row',
] as const;

/** A row of zero credits moves nothing: it is noted in the log and booked nowhere. */
export const ZERO_ROW = 'zero_row';

export interface Source {
  readonly name: 'wallet_transactions' | 'org_wallet_transactions';
  readonly transactions: keyof LegacyTables;
  readonly wallets: keyof LegacyTables;
  readonly ownerColumn: 'user_id' | 'org_id';
  readonly ownerKind: 'user' | 'organization';
  /** SELECT of (legacy_id, cause, explained_cents) over the whole table. */
  surveySql(tables: LegacyTables): string;
  /**
   * SELECT of the rows in chronological order as (id, created_at, wallet_id, delta, type, reference_type, reference_id,
   * idempotency_key, paid_cents); paid_cents is null save for a purchase.
   */
  rowsSql(tables: LegacyTables): string;
}

const isUuid = (expression: string) => `${expression} ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'`;

const userInvoiceId = `case when ${isUuid('t.reference_id')} then t.reference_id::uuid end`;

export const SOURCES: readonly Source[] = [
  {
    name: 'wallet_transactions',
    transactions: 'wallet_transactions',
    wallets: 'wallets',
    ownerColumn: 'user_id',
    ownerKind: 'user',
    // Any signed-in user could insert rows here, so a credit counts as paid only beside an invoice of the same wallet.
    surveySql: (tables) => `
      with row_with_invoice as (
        select t.id, t.type, t.credits_delta, t.reference_type, i.id as invoice_id,
               row_number() over (partition by i.id, t.type order by t.created_at, t.id) as nth,
               max(-t.credits_delta) over (
                 partition by i.id, t.type order by t.created_at, t.id
                 rows between unbounded preceding and 1 preceding) as refunded_before
        from ${tables.wallet_transactions} t
        left join ${tables.invoices} i on i.id = ${userInvoiceId} and i.wallet_id = t.wallet_id
          and t.type in ('purchase', 'refund') and (t.credits_delta > 0) = (t.type = 'purchase')
      )
      select id as legacy_id, f.cause, f.explained_cents
      from row_with_invoice r
      cross join lateral (select * from (values
        ('${ZERO_ROW}', 0, r.credits_delta = 0),
        ('wrong_sign', 0, case r.type when 'purchase' then r.credits_delta < 0
          when 'refund' then r.credits_delta > 0 when 'spend' then r.credits_delta > 0 end),
        ('unreferenced_credit', 0, r.credits_delta > 0 and (r.type = 'purchase' and r.invoice_id is null
          or r.type = 'adjustment' and r.reference_type is distinct from 'system')),
        ('orphan', 0, r.type = 'refund' and r.invoice_id is null),
        ('duplicate_credit', 0, r.type = 'purchase' and r.nth > 1),
        -- The processor reports what was refunded so far, and each report was booked in full.
        ('cumulative_refund', least(r.credits_delta + r.refunded_before, 0), r.type = 'refund' and r.refunded_before is not null)
      ) as candidate (cause, explained_cents, applies) where applies limit 1) f`,
    rowsSql: (tables) => `
      select t.id, t.created_at, t.wallet_id, t.credits_delta as delta, t.type, t.reference_type, t.reference_id, t.idempotency_key,
             case when t.type = 'purchase' then coalesce(t.usd_cents, i.amount_usd_cents) end as paid_cents
      from ${tables.wallet_transactions} t
      left join ${tables.invoices} i on t.type = 'purchase' and i.id = ${userInvoiceId} and i.wallet_id = t.wallet_id`,
  },
  {
    name: 'org_wallet_transactions',
    transactions: 'org_wallet_transactions',
    wallets: 'org_wallets',
    ownerColumn: 'org_id',
    ownerKind: 'organization',
    // Signs and one credit per invoice are enforced here; what is not unique is the key of a spend.
    surveySql: (tables) => `
      with row_with_invoice as (
        select t.id, t.transaction_type as type, t.credits_delta, i.id as invoice_id,
               row_number() over (
                 partition by t.wallet_id, t.transaction_type, t.metadata ->> 'idempotency_key' order by t.created_at, t.id
               ) as nth_of_key,
               t.metadata ->> 'idempotency_key' as key
        from ${tables.org_wallet_transactions} t
        left join ${tables.invoices} i on i.id = t.invoice_id and i.org_wallet_id = t.wallet_id
      )
      select id as legacy_id, f.cause, 0 as explained_cents
      from row_with_invoice r
      cross join lateral (select * from (values
        ('unreferenced_credit', r.type = 'purchase' and r.invoice_id is null),
        ('orphan', r.type = 'refund' and r.invoice_id is null),
        ('duplicate_spend', r.type = 'spend' and r.key is not null and r.nth_of_key > 1)
      ) as candidate (cause, applies) where applies limit 1) f`,
    rowsSql: (tables) => `
      select t.id, t.created_at, t.wallet_id, t.credits_delta as delta, t.transaction_type as type, t.reference_type,
             coalesce(t.invoice_id, t.reference_id)::text as reference_id, t.stripe_event_id as idempotency_key, i.amount_usd_cents as paid_cents
      from ${tables.org_wallet_transactions} t
      left join ${tables.invoices} i on t.transaction_type = 'purchase' and i.id = t.invoice_id and i.org_wallet_id = t.wallet_id`,
  },
];

/** The plan's reference type of each legacy row type. */
export const REFERENCE_TYPES = {
  purchase: 'credit_purchase',
  refund: 'refund',
  spend: 'campaign_spend',
  adjustment: 'adjustment',
  promo: 'adjustment',
} as const;
