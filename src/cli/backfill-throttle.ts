import type { ThrottleStatus } from '../replay/pace/pacing.ts';
import type { Pace } from '../replay/pace/throttle.ts';
import { blindness, decimal, percent, whySlow } from '../replay/pace/words.ts';
import { formatCount } from './output.ts';

/** What a progress bar adds while the run is slowed down. */
export function throttleNote({ share, passed }: Pace): string {
  if (share === 1) return '';
  return `   slowed down to ${percent(share)}: ${whySlow(passed)}`;
}

export function throttleLines(throttle: ThrottleStatus | null): string[] {
  if (throttle === null) return [];
  const { share, chunkRows, passed, canaryP99Ms, baselineP99Ms, blind } = throttle;
  const pace = share === 1 ? 'at full speed' : `slowed down to ${percent(share)}, ${whySlow(passed)}`;
  const now = canaryP99Ms === null ? 'not measured yet' : `${decimal(canaryP99Ms)} ms`;
  return [
    `runs ${pace}; chunks of ${formatCount(chunkRows)} rows; p99 of a write ${now}, ${decimal(baselineP99Ms)} ms while the run rests\n`,
    ...blind.map((what) => `  ${blindness(what)}\n`),
  ];
}
