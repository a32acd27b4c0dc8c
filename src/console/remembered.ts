/** Something that was read, and when. */
export interface Read<T> {
  readonly value: T;
  readonly readAt: Date;
}

/** What is read sooner than this is read each time. */
const CHEAP_MS = 50;
/** One who looks again and again keeps the server busy with this for a twentieth of the time. */
const REST_FACTOR = 20;
/** Nobody is shown anything older, however long it takes. */
const OLDEST_MS = 30_000;

/**
 * Reads what is dear to read no more often than it is worth: what was read is shown again, with its instant, for twenty times as long as
 * reading it took. Whoever asks while it is being read gets the same answer.
 */
export function remembering<Key, T>(
  read: (key: Key) => Promise<T>,
  clock: { readonly now: () => number } = Date,
): (key: Key) => Promise<Read<T>> {
  const kept = new Map<Key, { reading: Promise<Read<T>>; staleAt: number }>();
  return (key) => {
    const known = kept.get(key);
    if (known !== undefined && clock.now() < known.staleAt) return known.reading;
    const beganAt = clock.now();
    const reading = read(key).then((value) => {
      const tookMs = clock.now() - beganAt;
      entry.staleAt = tookMs < CHEAP_MS ? 0 : beganAt + tookMs + Math.min(OLDEST_MS, tookMs * REST_FACTOR);
      return { value, readAt: new Date(beganAt) };
    });
    const entry = { reading, staleAt: Number.POSITIVE_INFINITY };
    kept.set(key, entry);
    // What failed is tried again by whoever asks next.
    reading.catch(() => kept.delete(key));
    return reading;
  };
}
