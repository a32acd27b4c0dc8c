import type { CheckResult } from '../../../db/checks.ts';

/** What is no fault, and is to be known. */
export interface Note {
  readonly kind: 'rows written' | 'rows went' | 'narrowed' | 'not compared' | 'left out' | 'changed since';
  readonly text: string;
}

/** What was found, by the check that it concerns. */
export interface Found {
  readonly faults: readonly string[];
  readonly notes: readonly Note[];
}

export const NOTHING: Found = { faults: [], notes: [] };
export const fault = (text: string): Found => ({ faults: [text], notes: [] });
export const note = (kind: Note['kind'], text: string): Found => ({ faults: [], notes: [{ kind, text }] });
export const together = (found: readonly Found[]): Found => ({
  faults: found.flatMap(({ faults }) => faults),
  notes: found.flatMap(({ notes }) => notes),
});

const NAMED_FAULTS = 5;

export function verdictOf(
  { check, unit, examined, seconds }: Pick<CheckResult, 'check' | 'unit' | 'examined' | 'seconds'>,
  faults: readonly string[],
): CheckResult {
  return {
    check,
    unit,
    examined,
    seconds,
    holds: faults.length === 0,
    faults: BigInt(faults.length),
    first: faults.slice(0, NAMED_FAULTS),
  };
}
