-- Seals: the log of each book as an RFC 6962 Merkle tree that grows seal by seal, each seal chained to the one before.
-- docs/proofs.md has the byte layouts for whoever checks a proof without us.
--
-- A seal names the events it covers one by one (positions), because positions are taken before their transactions commit:
-- one that commits late has a lower position than events already sealed, and comes in a later seal. What a seal found
-- missing stays open (open_positions) only for as long as a transaction that may have taken it is at work. After that the
-- place is empty for ever: it is not looked at again, and an event that appears there was not written by the ledger.

create table payments.seals (
  seal_number bigint not null,
  tree_size bigint not null,
  sealed_at timestamptz not null,
  event_count integer not null,
  book_id integer not null constraint seals_book_id_fkey references payments.books,
  root bytea not null,
  seal_hash bytea not null,
  previous_seal_hash bytea not null,
  frontier bytea[] not null,
  positions int8multirange not null,
  open_positions int8multirange not null,
  open_writers text[] not null,
  constraint seals_pkey primary key (seal_number, book_id),
  constraint seals_hash_lengths check (
    octet_length(root) = 32 and octet_length(seal_hash) = 32 and octet_length(previous_seal_hash) = 32)
);
create index seals_tree_size on payments.seals (tree_size, seal_number, book_id);
create index seals_root on payments.seals (root, book_id);
create index seals_positions on payments.seals using gist (positions);

comment on table payments.seals is 'One row a seal, numbered 1, 2, 3 in each book. The leaves of its tree are the leaf hashes of events in the order of (seal_number, position).';
comment on column payments.seals.tree_size is 'The book''s sealed events, up to and with this seal.';
comment on column payments.seals.event_count is 'How many of them this seal added; 0 where it only passed over many events of other books.';
comment on column payments.seals.root is 'RFC 6962 Merkle tree hash of the tree_size leaves.';
comment on column payments.seals.frontier is 'The hashes of the complete subtrees that the tree consists of, the largest first: all that is needed to go on from here.';
comment on column payments.seals.positions is 'The positions of the events that this seal added.';
comment on column payments.seals.open_positions is 'Where events that are not sealed may still be: the next seal looks here and nowhere else.';
comment on column payments.seals.open_writers is 'The virtual transactions that wrote to the log while this seal was made. When they are gone, what they left empty stays empty.';
comment on column payments.seals.previous_seal_hash is 'seal_hash of the seal before; 32 zero bytes in the first.';
comment on column payments.seals.seal_hash is 'payments.seal_hash over the other columns but event_count and frontier, which follow from them.';

create table payments.seal_tiles (
  tile_number bigint not null,
  book_id integer not null constraint seal_tiles_book_id_fkey references payments.books,
  hash bytea not null constraint seal_tiles_hash_length check (octet_length(hash) = 32),
  constraint seal_tiles_pkey primary key (tile_number, book_id)
);

comment on table payments.seal_tiles is 'The tree''s nodes of height 10: tile n is the hash of leaves 1024 n to 1024 n + 1023. A proof reads these and two tiles of leaves, not all leaves.';

-- Raises one of the seals' codes with its SQLSTATE; see payments.raise_code.
create function payments.raise_seal_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'SEAL_OUT_OF_CHAIN' then 'LV030'
      when 'SEAL_NEEDS_READ_COMMITTED' then 'LV031'
    end;
end $$;

-- Appends leaves to an RFC 6962 tree of which only the frontier is known: as many hashes as there are new nodes.
-- p_size: its leaves so far. p_frontier: the hashes of its complete subtrees, the largest first; one per bit of p_size.
-- Returns the frontier afterwards, and the hashes of the tiles (height 10) that became complete, in order.
create function payments.merkle_append(
  p_size bigint, p_frontier bytea[], p_leaves bytea[], out frontier bytea[], out tiles bytea[]
)
language plpgsql immutable parallel safe as $$
declare
  -- The nodes of one level that the new leaves gave.
  v_nodes bytea[] := p_leaves;
  v_count integer;
  v_level integer := 0;
  v_untouched integer := cardinality(p_frontier);
