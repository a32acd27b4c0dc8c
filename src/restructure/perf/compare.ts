import { isDeepStrictEqual } from 'node:util';
import { AppError } from '../../errors.ts';
import { difference } from '../accesses/compare.ts';
import { shapeOf } from './plans.ts';
import type { Load, Measured, Recording, Result, Spread } from './recording.ts';
import { quantile, type Ratio, ratioOf, spreadOf, timesOf } from './statistics.ts';
import { type Material, ROUND_TRIP, WORK } from './subjects.ts';
import { LEAST_RUNS } from './timings.ts';

/** `too few`: too few runs to say. */
export type Verdict = 'slower' | 'same' | 'faster' | 'too few';

/** A query before, and what is asked instead of it afterwards: the same, or another. */
export interface Pair {
  readonly id: string;
  readonly kind: Result['kind'];
  readonly title: string;
  /** Whether it is another query that gives the same. */
  readonly isOther: boolean;
  readonly before: Measured;
  readonly after: Measured;
  /** A time a round. */
  readonly times: { readonly before: readonly number[]; readonly after: readonly number[] };
  readonly spreads: { readonly before: Spread; readonly after: Spread };
  readonly warm: Ratio;
  readonly verdict: Verdict;
  /** How many times as fast it became with the values that it is worst with, and best, where those are far apart: the ratio is between them. */
  readonly byValues: { readonly worst: number; readonly best: number } | null;
  readonly cold: Ratio | null;
  /** What is other in the answer, in words; null where nothing is. */
  readonly answerDiffers: string | null;
  readonly planChange: { readonly before: readonly string[]; readonly after: readonly string[] } | null;
  /** Whether there are answers that nobody compared: of both there were too many rows. */
  readonly isAnswerUnknown: boolean;
  /** Kept: the answers are the same, and it is so many times as fast at the least. */
  readonly promise: { readonly ratio: number; readonly is: 'kept' | 'missed' | 'not known' } | null;
}

/** A query of which there is nothing to compare, and why. */
interface Unpaired {
  readonly id: string;
  readonly kind: Result['kind'];
  readonly title: string;
  /** `fault`: it was answered before, and is not any more. */
  readonly is: 'fault' | 'note';
  readonly what: string;
}

export interface Comparison {
  readonly before: Recording;
  readonly after: Recording;
  /** Tables whose rows are not as many as they were. */
  readonly otherRows: readonly {
    readonly table: string;
    readonly before: number | null;
    readonly after: number | null;
  }[];
  /** How many times as fast the machine was at what has nothing to do with the database's tables. */
  readonly machine: readonly { readonly title: string; readonly warm: Ratio }[];
  /** Whether both controls were timed both times: else the noise is the least there is, and may be more. */
  readonly isMachineKnown: boolean;
  readonly noise: Noise;
  /** The slowest first, by what became of them. */
  readonly pairs: readonly Pair[];
  readonly unpaired: readonly Unpaired[];
  readonly indexes: IndexChanges;
  readonly load: readonly { readonly way: Load['way']; readonly before: Load | null; readonly after: Load | null }[];
}

/** What is closer than either is not told apart. */
export interface Noise {
  readonly share: number;
  readonly ms: number;
}

interface IndexChanges {
  readonly usedBefore: readonly string[];
  readonly usedAfter: readonly string[];
  readonly neverUsed: Recording['indexes'];
}

/** Medians that are closer than that are taken for the same, whatever their spread. */
const LEAST_NOISE = 0.1;
/** So are those that are as close, or as two round trips of nothing are: nobody sees it. */
const LEAST_DIFFERENCE_MS = 0.1;

/** What became of each query. Pure. */
export function compareRecordings(before: Recording, after: Recording): Comparison {
  const machine = controlsOf(before, after);
  const noise = noiseOf(machine);
  const promised = new Map(
    before.material.queries.map(({ query }) => [
      `dashboard ${query.name}`,
      { ratio: query.promised, isOther: query.after !== undefined },
    ]),
  );
  const otherRows = otherRowsOf(before, after);
  const isJudged = otherRows.length === 0;
  const looked = pairUp(before, after);
  const pairs = looked.flatMap((each) =>
    'isOther' in each ? [pairOf(each, { noise, isJudged, promise: promised.get(each.id) })] : [],
  );
  return {
    before,
    after,
    otherRows,
    machine: machine.map(({ title, warm }) => ({ title, warm })),
    isMachineKnown: [WORK, ROUND_TRIP].every((control) => machine.some(({ id }) => id === control)),
    noise,
    pairs: pairs.toSorted((one, other) => one.warm.ratio - other.warm.ratio),
    unpaired: looked.flatMap((each) => ('is' in each ? [each] : [])),
    indexes: indexChanges(before, after),
    load: (['direct', 'pooler'] as const).flatMap((way) => {
      const of = ({ load }: Recording) => load.find((each) => each.way === way) ?? null;
      return of(before) === null && of(after) === null ? [] : [{ way, before: of(before), after: of(after) }];
    }),
  };
}

