import { type Comparison, countsOf, type Pair } from '../restructure/perf/compare.ts';
import { formatBytes, formatMs, formatSpan, formatTimes } from '../restructure/perf/figures.ts';
import type { Load, Recording } from '../restructure/perf/recording.ts';
import { quantile, timesOf } from '../restructure/perf/statistics.ts';
import { caveatsOf, nameOf, remarksOf } from '../restructure/perf/words.ts';
import { formatCount, paintOut, type Streams } from './output.ts';
import { printable } from './printable.ts';
import { type Column, tableLines, widthOf } from './table.ts';

/** What a recording comes to. */
export const summaryOf = ({ results, rows, cold, server, recordedAt }: Recording) => ({
  server,
  recordedAt,
  rows,
  cold,
  queries: results
    .filter(({ kind }) => kind === 'dashboard')
    .map((each) => ({
      name: each.title,
      way: each.way,
      status: each.status,
      ...(each.status === 'measured'
        ? { p50Ms: quantile(timesOf(each.warmMs), 0.5), rounds: each.warmMs.length, failed: each.failed }
        : {}),
      ...(each.status === 'failed' ? { code: each.code, message: each.message } : {}),
      ...(each.status === 'left out' ? { reason: each.reason } : {}),
    })),
  accesses: countByStatus(results.filter(({ kind }) => kind === 'access')),
});

const countByStatus = (results: Recording['results']) => ({
  measured: results.filter(({ status }) => status === 'measured').length,
  failed: results.filter(({ status }) => status === 'failed').length,
  leftOut: results.filter(({ status }) => status === 'left out').length,
  reasons: reasonsOf(results),
});

/** Why they were left out, and how many for that; the most first. */
function reasonsOf(results: Recording['results']): readonly { readonly reason: string; readonly count: number }[] {
  const counts = new Map<string, number>();
  for (const each of results)
    if (each.status === 'left out') counts.set(each.reason, (counts.get(each.reason) ?? 0) + 1);
  return [...counts].map(([reason, count]) => ({ reason, count })).toSorted((one, other) => other.count - one.count);
}

const MOST_REASONS = 5;

function reasonLines(reasons: ReturnType<typeof reasonsOf>): readonly string[] {
  const more = reasons.slice(MOST_REASONS).reduce((sum, { count }) => sum + count, 0);
  return [
    ...reasons
      .slice(0, MOST_REASONS)
      .map(({ reason, count }) => `  ${formatCount(count)} left out: ${printable(reason)}`),
    ...(more > 0 ? [`  ${formatCount(more)} left out for other reasons: --json has all`] : []),
  ];
}

export function recordedText(recording: Recording): string {
  const lines = recording.results
    .filter(({ kind }) => kind === 'dashboard')
    .map((each) => {
      const title = printable(nameOf({ ...each, isOther: each.way === 'new' }));
      switch (each.status) {
        case 'measured':
          return `${formatMs(quantile(timesOf(each.warmMs), 0.5)).padStart(10)}  ${title}`;
        case 'failed':
          return `    failed  ${title}: ${each.code} ${printable(each.message)}`;
        default:
          return `  left out  ${title}: ${printable(each.reason)}`;
      }
    });
  const { measured, failed, leftOut, reasons } = summaryOf(recording).accesses;
  const cold = recording.cold.status === 'measured' ? recording.cold.how : `not measured: ${recording.cold.why}`;
  return [
    ...lines,
    `Accesses: ${formatCount(measured)} timed, ${formatCount(failed)} refused by the database, ${formatCount(leftOut)} left out.`,
    ...reasonLines(reasons),
    `cold: ${cold}`,
    ...recording.load.flatMap((load) => loadLines('now', load)),
    '',
  ].join('\n');
}

