-- Embeddings of events, sponsors and packages, by the version of the model that made them, and the search for what is near.
--
-- They are real[] everywhere, whether the server has pgvector or not. Where it has, `liventix embeddings upgrade` indexes the expression
-- embedding::vector(n), and the same functions search by its operators; where not, they compute the cosine over the arrays. So the
-- extension comes and goes without a row being written, and callers may hand over a vector: it becomes real[] by itself.

create schema if not exists ml;

-- Where the restructuring had made the schema, its rollback leaves it from now on: these tables are no step of it.
update restructure.steps set inverse = array_remove(inverse, 'drop schema "ml"')
where kind = 'schema' and object = 'ml' and undone_at is null;

-- Refuses. Parameters: a code of src/errors.ts, its message. Returns nothing. Locks nothing.
create function ml.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'EMBEDDING_INVALID' then 'LV120'
      when 'EMBEDDING_DIMENSIONS' then 'LV121'
      when 'EMBEDDING_MODEL_UNKNOWN' then 'LV122'
      when 'EMBEDDING_MODEL_RETIRED' then 'LV123'
      when 'EMBEDDING_MODEL_FIXED' then 'LV124'
      when 'EMBEDDING_MODEL_IN_USE' then 'LV125'
      when 'EMBEDDING_INCOMPLETE' then 'LV126'
      when 'EMBEDDING_MISSING' then 'LV127'
      when 'EMBEDDING_SEARCH_INVALID' then 'LV128'
      when 'EMBEDDING_SUBJECTS_UNSUITABLE' then 'LV129'
    end;
end
$$;

-- ------------------------------------------------------------------------------------------------------------------------------- models

create table ml.model_versions (
  id bigint generated always as identity constraint model_versions_pkey primary key,
  model text not null constraint model_versions_model_named check (model ~ '^[[:graph:]]{1,200}$' and model !~ '@'),
  version text not null constraint model_versions_version_named check (version ~ '^[[:graph:]]{1,100}$' and version !~ '@'),
  -- What callers say: text-embedding-3-small@1.
  name text not null generated always as (model || '@' || version) stored,
  dimensions integer not null constraint model_versions_dimensions_bounded check (dimensions between 1 and 16000),
  -- What is compared is the angle. Another metric would want another search.
  metric text not null default 'cosine' constraint model_versions_metric_known check (metric = 'cosine'),
  created_at timestamptz not null default clock_timestamp(),
  retired_at timestamptz,
  constraint model_versions_name_key unique (name)
);

comment on table ml.model_versions is 'Versions of models: embeddings of one are never compared with those of another. Facts; only retired_at is set, once.';

-- Which version is searched by where nobody names one: at most one a kind.
create table ml.current_models (
  kind text constraint current_models_pkey primary key constraint current_models_kind_known check (kind in ('event', 'sponsor', 'package')),
  model_version_id bigint not null constraint current_models_model_version references ml.model_versions,
  since timestamptz not null default clock_timestamp()
);

create index current_models_by_version on ml.current_models (model_version_id);

comment on table ml.current_models is 'The version of the model that each kind is searched by. Changed by liventix embeddings models use.';

-- Keeps the facts of a version: what was made by it stays what it says.
create function ml.guard_model_version() returns trigger
language plpgsql set search_path = '' as $$
begin
  if tg_op = 'UPDATE' and old.retired_at is null and new.retired_at is not null
    and (new.id, new.model, new.version, new.dimensions, new.metric, new.created_at)
      = (old.id, old.model, old.version, old.dimensions, old.metric, old.created_at)
  then
    if exists (select from ml.current_models c where c.model_version_id = old.id) then
      perform ml.refuse('EMBEDDING_MODEL_IN_USE', format('%s is searched by. Make another one current first: liventix embeddings models use.', old.name));
    end if;
    return new;
  end if;
  perform ml.refuse('EMBEDDING_MODEL_FIXED', 'What a model version is never changes, and none is deleted. Add another version, and retire this one.');
  return null;