interface Control {
  readonly id: string;
  readonly title: string;
  readonly warm: Ratio;
  readonly differenceMs: number;
}

function controlsOf(before: Recording, after: Recording): readonly Control[] {
  const controls = ({ results }: Recording) =>
    results.flatMap((each) => (each.kind === 'control' && each.status === 'measured' ? [each] : []));
  const latter = new Map(controls(after).map((each) => [each.id, timesOf(each.warmMs)]));
  return controls(before).flatMap(({ id, title, ...each }) => {
    const [warmMs, otherMs] = [timesOf(each.warmMs), latter.get(id)];
    if (otherMs === undefined) return [];
    const differenceMs = Math.abs(quantile(warmMs, 0.5) - quantile(otherMs, 0.5));
    return [{ id, title, warm: ratioOf(warmMs, otherMs), differenceMs }];
  });
}

function noiseOf(controls: readonly Control[]): Noise {
  const work = controls.filter(({ id }) => id === WORK).map(({ warm }) => Math.abs(Math.log(warm.ratio)));
  const trips = controls.filter(({ id }) => id === ROUND_TRIP).map(({ differenceMs }) => differenceMs);
  return { share: Math.max(LEAST_NOISE, ...work), ms: Math.max(LEAST_DIFFERENCE_MS, ...trips) };
}

const otherRowsOf = (before: Recording, after: Recording): Comparison['otherRows'] =>
  Object.entries(before.rows)
    .map(([table, rows]) => ({ table, before: rows, after: after.rows[table] ?? null }))
    .filter((each) => each.before !== each.after);

/**
 * A query that finds other rows is no slower and no faster.
 * @throws AppError PERF_OTHER_ROWS
 */
export function assertSameRows({ otherRows }: Comparison): void {
  const [first, ...others] = otherRows;
  if (first === undefined) return;
  const more = others.length === 0 ? '' : `, and ${others.length} more tables differ`;
  throw new AppError(
    'PERF_OTHER_ROWS',
    `${first.table} had ${first.before ?? 'no count of'} rows when it was recorded, and has ${first.after ?? 'no count of'}${more}. Measure on the same data, or give --other-rows: then answers are not judged.`,
  );
}

/**
 * Two that did not ask the same have nothing to tell of each other. What takes a query's place, and what is promised, may have been written since.
 * @throws AppError PERF_OTHER_QUESTIONS
 */
export function assertSameQuestions(before: Recording, after: Recording): void {
  const [former, latter] = [partsOf(before.material), partsOf(after.material)];
  const names = [...new Set([...former.keys(), ...latter.keys()])];
  const others = names.filter((name) => !isDeepStrictEqual(former.get(name), latter.get(name)));
  if (others.length === 0) return;
  const more = others.length > MOST_NAMED ? `, and ${others.length - MOST_NAMED} more` : '';
  throw new AppError(
    'PERF_OTHER_QUESTIONS',
    `The two recordings did not ask the same: ${others.slice(0, MOST_NAMED).join(', ')}${more}. Measure afterwards with what was asked before: liventix restructure perf compare <before> --output <after>`,
  );
}

const MOST_NAMED = 5;

/** By what it is called, each part of what was asked. */
const partsOf = ({ tables, queries, callers, accesses }: Material): ReadonlyMap<string, unknown> =>
  new Map<string, unknown>([
    ['the tables that are counted', tables],
    ...queries.map(
      ({ query: { after: _after, promised: _promised, ...query }, ...drawn }) =>
        [`the query ${query.name}`, { query, drawn }] as const,
    ),
    ['the callers', callers],
    ['the accesses', accesses],
  ]);

