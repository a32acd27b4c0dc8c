import { z } from 'zod';
import type { Pool } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, formatSpan, type View } from '../../html/view.ts';
import { type Activity, type ActivityPart, lastOutcomes, readActivity } from '../../outbox/activity.ts';
import { type Backlog, countByState, readBacklog, whoIsAtWork } from '../../outbox/backlog.ts';
import { findTroubles, type Trouble } from '../../outbox/troubles.ts';
import { timeChart } from '../charts.ts';
import { type Column, exported, type List, tableOf, withQuery } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { instant, tiles } from '../parts.ts';
import { endpointTable, withOutcomes } from './endpoints.ts';

const REFRESH_SECONDS = 10;

/** So many hours, in parts that are drawn as one point each. */
const SPANS = {
  '1': { parts: 60, partSeconds: 60 },
  '6': { parts: 72, partSeconds: 300 },
  '24': { parts: 72, partSeconds: 1_200 },
} as const;
type Hours = keyof typeof SPANS;

/**
 * What whoever is on call looks at first.
 * @param primary reads what a replica does not have: who leads, and how many workers there are
 */
export const outboxPage = (primary: Pool) =>
  definePage({
    section: 'outbox',
    path: '/outbox',
    query: z.object({
      hours: z.enum(['1', '6', '24'], { error: '1, 6 or 24' }).default('6'),
      export: z.enum(['csv', 'json'], { error: 'csv or json' }).optional(),
    }),
    show: async (ask, query) => {
      const { reader, view } = ask;
      const span = SPANS[query.hours];
      if (query.export !== undefined)
        return exported(activityList(await readActivity(reader, span), view), query.export);
      const [activity, backlog, atWork, outcomes] = await Promise.all([
        readActivity(reader, span),
        readBacklog(reader),
        // That it is away is no reason to show nothing of a replica.
        whoIsAtWork(primary).catch(() => undefined),
        lastOutcomes(reader),
      ]);
      return {
        title: 'Are webhooks delivered?',
        refreshSeconds: REFRESH_SECONDS,
        body: html`${verdict(findTroubles(backlog, atWork), backlog)}
${figures(backlog, atWork, view)}
<p><a href="/outbox/deliveries">Deliveries</a> · <a href="/outbox/dead-letters">Dead letters</a> · <a href="/outbox/replay">Replay messages</a> · <a href="/queue">Queue</a></p>
${charts(activity, ask, query.hours)}
<h2>Endpoints</h2>
${endpointTable(withOutcomes(backlog.endpoints, outcomes), view)}`,
      };
    },
  });

function verdict(troubles: readonly Trouble[], backlog: Backlog): Markup {
  const [worst, ...others] = troubles;
  if (worst === undefined) {
    return html`<div class="verdict good"><strong>Yes: what is due is delivered.</strong>${backlog.endpoints.length === 0 ? html`<p>There is no endpoint yet, and messages go nowhere: <code>liventix outbox endpoint add</code></p>` : ''}</div>`;
  }
  const isUrgent = troubles.some((trouble) => trouble.isUrgent);
  return html`<div class="verdict ${isUrgent ? 'bad' : 'warn'}"><strong>${worst.found}</strong>
<p>What to do: ${worst.todo}</p>
${others.map(({ found, todo }) => html`<p>${found} ${todo}</p>`)}</div>`;
}

type AtWork = Pick<Backlog, 'relay' | 'workers'>;

function figures(backlog: Backlog, atWork: AtWork | undefined, view: View): Markup {
  const { pending, paused, queued, delivering, dead } = countByState(backlog);
  const { oldestUndeliveredSeconds: oldest, overdueSeconds, isCut } = backlog;
  const count = (n: number) => `${isCut ? 'at least ' : ''}${formatCount(n, view)}`;
  return tiles([
    leadership(atWork),
    {
      figure: atWork === undefined ? 'not known' : formatCount(atWork.workers, view),
      what: 'workers',
      tone: atWork?.workers === 0 ? 'warn' : 'plain',
    },
    { figure: count(backlog.unprocessed), what: 'messages not yet turned into deliveries' },
    { figure: count(pending), what: 'pending', href: '/outbox/deliveries?state=pending' },
    { figure: count(queued + delivering), what: 'queued or under way', href: '/outbox/deliveries?state=queued' },
    { figure: count(paused), what: 'paused: their endpoint is disabled' },
    { figure: count(dead), what: 'dead letters', tone: dead > 0 ? 'warn' : 'plain', href: '/outbox/dead-letters' },
    {
      figure: oldest === null ? 'nothing waits' : formatSpan(oldest),
      what: 'the oldest that is not delivered has waited',
    },
    {
      figure: formatSpan(overdueSeconds),
      what: 'for so long something is due that nobody attempts',
      tone: overdueSeconds >= 60 ? 'bad' : 'plain',
    },
  ]);
}

function leadership(atWork: AtWork | undefined) {
  if (atWork === undefined) return { figure: 'not known', what: 'whether a relay leads: the primary does not answer' };
  const { relay } = atWork;
  return relay === null
    ? { figure: 'nobody leads', what: 'the relay', tone: atWork.workers > 0 ? ('bad' as const) : ('warn' as const) }
    : {
        figure: 'a relay leads',
        what: `session ${relay.pid}${relay.address === null ? '' : ` from ${relay.address}`}`,
      };
}

