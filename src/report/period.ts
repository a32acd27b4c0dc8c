import { AppError } from '../errors.ts';
import { isDate } from '../ledger/instants.ts';
import type { Step } from '../ledger/period-figures.ts';

/** What a report is asked for: whole days, in whatever zone they are days of. */
export interface AskedPeriod {
  readonly kind: 'month' | 'quarter' | 'year' | 'days';
  /** As it was asked for: it names files. */
  readonly text: string;
  readonly firstDay: string;
  /** Included. */
  readonly lastDay: string;
}

const MONTHS_A_QUARTER = 3;

/**
 * Reads `2026-10`, `2026-Q4`, `2026` or `2026-10-01..2026-10-31`, whose last day is included.
 * @throws AppError REPORT_PERIOD_INVALID
 */
export function parsePeriod(text: string): AskedPeriod {
  const [, year = '', month, quarter] = /^(\d{4})(?:-(0[1-9]|1[0-2])|-Q([1-4]))?$/i.exec(text) ?? [];
  if (year !== '' && year !== '0000') {
    if (month !== undefined) return ofMonths('month', text, { year, first: Number(month), last: Number(month) });
    if (quarter !== undefined) {
      const last = Number(quarter) * MONTHS_A_QUARTER;
      return ofMonths('quarter', text.toUpperCase(), { year, first: last - MONTHS_A_QUARTER + 1, last });
    }
    return ofMonths('year', text, { year, first: 1, last: 12 });
  }
  const [firstDay = '', lastDay = '', ...rest] = text.split('..');
  if (rest.length > 0 || !isDate(firstDay) || !isDate(lastDay)) throw refused(text, 'is no period');
  if (firstDay > lastDay) throw refused(text, 'ends before it begins');
  return { kind: 'days', text, firstDay, lastDay };
}

function refused(text: string, why: string): AppError {
  return new AppError(
    'REPORT_PERIOD_INVALID',
    `${JSON.stringify(text.slice(0, 100))} ${why}. Give a month 2026-10, a quarter 2026-Q4, a year 2026, or days 2026-10-01..2026-10-31, of the years 0001 to 9999.`,
  );
}

function ofMonths(
  kind: AskedPeriod['kind'],
  text: string,
  { year, first, last }: { year: string; first: number; last: number },
): AskedPeriod {
  const month = (number: number) => `${year}-${String(number).padStart(2, '0')}`;
  return { kind, text, firstDay: `${month(first)}-01`, lastDay: `${month(last)}-${lastOf(Number(year), last)}` };
}

/** Of a month from 1 to 12. */
function lastOf(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

const DAY_MS = 86_400_000;
/** A year by days can be drawn, and a lifetime by months. */
const MOST_POINTS = 400;
const DAYS_A_MONTH = 30;

/** How its turnover is drawn. */
export function stepOf({ firstDay, lastDay }: AskedPeriod): Step {
  const days = (Date.parse(lastDay) - Date.parse(firstDay)) / DAY_MS + 1;
  if (days <= MOST_POINTS) return 'day';
  return days <= MOST_POINTS * DAYS_A_MONTH ? 'month' : 'year';
}

/** `October 2026`, `2026 Q4`, `2026`, `1 Oct 2026 – 31 Oct 2026`, as the locale writes it. */
export function periodName({ kind, text, firstDay, lastDay }: AskedPeriod, locale: string): string {
  if (kind === 'year') return text;
  if (kind === 'quarter') return text.replace('-', ' ');
  const written = (day: string, options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat(locale, { timeZone: 'UTC', year: 'numeric', ...options }).format(new Date(day));
  if (kind === 'month') return written(firstDay, { month: 'long' });
  return [firstDay, lastDay].map((day) => written(day, { month: 'short', day: 'numeric' })).join(' – ');
}
