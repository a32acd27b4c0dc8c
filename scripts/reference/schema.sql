-- Reference data: what is the same for everybody. Its rows come from packages of data and from our own lists, through migrations like this
-- one; nobody but the owner writes them. Other rows may refer to them, so none is deleted: one that its source no longer has is withdrawn.
-- `withdrawn_on` is the day on which that was taken from the source; what is unique beside the keys is so among the others.

create table if not exists ref.sources (
  table_name text constraint sources_pkey primary key,
  package text,
  version text,
  licence text,
  note text,
  taken_on date not null,
  constraint sources_of_a_version check ((package is null) = (version is null))
);
comment on table ref.sources is 'Where the rows of each table come from: an npm package, or our own list where package is null. taken_on is when they last changed.';

-- lint: allow lock-without-timeout because nobody writes ref.currencies, and readers and foreign keys pass the lock
create table if not exists ref.countries (
  code text constraint countries_pkey primary key
    constraint countries_code_format check (code ~ '^[A-Z]{2}$'),
  alpha3 text not null
    constraint countries_alpha3_format check (alpha3 ~ '^[A-Z]{3}$'),
  name text not null
    constraint countries_name_not_blank check (btrim(name) <> ''),
  phone_prefixes text[] not null
    constraint countries_phone_prefixes_format check (array_to_string(phone_prefixes, ' ', '') ~ '^[+][1-9][0-9]{0,6}( [+][1-9][0-9]{0,6})*$'),
  currency_code text constraint countries_currency_code_fkey references ref.currencies,
  withdrawn_on date
);
create unique index if not exists countries_alpha3_key on ref.countries (alpha3) where withdrawn_on is null;
comment on table ref.countries is 'ISO 3166-1: alpha-2 code, alpha-3 code, English name.';
comment on column ref.countries.phone_prefixes is 'By E.164, with the plus sign, as far as it tells the country: {+49}; the Dominican Republic has three. The first is the usual one. Countries share prefixes: +1, +7, +44.';
comment on column ref.countries.currency_code is 'The one that is usual there. Null where there is none: Antarctica.';

-- lint: allow more-than-one-hot-table-a-transaction because this file makes the tables of ref, and nobody writes ref.currencies
create table if not exists ref.timezones (
  name text constraint timezones_pkey primary key
    constraint timezones_name_format check (name ~ '^[A-Za-z][A-Za-z0-9_+/-]*$'),
  alias_of text constraint timezones_alias_of_fkey references ref.timezones
    constraint timezones_alias_of_another check (alias_of <> name),
  country_code text constraint timezones_country_code_fkey references ref.countries,
  withdrawn_on date
);
create index if not exists timezones_country_code_idx on ref.timezones (country_code);
comment on table ref.timezones is 'Names of the IANA time zone database. Offsets from UTC are not here, since they change through the year and by law: ask the server, at time zone name.';
comment on column ref.timezones.alias_of is 'The canonical name that this one is a link to, whether it is an older spelling (Asia/Calcutta) or a place with the same time (Europe/Amsterdam); null where it is canonical.';
comment on column ref.timezones.country_code is 'Where the place lies that gives the zone its name; null for those that are no place (Etc/UTC).';

create table if not exists ref.languages (
  code text constraint languages_pkey primary key
    constraint languages_code_format check (code ~ '^[a-z]{2}$'),
  name text not null
    constraint languages_name_not_blank check (btrim(name) <> ''),
  native_name text not null
    constraint languages_native_name_not_blank check (btrim(native_name) <> ''),
  withdrawn_on date
);
comment on table ref.languages is 'ISO 639-1: code, English name, and the name in the language itself.';

create table if not exists ref.tax_rates (
  id text constraint tax_rates_pkey primary key,
  country_code text not null constraint tax_rates_country_code_fkey references ref.countries,
  region_code text
    constraint tax_rates_region_code_format check (region_code ~ '^[A-Z0-9]{1,3}$'),
  tax_type text not null
    constraint tax_rates_tax_type_known check (tax_type in ('vat', 'gst', 'hst', 'gst_pst', 'gst_qst', 'igic', 'none')),
  rate_percent numeric not null
    constraint tax_rates_rate_percent_range check (rate_percent between 0 and 100)
    constraint tax_rates_rate_percent_scale check (scale(rate_percent) <= 4),
  valid_from date,
  valid_until date,
  withdrawn_on date,
  constraint tax_rates_none_is_zero check ((tax_type = 'none') = (rate_percent = 0)),
  constraint tax_rates_valid_for_a_day check (valid_from < valid_until)
);
create unique index if not exists tax_rates_country_code_region_code_valid_from_key
  on ref.tax_rates (country_code, region_code, valid_from) nulls not distinct where withdrawn_on is null;
