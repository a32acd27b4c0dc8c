import { AppError } from '../../errors.ts';
import { assertTopic } from '../topics.ts';
import type { Condition, Values } from './condition.ts';
import type { FoundTable } from './table.ts';

/** What of a table is announced, and how. */
export interface Announcement {
  readonly name: string;
  readonly condition: Condition;
  readonly topic: string;
  /** The columns that the payload has, by their names. */
  readonly payload: readonly string[];
  /** The column, a uuid, that says whose the message is. */
  readonly organizationColumn?: string | undefined;
  /** The column by whose value messages are kept in order. */
  readonly orderingKeyColumn?: string | undefined;
  /** Whether the payload has what the condition's column was, and what it became. */
  readonly withChange?: boolean | undefined;
}

const MAX_NAME_LENGTH = 200;
const MAX_PAYLOAD_COLUMNS = 50;
const MAX_VALUES_BYTES = 1_000;
const RESERVED_KEYS = ['_change', '_left_out'];

/**
 * What does not depend on the table; the database holds the same.
 * @throws AppError OUTBOX_ATTACHMENT_INVALID, OUTBOX_TOPIC_INVALID
 */
export function assertAnnouncement(announcement: Announcement): void {
  assertTopic(announcement.topic);
  const fault = faultOf(announcement);
  if (fault !== undefined) throw new AppError('OUTBOX_ATTACHMENT_INVALID', fault);
}

function faultOf({ name, condition, payload, withChange }: Announcement): string | undefined {
  if (name.length === 0 || name.length > MAX_NAME_LENGTH || /\p{Cc}/u.test(name)) {
    return `An attachment's name has 1 to ${MAX_NAME_LENGTH} characters, none of them control characters.`;
  }
  if (payload.length === 0 || payload.length > MAX_PAYLOAD_COLUMNS) {
    return `A payload has 1 to ${MAX_PAYLOAD_COLUMNS} columns, not ${payload.length}.`;
  }
  const reserved = payload.find((column) => RESERVED_KEYS.includes(column));
  if (reserved !== undefined)
    return `${reserved} is no column for a payload: under that key it says something of itself.`;
  const bytes = bytesOfValues(condition);
  if (bytes > MAX_VALUES_BYTES)
    return `The values of a condition have at most ${MAX_VALUES_BYTES} bytes together, not ${bytes}.`;
  if (withChange && !('column' in condition)) return `Of ${condition.kind} there is no change of a column to tell.`;
  return undefined;
}

/** A row of outbox.attachments, as JSON. */
export function definitionOf(table: FoundTable, announcement: Announcement): string {
  const { name, condition, topic, payload, organizationColumn, orderingKeyColumn, withChange = false } = announcement;
  return JSON.stringify({
    name,
    relation: table.oid,
    kind: condition.kind,
    column_name: 'column' in condition ? condition.column : null,
    from_values: 'from' in condition ? inOrder(condition.from) : null,
    to_values: 'to' in condition ? inOrder(condition.to) : null,
    topic,
    payload_columns: payload,
    organization_column: organizationColumn ?? null,
    ordering_key_column: orderingKeyColumn ?? null,
    with_change: withChange,
  });
}

// Written in another order, it is the same condition.
function inOrder(values: Values): Values {
  return values && [...new Set(values)].sort();
}

function bytesOfValues(condition: Condition): number {
  const bytes = (values: Values) => Buffer.byteLength((values ?? []).map((value) => value ?? '').join(','));
  return ('from' in condition ? bytes(condition.from) : 0) + ('to' in condition ? bytes(condition.to) : 0);
}
