import type { Outcome } from './outcome.ts';
import type { AccessResult } from './run.ts';

/** An access that does not give somebody the same as before. */
export interface AccessDifference {
  readonly number: number;
  readonly caller: string;
  readonly before: Outcome | null;
  readonly after: Outcome | null;
  /** In words. */
  readonly what: string;
}

/** Where the results are not the same. What varied in either of two runs is not compared. Pure. */
export function compareAccesses(
  before: readonly AccessResult[],
  after: readonly AccessResult[],
): readonly AccessDifference[] {
  const keyOf = ({ number, caller }: AccessResult) => `${number} ${caller}`;
  const others = new Map(after.map((result) => [keyOf(result), result.outcome]));
  const known = new Set(before.map(keyOf));
  return [
    ...before.flatMap(({ number, caller, outcome }) => {
      const other = others.get(keyOf({ number, caller, outcome })) ?? null;
      const what = other === null ? 'was not run any more' : difference(outcome, other);
      return what === undefined ? [] : [{ number, caller, before: outcome, after: other, what }];
    }),
    ...after
      .filter((result) => !known.has(keyOf(result)))
      .map(({ number, caller, outcome }) => ({
        number,
        caller,
        before: null,
        after: outcome,
        what: 'was not run before',
      })),
  ];
}

/** In words, what is other in the second; undefined where nothing is. */
export function difference(before: Outcome, after: Outcome): string | undefined {
  if (before.status === 'refused' && after.status === 'refused') {
    const isSame = before.by === after.by && before.code === after.code && before.message === after.message;
    return isSame ? undefined : `was ${refusalText(before)}, is ${refusalText(after)}`;
  }
  if (before.status === 'refused') return `was ${refusalText(before)}, is answered`;
  if (after.status === 'refused') return `was answered, is ${refusalText(after)}`;
  const isCountSame = before.count === after.count || before.count === null || after.count === null;
  if (!isCountSame) return `${before.count} rows became ${after.count}`;
  if (before.total !== after.total) return `a count of ${before.total} became ${after.total}`;
  if (before.effects.join() !== after.effects.join()) {
    return `wrote ${effectsText(before.effects)} and now ${effectsText(after.effects)}`;
  }
  const differing = differingPlaces(before.places, after.places);
  if (differing.length > 0) return `differs in ${differing.map((path) => path || 'its value').join(', ')}`;
  const isSame = before.digest === after.digest || !isVaryingSame(before.places, after.places);
  return isSame ? undefined : 'has the same values in other rows, or rows in another order';
}

const refusalText = ({ code, message }: { code: string; message: string }): string =>
  `refused with ${code}: ${message}`;
const effectsText = (effects: readonly string[]): string => (effects.length === 0 ? 'nothing' : effects.join(', '));

type Places = Readonly<Record<string, string | null>>;

/** Places that are on one side alone, or hold other values, unless they vary. */
const differingPlaces = (before: Places, after: Places): readonly string[] =>
  [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(
    (path) => before[path] !== after[path] && before[path] !== null && after[path] !== null,
  );

/** Digests of whole rows can be compared where the same places were left out of both. */
const isVaryingSame = (before: Places, after: Places): boolean =>
  Object.keys(before).every((path) => (before[path] === null) === (after[path] === null));
