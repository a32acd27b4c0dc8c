import { errors } from 'undici';
import { EgressRefusedError } from './egress.ts';
import type { EgressAgent } from './egress-agent.ts';
import { type BreakOff, type Ending, Exchange, InformationalFloodError } from './exchange.ts';
import { parseRetryAfterMs } from './retry.ts';
import type { SignedWebhook } from './webhook.ts';

/** Why an attempt failed, as `outbox.attempts.error_class` has it. */
type ErrorClass =
  | 'endpoint_unusable'
  | 'payload_invalid'
  | 'message_unusable'
  | 'egress_refused'
  | 'name_not_resolved'
  | 'connection_failed'
  | 'connection_lost'
  | 'tls_failed'
  | 'timeout'
  | 'response_invalid'
  | 'response_headers_too_large'
  | 'redirect'
  | 'status'
  | 'gone'
  | 'worker_stopped';

/** What one HTTP request came to. Never thrown: a failed delivery is an expected outcome. */
export type AttemptOutcome =
  | { readonly status: 'delivered'; readonly statusCode: number; readonly response: string }
  | {
      readonly status: 'failed';
      readonly errorClass: ErrorClass;
      readonly error: string;
      readonly statusCode?: number;
      readonly response?: string;
      readonly retryAfterMs?: number;
      /** The refused address, when the guard refused one. */
      readonly address?: string;
    };

export interface AttemptInput {
  readonly url: URL;
  readonly webhook: SignedWebhook;
  readonly agent: EgressAgent;
  /** The total deadline, from the name's resolution to the last byte that is read. */
  readonly timeoutMs: number;
  /** Aborted when the worker has to stop before the deadline. */
  readonly stop: AbortSignal;
  readonly now: () => Date;
}

const ERROR_LIMIT_CHARS = 500;

/** Sends one signed POST. Answered is what matters: a 2xx whose body breaks off is delivered. */
export async function attemptDelivery(input: AttemptInput): Promise<AttemptOutcome> {
  const { url, stop, timeoutMs } = input;
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return unusable(`its URL starts with ${url.protocol}`);
  if (stop.aborted) return interrupted('worker_stopped', timeoutMs);
  const request = {
    origin: url.origin,
    path: url.pathname + url.search,
    method: 'POST' as const,
    headers: input.webhook.headers,
    body: input.webhook.body,
  };
  let exchange = new Exchange(input.agent.isOpening);
  const timer = setTimeout(() => exchange.breakOff('timeout'), timeoutMs);
  const onStop = () => exchange.breakOff('worker_stopped');
  stop.addEventListener('abort', onStop, { once: true });
  try {
    input.agent.dispatch(request, exchange);
    let ending = await exchange.ended;
    // The server closed an idle connection while the request was on its way to it, which is nobody's failure and happens to
    // every server at times. Once, and on a new connection: should it have been received after all, the receiver knows it
    // by its webhook-id.
    if (ending.status === 'failed' && ending.isStale && !stop.aborted) {
      exchange = new Exchange(input.agent.isOpening);
      input.agent.dispatchAlone(request, exchange);
      ending = await exchange.ended;
    }
    return judge(ending, input);
  } catch (error) {
    return notAnswered(error instanceof Error ? error : new Error(String(error)), input);
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', onStop);
  }
}

function judge(ending: Ending, input: AttemptInput): AttemptOutcome {
  switch (ending.status) {
    case 'answered':
      return answered(ending, input.now());
    case 'broken_off':
      return interrupted(ending.reason, input.timeoutMs);
    case 'failed':
      return notAnswered(ending.error, input);
  }
}

function answered(answer: Extract<Ending, { status: 'answered' }>, now: Date): AttemptOutcome {
  const { statusCode } = answer;
  // PostgreSQL's text holds no NUL.
  const response = answer.excerpt.toString('utf8').replaceAll('\0', '\uFFFD');
  if (statusCode >= 200 && statusCode < 300) return { status: 'delivered', statusCode, response };
  const failed = { status: 'failed', statusCode, response, error: `answered ${statusCode}` } as const;
  if (statusCode === 410) return { ...failed, errorClass: 'gone' };
  // Not followed: the redirect's target was never judged, and a POST does not survive most redirects.
  if (statusCode < 400) return { ...failed, errorClass: 'redirect', error: `answered ${statusCode}, a redirect` };
  const retryAfterMs = parseRetryAfterMs(answer.retryAfter, now);
  return { ...failed, errorClass: 'status', ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
}

function unusable(error: string): AttemptOutcome {
  return { status: 'failed', errorClass: 'endpoint_unusable', error };
}

function interrupted(reason: BreakOff, timeoutMs: number): AttemptOutcome {
  return reason === 'worker_stopped'
    ? { status: 'failed', errorClass: 'worker_stopped', error: 'the worker stopped before the answer came' }
    : { status: 'failed', errorClass: 'timeout', error: `no answer within ${timeoutMs} ms` };
}

function notAnswered(error: Error, { timeoutMs }: AttemptInput): AttemptOutcome {
  // The agent is closed, which its worker alone does.
  if (error instanceof errors.ClientDestroyedError) return interrupted('worker_stopped', timeoutMs);
  if (error instanceof EgressRefusedError) {
    return { status: 'failed', errorClass: 'egress_refused', error: error.message, address: error.address };
  }
  // Of a name with several addresses, each refused: what holds them together has no words of its own.
  const failure = error instanceof AggregateError ? (error.errors[0] as Error) : error;
  return { status: 'failed', errorClass: classOf(failure), error: wordsOf(failure).slice(0, ERROR_LIMIT_CHARS) };
}

/** What OpenSSL finds where something else than TLS answers. */
const NO_TLS: ReadonlySet<string> = new Set(['wrong version number', 'packet length too long', 'http request']);

// OpenSSL's own message is an address, numbers, a file of its source and a line break around the reason.
function wordsOf({ code, message, reason }: Error & { code?: unknown; reason?: unknown }): string {
  if (typeof code === 'string' && /^ERR_(SSL|OSSL)_/.test(code) && typeof reason === 'string') {
    return NO_TLS.has(reason) ? `no TLS is spoken there (${reason})` : `TLS failed: ${reason}`;
  }
  return message.replace(/\s+/g, ' ').trim();
}

function classOf(error: Error & { code?: unknown; syscall?: unknown }): ErrorClass {
  const code = typeof error.code === 'string' ? error.code : '';
  if (error.syscall === 'getaddrinfo') return 'name_not_resolved';
  if (error instanceof errors.ConnectTimeoutError || error.syscall === 'connect') return 'connection_failed';
  if (error instanceof errors.HeadersOverflowError) return 'response_headers_too_large';
  if (error instanceof errors.HTTPParserError || error instanceof InformationalFloodError) return 'response_invalid';
  // undici's words for an answer that it does not expect: 100 to a request that did not ask, or another protocol.
  if (error instanceof errors.SocketError && /^bad (response|upgrade)$/.test(error.message)) return 'response_invalid';
  if (/^(ERR_SSL|ERR_TLS|EPROTO)|CERT|SELF_SIGNED|UNABLE_TO_/.test(code)) return 'tls_failed';
  return 'connection_lost';
}
