-- What is no plain posting is a small part of the log, and a verification asks for it kind by kind: accounts, changes, holds,
-- reversals, periods. Each time it read the whole log. An ordinary posting is not in this index, and pays 0.3 us for that.

create index events_rare on payments.events (position, book_id)
  where type <> 'transaction.posted' or payload ?| array['hold_step', 'reversal_step'];

-- A hash of numbers in the order in which they come: each hashed with what those before it came to.
create aggregate payments.chain_hash(bigint) (sfunc = hashint8extended, stype = bigint, initcond = '0');
comment on aggregate payments.chain_hash(bigint) is 'Tells one order of numbers from another, without sorting them. Not cryptographic: mix the numbers with a seed that nobody knows.';
revoke all on function payments.chain_hash(bigint) from public;
