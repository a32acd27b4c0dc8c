-- What the backfill's throttle writes: the canaries that it measures by, and what it does now, for whoever asks from another terminal.

create table replay.canaries (
  slot integer not null,
  written_at timestamptz not null default clock_timestamp(),
  book_id integer not null constraint canaries_book_id_fkey references payments.books,
  constraint canaries_pkey primary key (slot, book_id)
);

comment on table replay.canaries is 'Written to like an old table, to see how long that takes; so many rows and no more, over and over.';

create table replay.throttle (
  share double precision not null constraint throttle_share_range check (share > 0 and share <= 1),
  chunk_rows integer not null,
  passed text,
  passed_value double precision,
  passed_limit double precision,
  canary_p99_ms double precision,
  baseline_p99_ms double precision,
  blind text[] not null default '{}',
  seen_at timestamptz not null default clock_timestamp(),
  book_id integer not null constraint throttle_book_id_fkey references payments.books,
  constraint throttle_pkey primary key (book_id)
);

comment on table replay.throttle is 'What the throttle of a run does now; removed when the run ends.';
comment on column replay.throttle.share is 'Of full speed, in chunk size and in time.';
comment on column replay.throttle.passed is 'The limit that was passed last, on the way back to full speed still said.';
comment on column replay.throttle.blind is 'What the role may not see, so that no limit holds it.';
comment on column replay.throttle.seen_at is 'Moved on while the run lives: of a killed one it stays behind.';

revoke all on replay.canaries, replay.throttle from public;
