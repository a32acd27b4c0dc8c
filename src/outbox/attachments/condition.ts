import { AppError } from '../../errors.ts';

/**
 * When a row is announced, as it is written on the command line:
 *
 *     insert                    every new row
 *     delete                    every row that goes
 *     status: pending -> paid   the column goes from one value to another
 *     status: draft|sent -> won from any of several; null is SQL's, 'null' the word
 *     status: * -> paid         from whatever else it was; * on the right: to whatever else
 *     status: -> paid           the same, and new rows that have it
 *
 * A name or a value that holds one of `: | , * -> " '` or a space is quoted: names "so", values 'so', the quote doubled inside.
 */
export type Condition =
  | { readonly kind: 'insert' | 'delete' }
  | { readonly kind: 'change'; readonly column: string; readonly from: Values; readonly to: Values }
  | { readonly kind: 'becomes'; readonly column: string; readonly to: Values };

/** Any of these, null being SQL's; as a whole null: whatever. */
export type Values = readonly (string | null)[] | null;

const EXAMPLES =
  'Write it as "status: pending -> paid", "status: draft|sent -> won", "status: * -> paid" (from whatever), "status: -> paid" (new rows too), insert or delete.';

/** @throws AppError OUTBOX_ATTACHMENT_INVALID */
export function parseCondition(text: string): Condition {
  const word = text.trim().toLowerCase();
  if (word === 'insert' || word === 'delete') return { kind: word };
  const refuse = (why: string) =>
    refused(`The condition ${JSON.stringify(text.slice(0, MAX_SHOWN))} ${why}. ${EXAMPLES}`);
  const [name, change, ...afterColon] = split(text, ':');
  if (name === undefined || change === undefined || afterColon.length > 0) throw refuse('is not one');
  const column = nameOf(name);
  if (column === undefined) throw refuse('names no column');
  const [left, right, ...afterArrow] = split(change, '->');
  if (left === undefined || right === undefined || afterArrow.length > 0)
    throw refuse('has no change, one value -> another');
  const to = valuesOf(right);
  const from = left.trim() === '' ? undefined : valuesOf(left);
  if (to === 'unreadable' || from === 'unreadable')
    throw refuse("has a value that cannot be read: quote it, as 'this'");
  return from === undefined ? { kind: 'becomes', column, to } : { kind: 'change', column, from, to };
}

/** As it would be written: what `parseCondition` reads as the same. */
export function conditionText(condition: Condition): string {
  if (!('column' in condition)) return condition.kind;
  const from = condition.kind === 'change' ? `${valuesText(condition.from)} ` : '';
  return `${nameText(condition.column)}: ${from}-> ${valuesText(condition.to)}`;
}

/**
 * The columns of a list such as `id,total_cents,"we,ird"`: as they are, not folded to lowercase.
 * @throws AppError OUTBOX_ATTACHMENT_INVALID
 */
export function parseColumns(text: string): readonly string[] {
  return split(text, ',').map((part) => parseColumn(part));
}

/** @throws AppError OUTBOX_ATTACHMENT_INVALID */
export function parseColumn(text: string): string {
  const name = nameOf(text);
  if (name !== undefined) return name;
  throw refused(
    `${JSON.stringify(text.slice(0, MAX_SHOWN))} names no column. Separate columns by commas, and quote a name such as "we,ird".`,
  );
}

const MAX_SHOWN = 100;
const SPECIAL = /[:|,*"'\s]|->/;

function refused(message: string): AppError {
  return new AppError('OUTBOX_ATTACHMENT_INVALID', message);
}

/** What stands between separators that are not quoted. */
function split(text: string, separator: string): string[] {
  const parts = [''];
  // A quote that is not closed is taken as it stands, and refused by whoever reads the part.
  for (const token of text.match(/"(?:[^"]|"")*"|'(?:[^']|'')*'|->|./gsu) ?? []) {
    if (token === separator) parts.push('');
    else parts[parts.length - 1] += token;
  }
  return parts;
}

function nameOf(text: string): string | undefined {
  return unquoted(text.trim(), '"');
}

function valuesOf(text: string): Values | 'unreadable' {
  if (text.trim() === '*') return null;
  const values = split(text, '|').map((part) => {
    const value = part.trim();
    return value.toLowerCase() === 'null' ? null : unquoted(value, "'");
  });
  return values.includes(undefined) ? 'unreadable' : (values as (string | null)[]);
}

/** A quoted text without its quotes, or a bare one that needs none; undefined for any other. */
function unquoted(text: string, quote: '"' | "'"): string | undefined {
  const inner = text.length > 1 && text.startsWith(quote) && text.endsWith(quote) ? text.slice(1, -1) : undefined;
  if (inner === undefined) return text === '' || SPECIAL.test(text) ? undefined : text;
  const isWhole = !inner.replaceAll(quote + quote, '').includes(quote);
  return isWhole && !(quote === '"' && inner === '') ? inner.replaceAll(quote + quote, quote) : undefined;
}

function valuesText(values: Values): string {
  return values === null ? '*' : values.map((value) => (value === null ? 'null' : valueText(value))).join('|');
}

function valueText(value: string): string {
  return value === '' || value.toLowerCase() === 'null' || SPECIAL.test(value) ? quotedBy(value, "'") : value;
}

function nameText(name: string): string {
  return SPECIAL.test(name) ? quotedBy(name, '"') : name;
}

function quotedBy(text: string, quote: string): string {
  return `${quote}${text.replaceAll(quote, quote + quote)}${quote}`;
}
