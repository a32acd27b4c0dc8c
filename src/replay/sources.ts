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

/** SQL of the id of the event that a legacy row becomes; $2 is the source. */
export function eventId(idExpression: string): string {
  return `payments.named_uuid($2::text || ':' || ${idExpression} || ':1')`;
}

/**
 * SQL of the order in which rows come into the log: those that are there, those beyond the checkpoint, those that
 * appeared behind it. A row is judged by the rows before it in this order, so that a run that is killed, and rows that
 * are written late, change nothing about what was booked. $1 is the book, $2 the source.
 */
const LOG_ORDER = `
  case when ((t.created_at, t.id) <= (
         select p.last_created_at, p.last_id from replay.progress p where p.book_id = $1 and p.source = $2)) is not true then 2
       when exists (select from payments.events e where e.book_id = $1 and e.event_id = ${eventId('t.id')}) then 1
       else 3 end, t.created_at, t.id`;

export interface Source {
  readonly name: 'wallet_transactions' | 'org_wallet_transactions';
  readonly transactions: keyof LegacyTables;
  readonly wallets: keyof LegacyTables;
  readonly ownerColumn: 'user_id' | 'org_id';
  readonly ownerKind: 'user' | 'organization';
  /** SELECT of (legacy_id, cause, explained_cents) over the whole table. Parameters: $1 book, $2 source. */
  surveySql(tables: LegacyTables): string;
  /**
   * SELECT of the rows in chronological order as (id, written_by, created_at, wallet_id, delta, type, reference_type, reference_id,
   * idempotency_key, paid_cents); paid_cents is null save for a purchase.
   */
  rowsSql(tables: LegacyTables): string;
}

// The reference is free text in user rows: it is read as an id only where it can be one.
const invoiceIdOf = (condition: string) => `case when ${condition} then payments.try_uuid(t.reference_id) end`;

export const SOURCES: readonly Source[] = [
  {
    name: 'wallet_transactions',
    transactions: 'wallet_transactions',
    wallets: 'wallets',
    ownerColumn: 'user_id',
    ownerKind: 'user',
    // Any signed-in user could insert rows here, so a credit counts as paid only beside an invoice of the same wallet, and
    // only for what that invoice says.
    surveySql: (tables) => `
      with row_with_invoice as (
        select t.id, t.type, t.credits_delta, t.reference_type, i.id as invoice_id,
               row_number() over in_log_order as nth,
               -- As 64 bits: the least 32-bit integer has no counterpart.
               max(-t.credits_delta::bigint) over (
                 in_log_order rows between unbounded preceding and 1 preceding) as refunded_before
        from ${tables.wallet_transactions} t
        left join ${tables.invoices} i on i.wallet_id = t.wallet_id and i.id = ${invoiceIdOf(
          `(t.type = 'purchase' and t.credits_delta > 0 or t.type = 'refund' and t.credits_delta < 0)`,
        )}
          and (t.type <> 'purchase' or coalesce(t.usd_cents, 0) <= i.amount_usd_cents)
        -- Nearly every row takes credits for something else than a refund, and nothing about it needs an explanation.
        where t.credits_delta >= 0 or t.type in ('purchase', 'refund')
        window in_log_order as (partition by i.id, t.type order by ${LOG_ORDER})
      ), judged as (
        select r.*,
          case
            when r.credits_delta = 0 then '${ZERO_ROW}'
            when r.type = 'purchase' and r.credits_delta < 0 or r.type in ('refund', 'spend') and r.credits_delta > 0 then 'wrong_sign'
            when r.type = 'purchase' and r.invoice_id is null then 'unreferenced_credit'
            when r.type = 'adjustment' and r.credits_delta > 0 and r.reference_type is distinct from 'system' then 'unreferenced_credit'
            when r.type = 'refund' and r.invoice_id is null then 'orphan'
            when r.type = 'purchase' and r.nth > 1 then 'duplicate_credit'
            -- The processor reports what was refunded so far, and each report was booked in full.
            when r.type = 'refund' and r.refunded_before is not null then 'cumulative_refund'
          end as cause
        from row_with_invoice r
      )
      select id as legacy_id, cause,
             case cause when 'cumulative_refund' then least(credits_delta + refunded_before, 0) else 0 end as explained_cents
      from judged
      where cause is not null`,
    rowsSql: (tables) => `
      select t.id, t.xmin as written_by, t.created_at, t.wallet_id, t.credits_delta as delta, t.type, t.reference_type, t.reference_id, t.idempotency_key,
             case when t.type = 'purchase' then coalesce(t.usd_cents, i.amount_usd_cents) end as paid_cents
      from ${tables.wallet_transactions} t
      left join ${tables.invoices} i on i.id = ${invoiceIdOf(`t.type = 'purchase' and t.usd_cents is null`)} and i.wallet_id = t.wallet_id`,
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
                 partition by t.wallet_id, t.transaction_type, t.metadata ->> 'idempotency_key' order by ${LOG_ORDER}
               ) as nth_of_key,
               t.metadata ->> 'idempotency_key' as key
        from ${tables.org_wallet_transactions} t
        left join ${tables.invoices} i on i.id = t.invoice_id and i.org_wallet_id = t.wallet_id
      )
      select id as legacy_id, cause, 0 as explained_cents
      from (
        select r.id,
          case
            when r.type = 'purchase' and r.invoice_id is null then 'unreferenced_credit'
            when r.type = 'refund' and r.invoice_id is null then 'orphan'
            when r.type = 'spend' and r.key is not null and r.nth_of_key > 1 then 'duplicate_spend'
          end as cause
        from row_with_invoice r
      ) judged
      where cause is not null`,
    rowsSql: (tables) => `
      select t.id, t.xmin as written_by, t.created_at, t.wallet_id, t.credits_delta as delta, t.transaction_type as type, t.reference_type,
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