/** Everything that was found, for machines. */
export const jsonOf = (comparison: Comparison): object => ({
  ...comparison,
  before: aboutOf(comparison.before),
  after: aboutOf(comparison.after),
  caveats: caveatsOf(comparison),
  pairs: comparison.pairs.map((pair) => ({ ...pair, remarks: remarksOf(pair) })),
  counts: countsOf(comparison),
});

const aboutOf = ({ program, server, recordedAt, settings, rows, cold }: Recording) => ({
  program,
  server,
  recordedAt,
  settings,
  rows,
  cold,
});

export function comparedText(comparison: Comparison, streams: Streams): string {
  const { pairs, unpaired, otherRows } = comparison;
  const isJudged = otherRows.length === 0;
  const dashboards = pairs.filter(({ kind }) => kind === 'dashboard');
  return [
    ...caveatsOf(comparison).map((each) => `note: ${printable(each)}`),
    '',
    '            before      after  times as fast',
    ...dashboards.flatMap((pair) => pairLines(pair, isJudged, streams)),
    ...pairs.filter(({ kind }) => kind === 'access').flatMap((pair) => pairLines(pair, isJudged, streams)),
    ...unpaired
      .filter(({ is }) => is === 'fault')
      .map(({ title, what }) => `FAULT    ${printable(`${title}: ${what}`)}`),
    ...unpairedNotes(comparison),
    '',
    ...dashboards.flatMap(planLines),
    ...indexLines(comparison),
    ...comparison.load.flatMap(({ before, after }) => [
      ...(before === null ? [] : loadLines('before', before)),
      ...(after === null ? [] : loadLines('after', after)),
    ]),
    '',
    countsText(comparison),
    '',
  ].join('\n');
}

const PAIR_COLUMNS: readonly Column[] = [
  { min: 7 },
  { min: 10, align: 'right' },
  { min: 10, align: 'right' },
  { min: 32 },
  { shortens: 16 },
];

function pairLines(pair: Pair, isJudged: boolean, streams: Streams): readonly string[] {
  const { good, bad } = paintOut(streams);
  const { verdict, spreads, warm, cold, answerDiffers } = pair;
  const remarks = remarksOf(pair);
  const range = `${formatTimes(warm.ratio)} (${formatSpan(warm)})`;
  const cells = [
    verdict === 'faster'
      ? { text: verdict, paint: good }
      : verdict === 'slower'
        ? { text: verdict, paint: bad }
        : verdict,
    formatMs(spreads.before.p50),
    formatMs(spreads.after.p50),
    range,
    printable(nameOf(pair)),
  ];
  return [
    ...tableLines([cells], PAIR_COLUMNS, { width: widthOf(streams), gap: 1 }),
    ...(answerDiffers === null
      ? []
      : [`         ${isJudged ? bad('WRONG ANSWER') : 'answer not judged'}: ${printable(answerDiffers)}`]),
    ...(cold === null ? [] : [`         cold: ${formatTimes(cold.ratio)} (${formatSpan(cold)})`]),
    ...(remarks.length === 0 ? [] : [`         ${printable(remarks.join('; '))}`]),
  ];
}

/** Those that say the same are one line: an access is asked as several callers. */
function unpairedNotes({ unpaired }: Comparison): readonly string[] {
  const notes = unpaired.filter(({ is }) => is === 'note');
  const dashboards = notes.filter(({ kind }) => kind === 'dashboard');
  const accesses = notes.filter(({ kind }) => kind === 'access').length;
  return [
    ...dashboards.map(({ title, what }) => `note     ${printable(`${title}: ${what}`)}`),
    ...(accesses === 0
      ? []
      : [`note     ${formatCount(accesses)} accesses were not timed: --json says which, and why`]),
  ];
}

function planLines({ planChange, ...pair }: Pair): readonly string[] {
  if (planChange === null) return [];
  return [
    `plan of ${printable(nameOf(pair))}`,
    ...planChange.before.map((line) => `  - ${printable(line)}`),
    ...planChange.after.map((line) => `  + ${printable(line)}`),
  ];
}