/** A query that fails more often than it did. Pure. */
export const failsMore = ({ before, after }: Pair): boolean => (after.failed?.count ?? 0) > (before.failed?.count ?? 0);

/** Whether something does not hold: a wrong answer, none any more or not each time, or a query that takes `failSlower` times as long. Pure. */
export function isAtFault(
  { pairs, unpaired, otherRows }: Comparison,
  { failSlower }: { readonly failSlower?: number },
): boolean {
  const isWrong = otherRows.length === 0 && pairs.some(({ answerDiffers }) => answerDiffers !== null);
  const isTooSlow =
    failSlower !== undefined && pairs.some(({ verdict, warm }) => verdict === 'slower' && 1 / warm.ratio >= failSlower);
  return isWrong || isTooSlow || pairs.some(failsMore) || unpaired.some(({ is }) => is === 'fault');
}

type Matched = Pick<Pair, 'id' | 'kind' | 'isOther' | 'before' | 'after'>;

function pairUp(before: Recording, after: Recording): readonly (Matched | Unpaired)[] {
  const of = (recording: Recording, way: Result['way']) =>
    new Map(
      recording.results.filter((each) => each.way === way && each.kind !== 'control').map((each) => [each.id, each]),
    );
  const [former, same, other] = [of(before, 'old'), of(after, 'old'), of(after, 'new')];
  return [...former.values()].flatMap((result) => {
    const instead = other.get(result.id);
    return [
      match(result, same.get(result.id), false),
      ...(instead === undefined ? [] : [match(result, instead, true)]),
    ];
  });
}

function match(before: Result, after: Result | undefined, isOther: boolean): Matched | Unpaired {
  const { id, kind, title } = before;
  if (before.status === 'measured' && after?.status === 'measured') return { id, kind, isOther, before, after };
  const about = { id, kind, title };
  const was = stateText(before);
  const is = after === undefined ? 'is not asked' : stateText(after);
  // Of what takes the place of a query that there was no answer to, nothing can be said, but that it fails.
  const isFault = after?.status === 'failed' ? before.status !== 'failed' : before.status === 'measured' && !isOther;
  if (was === is) return { ...about, is: 'note', what: was };
  return {
    ...about,
    is: isFault ? 'fault' : 'note',
    what: isOther ? `the other query: ${is}` : `${was} before; ${is} after`,
  };
}

function stateText(result: Result): string {
  switch (result.status) {
    case 'measured':
      return 'answered';
    case 'failed':
      return `failed with ${result.code}: ${result.message}`;
    default:
      return result.reason;
  }
}

function pairOf(
  { before, after, ...about }: Matched,
  {
    noise,
    isJudged,
    promise,
  }: {
    readonly noise: Noise;
    readonly isJudged: boolean;
    readonly promise: { ratio: number | undefined; isOther: boolean } | undefined;
  },
): Pair {
  const times = { before: timesOf(before.warmMs), after: timesOf(after.warmMs) };
  const warm = ratioOf(times.before, times.after);
  const spreads = { before: spreadOf(times.before), after: spreadOf(times.after) };
  const shapes = [before, after].map(({ plan }) => (plan === null ? [] : shapeOf(plan.root)));
  const [former = [], latter = []] = shapes;
  const verdict = verdictOf(warm, {
    noise,
    runs: Math.min(times.before.length, times.after.length),
    differenceMs: Math.abs(spreads.before.p50 - spreads.after.p50),
  });
  const ratio = promise?.isOther === about.isOther ? promise.ratio : undefined;
  const found = {
    verdict,
    warm,
    answerDiffers: answerDifference(before, after),
    isAnswerUnknown: isUnknown(before, after),
  };
  return {
    ...about,
    title: before.title,
    before,
    after,
    times,
    spreads,
    ...found,
    byValues: valuesApart(before.warmMs, after.warmMs, noise),
    cold: before.coldMs?.length && after.coldMs?.length ? ratioOf(timesOf(before.coldMs), timesOf(after.coldMs)) : null,
    planChange: former.join('\n') === latter.join('\n') ? null : { before: former, after: latter },
    promise: ratio === undefined ? null : { ratio, is: promiseState(ratio, found, isJudged) },
  };
}

/** So far apart what became of the one set of values and of the other is worth a line. */
const FAR_APART = 3;

