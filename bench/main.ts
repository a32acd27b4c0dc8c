import { benchBackfill } from './backfill.ts';
import { benchCapture } from './capture.ts';
import { benchCutOver } from './cut-over.ts';
import { benchHistory } from './history.ts';
import { benchLedger } from './ledger.ts';
import { benchOutbox } from './outbox.ts';
import { benchRebuild } from './rebuild.ts';
import { benchVerify } from './verify.ts';

/** Each answers whether its targets were met. */
const BENCHES: Readonly<Record<string, (args: readonly string[]) => Promise<boolean>>> = {
  backfill: benchBackfill,
  capture: benchCapture,
  'cut-over': benchCutOver,
  history: benchHistory,
  ledger: benchLedger,
  outbox: benchOutbox,
  rebuild: benchRebuild,
  verify: benchVerify,
};

const [name = '', ...args] = process.argv.slice(2);
const bench = BENCHES[name];
if (bench === undefined) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(BENCHES).join('|')}\n`);
  process.exitCode = 2;
} else {
  process.exitCode = (await bench(args)) ? 0 : 1;
}
