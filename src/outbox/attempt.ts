import { errors, request } from 'undici';
import { type EgressAgent, EgressRefusedError } from './egress-agent.ts';
import { parseRetryAfterMs } from './retry.ts';
import type { SignedWebhook } from './webhook.ts';

/** Why an attempt failed, as `outbox.attempts.error_class` has it. */
type ErrorClass =
  | 'endpoint_unusable'
  | 'egress_refused'
  | 'name_not_resolved'
  | 'connection_failed'
  | 'connection_lost'
  | 'tls_failed'
  | 'timeout'
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

const RESPONSE_LIMIT_BYTES = 8 * 1024;
const ERROR_LIMIT_CHARS = 500;

/** Sends one signed POST. Answered is what matters: a 2xx whose body breaks off is delivered. */
export async function attemptDelivery(input: AttemptInput): Promise<AttemptOutcome> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort('timeout'), input.timeoutMs);
  const onStop = () => deadline.abort('worker_stopped');
  input.stop.addEventListener('abort', onStop, { once: true });
  try {
    if (input.stop.aborted) return interrupted('worker_stopped', input.timeoutMs);
    const { statusCode, headers, body } = await request(input.url, {
      method: 'POST',
      headers: input.webhook.headers,
      body: input.webhook.body,
      dispatcher: input.agent.dispatcher,
      signal: deadline.signal,
    });
    const response = await readExcerpt(body);
    return judge({ statusCode, response, retryAfter: headers['retry-after'], now: input.now() });
  } catch (error) {
    if (deadline.signal.aborted) return interrupted(deadline.signal.reason, input.timeoutMs);
    return notAnswered(error);
  } finally {
    clearTimeout(timer);
    input.stop.removeEventListener('abort', onStop);
  }
}

function judge(answer: {
  statusCode: number;
  response: string;
  retryAfter: string | string[] | undefined;
  now: Date;
}): AttemptOutcome {
  const { statusCode, response } = answer;
  if (statusCode >= 200 && statusCode < 300) return { status: 'delivered', statusCode, response };
  const failed = { status: 'failed', statusCode, response, error: `answered ${statusCode}` } as const;
  if (statusCode === 410) return { ...failed, errorClass: 'gone' };
  // Not followed: the redirect's target was never judged, and a POST does not survive most redirects.
  if (statusCode < 400) return { ...failed, errorClass: 'redirect', error: `answered ${statusCode}, a redirect` };
  const header = Array.isArray(answer.retryAfter) ? answer.retryAfter[0] : answer.retryAfter;
  const retryAfterMs = parseRetryAfterMs(header, answer.now);
  return { ...failed, errorClass: 'status', ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
}

function interrupted(reason: unknown, timeoutMs: number): AttemptOutcome {
  return reason === 'worker_stopped'
    ? { status: 'failed', errorClass: 'worker_stopped', error: 'the worker stopped before the answer came' }
    : { status: 'failed', errorClass: 'timeout', error: `no answer within ${timeoutMs} ms` };
}

function notAnswered(error: unknown): AttemptOutcome {
  if (error instanceof EgressRefusedError) {
    return { status: 'failed', errorClass: 'egress_refused', error: error.message, address: error.address };
  }
  const failure = error instanceof Error ? error : new Error(String(error));
  return { status: 'failed', errorClass: classOf(failure), error: failure.message.slice(0, ERROR_LIMIT_CHARS) };
}

function classOf(error: Error & { code?: unknown; syscall?: unknown }): ErrorClass {
  const code = typeof error.code === 'string' ? error.code : '';
  if (error.syscall === 'getaddrinfo') return 'name_not_resolved';
  if (error instanceof errors.ConnectTimeoutError || error.syscall === 'connect') return 'connection_failed';
  if (/^(ERR_SSL|ERR_TLS|EPROTO)|CERT|SELF_SIGNED|UNABLE_TO_/.test(code)) return 'tls_failed';
  return 'connection_lost';
}

// The rest of a longer body is not read; leaving the loop closes the connection under it.
async function readExcerpt(body: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= RESPONSE_LIMIT_BYTES) break;
    }
  } catch {
    // The status line has been read, so the endpoint has answered: what came of the body is enough.
  }
  const text = Buffer.concat(chunks).subarray(0, RESPONSE_LIMIT_BYTES).toString('utf8');
  // PostgreSQL's text holds no NUL.
  return text.replaceAll('\0', '\uFFFD');
}