end
$$;

create trigger model_versions_fixed before update or delete on ml.model_versions for each row execute function ml.guard_model_version();
create trigger model_versions_kept before truncate on ml.model_versions for each statement execute function ml.guard_model_version();
alter table ml.model_versions enable always trigger model_versions_fixed;
alter table ml.model_versions enable always trigger model_versions_kept;

-- Refuses to search by what is retired. Locks the version: whoever retires it meanwhile sees that it is in use, or is seen.
create function ml.guard_current_model() returns trigger
language plpgsql set search_path = '' as $$
declare
  v_version ml.model_versions;
begin
  select m.* into v_version from ml.model_versions m where m.id = new.model_version_id for share;
  if v_version.retired_at is not null then
    perform ml.refuse('EMBEDDING_MODEL_RETIRED', format('%s was retired at %s.', v_version.name, v_version.retired_at));
  end if;
  return new;
end
$$;

create trigger current_models_not_retired before insert or update on ml.current_models
  for each row execute function ml.guard_current_model();
alter table ml.current_models enable always trigger current_models_not_retired;

-- Refuses what is no kind of subject. Returns nothing. Locks nothing. Raises LV128.
create function ml.check_kind(p_kind text) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if p_kind is null or p_kind not in ('event', 'sponsor', 'package') then
    perform ml.refuse('EMBEDDING_SEARCH_INVALID', format('%s is no kind of subject: event, sponsor, package.', coalesce(quote_literal(p_kind), 'Null')));
  end if;
end
$$;

-- The version of a name, or the current one of a kind.
-- Parameters: event, sponsor or package; 'model@version' or null. Returns the version. Locks nothing.
-- Raises LV122 where there is none, LV123 where it is retired, LV128 for no kind.
create function ml.find_model(p_kind text, p_model text) returns ml.model_versions
language plpgsql stable set search_path = '' as $$
declare
  v_version ml.model_versions;
begin
  perform ml.check_kind(p_kind);
  if p_model is null then
    select m.* into v_version from ml.current_models c join ml.model_versions m on m.id = c.model_version_id where c.kind = p_kind;
  else
    select m.* into v_version from ml.model_versions m where m.name = p_model;
  end if;
  if v_version.id is null then
    perform ml.refuse('EMBEDDING_MODEL_UNKNOWN', case when p_model is null
      then format('No model is current for %ss. Say which: liventix embeddings models use.', p_kind)
      else format('There is no model version %L. Which there are: liventix embeddings models list.', p_model) end);
  end if;
  if v_version.retired_at is not null then
    perform ml.refuse('EMBEDDING_MODEL_RETIRED', format('%s was retired at %s.', v_version.name, v_version.retired_at));
  end if;
  return v_version;
end
$$;

-- --------------------------------------------------------------------------------------------------------------------------- embeddings

-- Judges an embedding. Parameters: its components; how many there should be; what it is, for the message.
-- Returns its length. Locks nothing. Raises LV120 where it points nowhere, LV121 where it has another number of components.
create function ml.judge_embedding(p_embedding real[], p_dimensions integer, p_what text) returns double precision
language plpgsql immutable set search_path = '' as $$
declare
  v_length double precision;
