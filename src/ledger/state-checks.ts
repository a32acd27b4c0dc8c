import type { Rows } from './scope.ts';

const STEP_NUMBERS = [
  'hold_seq',
  'account_hold_seq',
  'held_cents',
  'held_after_cents',
  'captured_cents',
  'remaining_cents',
] as const;

/** What the log says of holds and what was projected from it: SELECT of one text per fault. */
export const holdFaults = (rows: Rows) => `
  select f.message from (
    select coalesce(h.event_position, e.position) as position, format('hold entry of event %s %s',
             coalesce(h.event_position, e.position), case
               when h.event_position is null then 'is in the log and not among the hold entries'
               when e.position is null then 'has no event in the log'
               else 'differs from its event' end) as message
    from ${rows.holdEntries} h
    full join (
      select e.book_id, e.position, e.type, e.event_id, e.recorded_at, e.payload -> 'hold_step' as said
      from ${rows.rareEvents} e where e.payload ? 'hold_step'
    ) e on e.book_id = h.book_id and e.position = h.event_position
    where h.event_position is null or e.position is null
      or (h.hold_id::text, h.account_id::text, h.kind, h.created_at, h.transaction_id)
         is distinct from (e.said ->> 'hold_id', e.said ->> 'account_id', e.said ->> 'kind', e.recorded_at,
           case e.type when 'transaction.posted' then e.event_id end)
      or ${STEP_NUMBERS.map((name) => `h.${name}::text is distinct from e.said ->> '${name}'`).join(' or ')}
    union all
    select r.event_position, format('hold entry of event %s makes number %s of hold %s with %s remaining and %s held on account %s, expected number %s, at most %s and %s',
             r.event_position, r.hold_seq, r.hold_id, r.remaining_cents, r.held_after_cents, r.account_id, r.expected_seq, r.most_cents, r.expected_held)
    from (
      select h.*, row_number() over of_hold as expected_seq, row_number() over of_account as expected_account_seq,
             sum(h.held_cents) over of_account as expected_held,
             case h.kind when 'placed' then h.remaining_cents else lag(h.remaining_cents) over of_hold - h.captured_cents end as most_cents,
             h.remaining_cents - coalesce(lag(h.remaining_cents) over of_hold, 0) as remaining_change
      from ${rows.holdHistories} h
      window of_hold as (partition by h.book_id, h.hold_id order by h.hold_seq),
             of_account as (partition by h.book_id, h.account_id order by h.account_hold_seq)
    ) r
    where r.hold_seq <> r.expected_seq or r.account_hold_seq <> r.expected_account_seq or r.held_after_cents <> r.expected_held
      or r.remaining_cents > r.most_cents or abs(r.held_cents) <> abs(r.remaining_change)
      or (r.kind = 'placed') <> (r.hold_seq = 1)
    union all
    select coalesce(h.event_position, e.position), format('hold %s %s', coalesce(h.hold_id, e.event_id), case
             when h.hold_id is null then 'is in the log and not among the holds'
             when e.position is null then 'has no event in the log'
             else format('is %s with %s of %s remaining after %s entries, the log says otherwise', h.state, h.remaining_cents, h.amount_cents, h.last_seq) end)
    from ${rows.holds} h
    full join ${rows.holdEvents} e on e.book_id = h.book_id and e.event_id = h.hold_id
    left join lateral (
      select l.hold_seq, l.remaining_cents, l.kind from payments.hold_entries l
      where l.hold_id = h.hold_id and l.book_id = h.book_id order by l.hold_seq desc limit 1
    ) l on true
    where h.hold_id is null or e.position is null
      or (h.event_position, h.amount_cents::text, h.account_id::text, h.currency, h.created_at, h.created_by, h.reference_type, h.reference_id,
          h.description, h.metadata, h.expires_at)
         is distinct from (e.position, e.payload ->> 'amount_cents', e.payload ->> 'account_id', e.payload ->> 'currency', e.recorded_at, e.created_by,
          e.payload ->> 'reference_type', e.payload ->> 'reference_id', e.payload ->> 'description',
          coalesce(e.payload -> 'metadata', '{}'::jsonb), payments.try_instant(e.payload ->> 'expires_at'))
      or (h.last_seq, h.remaining_cents, h.state) is distinct from (l.hold_seq, l.remaining_cents, case when l.remaining_cents > 0 then 'active' else l.kind end)
  ) f
  order by f.position`;

