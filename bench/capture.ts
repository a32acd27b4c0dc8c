import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../src/demo/legacy-database.ts';
import { runBackfill } from '../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../src/replay/capture.ts';
import { cutOver, rollBack } from '../src/replay/cut-over.ts';
import { median, print, spread } from './figures.ts';
import { openBenchHome } from './home.ts';
import { writeAsOldCode } from './old-code.ts';

const SIZE = { wallets: 500, orgWallets: 20, transactions: 5_000 };
/** What old code may feel of it: its writes with the capture, against those without. */
const TARGET_RATIO = 0.5;

/** Who looks at what old code writes. */
const WAYS = {
  'nobody, as before': async () => undefined,
  'the capture': async (pool: Pool) => {
    await turnCaptureOn(pool);
  },
  'the ledger, after the cut-over': async (pool: Pool) => {
    await turnCaptureOn(pool);
    await runBackfill(pool, { settleMs: 0 });
    const { refused } = await cutOver(pool, { owners: 'all', maxUnexplainedCents: 1_000_000_000n });
    if (refused.length > 0) throw new Error(`not everybody was cut over: ${refused[0]?.reason}`);
  },
} as const;

/**
 * What does a write of old code cost (lock the wallet, insert the row, write the balance, commit) while nobody looks, while it is
 * captured, and after the cut-over? By turns on one server, each client on wallets of its own. Answers whether the target was met.
 */
export async function benchCapture(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rounds: { type: 'string', default: '3' },
      ms: { type: 'string', default: '4000' },
      clients: { type: 'string', default: '4' },
    },
  });
  const [rounds, ms, clients] = [Number(values.rounds), Number(values.ms), Number(values.clients)];
  const home = await openBenchHome();
  const pool = await openPool({ databaseUrl: home.databaseUrl, max: clients + 2 });
  try {
    await createLegacyDatabase(pool);
    await fillLegacyDatabase(pool, SIZE);
    await migrate(home.databaseUrl);
    const ratios: Record<string, number[]> = {};
    for (let round = 1; round <= rounds; round += 1) {
      let bare = 0;
      for (const [way, prepare] of Object.entries(WAYS)) {
        await prepare(pool);
        const perSecond = await writesPerSecond(pool, { ms, clients });
        if (bare === 0) bare = perSecond;
        ratios[way] = [...(ratios[way] ?? []), perSecond / bare];
        print(
          `round ${round}: ${Math.round(perSecond)} writes/s watched by ${way}, ratio ${(perSecond / bare).toFixed(2)}`,
        );
      }
      await rollBack(pool, { owners: 'all' });
      await turnCaptureOff(pool);
    }
    for (const [way, measured] of Object.entries(ratios))
      print(`watched by ${way}: ${spread(measured)} of the bare speed`);
    print(`${clients} clients, ${rounds} rounds; target for the capture ${TARGET_RATIO}`);
    return median(ratios['the capture'] ?? []) >= TARGET_RATIO;
  } finally {
    await pool.end();
    await home.close({ keep: false });
  }
}

async function writesPerSecond(pool: Pool, { ms, clients }: { ms: number; clients: number }): Promise<number> {
  const { rows } = await pool.query<{ id: string }>('select id from wallets order by id limit $1', [clients]);
  const until = performance.now() + ms;
  const counts = await Promise.all(rows.map(({ id }) => writeUntil(pool, id, until)));
  return counts.reduce((sum, count) => sum + count, 0) / (ms / 1_000);
}

/** What old code does to a wallet, again and again until then. Answers how often. */
async function writeUntil(pool: Pool, walletId: string, until: number): Promise<number> {
  const client = await pool.connect();
  try {
    let count = 0;
    for (; performance.now() < until; count += 1) await writeAsOldCode(client, walletId);
    return count;
  } finally {
    client.release();
  }
}
