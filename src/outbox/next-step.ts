import type { AttemptOutcome } from './attempt.ts';
import type { NextStep } from './deliveries.ts';
import { retryDelayMs } from './retry.ts';

/**
 * What follows from an attempt's outcome:
 *
 *   delivered       → delivered
 *   gone (410)      → dead, and the endpoint is disabled
 *   worker stopped  → pending, due at once
 *   failed          → pending by the schedule, or dead when it is used up
 */
export function decideNextStep(
  outcome: AttemptOutcome,
  input: { attempt: number; delaysMs: readonly number[]; random: number },
): NextStep {
  if (outcome.status === 'delivered') return { state: 'delivered' };
  if (outcome.errorClass === 'gone') return { state: 'dead', disableEndpoint: true };
  if (outcome.errorClass === 'worker_stopped') return { state: 'pending', delayMs: 0 };
  const delayMs = retryDelayMs({ ...input, retryAfterMs: outcome.retryAfterMs });
  return delayMs === undefined ? { state: 'dead', disableEndpoint: false } : { state: 'pending', delayMs };
}
