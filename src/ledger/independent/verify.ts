import type { Tx } from '../../db/pool.ts';
import type { CheckResult, VerificationWatch } from '../verify.ts';
import { compareBooks, judgeBookSums } from './books.ts';
import { judgeChart, judgeGuards } from './catalog.ts';
import { readClosings } from './closed-periods.ts';
import { ALL_CHECKS, type Check, Findings, nameOf } from './findings.ts';
import { LogReader } from './log-reader.ts';
import { comparePresentRows } from './present-rows.ts';
import { judgeReversals } from './reversals.ts';

/** How PostgreSQL prints what is read here, whatever database and role have been set to. */
const PRINTED = `set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local bytea_output = 'hex'`;

/** The checks that are made before the log is read; all others are made while it is. */
const BEFORE = ['guards', 'chart'] as const satisfies readonly Check[];

/**
 * Recomputes everything that the ledger promises, as `runChecks` does, and shares nothing with it: no function of the database's
 * is called, rows are read as they are and all else is computed here. In a transaction of the caller's, one of `ONE_SNAPSHOT`;
 * changes nothing. What it believes is PostgreSQL itself: that an index says unique, and that a SELECT says what the table has.
 *
 * Its time grows with events and entries, its memory with accounts, holds and reversals, with the seal that it is at, and with
 * one batch of each table; never with events or entries.
 * @param options.bookId only that book; all when left out
 * @returns one result a check, in the order of causes; the time of the reading stands at the first check that needs it
 */
export async function verifyIndependently(
  tx: Tx,
  options: { readonly bookId?: number } = {},
  watch: VerificationWatch = {},
): Promise<CheckResult[]> {
  await tx.query(PRINTED);
  const findings = new Findings();
  const clock = startClock();
  const report = (checks: readonly Check[]) =>
    checks.map((check, nth) => findings.result(check, nth === 0 ? clock() : 0));
  const tell = (results: CheckResult[]) => {
    for (const result of results) watch.onEnd?.(result);
    return results;
  };

  watch.onBegin?.(nameOf('guards'));
  await judgeGuards(tx, findings);
  const guards = tell(report(['guards']));
  watch.onBegin?.(nameOf('chart'));
  const sides = await judgeChart(tx, findings);
  const chart = tell(report(['chart']));

  const rest = ALL_CHECKS.filter((check) => !(BEFORE as readonly Check[]).includes(check));
  watch.onBegin?.(nameOf(rest[0] as Check));
  await readLog(tx, { findings, sides, bookId: options.bookId ?? null, watch });
  return [...guards, ...chart, ...tell(report(rest))];
}

interface Reading {
  readonly findings: Findings;
  readonly sides: ReadonlyMap<string, string>;
  readonly bookId: number | null;
  readonly watch: VerificationWatch;
}

async function readLog(tx: Tx, { findings, sides, bookId, watch }: Reading): Promise<void> {
  const closings = await readClosings(tx, bookId);
  const { onProgress } = watch;
  const total = onProgress === undefined ? 0n : await countEvents(tx, bookId);
  const onEvents = onProgress && ((done: number) => onProgress(done, total));
  const reader = new LogReader(tx, findings, { bookId, sides, closings, onEvents });
  await reader.read();
  for (const read of reader.books.values()) await judgeReversals(tx, read);
  await compareBooks(tx, reader, bookId);
  await comparePresentRows({
    tx,
    findings,
    bookId,
    bookOf: (id) => reader.bookOf(id).book,
    books: () => [...reader.books.values()].map(({ book }) => book),
  });
  judgeBookSums(reader);
}

async function countEvents(tx: Tx, bookId: number | null): Promise<bigint> {
  const { rows } = await tx.query<{ total: bigint }>(
    'select count(*) as total from payments.events where $1::integer is null or book_id = $1',
    [bookId],
  );
  return rows[0]?.total ?? 0n;
}

/** Tells how many seconds have passed since it was asked last. */
function startClock(): () => number {
  let last = performance.now();
  return () => {
    const since = last;
    last = performance.now();
    return (last - since) / 1_000;
  };
}
