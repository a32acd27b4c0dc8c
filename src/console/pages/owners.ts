import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { cutOver } from '../../replay/cut-over.ts';
import type { FlipResult } from '../../replay/flip.ts';
import { type Standing, standingOf } from '../../replay/reconcile.ts';
import { SOURCES, type Source } from '../../replay/sources.ts';
import { findGoneWallets, type ListedWallet, listWallets, sourceOf } from '../../replay/wallet-list.ts';
import { fromCursor, ID, toCursor } from '../cursor.ts';
import { exported, type List, listOf } from '../list.ts';
import { type Ask, defineAction, definePage } from '../page.ts';
import { badge, button, copyable, facts, linkedId, money, type Tone } from '../parts.ts';
import { LIST_FIELDS, uuid } from '../query.ts';
import { seenWhole } from '../seen-whole.ts';
import { CREDITS } from './backfill.ts';

const KINDS = ['user', 'organization'] as const satisfies readonly Source['ownerKind'][];
const kind = z.enum(KINDS, { error: 'user or organization' });

const STANDINGS: Readonly<Record<Standing, readonly [words: string, tone: Tone]>> = {
  equal: ['equal', 'good'],
  explained: ['explained', 'good'],
  unexplained: ['unexplained', 'bad'],
  open: ['not booked as it is now', 'warn'],
};

const amount = (cents: bigint | null, view: View): Markup | string =>
  cents === null ? '–' : money({ cents, ...CREDITS }, view);

const driftOf = ({ drift }: ListedWallet): bigint =>
  Object.values(drift).reduce((sum, cents) => sum + BigInt(cents), 0n);

/** `lost_update=-500 opening_balance=20` */
const pairs = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .map(([cause, count]) => `${cause}=${count}`)
    .join(' ');

/** Every wallet beside its books, which is what `backfill reconcile` says, by source and id. */
export const ownersPage = definePage({
  section: 'backfill',
  path: '/backfill/owners',
  query: z.object({ ...LIST_FIELDS, owner: uuid.optional() }),
  show: async (ask, query) => {
    const list = walletList(ask, query.owner);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'Wallets and their owners',
      body: html`<form method="get" class="filter"><label>Id of an owner <input name="owner" value="${query.owner ?? ''}" size="38" autocomplete="off"></label><button type="submit">Search</button></form>
<p class="faint">A wallet is equal (nothing to explain), explained (what it has beyond its rows, or rows that no flow explains, are booked by cause, or somebody has signed for it), unexplained, or not booked as it is now.</p>
${await listOf(list, ask, query)}`,
    };
  },
});

const walletList = ({ reader, view }: Ask, owner: string | undefined): List<ListedWallet> => ({
  name: 'Wallets',
  empty:
    owner === undefined
      ? 'There are no old wallets in this database, or no more.'
      : 'No wallet of the old tables is this owner’s. Search for a whole id, of a user or an organization.',
  columns: walletColumns(view),
  fetch: async (cursor, limit) => {
    const [from, after] = cursor === undefined ? ['0', undefined] : fromCursor(cursor, [/^[01]$/, ID]);
    return seenWhole(pageOf(reader, { from: Number(from), after, ownerId: owner, limit }));
  },
});

/** A page may begin in one source and end in the next. */
async function pageOf(
  reader: Ask['reader'],
  {
    from,
    after,
    ownerId,
    limit,
  }: { from: number; after: string | undefined; ownerId: string | undefined; limit: number },
): Promise<{ rows: readonly ListedWallet[]; next: string | undefined }> {
  const rows: ListedWallet[] = [];
  for (const [nth, { name }] of SOURCES.entries()) {
    if (nth < from) continue;
    const left = limit - rows.length;
    rows.push(
      ...(await listWallets(reader, { source: name, ownerId, limit: left, after: nth === from ? after : undefined })),
    );
    const last = rows.at(-1);
    if (rows.length === limit && last !== undefined) {
      const source = SOURCES.findIndex((each) => each.name === last.source);
      return { rows, next: toCursor([source, last.walletId]) };
    }
  }
  return { rows, next: undefined };
}

