import { parseArgs } from 'node:util';
import { pino } from 'pino';
import { request } from 'undici';
import { CONSOLE_ROLES } from '../src/config.ts';
import { startConsole } from '../src/console/console.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { sealBook } from '../src/ledger/seals.ts';
import { median, print } from './figures.ts';
import { type Beside, fillBeside } from './filled-beside.ts';
import { fillBooks } from './filled-books.ts';
import { openBenchHome } from './home.ts';

const ACCOUNTS = 100_000;
/** A part of the entries is of few accounts, as a platform's clearing accounts are. */
const [HOT_ACCOUNTS, HOT_SHARE] = [4, 0.1];
/** What is owed, in ms: the first byte at the median, the whole page at the 95th percentile; and bytes with all that a page needs. */
const TARGETS = { firstByteMs: 100, p95Ms: 300, bytes: 100_000 };

interface Measured {
  readonly path: string;
  readonly firstByteMs: readonly number[];
  readonly wholeMs: readonly number[];
  readonly bytes: number;
}

/** How fast is each page of the console over a large book? Answers whether the targets were met. */
export async function benchConsole(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { entries: { type: 'string', default: '10000000' }, rounds: { type: 'string', default: '40' } },
  });
  const transactions = Number(values.entries) / 2;
  const home = await openBenchHome();
  try {
    const pool = await openPool({ databaseUrl: home.databaseUrl, max: 1 });
    try {
      await fillBeside(pool, home.databaseUrl, besideOf(Number(values.entries)));
      await fillBooks(home.databaseUrl, { accounts: ACCOUNTS, transactions: transactions * (1 - HOT_SHARE) });
      await fillBooks(home.databaseUrl, { accounts: HOT_ACCOUNTS, transactions: transactions * HOT_SHARE });
      await sealBook(pool, 1);
      await pool.query('vacuum analyze');
      return await measure(pool, { databaseUrl: home.databaseUrl, rounds: Number(values.rounds) });
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

/** What a platform of so many entries has beside its books. */
const besideOf = (entries: number): Beside => ({
  wallets: Math.ceil(entries / 1_000),
  walletTransactions: Math.ceil(entries / 50),
  orders: { lived: Math.ceil(entries / 1_000), pending: Math.ceil(entries / 50) },
  messages: Math.ceil(entries / 10),
  endpoints: 3,
});

async function measure(pool: Pool, { databaseUrl, rounds }: { databaseUrl: string; rounds: number }): Promise<boolean> {
  const served = await startConsole({
    databaseUrl,
    place: { host: '127.0.0.1', port: 0, origin: undefined },
    auth: { mode: 'none', roles: CONSOLE_ROLES },
    version: 'of the bench',
    poolMax: 10,
    log: pino({ level: 'error' }),
  });
  try {
    const measured: Measured[] = [];
    for (const path of await pathsOf(pool)) measured.push(await visits(served.url, { path, rounds }));
    for (const each of measured) print(lineOf(each));
    return measured.every(isWithin);
  } finally {
    await served.stop();
  }
}

/** Every page, of the account and the transaction that have most to show where it is of one. */
async function pathsOf(pool: Pool): Promise<readonly string[]> {
  return [
    '/books',
    '/books/1',
    '/books/1/seals',
    '/books/verifications',
    ...(await ledgerPathsOf(pool)),
    ...(await escrowPathsOf(pool)),
    ...(await backfillPathsOf(pool)),
    ...(await outboxPathsOf(pool)),
    '/audit',
  ];
}

/** Lists by what an index serves, and by what none does, where a page looks at as many as it may and finds none. */
async function ledgerPathsOf(pool: Pool): Promise<readonly string[]> {
  const { rows } = await pool.query<{ account: string; transaction: string }>(
    `select b.account_id as account, (
       select n.transaction_id from payments.entries n where n.account_id = b.account_id and n.account_seq = b.last_seq / 2
     ) as transaction
     from payments.balances b order by b.last_seq desc limit 1`,
  );
  const { account, transaction } = rows[0] ?? { account: '', transaction: '' };
  return [
    '/accounts',
    '/accounts?type=payable&currency=USD',
    '/accounts?name=none',
    '/accounts?status=frozen',
    `/accounts/1/${account}`,
    `/accounts/1/${account}?chart=12m`,
    `/accounts/1/${account}?chart=all`,
    `/accounts/1/${account}/statement`,
    `/accounts/1/${account}/statement?by=effective&from=2026-01-01`,
    '/transactions',
    '/transactions?reference_type=none',
    '/transactions?reference=17',
    '/transactions?from=2026-01-01&to=2026-01-02',
    `/transactions/1/${transaction}`,
    `/transactions/1/${transaction}/proof`,
  ];
}

async function escrowPathsOf(pool: Pool): Promise<readonly string[]> {
  const { rows } = await pool.query<{ id: string }>(
    "select id from public.sponsorship_orders where state = 'released' limit 1",
  );
  return ['/escrow', '/escrow/escrow/pending', '/escrow/escrow/released', `/escrow/escrow/rows/${rows[0]?.id}`];
}

async function backfillPathsOf(pool: Pool): Promise<readonly string[]> {
  const { rows } = await pool.query<{ owner: string; cause: string | null }>(
    'select user_id as owner, (select min(cause) from replay.drift) as cause from public.wallets limit 1',
  );
  const { owner, cause } = rows[0] ?? { owner: '', cause: null };
  return [
    '/backfill',
    '/backfill/owners',
    `/backfill/owners?owner=${owner}`,
    `/backfill/owners/user/${owner}`,
    ...(cause === null ? [] : [`/backfill/drift/${cause}`]),
  ];
}

/** Of the endpoint and the message in the middle; what a filter finds soon, late, and never. */
async function outboxPathsOf(pool: Pool): Promise<readonly string[]> {
  const { rows } = await pool.query<{ endpoint: string; message: string; delivery: string; day: string }>(
    `select d.endpoint_id as endpoint, d.message_id as message, d.id::text as delivery, d.day::text as day
     from outbox.deliveries d where d.id >= (select max(id) / 2 from outbox.deliveries) order by d.id limit 1`,
  );
  const { endpoint, message, delivery, day } = rows[0] ?? { endpoint: '', message: '', delivery: '', day: '' };
  return [
    '/outbox',
    '/outbox/endpoints',
    `/outbox/endpoints/${endpoint}`,
    '/outbox/deliveries',
    '/outbox/deliveries?state=pending',
    `/outbox/deliveries?endpoint=${endpoint}`,
    '/outbox/deliveries?topic=bench.topic_1',
    '/outbox/deliveries?topic=none',
    `/outbox/deliveries?from=${day}&to=${day}`,
    `/outbox/deliveries/${delivery}`,
    `/outbox/messages/${message}`,
    '/outbox/dead-letters',
    `/outbox/dead-letters?endpoint=${endpoint}`,
    '/outbox/dead-letters/retry',
    `/outbox/replay?topic=bench.topic_1&from=${day}&to=${day}`,
    '/queue',
  ];
}

async function visits(base: string, { path, rounds }: { path: string; rounds: number }): Promise<Measured> {
  const [firstByteMs, wholeMs]: [number[], number[]] = [[], []];
  let bytes = 0;
  for (let round = 0; round <= rounds; round += 1) {
    const startedAt = performance.now();
    const { statusCode, body } = await request(new URL(path, base));
    const first = performance.now() - startedAt;
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${path} is answered with ${statusCode}: ${text.slice(0, 2_000)}`);
    bytes = Buffer.byteLength(text) + (await assetBytes(base, text));
    // The first one has nothing in memory yet: it is shown, and not counted.
    if (round === 0) print(`${path}: first visit ${first.toFixed(0)} ms`);
    else [firstByteMs.push(first), wholeMs.push(performance.now() - startedAt)];
  }
  return { path, firstByteMs, wholeMs, bytes };
}

const ASSETS = new Map<string, number>();

async function assetBytes(base: string, html: string): Promise<number> {
  let sum = 0;
  for (const [, path = ''] of html.matchAll(/(?:href|src)="(\/assets\/[^"]+)"/g)) {
    const known = ASSETS.get(path) ?? (await (await request(new URL(path, base))).body.arrayBuffer()).byteLength;
    ASSETS.set(path, known);
    sum += known;
  }
  return sum;
}

const p95 = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.ceil(values.length * 0.95) - 1] ?? 0;

const isWithin = ({ firstByteMs, wholeMs, bytes }: Measured): boolean =>
  median(firstByteMs) <= TARGETS.firstByteMs && p95(wholeMs) <= TARGETS.p95Ms && bytes <= TARGETS.bytes;

const lineOf = (measured: Measured): string =>
  `${isWithin(measured) ? 'met   ' : 'MISSED'} ${measured.path.padEnd(60)} first byte ${median(measured.firstByteMs).toFixed(1)} ms, p95 ${p95(measured.wholeMs).toFixed(1)} ms, ${(measured.bytes / 1_000).toFixed(0)} KB`;
