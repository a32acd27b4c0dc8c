import { findNonJson, holdsUnstorable, isStorableText, MAX_JSON_DEPTH, type NonJson } from '../db/json-value.ts';
import { AppError, type ErrorCode } from '../errors.ts';

// Types are gone at run time: what a caller without them gives is refused here, where the database would not see that it is
// wrong, or would refuse it in words and with a code of its own.

const MAX_SHOWN = 100;
/** As payments.request_fault has it. */
const MAX_REQUEST_BYTES = 1_048_576;
/** Safely below what an array of jsonb (2^28 bytes, and a character may have three) and a string of JavaScript (2^29) can hold. */
const MAX_CALL_CHARACTERS = 50_000_000;
const LARGEST_INTEGER = 2_147_483_647;
const LARGEST_BIGINT = 9_223_372_036_854_775_807n;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export const isUuid = (text: string): boolean => UUID.test(text);

export function invalid(message: string, code: ErrorCode = 'LEDGER_INVALID'): AppError {
  return new AppError(code, message);
}

/** A value as a message shows it: on one line, and not all of a long one. */
export function shown(value: unknown): string {
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  if (typeof value === 'object' && value !== null) {
    if (value instanceof Date) return String(value);
    return Array.isArray(value) ? 'an array' : 'an object';
  }
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, MAX_SHOWN + 1)) : String(value);
  const isLong = text.length > MAX_SHOWN + 2;
  return `${isLong ? text.slice(0, MAX_SHOWN) : text}${isLong ? '…' : ''}${typeof value === 'bigint' ? 'n' : ''}`;
}

/**
 * Refuses what is no object (a default stands in for undefined, not for null), and a misspelt field, which would be dropped in
 * silence. What the fields hold is not looked at.
 * @param fields all there are; left out where others do no harm
 * @throws AppError LEDGER_INVALID
 */
export function assertObject(what: string, value: unknown, fields?: ReadonlySet<string>): asserts value is object {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`${what} is an object, not ${shown(value)}.`);
  }
  if (fields === undefined) return;
  for (const field of Object.keys(value)) {
    if (!fields.has(field)) throw invalid(`${what} has no field ${shown(field)}: there are ${[...fields].join(', ')}.`);
  }
}

/** As `assertObject`, of the options of a call. @throws AppError LEDGER_INVALID */
export function assertOptions(options: unknown, ...fields: readonly string[]): void {
  assertObject('options', options, new Set(fields));
}

/**
 * As `assertObject`; refuses also a value that JSON would drop, or make null or text of. Amounts (`…Cents`) and instants (`…At`)
 * are left to `assertCents`, `assertLimit` and `isoOf`.
 * @throws AppError LEDGER_INVALID
 */
export function assertFields(what: string, value: unknown, fields: ReadonlySet<string>): void {
  assertObject(what, value, fields);
  for (const [field, given] of Object.entries(value)) {
    if (!HAS_TYPE_OF_ITS_OWN.test(field) && (!OF_JSON.has(typeof given) || given instanceof Date)) {
      throw invalid(`${what}: ${field} cannot be ${shown(given)}.`);
    }
  }
}

const HAS_TYPE_OF_ITS_OWN = /(?:Cents|At)$/;
/** Of what is text, or a mark, or an object: numbers have no place in a request but in metadata. */
const OF_JSON: ReadonlySet<string> = new Set(['undefined', 'string', 'boolean', 'object']);

/** @throws AppError LEDGER_INVALID */
export function assertArray(what: string, value: unknown): void {
  if (!Array.isArray(value)) throw invalid(`${what} are given as an array, not as ${shown(value)}.`);
}

/**
 * Money is a bigint: a number may have been rounded before it came here.
 * @throws AppError LEDGER_AMOUNT_INVALID
 */
export function assertCents(what: string, value: unknown): void {
  if (typeof value === 'bigint') return;
  throw invalid(`${what} ${shown(value)} is no bigint: give whole minor units, such as 250n.`, 'LEDGER_AMOUNT_INVALID');
}

/** A limit, which may be left out, or null where there is none. @throws AppError LEDGER_INVALID */
export function assertLimit(what: string, value: unknown): void {
  if (value === undefined || value === null || typeof value === 'bigint') return;
  throw invalid(`${what} ${shown(value)} is neither a bigint of minor units nor null.`);
}

/** @throws AppError LEDGER_BOOK_UNKNOWN */
export function assertBookId(bookId: unknown): void {
  if (isWhole(bookId, 1, LARGEST_INTEGER)) return;
  throw invalid(`Book ${shown(bookId)} does not exist: books have whole numbers from 1.`, 'LEDGER_BOOK_UNKNOWN');
}