begin
  frontier := '{}';
  tiles := '{}';
  loop
    v_count := cardinality(v_nodes);
    exit when v_count = 0;
    if v_level = 10 then
      tiles := v_nodes;
    end if;
    -- What had no right neighbour on this level has one now.
    if (p_size >> v_level) & 1 = 1 then
      v_nodes := p_frontier[v_untouched] || v_nodes;
      v_untouched := v_untouched - 1;
      v_count := v_count + 1;
    end if;
    if v_count % 2 = 1 then
      frontier := v_nodes[v_count] || frontier;
    end if;
    -- In place and element by element: a query over the array, planned with its value, walks it for every element.
    for i in 1 .. v_count / 2 loop
      v_nodes[i] := sha256('\x01'::bytea || v_nodes[2 * i - 1] || v_nodes[2 * i]);
    end loop;
    v_nodes := v_nodes[1:v_count / 2];
    v_level := v_level + 1;
  end loop;
  frontier := p_frontier[1:v_untouched] || frontier;
end $$;

-- The RFC 6962 tree hash that a frontier stands for; SHA-256 of nothing for the empty tree.
create function payments.merkle_root(p_frontier bytea[]) returns bytea
language plpgsql immutable parallel safe as $$
declare
  v_hash bytea := p_frontier[cardinality(p_frontier)];
begin
  for v_nth in reverse cardinality(p_frontier) - 1 .. 1 loop
    v_hash := sha256('\x01'::bytea || p_frontier[v_nth] || v_hash);
  end loop;
  return coalesce(v_hash, sha256(''));
end $$;

-- The hash of one seal. Byte layout, version 1: 0x02, book_id int4, seal_number int8, sealed_at int8 microseconds since
-- 2000-01-01 UTC, tree_size int8, all big-endian; root (32 bytes); the SHA-256 of the text of positions, a line feed, the
-- text of open_positions, a line feed, and open_writers with a space between them; previous_seal_hash (32 bytes).
create function payments.seal_hash(
  p_book_id integer, p_seal_number bigint, p_sealed_at timestamptz, p_tree_size bigint, p_root bytea, p_positions int8multirange,
  p_open_positions int8multirange, p_open_writers text[], p_previous_seal_hash bytea
) returns bytea
language plpgsql stable parallel safe as $$
begin
  return sha256('\x02'::bytea || int4send(p_book_id) || int8send(p_seal_number) || timestamptz_send(p_sealed_at)
    || int8send(p_tree_size) || p_root
    || sha256(convert_to(p_positions::text || e'\n' || p_open_positions::text || e'\n' || array_to_string(p_open_writers, ' '), 'UTF8'))
    || p_previous_seal_hash);
end $$;

-- How many positions a multirange has; null where it has no end.
create function payments.count_positions(p_positions int8multirange) returns bigint
language plpgsql immutable parallel safe as $$
begin
  return (
    select case when coalesce(bool_or(upper_inf(r) or lower_inf(r)), false) then null
                else coalesce(sum(upper(r) - lower(r)), 0)::bigint end
    from unnest(p_positions) as r);
end $$;

-- A new seal continues the last one of its book, whoever inserts it.
create function payments.check_new_seal() returns trigger
language plpgsql as $$
declare
  v_last payments.seals;
  v_open int8multirange;
  v_fault text;