const kindOf = (wallet: ListedWallet): string => SOURCES.find(({ name }) => name === wallet.source)?.ownerKind ?? '';

const walletColumns = (view: View): List<ListedWallet>['columns'] => [
  {
    name: 'owner_id',
    title: 'Owner',
    text: ({ ownerId }) => ownerId,
    cell: (wallet) =>
      wallet.ownerId === null
        ? 'nobody'
        : html`${kindOf(wallet)} ${linkedId(`/backfill/owners/${kindOf(wallet)}/${wallet.ownerId}`, wallet.ownerId)}`,
  },
  { name: 'owner_kind', text: kindOf },
  { name: 'wallet_id', title: 'Wallet', text: ({ walletId }) => walletId, cell: ({ walletId }) => copyable(walletId) },
  {
    name: 'standing',
    title: 'Standing',
    text: (wallet) => standingOf(wallet),
    cell: (wallet) => badge(...STANDINGS[standingOf(wallet)]),
  },
  {
    name: 'kept_by',
    title: 'Kept by',
    text: ({ mode }) => mode,
    cell: ({ mode }) => (mode === 'ledger' ? 'the ledger' : 'the old tables'),
  },
  {
    name: 'balance_cents',
    title: 'Old balance',
    isNumber: true,
    text: ({ balanceCents }) => balanceCents,
    cell: ({ balanceCents }) => amount(balanceCents, view),
  },
  {
    name: 'ledger_cents',
    title: 'In the ledger',
    isNumber: true,
    text: ({ ledgerCents }) => ledgerCents,
    cell: ({ ledgerCents }) => amount(ledgerCents, view),
  },
  { name: 'rows', text: ({ rows }) => rows },
  { name: 'rows_cents', text: ({ rowsCents }) => rowsCents },
  {
    name: 'drift',
    title: 'Beyond its rows',
    isNumber: true,
    text: ({ drift }) => pairs(drift),
    cell: (wallet) => (Object.keys(wallet.drift).length === 0 ? '–' : amount(driftOf(wallet), view)),
  },
  { name: 'findings', text: ({ findings }) => pairs(findings) },
  { name: 'approved_cents', text: ({ approvedCents }) => approvedCents },
  { name: 'unapproved_cents', text: ({ unapprovedCents }) => unapprovedCents },
];

const OWNER = z.object({ kind, id: uuid });
type Owner = z.infer<typeof OWNER>;

const MOST_WALLETS = 100;

export const ownerPage = definePage({
  section: 'backfill',
  path: '/backfill/owners/:kind/:id',
  query: OWNER,
  show: async (ask, owner) => {
    const source = sourceOf(owner.kind);
    const wallets = await seenWhole(listWallets(ask.reader, { source, ownerId: owner.id, limit: MOST_WALLETS }));
    const known = wallets.map(({ walletId }) => walletId);
    const gone = await findGoneWallets(ask.reader, { source, ownerId: owner.id, known });
    if (wallets.length + gone.length === 0) {
      throw new AppError(
        'CONSOLE_NOT_FOUND',
        `The ${owner.kind} ${owner.id} has no wallet in the old tables, and none that was replayed. See all: /backfill/owners`,
      );
    }
    const isDone = wallets.every(({ mode }) => mode === 'ledger');
    return {
      title: `Wallets of ${owner.kind} ${owner.id}`,
      body: html`${wallets.map((wallet) => walletFacts(wallet, ask.view))}
${gone.map(({ walletId, accountId }) => html`<p>Wallet ${copyable(walletId)} is gone from the old tables; its account: ${linkedId(`/accounts/1/${accountId}`, accountId)}</p>`)}
<h2>Cut-over</h2>
${isDone ? html`<p>The ledger keeps ${wallets.length === 1 ? 'this wallet' : 'these wallets'} already.</p>` : rehearsal(ask, owner)}`,
    };
  },
});

