import { isDeepStrictEqual } from 'node:util';
import { type Change, TAX_CORRECTIONS, TAX_OMISSIONS } from './corrections.ts';
import type { Row } from './table.ts';

interface Rate {
  readonly type: string;
  /** A part of one, by JSON a double. */
  readonly rate: number;
  /** What held until an instant, by that instant. */
  readonly before?: Readonly<Record<string, { readonly rate: number }>>;
}

/** As the package has it. What a region takes comes on top of its country's rate, or off it where it is negative. */
export interface Jurisdiction extends Rate {
  readonly states?: Readonly<Record<string, Rate>>;
}

/** A rate in ten-thousandths of a percent, which is exact, and its first day. */
interface Period {
  readonly units: number;
  readonly from: string | null;
}

const DECIMALS_OF_A_PERCENT = 4;
const UNITS_PER_PERCENT = 10 ** DECIMALS_OF_A_PERCENT;
/** Midnight in Europe is written as 21:00 or 22:00 of the day before, elsewhere as it is. */
const AHEAD_OF_UTC_MS = 3 * 3_600_000;

/** The standard rates, with those of regions, each for the days it holds. A region's row says all that is owed there. */
export function taxRates(jurisdictions: Readonly<Record<string, Jurisdiction>>): { rows: Row[]; faults: string[] } {
  const faults: string[] = [];
  for (const [kind, codes] of [
    ['correction', TAX_CORRECTIONS],
    ['omission', TAX_OMISSIONS],
  ] as const) {
    for (const code of Object.keys(codes)) {
      if (jurisdictions[code] === undefined)
        faults.push(`tax_rates ${code}: the package has it no more, drop the ${kind}`);
    }
  }
  const rows = Object.entries(jurisdictions).flatMap(([country, jurisdiction]) => {
    if (TAX_OMISSIONS[country] !== undefined) return [];
    const periods = corrected(country, periodsOf(jurisdiction), faults);
    const regions = Object.entries(jurisdiction.states ?? {});
    return [
      ...rowsOfPeriods({ country, region: null, type: jurisdiction.type }, periods),
      ...regions.flatMap(([region, rate]) =>
        rowsOfPeriods({ country, region, type: typeInRegion(rate.type) }, sumOf(periods, periodsOf(rate))),
      ),
    ];
  });
  return { rows, faults };
}

function corrected(country: string, periods: readonly Period[], faults: string[]): readonly Period[] {
  const correction = TAX_CORRECTIONS[country];
  if (correction === undefined) return periods;
  const says = periods.map(({ units, from }): Change => [percentText(units), from]);
  if (!isDeepStrictEqual(says, correction.says)) {
    faults.push(
      `tax_rates ${country}: the package says ${JSON.stringify(says)}, the correction is of ${JSON.stringify(correction.says)}: look again`,
    );
  }
  return correction.is.map(([percent, from]) => ({ units: unitsOf(percent), from }));
}

/** The newest first. */
function periodsOf({ rate, before = {} }: Rate): readonly Period[] {
  const changes = Object.keys(before).sort();
  const rates = [...changes.map((instant) => before[instant]?.rate ?? rate), rate];
  return rates.map((part, n): Period => ({ units: unitsOfPart(part), from: dayOf(changes[n - 1]) })).reverse();
}

function dayOf(instant: string | undefined): string | null {
  if (instant === undefined) return null;
  return new Date(Date.parse(instant) + AHEAD_OF_UTC_MS).toISOString().slice(0, 'yyyy-mm-dd'.length);
}

/** Both rates together, from each day on which one of them changes. */
function sumOf(one: readonly Period[], other: readonly Period[]): readonly Period[] {
  const days = [...new Set([...one, ...other].map(({ from }) => from ?? ''))].sort().reverse();
  const at = (periods: readonly Period[], day: string) => periods.find(({ from }) => (from ?? '') <= day)?.units ?? 0;
  return days.map((day) => ({ units: at(one, day) + at(other, day), from: day === '' ? null : day }));
}

// In Canada some provinces have their own tax beside the federal one, others one tax for both.
const typeInRegion = (type: string) => (type === 'pst' || type === 'qst' ? `gst_${type}` : type);

function rowsOfPeriods(
  { country, region, type }: { readonly country: string; readonly region: string | null; readonly type: string },
  periods: readonly Period[],
): Row[] {
  const place = region === null ? country : `${country}-${region}`;
  return periods.map(({ units, from }, n) => ({
    id: from === null ? place : `${place}@${from}`,
    country_code: country,
    region_code: region,
    tax_type: units === 0 ? 'none' : type,
    rate_percent: percentText(units),
    valid_from: from,
    valid_until: periods[n - 1]?.from ?? null,
  }));
}

/** Of a part of one. By its shortest decimal text: 0.09975 × 100 is not 9.975. */
function unitsOfPart(part: number): number {
  const [, sign = '', whole = '', decimals = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(String(part)) ?? [];
  const digits = decimals.padEnd(2 + DECIMALS_OF_A_PERCENT, '0');
  if (whole === '' || digits.length > 2 + DECIMALS_OF_A_PERCENT)
    throw new Error(`a rate of ${part} has too many digits`);
  return Number(`${sign}${whole}${digits}`);
}

function unitsOf(percent: string): number {
  const [whole = '', decimals = ''] = percent.split('.');
  return Number(`${whole}${decimals.padEnd(DECIMALS_OF_A_PERCENT, '0')}`);
}

function percentText(units: number): string {
  const decimals = String(units % UNITS_PER_PERCENT)
    .padStart(DECIMALS_OF_A_PERCENT, '0')
    .replace(/0+$/, '');
  return `${Math.trunc(units / UNITS_PER_PERCENT)}${decimals === '' ? '' : `.${decimals}`}`;
}
