/** A month's first day, `2026-01-01`. */
export type Month = string;

const DAY_MS = 86_400_000;
/** Rows come by clocks that are ahead by no more than this while the past is closed. */
const MARGIN_DAYS = 7;

export const monthOf = (day: Date): Month => `${day.toISOString().slice(0, 7)}-01`;

export function addMonths(month: Month, n: number): Month {
  const date = new Date(`${month}T00:00:00Z`);
  date.setUTCMonth(date.getUTCMonth() + n);
  return monthOf(date);
}

/** Where the past ends: a month that begins in more than a week, so that no clock that is a little ahead reaches it meanwhile. */
export const endOfPast = (today: Date): Month =>
  addMonths(monthOf(new Date(today.getTime() + MARGIN_DAYS * DAY_MS)), 1);

/** From one on, before another. */
export function monthsBetween(from: Month, end: Month): readonly Month[] {
  const months: Month[] = [];
  for (let month = from; month < end; month = addMonths(month, 1)) months.push(month);
  return months;
}