function valuesApart(before: Measured['warmMs'], after: Measured['warmMs'], noise: Noise): Pair['byValues'] {
  if (before.length < LEAST_RUNS || after.length < LEAST_RUNS) return null;
  const medians = (rounds: Measured['warmMs']) =>
    (rounds[0] ?? []).map((_, set) =>
      quantile(
        rounds.map((round) => round[set] ?? 0),
        0.5,
      ),
    );
  const latter = medians(after);
  const ratios = medians(before).map((ms, set) => {
    const otherMs = latter[set] ?? ms;
    return Math.abs(ms - otherMs) < noise.ms ? 1 : ms / otherMs;
  });
  const [worst, best] = [Math.min(...ratios), Math.max(...ratios)];
  return best / worst < FAR_APART ? null : { worst, best };
}

function promiseState(
  ratio: number,
  {
    verdict,
    warm,
    answerDiffers,
    isAnswerUnknown,
  }: Pick<Pair, 'verdict' | 'warm' | 'answerDiffers' | 'isAnswerUnknown'>,
  isJudged: boolean,
): 'kept' | 'missed' | 'not known' {
  if (verdict === 'too few' || isAnswerUnknown || (answerDiffers !== null && !isJudged)) return 'not known';
  return answerDiffers === null && warm.low >= ratio ? 'kept' : 'missed';
}

/** Of what both were refused nothing is compared. */
const isUnknown = (before: Measured, after: Measured): boolean =>
  before.answers.some(({ status }, at) => status === 'refused' && after.answers[at]?.status === 'refused');

/** Faster or slower where even the closest that the medians may be is beyond the noise. Pure. */
export function verdictOf(
  { low, high }: Ratio,
  { noise, runs, differenceMs }: { readonly noise: Noise; readonly runs: number; readonly differenceMs: number },
): Verdict {
  if (runs < LEAST_RUNS) return 'too few';
  if (differenceMs < noise.ms) return 'same';
  if (high < 1 / (1 + noise.share)) return 'slower';
  return low > 1 + noise.share ? 'faster' : 'same';
}

function answerDifference(before: Measured, after: Measured): string | null {
  for (const [at, outcome] of before.answers.entries()) {
    const other = after.answers[at];
    const what = other === undefined ? 'is not given any more' : difference(outcome, other);
    if (what !== undefined) return before.answers.length === 1 ? what : `with its values number ${at + 1}: ${what}`;
  }
  return null;
}

function indexChanges(before: Recording, after: Recording): IndexChanges {
  const used = ({ indexes }: Recording) =>
    indexes.filter(({ scans }) => scans > 0).map(({ table, index }) => `${table} ${index}`);
  const [former, latter] = [new Set(used(before)), new Set(used(after))];
  return {
    usedBefore: [...former].filter((each) => !latter.has(each)),
    usedAfter: [...latter].filter((each) => !former.has(each)),
    neverUsed: after.indexes
      .filter(({ scans, scansEver, isUnique }) => scans === 0 && scansEver === 0 && !isUnique)
      .toSorted((one, other) => other.bytes - one.bytes),
  };
}

/** How many of each. Pure. */
export const countsOf = ({ before, pairs, unpaired }: Comparison) => ({
  /** Queries, each once, whether another takes its place or not. */
  compared: new Set(pairs.map(({ id }) => id)).size,
  /** As many as there are verdicts: with those that take the place of one. */
  pairs: pairs.length,
  slower: pairs.filter(({ verdict }) => verdict === 'slower').length,
  same: pairs.filter(({ verdict }) => verdict === 'same').length,
  faster: pairs.filter(({ verdict }) => verdict === 'faster').length,
  tooFewRuns: pairs.filter(({ verdict }) => verdict === 'too few').length,
  answersDiffer: pairs.filter(({ answerDiffers }) => answerDiffers !== null).length,
  answersNotCompared: pairs.filter(({ isAnswerUnknown }) => isAnswerUnknown).length,
  faults: unpaired.filter(({ is }) => is === 'fault').length,
  failSometimes: pairs.filter(failsMore).length,
  promisesKept: pairs.filter(({ promise }) => promise?.is === 'kept').length,
  promisesMissed: pairs.filter(({ promise }) => promise?.is === 'missed').length,
  /** With those of queries that were not timed both times. */
  promisesNotKnown:
    before.material.queries.filter(({ query }) => query.promised !== undefined).length -
    pairs.filter(({ promise }) => promise?.is === 'kept' || promise?.is === 'missed').length,
});