/** Limits, states and currencies of accounts, and what they have on hold: SELECT of one text per fault. */
export const accountStateFaults = (rows: Rows) => `
  select f.message from (
    select coalesce(c.event_position, e.position) as position, format('account change of event %s %s',
             coalesce(c.event_position, e.position), case
               when c.event_position is null then 'is in the log and not among the changes'
               when e.position is null then 'has no event in the log'
               else 'differs from its event, or is out of turn' end) as message
    from (
      select c.*
      from (
        select c.*, row_number() over (partition by c.book_id, c.account_id order by c.event_position) as expected_seq
        from ${rows.accountHistories} c
      ) c
      where (c.event_position, c.book_id) in (select n.event_position, n.book_id from ${rows.accountChanges} n)
    ) c
    full join (
      select e.*, case e.type when 'account.opened' then e.event_id::text else e.payload ->> 'account_id' end as account_id
      from ${rows.rareEvents} e
      where e.type = 'account.changed' or e.type = 'account.opened' and e.payload ?| array['floor_cents', 'ceiling_cents']
    ) e on e.book_id = c.book_id and e.position = c.event_position
    where c.event_position is null or e.position is null or c.change_seq <> c.expected_seq
      or (c.account_id::text, c.status, c.floor_cents::text, c.ceiling_cents::text, c.changed_at, c.changed_by, c.reason)
         is distinct from (e.account_id, coalesce(e.payload ->> 'status', 'open'), e.payload ->> 'floor_cents', e.payload ->> 'ceiling_cents',
           e.recorded_at, e.created_by, e.payload ->> 'reason')
    union all
    select null, case
             when b.account_id is null then format('account %s has no balance', n.account_id)
             when a.id is null then format('account %s has a balance and does not exist', b.account_id)
             else format('account %s is %s in %s with limits %s to %s and %s held (debit positive), the log says %s in %s with %s to %s and %s',
               b.account_id, b.status, b.currency, coalesce(b.min_cents::text, 'none'), coalesce(b.max_cents::text, 'none'), b.held_cents,
               s.status, a.currency, coalesce(s.min_cents::text, 'none'), coalesce(s.max_cents::text, 'none'), s.held_cents) end
    from ${rows.balances} b
    full join ${rows.touched} n on n.account_id = b.account_id and n.book_id = b.book_id
    left join payments.accounts a on a.id = b.account_id and a.book_id = b.book_id
    left join payments.account_types t on t.type = a.type
    left join lateral (
      select c.status, c.floor_cents, c.ceiling_cents from payments.account_changes c
      where c.account_id = b.account_id and c.book_id = b.book_id order by c.change_seq desc limit 1
    ) c on true
    cross join lateral (
      select coalesce(c.status, 'open') as status,
             case t.normal_side when 'debit' then c.floor_cents else -c.ceiling_cents end as min_cents,
             case t.normal_side when 'debit' then c.ceiling_cents else -c.floor_cents end as max_cents,
             coalesce((
               select h.held_after_cents from payments.hold_entries h
               where h.account_id = b.account_id and h.book_id = b.book_id order by h.account_hold_seq desc limit 1), 0) as held_cents
    ) s
    where b.account_id is null or a.id is null or (b.status, b.currency, b.min_cents, b.max_cents, b.held_cents) is distinct from (s.status, a.currency, s.min_cents, s.max_cents, s.held_cents)
  ) f
  order by f.position nulls last, f.message`;

/** Which transaction reverses which, and that none is taken back beyond what it was: SELECT of one text per fault. */
export const reversalFaults = (rows: Rows) => `
  select f.message from (
    select coalesce(r.event_position, e.position) as position, format('reversal of event %s %s', coalesce(r.event_position, e.position), case
             when r.event_position is null then 'is in the log and not among the reversals'
             when e.position is null then 'has no event in the log'
             else 'differs from its event, or is out of turn' end) as message
    from (
      select r.*
      from (
        select r.*, row_number() over (partition by r.book_id, r.reverses order by r.event_position) as expected_seq
        from ${rows.reversalHistories} r
      ) r
      where (r.event_position, r.book_id) in (select n.event_position, n.book_id from ${rows.reversals} n)
    ) r
    full join (select * from ${rows.rareEvents} e where e.payload ? 'reversal_step') e on e.book_id = r.book_id and e.position = r.event_position
    where r.event_position is null or e.position is null or r.reversal_seq <> r.expected_seq
      or (r.transaction_id, r.reverses::text, r.reversal_seq::text, r.is_complete::text)
         is distinct from (e.event_id, e.payload ->> 'reverses', e.payload -> 'reversal_step' ->> 'reversal_seq', e.payload -> 'reversal_step' ->> 'is_complete')
    union all
    select null, format('transaction %s has %s on account %s and reversals of %s', l.reverses, l.was, l.account_id, l.reversed)
    from (
      select t.book_id, t.reverses, t.is_complete, n.account_id, coalesce(sum(n.amount_cents) filter (where t.is_original), 0) as was,
             coalesce(sum(n.amount_cents) filter (where not t.is_original), 0) as reversed
      from (
        select r.book_id, r.reverses, r.transaction_id, false as is_original, bool_or(r.is_complete) over (partition by r.book_id, r.reverses) as is_complete
        from ${rows.reversalHistories} r
        union all
        select r.book_id, r.reverses, r.reverses, true, bool_or(r.is_complete) from ${rows.reversalHistories} r group by r.book_id, r.reverses
      ) t
      join payments.entries n on n.book_id = t.book_id and n.transaction_id = t.transaction_id
      group by t.book_id, t.reverses, t.is_complete, n.account_id
    ) l
    where l.was * l.reversed > 0 or abs(l.reversed) > abs(l.was) or l.is_complete and l.was + l.reversed <> 0
  ) f
  order by f.position nulls last, f.message`;

