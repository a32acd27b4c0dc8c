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

/** A row of zero credits moves nothing: it is noted in the log and booked nowhere. */
export const ZERO_ROW = 'zero_row';

/** A row whose wallet is not there is noted under this too. */
export const ORPHAN = 'orphan';

/** What nothing speaks for: a balance beyond its rows, or a row of a type that nobody knows. Somebody must sign for it. */
export const UNEXPLAINED = 'unexplained';

/** SQL of whether a row that moves something is of a type that no flow is known for. */
export const isUnknown = (row: string, typeColumn: Source['typeColumn'] = 'type') =>
  `${row}.credits_delta <> 0 and (${row}.${typeColumn} in ('purchase', 'refund', 'spend', 'adjustment', 'promo')) is not true`;

/** SQL of whether a row was written before the horizon of the capture: what was written later is captured. */
export function isBeforeHorizon(xmin: string): string {
  return `replay.is_before_horizon(${xmin}, (select h from replay.capture_horizon() h))`;
}

const CHRONOLOGICAL = 't.created_at, t.id';
/** Where rows are read again, those that the log has come first: they were judged without the others. $1 is the book, $2 the source. */
const LOG_ORDER = `not exists (
  select from payments.events e where e.book_id = $1 and e.event_id = replay.row_event_id($2, t.id, 1)), ${CHRONOLOGICAL}`;

/** Which rows a survey judges, and what beside the old tables it asks. */
export interface SurveyScope {
  /** SQL of whether row `t` is judged. */
  readonly isJudged: string;
  readonly order: string;
  /** SQL of a text as an id, null where it can be none. */
  readonly idOf: (text: string) => string;
  /** SQL of whether refund `r` says what was refunded by it, and not what was refunded so far. */
  readonly isPartialRefund: string;
}

/**
 * The rows of before the capture, of a range of wallets; what mirrors the ledger was posted there, and needs no explanation. Parameters:
 * $1 book, $2 source, and those of the range.
 */
export function beforeHorizon(isFirst: boolean, range: string): SurveyScope {
  return {
    isJudged: `${range} and ${isBeforeHorizon('t.xmin')} and not exists (
      select from replay.mirrored_rows m where m.legacy_id = t.id and m.source = $2 and m.book_id = $1)`,
    order: isFirst ? CHRONOLOGICAL : LOG_ORDER,
    idOf: (text) => `payments.try_uuid(${text})`,
    isPartialRefund: 'exists (select from replay.partial_refunds p where p.legacy_id = r.id)',
  };
}

/** All rows, before anything of ours is installed: nothing is asked but the old tables. */
export const AS_FOUND: SurveyScope = {
  isJudged: 'true',
  order: CHRONOLOGICAL,
  // As payments.try_uuid.
  idOf: (text) => `case when ${text} like '________-____-____-____-____________' and ${text} ~ '^[0-9a-fA-F-]*$'
    and length(replace(${text}, '-', '')) = 32 then ${text}::uuid end`,
  isPartialRefund: 'false',
};

export interface Source {
  readonly name: 'wallet_transactions' | 'org_wallet_transactions';
  readonly transactions: keyof LegacyTables;
  readonly wallets: keyof LegacyTables;
  readonly ownerColumn: 'user_id' | 'org_id';
  readonly ownerKind: 'user' | 'organization';
  readonly typeColumn: 'type' | 'transaction_type';
  /** SQL of the image of row `t`. */
  readonly image: string;
  /** SELECT of (legacy_id, cause, explained_cents) over the rows of a scope, with its parameters. */
  surveySql(tables: LegacyTables, scope: SurveyScope): string;
  /** SQL of what was paid for row `t`, null save for a purchase. */
  paidSql(tables: LegacyTables): string;
}

// The reference is free text in user rows: it is read as an id only where it can be one.
const invoiceIdOf = (condition: string, { idOf }: SurveyScope) =>
  `case when ${condition} then ${idOf('t.reference_id')} end`;

