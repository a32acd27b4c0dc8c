import type { Random } from './random.ts';

/** Microseconds since 1970, UTC: what a timestamptz holds, and below 2^53 until the year 2255. */
export type Micros = number;

export const MICROS_PER_SECOND = 1_000_000;
export const MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND;

/** The legacy platform's whole history, the same whenever the fill runs. */
export const HISTORY_STARTS: Micros = Date.UTC(2024, 0, 1) * 1_000;
const HISTORY_ENDS: Micros = Date.UTC(2026, 9, 31) * 1_000;

/** Before it the code wrote other reference types. */
export const REFERENCES_RENAMED: Micros = Date.UTC(2025, 0, 1) * 1_000;

/** Wallets open in the first two years, so that most have time for a history. */
export function openingTime(random: Random): Micros {
  return (
    HISTORY_STARTS + Math.floor(random.fraction() * 730) * MICROS_PER_DAY + random.below(86_400) * MICROS_PER_SECOND
  );
}

/** The next event's time, such that `eventsLeft` more fit before the history ends. */
export function nextTime(after: Micros, eventsLeft: number, random: Random): Micros {
  const gap = ((HISTORY_ENDS - after) / (eventsLeft + 1)) * 2 * random.fraction();
  return Math.min(after + Math.floor(gap) + random.below(1_000), HISTORY_ENDS);
}

/** As COPY reads it, with its zone, so that no setting of the session matters. */
export function timestamp(at: Micros): string {
  const micros = at % 1_000;
  return `${new Date((at - micros) / 1_000).toISOString().slice(0, -1)}${String(micros).padStart(3, '0')}Z`;
}
