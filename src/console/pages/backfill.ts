import { z } from 'zod';
import type { Pool } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, formatSpan, type View } from '../../html/view.ts';
import {
  type CaptureGlance,
  type Count,
  type DriftGlance,
  type FindingCount,
  glanceAtCapture,
  glanceAtDrift,
  glanceAtFindings,
  glanceAtModes,
  glanceAtSources,
  isBackfillRunning,
  type SourceGlance,
} from '../../replay/glance.ts';
import { findHeldBack, type HeldBack } from '../../replay/held-back.ts';
import { isMirrorOn, MIRROR_AGAIN } from '../../replay/mirror.ts';
import { type ThrottleStatus, throttleStatus } from '../../replay/pace/pacing.ts';
import { blindness, decimal, percent, whySlow } from '../../replay/pace/words.ts';
import { pauseStatus } from '../../replay/pause.ts';
import { tableOf } from '../list.ts';
import { type Ask, definePage, type Page } from '../page.ts';
import { badge, facts, instant, money, tiles } from '../parts.ts';
import type { Rate } from '../rate.ts';
import { seenWhole } from '../seen-whole.ts';

/** What one credit of the old platform is. */
export const CREDITS = { currency: 'USD', decimalPlaces: 2 } as const;

const REFRESH_SECONDS = 3;

/**
 * How far the old wallets are brought into the ledger, and what nobody could explain.
 * @param primary knows who holds which lock, which a replica does not
 * @param rate of rows, over the looks at this page
 */
export const backfillPage = (primary: Pool, rate: Rate): Page =>
  definePage({
    section: 'backfill',
    path: '/backfill',
    query: z.object({}),
    show: async (ask) => {
      const sources = await seenWhole(glanceAtSources(ask.reader));
      const progress = await progressOf(ask, primary);
      const rows = sources.reduce((sum, source) => sum + source.rows, 0n);
      const perSecond = rate.seen(rows);
      const isUnderWay = progress.isRunning && progress.pausedAt === null;
      return {
        title: 'Backfill',
        refreshSeconds: progress.isRunning ? REFRESH_SECONDS : undefined,
        body: html`${headOf(sources, { ...progress, perSecond: isUnderWay ? perSecond : undefined }, ask.view)}
${sources.some(({ begun }) => begun) ? await findingsOf(ask) : ''}`,
      };
    },
  });

interface Progress {
  readonly isRunning: boolean;
  readonly pausedAt: Date | null;
  readonly throttle: ThrottleStatus | null;
  readonly capture: CaptureGlance | null;
  readonly heldBack: HeldBack;
}

async function progressOf({ reader }: Ask, primary: Pool): Promise<Progress> {
  const throttle = await throttleStatus(reader);
  return {
    // Where the primary does not answer, by what the run says of itself.
    isRunning: throttle !== null || (await isBackfillRunning(primary).catch(() => false)),
    ...(await pauseStatus(reader)),
    throttle,
    capture: await glanceAtCapture(reader),
    heldBack: await findHeldBack(reader),
  };
}

function headOf(
  sources: readonly SourceGlance[],
  progress: Progress & { readonly perSecond: number | undefined },
  view: View,
): Markup {
  return html`${verdictOf(sources, progress)}
${sources.every(({ begun }) => !begun) ? '' : html`${tableOf('Sources', sourceColumns(view), sources)}`}
${facts([
  ...(progress.isRunning ? [['Rate', rateOf(sources, progress, view)] as const] : []),
  ...(progress.throttle === null ? [] : [['Throttle', throttleOf(progress.throttle, view)] as const]),
  ['Capture', captureOf(progress.capture, sources, view)],
  ...(progress.pausedAt === null
    ? []
    : [
        [
          'Paused',
          html`since ${instant(progress.pausedAt, view)}; to go on: <code>liventix backfill resume</code>`,
        ] as const,
      ]),
  ...(progress.heldBack.wallets === 0n
    ? []
    : [
        [
          'Held back',
          html`<span class="warn">${formatCount(progress.heldBack.wallets, view)} wallets, to whose accounts the ledger does not post: ${progress.heldBack.first ?? ''}</span>`,
        ] as const,
      ]),
])}`;
}

