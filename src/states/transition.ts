import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { isUuid } from '../ledger/input.ts';
import type { Machine } from './machine.ts';
import { judgeEvent } from './mirror.ts';

export interface Transition<State extends string = string, Event extends string = string> {
  readonly historyId: bigint;
  readonly machine: string;
  readonly id: string;
  readonly from: State;
  readonly to: State;
  readonly event: Event;
  /** As what it was allowed: `platform`, or a role of the machine. */
  readonly role: string;
  /** Of the message that announces it. */
  readonly messageId: string;
}

export interface TransitionOptions<State extends string = string> {
  /** Kept in the history. No personal data: the history is for ever. */
  readonly reason?: string;
  /** The state that the caller has seen: an event that cannot happen to it is refused before the database is asked. */
  readonly from?: State;
}

const MAX_REASON_LENGTH = 1_000;

/**
 * Takes the edge of an event: changes the state, writes history, announces it, and posts its money, all in the caller's transaction, or
 * nothing of it. Waits 2 s at most for who holds the row. What the database refuses leaves the transaction to be rolled back.
 * @param tx a client between BEGIN and COMMIT; a pool makes it a transaction of its own
 * @throws AppError STATE_EVENT_UNKNOWN, STATE_EDGE_REFUSED, STATE_ROLE_REFUSED, STATE_GUARD_REFUSED, STATE_ROW_MISSING, STATE_ROW_LOCKED,
 *   STATE_MACHINE_NOT_INSTALLED, STATE_MONEY_KEPT, STATE_CHANGE_LOST, LEDGER_* where its booking is refused, USAGE, DB_CONFLICT where an
 *   account that it books on is held for 2 s, DB_*
 */
export async function transition<State extends string, Event extends string>(
  tx: Queryable,
  machine: Machine<State, Event>,
  id: string,
  event: NoInfer<Event>,
  { reason, from }: TransitionOptions<NoInfer<State>> = {},
): Promise<Transition<State, Event>> {
  if (!isUuid(id)) throw new AppError('USAGE', `${JSON.stringify(id.slice(0, 100))} is no id: ids are UUIDs.`);
  if (reason !== undefined && reason.length > MAX_REASON_LENGTH) {
    throw new AppError('USAGE', `A reason has at most ${MAX_REASON_LENGTH} characters, not ${reason.length}.`);
  }
  const judgement = judgeEvent(machine, from ?? stateBefore(machine, event), event, { id });
  if (!judgement.allowed) throw new AppError(judgement.code, judgement.message);
  try {
    const { rows } = await tx.query<Transition<State, Event>>(
      `select history_id as "historyId", machine, id, from_state as "from", to_state as "to", event, role, message_id as "messageId"
       from states.transition($1, $2, $3, $4)`,
      [machine.name, id, event, reason ?? null],
    );
    const [done] = rows;
    if (done === undefined) throw new AppError('INTERNAL', 'A transition was taken and nothing came of it.');
    return done;
  } catch (error) {
    throw toAppError(error);
  }
}

/** Some state that the event can happen in: whether there is such an event is known without the row. */
function stateBefore<State extends string>(machine: Machine<State>, event: string): string {
  return machine.edges.find((edge) => edge.event === event)?.from ?? machine.initial[0] ?? '';
}
