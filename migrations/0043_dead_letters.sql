-- Dead letters: found among many, sent again, and told to the old platform's table.
--
--   dead, delivered ──retry, replay──▶ pending, with the retry schedule from its beginning
--
-- Every attempt is kept: numbers go on, and the delivery says where its schedule began anew.

alter table outbox.deliveries
  add column schedule_from integer not null default 0,
  add constraint deliveries_schedule_from_range check (schedule_from between 0 and attempt - 1);

comment on column outbox.deliveries.schedule_from is 'How many of its attempts were made before the retry schedule began anew; 0: it never did.';

-- Newest first, of all endpoints or of one. Only what is dead has an entry, so that no delivery costs more for them.
create index deliveries_dead_idx on outbox.deliveries (id) where state = 'dead';
create index deliveries_dead_endpoint_idx on outbox.deliveries (endpoint_id, id) where state = 'dead';

-- Not partitioned: there is a row for a dead letter, and only where the old platform's table is.
create table outbox.legacy_letters (
  delivery_id bigint not null,
  day date not null,
  letter_id uuid not null default gen_random_uuid(),
  constraint legacy_letters_pkey primary key (delivery_id),
  constraint legacy_letters_letter_id_key unique (letter_id)
);

comment on table outbox.legacy_letters is 'Which row of public.dead_letter_webhooks stands for which delivery.';
comment on column outbox.legacy_letters.day is 'That of the delivery.';
comment on column outbox.legacy_letters.letter_id is 'The row''s id, and its correlation_id.';

-- Says in public.dead_letter_webhooks, where that table is, how a delivery stands that is or was dead. What is wrong with that table,
-- or with who holds a row of it, stops no delivery: it is a warning in the server's log.
-- p_state: dead: the row is pending, or failed when it is not the first time; pending: retrying; delivered: succeeded.
-- Returns nothing. Locks: the row; waits for it no longer than 200 ms.
create function outbox.mirror_dead_letter(
  p_delivery_id bigint, p_day date, p_message_id uuid, p_endpoint_id uuid, p_state text, p_error text
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_letter_id uuid;
begin
  if to_regclass('public.dead_letter_webhooks') is null then
    return;
  end if;
  if p_state = 'dead' then
    insert into outbox.legacy_letters (delivery_id, day) values (p_delivery_id, p_day) on conflict (delivery_id) do nothing;
  end if;
  select letter_id into v_letter_id from outbox.legacy_letters where delivery_id = p_delivery_id;
  if v_letter_id is null then
    return;
  end if;
  case p_state
    when 'dead' then
      insert into public.dead_letter_webhooks as letter (
        id, correlation_id, webhook_type, payload, original_timestamp, failure_reason)
      select v_letter_id, v_letter_id, message.topic, message.payload, message.created_at,
        format('endpoint %s: %s', p_endpoint_id, coalesce(p_error, 'no attempt was made'))
      from public.outbox as message
      where message.id = p_message_id and message.day = p_day
      on conflict (id) do update set status = 'failed', failure_reason = excluded.failure_reason;
    when 'pending' then
      update public.dead_letter_webhooks
      set status = 'retrying', retry_count = coalesce(retry_count, 0) + 1, last_retry_at = clock_timestamp()
      where id = v_letter_id;
    when 'delivered' then
      update public.dead_letter_webhooks set status = 'succeeded' where id = v_letter_id and status <> 'succeeded';
  end case;
exception when others then
  raise warning 'delivery %, % now, is not told to public.dead_letter_webhooks: % (%)', p_delivery_id, p_state, sqlerrm, sqlstate;
end
$$;

create function outbox.tell_dead_letter() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform outbox.mirror_dead_letter(new.id, new.day, new.message_id, new.endpoint_id, new.state, new.last_error);
  return null;
end
$$;

-- After, not before: a trigger before an update locks every row once more, and this one is for few. Its condition lets a delivery that
-- never was anything but on its way pass without a call.
create trigger deliveries_tell_dead_letter after update on outbox.deliveries
for each row
when ((old.state = 'dead') <> (new.state = 'dead') or (new.schedule_from > 0 and new.state = 'delivered' and old.state <> 'delivered'))
execute function outbox.tell_dead_letter();

-- Those of before.
select outbox.mirror_dead_letter(id, day, message_id, endpoint_id, state, last_error) from outbox.deliveries where state = 'dead' order by id;

select outbox.keep_from_guests();
