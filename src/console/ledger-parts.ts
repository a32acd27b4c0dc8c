import { html, type Markup } from '../html/markup.ts';
import type { View } from '../html/view.ts';
import type { Account } from '../ledger/list-accounts.ts';
import type { Column } from './list.ts';
import { badge, cents, linkedId, type Tone } from './parts.ts';

// What accounts and transactions are shown by, wherever they are.

const STATUS_TONES: Readonly<Record<Account['status'], Tone>> = { open: 'good', frozen: 'warn', closed: 'plain' };

export const statusBadge = (status: Account['status']): Markup => badge(status, STATUS_TONES[status]);

/** Whose an account is, with the way to all that are his. */
export function ownerOf({ userId, organizationId }: Pick<Account, 'userId' | 'organizationId'>): Markup | string {
  const [kind, id] = userId === null ? ['organization', organizationId] : ['user', userId];
  return id === null ? 'the platform' : html`${kind} ${linkedId(`/accounts?owner=${id}`, id)}`;
}

/** Whose it is, in short: accounts of several may have one name. */
export const kindOfOwner = ({ userId, organizationId }: Pick<Account, 'userId' | 'organizationId'>): string =>
  userId !== null ? 'of a user' : organizationId !== null ? 'of an organization' : 'of the platform';

/** What somebody wrote to something, and what it refers to. */
export function whatOf({ description, referenceType, referenceId }: Described): Markup {
  const reference = [referenceType, referenceId].filter((part) => part !== null).join(' ');
  return html`${cut(description ?? '')}${reference === '' ? '' : html` <span class="faint">${cut(reference)}</span>`}`;
}

interface Described {
  readonly description: string | null;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
}

const MOST_CHARACTERS = 300;
const cut = (text: string): string => (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text);

/** An amount in the column of its side. @param signed debit positive */
export function sides<Row>(
  signed: (row: Row) => bigint,
  decimalPlaces: (row: Row) => number,
  view: View,
): readonly Column<Row>[] {
  const side = (name: string, title: string, sign: bigint): Column<Row> => {
    const amount = (row: Row) => (sign * signed(row) > 0n ? sign * signed(row) : null);
    return {
      name,
      title,
      isNumber: true,
      text: amount,
      cell: (row) => {
        const shown = amount(row);
        return shown === null ? '' : cents({ cents: shown, decimalPlaces: decimalPlaces(row) }, view);
      },
    };
  };
  return [side('debit_cents', 'Debit', 1n), side('credit_cents', 'Credit', -1n)];
}
