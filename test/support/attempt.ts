import { type AttemptInput, type AttemptOutcome, attemptDelivery } from '../../src/outbox/attempt.ts';
import type { EgressAgent } from '../../src/outbox/egress-agent.ts';

const WEBHOOK = {
  headers: { 'content-type': 'application/json', 'webhook-id': 'msg_1' },
  body: Buffer.from('{"n":1}'),
};

/** One attempt with nothing of a database around it. */
export function attempt(
  agent: EgressAgent,
  url: string | URL,
  options: Partial<Pick<AttemptInput, 'timeoutMs' | 'stop'>> = {},
): Promise<AttemptOutcome> {
  return attemptDelivery({
    url: new URL(url),
    webhook: WEBHOOK,
    agent,
    timeoutMs: 5_000,
    stop: new AbortController().signal,
    now: () => new Date(),
    ...options,
  });
}
