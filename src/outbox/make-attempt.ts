import type { Logger } from 'pino';
import { type AttemptOutcome, attemptDelivery } from './attempt.ts';
import type { AttemptRecord, ClaimedAttempt } from './attempts.ts';
import type { EgressAgent } from './egress-agent.ts';
import { type AttemptEndpoint, signersAt } from './endpoint-cache.ts';
import { sendableHeaders } from './headers.ts';
import { decideNextStep } from './next-step.ts';
import type { Observer } from './observer.ts';
import { type SignedWebhook, type Signer, signWebhook } from './webhook.ts';

/** An attempt that is this worker's to make, and all that it takes. */
export interface ReadyAttempt extends ClaimedAttempt {
  readonly endpoint: AttemptEndpoint;
  /** What its payload lacks to be sent. */
  readonly misfit: string | undefined;
}

export interface AttemptContext {
  /** Answers whether the delivery was still this attempt's. */
  readonly record: (record: AttemptRecord) => Promise<boolean>;
  /** Hands a delivery back that cannot be signed now. */
  readonly postpone: (attempt: ClaimedAttempt) => Promise<void>;
  readonly agent: EgressAgent;
  readonly log: Logger;
  readonly observer: Observer;
  readonly leaseMarginMs: number;
  /** The schedule of endpoints that have none of their own. */
  readonly delaysMs: readonly number[];
  /** Aborted when a request that is under way has to be broken off. */
  readonly stop: AbortSignal;
  /** Aborted when there is no more time to record what attempts came to. */
  readonly abandon: AbortSignal;
  readonly now?: () => Date;
  readonly random?: () => number;
}

const RECORD_RETRY_MS = 500;

/**
 * Makes an attempt that was claimed, and records what it came to. One that nobody can sign is none, and waits.
 * @throws what the database threw when it could not be recorded while its lease lasted
 */
export async function makeAttempt(
  claimed: ReadyAttempt,
  context: AttemptContext,
): Promise<AttemptOutcome['status'] | 'postponed'> {
  const startedAt = context.now?.() ?? new Date();
  const signers = signersAt(claimed.endpoint, startedAt);
  if (signers !== undefined) return await makeSignedAttempt(claimed, { ...context, signers, startedAt });
  await context.postpone(claimed);
  return 'postponed';
}

async function makeSignedAttempt(
  claimed: ReadyAttempt,
  context: AttemptContext & { signers: readonly Signer[]; startedAt: Date },
): Promise<AttemptOutcome['status']> {
  const { startedAt } = context;
  const startedMs = performance.now();
  const request = prepareRequest(claimed, context);
  const outcome: AttemptOutcome =
    request.status === 'failed'
      ? request
      : await attemptDelivery({
          ...request,
          agent: context.agent,
          timeoutMs: claimed.timeoutMs,
          stop: context.stop,
          now: context.now ?? (() => new Date()),
        });
  const next = decideNextStep(outcome, {
    scheduleAttempt: claimed.scheduleAttempt,
    delaysMs: claimed.endpoint.retryDelaysMs ?? context.delaysMs,
    random: (context.random ?? Math.random)(),
  });
  const durationMs = Math.round(performance.now() - startedMs);
  logOutcome(context.log, { claimed, outcome, durationMs, nextState: next.state });
  const failed = outcome.status === 'failed' ? outcome : undefined;
  context.observer.attempted({
    errorClass: failed?.errorClass ?? null,
    durationMs,
    // Two clocks: a message may seem to be of the future.
    lagMs:
      claimed.attempt === 1 && claimed.wantedAtMs !== null
        ? Math.max(0, startedAt.getTime() - claimed.wantedAtMs)
        : null,
  });
  const moved = await recordWhileLeased(context, {
    deliveryId: claimed.deliveryId,
    day: claimed.day,
    attempt: claimed.attempt,
    messageId: claimed.message.id,
    endpointId: claimed.endpointId,
    endpointVersion: claimed.endpoint.version,
    startedAt,
    durationMs,
    statusCode: outcome.statusCode ?? null,
    errorClass: failed?.errorClass ?? null,
    error: failed?.error ?? null,
    response: outcome.response ?? null,
    address: failed?.address ?? (request.status === 'failed' ? null : (context.agent.addressOf(request.url) ?? null)),
    next,
  });
  if (!moved) context.log.warn(idsOf(claimed), 'worker: the lease was lost before the outcome was recorded');
  else if (next.state !== 'pending') context.observer.finished(next.state);
  return outcome.status;
}

type PreparedRequest =
  | { readonly status: 'prepared'; readonly url: URL; readonly webhook: SignedWebhook }
  | {
      readonly status: 'failed';
      readonly errorClass: 'endpoint_unusable' | 'payload_invalid' | 'message_unusable';
      readonly error: string;
    };

// Both can be written by SQL, past what `announce` and `addEndpoint` refuse: that is their failure and not the database's.
function prepareRequest(
  attempt: ReadyAttempt,
  { signers, startedAt, log }: { signers: readonly Signer[]; startedAt: Date; log: Logger },
): PreparedRequest {
  const { endpoint, message, misfit } = attempt;
  if (!URL.canParse(endpoint.url)) {
    return { status: 'failed', errorClass: 'endpoint_unusable', error: 'its URL cannot be read' };
  }
  const { headers, leftOut } = sendableHeaders(message.headers);
  if (misfit !== undefined) return { status: 'failed', errorClass: 'payload_invalid', error: misfit };
  if (leftOut.length > 0) log.warn({ ...idsOf(attempt), leftOut }, 'worker: headers of the message cannot be sent');
  try {
    const webhook = signWebhook(message, { signers, headers: { ...endpoint.headers, ...headers }, now: startedAt });
    return { status: 'prepared', url: new URL(endpoint.url), webhook };
  } catch (cause) {
    // Whatever it has that nobody thought of: it would end the same way each time, at every endpoint.
    const reason = cause instanceof Error ? cause.message : String(cause);
    return { status: 'failed', errorClass: 'message_unusable', error: `no webhook can be made of it: ${reason}` };
  }
}

// The request has been made, and to forget its answer would repeat it: so while the database is away it is tried again
// for as long as the lease allows.
async function recordWhileLeased(context: AttemptContext, record: AttemptRecord): Promise<boolean> {
  const giveUpAt = performance.now() + context.leaseMarginMs;
  for (;;) {
    try {
      return await context.record(record);
    } catch (error) {
      if (context.abandon.aborted || performance.now() + RECORD_RETRY_MS > giveUpAt) throw error;
      await new Promise((resolve) => setTimeout(resolve, RECORD_RETRY_MS));
    }
  }
}

/** What every line about an attempt bears, so that a message is followed by its id through all of them. */
export function idsOf({ message, deliveryId, attempt, endpointId }: ClaimedAttempt) {
  return { messageId: message.id, deliveryId, attempt, endpointId };
}

// Ids only: a URL may carry a token, and a payload people.
function logOutcome(
  log: Logger,
  attempt: { claimed: ClaimedAttempt; outcome: AttemptOutcome; durationMs: number; nextState: string },
): void {
  const { claimed, outcome, durationMs, nextState } = attempt;
  const fields = { ...idsOf(claimed), durationMs, statusCode: outcome.statusCode };
  if (outcome.status === 'delivered') log.debug(fields, 'worker: delivered');
  else
    log.warn({ ...fields, errorClass: outcome.errorClass, error: outcome.error, nextState }, 'worker: attempt failed');
}
