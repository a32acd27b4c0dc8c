import type { Step, Turnover } from '../ledger/period-figures.ts';
import type { Point } from './charts.ts';
import type { AskedPeriod } from './period.ts';

/** Every day, month or year of the period, those in which nothing moved too. */
export function pointsOf(
  turnover: readonly Turnover[],
  { asked, step }: { readonly asked: AskedPeriod; readonly step: Step },
  locale: string,
): readonly Point[] {
  const moved = new Map(turnover.map(({ day, debitedCents }) => [day, debitedCents]));
  const label = new Intl.DateTimeFormat(locale, { timeZone: 'UTC', ...LABELS[step] });
  return firstDays(asked, step).map((day) => ({ label: label.format(day), cents: moved.get(dayOf(day)) ?? 0n }));
}

const LABELS: Readonly<Record<Step, Intl.DateTimeFormatOptions>> = {
  day: { day: 'numeric', month: 'short' },
  month: { month: 'short', year: 'numeric' },
  year: { year: 'numeric' },
};

const dayOf = (day: Date): string => day.toISOString().slice(0, 'yyyy-mm-dd'.length);

/** Of each step; by the calendar alone, without a zone. */
function firstDays({ firstDay, lastDay }: AskedPeriod, step: Step): readonly Date[] {
  const last = new Date(lastDay);
  const day = new Date(firstDay);
  if (step !== 'day') day.setUTCDate(1);
  if (step === 'year') day.setUTCMonth(0);
  const days: Date[] = [];
  // Bounded: `stepOf` chooses the step by how many there are.
  while (day <= last) {
    days.push(new Date(day));
    if (step === 'day') day.setUTCDate(day.getUTCDate() + 1);
    if (step === 'month') day.setUTCMonth(day.getUTCMonth() + 1);
    if (step === 'year') day.setUTCFullYear(day.getUTCFullYear() + 1);
  }
  return days;
}