begin
  if p_embedding is null then
    perform ml.refuse('EMBEDDING_INVALID', format('%s is null.', p_what));
  elsif array_ndims(p_embedding) <> 1 then
    perform ml.refuse('EMBEDDING_INVALID', format('%s is an array of arrays. Give one list of numbers.', p_what));
  elsif cardinality(p_embedding) <> p_dimensions then
    perform ml.refuse('EMBEDDING_DIMENSIONS', format('%s has %s components, and its model makes %s. Was it made by another model?',
      p_what, cardinality(p_embedding), p_dimensions));
  elsif array_position(p_embedding, null) is not null then
    perform ml.refuse('EMBEDDING_INVALID', format('Component %s of %s is null.', array_position(p_embedding, null), lower(p_what)));
  end if;
  select sqrt(sum(c.value * c.value)) into v_length from (select unnest(p_embedding)::double precision as value) c;
  if v_length in ('NaN', 'Infinity') then
    perform ml.refuse('EMBEDDING_INVALID', format('%s has a component that is no finite number.', p_what));
  elsif v_length = 0 then
    perform ml.refuse('EMBEDDING_INVALID', format('%s is zero, which has no direction: it is like nothing.', p_what));
  -- Beyond, the squares no longer fit what pgvector sums them in, and both ways would answer differently.
  elsif v_length not between 1e-9 and 1e9 then
    perform ml.refuse('EMBEDDING_INVALID', format('%s has length %s. Scale it, from 1e-9 to 1e9: its direction alone counts.', p_what, v_length));
  end if;
  return v_length;
end
$$;

-- Keeps every row to what its model says, whoever writes it. Locks the version against being retired meanwhile, as the owner: who writes need not be
-- allowed to. Raises LV120, LV121, LV123.
create function ml.guard_embedding() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_version ml.model_versions;
begin
  select m.* into v_version from ml.model_versions m where m.id = new.model_version_id for share;
  if v_version.retired_at is not null then
    perform ml.refuse('EMBEDDING_MODEL_RETIRED', format('%s was retired at %s: nothing is made by it.', v_version.name, v_version.retired_at));
  end if;
  -- Of no version at all: the foreign key refuses it.
  new.length := ml.judge_embedding(new.embedding, coalesce(v_version.dimensions, cardinality(new.embedding)), 'The embedding');
  return new;
end
$$;

create table ml.event_embeddings (
  event_id uuid not null,
  model_version_id bigint not null constraint event_embeddings_model_version references ml.model_versions,
  embedding real[] not null,
  -- Of the vector, not the array: the search over arrays need not sum it for every row.
  length double precision not null,
  -- SHA-256 of what it was made from.
  content_hash bytea not null constraint event_embeddings_hash_whole check (octet_length(content_hash) = 32),
  made_at timestamptz not null default clock_timestamp(),
  constraint event_embeddings_pkey primary key (model_version_id, event_id)
);

create table ml.sponsor_embeddings (
  sponsor_id uuid not null,
  model_version_id bigint not null constraint sponsor_embeddings_model_version references ml.model_versions,
  embedding real[] not null,
  length double precision not null,
  content_hash bytea not null constraint sponsor_embeddings_hash_whole check (octet_length(content_hash) = 32),
  made_at timestamptz not null default clock_timestamp(),
  constraint sponsor_embeddings_pkey primary key (model_version_id, sponsor_id)
);

create table ml.package_embeddings (
  package_id uuid not null,
  model_version_id bigint not null constraint package_embeddings_model_version references ml.model_versions,
  embedding real[] not null,
  length double precision not null,
  content_hash bytea not null constraint package_embeddings_hash_whole check (octet_length(content_hash) = 32),
  made_at timestamptz not null default clock_timestamp(),
  constraint package_embeddings_pkey primary key (model_version_id, package_id)
);

create index event_embeddings_by_event on ml.event_embeddings (event_id);
create index sponsor_embeddings_by_sponsor on ml.sponsor_embeddings (sponsor_id);
create index package_embeddings_by_package on ml.package_embeddings (package_id);

-- As pgvector stores its own: numbers that look like noise are not worth an attempt to compress them.
alter table ml.event_embeddings alter column embedding set storage external;
alter table ml.sponsor_embeddings alter column embedding set storage external;
alter table ml.package_embeddings alter column embedding set storage external;

create trigger embeddings_as_declared before insert or update on ml.event_embeddings for each row execute function ml.guard_embedding();
alter table ml.event_embeddings enable always trigger embeddings_as_declared;
create trigger embeddings_as_declared before insert or update on ml.sponsor_embeddings for each row execute function ml.guard_embedding();
alter table ml.sponsor_embeddings enable always trigger embeddings_as_declared;
create trigger embeddings_as_declared before insert or update on ml.package_embeddings for each row execute function ml.guard_embedding();
alter table ml.package_embeddings enable always trigger embeddings_as_declared;

