import type { CheckResult, VerificationWatch } from '../ledger/verify.ts';
import { formatCount, type Streams } from './output.ts';
import type { Progress } from './progress.ts';

const NAME_WIDTH = 72;

/** One check's verdict, and what it found. */
export function checkLines(result: CheckResult): string {
  const mark = result.holds ? 'holds ' : 'FAILS ';
  const counted = `${formatCount(result.examined)} ${result.unit}`;
  const line = `${mark} ${result.check.padEnd(NAME_WIDTH)} ${counted.padStart(22)}  ${result.seconds.toFixed(1).padStart(6)} s\n`;
  const faults = result.first.map((fault) => `         ${fault}\n`);
  const more = result.faults - BigInt(result.first.length);
  return line + faults.join('') + (more > 0n ? `         and ${formatCount(more)} more\n` : '');
}

/** Shows what is being checked while it is, and each verdict when it is there, unless it is told as JSON in the end. */
export function watchChecks(
  { out }: Streams,
  progress: Progress,
  json: boolean,
): Required<Pick<VerificationWatch, 'onBegin' | 'onEnd'>> {
  return {
    onBegin: (check) => progress.update(`checking that ${check}`, 0, 0),
    onEnd: (result) => {
      progress.clear();
      if (!json) out.write(checkLines(result));
    },
  };
}
