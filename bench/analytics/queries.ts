import { median, print, spread } from '../figures.ts';
import type { Sites } from './inserts.ts';

interface Question {
  readonly name: string;
  readonly kind: 'dashboard' | 'month';
  readonly before: string;
  readonly after: string;
}

const MONTH = `date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' - interval '3 months'`;
const IN_MONTH = `created_at >= ${MONTH} and created_at < ${MONTH} + interval '1 month'`;
const EVENT = `public.nth('event', 7)`;
const STATISTICS = `count(*) as total_views, count(distinct coalesce(user_id::text, session_id)) as unique_viewers, count(*) filter (where completed) as completions,
  avg(dwell_ms) as avg_dwell_ms, percentile_cont(0.5) within group (order by dwell_ms) as median_dwell_ms`;

const days = (where: string) => `
  select event_id, (created_at at time zone 'UTC')::date as day, ${STATISTICS} from analytics.event_impressions where ${where} group by 1, 2`;

const QUESTIONS: readonly Question[] = [
  {
    name: 'the days of one event, of 30 days',
    kind: 'dashboard',
    before: days(`event_id = ${EVENT} and created_at >= now() - interval '30 days'`),
    after: `select * from analytics.event_daily where event_id = ${EVENT} and day >= (now() - interval '30 days')::date`,
  },
  {
    name: 'the days of one event, of all time',
    kind: 'dashboard',
    before: days(`event_id = ${EVENT}`),
    after: `select * from analytics.event_daily where event_id = ${EVENT}`,
  },
  {
    name: 'the events of an organization, of 90 days',
    kind: 'dashboard',
    before: `select event_id, count(*) as views, count(*) filter (where completed) as completions from analytics.event_impressions
      where created_at >= now() - interval '90 days' and event_id in (select id from events.events where organization_id = public.nth('organization', 7)) group by 1`,
    after: `select event_id, sum(total_views) as views, sum(completions) as completions from analytics.event_daily
      where day >= (now() - interval '90 days')::date and event_id in (select id from events.events where organization_id = public.nth('organization', 7)) group by 1`,
  },
  {
    name: 'the twenty most viewed events, of 30 days',
    kind: 'dashboard',
    before: `select event_id, count(*) as views from analytics.event_impressions where created_at >= now() - interval '30 days' group by 1 order by 2 desc limit 20`,
    after: `select event_id, sum(total_views) as views from analytics.event_daily where day >= (now() - interval '30 days')::date group by 1 order by 2 desc limit 20`,
  },
  {
    name: 'views by day, of all events and all time',
    kind: 'dashboard',
    before: `select (created_at at time zone 'UTC')::date as day, count(*) from analytics.event_impressions group by 1`,
    after: `select day, sum(total_views) from analytics.event_daily group by 1`,
  },
  {
    name: "one event's month, by hour",
    kind: 'month',
    before: `select date_trunc('hour', created_at), ${STATISTICS} from analytics.event_impressions where event_id = ${EVENT} and ${IN_MONTH} group by 1`,
    after: '',
  },
  {
    name: "a month's last rows of one event",
    kind: 'month',
    before: `select * from analytics.event_impressions where event_id = ${EVENT} and ${IN_MONTH} order by created_at desc limit 50`,
    after: '',
  },
  {
    name: 'who saw one event in a month',
    kind: 'month',
    before: `select count(distinct user_id) from analytics.event_impressions where event_id = ${EVENT} and ${IN_MONTH}`,
    after: '',
  },
  {
    name: 'all rows of a month, summed up',
    kind: 'month',
    before: `select count(*), sum(dwell_ms), count(*) filter (where completed) from analytics.event_impressions where ${IN_MONTH}`,
    after: '',
  },
];

const TARGETS = { dashboard: 10, month: 5 } as const;

/** The same questions of both, by turns; months are asked by the same words. Answers whether each is as much faster as was promised. */
export async function compareQueries({ plain, months }: Sites, rounds: number): Promise<readonly boolean[]> {
  const verdicts: boolean[] = [];
  for (const { name, kind, before, after } of QUESTIONS) {
    const ratios: number[] = [];
    const took: { before: number; after: number }[] = [];
    for (let round = 0; round <= rounds; round += 1) {
      const one = { before: await timed(plain, before), after: await timed(months, after === '' ? before : after) };
      // The first fills the caches.
      if (round === 0) continue;
      took.push(one);
      ratios.push(one.before / one.after);
    }
    const isMet = median(ratios) >= TARGETS[kind];
    verdicts.push(isMet);
    const ms = (side: 'before' | 'after') => median(took.map((each) => each[side])).toFixed(1);
    print(
      `${kind}: ${name}: ${ms('before')} ms before, ${ms('after')} after, ${spread(ratios, 1)} times as fast, ${TARGETS[kind]} wanted: ${isMet ? 'met' : 'MISSED'}`,
    );
  }
  return verdicts;
}

async function timed(pool: Sites['plain'], sql: string): Promise<number> {
  const began = performance.now();
  await pool.query(sql);
  return performance.now() - began;
}
