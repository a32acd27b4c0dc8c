import type { Queryable } from '../../db/pool.ts';
import type { Visitor } from '../visitor.ts';

export interface AuditSubject {
  /** Undefined where nobody is signed in. */
  readonly visitor: Visitor | undefined;
  readonly actor: string;
  readonly address: string;
  readonly action: string;
  /** The path of what it is about. */
  readonly subject: string | null;
  /** Ids and figures, no secrets. */
  readonly input: Readonly<Record<string, unknown>>;
}

export type Outcome = 'done' | 'refused' | 'failed';

/** Writes down that an action begins, before it does: one of which nothing else is there was broken off. @returns the event's id */
export function recordBegun(db: Queryable, subject: AuditSubject): Promise<bigint> {
  return append(db, subject, { outcome: 'began', message: null, began: null });
}

/** Writes down how an action ended; `began` is null for one that was over as it began, such as a sign-in. */
export function recordEnded(
  db: Queryable,
  subject: AuditSubject,
  end: { readonly outcome: Outcome; readonly message: string; readonly began: bigint | null },
): Promise<bigint> {
  return append(db, subject, end);
}

async function append(
  db: Queryable,
  { visitor, actor, address, action, subject, input }: AuditSubject,
  { outcome, message, began }: { outcome: Outcome | 'began'; message: string | null; began: bigint | null },
): Promise<bigint> {
  const { rows } = await db.query<{ eventId: bigint }>(
    `insert into console.events (ends_event_id, actor, known_by, address, action, subject, outcome, input, message)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning event_id as "eventId"`,
    [began, actor, visitor?.knownBy ?? 'nobody', address, action, subject, outcome, JSON.stringify(input), message],
  );
  return rows[0]?.eventId ?? 0n;
}

/** What is to be said of an action to whoever it was that did it. */
export async function findSaid(
  db: Queryable,
  { eventId, actor }: { readonly eventId: string; readonly actor: string },
): Promise<{ message: string; isDone: boolean } | undefined> {
  if (!/^\d{1,18}$/.test(eventId)) return undefined;
  const { rows } = await db.query<{ message: string; isDone: boolean }>(
    `select message, outcome = 'done' as "isDone" from console.events
     where event_id = $1 and actor = $2 and message is not null and recorded_at > now() - interval '1 hour'`,
    [eventId, actor],
  );
  return rows[0];
}