-- Readers see nothing until liventix embeddings attach has said of what: there need be no such tables here yet.
alter table ml.event_embeddings enable row level security;
create policy embeddings_seen on ml.event_embeddings for select using (false);
alter table ml.sponsor_embeddings enable row level security;
create policy embeddings_seen on ml.sponsor_embeddings for select using (false);
alter table ml.package_embeddings enable row level security;
create policy embeddings_seen on ml.package_embeddings for select using (false);
alter table ml.model_versions enable row level security;
create policy models_seen on ml.model_versions for select using (true);
alter table ml.current_models enable row level security;
create policy models_seen on ml.current_models for select using (true);

comment on table ml.event_embeddings is 'One embedding an event and model version. Readers see those of what they see, once liventix embeddings attach has been run.';
comment on column ml.event_embeddings.embedding is 'real[], searched exactly and slowly; where the extension vector is, liventix embeddings upgrade indexes it as vector(n).';
comment on table ml.sponsor_embeddings is 'One embedding a sponsor and model version. Readers see those of what they see, once liventix embeddings attach has been run.';
comment on column ml.sponsor_embeddings.embedding is 'real[], searched exactly and slowly; where the extension vector is, liventix embeddings upgrade indexes it as vector(n).';
comment on table ml.package_embeddings is 'One embedding a package and model version. Readers see those of what they see, once liventix embeddings attach has been run.';
comment on column ml.package_embeddings.embedding is 'real[], searched exactly and slowly; where the extension vector is, liventix embeddings upgrade indexes it as vector(n).';

-- Whatever default privileges gave: liventix embeddings attach says who may what.
do $$
declare
  v_grant record;
begin
  for v_grant in
    select distinct c.relname, case g.grantee when 0 then 'public' else format('%I', pg_get_userbyid(g.grantee)) end as grantee
    from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) g
    where n.nspname = 'ml' and g.grantee <> c.relowner
      and c.relname in ('model_versions', 'model_versions_id_seq', 'current_models', 'event_embeddings', 'sponsor_embeddings', 'package_embeddings')
  loop
    execute format('revoke all on ml.%I from %s', v_grant.relname, v_grant.grantee);
  end loop;
end
$$;

-- ------------------------------------------------------------------------------------------------------------------------------- search

-- The schema of pgvector, where it is there and the caller may use it. Returns null where not. Locks nothing.
create function ml.vector_schema() returns name
language sql stable set search_path = '' as $$
  select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
  where e.extname = 'vector' and has_schema_privilege(n.oid, 'usage')
$$;

