import type { LegacyTables } from './legacy.ts';
import { isBeforeHorizon, isUnknown, type Source, UNEXPLAINED } from './sources.ts';

/**
 * SQL that imports one chunk: the rows of before the capture between two keys. Parameters: $1 book, $2 source, $3 and $4 the
 * checkpoint's key (null before the first), $5 and $6 the key of the chunk's last row, $7 the chunk's number, $8 the capture. Answers
 * one row: rows, delta, id_hash and imported. Rows are read and mapped first; then it waits for whoever imports the chunk before, and
 * holds the checkpoint. Imports nothing where by then the checkpoint stands elsewhere (imported is null).
 */
export function importChunkSql(source: Source, tables: LegacyTables): string {
  return `
    with chunk as materialized (
      select r.*, w.account_id, f.cause, coalesce(f.explained_cents, (r.image).delta) as explained
      from (
        select t.created_at, t.id, ${source.image} as image, ${source.paidSql(tables)} as paid
        from ${tables[source.transactions]} t
        where ${isBetween('t', ['$3', '$4'], ['$5', '$6'])} and ${isBeforeHorizon('t.xmin')}
        offset 0
      ) r
      -- Row by row, in an index: as plain joins, what was never analyzed was read as a whole for every row of the chunk, and what was,
      -- for every chunk.
      left join lateral (
        select w.account_id from replay.wallets w
        where w.wallet_id = (r.image).wallet_id and w.source = $2 and w.book_id = $1 limit 1
      ) w on true
      left join lateral (
        select f.cause, f.explained_cents from replay.findings f
        where f.book_id = $1 and f.source = $2 and f.legacy_id = r.id limit 1
      ) f on true
    ), event as materialized (
      -- Otherwise each row would be made into an event twice: for whether there is one, and for what it is.
      select c.created_at, c.id, (c.image).delta as delta, c.account_id,
             -- One that the log has may have changed since, which is a correction. A first time is not looked up: the log refuses it.
             case when not (b.is_repeat and replay.is_in_log($1, $2, c.id)) then replay.row_event($1, $2, c.image, c.account_id, c.cause, c.explained, c.paid, b.open_since, b.flows) end as event
      from chunk c
      cross join (
        select coalesce(k.closed_until, '-infinity') as open_since, replay.flow_accounts($1) as flows, p.is_repeat
        from payments.books k join replay.progress p on p.book_id = k.book_id and p.source = $2 where k.book_id = $1
      ) b
    ), gathered as (
      select count(*) as rows, coalesce(sum(delta), 0) as delta, coalesce(sum(uuid_hash_extended(id, 0)), 0) as id_hash,
             coalesce(array_agg(distinct account_id) filter (where account_id is not null), '{}') as account_ids,
             array_agg(event order by created_at, id) filter (where event is distinct from null) as events
      from event
    )
    select rows, delta::text as delta, id_hash::text as id_hash,
           case when replay.take_turn($1, $7, $2, $3, $4, $8) then
             case when events is null then 0
                  else payments.import_events($1, account_ids || replay.platform_account_ids($1), events)::bigint end
           end as imported
    from gathered`;
}

/** SQL of the key of the last row of the chunk that begins after a key. Parameters: $1 and $2 the key, $3 how many rows. */
export function chunkEndSql(source: Source, tables: LegacyTables): string {
  return `
    select created_at::text as created_at, id
    from (
      select t.created_at, t.id from ${tables[source.transactions]} t
      where ${isAfter('t', ['$1', '$2'])}
      order by t.created_at, t.id
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
             select from payments.events e where e.book_id = $1 and e.event_id = replay.row_event_id($2, r.id, 1))) as "rowsLeft",
           (select count(*) from ${tables[source.wallets]}) as wallets
    from ${tables[source.transactions]} r`;
}

type Key = readonly [createdAt: string, id: string];

/** SQL of whether a row comes after a key in chronological order, in which one without a time has no place; after null comes everything. */
function isAfter(row: string, [createdAt, id]: Key): string {
  return `${row}.created_at is not null
    and (${createdAt}::timestamptz is null or (${row}.created_at, ${row}.id) > (${createdAt}::timestamptz, ${id}::uuid))`;
}

function isBetween(row: string, after: Key, [createdAt, id]: Key): string {
  return `${isAfter(row, after)} and (${row}.created_at, ${row}.id) <= (${createdAt}::timestamptz, ${id}::uuid)`;
}

