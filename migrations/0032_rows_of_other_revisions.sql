-- Rows that the old tables' constraints forbid, and a database at another revision may hold: without an amount, which is a note as zero
-- is, and of a type that nobody knows, which is booked as it was, against suspense.

-- As in 0028, with those two.
create or replace function replay.row_event(
  p_book_id integer, p_source text, p_row replay.row_image, p_account_id uuid, p_cause text, p_explained bigint, p_paid bigint,
  p_open_since timestamptz, p_flows replay.flow_accounts
) returns payments.new_event
language plpgsql stable as $$
declare
  v_event_id constant uuid := replay.row_event_id(p_source, p_row.id, 1);
  v_wallet constant jsonb := replay.entry(p_account_id, -p_row.delta);
  v_legacy jsonb := jsonb_build_object(
    'table', p_source, 'id', p_row.id, 'type', p_row.type, 'reference_type', p_row.reference_type);
  v_metadata jsonb;
  -- Null, which is when it is recorded, for a row without a time.
  v_effective_at constant timestamptz := case when p_row.created_at is not null then greatest(p_row.created_at, p_open_since) end;
  v_has_key constant boolean := p_row.key_scope is not null and p_cause is distinct from 'duplicate_spend';
  v_settled bigint := p_explained;
  v_flow uuid;
  v_entries jsonb := '[]';
begin
  if p_row.created_at < p_open_since then
    v_legacy := v_legacy || jsonb_build_object('created_at', p_row.created_at);
  end if;
  -- Whoever came first under a key has it in the log; of the others it is kept here.
  if p_row.key is not null and not v_has_key then
    v_legacy := v_legacy || jsonb_build_object('key', p_row.key);
  end if;
  v_metadata := case when p_cause is null then jsonb_build_object('legacy', v_legacy)
                     else jsonb_build_object('cause', p_cause, 'legacy', v_legacy) end;

  if coalesce(p_row.delta, 0) = 0 or p_account_id is null then
    return row('note.recorded', v_event_id, v_effective_at, null, null, null, jsonb_build_object(
      'note', case when p_account_id is null then 'orphan' else 'zero_row' end, 'metadata', v_metadata))::payments.new_event;
  end if;

  v_flow := case p_row.type
    when 'purchase' then p_flows.clearing
    when 'refund' then p_flows.clearing
    when 'spend' then p_flows.ad_campaigns
    when 'adjustment' then p_flows.administrators
    when 'promo' then case when p_explained > 0 then p_flows.promotions else p_flows.ad_campaigns end
    else replay.platform_account_id(p_book_id, 'suspense', 'unexplained')
  end;
  if p_row.type = 'purchase' and p_cause is null then
    v_settled := coalesce(p_paid, p_explained);
  end if;
  if v_settled = p_row.delta then
    -- Nearly every row.
    v_entries := jsonb_build_array(replay.entry(v_flow, v_settled), v_wallet);
  else
    if v_settled <> 0 then
      v_entries := jsonb_build_array(replay.entry(v_flow, v_settled));
    end if;
    v_entries := v_entries || replay.entry(
      case when p_cause is null then p_flows.promotions else replay.platform_account_id(p_book_id, 'suspense', p_cause) end,
      p_row.delta - v_settled) || v_wallet;
  end if;
  return row('transaction.posted', v_event_id, v_effective_at,
    case when v_has_key then p_row.key_scope end, case when v_has_key then p_row.key end, null, jsonb_build_object(
      'reference_type', case p_row.type
        when 'purchase' then 'credit_purchase' when 'refund' then 'refund' when 'spend' then 'campaign_spend'
        when 'adjustment' then 'adjustment' when 'promo' then 'adjustment' else p_row.reference_type end,
      'reference_id', p_row.reference_id,
      'metadata', v_metadata,
      'entries', v_entries))::payments.new_event;
end $$;

revoke all on all functions in schema replay from public;
