-- Books, opened by name.

-- Opens a book, or finds the one of that name: opening may be repeated.
-- p_name: 1 to 100 characters, without the spaces around it, none of them a control character.
-- Returns the book's id, which is the next number. The book's log begins with an event of type book.opened.
-- Locks: an advisory lock until the end of the database transaction, because two at once would take the same number.
create function payments.open_book(p_name text) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := regexp_replace(p_name, '^\s+|\s+$', '', 'g');
  v_book_id integer;
  v_event payments.new_event;
begin
  if v_name is null or length(v_name) not between 1 and 100 or v_name ~ '[[:cntrl:]]' then
    perform payments.raise_code('LEDGER_INVALID', format(
      'A book cannot be called %s: its name has 1 to 100 characters and no line breaks.', coalesce(to_json(left(v_name, 200))::text, 'null')));
  end if;

  perform pg_advisory_xact_lock(hashtext('liventix.books'));
  select b.book_id into v_book_id from payments.books b where b.name = v_name;
  if found then
    return v_book_id;
  end if;

  insert into payments.books (book_id, name)
  select max(b.book_id) + 1, v_name from payments.books b
  returning book_id into v_book_id;

  v_event.type := 'book.opened';
  v_event.event_id := payments.named_uuid('book:' || v_book_id);
  v_event.payload := jsonb_build_object('name', v_name);
  perform payments.append_events(v_book_id, array[v_event]);
  return v_book_id;
end $$;

-- A book is a legal entity or a region: the owner opens it, and no server role.
do $$
declare
  v_role text;
begin
  revoke all on function payments.open_book(text) from public;
  for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on function payments.open_book(text) from %I', v_role);
  end loop;
end $$;
