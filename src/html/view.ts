/** How figures and instants are shown to one reader: what the server knows is in UTC and in minor units. */
export interface View {
  /** IANA name. */
  readonly zone: string;
  /** BCP 47. */
  readonly locale: string;
}

export interface Money {
  /** Minor units. */
  readonly cents: bigint;
  readonly currency: string;
  /** The currency's exponent: 2 where a cent is a hundredth. */
  readonly decimalPlaces: number;
}

/** `12,345.67`, as the locale writes it, whatever the size: nothing passes through a floating-point number. */
export function formatCents({ cents, decimalPlaces }: Omit<Money, 'currency'>, { locale }: View): string {
  return visible(
    new Intl.NumberFormat(locale, {
      minimumFractionDigits: decimalPlaces,
      maximumFractionDigits: decimalPlaces,
    }).format(decimalText(cents, decimalPlaces)),
  );
}

/** As `formatCents`, with the currency's code beside it, which unlike its sign is never another country's. */
export function formatMoney(money: Money, view: View): string {
  return `${formatCents(money, view)} ${money.currency}`;
}

/** `-1234.56` for machines: no separators, a point. */
export function decimalText(cents: bigint, decimalPlaces: number): `${number}` {
  const digits = (cents < 0n ? -cents : cents).toString().padStart(decimalPlaces + 1, '0');
  const whole = digits.slice(0, digits.length - decimalPlaces);
  const fraction = decimalPlaces === 0 ? '' : `.${digits.slice(-decimalPlaces)}`;
  return `${cents < 0n ? '-' : ''}${whole}${fraction}` as `${number}`;
}

export function formatCount(count: number | bigint, { locale }: View): string {
  return visible(new Intl.NumberFormat(locale).format(count));
}

/** Locales that are written from right to left put marks around a minus, which our pages, written from left to right, would show as code points. */
const visible = (figure: string): string => figure.replaceAll(/\p{Cf}/gu, '');

/** `31 Oct 2026, 14:05:09 CET`; one that no calendar of JavaScript reaches is shown as the database prints it. */
export function formatInstant(at: Date | string, { zone, locale }: View): string {
  const date = at instanceof Date ? at : new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  // An era is said where one would take it for ours.
  const era = date.getUTCFullYear() < 1 ? ({ era: 'short' } as const) : {};
  return new Intl.DateTimeFormat(locale, {
    timeZone: zone,
    year: 'numeric',
    month: 'short',
    day: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hourCycle: 'h23',
    timeZoneName: 'short',
    ...era,
  }).format(date);
}

const SPANS: readonly (readonly [unit: string, seconds: number])[] = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
];

/** `3 d 4 h`, `12 min`, `1.4 s`, `45 ms`, `0.3 ms`: the two largest units. */
export function formatSpan(seconds: number): string {
  if (seconds > 0 && seconds < 1) return `${Math.round(seconds * 10_000) / 10} ms`.replace(/^(\d{2,})\.\d/, '$1');
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  const at = SPANS.findIndex(([, each]) => seconds >= each);
  const [unit, each] = SPANS[at] ?? ['s', 1];
  const [nextUnit, next] = SPANS[at + 1] ?? ['', 0];
  const rest = next === 0 ? 0 : Math.floor((seconds % each) / next);
  return rest === 0
    ? `${Math.floor(seconds / each)} ${unit}`
    : `${Math.floor(seconds / each)} ${unit} ${rest} ${nextUnit}`;
}

export function isZone(zone: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: zone }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}

/** The locale as written, where this Node can write figures so; undefined where it cannot. */
export function knownLocale(locale: string): string | undefined {
  try {
    return Intl.NumberFormat.supportedLocalesOf(locale)[0];
  } catch {
    return undefined;
  }
}
