import { randomUUID } from 'node:crypto';
import { findNonJson, holdsUnstorable, isStorableText, MAX_JSON_DEPTH, type NonJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { type Headers, headerFault, MAX_HEADERS } from './headers.ts';
import { assertTopic } from './topics.ts';

/** What is to be announced. */
export interface NewMessage {
  /** Lowercase words joined by dots, such as `ticket.purchased`. */
  readonly topic: string;
  /**
   * An object of what JSON has. A field of undefined is left out; a Date becomes its ISO text, as whatever has a toJSON becomes what
   * that says. A bigint, NaN, a Map and the like are refused: what JSON.stringify would make of them is not what they were.
   */
  readonly payload: object;
  /** At an ordered endpoint, messages of one key are delivered one after the other. */
  readonly orderingKey?: string | undefined;
  /** Whom it is about: an endpoint of an organization receives its messages alone. */
  readonly organizationId?: string | undefined;
  /** Sent with it, beside ours. */
  readonly headers?: Headers | undefined;
  /** Not before then; one of the past is at once. */
  readonly deliverAfter?: Date | undefined;
}

/** A message as the statement takes it. */
export interface MessageRow {
  readonly id: string;
  readonly topic: string;
  readonly payloadJson: string;
  readonly orderingKey: string | null;
  readonly organizationId: string | null;
  readonly headersJson: string | null;
  readonly deliverAfter: string | null;
}

/** As the database has it; PostgreSQL's text of a payload is never shorter than ours. */
const MAX_PAYLOAD_BYTES = 1_048_576;
const MAX_ORDERING_KEY_CHARACTERS = 255;
const MAX_SHOWN = 200;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** Of a year that PostgreSQL reads in this form. */
const STORABLE_INSTANT = /^(?!0000)\d{4}-/;
const FIELDS: ReadonlySet<string> = new Set([
  'topic',
  'payload',
  'orderingKey',
  'organizationId',
  'headers',
  'deliverAfter',
] satisfies (keyof NewMessage)[]);

/**
 * Judges all that the database would refuse, or silently keep as something else. Repeats nothing of a payload's or a header's values,
 * which may be personal.
 * @throws AppError OUTBOX_MESSAGE_INVALID, OUTBOX_TOPIC_INVALID
 */
export function acceptedMessage(message: NewMessage): MessageRow {
  if (typeof message !== 'object' || message === null)
    throw invalid('A message is an object with a topic and a payload.');
  const unknown = Object.keys(message).find((field) => !FIELDS.has(field));
  if (unknown !== undefined) throw invalid(`A message has no field ${JSON.stringify(unknown.slice(0, MAX_SHOWN))}.`);
  const { topic, payload, orderingKey, organizationId, headers, deliverAfter } = message;
  assertTopic(topic);
  return {
    id: randomUUID(),
    topic,
    payloadJson: payloadText(payload),
    orderingKey: orderingKey === undefined ? null : acceptedKey(orderingKey),
    organizationId: organizationId === undefined ? null : acceptedOrganization(organizationId),
    headersJson: headers === undefined ? null : JSON.stringify(acceptedHeaders(headers)),
    deliverAfter: deliverAfter === undefined ? null : instantText(deliverAfter),
  };
}

function payloadText(payload: unknown): string {
  const found = findNonJson(payload);
  if (found !== undefined) throw invalid(`The payload ${nonJsonText(found)}`);
  const json = JSON.stringify(payload);
  if (!json.startsWith('{')) throw invalid('The payload is an object, not an array, a text, a number or null.');
  const bytes = Buffer.byteLength(json);
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw invalid(
      `The payload has ${bytes} bytes, more than ${MAX_PAYLOAD_BYTES} (1 MiB): keep documents elsewhere and refer to them.`,
    );
  }
  if (holdsUnstorable(json)) {
    throw invalid(
      'The payload holds what JSON in PostgreSQL cannot: U+0000 or half a surrogate pair, in a text or a key.',
    );
  }
  return json;
}

function nonJsonText({ why, path, value }: NonJson): string {
  const at = path.length === 0 ? '' : ` at ${JSON.stringify(`/${path.join('/')}`.slice(0, MAX_SHOWN))}`;
  switch (why) {
    case 'no_json':
      return `is not JSON${at}: ${kindOf(value)}. ${typeof value === 'bigint' ? 'Give it as text.' : 'Give what JSON has.'}`;
    case 'too_deep':
      return `is nested more than ${MAX_JSON_DEPTH} deep, or holds itself.`;
    case 'not_plain':
      return `is not JSON${at}: an instance of a class, of which JSON would keep nothing or not all. Give a plain object or an array.`;
    case 'to_json_fails':
      return `is not JSON${at}: an object whose toJSON fails.`;
  }
}

function kindOf(value: unknown): string {
  if (typeof value === 'number') return String(value);
  return value instanceof Date ? 'an invalid Date' : `a value of type ${typeof value}`;
}

function acceptedKey(key: unknown): string {
  // By code points, as the database counts; halves of pairs are refused by what follows.
  const isOfSize =
    typeof key === 'string' &&
    key !== '' &&
    [...key.slice(0, 2 * MAX_ORDERING_KEY_CHARACTERS + 1)].length <= MAX_ORDERING_KEY_CHARACTERS;
  if (isOfSize && isStorableText(key)) return key;
  throw invalid(
    `The ordering key is a text of 1 to ${MAX_ORDERING_KEY_CHARACTERS} characters without U+0000 and halves of surrogate pairs.`,
  );
}

function acceptedOrganization(id: unknown): string {
  if (typeof id === 'string' && UUID.test(id)) return id;
  throw invalid('The organization of a message is named by its id, a UUID.');
}

function acceptedHeaders(headers: unknown): Headers {
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) {
    throw invalid('The headers of a message are an object of texts.');
  }
  const accepted = new Map<string, string>();
  for (const [given, value] of Object.entries(headers)) {
    const name = given.toLowerCase();
    const fault = accepted.has(name) ? 'is given twice' : headerFault(name, value);
    if (fault !== undefined) throw invalid(`Header ${JSON.stringify(name.slice(0, MAX_SHOWN))} ${fault}.`);
    accepted.set(name, value);
  }
  if (accepted.size > MAX_HEADERS) throw invalid(`A message has at most ${MAX_HEADERS} headers, not ${accepted.size}.`);
  return Object.fromEntries(accepted);
}

function instantText(instant: unknown): string {
  const isInstant = instant instanceof Date && !Number.isNaN(instant.getTime());
  const text = isInstant ? instant.toISOString() : '';
  if (STORABLE_INSTANT.test(text)) return text;
  throw invalid('deliverAfter is a valid Date of the years 1 to 9999.');
}

export function invalid(message: string): AppError {
  return new AppError('OUTBOX_MESSAGE_INVALID', `${message} Nothing was announced.`);
}
