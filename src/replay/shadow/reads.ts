import type { LegacyTables } from '../legacy.ts';
import type { Source } from '../sources.ts';

/** How many transactions a wallet's page shows. */
const LATEST = 10;

/** One read of the application, from either side: each a SELECT of one text. */
export interface ShadowRead {
  readonly read: string;
  /** `$1` is the owner, `$2` the wallet. */
  readonly oldSql: (source: Source, tables: LegacyTables) => string;
  /** `$1` is the book, `$2` the account, `$3` the source. */
  readonly ledgerSql: string;
}

const typeOf = (source: Source) => (source.name === 'wallet_transactions' ? 't.type' : 't.transaction_type');

/**
 * SQL of an account's history as the old tables would have it: one line a row, with its corrections, and one for each transaction that
 * no row stands for. What is booked as the difference between a balance and its rows is no row.
 */
const HISTORY = `
  with line as (
    select n.account_seq, n.amount_cents, coalesce(m.legacy_id, payments.try_uuid(n.metadata #>> '{legacy,id}'), n.transaction_id) as id,
           case when m.legacy_id is not null then case when n.reference_type = 'campaign_spend' and n.amount_cents > 0 then 'spend' end
                else n.metadata #>> '{legacy,type}' end as type,
           case when m.legacy_id is not null then n.effective_at
                else coalesce((n.metadata #>> '{legacy,created_at}')::timestamptz, nullif(n.effective_at, n.created_at)) end as at
    from payments.entries n
    left join replay.mirrored_rows m on m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id
    where n.book_id = $1 and n.account_id = $2 and not n.metadata ? 'legacy_balance_cents'
  ), history as (
    -- Of a row that was changed since, its last version says what it is.
    select l.id, -l.cents as cents, case when c.legacy_id is null then l.type else (c.image).type end as type,
           case when c.legacy_id is null then l.at else (c.image).created_at end as at
    from (
      select id, sum(amount_cents)::bigint as cents, (array_agg(type order by account_seq))[1] as type,
             (array_agg(at order by account_seq))[1] as at
      from line group by id having sum(amount_cents) <> 0
    ) l
    left join replay.changed_rows c on c.legacy_id = l.id and c.source = $3 and c.book_id = $1
  )`;

const moving = (source: Source, tables: LegacyTables) =>
  `${tables[source.transactions]} t where t.wallet_id = $2 and t.credits_delta <> 0`;
const pageOf = (rows: string) =>
  `select coalesce(string_agg(line, ', ' order by nth), 'none') as said from (${rows}) page`;
const numbered = `row_number() over (order by at desc nulls last, id desc) as nth`;

/** What the application reads of a wallet. */
export const SHADOW_READS: readonly ShadowRead[] = [
  {
    read: 'balance',
    oldSql: (source, tables) =>
      `select w.balance_credits::text as said from ${tables[source.wallets]} w where w.${source.ownerColumn} = $1 and w.id = $2`,
    ledgerSql: `select (-b.balance_cents)::text as said from payments.balances b
      where b.book_id = $1 and b.account_id = $2 and $3::text is not null`,
  },
  {
    read: `latest ${LATEST} transactions`,
    oldSql: (source, tables) =>
      pageOf(`select format('%s of %s', credits_delta, id) as line, ${numbered}
        from (select t.id, t.credits_delta, t.created_at as at from ${moving(source, tables)}
              order by t.created_at desc nulls last, t.id desc limit ${LATEST}) r where $1::uuid is not null`),
    ledgerSql: `${HISTORY} ${pageOf(`select format('%s of %s', cents, id) as line, ${numbered}
      from (select h.* from history h order by h.at desc nulls last, h.id desc limit ${LATEST}) r`)}`,
  },
  {
    read: 'number of transactions',
    oldSql: (source, tables) => `select count(*)::text as said from ${moving(source, tables)} and $1::uuid is not null`,
    ledgerSql: `${HISTORY} select count(*)::text as said from history`,
  },
  {
    read: 'sum of spends',
    oldSql: (source, tables) =>
      `select coalesce(-sum(t.credits_delta), 0)::text as said from ${moving(source, tables)} and ${typeOf(source)} = 'spend' and $1::uuid is not null`,
    ledgerSql: `${HISTORY} select coalesce(-sum(cents), 0)::text as said from history where type = 'spend'`,
  },
];
