import { hash } from 'node:crypto';
import type { TextRow } from '../../db/cursor.ts';
import { membersOf } from './json-text.ts';
import { microsecondsOf } from './microseconds.ts';

/** One event of the log, every column as PostgreSQL prints it. */
export interface LoggedEvent {
  readonly position: bigint;
  readonly bookId: number;
  readonly eventId: string;
  readonly type: string;
  readonly effectiveAt: string;
  readonly recordedAt: string;
  readonly createdBy: string;
  readonly idempotencyScope: string | null;
  readonly idempotencyKey: string | null;
  readonly requestHash: string | null;
  readonly payload: string;
  readonly leafHash: string;
  /** What the payload says, by key: each value as its text. */
  readonly said: ReadonlyMap<string, string>;
}

export const EVENT_COLUMNS = `position, book_id, event_id, type, effective_at, recorded_at, created_by, idempotency_scope,
  idempotency_key, request_hash, payload, leaf_hash`;

export function eventOf(row: TextRow): LoggedEvent {
  const payload = row[10] ?? '';
  return {
    position: BigInt(row[0] ?? 0),
    bookId: Number(row[1]),
    eventId: row[2] ?? '',
    type: row[3] ?? '',
    effectiveAt: row[4] ?? '',
    recordedAt: row[5] ?? '',
    createdBy: row[6] ?? '',
    idempotencyScope: row[7] ?? null,
    idempotencyKey: row[8] ?? null,
    requestHash: row[9] ?? null,
    payload,
    leafHash: row[11] ?? '',
    said: membersOf(payload),
  };
}

export const labelOf = (event: LoggedEvent): string => `event ${event.position} (${event.type} ${event.eventId})`;

let bytes = Buffer.alloc(4_096);

/** The leaf hash of an event in hexadecimal, over the byte layout of docs/proofs.md. */
export function leafHashOf(event: LoggedEvent): string {
  const texts = [event.type, event.createdBy, event.idempotencyScope, event.idempotencyKey];
  const most = texts.reduce((sum, text) => sum + (text?.length ?? 0), event.payload.length) * 3 + 200;
  if (bytes.length < most) bytes = Buffer.alloc(most * 2);
  bytes[0] = 0;
  bytes.writeInt32BE(event.bookId, 1);
  bytes.writeBigInt64BE(event.position, 5);
  bytes.write(event.eventId.replaceAll('-', ''), 13, 'hex');
  bytes.writeBigInt64BE(microsecondsOf(event.effectiveAt) ?? 0n, 29);
  bytes.writeBigInt64BE(microsecondsOf(event.recordedAt) ?? 0n, 37);
  let end = 45;
  for (const text of texts) end = writeSized(text, end, 'utf8');
  end = writeSized(event.requestHash === null ? null : event.requestHash.slice(2), end, 'hex');
  end += bytes.write(event.payload, end, 'utf8');
  return hash('sha256', bytes.subarray(0, end), 'hex');
}

/** A text after its length in bytes, or the length -1 for none; where it ends. */
function writeSized(text: string | null, at: number, encoding: 'utf8' | 'hex'): number {
  const length = text === null ? -1 : bytes.write(text, at + 4, encoding);
  bytes.writeInt32BE(length, at);
  return at + 4 + Math.max(length, 0);
}
