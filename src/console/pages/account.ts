import { z } from 'zod';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import {
  type AccountName,
  type AccountStory,
  type ActiveHold,
  type ChangeOfAccount,
  getAccount,
  listAccountChanges,
  listActiveHolds,
  type RecentEntry,
  recentEntries,
} from '../../ledger/account-story.ts';
import { balanceCurve } from '../../ledger/balance-curve.ts';
import { balanceChart } from '../balance-chart.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { ownerOf, sides, statusBadge, whatOf } from '../ledger-parts.ts';
import { type Column, exported, type List, listOf, tableOf, withQuery } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { badge, copyable, facts, instant, linkedId, money } from '../parts.ts';
import { bookNumber, LIST_FIELDS, uuid } from '../query.ts';

import { statementForm } from './statement.ts';

const ACCOUNT = { book: bookNumber, id: uuid } as const;
/** Of each list, the page of the account has so many, and a link to all. */
const SHOWN = 10;

const SPANS = {
  '30d': { days: 30, points: 30, words: 'last 30 days' },
  '12m': { days: 364, points: 52, words: 'last 12 months' },
  all: { days: undefined, points: 60, words: 'since it was opened' },
} as const;
type Span = keyof typeof SPANS;

export const accountPage = definePage({
  section: 'accounts',
  path: '/accounts/:book/:id',
  query: z.object({ ...ACCOUNT, chart: z.enum(['30d', '12m', 'all'], { error: '30d, 12m or all' }).optional() }),
  show: async (ask, { book: bookId, id: accountId, chart = '30d' }) => {
    const { reader, view } = ask;
    const name = { bookId, accountId };
    const found = await getAccount(reader, name);
    if (found.kind === 'slot') return { title: 'A slot', body: slotNote(name, found.of) };
    const { account } = found;
    const [curve, holds, entries, changes] = await Promise.all([
      curveOf(ask, account, chart),
      listActiveHolds(reader, { ...name, limit: SHOWN + 1 }),
      recentEntries(reader, { ...name, limit: SHOWN }),
      listAccountChanges(reader, { ...name, limit: SHOWN + 1 }),
    ]);
    const at = `/accounts/${bookId}/${accountId}`;
    return {
      title: account.name,
      body: html`${factsOf(account, view)}
<h2 id="chart">Balance, ${SPANS[chart].words}</h2>
${spanLinks(ask, chart)}
${curve}
<h2>Active holds</h2>
${holds.length === 0 ? html`<p class="empty">Nothing is reserved.</p>` : html`${tableOf('Active holds', holdColumns(account, view), holds.slice(0, SHOWN))}${allOf(`${at}/holds`, 'holds', holds.length > SHOWN)}`}
<h2>Last entries</h2>
${entries.length === 0 ? html`<p class="empty">Nothing was posted to it yet.</p>` : tableOf('Last entries', entryColumns(account, view), entries)}
<h2>Statement</h2>
${statementForm(name, {})}
<h2>Changes of limits and status</h2>
${changes.length === 0 ? html`<p class="empty">None since it was opened.</p>` : html`${tableOf('Changes of limits and status', changeColumns(account, view), changes.slice(0, SHOWN))}${allOf(`${at}/changes`, 'changes', changes.length > SHOWN)}`}`,
    };
  },
});

const allOf = (href: string, what: string, isMore: boolean): Markup =>
  html`<p><a href="${href}">${isMore ? `All ${what}` : `The list of ${what}, to take away`}</a></p>`;

const slotNote = ({ bookId, accountId }: AccountName, of: string): Markup =>
  html`<p>${copyable(accountId)} is a slot: one of the balances over which an account that many post to is spread. What it has is in its account, ${linkedId(`/accounts/${bookId}/${of}`, of)}.</p>`;

