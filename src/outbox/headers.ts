/** HTTP headers, their names in lower case. */
export type Headers = Readonly<Record<string, string>>;

const NAME = /^[a-z0-9!#$%&'*+.^_`|~-]{1,100}$/;
/** Ours, those of a proxy, and those under which other libraries look for a signature. */
const RESERVED_PREFIX = /^(webhook|svix|proxy)-/;
/** Signed content's own, and those of a connection (RFC 9110, section 7.6.1). */
const RESERVED: ReadonlySet<string> = new Set([
  'host',
  'content-length',
  'content-type',
  'content-encoding',
  'connection',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
]);
const VALUE = /^([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?$/;
const MAX_VALUE_LENGTH = 1_000;
export const MAX_HEADERS = 32;

/**
 * What is wrong with a header that is to be sent beside ours; undefined: nothing. Repeats nothing of its value, which may be a password.
 * The database holds the same rule for endpoints.
 */
export function headerFault(name: string, value: unknown): string | undefined {
  if (!NAME.test(name)) return 'is no name of a header';
  if (RESERVED_PREFIX.test(name) || RESERVED.has(name)) return 'is one that Liventix or the connection sets itself';
  if (typeof value !== 'string') return 'has a value that is no text';
  if (value.length > MAX_VALUE_LENGTH) return `has a value of more than ${MAX_VALUE_LENGTH} characters`;
  return VALUE.test(value) ? undefined : 'has a value that is not printable ASCII, or begins or ends with a space';
}

/**
 * The headers of a message that can be sent, and the names of those that cannot. A row of `public.outbox` is written in its
 * application's transaction, which must not fail for a header, and delivered without what nobody could send.
 */
export function sendableHeaders(given: unknown): { headers: Headers; leftOut: readonly string[] } {
  if (given === null) return { headers: {}, leftOut: [] };
  if (typeof given !== 'object' || Array.isArray(given))
    return { headers: {}, leftOut: ['all, as they are no object'] };
  const headers: Record<string, string> = {};
  const leftOut: string[] = [];
  for (const [key, value] of Object.entries(given)) {
    const name = key.toLowerCase();
    const isTooMany = Object.keys(headers).length >= MAX_HEADERS;
    if (isTooMany || headerFault(name, value) !== undefined) leftOut.push(name.slice(0, 100));
    else headers[name] = value;
  }
  return { headers, leftOut };
}