function verdictOf(sources: readonly SourceGlance[], { isRunning, pausedAt }: Progress): Markup {
  if (sources.some(({ retiredAt }) => retiredAt !== null)) {
    return html`<div class="verdict good"><strong>The old tables are retired: the ledger keeps every wallet.</strong></div>`;
  }
  if (isRunning) {
    const what = pausedAt === null ? 'A run is under way.' : 'A run is paused.';
    return html`<div class="verdict"><strong>${what}</strong><p>This page follows; you may leave it.</p></div>`;
  }
  if (sources.every(({ finished }) => finished)) {
    return html`<div class="verdict good"><strong>Every old row is in the log.</strong></div>`;
  }
  if (sources.every(({ begun }) => !begun)) {
    return html`<div class="verdict"><strong>Nothing was backfilled yet.</strong>
<p>What there is, what of it is at odds, and what it will take: <code>liventix backfill plan</code>, which changes nothing. Then <code>liventix backfill capture on</code> and <code>liventix backfill run</code>.</p></div>`;
  }
  return html`<div class="verdict warn"><strong>The backfill has begun, and is not at work now.</strong><p>It goes on where it stopped: <code>liventix backfill run</code></p></div>`;
}

const countText = ({ count, basis }: Count, view: View): string =>
  `${{ exact: '', about: 'about ', least: 'more than ' }[basis]}${formatCount(count, view)}`;

const sourceColumns = (view: View) => [
  { name: 'source', title: 'Source', text: ({ source }: SourceGlance) => source },
  {
    name: 'rows',
    title: 'Rows in the log',
    isNumber: true,
    text: ({ rows }: SourceGlance) => rows,
    cell: ({ rows }: SourceGlance) => formatCount(rows, view),
  },
  {
    name: 'total',
    title: 'Rows in the old table',
    isNumber: true,
    text: ({ total }: SourceGlance) => total?.count ?? null,
    cell: ({ total }: SourceGlance) => (total === null ? 'the table is gone' : countText(total, view)),
  },
  {
    name: 'done',
    title: 'Done',
    text: ({ finished }: SourceGlance) => finished,
    cell: (source: SourceGlance) => doneOf(source),
  },
];

function doneOf({ source, begun, finished, retiredAt, rows, total }: SourceGlance): Markup {
  if (retiredAt !== null) return badge('retired', 'good');
  if (finished) return badge('finished', 'good');
  if (!begun) return badge('not begun');
  const most = Math.max(1, Number(total?.count ?? rows));
  return html`<progress aria-label="Rows of ${source}" value="${Math.min(Number(rows), most)}" max="${most}"></progress>`;
}

function rateOf(
  sources: readonly SourceGlance[],
  { perSecond, pausedAt }: Progress & { readonly perSecond: number | undefined },
  view: View,
): string {
  if (pausedAt !== null) return 'it stands still';
  if (perSecond === undefined) return 'known after a few seconds';
  const left = sources.reduce((sum, { total, rows }) => sum + Math.max(0, Number((total?.count ?? rows) - rows)), 0);
  const speed = `${formatCount(Math.round(perSecond), view)} rows a second`;
  if (left === 0) return `${speed}; every row is read, and what was captured meanwhile is brought in`;
  if (perSecond === 0)
    return 'no row came into the log in the last minute: it looks for what the flows do not explain, or waits';
  return `${speed}; at that rate ${formatSpan(left / perSecond)} are left`;
}

function throttleOf(
  { share, chunkRows, passed, canaryP99Ms, baselineP99Ms, blind }: ThrottleStatus,
  view: View,
): Markup {
  const pace = share === 1 ? 'at full speed' : `slowed down to ${percent(share)}: ${whySlow(passed)}`;
  const now = canaryP99Ms === null ? 'not measured yet' : `${decimal(canaryP99Ms)} ms`;
  return html`${pace}; chunks of ${formatCount(chunkRows, view)} rows; of 100 writes like those of old code 99 take up to ${now}, and ${decimal(baselineP99Ms)} ms while it rests${blind.map((what) => html`<div class="faint">${blindness(what)}</div>`)}`;
}