/**
 * SQL of those wallets, by id in $3, whose difference may not be booked as it is now: they do not equal their account, or something
 * of them changed. $1 is the book, $2 the source, $4 how many milliseconds nothing of them may have changed.
 */
export function differingWalletsSql(source: Source, tables: LegacyTables): string {
  return `
    select i.id
    from unnest($3::uuid[]) as i (id)
    join replay.wallets r on r.wallet_id = i.id and r.source = $2 and r.book_id = $1
    join payments.balances b on b.account_id = r.account_id and b.book_id = $1
    left join ${tables[source.wallets]} w on w.id = i.id
    left join replay.unreconciled u on u.wallet_id = i.id and u.source = $2 and u.book_id = $1
    where (u.wallet_id is not null or w.id is null or w.balance_credits <> ${replayedBalance('b', 'w.balance_credits')})
      -- Changed at a time that is yet to come: the clock was set back, and nobody waits until it has caught up.
      and (u.changed_at < clock_timestamp() - $4 * interval '1 ms' or u.changed_at > clock_timestamp()) is not false`;
}

/**
 * SQL that books what some wallets have beyond the sum of their rows. Parameters: $1 book, $2 source, $3 the wallets' ids. The caller
 * holds the locks of their accounts. Both sums are of one snapshot of the old tables: what of it the log has by now does not matter.
 * A wallet that is gone is owed nothing.
 */
export function reconcileWalletsSql(source: Source, tables: LegacyTables): string {
  // Materialized: pulled up, each step would be computed again wherever its columns are used.
  return `
    with wallet as materialized (
      select r.wallet_id as id, r.account_id, w.balance_credits::bigint as legacy, w.created_at, b.last_seq,
             history.rows, history.cents, history.last_at, history.least_running, posted.by_cause, posted.cents as posted,
             (select f.cause from ${tables[source.transactions]} t
              -- Row by row: never analyzed, all findings were read for every wallet.
              cross join lateral (
                select f.cause, f.explained_cents from replay.findings f
                where f.book_id = $1 and f.source = $2 and f.legacy_id = t.id limit 1
              ) f
              where t.wallet_id = r.wallet_id
              group by f.cause
              having sum(t.credits_delta - f.explained_cents) = history.cents - coalesce(w.balance_credits, 0) and sum(t.credits_delta - f.explained_cents) <> 0
              order by f.cause limit 1) as corrected_cause,
             coalesce(w.balance_credits, 0) - history.cents as drift
      from replay.wallets r
      join payments.balances b on b.account_id = r.account_id and b.book_id = $1
      left join ${tables[source.wallets]} w on w.id = r.wallet_id
      cross join lateral (
        select count(*) as rows, coalesce(sum(t.credits_delta), 0)::bigint as cents, max(t.created_at) as last_at,
               min(t.running) as least_running
        from (
          select t.credits_delta, t.created_at, sum(t.credits_delta) over (order by t.created_at, t.id) as running
          from ${tables[source.transactions]} t where t.wallet_id = r.wallet_id
        ) t
      ) history
      cross join lateral (
        select coalesce(sum(d.cents), 0)::bigint as cents, jsonb_object_agg(d.cause, d.cents) filter (where d.cents <> 0) as by_cause
        from replay.drift d where d.wallet_id = r.wallet_id and d.source = $2 and d.book_id = $1
      ) posted
      where r.book_id = $1 and r.source = $2 and r.wallet_id = any ($3)
    ), explained as materialized (
      select w.*, ${driftCause(source, tables)} as cause
      from wallet w
      cross join replay.progress p
      where w.drift <> w.posted and p.book_id = $1 and p.source = $2
    ), step as materialized (
      select e.id, e.account_id, e.cause, e.drift - e.posted as cents from explained e where e.drift <> 0
      union all
      -- Nothing is left to explain: what was posted is taken back from where it was.
      select e.id, e.account_id, c.key, -c.value::bigint from explained e cross join lateral jsonb_each_text(e.by_cause) c where e.drift = 0
    ), kept as (
      insert into replay.drift as d (wallet_id, source, cause, cents, book_id)
      select s.id, $2, s.cause, s.cents, $1 from step s
      on conflict (wallet_id, source, cause, book_id) do update set cents = d.cents + excluded.cents
    ), settled as (
      delete from replay.unreconciled u where u.book_id = $1 and u.source = $2 and u.wallet_id = any ($3)
    ), seen as (
      delete from replay.unseen n where n.book_id = $1 and n.source = $2 and n.wallet_id = any ($3)
    ), gathered as (
      select array_agg(row('transaction.posted', payments.named_uuid('drift:' || $2::text || ':' || e.id || ':' || e.last_seq),
               greatest(coalesce(e.last_at, e.created_at), k.open_since), null, null, null, jsonb_build_object(
                 'reference_type', 'adjustment', 'reference_id', e.id,
                 'metadata', jsonb_build_object('cause', e.cause, 'wallet_id', e.id, 'legacy_balance_cents', e.legacy,
                   'ledger_balance_cents', e.cents + e.posted, 'legacy_rows', e.rows),
                 'entries', (
                   select jsonb_agg(replay.entry(replay.platform_account_id($1, 'suspense', s.cause), s.cents) order by s.cause)
                   from step s where s.id = e.id
                 ) || replay.entry(e.account_id, e.posted - e.drift)))::payments.new_event order by e.id) as events,
             array_agg(e.account_id) as account_ids
      from explained e
      cross join (select coalesce(closed_until, '-infinity') as open_since from payments.books where book_id = $1) k
    )
    select payments.import_events($1, account_ids || replay.platform_account_ids($1), events) from gathered where events is not null`;
}

