import type { Rows } from './scope.ts';

/**
 * What seals say about themselves: SELECT of one text per fault. Recomputed from each row and the one before. The seal that is
 * believed is looked at by itself: what is new is found by its columns, and they are believed for the hash that somebody kept.
 */
export const sealChainFaults = ({ seals, afterSeal }: Rows) => `
  select format('seal %s of book %s %s', c.seal_number, c.book_id, concat_ws(', ',
           case when c.follows and c.seal_number <> c.before_number + 1 then
             case when c.before_number = 0 then 'is its first' else format('comes after seal %s', c.before_number) end end,
           case when c.follows and c.previous_seal_hash <> c.before_hash then format('names %s as the hash of the seal before, which is %s',
             encode(c.previous_seal_hash, 'hex'), encode(c.before_hash, 'hex')) end,
           case when c.event_count is distinct from c.counted then
             format('counts %s events at %s positions', c.event_count, coalesce(c.counted::text, 'no end of')) end,
           case when c.follows and c.tree_size <> c.before_size + c.event_count then
             format('makes a tree of %s out of %s and %s events', c.tree_size, c.before_size, c.event_count) end,
           case when c.follows and not c.positions <@ c.before_open then
             format('covers positions that were sealed or empty before: %s', left((c.positions - c.before_open)::text, 100)) end,
           case when c.follows and not c.open_positions <@ (c.before_open - c.positions) then
             format('opens positions that were sealed or empty before: %s', left((c.open_positions - (c.before_open - c.positions))::text, 100)) end,
           case when not c.has_root then 'has a frontier that does not give its root' end,
           case when c.seal_hash <> c.computed_hash then format('has the hash %s, its columns give %s',
             encode(c.seal_hash, 'hex'), encode(c.computed_hash, 'hex')) end))
  from (
    select s.*, s.seal_number > ${afterSeal} as follows,
           coalesce(lag(s.seal_number) over by_number, 0) as before_number,
           coalesce(lag(s.seal_hash) over by_number, decode(repeat('00', 32), 'hex')) as before_hash,
           coalesce(lag(s.tree_size) over by_number, 0) as before_size,
           coalesce(lag(s.open_positions) over by_number, '{[1,)}') as before_open,
           payments.count_positions(s.positions) as counted,
           coalesce(payments.merkle_root(s.frontier) = s.root, false)
             and cardinality(s.frontier) = bit_count(s.tree_size::bit(64)) as has_root,
           sha256('\\x02'::bytea || int4send(s.book_id) || int8send(s.seal_number) || timestamptz_send(s.sealed_at)
             || int8send(s.tree_size) || s.root
             || sha256(convert_to(s.positions::text || e'\\n' || s.open_positions::text || e'\\n' || array_to_string(s.open_writers, ' '), 'UTF8'))
             || s.previous_seal_hash) as computed_hash
    from ${seals} s
    window by_number as (partition by s.book_id order by s.seal_number)
  ) c
  where c.event_count is distinct from c.counted
    or not c.has_root
    or c.seal_hash <> c.computed_hash
    or c.follows and (c.seal_number <> c.before_number + 1
      or c.previous_seal_hash <> c.before_hash
      or c.tree_size <> c.before_size + c.event_count
      or not c.positions <@ c.before_open
      or not c.open_positions <@ (c.before_open - c.positions))
  order by c.book_id, c.seal_number`;

/** SELECT of (kind, message) per fault: kind 'event' or 'tile'. One pass over the sealed events answers for both. */
export const sealedEventFaults = ({ books, afterSeal }: Rows) => `
  select f.kind, f.message
  from (select b.book_id from ${books} b order by b.book_id) b
  cross join lateral payments.check_sealed_events(b.book_id, ${afterSeal}) f`;
