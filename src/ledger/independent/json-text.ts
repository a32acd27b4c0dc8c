/**
 * Reads the text that PostgreSQL prints of a jsonb value, and keeps every value in it as its text: a number loses no digit,
 * whatever its size, and a value that was copied elsewhere can be compared as it stands. `JSON.parse` hands out the text of a
 * number only from Node 22 on. Nothing here recurses: how deep a value is nested is up to whoever wrote it.
 *
 * The text is jsonb's own, so that it is well formed, has one space after each colon and comma and no other, and names a key once.
 */

const [QUOTE, COMMA, BACKSLASH] = [0x22, 0x2c, 0x5c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/** The members of an object, each as the text of its value; none where it is no object. */
export function membersOf(json: string | undefined): ReadonlyMap<string, string> {
  if (json?.charCodeAt(0) !== OPEN_OBJECT || json.length === 2) return NONE;
  const members = new Map<string, string>();
  for (let at = 1; at < json.length; ) {
    const keyEnd = endOfString(json, at);
    const valueEnd = endOfValue(json, keyEnd + 2);
    members.set(stringOf(json.slice(at, keyEnd)), json.slice(keyEnd + 2, valueEnd));
    at = valueEnd + 2;
  }
  return members;
}

const NONE: ReadonlyMap<string, string> = new Map();

/** The elements of a list, each as its text; undefined where it is no list. */
export function elementsOf(json: string | undefined): string[] | undefined {
  if (json?.charCodeAt(0) !== OPEN_LIST) return undefined;
  const elements: string[] = [];
  if (json.length === 2) return elements;
  for (let at = 1; at < json.length; ) {
    const end = endOfValue(json, at);
    elements.push(json.slice(at, end));
    at = end + 2;
  }
  return elements;
}

/** What a value says: a string without its quotes, null where it is null or absent, everything else as it is written. */
export function textOf(json: string | undefined): string | null {
  if (json === undefined || json === 'null') return null;
  return json.charCodeAt(0) === QUOTE ? stringOf(json) : json;
}

function stringOf(json: string): string {
  return json.includes('\\') ? (JSON.parse(json) as string) : json.slice(1, -1);
}

function endOfString(json: string, start: number): number {
  for (let quote = start; ; ) {
    quote = json.indexOf('"', quote + 1);
    let backslashes = 0;
    while (json.charCodeAt(quote - 1 - backslashes) === BACKSLASH) backslashes += 1;
    if (backslashes % 2 === 0) return quote + 1;
  }
}

function endOfValue(json: string, start: number): number {
  const first = json.charCodeAt(start);
  if (first === QUOTE) return endOfString(json, start);
  const isNested = first === OPEN_OBJECT || first === OPEN_LIST;
  let depth = 0;
  for (let at = start; ; at += 1) {
    const character = json.charCodeAt(at);
    if (character === QUOTE) at = endOfString(json, at) - 1;
    else if (character === OPEN_OBJECT || character === OPEN_LIST) depth += 1;
    else if (character === CLOSE_OBJECT || character === CLOSE_LIST) {
      if (depth === 0) return at;
      depth -= 1;
      if (depth === 0 && isNested) return at + 1;
    } else if (depth === 0 && character === COMMA) return at;
    if (at >= json.length) return at;
  }
}
