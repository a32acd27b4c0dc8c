import { z } from 'zod';
import { html, type Markup } from '../../html/markup.ts';
import type { View } from '../../html/view.ts';
import type { AccountName } from '../../ledger/account-story.ts';
import { type StatementLine, type StatementPage, statementPage } from '../../ledger/statement.ts';
import { choiceField, filterForm, textField } from '../fields.ts';
import { sides, whatOf } from '../ledger-parts.ts';
import { exported, type List, type ListPage, PAGE_ROWS, pageOf } from '../list.ts';
import { definePage } from '../page.ts';
import { cents, facts, instant, linkedId, money } from '../parts.ts';
import { bookNumber, LIST_FIELDS, since, until, uuid } from '../query.ts';

interface Asked {
  readonly by?: 'recorded' | 'effective' | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

export const accountStatementPage = definePage({
  section: 'accounts',
  path: '/accounts/:book/:id/statement',
  query: z.object({
    book: bookNumber,
    id: uuid,
    ...LIST_FIELDS,
    by: z.enum(['recorded', 'effective'], { error: 'recorded or effective' }).optional(),
    from: since.optional(),
    to: until.optional(),
  }),
  show: async (ask, query) => {
    const { book: bookId, id: accountId, by = 'recorded', from, to } = query;
    const name = { bookId, accountId };
    const fetchPage = (page: string | undefined, pageLines: number) =>
      statementPage(ask.reader, { ...name, by, from, to, page, pageLines });
    const shown = await fetchPage(query.after, PAGE_ROWS);
    const list = statementList(shown, bookId, { view: ask.view, fetchPage });
    if (query.export !== undefined) return exported(list, query.export);
    const given = (field: string) => ask.url.searchParams.get(field) ?? undefined;
    return {
      title: 'Statement',
      body: html`<p>Of <a href="/accounts/${bookId}/${accountId}">${shown.name}</a>, by ${by === 'recorded' ? 'when it was recorded' : 'when it was effective in the world, as far as is known now'}.</p>
${statementForm(name, { by, from: given('from'), to: given('to') })}
${boundsOf(shown, ask.view)}
${pageOf(list, linesOf(shown), ask, query)}`,
    };
  },
});

/** Asks for a statement, from wherever it stands. */
export const statementForm = ({ bookId, accountId }: AccountName, { by, from, to }: Asked): Markup =>
  filterForm(
    [
      textField({ name: 'from', label: 'From', value: from, placeholder: 'the beginning, or 2026-03-01' }),
      textField({ name: 'to', label: 'To, included', value: to, placeholder: 'now, or 2026-03-31' }),
      choiceField({
        name: 'by',
        label: 'By',
        value: by,
        all: 'when it was recorded',
        choices: [['effective', 'when it was effective']],
      }),
    ],
    { action: `/accounts/${bookId}/${accountId}/statement`, label: 'Statement' },
  );

/** What it begins and ends with as a whole, and this page of it. */
function boundsOf(page: StatementPage, view: View): Markup {
  const { opening, closing, broughtForward, carriedForward } = page;
  const amount = (figure: { readonly cents: bigint }) => money({ ...page, cents: figure.cents }, view);
  return facts([
    ['From', instant(page.from ?? null, view, 'the beginning')],
    ['Until', instant(page.to ?? null, view, 'now')],
    ['Opening balance', amount(opening)],
    ['Closing balance', amount(closing)],
    ...(broughtForward.cents === opening.cents && carriedForward.cents === closing.cents
      ? []
      : ([
          ['Before this page', amount(broughtForward)],
          ['After this page', amount(carriedForward)],
        ] as const)),
  ]);
}

const linesOf = ({ lines, nextPage }: StatementPage): ListPage<StatementLine> => ({ rows: lines, next: nextPage });

const statementList = (
  { accountId, currency, decimalPlaces }: StatementPage,
  bookId: number,
  { view, fetchPage }: { view: View; fetchPage: (page: string | undefined, lines: number) => Promise<StatementPage> },
): List<StatementLine> => ({
  name: `Statement of ${accountId}`,
  empty: 'Nothing was posted in this time.',
  columns: [
    {
      name: 'recorded_at',
      title: 'Recorded',
      text: ({ recordedAt }) => recordedAt,
      cell: ({ recordedAt }) => instant(recordedAt, view),
    },
    {
      name: 'effective_at',
      title: 'Effective',
      text: ({ effectiveAt }) => effectiveAt,
      cell: ({ effectiveAt, recordedAt }) => (effectiveAt === recordedAt ? 'then' : instant(effectiveAt, view)),
    },
    { name: 'description', title: 'What', text: ({ description }) => description, cell: whatOf },
    ...sides<StatementLine>(
      ({ amount }) => amount.signedCents,
      () => decimalPlaces,
      view,
    ),
    {
      name: 'balance_cents',
      title: `Balance, ${currency}`,
      isNumber: true,
      text: ({ balance }) => balance.cents,
      cell: ({ balance }) => cents({ cents: balance.cents, decimalPlaces }, view),
    },
    { name: 'currency', text: () => currency },
    { name: 'decimal_places', text: () => decimalPlaces },
    {
      name: 'transaction_id',
      title: 'Transaction',
      text: ({ transactionId }) => transactionId,
      cell: ({ transactionId }) => linkedId(`/transactions/${bookId}/${transactionId}`, transactionId),
    },
    { name: 'entry_id', text: ({ entryId }) => entryId },
    { name: 'account_seq', text: ({ accountSeq }) => accountSeq },
    { name: 'event_position', text: ({ eventPosition }) => eventPosition },
    { name: 'reference_type', text: ({ referenceType }) => referenceType },
    { name: 'reference_id', text: ({ referenceId }) => referenceId },
    { name: 'metadata', text: ({ metadata }) => JSON.stringify(metadata) },
  ],
  fetch: async (cursor, lines) => linesOf(await fetchPage(cursor, lines)),
});
