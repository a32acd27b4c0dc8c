import type { Ratio } from './statistics.ts';

/** `0.412 ms`, `12.3 ms`, `4.21 s`: three digits that mean something. */
export function formatMs(ms: number): string {
  if (ms >= 1_000) return `${(ms / 1_000).toPrecision(3)} s`;
  return ms >= 100 ? `${Math.round(ms)} ms` : `${ms.toPrecision(3)} ms`;
}

/** How many times as fast: `12.4×`, `0.51×`. */
export const formatTimes = (ratio: number): string =>
  `${ratio >= 100 ? Math.round(ratio).toString() : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2)}×`;

/** `28.2× to 59.2×, 95 %`: as sure as that. */
export const formatSpan = ({ low, high, level }: Omit<Ratio, 'ratio'>): string =>
  `${formatTimes(low)} to ${formatTimes(high)}, ${Math.floor(level * 100)} %`;

export const formatShare = (share: number): string => `${Math.round(share * 100)} %`;

export const formatBytes = (bytes: number): string =>
  bytes < 1_000_000 ? `${Math.ceil(bytes / 1_000)} kB` : `${Math.round(bytes / 1_000_000)} MB`;
