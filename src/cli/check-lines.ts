import type { CheckResult } from '../ledger/verify.ts';
import { formatCount } from './output.ts';

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
