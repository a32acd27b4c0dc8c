import type { Node } from 'libpg-query';

const UNITS_MS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** What a setting that is a time is set to, as PostgreSQL reads it: milliseconds where no unit is given. Of what only a run knows: undefined. */
export function durationMs(value: Node | undefined): number | undefined {
  if (value === undefined || !('A_Const' in value)) return undefined;
  const { ival, fval, sval } = value.A_Const;
  if (ival !== undefined) return ival.ival ?? 0;
  const [, number = '', unit = 'ms'] =
    /^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*$/.exec(fval?.fval ?? sval?.sval ?? '') ?? [];
  return number === '' ? undefined : Number(number) * (UNITS_MS[unit] ?? 1);
}
