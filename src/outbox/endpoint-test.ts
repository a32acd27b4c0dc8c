import { randomUUID } from 'node:crypto';
import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type AttemptOutcome, attemptDelivery } from './attempt.ts';
import { type EgressLists, egressPolicy } from './egress.ts';
import { createEgressAgent } from './egress-agent.ts';
import { loadEndpoints, signersAt } from './endpoint-cache.ts';
import type { Endpoint } from './endpoints.ts';
import { assertHasKey, type KeyRing } from './key-ring.ts';
import { type SignedWebhook, signWebhook } from './webhook.ts';

/** What a test message is announced as; no message of the outbox is. */
export const TEST_TOPIC = 'outbox.test';

export interface TestRequest {
  readonly url: URL;
  readonly webhook: SignedWebhook;
}

/**
 * A message of its own, signed as every other.
 * @throws AppError OUTBOX_KEY_MISSING, OUTBOX_KEY_WRONG
 */
export async function prepareTest(
  { id }: Pick<Endpoint, 'id'>,
  { db, keyRing, now }: { db: Queryable; keyRing: KeyRing; now: Date },
): Promise<TestRequest> {
  assertHasKey(keyRing);
  const endpoint = (await loadEndpoints([id], { db, keyRing })).get(id);
  const signers = endpoint && signersAt(endpoint, now);
  if (endpoint === undefined || signers === undefined) {
    throw new AppError(
      'OUTBOX_KEY_WRONG',
      `The secret of endpoint ${id} is missing, or OUTBOX_ENCRYPTION_KEY does not decrypt it. Set the key that it was encrypted with; if that is lost: liventix outbox endpoint rotate-secret --lost-key ${id}`,
    );
  }
  const payloadJson = JSON.stringify({ endpoint_id: id });
  const message = { id: randomUUID(), topic: TEST_TOPIC, createdAt: now, payloadJson };
  return { url: new URL(endpoint.url), webhook: signWebhook(message, { signers, headers: endpoint.headers, now }) };
}

/**
 * Makes the request through the guard that every webhook passes, and writes nothing down: a test is no delivery.
 */
export async function sendTest(
  request: TestRequest,
  options: EgressLists & { timeoutMs: number; stop: AbortSignal },
): Promise<AttemptOutcome & { readonly durationMs: number }> {
  const agent = createEgressAgent(egressPolicy(options.egressAllow, options.egressDeny));
  const startedMs = performance.now();
  try {
    const outcome = await attemptDelivery({ ...request, ...options, agent, now: () => new Date() });
    return { ...outcome, durationMs: Math.round(performance.now() - startedMs) };
  } finally {
    await agent.close();
  }
}