function factsOf(account: AccountStory, view: View): Markup {
  const { balanceCents, availableCents, floorCents, ceilingCents } = account;
  const amount = (each: bigint | null, none: string) =>
    each === null ? none : money({ ...account, cents: each }, view);
  return facts([
    ['Balance', amount(balanceCents, '–')],
    ['Available', amount(availableCents, '–')],
    ['Held', amount(balanceCents - availableCents, '–')],
    ['Status', statusBadge(account.status)],
    ['Type', html`${account.type}: ${account.purpose}. Its balance is positive on the ${account.normalSide} side.`],
    ['Owner', ownerOf(account)],
    ['May not go below', amount(floorCents, 'no floor')],
    ['May not go above', amount(ceilingCents, 'no ceiling')],
    ['Entries', formatCount(account.entries, view)],
    ...(account.slots > 1
      ? [['Slots', `${account.slots}: those who post to it at once need not wait for each other`] as const]
      : []),
    ['Opened', html`${instant(account.openedAt, view)}, at position ${account.eventPosition.toString()} of the log`],
    ['Book', html`<a href="/books/${account.bookId}">${account.bookId}</a>`],
    ['Id', copyable(account.accountId)],
  ]);
}

const spanLinks = ({ url }: Ask, chosen: Span): Markup =>
  html`<p class="choices">${(Object.keys(SPANS) as Span[]).map((span) =>
    span === chosen
      ? html`<strong>${SPANS[span].words}</strong> `
      : html`<a href="${withQuery(url, { chart: span })}#chart">${SPANS[span].words}</a> `,
  )}</p>`;

const DAY_MS = 86_400_000;
/** Slots times instants: each costs some 20 looks into an index. */
const MOST_LOOKED_AT = 1_000;
const FEWEST_POINTS = 12;

/** By steps of one length back from now, fewer where the account has many slots. */
async function curveOf({ reader, view }: Ask, account: AccountStory, span: Span): Promise<Markup> {
  const now = Date.now();
  const { days } = SPANS[span];
  const opened = Math.min(new Date(account.openedAt).getTime(), now - 1);
  const from = days === undefined ? opened : Math.max(opened, now - days * DAY_MS);
  const most = Math.max(FEWEST_POINTS, Math.floor(MOST_LOOKED_AT / account.slots));
  const steps = Math.min(SPANS[span].points, most);
  const instants = Array.from({ length: steps + 1 }, (_, at) =>
    new Date(now - Math.round(((now - from) * (steps - at)) / steps)).toISOString(),
  );
  const curve = await balanceCurve(reader, { ...account, instants });
  const sign = account.normalSide === 'debit' ? 1n : -1n;
  const points = curve.map(({ at, signedCents }) => ({ at, cents: sign * signedCents }));
  return html`${balanceChart({ points, currency: account, view })}
<p class="faint">As it was recorded at these instants, whatever the dates of what was posted.</p>`;
}

const holdColumns = ({ currency, decimalPlaces }: AccountStory, view: View): readonly Column<ActiveHold>[] => [
  { name: 'hold_id', title: 'Hold', text: ({ holdId }) => holdId, cell: ({ holdId }) => copyable(holdId) },
  {
    name: 'remaining_cents',
    title: 'Reserves',
    isNumber: true,
    text: ({ remainingCents }) => remainingCents,
    cell: ({ remainingCents, isExpired }) =>
      isExpired ? badge('nothing: expired', 'warn') : money({ cents: remainingCents, currency, decimalPlaces }, view),
  },
  {
    name: 'amount_cents',
    title: 'Of',
    isNumber: true,
    text: ({ amountCents }) => amountCents,
    cell: ({ amountCents }) => money({ cents: amountCents, currency, decimalPlaces }, view),
  },
  { name: 'currency', text: () => currency },
  {
    name: 'expires_at',
    title: 'Expires',
    text: ({ expiresAt }) => expiresAt,
    cell: ({ expiresAt }) => instant(expiresAt, view, 'never'),
  },
  {
    name: 'created_at',
    title: 'Placed',
    text: ({ createdAt }) => createdAt,
    cell: ({ createdAt }) => instant(createdAt, view),
  },
  { name: 'created_by', title: 'By', text: ({ createdBy }) => createdBy },
  { name: 'reference_type', text: ({ referenceType }) => referenceType },
  { name: 'reference_id', text: ({ referenceId }) => referenceId },
  { name: 'description', title: 'What for', text: ({ description }) => description, cell: whatOf },
];

