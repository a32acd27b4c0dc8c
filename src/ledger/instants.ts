/**
 * An instant as ISO 8601 text with its offset, such as `2026-03-31T12:00:00.123456Z`. Text and not a `Date`, which has
 * milliseconds: entries are recorded to the microsecond, and one recorded at .123456 would not be at or before .123.
 */
export type Instant = string;

const DATE = /^\d{4}-\d\d-\d\d$/;
const INSTANT = /^(\d{4}-\d\d-\d\d)[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-5])(:?[0-5]\d)?)$/;

/** Whether the text is an instant, of a day that there is. */
export function isInstant(text: string): boolean {
  const [, date] = INSTANT.exec(text) ?? [];
  return date !== undefined && isDate(date);
}

/** Whether the text is a day that there is, of the years 0001 to 9999. */
export function isDate(text: string): boolean {
  if (!DATE.test(text) || text.startsWith('0000')) return false;
  // Date takes 30 February for 2 March.
  const at = new Date(`${text}T00:00:00Z`);
  return !Number.isNaN(at.getTime()) && at.toISOString().startsWith(text);
}

const DAY_MS = 86_400_000;

/** Undefined after 9999-12-31: nothing of ours is read beyond it. */
export function dayAfter(date: string): string | undefined {
  const next = new Date(Date.parse(`${date}T00:00:00Z`) + DAY_MS).toISOString();
  return next.startsWith('+') ? undefined : next.slice(0, 'yyyy-mm-dd'.length);
}