function captureOf(capture: CaptureGlance | null, sources: readonly SourceGlance[], view: View): Markup | string {
  if (capture === null) {
    return sources.some(({ retiredAt }) => retiredAt !== null)
      ? 'over'
      : html`changes are not captured: <code>liventix backfill capture on</code>`;
  }
  const { waiting, oldestAt, isWhole, installedAt } = capture;
  const lag =
    waiting.count === 0n
      ? 'none waits'
      : html`${countText(waiting, view)} wait, the oldest since ${instant(oldestAt, view)}`;
  const broken = html`; <strong class="bad">interrupted: a trigger was dropped, disabled or made anew, so that changes may be missing</strong>`;
  return html`changes are captured since ${instant(installedAt, view)}, ${lag}${isWhole ? '' : broken}`;
}

/** What the backfill found out, and who keeps what. */
async function findingsOf({ reader, view }: Ask): Promise<Markup> {
  const modes = await seenWhole(glanceAtModes(reader));
  const [drift, findings] = [await glanceAtDrift(reader), await glanceAtFindings(reader)];
  const isUnmirrored = modes.ledger.count > 0n && !(await isMirrorOn(reader));
  return html`<h2>Who keeps the wallets</h2>
${tiles([
  { figure: countText(modes.ledger, view), what: 'wallets that the ledger keeps', href: '/backfill/owners' },
  { figure: countText(modes.legacy, view), what: 'wallets that the old tables keep', href: '/backfill/owners' },
])}
${isUnmirrored ? html`<p class="bad">What is posted to wallets that the ledger keeps does not reach the old tables, for a trigger is gone: ${MIRROR_AGAIN}</p>` : ''}
<p><a href="/backfill/owners">Every wallet beside its books, and the cut-over of its owner</a></p>
<h2>What the old history could not explain</h2>
${drift.length === 0 ? html`<p class="empty">Everything is explained.</p>` : tableOf('Drift by cause', driftColumns(view), drift)}
<h2>What the survey found</h2>
${findings.length === 0 ? html`<p class="empty">The flows explain every row.</p>` : tableOf('Findings by cause', findingColumns(view), findings)}
<p class="faint">Both sides in whole, which takes as long as reading them: <code>liventix backfill reconcile</code>, and by chunks, with hashes, <code>liventix backfill proof write</code>.</p>`;
}

const CAUSES: Readonly<Record<string, string>> = {
  duplicate_credit: 'one payment was credited twice',
  cumulative_refund: 'a refund took back again what an earlier one had',
  unreferenced_credit: 'a credit with no invoice beside it',
  orphan: 'a refund with no invoice, or a row whose wallet is gone',
  wrong_sign: 'a row of the other direction than its type',
  duplicate_spend: 'one spend was booked twice',
  changed_row: 'a row was changed after it was booked',
  deleted_row: 'a row was deleted after it was booked',
  opening_balance: 'a balance that no row brought about',
  lost_update: 'a stale balance was written over a movement',
  balance_without_row: 'a balance moved and no row says so',
  unexplained: 'nothing speaks for it: somebody must sign for it',
  zero_row: 'a row of nothing, noted and not booked',
};

export const meaningOf = (cause: string): string => CAUSES[cause] ?? '';

const driftColumns = (view: View) => [
  {
    name: 'cause',
    title: 'Cause',
    text: ({ cause }: DriftGlance) => cause,
    cell: ({ cause }: DriftGlance) => html`<a href="/backfill/drift/${encodeURIComponent(cause)}">${cause}</a>`,
  },
  { name: 'means', title: 'Means', text: ({ cause }: DriftGlance) => meaningOf(cause) },
  {
    name: 'count',
    title: 'How often',
    isNumber: true,
    text: ({ count }: DriftGlance) => count.count,
    cell: ({ count }: DriftGlance) => countText(count, view),
  },
  {
    name: 'cents',
    title: 'In suspense',
    isNumber: true,
    text: ({ cents }: DriftGlance) => cents,
    cell: ({ cents }: DriftGlance) => money({ cents, ...CREDITS }, view),
  },
];

const findingColumns = (view: View) => [
  { name: 'cause', title: 'Cause', text: ({ cause }: FindingCount) => cause },
  { name: 'means', title: 'Means', text: ({ cause }: FindingCount) => meaningOf(cause) },
  {
    name: 'rows',
    title: 'Rows',
    isNumber: true,
    text: ({ rows }: FindingCount) => rows.count,
    cell: ({ rows }: FindingCount) => countText(rows, view),
  },
];
