import type { Logger } from 'pino';
import { type AttemptOutcome, attemptDelivery } from './attempt.ts';
import type { AttemptRecord, ClaimedAttempt } from './attempts.ts';
import type { EgressAgent } from './egress-agent.ts';
import { decideNextStep } from './next-step.ts';
import { type SignedWebhook, signWebhook } from './webhook.ts';

export interface AttemptContext {
  /** Answers whether the delivery was still this attempt's. */
  readonly record: (record: AttemptRecord) => Promise<boolean>;
  readonly agent: EgressAgent;
  readonly log: Logger;
  readonly leaseMarginMs: number;
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
 * Makes an attempt that was claimed, and records what it came to.
 * @returns whether it was delivered
 * @throws what the database threw when it could not be recorded while its lease lasted
 */
export async function makeAttempt(claimed: ClaimedAttempt, context: AttemptContext): Promise<boolean> {
  const now = context.now ?? (() => new Date());
  const startedAt = now();
  const startedMs = performance.now();
  const request = prepareRequest(claimed, startedAt);
  const outcome: AttemptOutcome =
    request.status === 'failed'
      ? request
      : await attemptDelivery({
          ...request,
          agent: context.agent,
          timeoutMs: claimed.timeoutMs,
          stop: context.stop,
          now,
        });
  const next = decideNextStep(outcome, {
    scheduleAttempt: claimed.scheduleAttempt,
    delaysMs: context.delaysMs,
    random: (context.random ?? Math.random)(),
  });
  const durationMs = Math.round(performance.now() - startedMs);
  logOutcome(context.log, { claimed, outcome, durationMs, nextState: next.state });
  const failed = outcome.status === 'failed' ? outcome : undefined;
  const moved = await recordWhileLeased(context, {
    deliveryId: claimed.deliveryId,
    day: claimed.day,
    attempt: claimed.attempt,
    messageId: claimed.message.id,
    endpointId: claimed.endpointId,
    startedAt,
    durationMs,
    statusCode: outcome.statusCode ?? null,
    errorClass: failed?.errorClass ?? null,
    error: failed?.error ?? null,
    response: outcome.response ?? null,
    address: failed?.address ?? (request.status === 'failed' ? null : (context.agent.addressOf(request.url) ?? null)),
    next,
  });
  if (!moved) {
    const { deliveryId, attempt } = claimed;
    context.log.warn({ deliveryId, attempt }, 'worker: the lease was lost before the outcome was recorded');
  }
  return outcome.status === 'delivered';
}

type PreparedRequest =
  | { readonly status: 'prepared'; readonly url: URL; readonly webhook: SignedWebhook }
  | { readonly status: 'failed'; readonly errorClass: 'endpoint_unusable'; readonly error: string };

// An endpoint can be written by SQL, past what `addEndpoint` refuses: that is its failure and not the database's.
function prepareRequest({ url, message, secret }: ClaimedAttempt, now: Date): PreparedRequest {
  const unusable = (error: string) => ({ status: 'failed', errorClass: 'endpoint_unusable', error }) as const;
  if (!URL.canParse(url)) return unusable('its URL cannot be read');
  try {
    return { status: 'prepared', url: new URL(url), webhook: signWebhook(message, { secret, now }) };
  } catch {
    // The reason may quote the secret.
    return unusable('its secret is not whsec_ and base64');
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

// Ids only: a URL may carry a token, and a payload people.
function logOutcome(
  log: Logger,
  attempt: { claimed: ClaimedAttempt; outcome: AttemptOutcome; durationMs: number; nextState: string },
): void {
  const { claimed, outcome, durationMs, nextState } = attempt;
  const fields = {
    deliveryId: claimed.deliveryId,
    attempt: claimed.attempt,
    messageId: claimed.message.id,
    endpointId: claimed.endpointId,
    durationMs,
    statusCode: outcome.statusCode,
  };
  if (outcome.status === 'delivered') log.debug(fields, 'worker: delivered');
  else
    log.warn({ ...fields, errorClass: outcome.errorClass, error: outcome.error, nextState }, 'worker: attempt failed');
}
