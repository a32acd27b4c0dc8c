/** Of a value nested deeper PostgreSQL may make nothing. */
export const MAX_JSON_DEPTH = 1_000;

/** What of a value JSON does not have, and where: the keys on the way to it. */
export interface NonJson {
  readonly path: readonly (string | number)[];
  readonly why: 'no_json' | 'too_deep' | 'not_plain' | 'to_json_fails';
  readonly value: unknown;
}

/**
 * The first part of a value that JSON.stringify would turn into null, or a Map into {}, in silence, or that is nested without end;
 * undefined: there is none. A field of undefined is one that is left out, and what has a toJSON is what that says.
 */
export function findNonJson(value: unknown, depth = 0): NonJson | undefined {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return undefined;
  if (typeof value === 'number' && Number.isFinite(value)) return undefined;
  if (typeof value !== 'object' || (value instanceof Date && Number.isNaN(value.getTime()))) {
    return { path: [], why: 'no_json', value };
  }
  if (depth >= MAX_JSON_DEPTH) return { path: [], why: 'too_deep', value };
  if (hasToJson(value)) return findInSaid(value, depth);
  if (Array.isArray(value)) return findInParts(value.entries(), depth);
  if (!isPlain(value)) return { path: [], why: 'not_plain', value };
  return findInParts(
    Object.entries(value).filter(([, field]) => field !== undefined),
    depth,
  );
}

function findInParts(parts: Iterable<[string | number, unknown]>, depth: number): NonJson | undefined {
  for (const [key, part] of parts) {
    const found = findNonJson(part, depth + 1);
    if (found !== undefined) return { ...found, path: [key, ...found.path] };
  }
  return undefined;
}

interface HasToJson {
  toJSON(): unknown;
}

function hasToJson(value: object): value is HasToJson {
  return 'toJSON' in value && typeof value.toJSON === 'function';
}

function findInSaid(value: HasToJson, depth: number): NonJson | undefined {
  let said: unknown;
  try {
    said = value.toJSON();
  } catch {
    return { path: [], why: 'to_json_fails', value };
  }
  return findNonJson(said, depth + 1);
}

/** Whether it was written as `{…}`, in whatever realm, or has no prototype. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** As JSON.stringify writes them; after an even number of backslashes, or the backslash is text itself. */
const UNSTORABLE_ESCAPES = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/;

/** Whether text of JSON.stringify holds what jsonb cannot: U+0000 or half a surrogate pair, in a value or a key. */
export function holdsUnstorable(json: string): boolean {
  return UNSTORABLE_ESCAPES.test(json);
}

/** Whether PostgreSQL keeps text as it is: without U+0000 and halves of surrogate pairs. */
export function isStorableText(text: string): boolean {
  return !text.includes('\u0000') && Buffer.from(text, 'utf8').toString('utf8') === text;
}

/** JSON for machines: bigints become numbers where those are exact, strings where not. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (typeof inner !== 'bigint') return inner;
    const asNumber = Number(inner);
    return Number.isSafeInteger(asNumber) ? asNumber : inner.toString();
  });
}