begin
  select * into v_last from payments.seals s where s.book_id = new.book_id order by s.seal_number desc limit 1;
  v_open := coalesce(v_last.open_positions, '{[1,)}');
  v_fault := case
    when new.seal_number <> coalesce(v_last.seal_number, 0) + 1
      then format('it is to be number %s', coalesce(v_last.seal_number, 0) + 1)
    when new.previous_seal_hash <> coalesce(v_last.seal_hash, decode(repeat('00', 32), 'hex'))
      then 'it does not name the hash of the seal before'
    when new.event_count is distinct from payments.count_positions(new.positions)
      then format('it counts %s events at %s positions', new.event_count, payments.count_positions(new.positions))
    when new.tree_size <> coalesce(v_last.tree_size, 0) + new.event_count
      then format('a tree of %s leaves and %s more are not %s', coalesce(v_last.tree_size, 0), new.event_count, new.tree_size)
    when not new.positions <@ v_open then 'it covers positions that are sealed or empty'
    when not new.open_positions <@ (v_open - new.positions) then 'it opens positions that are sealed or empty'
    when cardinality(new.frontier) <> bit_count(new.tree_size::bit(64)) or new.root <> payments.merkle_root(new.frontier)
      then 'its frontier does not give its root'
    when new.seal_hash <> payments.seal_hash(new.book_id, new.seal_number, new.sealed_at, new.tree_size, new.root, new.positions,
        new.open_positions, new.open_writers, new.previous_seal_hash) then 'its hash is not that of its columns'
  end;
  if v_fault is not null then
    perform payments.raise_seal_code('SEAL_OUT_OF_CHAIN', format(
      'Seal %s of book %s refused: %s. Seal with payments.seal_events.', new.seal_number, new.book_id, v_fault));
  end if;
  return new;
end $$;

create trigger seals_append_only before update or delete or truncate on payments.seals
  for each statement execute function payments.refuse_change();
create trigger seals_continue before insert on payments.seals
  for each row execute function payments.check_new_seal();
create trigger seal_tiles_append_only before update or delete or truncate on payments.seal_tiles
  for each statement execute function payments.refuse_change();
alter table payments.seals enable always trigger seals_append_only;
alter table payments.seals enable always trigger seals_continue;
alter table payments.seal_tiles enable always trigger seal_tiles_append_only;

-- Seals what is new in a book's log: every committed event that no seal covers, also one below the highest sealed position.
-- p_max_events: looks at so many events of the log at most; call it again until it returns nothing.
-- Returns the new seal; nothing when nothing is new. A seal of no events says that so many events of other books lie behind.
-- Locks: an advisory lock per book, so that two sealers take turns. Writers neither wait for it nor are waited for.
create function payments.seal_events(p_book_id integer, p_max_events integer default 100000) returns setof payments.seals
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- A connection that seals for months would keep plans from when the log was empty.
set plan_cache_mode = force_custom_plan as $$
declare
  v_last payments.seals;
  v_seal payments.seals;
  v_top bigint;
  -- From here on no seal has looked.
  v_new_from bigint;
  v_to_look_at int8multirange;
  v_writers text[];
  v_has_prepared boolean;
  v_seen record;
  v_decided int8multirange;
  v_empty int8multirange;
  v_tree record;
