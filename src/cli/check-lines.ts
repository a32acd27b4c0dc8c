import type { CheckResult, VerificationWatch } from '../ledger/verify.ts';
import { formatCount, type Streams } from './output.ts';
import { paintOf } from './paint.ts';
import type { Progress } from './progress.ts';
import { type Column, tableLines, widthOf } from './table.ts';

const UNIT = ' s';
const COLUMNS: readonly Column[] = [
  { min: 6 },
  { min: 72, shortens: 24 },
  { min: 22, align: 'right' },
  { min: 7, align: 'right' },
];

/** One check's verdict, and what it found. */
export function checkLines(result: CheckResult, streams?: Streams): string {
  const paint = paintOf(streams?.colours?.out);
  const mark = result.holds ? { text: 'holds', paint: paint.good } : { text: 'FAILS', paint: paint.bad };
  const counted = `${formatCount(result.examined)} ${result.unit}`;
  const width = streams === undefined ? undefined : widthOf(streams);
  const [cells] = tableLines([[mark, result.check, counted, result.seconds.toFixed(1)]], COLUMNS, {
    width: width === undefined ? undefined : width - UNIT.length,
    gap: 1,
  });
  const line = `${cells}${UNIT}\n`;
  const faults = result.first.map((fault) => `         ${fault}\n`);
  const more = result.faults - BigInt(result.first.length);
  return line + faults.join('') + (more > 0n ? `         and ${formatCount(more)} more\n` : '');
}

/** Shows what is being checked while it is, and each verdict when it is there, unless it is told as JSON in the end. */
export function watchChecks(
  streams: Streams,
  progress: Progress,
  json: boolean,
): Required<Pick<VerificationWatch, 'onBegin' | 'onEnd'>> {
  return {
    onBegin: (check) => progress.update(`checking that ${check}`, 0, 0),
    onEnd: (result) => {
      progress.clear();
      if (!json) streams.out.write(checkLines(result, streams));
    },
  };
}
