import type { LegacyTables } from './legacy.ts';
import {
  CAUSES,
  eventId,
  PLATFORM_ACCOUNTS,
  REFERENCE_TYPES,
  REPLAY_CURRENCY,
  type Source,
  WALLET_ACCOUNT,
  ZERO_ROW,
} from './sources.ts';

/** Longer texts become their hash: anybody could write them, and beyond some 2,600 bytes no index takes them. */
const MAX_TEXT_BYTES = 500;

/**
 * The survey's snapshot and its age in transactions; $1 is the book, $2 the source. Computed once: pulled up, it would be
 * for every row.
 */
const SURVEY = `
  select survey as snapshot, age(pg_snapshot_xmin(survey)::xid) as age
  from replay.progress where book_id = $1 and source = $2
  offset 0`;

/**
 * SQL of whether a row is so new that survey \`s\` may not have seen it: written by a transaction that began after the
 * oldest one then open. A negative age is that of a row frozen more than 2^31 transactions ago.
 */
function isRecent(xmin: string): string {
  return `age(${xmin}) between 0 and s.age`;
}

/**
 * SQL that imports one chunk. Parameters: $1 book, $2 source, $3 and $4 the checkpoint's key (null before the first),
 * $5 how many rows, $6 the chunk's number. Answers one row: rows, delta, id_hash, imported, and the key (created_at, id)
 * of the last row. Rows are read and mapped first; then it waits for whoever imports the chunk before, and holds the
 * checkpoint. Imports nothing where a row of the chunk came after the survey (is_ahead_of_survey), nor where by then the
 * checkpoint stands elsewhere or another survey was made (imported is null).
 */
export function importChunkSql(source: Source, tables: LegacyTables, which: 'in_order' | 'not_in_log'): string {
  const condition = which === 'in_order' ? isAfter('$3', '$4') : `${positionOf('r.id')} is null`;
  return `
    with chunk as materialized (
      select r.*, w.${source.ownerColumn} as owner_id, f.cause, coalesce(f.explained_cents, r.delta) as explained,
             a.id as wallet_account_id,
             -- Written by a transaction that the survey could not see: judged by nobody yet.
             ${isRecent('r.written_by')} and not pg_visible_in_snapshot(
               (pg_snapshot_xmin(s.snapshot)::text::bigint + s.age - age(r.written_by))::text::xid8, s.snapshot) as is_ahead_of_survey
      from (
        select * from (${source.rowsSql(tables)}) r
        where ${condition}
        order by r.created_at, r.id
        limit $5
      ) r
      cross join (${SURVEY}) s
      left join ${tables[source.wallets]} w on w.id = r.wallet_id
      left join payments.accounts a on a.book_id = $1 and a.${source.ownerKind}_id = w.${source.ownerColumn}
        and a.type = 'cash' and a.currency = '${REPLAY_CURRENCY}' and a.name = '${WALLET_ACCOUNT}'
      left join replay.findings f on f.book_id = $1 and f.source = $2 and f.legacy_id = r.id
    ), event as (
      select c.*,
        case when c.delta = 0 or c.owner_id is null
          then row('note.recorded', ${eventId('c.id')}, c.created_at, null, null, null, jsonb_build_object(
            'note', case when c.owner_id is null then 'orphan' else '${ZERO_ROW}' end,
            'metadata', ${legacyMetadata('c')}))::payments.new_event
          else row('transaction.posted', ${eventId('c.id')}, c.created_at,
            case when c.idempotency_key is not null then $2::text end, ${bounded('c.idempotency_key')}, null,
            jsonb_build_object(
              'reference_type', case c.type ${referenceTypeCases()} else c.reference_type end,
              'reference_id', ${bounded('c.reference_id')},
              'metadata', ${legacyMetadata('c')},
              'entries', ${entries('c')}))::payments.new_event
        end as event
      from chunk c
    ), gathered as (
      select count(*) as rows, coalesce(sum(delta), 0) as delta, sum(uuid_hash_extended(id, 0)) as id_hash,
             array_agg(distinct wallet_account_id) filter (where wallet_account_id is not null) as wallet_account_ids,
             array_agg(event order by created_at, id) as events,
             max(created_at) as created_at,
             (array_agg(id order by created_at desc, id desc))[1] as id,
             bool_or(is_ahead_of_survey) as is_ahead_of_survey
      from event
    )
    select delta::text as delta, id_hash::text as id_hash, created_at::text as created_at, id, is_ahead_of_survey,
           case when not is_ahead_of_survey and replay.take_turn($1, $6, $2, $3, $4, (select s.snapshot from (${SURVEY}) s)) then
             payments.import_events($1, wallet_account_ids || ${platformAccountIds()}, events)::bigint
           end as imported
    from gathered
    where rows > 0`;
}