begin
  if p_max_events is null or p_max_events not between 1 and 1000000 then
    perform payments.raise_code('LEDGER_INVALID', format('p_max_events is %s: give 1 to 1000000.', coalesce(p_max_events::text, 'null')));
  end if;
  -- An older snapshot would miss what committed since, and take its place for empty.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform payments.raise_seal_code('SEAL_NEEDS_READ_COMMITTED', format(
      'Sealing in a transaction of isolation level %s: seal in one of read committed.', current_setting('transaction_isolation')));
  end if;
  perform payments.check_call(p_book_id);
  if not exists (select from payments.books b where b.book_id = p_book_id) then
    perform payments.raise_code('LEDGER_BOOK_UNKNOWN', format('Book %s does not exist.', coalesce(p_book_id::text, 'null')));
  end if;
  perform pg_advisory_xact_lock(hashtext('liventix.seal'), p_book_id);

  select s.seal_number, s.tree_size, s.seal_hash, s.frontier, s.open_positions, s.open_writers
  into v_last.seal_number, v_last.tree_size, v_last.seal_hash, v_last.frontier, v_last.open_positions, v_last.open_writers
  from payments.seals s
  where s.book_id = p_book_id
  order by s.seal_number desc
  limit 1;
  if not found then
    v_last := row(0, 0, null, 0, p_book_id, null, null, null, '{}', '{}', '{[1,)}', '{}')::payments.seals;
    v_last.seal_hash := decode(repeat('00', 32), 'hex');
  end if;

  -- The order of these three statements is what makes an empty place certain: every position up to the top is taken by
  -- now; its transaction is either among the writers, or has ended, and then the last statement sees what it wrote.
  select e.position into v_top from payments.events e order by e.position desc limit 1;
  v_to_look_at := v_last.open_positions * int8multirange(int8range(1, v_top, '[]'));
  if v_top is null or isempty(v_to_look_at) then
    return;
  end if;

  -- Whoever took a position holds a lock on its sequence until his transaction ends; a prepared one goes on without a
  -- session, and nobody promises that it keeps its id.
  select coalesce(array_agg(distinct l.virtualtransaction order by l.virtualtransaction), '{}'), coalesce(bool_or(l.pid is null), false)
  into v_writers, v_has_prepared
  from pg_locks l
  where l.locktype = 'relation' and l.relation = 'payments.events_position_seq'::regclass and l.mode = 'RowExclusiveLock'
    and l.database = (select d.oid from pg_database d where d.datname = current_database());

  with seen as materialized (
    select e.position, e.leaf_hash, e.book_id = p_book_id as is_ours
    from unnest(v_to_look_at) as r
    cross join lateral (
      select x.position, x.leaf_hash, x.book_id
      from payments.events x
      where x.position >= lower(r) and x.position < upper(r)
      order by x.position
      limit p_max_events
    ) e
    order by e.position
    limit p_max_events
  )
  select count(*) as events, max(s.position) as last,
         coalesce(array_agg(s.leaf_hash order by s.position) filter (where s.is_ours), '{}') as leaves,
         coalesce(range_agg(int8range(s.position, s.position + 1)) filter (where s.is_ours), '{}') as ours,
         coalesce(range_agg(int8range(s.position, s.position + 1)), '{}') as positions
  into v_seen
  from seen s;
  if v_seen.events < p_max_events and cardinality(v_seen.leaves) = 0 then
    return;
  end if;

  v_decided := v_to_look_at * int8multirange(int8range(null, case when v_seen.events < p_max_events then v_top else v_seen.last end, '[]'));
  v_empty := v_decided - v_seen.positions;
  v_new_from := (select max(lower(r)) from unnest(v_last.open_positions) as r);
  v_seal.open_positions := v_last.open_positions - v_decided
    -- Empty before: open while one of those who wrote then is still at work.
    + case when v_has_prepared or v_writers && v_last.open_writers then v_empty * int8multirange(int8range(null, v_new_from)) else '{}' end
    -- Empty for the first time: open while anybody writes.
    + case when v_writers <> '{}' then v_empty * int8multirange(int8range(v_new_from, null)) else '{}' end;

  select m.frontier, m.tiles into v_tree from payments.merkle_append(v_last.tree_size, v_last.frontier, v_seen.leaves) m;
  v_seal.book_id := p_book_id;
  v_seal.seal_number := v_last.seal_number + 1;
  v_seal.sealed_at := clock_timestamp();
  v_seal.event_count := cardinality(v_seen.leaves);
  v_seal.tree_size := v_last.tree_size + v_seal.event_count;
  v_seal.root := payments.merkle_root(v_tree.frontier);
  v_seal.frontier := v_tree.frontier;
  v_seal.positions := v_seen.ours;
  v_seal.open_writers := v_writers;
  v_seal.previous_seal_hash := v_last.seal_hash;
  v_seal.seal_hash := payments.seal_hash(p_book_id, v_seal.seal_number, v_seal.sealed_at, v_seal.tree_size, v_seal.root,
    v_seal.positions, v_seal.open_positions, v_writers, v_seal.previous_seal_hash);
  insert into payments.seals select v_seal.*;
  insert into payments.seal_tiles (tile_number, book_id, hash)
  select v_last.tree_size / 1024 + t.ordinality - 1, p_book_id, t.hash
  from unnest(v_tree.tiles) with ordinality as t (hash, ordinality);
  return next v_seal;
