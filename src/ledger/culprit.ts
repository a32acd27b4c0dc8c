import type { PostOutcome } from './ledger.ts';

/** What the others of a chain are told of the one that was refused. */
export const linkedTo = (culprit: string, code: string) => `It is linked to ${culprit}, which was refused: ${code}.`;

/**
 * The outcomes of a chain, in which the others name the one that was refused as the caller knows it: the database numbers the
 * transactions of its call.
 */
export function nameCulprit<Outcome extends PostOutcome>(
  chain: readonly Outcome[],
  nameOf: (outcome: Outcome, nth: number) => string,
): Outcome[] {
  const nth = chain.findIndex((outcome) => outcome.status === 'rejected' && !isOfLink(outcome));
  const culprit = chain[nth];
  if (culprit?.status !== 'rejected') return [...chain];
  const message = linkedTo(nameOf(culprit, nth), culprit.code);
  return chain.map((outcome) => (isOfLink(outcome) ? { ...outcome, message } : outcome));
}

const isOfLink = (outcome: PostOutcome) => outcome.status === 'rejected' && outcome.code === 'LEDGER_LINK_FAILED';