-- What is nearest to an embedding, of those that the caller sees.
-- Parameters: event, sponsor or package; the embedding; at most how many, from 1 to 1000; the least cosine similarity, from -1 to 1; the version
-- that made the embedding, 'model@version', the current one when null.
-- Returns ids and similarities, rounded to 6 decimal places, the nearest first, equal ones by id. Locks nothing.
-- Raises LV120 to LV123 and LV128. An index of pgvector may miss some of the nearest, and gives up after hnsw.max_scan_tuples.
create function ml.similar(p_kind text, p_embedding real[], p_limit integer, p_threshold double precision, p_model text) returns table (subject_id uuid, similarity double precision)
language plpgsql stable set search_path = '' as $$
declare
  v_version ml.model_versions;
  v_length double precision;
  v_schema name := ml.vector_schema();
  v_former text[] := array[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true)];
  v_is_iterative boolean;
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    perform ml.refuse('EMBEDDING_SEARCH_INVALID', format('The limit is %s. Give one from 1 to 1000.', coalesce(p_limit::text, 'null')));
  elsif p_threshold is null or p_threshold not between -1 and 1 then
    perform ml.refuse('EMBEDDING_SEARCH_INVALID', format('The threshold is %s. Give a similarity from -1 to 1.', coalesce(p_threshold::text, 'null')));
  end if;
  v_version := ml.find_model(p_kind, p_model);
  v_length := ml.judge_embedding(p_embedding, v_version.dimensions, 'The embedding');
  if v_schema is null then
    -- Unnested side by side in a select list, which streams: in FROM, both would be written down first, for half as long again.
    return query execute format(
      'select s.id, s.similarity from (
         select t.%1$I as id, round(greatest(-1, least(1, c.dot / t.length / $2))::numeric, 6)::double precision as similarity
         from ml.%2$I t
         cross join lateral (select sum(x.a * x.b) as dot from (select unnest(t.embedding)::double precision as a, unnest($1) as b) x) c
         where t.model_version_id = %3$s) s
       where s.similarity >= $3 order by s.similarity desc, s.id limit $4',
      p_kind || '_id', p_kind || '_embeddings', v_version.id)
    using p_embedding::double precision[], v_length, p_threshold, p_limit;
    return;
  end if;
  -- Rows that the caller may not see are passed over after the index has found them: it has to go on looking, as it can since 0.8.
  v_is_iterative := (select string_to_array(e.extversion, '.')::integer[] >= array[0, 8] from pg_extension e where e.extname = 'vector');
  if v_is_iterative then
    perform set_config('hnsw.ef_search', greatest(100, least(1000, 2 * p_limit))::text, true), set_config('hnsw.iterative_scan', 'relaxed_order', true);
  end if;
  -- More than are wanted, as going on brings some late, and those as near as the last: which of equal ones are returned must not be chance.
  -- By literals: the index is of one version, and of its dimensions.
  return query execute format(
    'select s.id, s.similarity from (
       select n.id, round((1 - n.distance)::numeric, 6)::double precision as similarity from (
         select t.%1$I as id, t.embedding::%4$I.vector(%5$s) operator(%4$I.<=>) $1::%4$I.vector(%5$s) as distance
         from ml.%2$I t where t.model_version_id = %3$s
         order by t.embedding::%4$I.vector(%5$s) operator(%4$I.<=>) $1::%4$I.vector(%5$s)
         fetch first %6$s rows with ties) n) s
     where s.similarity >= $2 order by s.similarity desc, s.id limit $3',
    p_kind || '_id', p_kind || '_embeddings', v_version.id, v_schema, v_version.dimensions, 2 * p_limit + 10)
  using p_embedding, p_threshold, p_limit;
  if v_is_iterative then
    perform set_config('hnsw.ef_search', coalesce(nullif(v_former[1], ''), '40'), true),
      set_config('hnsw.iterative_scan', coalesce(nullif(v_former[2], ''), 'off'), true);
  end if;
end
$$;

-- The events that are nearest to an embedding, of those that the caller sees. See ml.similar. Locks nothing.
create function ml.similar_events(
  p_embedding real[], p_limit integer default 10, p_threshold double precision default 0.7, p_model text default null
) returns table (event_id uuid, similarity double precision)
language sql stable set search_path = '' as $$
  select s.subject_id, s.similarity from ml.similar('event', p_embedding, p_limit, p_threshold, p_model) s order by s.similarity desc, s.subject_id
$$;

-- The sponsors that are nearest to an embedding, of those that the caller sees. See ml.similar. Locks nothing.
create function ml.similar_sponsors(
  p_embedding real[], p_limit integer default 10, p_threshold double precision default 0.7, p_model text default null
) returns table (sponsor_id uuid, similarity double precision)
language sql stable set search_path = '' as $$
  select s.subject_id, s.similarity from ml.similar('sponsor', p_embedding, p_limit, p_threshold, p_model) s order by s.similarity desc, s.subject_id
$$;