/** An id that may be of something; where it can be of nothing, `code` says that there is no such thing. */
export function assertId(what: string, id: unknown, code: ErrorCode): void {
  if (typeof id === 'string' && isUuid(id)) return;
  throw invalid(`${what} ${shown(id)} does not exist: its id is no UUID.`, code);
}

/** @throws AppError LEDGER_INVALID */
export function assertWhole(what: string, value: unknown, from: number, to: number): void {
  if (!isWhole(value, from, to)) throw invalid(`${what} is a whole number from ${from} to ${to}, not ${shown(value)}.`);
}

/** A position of the log. @throws AppError LEDGER_INVALID */
export function assertPosition(value: unknown): void {
  if (typeof value === 'bigint' && value >= 0n && value <= LARGEST_BIGINT) return;
  throw invalid(`A position of the log is a bigint from 0n to ${LARGEST_BIGINT}n, not ${shown(value)}.`);
}

/** Text that PostgreSQL keeps as it is. @throws AppError LEDGER_INVALID */
export function assertText(what: string, value: unknown): void {
  if (typeof value !== 'string') throw invalid(`${what} is text, not ${shown(value)}.`);
  if (isStorableText(value)) return;
  throw invalid(`${what} ${shown(value)} holds what PostgreSQL cannot keep: U+0000 or half a surrogate pair.`);
}

/** An instant as the database reads it. @throws AppError LEDGER_INVALID */
export function isoOf(what: string, date: unknown): string | undefined {
  if (date === undefined || date === null) return undefined;
  if (date instanceof Date && !Number.isNaN(date.getTime())) return date.toISOString();
  throw invalid(`${what} ${shown(date)} is no valid Date.`);
}

/**
 * The text of a request, as it reaches the database.
 * @param what it is, such as `The transaction`
 * @throws AppError LEDGER_INVALID for what JSON, or JSON in PostgreSQL, cannot hold; for more than the database takes, too
 */
export function jsonText(what: string, body: Record<string, unknown>): string {
  assertMetadata(body['metadata']);
  let text: string;
  try {
    text = JSON.stringify(body);
  } catch (error) {
    // A string of JavaScript ends at half a billion characters.
    throw error instanceof RangeError ? tooLarge(what, 'too many') : invalid(UNSTORABLE);
  }
  // PostgreSQL's own text of it is never shorter: it has blanks between.
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_REQUEST_BYTES) throw tooLarge(what, bytes);
  if (holdsUnstorable(text)) throw invalid(UNSTORABLE);
  return text;
}

function tooLarge(what: string, bytes: number | string): AppError {
  return invalid(
    `${what} has ${bytes} bytes, more than ${MAX_REQUEST_BYTES} (1 MiB): keep documents elsewhere and refer to them.`,
  );
}

/**
 * The items of one call as text, with commas between.
 * @throws AppError LEDGER_INVALID where they are more than one call takes; no further one is looked at then
 */
export function joinTexts<T>(items: readonly T[], textOf: (item: T, nth: number) => string): string {
  const texts: string[] = [];
  let characters = 0;
  for (const [nth, item] of items.entries()) {
    const text = textOf(item, nth);
    texts.push(text);
    characters += text.length;
    if (characters > MAX_CALL_CHARACTERS) {
      throw invalid(`A call has at most ${MAX_CALL_CHARACTERS} characters of JSON: send them in several calls.`);
    }
  }
  return texts.join(',');
}

const UNSTORABLE =
  'The request holds what JSON in PostgreSQL cannot: U+0000, half a surrogate pair, or a bigint where no amount is.';

/**
 * Refuses what JSON.stringify would turn into null, or a Map into {}, in silence, and what is nested without end.
 * @throws AppError LEDGER_INVALID
 */
export function assertMetadata(metadata: unknown): void {
  const found = metadata === undefined ? undefined : findNonJson(metadata);
  if (found !== undefined) throw invalid(`metadata ${nonJsonText(found)}`);
}

function nonJsonText({ why, value }: NonJson): string {
  switch (why) {
    case 'no_json':
      return `holds ${shown(value)}, which JSON does not have.`;
    case 'too_deep':
      return `is nested more than ${MAX_JSON_DEPTH} deep, or holds itself.`;
    case 'not_plain':
      return `holds ${nameOf(value as object)}, of which JSON would keep nothing or not all: give a plain object or an array.`;
    case 'to_json_fails':
      return 'holds an object whose toJSON fails.';
  }
}

function nameOf(value: object): string {
  const name: unknown = value.constructor?.name;
  return typeof name === 'string' && name !== '' ? `an instance of ${shown(name)}` : 'an instance of a class';
}

function isWhole(value: unknown, from: number, to: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= from && value <= to;
}
