-- The ledger at full strength.

-- Not validated: what is there satisfied a narrower one, and a log of millions need not be read for that.
alter table payments.events drop constraint events_type_values;
alter table payments.events add constraint events_type_values check (type in (
  'account.opened', 'account.changed', 'transaction.posted', 'hold.placed', 'hold.voided', 'hold.expired', 'book.opened',
  'period.closed', 'note.recorded')) not valid;

alter table payments.books add column closed_until timestamptz;
comment on column payments.books.closed_until is 'Effective dates before this instant are refused: their period is closed.';