const entryColumns = ({ bookId, decimalPlaces }: AccountStory, view: View): readonly Column<RecentEntry>[] => [
  {
    name: 'recorded_at',
    title: 'Recorded',
    text: ({ recordedAt }) => recordedAt,
    cell: ({ recordedAt }) => instant(recordedAt, view),
  },
  { name: 'description', title: 'What', text: ({ description }) => description, cell: whatOf },
  ...sides<RecentEntry>(
    ({ amountCents }) => amountCents,
    () => decimalPlaces,
    view,
  ),
  {
    name: 'transaction_id',
    title: 'Transaction',
    text: ({ transactionId }) => transactionId,
    cell: ({ transactionId }) => linkedId(`/transactions/${bookId}/${transactionId}`, transactionId),
  },
];

const changeColumns = ({ currency, decimalPlaces }: AccountStory, view: View): readonly Column<ChangeOfAccount>[] => {
  const limit = (each: bigint | null) =>
    each === null ? 'none' : money({ cents: each, currency, decimalPlaces }, view);
  return [
    { name: 'change', title: 'Change', isNumber: true, text: ({ seq }) => seq },
    {
      name: 'changed_at',
      title: 'When',
      text: ({ changedAt }) => changedAt,
      cell: ({ changedAt }) => instant(changedAt, view),
    },
    { name: 'changed_by', title: 'By', text: ({ changedBy }) => changedBy },
    { name: 'status', title: 'Status', text: ({ status }) => status, cell: ({ status }) => statusBadge(status) },
    {
      name: 'floor_cents',
      title: 'Floor',
      isNumber: true,
      text: ({ floorCents }) => floorCents,
      cell: ({ floorCents }) => limit(floorCents),
    },
    {
      name: 'ceiling_cents',
      title: 'Ceiling',
      isNumber: true,
      text: ({ ceilingCents }) => ceilingCents,
      cell: ({ ceilingCents }) => limit(ceilingCents),
    },
    { name: 'reason', title: 'Why', text: ({ reason }) => reason },
    { name: 'event_position', text: ({ eventPosition }) => eventPosition },
  ];
};

/** A list of one account, on a page of its own. */
const subPage = <Row>(
  what: 'holds' | 'changes',
  title: string,
  listFor: (ask: Ask, account: AccountStory) => List<Row>,
) =>
  definePage({
    section: 'accounts',
    path: `/accounts/:book/:id/${what}`,
    query: z.object({ ...ACCOUNT, ...LIST_FIELDS }),
    show: async (ask, query) => {
      const { book: bookId, id: accountId } = query;
      const found = await getAccount(ask.reader, { bookId, accountId });
      if (found.kind === 'slot') return { title: 'A slot', body: slotNote({ bookId, accountId }, found.of) };
      const list = listFor(ask, found.account);
      if (query.export !== undefined) return exported(list, query.export);
      return {
        title,
        body: html`<p>Of <a href="/accounts/${bookId}/${accountId}">${found.account.name}</a></p>${await listOf(list, ask, query)}`,
      };
    },
  });

export const holdsPage = subPage(
  'holds',
  'Active holds',
  ({ reader, view }, account): List<ActiveHold> => ({
    name: `Active holds of ${account.accountId}`,
    columns: holdColumns(account, view),
    empty: 'Nothing is reserved.',
    fetch: async (cursor, limit) => {
      const [expiresAt = '', position = ''] = cursor === undefined ? [] : fromCursor(cursor, [EXPIRY, NUMBER]);
      const after =
        cursor === undefined
          ? undefined
          : { expiresAt: expiresAt === '' ? null : expiresAt, eventPosition: BigInt(position) };
      const rows = await listActiveHolds(reader, { ...account, limit: limit + 1, after });
      const last = rows[limit - 1];
      const next =
        rows.length > limit && last !== undefined ? toCursor([last.expiresAt ?? '', last.eventPosition]) : undefined;
      return { rows: rows.slice(0, limit), next };
    },
  }),
);

/** An instant as the database prints it; nothing where it never comes. */
const EXPIRY = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)?$/;

export const changesPage = subPage(
  'changes',
  'Changes of limits and status',
  ({ reader, view }, account): List<ChangeOfAccount> => ({
    name: `Changes of ${account.accountId}`,
    columns: changeColumns(account, view),
    empty: 'None since it was opened.',
    fetch: async (cursor, limit) => {
      const [before] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
      const rows = await listAccountChanges(reader, { ...account, limit: limit + 1, before });
      const last = rows[limit - 1];
      return {
        rows: rows.slice(0, limit),
        next: rows.length > limit && last !== undefined ? toCursor([last.seq]) : undefined,
      };
    },
  }),
);