-- The packages that are nearest to an embedding, of those that the caller sees. See ml.similar. Locks nothing.
create function ml.similar_packages(
  p_embedding real[], p_limit integer default 10, p_threshold double precision default 0.7, p_model text default null
) returns table (package_id uuid, similarity double precision)
language sql stable set search_path = '' as $$
  select s.subject_id, s.similarity from ml.similar('package', p_embedding, p_limit, p_threshold, p_model) s order by s.similarity desc, s.subject_id
$$;

-- What of one kind is nearest to a subject of another, both by one version: that which the kind searched for is searched by, unless one is named.
-- Parameters: the subject's kind and id; the others: see ml.similar. Returns ids and similarities. Locks nothing.
-- Raises LV127 where the caller sees no embedding of the subject by that version, and what ml.similar raises.
create function ml.matching(p_of text, p_id uuid, p_kind text, p_limit integer, p_threshold double precision, p_model text)
returns table (subject_id uuid, similarity double precision)
language plpgsql stable set search_path = '' as $$
declare
  v_version ml.model_versions := ml.find_model(p_kind, p_model);
  v_embedding real[];
begin
  perform ml.check_kind(p_of);
  execute format('select t.embedding from ml.%I t where t.model_version_id = $1 and t.%I = $2', p_of || '_embeddings', p_of || '_id')
  into v_embedding using v_version.id, p_id;
  if v_embedding is null then
    perform ml.refuse('EMBEDDING_MISSING', format('There is no embedding of %s %s by %s.', p_of, coalesce(p_id::text, 'null'), v_version.name));
  end if;
  return query select s.subject_id, s.similarity from ml.similar(p_kind, v_embedding, p_limit, p_threshold, v_version.name) s;
end
$$;

-- The sponsors that suit an event, by what both are about. See ml.matching. Locks nothing.
create function ml.matching_sponsors(
  p_event_id uuid, p_limit integer default 10, p_threshold double precision default 0.7, p_model text default null
) returns table (sponsor_id uuid, similarity double precision)
language sql stable set search_path = '' as $$
  select s.subject_id, s.similarity from ml.matching('event', p_event_id, 'sponsor', p_limit, p_threshold, p_model) s order by s.similarity desc, s.subject_id
$$;

-- The events that suit a sponsor, by what both are about. See ml.matching. Locks nothing.
create function ml.matching_events(
  p_sponsor_id uuid, p_limit integer default 10, p_threshold double precision default 0.7, p_model text default null
) returns table (event_id uuid, similarity double precision)
language sql stable set search_path = '' as $$
  select s.subject_id, s.similarity from ml.matching('sponsor', p_sponsor_id, 'event', p_limit, p_threshold, p_model) s order by s.similarity desc, s.subject_id
$$;

-- -------------------------------------------------------------------------------------------------------------------- changing the model

-- How many subjects that are found by the current version would not be by another. Parameters: the kind; 'model@version'. Locks nothing.
create function ml.missing(p_kind text, p_model text) returns bigint
language plpgsql stable set search_path = '' as $$
declare
  v_version ml.model_versions := ml.find_model(p_kind, p_model);
  v_missing bigint;
begin
  execute format(
    'select count(*) from ml.current_models c join ml.%1$I t on t.model_version_id = c.model_version_id
     where c.kind = $1 and not exists (select from ml.%1$I o where o.model_version_id = $2 and o.%2$I = t.%2$I)',
    p_kind || '_embeddings', p_kind || '_id')
  into v_missing using p_kind, v_version.id;
  return v_missing;
end
$$;

-- Makes a version the one that a kind is searched by, if what is found now is found by it too.
-- Parameters: the kind; 'model@version'; how many subjects may be found no longer. Returns how many that are.
-- Locks the kind's embeddings against writers, not readers, until the transaction ends, so that nobody adds one by the old version meanwhile.
-- Raises LV122, LV123; LV126 where more are missing.
create function ml.use_model(p_kind text, p_model text, p_may_miss bigint default 0) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_missing bigint;
begin
  perform ml.check_kind(p_kind);
  execute format('lock table ml.%I in share row exclusive mode', p_kind || '_embeddings');
  v_missing := ml.missing(p_kind, p_model);
  if v_missing > p_may_miss then
    perform ml.refuse('EMBEDDING_INCOMPLETE', format('%s of the %ss that are found now have no embedding by %s yet, and would be found no longer.',
      v_missing, p_kind, p_model));
  end if;
  insert into ml.current_models as c (kind, model_version_id)
  values (p_kind, (ml.find_model(p_kind, p_model)).id)
  on conflict (kind) do update set model_version_id = excluded.model_version_id, since = clock_timestamp()
  where c.model_version_id <> excluded.model_version_id;
  return v_missing;
