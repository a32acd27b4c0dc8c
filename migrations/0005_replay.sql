-- What the backfill remembers: how far it came, and what it found in the old history.

create schema replay;

create table replay.progress (
  book_id integer not null constraint progress_book_id_fkey references payments.books,
  source text not null,
  last_created_at timestamptz,
  last_id uuid,
  rows bigint not null default 0,
  delta_cents bigint not null default 0,
  id_hash numeric not null default 0,
  survey pg_snapshot,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  constraint progress_pkey primary key (book_id, source)
);

comment on table replay.progress is 'One row per legacy table: the key of the last row whose chunk committed, written in the chunk''s own transaction.';

create table replay.findings (
  book_id integer not null constraint findings_book_id_fkey references payments.books,
  source text not null,
  legacy_id uuid not null,
  cause text not null,
  explained_cents bigint not null,
  constraint findings_pkey primary key (book_id, source, legacy_id)
);

comment on column replay.progress.id_hash is 'Sum of uuid_hash_extended(id, 0) over the imported rows: with rows and delta_cents it tells whether any row is missing.';

comment on column replay.progress.survey is 'The snapshot in which the findings were made: a row that it does not see is not judged yet.';

comment on table replay.findings is 'Legacy rows that the flows do not explain, by cause; explained_cents is the part that they do. Made anew by each survey.';

revoke all on schema replay from public;
revoke all on all tables in schema replay from public;
