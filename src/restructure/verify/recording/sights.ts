import { type Found, fault, NOTHING, note, together } from './findings.ts';
import type { RowsState } from './rows.ts';
import { type Seen, type Sight, SLOW } from './viewers.ts';
import { WRITE_VERBS, type Writes } from './writes.ts';

/** What one viewer saw of one table, what he sees by its old name, and what by the new where it has one. */
export interface SightThenAndNow {
  /** `public.orders: authenticated as 5f…` */
  readonly what: string;
  readonly was: Seen;
  readonly now: Sight;
  readonly byNewName: Sight | null;
  /** What he might write of the rows that he saw; null where that is not known. */
  readonly wrote: Writes | null;
  /** What became of the table's rows. */
  readonly rows: RowsState;
  /** Whether policies came onto the table that are there to narrow what is seen. */
  readonly isIsolated: boolean;
  /** Tables that its policies read, or by which it is found out who belongs to what, and that were written since. */
  readonly writtenElsewhere: readonly string[];
}

/**
 * Where a table's rows are the same, so is what each viewer sees, but for policies that were put there to show less. Where they are not, it
 * cannot be compared row by row; but of rows that are older than the recording nobody may see more than before.
 */
export function compareSight(sight: SightThenAndNow): Found {
  const { what, was, now, rows, isIsolated, writtenElsewhere } = sight;
  const is = now.seen;
  if (was === SLOW || is === SLOW)
    return note('left out', `${what}: looking at its rows takes too long; see --patience`);
  if (isSame(was, is)) return NOTHING;
  const difference = `${what} saw ${seenText(was, is)}, and sees ${seenText(is, was)}`;
  if (isMore(was, is)) return moreFound(sight, difference);
  // An error that is no refusal narrows nothing: it is a policy, or what it calls, that does not work.
  if (typeof is === 'string') return isIsolated && is === REFUSED ? note('narrowed', difference) : fault(difference);
  const isNarrower = countOf(is) < countOf(was);
  if (isIsolated && isNarrower) return note('narrowed', difference);
  if (rows !== 'same') return note('not compared', `${difference}: its rows were written since`);
  if (writtenElsewhere.length === 0) return fault(difference);
  return note('not compared', `${difference}: ${writtenElsewhere.join(', ')} was written since`);
}

const REFUSED = '42501';

function moreFound({ was, now, byNewName, rows, what, writtenElsewhere }: SightThenAndNow, difference: string): Found {
  const older = byNewName?.older ?? now.older;
  const because = writtenElsewhere.length === 0 ? '' : ` (${writtenElsewhere.join(', ')} was written since)`;
  if (rows === 'same' || typeof was === 'string') return fault(`${difference}${because}`);
  if (older !== null && older > countOf(was))
    return fault(`${what} saw ${countOf(was) || 'no'} rows, and sees ${older} rows of that time${because}`);
  return note('not compared', `${difference}: its rows were written since`);
}

/** What may be written, verb by verb, as far as he was, and is, let at the rows at all. */
export function compareWrites(sight: SightThenAndNow): Found {
  const { wrote, now, byNewName, what } = sight;
  const { writes } = byNewName ?? now;
  if (wrote === null || writes === null) {
    // Whoever is refused at the rows is compared by what he sees.
    const isKnown =
      (wrote ?? writes) === null || typeof sight.was === 'string' || typeof (byNewName ?? now).seen === 'string';
    return isKnown ? NOTHING : note('not compared', `${what}: its policies for writing could not be asked`);
  }
  const found = WRITE_VERBS.map((verb, at) => {
    const [was, is] = [wrote[at] ?? 0, writes[at] ?? 0];
    return compareCounts(sight, {
      was,
      is,
      difference: `${what} might ${verb} ${was || 'no'} rows, and may ${verb} ${is || 'none'}`,
    });
  });
  return together(found);
}

function compareCounts(
  { rows, isIsolated, writtenElsewhere }: SightThenAndNow,
  { was, is, difference }: { was: number; is: number; difference: string },
): Found {
  if (was === is) return NOTHING;
  if (is < was && isIsolated) return note('narrowed', difference);
  if (rows !== 'same') return note('not compared', `${difference}: its rows were written since`);
  if (is > was || writtenElsewhere.length === 0) return fault(difference);
  return note('not compared', `${difference}: ${writtenElsewhere.join(', ')} was written since`);
}

/** That the old name shows what the new one does. */
export function compareSightNames({ what, now, byNewName }: SightThenAndNow): Found {
  if (byNewName === null || isSame(now.seen, byNewName.seen)) return NOTHING;
  if (now.seen === SLOW || byNewName.seen === SLOW) return NOTHING;
  return fault(
    `${what} sees ${seenText(now.seen, byNewName.seen)} by the old name, and ${seenText(byNewName.seen, now.seen)} by the new`,
  );
}

const isSame = (one: Seen, other: Seen): boolean => JSON.stringify(one) === JSON.stringify(other);

const isMore = (was: Seen, now: Seen): boolean =>
  typeof now !== 'string' && (typeof was === 'string' || now[0] > was[0]);

const countOf = (seen: Seen): number => (typeof seen === 'string' ? 0 : seen[0]);

/** With the sum of hashes where the number of rows alone does not say what differs. */
function seenText(seen: Seen, beside: Seen): string {
  if (typeof seen === 'string') return `nothing but the error ${seen}`;
  if (seen[0] === 0) return 'no rows';
  return `${seen[0]} rows${typeof beside !== 'string' && beside[0] === seen[0] ? ` (${seen[1]})` : ''}`;
}

/** What a role might do with a table, and what it may: `select update(columns)`. */
export function comparePrivileges(
  what: string,
  { was, now, isIsolated }: { was: string; now: string; isIsolated: boolean },
): Found {
  if (was === now) return NOTHING;
  const difference = `${what} might ${was || 'nothing'}, and may ${now || 'nothing'}`;
  const isNarrower = now.split(' ').every((word) => word === '' || ranksOf(was).has(word));
  return isIsolated && isNarrower ? note('narrowed', difference) : fault(difference);
}

/** What of privileges is no more than these: a verb of the whole table is that of some of its columns too. */
const ranksOf = (words: string): ReadonlySet<string> =>
  new Set(words.split(' ').flatMap((word) => [word, `${word}(columns)`]));