end $$;

-- Says what differs where a seal's events do not give its root.
-- p_size: the leaves before it. p_positions: those of its events that are in the log, in order. p_frontier, p_tiles: what
-- payments.merkle_append made of them.
-- Returns one text per fault: the events that are missing; else the smallest subtrees whose hash the seals kept and that
-- now have another.
create function payments.changed_since_sealed(
  p_seal payments.seals, p_size bigint, p_positions bigint[], p_frontier bytea[], p_tiles bytea[]
) returns setof text
language plpgsql stable as $$
begin
  return query
  select format('seal %s of book %s covers %s, which the log does not have', p_seal.seal_number, p_seal.book_id,
           case when upper(r) - lower(r) = 1 then format('event %s', lower(r))
                else format('events %s to %s', lower(r), upper(r) - 1) end)
  from unnest(p_seal.positions - (
    select coalesce(range_agg(int8range(p, p + 1)), '{}') from unnest(p_positions) as p
  )) as r
  order by r;
  if found then
    return;
  end if;

  return query
  with subtree as (
    select (p_size / 1024 + t.ordinality - 1) * 1024 as first_leaf, 1024 as leaves, t.hash,
           (select k.hash from payments.seal_tiles k
            where k.book_id = p_seal.book_id and k.tile_number = p_size / 1024 + t.ordinality - 1) as sealed_hash
    from unnest(p_tiles) with ordinality as t (hash, ordinality)
    union all
    -- Of the frontier what is smaller than a tile: from its end, one for each bit that is set.
    select p_seal.tree_size >> (b + 1) << (b + 1), 1 << b, p_frontier[cardinality(p_frontier) - n.below],
           p_seal.frontier[cardinality(p_seal.frontier) - n.below]
    from generate_series(0, 9) as b
    cross join lateral (select bit_count((p_seal.tree_size & ((1 << b) - 1))::bit(64))::integer as below) n
    where p_seal.tree_size >> b & 1 = 1
  ), changed as (
    select p_positions[greatest(t.first_leaf - p_size, 0) + 1] as first,
           p_positions[least(t.first_leaf + t.leaves - p_size, cardinality(p_positions))] as last
    from subtree t
    where t.hash is distinct from t.sealed_hash and t.first_leaf + t.leaves > p_size
  )
  select format('what is at %s is not what seal %s of book %s has there',
           case when c.first = c.last then format('position %s', c.first)
                else format('one or more of the positions %s to %s', c.first, c.last) end,
           p_seal.seal_number, p_seal.book_id)
  from changed c
  order by c.first;
  if not found then
    return next format('seal %s of book %s has another root than its events give', p_seal.seal_number, p_seal.book_id);
  end if;
end $$;

-- Recomputes what the seals of a book say from the events of its log, seal by seal.
-- p_after_seal: goes on from this seal, whose row is believed; 0 for all.
-- Returns one row per fault, in the order of the seals. kind 'event': events are missing, changed, or too many; kind
-- 'tile': a tile differs though the events do not.
-- Locks: none; wants one snapshot.
create function payments.check_sealed_events(p_book_id integer, p_after_seal bigint default 0)
returns table (kind text, message text)
language plpgsql stable as $$
declare
  v_seal payments.seals;
  v_size bigint;
  v_frontier bytea[];
  v_open int8multirange;
  v_found record;
  v_tree record;
  v_is_as_sealed boolean;
