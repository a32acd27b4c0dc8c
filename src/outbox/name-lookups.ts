import type { LookupAddress, LookupAllOptions } from 'node:dns';

type Answer = (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void;

export type ResolveName = (hostname: string, options: LookupAllOptions, callback: Answer) => void;

/**
 * The system resolves a few names at a time, for the whole process, and nobody can call it back: half as many as there are threads in
 * libuv's pool (its `slow_work_thread_threshold`), so 32 where bin/liventix made it 64. A name whose server is dead takes one of these
 * places for 10 s and longer, again at each probe of its endpoint.
 */
const MAX_UNPROVEN_AT_ONCE = 24;
const MAX_SLOW_AT_ONCE = 8;
/** Whoever was not resolved in this time is slow. */
const SLOW_MS = 1_000;
const MAX_REMEMBERED = 10_000;

type Kind = 'proven' | 'unproven' | 'slow';

/** How many of a kind, and of those it counts among, are looked up at once. */
const LIMITS: readonly { readonly kinds: readonly Kind[]; readonly max: number }[] = [
  { kinds: ['slow'], max: MAX_SLOW_AT_ONCE },
  { kinds: ['slow', 'unproven'], max: MAX_UNPROVEN_AT_ONCE },
];

interface Lookup {
  readonly hostname: string;
  readonly options: LookupAllOptions;
  readonly answers: Answer[];
}

/**
 * Names that are slow wait for each other and hold up nobody else: a name that was resolved fast the last time always finds a place, one
 * that nothing is known of finds one beside all that are known to be slow. Who asks for a name that is being resolved waits with those
 * who did before.
 */
export function fairLookups(resolve: ResolveName, now: () => number = () => performance.now()): ResolveName {
  const kinds = new Map<string, Kind>();
  const asked = new Map<string, Lookup>();
  const underWay: Record<Kind, number> = { proven: 0, unproven: 0, slow: 0 };
  let waiting: Lookup[] = [];

  const kindOf = ({ hostname }: Lookup): Kind => kinds.get(hostname) ?? 'unproven';
  const hasPlace = (kind: Kind) =>
    LIMITS.filter(({ kinds }) => kinds.includes(kind)).every(
      ({ kinds, max }) => kinds.reduce((sum, each) => sum + underWay[each], 0) < max,
    );

  function begin(lookup: Lookup): void {
    const kind = kindOf(lookup);
    const begunAt = now();
    underWay[kind] += 1;
    resolve(lookup.hostname, lookup.options, (error, addresses) => {
      underWay[kind] -= 1;
      remember(lookup.hostname, { isSlow: now() - begunAt > SLOW_MS, isResolved: error === null });
      asked.delete(lookup.hostname);
      for (const answer of lookup.answers) answer(error, addresses);
      beginWaiting();
    });
  }

  function beginWaiting(): void {
    const before = waiting;
    waiting = [];
    for (const lookup of before) beginOrWait(lookup);
  }

  function beginOrWait(lookup: Lookup): void {
    if (hasPlace(kindOf(lookup))) begin(lookup);
    else waiting.push(lookup);
  }

  // One that does not exist, and is said so at once, costs nobody anything.
  function remember(hostname: string, { isSlow, isResolved }: { isSlow: boolean; isResolved: boolean }): void {
    if (kinds.size >= MAX_REMEMBERED) kinds.clear();
    if (isSlow) kinds.set(hostname, 'slow');
    else if (isResolved) kinds.set(hostname, 'proven');
    else kinds.delete(hostname);
  }

  return (hostname, options, callback) => {
    const others = asked.get(hostname);
    if (others !== undefined) {
      others.answers.push(callback);
      return;
    }
    const lookup = { hostname, options, answers: [callback] };
    asked.set(hostname, lookup);
    beginOrWait(lookup);
  };
}