comment on table ref.tax_rates is 'Standard rates of value-added and sales taxes. Reduced rates, which many countries have for admission to culture and sports, are not here.';
comment on column ref.tax_rates.id is 'DE@2021-01-01, CA-ON: country, region, first day where it is known.';
comment on column ref.tax_rates.region_code is 'The part of ISO 3166-2 after the country. Null for the country, which holds wherever no region of it has a row.';
comment on column ref.tax_rates.tax_type is 'gst_pst and gst_qst: the tax of the country and that of the province, both owed; none: no such tax is levied.';
comment on column ref.tax_rates.rate_percent is 'All that is owed there, in percent, exact: 14.975. Of a region the share of the country too.';
comment on column ref.tax_rates.valid_from is 'The first day. Null where nobody noted it.';
comment on column ref.tax_rates.valid_until is 'The day after the last one. Null where no end is known.';

create table if not exists ref.industries (
  slug text constraint industries_pkey primary key
    constraint industries_slug_format check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  name text not null
    constraint industries_name_not_blank check (btrim(name) <> ''),
  withdrawn_on date
);
comment on table ref.industries is 'What sponsors do.';

create table if not exists ref.event_categories (
  slug text constraint event_categories_pkey primary key
    constraint event_categories_slug_format check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  name text not null
    constraint event_categories_name_not_blank check (btrim(name) <> ''),
  parent_slug text constraint event_categories_parent_slug_fkey references ref.event_categories
    constraint event_categories_parent_slug_another check (parent_slug <> slug),
  withdrawn_on date
);
create index if not exists event_categories_parent_slug_idx on ref.event_categories (parent_slug);
comment on table ref.event_categories is 'What events are about: a topic, or a part of one.';

create table if not exists ref.hashtag_stoplist (
  tag text constraint hashtag_stoplist_pkey primary key
    constraint hashtag_stoplist_tag_format check (tag ~ '^[a-z0-9_]+$'),
  reason text not null
    constraint hashtag_stoplist_reason_known check (reason in ('says nothing', 'asks for reach', 'sells something')),
  withdrawn_on date
);
comment on table ref.hashtag_stoplist is 'Hashtags, in lower case and without the sign, that neither trend nor are suggested.';

-- Read-only to everyone: what Supabase's default privileges hand out is taken back, and reading given to all.
do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format($revoke$
      revoke all on ref.sources, ref.countries, ref.timezones, ref.languages, ref.tax_rates, ref.industries, ref.event_categories,
        ref.hashtag_stoplist from %s$revoke$, v_role);
    execute format('revoke insert, update, delete, truncate, references, trigger on ref.currencies from %s', v_role);
  end loop;
end $$;
grant usage on schema ref to public;
grant select on ref.sources, ref.currencies, ref.countries, ref.timezones, ref.languages, ref.tax_rates, ref.industries,
  ref.event_categories, ref.hashtag_stoplist to public;

-- then the rows, but for those of ref.currencies
-- Last, and 50 ms at a time: whoever opens an account or prints an amount waits from here until this is committed. The number of decimal
-- places is nothing that this puts right: where a database has another one, amounts were booked by it.
do $$
begin
  for try in 1..100 loop
    begin
      perform set_config('lock_timeout', '50ms', true);
      lock table ref.currencies in access exclusive mode;
      return;
    exception when lock_not_available then
      perform pg_sleep(0.05 + random() * 0.1);
    end;
  end loop;
  raise exception 'ref.currencies was in use at each of 100 tries, for 50 ms. Migrate again when no long transaction holds it.'
    using errcode = 'lock_not_available';
end
$$;
alter table ref.currencies add column if not exists withdrawn_on date;
