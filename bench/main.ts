import { benchAnalytics } from './analytics.ts';
import { benchBackfill } from './backfill.ts';
import { benchCapture } from './capture.ts';
import { benchConsole } from './console.ts';
import { benchCutOver } from './cut-over.ts';
import { benchHistory } from './history.ts';
import { benchLedger } from './ledger.ts';
import { isMisuse } from './misuse.ts';
import { benchOutbox } from './outbox.ts';
import { benchRebuild } from './rebuild.ts';
import { benchReport } from './report.ts';
import { benchRestructure } from './restructure.ts';
import { benchStates } from './states.ts';
import { benchVerify } from './verify.ts';

/** Each answers whether its targets were met. */
const BENCHES: Readonly<Record<string, (args: readonly string[]) => Promise<boolean>>> = {
  analytics: benchAnalytics,
  backfill: benchBackfill,
  capture: benchCapture,
  console: benchConsole,
  'cut-over': benchCutOver,
  history: benchHistory,
  ledger: benchLedger,
  outbox: benchOutbox,
  rebuild: benchRebuild,
  report: benchReport,
  restructure: benchRestructure,
  states: benchStates,
  verify: benchVerify,
};

const [name = '', ...args] = process.argv.slice(2);
const bench = BENCHES[name];
if (bench === undefined) {
  refuse(`npm run bench -- ${Object.keys(BENCHES).join('|')}`);
} else {
  try {
    process.exitCode = (await bench(args)) ? 0 : 1;
  } catch (error) {
    if (!isMisuse(error)) throw error;
    refuse(`${error.message}; docs/benchmarks.md has the commands`);
  }
}

function refuse(why: string): void {
  process.stderr.write(`usage: ${why}\n`);
  process.exitCode = 2;
}
