import type { Comparison, Pair } from './compare.ts';
import { formatMs, formatShare, formatTimes } from './figures.ts';
import { withoutSchema } from './plans.ts';
import type { Measured } from './recording.ts';

/** What is to be known before any figure is looked at. Pure. */
export function caveatsOf({ before, after, otherRows, machine, isMachineKnown, noise }: Comparison): readonly string[] {
  const settings = Object.keys(before.settings).filter((name) => before.settings[name] !== after.settings[name]);
  const uncounted = Object.keys(before.rows).filter(
    (table) => before.rows[table] === null && after.rows[table] == null,
  );
  return [
    ...otherRows.map(
      ({ table, before: former, after: latter }) =>
        `${table} had ${former ?? 'uncounted'} rows and has ${latter ?? 'uncounted'}: answers are not judged`,
    ),
    ...uncounted.map((table) => `${table} could not be counted, before or after: it may have other rows`),
    ...(before.server === after.server ? [] : [`the server was PostgreSQL ${before.server} and is ${after.server}`]),
    ...settings.map((name) => `${name} was ${before.settings[name]} and is ${after.settings[name] ?? 'not told'}`),
    ...machine.map(({ title, warm }) => `${title}: ${formatTimes(warm.ratio)} as fast as before`),
    ...(isMachineKnown
      ? []
      : ['the machine itself could not be timed each time: it may differ by more than what is taken for noise']),
    `what differs by less than ${formatShare(noise.share)} or ${formatMs(noise.ms)} is taken for noise: as far as the machine itself does, and 10 % and 0.1 ms at least`,
    coldText(before, after),
    ...(before.load.length > 0 && after.load.length === 0
      ? ['under load it was measured before, and not now: give --clients']
      : []),
  ];
}

function coldText(before: Comparison['before'], after: Comparison['after']): string {
  const { cold } = before.cold.status === 'measured' ? after : before;
  return cold.status === 'measured' ? `cold: ${cold.how}` : `cold: not measured: ${cold.why}`;
}

/** Of a query, or of the one that takes its place, which has its title. */
export const nameOf = ({ title, isOther }: Pick<Pair, 'title' | 'isOther'>): string =>
  `${title}${isOther ? ' (the other query)' : ''}`;

/** What else is to be said of a query than how fast it is. Pure. */
export function remarksOf({ before, after, planChange, promise, isAnswerUnknown, byValues }: Pair): readonly string[] {
  const former = (before.plan?.scanned ?? []).map(withoutSchema);
  const scans = after.plan?.scanned.filter((table) => !former.includes(withoutSchema(table))) ?? [];
  return [
    ...(promise === null
      ? []
      : [`promised ${promise.ratio} times: ${promise.is === 'missed' ? 'MISSED' : promise.is}`]),
    ...(byValues === null
      ? []
      : [`by its values from ${formatTimes(byValues.worst)} to ${formatTimes(byValues.best)}`]),
    ...(isAnswerUnknown ? ['answers not compared: more rows than are'] : []),
    ...failuresText('before', before),
    ...failuresText('now', after),
    ...(planChange === null ? [] : ['another plan']),
    ...scans.map((table) => `reads all of ${table} now`),
    ...partitionsText(after),
  ];
}

const failuresText = (when: string, { failed }: Measured): readonly string[] =>
  failed === null ? [] : [`failed ${failed.count} times ${when}, first with ${failed.code}: ${failed.message}`];

const partitionsText = ({ plan }: Measured): readonly string[] =>
  (plan?.partitions ?? []).map(({ table, looked, of }) => `${looked} of ${of} partitions of ${table}`);
