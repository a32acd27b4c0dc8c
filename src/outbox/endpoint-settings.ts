import { AppError } from '../errors.ts';
import type { EgressLists } from './egress.ts';
import { acceptedUrl } from './endpoint-url.ts';
import { type Headers, headerFault, MAX_HEADERS } from './headers.ts';
import { assertTopicPatterns } from './topics.ts';

/** All that an endpoint may be asked to be. What is null is not limited, not filtered, or as is usual. */
export interface EndpointSettings {
  readonly url: string;
  /** Topics, `*`, or `ticket.*`. */
  readonly topics: readonly string[];
  readonly description: string | null;
  /** Whose messages alone it receives. */
  readonly organizationId: string | null;
  /** Sent with every message. */
  readonly headers: Headers;
  readonly timeoutMs: number;
  readonly maxInFlight: number;
  readonly ratePerSecond: number | null;
  /** Whether messages of one ordering key go one after the other. */
  readonly ordered: boolean;
  /** JSON of what a payload must contain; text, because parsing would round its numbers. */
  readonly filter: string | null;
  /** The waits after the first, second, … failed attempt. */
  readonly retryDelaysMs: readonly number[] | null;
}

export const ENDPOINT_DEFAULTS = {
  description: null,
  organizationId: null,
  headers: {},
  timeoutMs: 15_000,
  maxInFlight: 10,
  ratePerSecond: null,
  ordered: false,
  filter: null,
  retryDelaysMs: null,
} as const satisfies Omit<EndpointSettings, 'url' | 'topics'>;

const SECOND_MS = 1_000;
const DAY_MS = 86_400_000;

export const ENDPOINT_BOUNDS = {
  timeoutMs: { min: 100, max: 60_000 },
  maxInFlight: { min: 1, max: 1_000 },
  ratePerSecond: { min: 1, max: 10_000 },
  retryDelayMs: { min: SECOND_MS, max: 7 * DAY_MS },
  reasonLength: { min: 1, max: 500 },
} as const;

const MAX_RETRIES = 20;
const MAX_DESCRIPTION_LENGTH = 500;
const MAX_FILTER_BYTES = 8_192;

/** The column of each, with what its parameter is cast to. */
export const SETTING_COLUMNS = {
  url: 'url',
  topics: 'topics',
  description: 'description',
  organizationId: 'organization_id',
  headers: 'headers',
  timeoutMs: 'timeout_ms',
  maxInFlight: 'max_in_flight',
  ratePerSecond: 'rate_per_second',
  ordered: 'ordered',
  filter: 'filter',
  retryDelaysMs: 'retry_delays_ms',
} as const satisfies Record<keyof EndpointSettings, string>;

/**
 * The settings as they are kept, if the database would take them: it holds the same rules.
 * @throws AppError OUTBOX_ENDPOINT_URL_INVALID, OUTBOX_TOPIC_INVALID, OUTBOX_EGRESS_REFUSED, OUTBOX_ENDPOINT_INVALID
 */
export function acceptedSettings<T extends Partial<EndpointSettings>>(settings: T, lists: EgressLists): T {
  const { url, topics, headers, description, filter } = settings;
  const kept = {
    ...(url === undefined ? {} : { url: acceptedUrl(url, lists) }),
    ...(headers === undefined ? {} : { headers: acceptedHeaders(headers) }),
  };
  if (topics !== undefined) assertTopicPatterns(topics);
  if (description != null && (description.length === 0 || description.length > MAX_DESCRIPTION_LENGTH)) {
    throw invalid(`description has ${description.length} characters, not 1 to ${MAX_DESCRIPTION_LENGTH}`);
  }
  if (filter != null) assertFilter(filter);
  for (const name of ['timeoutMs', 'maxInFlight', 'ratePerSecond'] as const) assertWithin(name, settings[name]);
  if (settings.retryDelaysMs != null) assertRetryDelays(settings.retryDelaysMs);
  return { ...settings, ...kept };
}

/**
 * Why an endpoint is disabled.
 * @throws AppError OUTBOX_ENDPOINT_INVALID
 */
export function assertReason(reason: string): void {
  const { length } = [...reason];
  const { min, max } = ENDPOINT_BOUNDS.reasonLength;
  if (length < min || length > max) {
    throw invalid(`reason for being disabled has ${length} characters, not ${min} to ${max}`);
  }
}

const invalid = (what: string) =>
  new AppError('OUTBOX_ENDPOINT_INVALID', `The endpoint's ${what}. Nothing was changed: correct it and run again.`);

function acceptedHeaders(headers: Headers): Headers {
  const entries = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value] as const);
  const accepted = Object.fromEntries(entries);
  if (entries.length > MAX_HEADERS) throw invalid(`headers are ${entries.length}, more than ${MAX_HEADERS}`);
  for (const [name, value] of entries) {
    const fault = headerFault(name, value);
    if (fault !== undefined) throw invalid(`header ${JSON.stringify(name.slice(0, 100))} ${fault}`);
  }
  if (Object.keys(accepted).length < entries.length) throw invalid('headers name one of them twice');
  return accepted;
}

function assertFilter(filter: string): void {
  const bytes = Buffer.byteLength(filter, 'utf8');
  if (bytes > MAX_FILTER_BYTES) throw invalid(`filter has ${bytes} bytes, more than ${MAX_FILTER_BYTES}`);
  const parsed = parseJson(filter);
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return;
  throw invalid(`filter is not a JSON object such as {"status": "paid"}`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function assertWithin(name: 'timeoutMs' | 'maxInFlight' | 'ratePerSecond', value: number | null | undefined): void {
  if (value == null) return;
  const { min, max } = ENDPOINT_BOUNDS[name];
  if (!Number.isInteger(value) || value < min || value > max) {
    throw invalid(`${name} is ${value}, not a whole number from ${min} to ${max}`);
  }
}

function assertRetryDelays(delaysMs: readonly number[]): void {
  const { min, max } = ENDPOINT_BOUNDS.retryDelayMs;
  if (delaysMs.length > MAX_RETRIES)
    throw invalid(`retry schedule has ${delaysMs.length} waits, more than ${MAX_RETRIES}`);
  const wrong = delaysMs.find((delay) => !Number.isInteger(delay) || delay < min || delay > max);
  if (wrong !== undefined) throw invalid(`retry schedule has a wait of ${wrong} ms, not of 1 s to 7 days`);
}
