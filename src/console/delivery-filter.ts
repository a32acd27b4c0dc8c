import { z } from 'zod';
import { AppError } from '../errors.ts';
import { html, type Markup } from '../html/markup.ts';
import { isDate, isInstant } from '../ledger/instants.ts';
import type { DeliveryFilter } from '../outbox/delivery-filter.ts';
import { uuid } from './query.ts';

const instantText = z
  .string()
  .refine((text) => isDate(text) || isInstant(text), {
    error: 'an instant with its offset, such as 2026-03-31T12:00:00Z, or a day of UTC, such as 2026-03-31',
  })
  .optional();

/** By which deliveries, and the messages behind them, are narrowed, as it is typed. */
export const DELIVERY_FILTER = {
  topic: z.string().max(200).optional(),
  endpoint: uuid.optional(),
  organization: uuid.optional(),
  from: instantText,
  to: instantText,
} as const;

export interface TypedFilter {
  readonly topic?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly organization?: string | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

/** As the outbox takes it: a day is meant from its beginning to its end. @throws AppError CONSOLE_INVALID */
export function filterOf({ topic, endpoint, organization, from, to }: TypedFilter): DeliveryFilter {
  const filter = {
    topic,
    endpointId: endpoint,
    organizationId: organization,
    from: from === undefined ? undefined : beginningOf(from),
    to: to === undefined ? undefined : afterEndOf(to),
  };
  if (filter.from !== undefined && filter.to !== undefined && Date.parse(filter.from) >= Date.parse(filter.to)) {
    throw new AppError(
      'CONSOLE_INVALID',
      `From ${from} is not before to ${to}: nothing is between them. Give a later end.`,
    );
  }
  return filter;
}

const DAY_MS = 86_400_000;
const LAST_DAY = '9999-12-31';

const beginningOf = (text: string): string => (isDate(text) ? `${text}T00:00:00Z` : text);

function afterEndOf(text: string): string {
  if (!isDate(text)) return text;
  if (text === LAST_DAY) return `${text}T23:59:59.999999Z`;
  return new Date(Date.parse(`${text}T00:00:00Z`) + DAY_MS).toISOString();
}

/** The address of a page with the filter, and what else it is asked for. */
export function withFilter(path: string, filter: TypedFilter, others: Readonly<Record<string, string>> = {}): string {
  const query = new URLSearchParams(fieldsOf(filter));
  for (const [name, value] of Object.entries(others)) query.set(name, value);
  return query.size === 0 ? path : `${path}?${query}`;
}

/** The filter as the fields of a form, or of a query. */
export function fieldsOf({ topic, endpoint, organization, from, to }: TypedFilter): Record<string, string> {
  const all = Object.entries({ topic, endpoint, organization, from, to });
  return Object.fromEntries(all.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

interface FilterForm {
  readonly action: string;
  readonly label: string;
  readonly isNeeded?: readonly (keyof TypedFilter)[];
  /** Without it. */
  readonly leftOut?: readonly (keyof TypedFilter)[];
  /** Further inputs, before the others. */
  readonly inside?: Markup;
}

const INPUTS = [
  ['topic', 'Topic', 'ticket.*'],
  ['endpoint', 'Endpoint', 'id'],
  ['organization', 'Organization', 'id'],
  ['from', 'Announced from', '2026-03-31'],
  ['to', 'to', '2026-03-31T12:00Z'],
] as const;

/** Asks for a filter. */
export function filterForm(
  filter: TypedFilter,
  { action, label, isNeeded = [], leftOut = [], inside }: FilterForm,
): Markup {
  return html`<form class="filter" method="get" action="${action}">${inside ?? ''}
${INPUTS.filter(([name]) => !leftOut.includes(name)).map(
  ([name, title, example]) =>
    html`<label>${title} <input name="${name}" value="${filter[name] ?? ''}" placeholder="${example}"${isNeeded.includes(name) ? html` required` : ''}></label>`,
)}
<button type="submit">${label}</button></form>`;
}
