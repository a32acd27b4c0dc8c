import type { AttemptOutcome } from './attempt.ts';
import type { NextStep } from './attempts.ts';
import { MESSAGE_FAULTS } from './health.ts';
import { retryDelayMs } from './retry.ts';

/**
 * What follows from an attempt's outcome:
 *
 *   delivered         → delivered
 *   gone (410)        → dead, and the endpoint is disabled
 *   message unusable  → dead, as where its payload does not fit: it would not the next time either
 *   worker stopped    → pending, due at once
 *   failed            → pending by the schedule, or dead when it is used up
 *
 * Where the schedule stands tell the attempts that the endpoint had a part in: those that a worker lost or broke off are
 * none of its.
 */
export function decideNextStep(
  outcome: AttemptOutcome,
  input: { scheduleAttempt: number; delaysMs: readonly number[]; random: number },
): NextStep {
  if (outcome.status === 'delivered') return { state: 'delivered' };
  if (outcome.errorClass === 'gone') return { state: 'dead', disableEndpoint: true };
  if (MESSAGE_FAULTS.has(outcome.errorClass)) return { state: 'dead', disableEndpoint: false };
  if (outcome.errorClass === 'worker_stopped') return { state: 'pending', delayMs: 0 };
  const delayMs = retryDelayMs({ ...input, retryAfterMs: outcome.retryAfterMs });
  return delayMs === undefined ? { state: 'dead', disableEndpoint: false } : { state: 'pending', delayMs };
}
