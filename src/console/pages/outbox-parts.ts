import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import type { EndpointBacklog } from '../../outbox/backlog.ts';
import type { DeliveryState } from '../../outbox/deliveries-list.ts';
import { badge, linkedId, type Tone } from '../parts.ts';

const TONES: Readonly<Record<DeliveryState, Tone>> = {
  pending: 'plain',
  queued: 'plain',
  delivering: 'plain',
  delivered: 'good',
  dead: 'bad',
};

export const deliveryState = (state: DeliveryState): Markup => badge(state, TONES[state]);

export const endpointLink = (id: string): Markup => linkedId(`/outbox/endpoints/${id}`, id);

/** A delivery is shown with its message. */
export const deliveryPath = (id: bigint): string => `/outbox/deliveries/${id}`;

/** `1 delivery`, `1,200 deliveries`. */
export const deliveriesText = (count: number, view: View): string =>
  `${formatCount(count, view)} ${count === 1 ? 'delivery' : 'deliveries'}`;

/** As the subject of what becomes of them. */
export const deliveriesAre = (count: number, view: View): string =>
  `${deliveriesText(count, view)} ${count === 1 ? 'is' : 'are'}`;

type Standing = Pick<EndpointBacklog, 'enabled' | 'disabledReason' | 'breaker'> & { readonly isDeleted?: boolean };

/** Whether an endpoint is sent to, in a word. */
export function standingOf({ enabled, disabledReason, breaker, isDeleted = false }: Standing): Markup {
  if (isDeleted) return badge('deleted', 'warn');
  if (!enabled)
    return html`${badge('disabled', 'warn')}${disabledReason === null ? '' : html` <span class="faint">${disabledReason}</span>`}`;
  switch (breaker) {
    case 'closed':
      return badge('enabled', 'good');
    case 'open':
      return badge('breaker open', 'bad');
    case 'half_open':
      return badge('breaker half open', 'warn');
    default:
      return breaker satisfies never;
  }
}

/** Where an instant would be, of what is due at none yet. */
export const inLine = (behind: bigint | null): string =>
  behind === null ? 'after others of its key' : `behind ${behind}`;