/** SQL of the key of the last row of the chunk that begins after a key. Parameters: $1 and $2 the key, $3 how many rows. */
export function chunkEndSql(source: Source, tables: LegacyTables): string {
  return `
    select created_at::text as created_at, id
    from (
      select r.created_at, r.id from ${tables[source.transactions]} r
      where ${isAfter('$1', '$2')}
      order by r.created_at, r.id
      limit $3
    ) r
    order by r.created_at desc, r.id desc
    limit 1`;
}

/** SQL of how many rows there are, and how many of them are not in the log; $1 is the book, $2 the source. */
export function countRowsSql(source: Source, tables: LegacyTables): string {
  return `
    select count(*) as "rowsInTable",
           count(*) filter (where not exists (
             select from payments.events e where e.book_id = $1 and e.event_id = ${eventId('r.id')})) as "rowsLeft",
           (select count(*) from ${tables[source.wallets]}) as wallets
    from ${tables[source.transactions]} r`;
}

/** SQL of whether row `r` comes after a key in chronological order; after null comes everything. */
function isAfter(createdAt: string, id: string): string {
  return `(${createdAt}::timestamptz is null or (r.created_at, r.id) > (${createdAt}::timestamptz, ${id}::uuid))`;
}

/**
 * SQL that books the differences of one chunk of wallets. Parameters: $1 book, $2 source, $3 and $4 the range of wallet
 * ids. The caller holds the locks of their accounts. A wallet that has rows which are not in the log yet is left to the
 * next run: what they moved is no drift.
 */
export function reconcileChunkSql(source: Source, tables: LegacyTables): string {
  // Materialized: pulled up, each step would be computed again wherever its columns are used. Looked up one by one: joined,
  // the whole log and the whole legacy table were read for every chunk of wallets.
  return `
    with wallet as materialized (
      select w.id, w.balance_credits::bigint as legacy, w.created_at, replayed.cents as ledger, b.last_seq, b.account_id
      from ${tables[source.wallets]} w
      join payments.balances b on b.book_id = $1
        and b.account_id = ${walletAccountId(source, `w.${source.ownerColumn}`)}
      cross join lateral (select ${replayedBalance('b', 'w.balance_credits')} as cents offset 0) replayed
      where ${walletsInRange('$3', '$4')} and w.balance_credits <> replayed.cents
    ), explained as materialized (
      select w.*, w.legacy - w.ledger as difference, history.last_at, history.rows,
        case when history.rows = 0 then 'opening_balance'
             -- A stale balance was written back over one movement: that movement is missing from it.
             when (select t.id from ${tables[source.transactions]} t
               where t.wallet_id = w.id and t.credits_delta = w.ledger - w.legacy limit 1) is not null then 'lost_update'
             else 'balance_without_row' end as cause
      from wallet w
      cross join (${SURVEY}) s
      cross join lateral (
        select count(*) as rows, max(t.created_at) as last_at from ${tables[source.transactions]} t where t.wallet_id = w.id
      ) history
      where not exists (
        select from ${tables[source.transactions]} t
        -- What the survey saw is in the log by now; only newer rows are looked up.
        where t.wallet_id = w.id and case when ${isRecent('t.xmin')} then ${positionOf('t.id')} is null end)
    ), gathered as (
      select array_agg(row('transaction.posted', payments.named_uuid('drift:' || $2::text || ':' || e.id || ':' || e.last_seq),
               coalesce(e.last_at, e.created_at), null, null, null, jsonb_build_object(
                 'reference_type', 'adjustment', 'reference_id', e.id,
                 'metadata', jsonb_build_object('cause', e.cause, 'wallet_id', e.id, 'legacy_balance_cents', e.legacy,
                   'ledger_balance_cents', e.ledger, 'legacy_rows', e.rows),
                 'entries', jsonb_build_array(
                   ${entry(platformAccountId('suspense', 'e.cause'), 'e.difference')},
                   ${entry('e.account_id', '-e.difference')})))::payments.new_event order by e.id) as events,
             array_agg(e.account_id) as account_ids
      from explained e
    )
    select payments.import_events($1, account_ids || ${platformAccountIds()}, events) from gathered where events is not null`;
}

/**
 * SQL of what the replay brought to an account, as its holder sees it: the balance without what was posted beside the
 * replay, which the old wallet knows nothing of. An imported event has no request. The entries are only looked at where
 * the balance differs from the old one.
 */