const MOST_INDEXES = 10;

function indexLines({ indexes: { usedBefore, usedAfter, neverUsed } }: Comparison): readonly string[] {
  const more = neverUsed.length - MOST_INDEXES;
  return [
    ...usedAfter.map((each) => `index used now, not before: ${printable(each)}`),
    ...usedBefore.map((each) => `index used before, not now: ${printable(each)}`),
    ...neverUsed
      .slice(0, MOST_INDEXES)
      .map(({ table, index, bytes }) => `index never used: ${printable(`${table} ${index}`)}, ${formatBytes(bytes)}`),
    ...(more > 0 ? [`index never used: and ${formatCount(more)} more; --json has all`] : []),
  ];
}

function loadLines(when: string, load: Load): readonly string[] {
  const { way, clients, transactions, seconds, waitMs, queryMs, connections, samples, afterwards, errors } = load;
  const most = (of: (sample: Load['samples'][number]) => number) => Math.max(0, ...samples.map(of));
  const by = way === 'direct' ? `a pool of ${load.poolSize}` : 'the pooler';
  const errorCount = errors.reduce((sum, each) => sum + each.count, 0);
  return [
    `load ${when}: ${formatCount(clients)} clients through ${by}: ${formatCount(Math.round(transactions / seconds))} transactions/s,`,
    `  a connection after ${formatMs(waitMs.p50)} (p99 ${formatMs(waitMs.p99)}, at most ${formatMs(waitMs.max)}), an answer after ${formatMs(queryMs.p50)} (p99 ${formatMs(queryMs.p99)})`,
    `  connections: ${connections} in all, ${most(({ open }) => open)} at a time, ${most(({ active }) => active)} at work, ${most(({ waiting }) => waiting ?? 0)} clients waiting at most`,
    `  errors: ${formatCount(errorCount)}; afterwards ${afterwards.open} open, ${afterwards.idleInTransaction} idle in a transaction`,
    ...errors.map(
      ({ code, message, count }) => `  error ${printable(code)}: ${printable(message)}, ${formatCount(count)} times`,
    ),
    ...load.checks.map(({ what, holds, detail }) => `  ${holds ? 'holds' : 'DOES NOT'}: ${what}: ${printable(detail)}`),
    ...load.notes.map((note) => `  note: ${printable(note)}`),
  ];
}

/** As many as the verdicts are: a query is compared with itself and, where there is one, with that which takes its place. */
const comparedWords = ({ pairs, compared }: ReturnType<typeof countsOf>): string =>
  pairs === compared
    ? `${formatCount(compared)} compared`
    : `${formatCount(compared)} queries compared, ${formatCount(pairs)} times in all, with the other queries`;

function countsText(comparison: Comparison): string {
  const counts = countsOf(comparison);
  const few = counts.tooFewRuns === 0 ? '' : `, ${formatCount(counts.tooFewRuns)} with too few rounds to say`;
  const promises = counts.promisesKept + counts.promisesMissed + counts.promisesNotKnown;
  const unknown = counts.promisesNotKnown === 0 ? '' : `, of ${formatCount(counts.promisesNotKnown)} it is not known`;
  return [
    comparedWords(counts),
    `: ${formatCount(counts.slower)} slower, ${formatCount(counts.same)} the same,`,
    ` ${formatCount(counts.faster)} faster${few};`,
    ` ${formatCount(counts.answersDiffer)} answers differ, ${formatCount(counts.faults)} not answered any more${counts.failSometimes === 0 ? '' : `, ${formatCount(counts.failSometimes)} not each time`}.`,
    counts.answersNotCompared === 0 ? '' : ` ${formatCount(counts.answersNotCompared)} answers were not compared.`,
    promises === 0 ? '' : ` Of what was promised, ${counts.promisesKept} of ${promises} kept${unknown}.`,
  ].join('');
}
