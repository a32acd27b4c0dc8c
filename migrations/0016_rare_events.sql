-- What is no plain posting is a small part of the log, and a verification asks for it kind by kind: accounts, changes, holds,
-- reversals, periods. Each time it read the whole log. An ordinary posting is not in this index, and pays 0.3 us for that.

create index events_rare on payments.events (position, book_id)
  where type <> 'transaction.posted' or payload ?| array['hold_step', 'reversal_step'];
