import { AppError } from '../errors.ts';
import { type EgressLists, egressPolicy, literalAddress } from './egress.ts';

const MAX_URL_LENGTH = 2048;
/** RFC 1035, section 2.3.4, as text. */
const MAX_HOST_LENGTH = 253;
const MAX_LABEL_LENGTH = 63;
/**
 * Where something else than HTTP listens, which a POST would be made to speak to: https://fetch.spec.whatwg.org/#port-blocking, as
 * browsers and `fetch` refuse them, and 0; without 1, where nothing does.
 */
const PORTS_OF_OTHERS: ReadonlySet<number> = new Set([
  ...[0, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109],
  ...[110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530],
  ...[531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190],
  ...[5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080],
]);

/**
 * The URL of an endpoint as it is kept: encoded, its host in punycode.
 * @throws AppError OUTBOX_ENDPOINT_URL_INVALID, OUTBOX_EGRESS_REFUSED
 */
export function acceptedUrl(text: string, lists: EgressLists): string {
  const url = parseEndpointUrl(text);
  assertReachable(url, lists);
  return url.href;
}

function parseEndpointUrl(text: string): URL {
  const invalid = (why: string) =>
    new AppError(
      'OUTBOX_ENDPOINT_URL_INVALID',
      `The endpoint's URL ${why}. Give one such as https://example.com/hooks.`,
    );
  if (text.length > MAX_URL_LENGTH) throw invalid(`has ${text.length} characters, more than ${MAX_URL_LENGTH}`);
  // The parser drops these silently, and makes another URL of it.
  if (/[\p{Cc}\p{Z}]/u.test(text))
    throw invalid('holds white space or control characters, which are written encoded, as %20');
  if (/^https?:(?!\/\/[^/?#\\])/i.test(text)) throw invalid('names no host after http(s)://');
  // Not repeated in the message: what is not a URL may be a secret in the wrong place.
  if (!URL.canParse(text)) throw invalid('cannot be read');
  const url = new URL(text);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw invalid(`starts with ${url.protocol}, not http(s)`);
  if (url.username !== '' || url.password !== '') throw invalid('holds a user or a password');
  if (text.includes('#')) throw invalid('holds a fragment (#…), which is never sent');
  if (url.port !== '' && PORTS_OF_OTHERS.has(Number(url.port))) {
    throw invalid(`names port ${url.port}, where something else than HTTP listens`);
  }
  if (!isHostName(url.hostname)) throw invalid('has a host that no name server could know');
  if (url.href.length > MAX_URL_LENGTH) throw invalid(`has more than ${MAX_URL_LENGTH} characters when encoded`);
  return url;
}

function isHostName(hostname: string): boolean {
  const labels = hostname.replace(/\.$/, '').split('.');
  return hostname.length <= MAX_HOST_LENGTH && labels.every(({ length }) => length > 0 && length <= MAX_LABEL_LENGTH);
}

// A name is judged when it is resolved, at every connection: what it points at may change.
function assertReachable(url: URL, { egressAllow, egressDeny }: EgressLists): void {
  const literal = literalAddress(url);
  const why = literal === undefined ? undefined : egressPolicy(egressAllow, egressDeny).refusal(literal);
  if (why === undefined) return;
  throw new AppError(
    'OUTBOX_EGRESS_REFUSED',
    `${literal} ${why}. Webhooks go to public addresses, to networks in OUTBOX_EGRESS_ALLOW, and to none in OUTBOX_EGRESS_DENY.`,
    { details: { address: literal } },
  );
}
