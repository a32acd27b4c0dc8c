import { z } from 'zod';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount } from '../../html/view.ts';
import { bookNames } from '../../ledger/books.ts';
import { ACCOUNTS_LOOKED_AT, type AccountSearch, type FoundAccount, findAccounts } from '../../ledger/find-accounts.ts';
import { type AccountType, listAccountTypes } from '../../ledger/history.ts';
import { fromCursor, NUMBER, TEXT, toCursor } from '../cursor.ts';
import { choiceField, filterForm, textField } from '../fields.ts';
import { ownerOf, statusBadge } from '../ledger-parts.ts';
import { exported, type List, listOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { copyable, money } from '../parts.ts';
import { bookNumber, LIST_FIELDS, text, uuid } from '../query.ts';

const STATUSES = ['open', 'frozen', 'closed'] as const;
const MAX_NAME = 100;
const MAX_TYPE = 200;

export const accountsPage = definePage({
  section: 'accounts',
  path: '/accounts',
  query: z.object({
    ...LIST_FIELDS,
    book: bookNumber.optional(),
    type: text(MAX_TYPE).optional(),
    currency: z
      .string()
      .regex(/^[A-Z]{3}$/i, { error: 'three letters, such as USD' })
      .toUpperCase()
      .optional(),
    status: z.enum(STATUSES, { error: STATUSES.join(', ') }).optional(),
    owner: uuid.optional(),
    id: uuid.optional(),
    name: text(MAX_NAME).optional(),
  }),
  show: async (ask, query) => {
    const { book: bookId, owner: ownerId, id: accountId, name: namePrefix, type, currency, status } = query;
    const list = accountList(ask, { bookId, ownerId, accountId, namePrefix, type, currency, status });
    if (query.export !== undefined) return exported(list, query.export);
    const [form, rows] = await Promise.all([searchForm(ask, query), listOf(list, ask, query)]);
    return { title: 'Accounts', body: html`${form}${rows}` };
  },
});

interface Searched {
  readonly book?: number | undefined;
  readonly type?: string | undefined;
  readonly currency?: string | undefined;
  readonly status?: string | undefined;
  readonly owner?: string | undefined;
  readonly id?: string | undefined;
  readonly name?: string | undefined;
}

async function searchForm(
  { reader }: Ask,
  { book, type, currency, status, owner, id, name }: Searched,
): Promise<Markup> {
  const [books, types] = await Promise.all([bookNames(reader), listAccountTypes(reader)]);
  return filterForm([
    textField({ name: 'name', label: 'Name begins with', value: name }),
    choiceField({
      name: 'type',
      label: 'Type',
      value: type,
      choices: types.map(({ type: each }: AccountType) => [each, each]),
    }),
    textField({ name: 'currency', label: 'Currency', value: currency, placeholder: 'USD' }),
    choiceField({ name: 'status', label: 'Status', value: status, choices: STATUSES.map((each) => [each, each]) }),
    choiceField({
      name: 'book',
      label: 'Book',
      value: book?.toString(),
      choices: books.map((each) => [each.bookId.toString(), each.name]),
    }),
    textField({ name: 'owner', label: 'Owner’s id', value: owner, placeholder: 'of a user or an organization' }),
    textField({ name: 'id', label: 'Account’s id', value: id }),
  ]);
}

const accountList = ({ reader, view }: Ask, search: AccountSearch): List<FoundAccount> => ({
  name: 'Accounts',
  empty: 'There are no such accounts. Take a condition away, or ask for fewer letters of the name.',
  columns: [
    {
      name: 'name',
      title: 'Name',
      text: ({ name }) => name,
      cell: ({ bookId, accountId, name }) => html`<a href="/accounts/${bookId}/${accountId}">${name}</a>`,
    },
    { name: 'type', title: 'Type', isShort: true, text: ({ type }) => type },
    { name: 'user_id', text: ({ userId }) => userId },
    { name: 'organization_id', title: 'Owner', text: ({ organizationId }) => organizationId, cell: ownerOf },
    { name: 'currency', text: ({ currency }) => currency },
    { name: 'decimal_places', text: ({ decimalPlaces }) => decimalPlaces },
    {
      name: 'balance_cents',
      title: 'Balance',
      isNumber: true,
      text: ({ balanceCents }) => balanceCents,
      cell: ({ balanceCents: cents, currency, decimalPlaces }) => money({ cents, currency, decimalPlaces }, view),
    },
    {
      name: 'available_cents',
      title: 'Available',
      isNumber: true,
      text: ({ availableCents }) => availableCents,
      cell: ({ availableCents: cents, currency, decimalPlaces }) => money({ cents, currency, decimalPlaces }, view),
    },
    { name: 'floor_cents', text: ({ floorCents }) => floorCents },
    { name: 'ceiling_cents', text: ({ ceilingCents }) => ceilingCents },
    {
      name: 'status',
      title: 'Status',
      isShort: true,
      text: ({ status }) => status,
      cell: ({ status }) => statusBadge(status),
    },
    {
      name: 'entries',
      title: 'Entries',
      isNumber: true,
      text: ({ entries }) => entries,
      cell: ({ entries }) => formatCount(entries, view),
    },
    { name: 'book', title: 'Book', isNumber: true, text: ({ bookId }) => bookId },
    {
      name: 'account_id',
      title: 'Id',
      text: ({ accountId }) => accountId,
      cell: ({ accountId }) => copyable(accountId),
    },
  ],
  fetch: async (cursor, limit) => {
    const [way = '', ...at] = cursor === undefined ? [] : placeOf(cursor);
    const after = cursor === undefined ? undefined : { way: Number(way), at };
    const { accounts, next, isCutShort } = await findAccounts(reader, search, { limit, after });
    return {
      rows: accounts,
      next: next === undefined ? undefined : toCursor([next.way, ...next.at]),
      note: isCutShort
        ? `${formatCount(ACCOUNTS_LOOKED_AT, view)} accounts were looked at for this page, and ${accounts.length === 0 ? 'none of them is' : 'these are those that are'} so: no index leads to the others. The next page looks on.`
        : undefined,
    };
  },
});

const WAY = /^\d$/;

/** Of one id, by place in the log, by name. */
const placeOf = (cursor: string): readonly string[] =>
  fromCursor(cursor, [WAY, NUMBER], [WAY, NUMBER, NUMBER], [WAY, TEXT, TEXT, TEXT, NUMBER]);