/** Beyond 2^57 - 1 cents, the sum of 64 slots may pass 64 bits. */
const HAS_NO_ROOM = 'b.balance_cents not between -144115188075855871 and 144115188075855871';

/** Which accounts are slots of which, and that these are what such accounts must be: SELECT of one text per fault. */
export const slotFaults = (rows: Rows) => `
  select f.message from (
    select e.position, format('slot %s is in the log and not among the slots', e.event_id) as message
    from ${rows.rareEvents} e
    where e.type = 'account.opened' and e.payload ? 'slot_of'
      and not exists (select from payments.account_slots s where s.book_id = e.book_id and s.slot_account_id = e.event_id)
    union all
    select s.event_position, format('slot %s %s', s.slot_account_id, case
             when e.position is null then 'has no event in the log' else 'differs from its event' end)
    from ${rows.accountSlots} s
    left join payments.events e on e.book_id = s.book_id and e.event_id = s.slot_account_id and e.type = 'account.opened' and e.payload ? 'slot_of'
    where (s.event_position, s.account_id::text, s.slot_number::text)
      is distinct from (e.position, e.payload ->> 'slot_of', e.payload ->> 'slot_number')
    union all
    select s.event_position, format('slot %s is number %s of account %s, expected number %s', s.slot_account_id, s.slot_number, s.account_id, s.expected_number)
    from (
      select s.*, row_number() over (partition by s.book_id, s.account_id order by s.event_position) as expected_number
      from ${rows.accountSlots} s
    ) s
    where s.slot_number <> s.expected_number
    union all
    select s.event_position, format('slot %s of account %s %s', s.slot_account_id, s.account_id, case
             when a.id is null then 'is of an account that does not exist'
             when x.id is null then 'does not exist'
             when h.slot_account_id is not null then 'is of an account that is a slot itself'
             else 'has another owner, type or currency' end)
    from ${rows.accountSlots} s
    left join payments.accounts a on a.book_id = s.book_id and a.id = s.account_id
    left join payments.accounts x on x.book_id = s.book_id and x.id = s.slot_account_id
    left join payments.account_slots h on h.book_id = s.book_id and h.slot_account_id = s.account_id
    where a.id is null or x.id is null or h.slot_account_id is not null
      or (a.type, a.currency, a.user_id, a.organization_id) is distinct from (x.type, x.currency, x.user_id, x.organization_id)
    union all
    select null, format('account %s, kept in slots, %s', b.account_id, case
             when ${HAS_NO_ROOM} then format('comes to %s, which leaves no room for the sum of all', b.balance_cents)
             else format('has limits %s to %s and %s held (debit positive)', coalesce(b.min_cents::text, 'none'),
               coalesce(b.max_cents::text, 'none'), b.held_cents) end)
    from (
      select s.book_id, s.account_id from ${rows.accountSlots} s
      union
      select s.book_id, s.slot_account_id from ${rows.accountSlots} s
    ) s
    join payments.balances b using (book_id, account_id)
    where ${HAS_NO_ROOM} or b.min_cents is not null or b.max_cents is not null or b.held_cents <> 0
    union all
    select null, format('slot %s is %s, its account %s is %s', s.slot_account_id, x.status, s.account_id, b.status)
    from ${rows.accountSlots} s
    join payments.balances b on b.book_id = s.book_id and b.account_id = s.account_id
    join payments.balances x on x.book_id = s.book_id and x.account_id = s.slot_account_id
    where x.status <> b.status
  ) f
  order by f.position nulls last, f.message`;