begin
  select s.tree_size, s.frontier, s.open_positions into v_size, v_frontier, v_open
  from payments.seals s
  where s.book_id = p_book_id and s.seal_number = p_after_seal;
  if not found then
    v_size := 0;
    v_frontier := '{}';
    v_open := '{(,)}';
  end if;

  for v_seal in
    select * from payments.seals s where s.book_id = p_book_id and s.seal_number > p_after_seal order by s.seal_number
  loop
    select coalesce(array_agg(e.leaf_hash order by e.position), '{}') as leaves,
           coalesce(array_agg(e.position order by e.position), '{}') as positions
    into v_found
    from unnest(v_seal.positions) as r
    -- Range by range, for which offset 0 stands: as a join it was planned to pass over the whole log for each.
    cross join lateral (
      select x.position, x.leaf_hash from payments.events x
      where x.book_id = p_book_id and x.position >= lower(r) and x.position < upper(r)
      offset 0
    ) e;
    select m.frontier, m.tiles into v_tree from payments.merkle_append(v_size, v_frontier, v_found.leaves) m;
    v_is_as_sealed := coalesce(
      cardinality(v_found.leaves) = v_seal.event_count and payments.merkle_root(v_tree.frontier) = v_seal.root, false);

    if v_is_as_sealed then
      return query
      select 'tile', format('tile %s of book %s %s', t.number, p_book_id, case when k.hash is null then 'is missing'
               else format('is %s, its leaves give %s', encode(k.hash, 'hex'), encode(t.hash, 'hex')) end)
      from (
        select v_size / 1024 + u.ordinality - 1 as number, u.hash from unnest(v_tree.tiles) with ordinality as u (hash, ordinality)
      ) t
      left join payments.seal_tiles k on k.book_id = p_book_id and k.tile_number = t.number
      where k.hash is distinct from t.hash
      order by t.number;
    else
      return query
      select 'event', f.fault
      from payments.changed_since_sealed(v_seal, v_size, v_found.positions, v_tree.frontier, v_tree.tiles) as f (fault);
    end if;

    -- Where this seal found nothing, and nobody was at work who could still fill it.
    return query
    select 'event', format('event %s (%s %s) of book %s is in no seal: seal %s found its position empty',
             e.position, e.type, e.event_id, p_book_id, v_seal.seal_number)
    from unnest(v_open - v_seal.positions - v_seal.open_positions) as r
    cross join lateral (
      select x.position, x.type, x.event_id from payments.events x
      where x.book_id = p_book_id
        and x.position >= coalesce(lower(r), -9223372036854775807) and x.position < coalesce(upper(r), 9223372036854775807)
      offset 0
    ) e
    order by e.position;

    v_size := greatest(v_seal.tree_size, 0);
    v_frontier := case when v_is_as_sealed then v_tree.frontier else v_seal.frontier end;
    v_open := v_seal.open_positions;
  end loop;

  return query
  select 'tile', format('tile %s of book %s stands for leaves that no seal has', k.tile_number, p_book_id)
  from payments.seal_tiles k
  where k.book_id = p_book_id and k.tile_number >= v_size / 1024
  order by k.tile_number;
end $$;

alter table payments.seals enable row level security;
alter table payments.seal_tiles enable row level security;
create policy books_granted on payments.seals for select using (book_id = any ((select payments.books_of(current_user))::integer[]));
create policy books_granted on payments.seal_tiles for select using (book_id = any ((select payments.books_of(current_user))::integer[]));

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on payments.seals, payments.seal_tiles from %s', v_role);
    execute format($revoke$
      revoke all on function payments.raise_seal_code(text, text), payments.merkle_append(bigint, bytea[], bytea[]),
        payments.merkle_root(bytea[]), payments.count_positions(int8multirange), payments.check_new_seal(),
        payments.seal_hash(integer, bigint, timestamptz, bigint, bytea, int8multirange, int8multirange, text[], bytea),
        payments.seal_events(integer, integer), payments.check_sealed_events(integer, bigint),
        payments.changed_since_sealed(payments.seals, bigint, bigint[], bytea[], bytea[]) from %s$revoke$, v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant select on payments.seals, payments.seal_tiles to service_role;
    grant execute on function payments.seal_events(integer, integer) to service_role;
  end if;
end $$;