function rehearsal(ask: Ask, owner: Owner): Markup {
  return html`<p>A rehearsal does all that the cut-over does, compares every row, and undoes it: it says whether the ledger could keep the wallet, and why not.</p>
${button(ask, { action: `${pathOf(owner)}/rehearse`, needs: 'rehearse a cut-over', label: 'Rehearse the cut-over' })}
<p>The cut-over itself is a command, which whoever migrates runs beside the old platform:</p>
<pre>liventix backfill cutover ${flagOf(owner)}</pre>
<p class="faint">And back, as long as the old tables are not retired: <code>liventix backfill rollback ${flagOf(owner)}</code></p>`;
}

const pathOf = ({ kind: of, id }: Owner): string => `/backfill/owners/${of}/${id}`;
const flagOf = ({ kind: of, id }: Owner): string => `--${of} ${id}`;

function walletFacts(wallet: ListedWallet, view: View): Markup {
  const { walletId, accountId, mode, balanceCents, ledgerCents, rows, rowsCents, drift, findings } = wallet;
  const { approvedCents, unapprovedCents } = wallet;
  const causes = Object.entries(drift).map(
    ([cause, cents]) =>
      html`<div><a href="/backfill/drift/${encodeURIComponent(cause)}">${cause}</a> ${amount(BigInt(cents), view)}</div>`,
  );
  const found = Object.entries(findings).map(
    ([cause, count]) => html`<div>${cause}: ${formatCount(count, view)}</div>`,
  );
  return facts([
    ['Wallet', copyable(walletId)],
    ['Standing', badge(...STANDINGS[standingOf(wallet)])],
    [
      'Kept by',
      mode === 'ledger' ? 'the ledger, which the old tables mirror' : 'the old tables, which the log follows',
    ],
    ['Old balance', amount(balanceCents, view)],
    ['In the ledger', amount(ledgerCents, view)],
    ['Account', accountId === null ? 'none yet' : linkedId(`/accounts/1/${accountId}`, accountId)],
    ['Its rows', html`${formatCount(rows, view)}, which come to ${amount(rowsCents, view)}`],
    ['Beyond its rows', causes.length === 0 ? 'nothing' : html`${causes}`],
    ['Rows that no flow explains', found.length === 0 ? 'none' : html`${found}`],
    [
      'Signed for',
      html`${amount(approvedCents, view)}${unapprovedCents === 0n ? '' : html`; <span class="bad">${amount(unapprovedCents, view)} are unexplained, and nobody has signed for them</span>`}`,
    ],
  ]);
}

/** Whoever waits for a page waits for no more. */
const REHEARSAL_MS = 20_000;

/** All that a cut-over does, in transactions of which nothing stays. */
export const rehearseAction = defineAction({
  path: '/backfill/owners/:kind/:id/rehearse',
  name: 'rehearse a cut-over',
  needs: 'rehearse a cut-over',
  input: OWNER,
  subject: pathOf,
  act: async ({ owner: pool, view }, owner) => {
    const stop = AbortSignal.timeout(REHEARSAL_MS);
    const message = await cutOver(pool, { owners: owner, dryRun: true, stop }).then(
      (result) => verdictOf(result, view),
      whyNot,
    );
    return { message: `${message} Nothing was changed.`, to: pathOf(owner) };
  },
});

function verdictOf({ finished, flipped, already, refused }: FlipResult, view: View): string {
  if (!finished)
    return `It was not found out in ${REHEARSAL_MS / 1_000} s: rehearse it with the command, and --dry-run.`;
  const words = [
    ...(flipped === 0n ? [] : [`Yes: ${wallets(flipped, view)} would be cut over.`]),
    ...(already === 0n ? [] : [`${wallets(already, view)} kept by the ledger already.`]),
    ...refused.map(({ table, walletId, reason }) => `No: ${table} ${walletId}: ${reason}.`),
  ];
  return words.join(' ');
}

const wallets = (count: bigint, view: View): string => `${formatCount(count, view)} wallet${count === 1n ? '' : 's'}`;

/** What stands against every cut-over is what a rehearsal is to find out too. */
function whyNot(error: unknown): string {
  const isExpected =
    error instanceof AppError &&
    /^(CUTOVER|CAPTURE|BACKFILL|LEGACY)_/.test(error.code) &&
    !error.code.endsWith('_UNKNOWN');
  if (!isExpected) throw error;
  return `No: ${error.message}`;
}
