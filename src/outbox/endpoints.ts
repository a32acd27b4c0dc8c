import { randomBytes } from 'node:crypto';
import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { egressPolicy, literalAddress } from './egress.ts';
import type { EndpointLimits } from './gate.ts';
import { assertTopicPatterns } from './topics.ts';

/** Who receives webhooks, without the secret. */
export interface Endpoint {
  readonly id: string;
  readonly url: string;
  readonly topics: readonly string[];
  readonly timeoutMs: number;
  readonly maxInFlight: number;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  readonly createdAt: Date;
}

export interface NewEndpoint {
  readonly url: string;
  /** Topics, `*`, or `ticket.*`. */
  readonly topics: readonly string[];
  readonly timeoutMs?: number;
  readonly maxInFlight?: number;
  /** CIDRs that webhooks may reach beside the public addresses. */
  readonly egressAllow: readonly string[];
  /** CIDRs that they may not reach, whatever else is said of them. */
  readonly egressDeny?: readonly string[];
}

const MAX_URL_LENGTH = 2048;
const DEFAULT_TIMEOUT_MS = 15_000;
const DEFAULT_MAX_IN_FLIGHT = 10;
/** Standard Webhooks asks for 24 to 64 bytes. */
const SECRET_BYTES = 32;

/**
 * Whether `addEndpoint` would take it; answers the URL as it would be kept.
 * @throws AppError OUTBOX_ENDPOINT_URL_INVALID, OUTBOX_TOPIC_INVALID, OUTBOX_EGRESS_REFUSED
 */
export function acceptedUrl(endpoint: NewEndpoint): string {
  const url = parseEndpointUrl(endpoint.url);
  assertReachable(url, endpoint);
  assertTopicPatterns(endpoint.topics);
  return url.href;
}

/**
 * Subscribes a URL. It receives what is announced from now on.
 * @returns the endpoint and its secret, which is shown this once
 * @throws AppError OUTBOX_ENDPOINT_URL_INVALID, OUTBOX_TOPIC_INVALID, OUTBOX_EGRESS_REFUSED
 */
export async function addEndpoint(db: Queryable, endpoint: NewEndpoint): Promise<{ id: string; secret: string }> {
  const url = acceptedUrl(endpoint);
  const secret = `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`;
  const { rows } = await db.query<{ id: string }>(
    `insert into outbox.endpoints (url, topics, secret, timeout_ms, max_in_flight)
     values ($1, $2, $3, $4, $5)
     returning id`,
    [
      url,
      endpoint.topics,
      secret,
      endpoint.timeoutMs ?? DEFAULT_TIMEOUT_MS,
      endpoint.maxInFlight ?? DEFAULT_MAX_IN_FLIGHT,
    ],
  );
  return { id: rows[0]?.id ?? '', secret };
}

/** What admission has to know of the endpoints that may be sent to. */
export async function listLimits(db: Queryable): Promise<readonly EndpointLimits[]> {
  const { rows } = await db.query<EndpointLimits>({
    name: 'limits',
    text: 'select id, max_in_flight as "maxInFlight", null::integer as "ratePerSecond", ordered from outbox.endpoints where enabled',
  });
  return rows;
}

export async function listEndpoints(db: Queryable): Promise<readonly Endpoint[]> {
  const { rows } = await db.query<Endpoint>(
    `select id, url, topics, timeout_ms as "timeoutMs", max_in_flight as "maxInFlight", enabled,
            disabled_reason as "disabledReason", created_at as "createdAt"
     from outbox.endpoints
     order by created_at, id`,
  );
  return rows;
}

function parseEndpointUrl(text: string): URL {
  const invalid = (why: string) =>
    new AppError(
      'OUTBOX_ENDPOINT_URL_INVALID',
      `The endpoint's URL ${why}. Give one such as https://example.com/hooks.`,
    );
  if (text.length > MAX_URL_LENGTH) throw invalid(`has ${text.length} characters, more than ${MAX_URL_LENGTH}`);
  // Not repeated in the message: what is not a URL may be a secret in the wrong place.
  if (!URL.canParse(text)) throw invalid('cannot be read');
  const url = new URL(text);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw invalid(`starts with ${url.protocol}, not http(s)`);
  if (url.username !== '' || url.password !== '') throw invalid('holds a user or a password');
  if (text.includes('#')) throw invalid('holds a fragment (#…), which is never sent');
  if (url.href.length > MAX_URL_LENGTH) throw invalid(`has more than ${MAX_URL_LENGTH} characters when encoded`);
  return url;
}

// A name is judged when it is resolved, at every connection: what it points at may change.
function assertReachable(url: URL, { egressAllow, egressDeny }: NewEndpoint): void {
  const literal = literalAddress(url);
  const why = literal === undefined ? undefined : egressPolicy(egressAllow, egressDeny).refusal(literal);
  if (why === undefined) return;
  throw new AppError(
    'OUTBOX_EGRESS_REFUSED',
    `${literal} ${why}. Webhooks go to public addresses, to networks in OUTBOX_EGRESS_ALLOW, and to none in OUTBOX_EGRESS_DENY.`,
    { details: { address: literal } },
  );
}
