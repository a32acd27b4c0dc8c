import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { html } from '../../html/markup.ts';
import { type DriftPiece, listDrift } from '../../replay/drift-list.ts';
import { glanceAtDrift } from '../../replay/glance.ts';
import { SOURCES } from '../../replay/sources.ts';
import { fromCursor, ID, NUMBER, toCursor } from '../cursor.ts';
import { exported, type List, listOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { copyable, instant, linkedId, money } from '../parts.ts';
import { LIST_FIELDS } from '../query.ts';
import { CREDITS, meaningOf } from './backfill.ts';

export const driftPage = definePage({
  section: 'backfill',
  path: '/backfill/drift/:cause',
  query: z.object({ cause: z.string().max(100), ...LIST_FIELDS }),
  show: async (ask, query) => {
    const { cause } = query;
    const found = (await glanceAtDrift(ask.reader)).find((each) => each.cause === cause);
    if (found === undefined) {
      throw new AppError('CONSOLE_NOT_FOUND', `Nothing has the cause ${cause}. Which causes there are: /backfill`);
    }
    const list = driftList(ask, cause);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: `Drift: ${cause}`,
      body: html`<p>${meaningOf(cause)}</p>
<p>In suspense for it: ${money({ cents: found.cents, ...CREDITS }, ask.view)}, positive where holders have more than the history explains. Below is what that comes from, one by one.</p>
${await listOf(list, ask, query)}`,
    };
  },
});

const PLACE = [/^[01]$/, ID, NUMBER];

const kindOf = (source: string | null) => SOURCES.find(({ name }) => name === source)?.ownerKind ?? null;

const driftList = ({ reader, view }: Ask, cause: string): List<DriftPiece> => ({
  name: `Drift ${cause}`,
  empty: 'Nothing has this cause.',
  columns: [
    {
      name: 'wallet',
      title: 'Wallet',
      text: ({ walletId }) => walletId,
      cell: ({ walletId }) => (walletId === null ? '–' : copyable(walletId)),
    },
    {
      name: 'owner',
      title: 'Owner',
      text: ({ ownerId }) => ownerId,
      cell: ({ ownerId, source }) =>
        ownerId === null ? '–' : linkedId(`/backfill/owners/${kindOf(source) ?? ''}/${ownerId}`, ownerId),
    },
    { name: 'owner_kind', text: ({ source }) => kindOf(source) },
    {
      name: 'account',
      title: 'Account',
      text: ({ accountId }) => accountId,
      cell: ({ accountId }) => (accountId === null ? '–' : linkedId(`/accounts/1/${accountId}`, accountId)),
    },
    {
      name: 'of',
      title: 'Of',
      text: ({ legacyTable }) => legacyTable ?? 'balance',
      cell: ({ legacyTable, legacyId }) =>
        legacyTable === null || legacyId === null
          ? 'the balance, beyond its rows'
          : html`<div>${legacyTable}</div>${copyable(legacyId)}`,
    },
    { name: 'legacy_row', text: ({ legacyId }) => legacyId },
    {
      name: 'effective_at',
      title: 'At',
      text: ({ effectiveAt }) => effectiveAt,
      cell: ({ effectiveAt }) => instant(effectiveAt, view),
    },
    {
      name: 'cents',
      title: 'In suspense',
      isNumber: true,
      text: ({ cents }) => cents,
      cell: ({ cents }) => money({ cents, ...CREDITS }, view),
    },
    {
      name: 'transaction',
      title: 'Booked by',
      text: ({ transactionId }) => transactionId,
      cell: ({ transactionId }) =>
        transactionId === null ? 'noted' : linkedId(`/transactions/1/${transactionId}`, transactionId),
    },
  ],
  fetch: async (cursor, limit) => {
    const after = cursor === undefined ? undefined : fromCursor(cursor, PLACE);
    const { pieces, next } = await listDrift(reader, { cause, after, limit });
    return { rows: pieces, next: next && toCursor([next.part, next.accountId, next.seq]) };
  },
});