const MINUTE_SECONDS = 60;
const perMinute = (count: number, { partSeconds }: Activity): number => (count * MINUTE_SECONDS) / partSeconds;

function charts(activity: Activity, { url, view }: Ask, hours: Hours): Markup {
  const { parts, sampleOf } = activity;
  const total = activity.delivered + activity.failed;
  const instants = parts.map(({ from }) => from);
  const of = (value: (part: ActivityPart) => number | null) => parts.map(value);
  const whole = (value: number) => formatCount(Math.round(value * 100) / 100, view);
  return html`<h2>The last ${hours === '1' ? 'hour' : `${hours} hours`}</h2>
<p>${Object.keys(SPANS).map((each) => (each === hours ? html`<strong>${each} h</strong> ` : html`<a href="${withQuery(url, { hours: each })}">${each} h</a> `))}
${sampleOf === null ? '' : html`<span class="faint">Of about ${formatCount(total, view)} attempts, ${formatCount(sampleOf, view)} were looked at, evenly over the time: the figures are estimates.</span>`}</p>
${
  total === 0
    ? html`<p class="empty">Nothing was attempted.</p>`
    : html`<h3>Attempts per minute</h3>
${timeChart(
  {
    label: `Attempts per minute: ${formatCount(activity.delivered, view)} delivered, ${formatCount(activity.failed, view)} failed`,
    instants,
    format: whole,
    series: [
      { name: 'delivered', kind: 'first', values: of(({ delivered }) => perMinute(delivered, activity)) },
      { name: 'failed', kind: 'bad', values: of(({ failed }) => perMinute(failed, activity)) },
    ],
  },
  view,
)}
<h3>How long an attempt takes</h3>
${timeChart(
  {
    label: 'Duration of attempts: median, and what 95 of 100 stay below',
    instants,
    format: (ms) => formatSpan(ms / 1_000),
    series: [
      { name: '95 of 100 below', kind: 'second', values: of(({ p95Ms }) => p95Ms) },
      { name: 'median', kind: 'first', values: of(({ medianMs }) => medianMs) },
    ],
  },
  view,
)}
<h3>Lag: from the announcement to the first attempt</h3>
${timeChart(
  {
    label: 'Lag of first attempts: median, and what 95 of 100 stay below',
    instants,
    format: formatSpan,
    series: [
      { name: '95 of 100 below', kind: 'second', values: of(({ p95LagSeconds }) => p95LagSeconds) },
      { name: 'median', kind: 'first', values: of(({ medianLagSeconds }) => medianLagSeconds) },
    ],
  },
  view,
)}
<details><summary>As figures</summary>
${tableOf(
  'Attempts over time',
  activityColumns(activity, view),
  parts.filter(({ delivered, failed }) => delivered + failed > 0).toReversed(),
)}</details>
<p class="exports">All as <a href="${withQuery(url, { export: 'csv' })}" download>CSV</a> or <a href="${withQuery(url, { export: 'json' })}" download>JSON</a></p>`
}`;
}

const activityList = (activity: Activity, view: View): List<ActivityPart> => ({
  name: 'Attempts over time',
  columns: activityColumns(activity, view),
  empty: 'Nothing was attempted.',
  fetch: async () => ({ rows: activity.parts, next: undefined }),
});

const seconds = (value: number | null): string => (value === null ? '–' : formatSpan(value));

function activityColumns(activity: Activity, view: View): readonly Column<ActivityPart>[] {
  return [
    { name: 'from', title: 'From', text: ({ from }) => from, cell: ({ from }) => instant(from, view) },
    { name: 'seconds', text: () => activity.partSeconds },
    {
      name: 'delivered',
      title: 'Delivered',
      isNumber: true,
      text: ({ delivered }) => delivered,
      cell: ({ delivered }) => formatCount(delivered, view),
    },
    {
      name: 'failed',
      title: 'Failed',
      isNumber: true,
      text: ({ failed }) => failed,
      cell: ({ failed }) => formatCount(failed, view),
    },
    {
      name: 'median_ms',
      title: 'Median',
      isNumber: true,
      text: ({ medianMs }) => medianMs,
      cell: ({ medianMs }) => seconds(medianMs === null ? null : medianMs / 1_000),
    },
    {
      name: 'p95_ms',
      title: '95 of 100 below',
      isNumber: true,
      text: ({ p95Ms }) => p95Ms,
      cell: ({ p95Ms }) => seconds(p95Ms === null ? null : p95Ms / 1_000),
    },
    {
      name: 'median_lag_seconds',
      title: 'Median lag',
      isNumber: true,
      text: ({ medianLagSeconds }) => medianLagSeconds,
      cell: ({ medianLagSeconds }) => seconds(medianLagSeconds),
    },
    {
      name: 'p95_lag_seconds',
      title: 'Lag, 95 of 100 below',
      isNumber: true,
      text: ({ p95LagSeconds }) => p95LagSeconds,
      cell: ({ p95LagSeconds }) => seconds(p95LagSeconds),
    },
  ];
}
