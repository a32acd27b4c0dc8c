import type { Queryable } from '../db/pool.ts';
import { isRefusedValue, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { checksFor } from './known-schemas.ts';
import { acceptedMessage, invalid, type MessageRow, type NewMessage } from './new-message.ts';
import { JUDGED_WITHIN_MS, type Misfit } from './payload-schema.ts';
import { eachWithinTime } from './time-limit.ts';

export type { NewMessage } from './new-message.ts';

/** In one call; it is one statement. */
const MAX_MESSAGES = 10_000;
/** Of all payloads of a call: a parameter of the statement holds them, quoted once more. */
const MAX_CALL_CHARACTERS = 50_000_000;

/**
 * Announces what the caller's open transaction does: announced, or the change did not happen. The message is a row of that transaction,
 * so a commit delivers it to every endpoint that subscribes, and a rollback takes it back.
 *
 * Where the topic has a schema, the payload must fit it. A role that may not read outbox.topics announces unjudged; then, and for what
 * SQL announces, the worker judges before it sends, and keeps what does not fit as a dead letter. A connection learns of a change of
 * schemas within 5 s, and asks once more before it refuses.
 * @param tx a client of pg between BEGIN and COMMIT. A pool is refused, and a client whose transaction has not begun: the change
 *   would be kept without its announcement, or the other way round
 * @returns the id of the message; receivers see it in `webhook-id`, after `msg_`
 * @throws AppError before anything is written: OUTBOX_MESSAGE_INVALID, OUTBOX_TOPIC_INVALID, OUTBOX_PAYLOAD_INVALID,
 *   OUTBOX_TRANSACTION_NEEDED; DB_*, which leave the transaction to be rolled back
 */
export async function announce(tx: Queryable, message: NewMessage): Promise<string> {
  const [id] = await announceAll(tx, [message]);
  if (id === undefined) throw new AppError('INTERNAL', 'A message was announced without an id.');
  return id;
}

/**
 * As `announce`, many in one statement, in their order: all of them or none.
 * @returns their ids, in order
 * @throws AppError as `announce`; OUTBOX_MESSAGE_INVALID for more than 10,000 messages or 50 million characters too
 */
export async function announceAll(tx: Queryable, messages: readonly NewMessage[]): Promise<string[]> {
  assertInTransaction(tx);
  const rows = acceptedMessages(messages);
  if (rows.length === 0) return [];
  try {
    await assertFit(tx, rows);
    await tx.query(INSERT, [
      rows.map(({ id }) => id),
      rows.map(({ topic }) => topic),
      rows.map(({ payloadJson }) => payloadJson),
      rows.map(({ orderingKey }) => orderingKey),
      rows.map(({ organizationId }) => organizationId),
      rows.map(({ headersJson }) => headersJson),
      rows.map(({ deliverAfter }) => deliverAfter),
    ]);
  } catch (error) {
    throw isRefusedValue(error) ? refusedByDatabase(error) : toAppError(error);
  }
  return rows.map(({ id }) => id);
}

// No RETURNING, which asks for the right to read what one may write.
const INSERT = `
  insert into public.outbox (id, topic, payload, ordering_key, organization_id, headers, deliver_after)
  select id, topic, payload::jsonb, ordering_key, organization_id, headers::jsonb, deliver_after
  from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::timestamptz[])
    with ordinality as given (id, topic, payload, ordering_key, organization_id, headers, deliver_after, ordinal)
  order by ordinal`;

/** What a pool has and a client has not, and what a client of pg tells of itself; another one tells nothing. */
interface Tells {
  readonly totalCount?: unknown;
  readonly getTransactionStatus?: () => unknown;
}

function assertInTransaction(tx: Queryable & Tells): void {
  const isOutside = tx.totalCount !== undefined || tx.getTransactionStatus?.() === 'I';
  if (!isOutside) return;
  throw new AppError(
    'OUTBOX_TRANSACTION_NEEDED',
    'A message is announced in the transaction of the change that it tells of. Give the client on which BEGIN was run, not a pool. Nothing was announced.',
  );
}

function acceptedMessages(messages: readonly NewMessage[]): readonly MessageRow[] {
  if (!Array.isArray(messages)) throw invalid('Messages are given as an array.');
  if (messages.length > MAX_MESSAGES) {
    throw invalid(
      `A call announces at most ${MAX_MESSAGES} messages, not ${messages.length}: announce them in several.`,
    );
  }
  let characters = 0;
  return messages.map((message) => {
    const row = acceptedMessage(message);
    characters += row.payloadJson.length;
    if (characters <= MAX_CALL_CHARACTERS) return row;
    throw invalid(`The payloads of a call have at most ${MAX_CALL_CHARACTERS} characters: announce them in several.`);
  });
}

async function assertFit(tx: Queryable, rows: readonly MessageRow[]): Promise<void> {
  if ((await findMisfit(tx, rows)) === undefined) return;
  // The schema may have been put right since this connection asked for it.
  const misfit = await findMisfit(tx, rows, { anew: true });
  if (misfit !== undefined) throw payloadInvalid(misfit);
}

async function findMisfit(
  tx: Queryable,
  rows: readonly MessageRow[],
  options: { anew?: boolean } = {},
): Promise<(Misfit & { topic: string }) | undefined> {
  const topics = [...new Set(rows.map(({ topic }) => topic))];
  const checks = await checksFor(tx, topics, options);
  const judged = await eachWithinTime(
    JUDGED_WITHIN_MS,
    rows.flatMap(({ topic, payloadJson }) => {
      const check = checks.get(topic);
      if (check === undefined) return [];
      // As it is stored: without what is undefined, and with what a toJSON says.
      const does = () => ({ topic, misfit: check(JSON.parse(payloadJson)) });
      return [{ isQuick: check.isQuick, does }];
    }),
  );
  const first = judged.find(({ misfit }) => misfit !== undefined);
  return first?.misfit && { topic: first.topic, ...first.misfit };
}

function payloadInvalid({ topic, path, expected }: Misfit & { topic: string }): AppError {
  return new AppError(
    'OUTBOX_PAYLOAD_INVALID',
    `A payload of ${topic} does not fit the topic's schema: ${path === '' ? 'it' : path} ${expected}. Nothing was announced: correct it, or the schema (liventix outbox topic add).`,
    { details: { topic, path, expected } },
  );
}

// Without its cause, whose detail is the row.
function refusedByDatabase(error: unknown): AppError {
  return invalid(`The database refuses the message: ${toAppError(error).message}`);
}