/**
 * SQL of why wallet `w` has more or less than its rows come to, as far as something speaks for it. Source `p` says whether it was
 * looked at before: then whatever moved it since was seen to move without a row.
 */
function driftCause(source: Source, tables: LegacyTables): string {
  const rows = `${tables[source.transactions]} t where t.wallet_id = w.id`;
  return `case
        when w.legacy is null then 'orphan'
        when w.rows = 0 then 'opening_balance'
        -- Somebody put the balance right where the rows are not: it lacks what suspense holds for that cause.
        when w.posted = 0 and w.corrected_cause is not null then w.corrected_cause
        -- A stale balance was written back over one movement: that movement is missing from it.
        when exists (select from ${rows} and t.credits_delta = w.posted - w.drift) then 'lost_update'
        when p.finished_at is not null and not exists (
          select from replay.unseen n where n.wallet_id = w.id and n.source = $2 and n.book_id = $1) then 'balance_without_row'
        -- Its rows spend what was never there: it must have begun with something.
        when w.drift > 0 and w.drift >= -w.least_running and w.least_running < 0 then 'opening_balance'
        else '${UNEXPLAINED}' end`;
}

/** SQL of what nothing speaks for, by wallet: (wallet_id, cents), of its balance and of its rows; $1 is the book. */
export function unexplainedSql({ name, transactions, typeColumn }: Source, tables: LegacyTables): string {
  return `
    select p.wallet_id, replay.unexplained_cents(sum(p.of_balance)::bigint, sum(p.of_rows)::bigint) as cents
    from (
      select d.wallet_id, d.cents as of_balance, 0 as of_rows from replay.drift d
      where d.book_id = $1 and d.source = '${name}' and d.cause = '${UNEXPLAINED}'
      union all
      select t.wallet_id, 0, abs(t.credits_delta::bigint) from ${tables[transactions]} t where ${isUnknown('t', typeColumn)}
    ) p
    group by p.wallet_id`;
}

/**
 * SQL of what the replay brought to an account, as its holder sees it: the balance without what was posted beside the
 * replay, which the old wallet knows nothing of. An imported event has no request. The entries are only looked at where
 * the balance differs from the old one, and anything was ever asked for. $1 is the book.
 */
export function replayedBalance(balance: string, legacyCents: string): string {
  return `case when -${balance}.balance_cents = ${legacyCents} then -${balance}.balance_cents
    when not exists (select from payments.events v where v.book_id = $1 and v.request_hash is not null) then -${balance}.balance_cents
    else -${balance}.balance_cents + coalesce((
      select sum(n.amount_cents)
      from payments.entries n
      where n.book_id = ${balance}.book_id and n.account_id = ${balance}.account_id and (
        -- Found in an index of what was asked for, so that not a single event of the import is looked at.
        select v.position from payments.events v
        where v.book_id = n.book_id and v.position = n.event_position and v.request_hash is not null
      ) is not null and not exists (
        -- What the old tables mirror is theirs too.
        select from replay.mirrored_rows m
        where m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id)
    ), 0)::bigint end`;
}

/** SQL of a holder's account id, null where there is no holder; $1 is the book. */
export function walletAccountId(source: Source, ownerExpression: string): string {
  return `case when ${ownerExpression} is not null
    then replay.wallet_account_id($1, '${source.name}', ${ownerExpression}) end`;
}