export function replayedBalance(balance: string, legacyCents: string): string {
  return `case when -${balance}.balance_cents = ${legacyCents} then -${balance}.balance_cents
    else -${balance}.balance_cents + coalesce((
      select sum(n.amount_cents)
      from payments.entries n
      where n.book_id = ${balance}.book_id and n.account_id = ${balance}.account_id and (
        -- Found in an index of what was asked for, so that not a single event of the import is looked at.
        select v.position from payments.events v
        where v.book_id = n.book_id and v.position = n.event_position and v.request_hash is not null
      ) is not null
    ), 0)::bigint end`;
}

/** SQL of where the event of a legacy row stands in the log, null where it is not there; $1 is the book, $2 the source. */
function positionOf(legacyId: string): string {
  return `(select v.position from payments.events v where v.book_id = $1 and v.event_id = ${eventId(legacyId)})`;
}

/** SQL of which wallets `w` lie in a range of ids: after one of them (null: from the first on) and up to another. */
export function walletsInRange(after: string, upTo: string): string {
  return `(${after}::uuid is null or w.id > ${after}::uuid) and w.id <= ${upTo}::uuid`;
}

function bounded(text: string): string {
  // A text that looks like a hash is hashed too, so that nobody can write the hash of another's.
  return `case when octet_length(${text}) <= ${MAX_TEXT_BYTES} and ${text} not like 'sha256:%' then ${text}
    else 'sha256:' || encode(sha256(convert_to(${text}, 'UTF8')), 'hex') end`;
}

/** SQL of a holder's account id, null where there is no holder; $1 is the book. */
export function walletAccountId(source: Source, ownerExpression: string): string {
  const owners = source.ownerKind === 'user' ? `${ownerExpression}::text, null` : `null, ${ownerExpression}::text`;
  return `case when ${ownerExpression} is not null
    then payments.account_id($1, 'cash', '${REPLAY_CURRENCY}', '${WALLET_ACCOUNT}', ${owners}) end`;
}

function platformAccountId(type: string, nameExpression: string): string {
  return `payments.account_id($1, '${type}', '${REPLAY_CURRENCY}', ${nameExpression}, null, null)`;
}

/** SQL of the ids of every account of the platform that the replay books on. */
export function platformAccountIds(): string {
  const ids = [...PLATFORM_ACCOUNTS, ...CAUSES.map((name) => ({ type: 'suspense', name }))];
  return `array[${ids.map(({ type, name }) => platformAccountId(type, `'${name}'`)).join(', ')}]`;
}

function entry(account: string, cents: string): string {
  return `jsonb_build_object('account_id', ${account}, 'amount_cents', ${cents}, 'currency', '${REPLAY_CURRENCY}')`;
}

/**
 * The entries of one row: what the flows explain, what they do not, and the wallet. Nothing is booked for zero. Nearly
 * every row is one movement between two accounts, and is spared the concatenation.
 */
function entries(row: string): string {
  const clearing = platformAccountId('receivable', `'clearing'`);
  const promotions = platformAccountId('contra_revenue', `'promotions'`);
  const adCampaigns = platformAccountId('revenue', `'ad_campaigns'`);
  const flowAccount = `case ${row}.type
      when 'purchase' then ${clearing}
      when 'refund' then ${clearing}
      when 'spend' then ${adCampaigns}
      when 'adjustment' then ${platformAccountId('adjustments', `'administrators'`)}
      when 'promo' then case when ${row}.explained > 0 then ${promotions} else ${adCampaigns} end
    end`;
  const wallet = entry(`${row}.wallet_account_id`, `-${row}.delta::bigint`);
  const unlessZero = (account: string, cents: string) =>
    `case when ${cents} = 0 then '[]'::jsonb else jsonb_build_array(${entry(account, cents)}) end`;
  const settled = `case when ${row}.type = 'purchase' and ${row}.cause is null then ${row}.paid_cents::bigint else ${row}.explained end`;
  const rest = `case when ${row}.cause is null then ${promotions} else ${platformAccountId('suspense', `${row}.cause`)} end`;
  return `case
      when ${row}.cause is null and coalesce(${row}.paid_cents, ${row}.delta) = ${row}.delta
      then jsonb_build_array(${entry(flowAccount, `${row}.delta`)}, ${wallet})
      else ${unlessZero(flowAccount, `(${settled})`)}
        || ${unlessZero(rest, `(${row}.delta - ${settled})`)}
        || ${wallet}
    end`;
}

function legacyMetadata(row: string): string {
  const legacy = `'legacy', jsonb_build_object('table', $2::text, 'id', ${row}.id, 'type', ${row}.type, 'reference_type', ${row}.reference_type)`;
  return `case when ${row}.cause is null then jsonb_build_object(${legacy})
    else jsonb_build_object('cause', ${row}.cause, ${legacy}) end`;
}

function referenceTypeCases(): string {
  return Object.entries(REFERENCE_TYPES)
    .map(([type, reference]) => `when '${type}' then '${reference}'`)
    .join(' ');
}
