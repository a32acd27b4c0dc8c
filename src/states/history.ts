import type { Queryable } from '../db/pool.ts';
import type { Machine } from './machine.ts';

/** One change of one row. */
export interface HistoryEntry {
  readonly historyId: bigint;
  /** null: it began, or was there before the machine. */
  readonly from: string | null;
  /** null: its row was deleted. */
  readonly to: string | null;
  /** `created`, `adopted`, `deleted`, or an event of the machine. */
  readonly event: string;
  readonly role: string;
  /** The signed-in user's id, or else the database role. */
  readonly changedBy: string;
  readonly changedAt: Date;
  readonly reason: string | null;
  readonly messageId: string | null;
}

const COLUMNS = `id as "historyId", from_state as "from", to_state as "to", event, role, changed_by as "changedBy", changed_at as "changedAt",
  reason, message_id as "messageId"`;

/** What happened to a row, the first change first. */
export async function historyOf(db: Queryable, { name }: Machine, id: string): Promise<readonly HistoryEntry[]> {
  const { rows } = await db.query<HistoryEntry>(
    `select ${COLUMNS}
     from states.history
     where subject_id = $1 and machine = $2
     order by id`,
    [id, name],
  );
  return rows;
}

/** A page of what happened to a row, the last change first. @param range.before only those with a lower id */
export async function listHistory(
  db: Queryable,
  { name }: Machine,
  { id, before, limit }: { readonly id: string; readonly before?: string | undefined; readonly limit: number },
): Promise<readonly HistoryEntry[]> {
  const { rows } = await db.query<HistoryEntry>(
    `select ${COLUMNS} from states.history
     where subject_id = $1 and machine = $2 and ($3::bigint is null or id < $3)
     order by id desc limit $4`,
    [id, name, before ?? null, limit],
  );
  return rows;
}
