-- Generated from the packages that ref.sources names and from our own lists by npm run reference, as they were then.

insert into ref.countries (code, alpha3, name, phone_prefixes, currency_code) values
  ('VA', 'VAT', 'Vatican City', '{"+39"}', 'EUR')
on conflict (code) do update set alpha3 = excluded.alpha3, name = excluded.name, phone_prefixes = excluded.phone_prefixes, currency_code = excluded.currency_code, withdrawn_on = null;

update ref.tax_rates set withdrawn_on = '2026-11-30'
where id in ('CW', 'ID', 'US', 'VN', 'ZW') and withdrawn_on is null;

insert into ref.sources (table_name, package, version, licence, note, taken_on) values
  ('timezones', 'countries-and-timezones', '3.10.0', 'MIT', 'The IANA time zone database, with its links. Of several countries the first that it names, which says nothing of whose a place is.', '2026-11-30')
on conflict (table_name) do update set package = excluded.package, version = excluded.version, licence = excluded.licence, note = excluded.note, taken_on = excluded.taken_on;
