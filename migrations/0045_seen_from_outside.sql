-- What is looked at from outside, every few seconds, is found by an index and never by reading what was delivered.

create index deliveries_given_up_idx on outbox.deliveries (endpoint_id) where state = 'dead';