export const SOURCES: readonly Source[] = [
  {
    name: 'wallet_transactions',
    transactions: 'wallet_transactions',
    wallets: 'wallets',
    ownerColumn: 'user_id',
    ownerKind: 'user',
    typeColumn: 'type',
    image: 'replay.user_row_image(t)',
    // Any signed-in user could insert rows here, so a credit counts as paid only beside an invoice of the same wallet, and
    // only for what that invoice says.
    surveySql: (tables, scope) => `
      with row_with_invoice as (
        select t.id, t.type, t.credits_delta, t.reference_type, i.id as invoice_id,
               row_number() over in_log_order as nth,
               -- As 64 bits: the least 32-bit integer has no counterpart.
               max(-t.credits_delta::bigint) over (
                 in_log_order rows between unbounded preceding and 1 preceding) as refunded_before
        from ${tables.wallet_transactions} t
        left join ${tables.invoices} i on i.wallet_id = t.wallet_id and i.id = ${invoiceIdOf(
          `(t.type = 'purchase' and t.credits_delta > 0 or t.type = 'refund' and t.credits_delta < 0)`,
          scope,
        )}
          and (t.type <> 'purchase' or coalesce(t.usd_cents, 0) <= i.amount_usd_cents)
        -- Nearly every row takes credits for something else than a refund, and nothing about it needs an explanation.
        where (t.credits_delta >= 0 or t.type in ('purchase', 'refund') or ${isUnknown('t')}) and ${scope.isJudged}
        window in_log_order as (partition by i.id, t.type order by ${scope.order})
      ), judged as (
        select r.*,
          case
            when r.credits_delta = 0 then '${ZERO_ROW}'
            when ${isUnknown('r')} then '${UNEXPLAINED}'
            when r.type = 'purchase' and r.credits_delta < 0 or r.type in ('refund', 'spend') and r.credits_delta > 0 then 'wrong_sign'
            when r.type = 'purchase' and r.invoice_id is null then 'unreferenced_credit'
            when r.type = 'adjustment' and r.credits_delta > 0 and r.reference_type is distinct from 'system' then 'unreferenced_credit'
            when r.type = 'refund' and r.invoice_id is null then 'orphan'
            when r.type = 'purchase' and r.nth > 1 then 'duplicate_credit'
            -- The processor reports what was refunded so far, and each report was booked in full.
            when r.type = 'refund' and r.refunded_before is not null
              and not ${scope.isPartialRefund} then 'cumulative_refund'
          end as cause
        from row_with_invoice r
      )
      select id as legacy_id, cause,
             case cause when 'cumulative_refund' then least(credits_delta + refunded_before, 0) else 0 end as explained_cents
      from judged
      where cause is not null`,
    paidSql: (tables) => `case when t.type = 'purchase' then coalesce(t.usd_cents, (
      select i.amount_usd_cents from ${tables.invoices} i where i.id = payments.try_uuid(t.reference_id) and i.wallet_id = t.wallet_id)) end`,
  },
  {
    name: 'org_wallet_transactions',
    transactions: 'org_wallet_transactions',
    wallets: 'org_wallets',
    ownerColumn: 'org_id',
    ownerKind: 'organization',
    typeColumn: 'transaction_type',
    image: 'replay.org_row_image(t)',
    // Signs and one credit per invoice are enforced here; what is not unique is the key of a spend.
    surveySql: (tables, scope) => `
      with row_with_invoice as (
        select t.id, t.transaction_type as type, t.credits_delta, i.id as invoice_id,
               row_number() over (
                 partition by t.wallet_id, t.transaction_type, t.metadata ->> 'idempotency_key' order by ${scope.order}
               ) as nth_of_key,
               t.metadata ->> 'idempotency_key' as key
        from ${tables.org_wallet_transactions} t
        left join ${tables.invoices} i on i.id = t.invoice_id and i.org_wallet_id = t.wallet_id
        where ${scope.isJudged}
      )
      select id as legacy_id, cause, 0 as explained_cents
      from (
        select r.id,
          case
            when ${isUnknown('r')} then '${UNEXPLAINED}'
            when r.type = 'purchase' and r.invoice_id is null then 'unreferenced_credit'
            when r.type = 'refund' and r.invoice_id is null then 'orphan'
            when r.type = 'spend' and r.key is not null and r.nth_of_key > 1 then 'duplicate_spend'
          end as cause
        from row_with_invoice r
      ) judged
      where cause is not null`,
    paidSql: (tables) => `case when t.transaction_type = 'purchase' then (
      select i.amount_usd_cents from ${tables.invoices} i where i.id = t.invoice_id and i.org_wallet_id = t.wallet_id) end`,
  },
];