end
$$;

-- ------------------------------------------------------------------------------------------------------------------------ who sees what

-- Has the embeddings of a kind seen by whoever sees the row that they are of, and written by writers alone. Can be run again, with other
-- roles or another table. The foreign key, by which they go with the row, is made by liventix embeddings attach: it names both tables.
-- Parameters: the kind; the table, whose column id is the key; the roles that read and write, those that there are not left out.
-- Returns nothing. Locks the embeddings. Raises LV129 where the table has no such key.
-- lint: allow policy-per-row-subquery because whose row it is, is asked of those few that are nearest
create function ml.attach_subjects(p_kind text, p_subjects regclass, p_readers text[], p_writers text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_table text := format('ml.%I', p_kind || '_embeddings');
  v_subject text := format('%I', p_kind || '_id');
  v_roles text;
  v_others text;
  v_each text;
begin
  perform ml.check_kind(p_kind);
  if not exists (
    select from pg_index x join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0] join pg_class c on c.oid = x.indrelid
    where x.indrelid = p_subjects and x.indisunique and x.indnkeyatts = 1 and x.indpred is null and a.attname = 'id'
      and a.atttypid = 'uuid'::regtype and c.relkind in ('r', 'p'))
  then
    perform ml.refuse('EMBEDDING_SUBJECTS_UNSUITABLE', format('%s is no table with a unique column id of type uuid.', p_subjects));
  end if;
  execute format('drop policy if exists embeddings_seen on %s', v_table);
  -- Asked of what a search has found, not of all there is.
  execute format('create policy embeddings_seen on %1$s for select using (exists (select from %2$s s where s.id = %3$s))', v_table, p_subjects, v_subject);
  foreach v_each in array array[v_table, 'ml.model_versions', 'ml.current_models'] loop
    select string_agg(distinct case g.grantee when 0 then 'public' else format('%I', pg_get_userbyid(g.grantee)) end, ', ') into v_others
    from pg_class c, aclexplode(c.relacl) g where c.oid = v_each::regclass and g.grantee <> c.relowner;
    if v_others is not null then
      execute format('revoke all on %s from %s', v_each, v_others);
    end if;
    -- What is of all kinds, whoever reads one of them reads.
    select string_agg(r.name, ', ') into v_roles
    from (
      select format('%I', p.rolname) from pg_roles p where v_each = v_table and p.rolname = any (p_readers || p_writers)
      union
      select format('%I', p.rolname)
      from pg_class c cross join aclexplode(c.relacl) g join pg_roles p on p.oid = g.grantee
      where v_each <> v_table and g.grantee <> c.relowner
        and c.oid in ('ml.event_embeddings'::regclass, 'ml.sponsor_embeddings'::regclass, 'ml.package_embeddings'::regclass)
    ) r (name);
    if v_roles is not null then
      execute format('grant usage on schema ml to %s', v_roles);
      execute format('grant select on %s to %s', v_each, v_roles);
    end if;
  end loop;
  execute format('drop policy if exists embeddings_written on %s', v_table);
  select string_agg(format('%I', r.rolname), ', ') into v_roles from pg_roles r where r.rolname = any (p_writers);
  if v_roles is not null then
    execute format('grant insert, update, delete on %s to %s', v_table, v_roles);
    execute format('create policy embeddings_written on %s to %s using (true) with check (true)', v_table, v_roles);
  end if;
end
$$;
