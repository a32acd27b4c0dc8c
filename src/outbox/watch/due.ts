import type { Queryable } from '../../db/pool.ts';

// An endpoint whose breaker is open is asked once in minutes, and one that is disabled never: only what is due at the others is somebody's
// to attempt. While messages wait and such endpoints have no place, attempts are made, and move the mark.
const DUE = `
  with open as (
    select endpoints.id from outbox.endpoints
    left join outbox.endpoint_health on endpoint_health.endpoint_id = endpoints.id
    where enabled and coalesce(breaker, 'closed') = 'closed'
  ), first as (
    select seq from public.outbox where processed_at is null order by seq limit 1
  )
  select (select last_value from outbox.attempt_seqs) || '/' || coalesce((select seq from first)::text, '') as mark,
    (exists (select from open) and exists (select from first)) or exists (
      select from open where exists (
        select from outbox.deliveries
        where endpoint_id = open.id and state = 'pending' and due_at <= statement_timestamp())) as "isDue"`;

/** Whether something is due that nothing stands in the way of, and a mark that is another once anything was attempted or taken. */
export async function readDue(db: Queryable): Promise<{ readonly isDue: boolean; readonly mark: string }> {
  const { rows } = await db.query<{ isDue: boolean; mark: string }>({ name: 'due', text: DUE });
  return rows[0] ?? { isDue: false, mark: '' };
}
