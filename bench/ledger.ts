import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { createPool, type Pool, type Tx } from '../src/db/pool.ts';
import { addSlots } from '../src/ledger/accounts.ts';
import { type NewTransaction, openAccounts, postAll } from '../src/ledger/ledger.ts';
import { createPoster } from '../src/ledger/poster.ts';
import { createBareLedger, insertBare } from './bare-ledger.ts';
import { median, print, spread } from './figures.ts';
import { openBenchHome } from './home.ts';
import { delayNetwork } from './slow-network.ts';
import { createStrippedLedger, postStripped } from './stripped-ledger.ts';

const ACCOUNTS = 10_000;
const MAX_CONNECTIONS = 24;
const DELAY_MS = 1;
const SLOTS = 8;

/** What is owed: parts of the bare limit, and of our own posting one by one. */
const TARGETS = { oneByOne: 0.5, callOf1000: 0.6, batchedToOneByOne: 10, batchedPerSecond: 10_000, toStripped: 0.6 };

/** So many clients post one by one about as fast as it gets. */
const MANY = 20;
/** From so many callers on, the target is also one of transactions a second. */
const MANY_CALLERS = 512;

/** Which two accounts a transaction moves money between. */
type Pick = () => readonly [debit: string, credit: string];

interface Bench {
  readonly pool: Pool;
  readonly rounds: number;
  readonly ms: number;
  readonly picks: Readonly<Record<'uniform' | 'zipf' | 'hot' | 'slotted', Pick>>;
}

/**
 * How fast is posting against the bare limit: the same rows written by one prepared statement, without any check? In turns, in
 * one process, on one server that waits for the disk at every commit. Answers whether the targets were met.
 */
export async function benchLedger(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { rounds: { type: 'string', default: '5' }, ms: { type: 'string', default: '2000' } },
  });
  const home = await openBenchHome();
  await migrate(home.databaseUrl);
  const pool = createPool({ databaseUrl: home.databaseUrl, max: MAX_CONNECTIONS });
  try {
    const bench = { pool, rounds: Number(values.rounds), ms: Number(values.ms), picks: await prepare(pool) };
    const near = [await runAll(bench), await runStripped(bench)].every(Boolean);
    await reportBytes(bench);
    const far = await delayNetwork(home.databaseUrl, DELAY_MS);
    const farPool = createPool({ databaseUrl: far.url, max: MAX_CONNECTIONS });
    print(`\nWith ${DELAY_MS} ms of network delay in each direction:`);
    const isFarMet = await runAll({ ...bench, pool: farPool });
    await farPool.end();
    far.close();
    return near && isFarMet;
  } finally {
    await pool.end();
    await home.close({ keep: false });
  }
}

async function runAll(bench: Bench): Promise<boolean> {
  const { uniform, zipf, hot, slotted } = bench.picks;
  const met = [];
  for (const [name, clients, pick] of [
    ['1 client, uniform', 1, uniform],
    ['8 clients, uniform', 8, uniform],
    ['20 clients, uniform', 20, uniform],
    ['20 clients, Zipf 1.0', 20, zipf],
    ['20 clients, one hot account', 20, hot],
    [`20 clients, one hot account with ${SLOTS} slots`, 20, slotted],
  ] as const) {
    met.push(
      await againstBare(bench, { name: `one by one, ${name}`, clients, pick, size: 1, target: TARGETS.oneByOne }),
    );
  }
  met.push(
    await againstBare(bench, {
      name: 'calls of 100, 1 client, uniform',
      clients: 1,
      pick: uniform,
      size: 100,
      target: 0,
    }),
  );
  met.push(
    await againstBare(bench, {
      name: 'calls of 1,000, 1 client, uniform',
      clients: 1,
      pick: uniform,
      size: 1_000,
      target: TARGETS.callOf1000,
    }),
  );
  for (const [name, callers, pick] of [
    ['64 callers, uniform', 64, uniform],
    ['512 callers, uniform', MANY_CALLERS, uniform],
    ['512 callers, one hot account', MANY_CALLERS, hot],
    [`512 callers, one hot account with ${SLOTS} slots`, MANY_CALLERS, slotted],
  ] as const) {
    met.push(await againstOneByOne(bench, { name: `micro-batched, ${name}`, callers, pick }));
  }
  return met.every(Boolean);
}

/** What do event log, idempotency and hashes cost? Against a build of the same functions without them. */
async function runStripped(bench: Bench): Promise<boolean> {
  const met = [];
  for (const [name, size] of [
    ['one by one, 1 client', 1],
    ['calls of 1,000, 1 client', 1_000],
  ] as const) {
    const pairs = () => Array.from({ length: size }, () => bench.picks.uniform());
    const [ours, stripped]: [number[], number[]] = [[], []];
    for (let round = 0; round < bench.rounds; round += 1) {
      ours.push(await rateOfClients(bench, 1, (client) => postPairs(client, pairs())));
      stripped.push(await rateOfClients(bench, 1, (client) => postStripped(client, textOf(pairs()))));
    }
    met.push(report(`${name}, uniform`, 'stripped', ours, stripped, TARGETS.toStripped));
  }
  return met.every(Boolean);
}

/** As `postAll` writes it. */
const textOf = (pairs: readonly (readonly [string, string])[]) =>
  JSON.stringify(
    pairs.map((pair) => ({
      idempotency_key: randomUUID(),
      entries: transactionOf(pair).entries?.map(({ accountId, amountCents, currency }) => ({
        account_id: accountId,
        amount_cents: amountCents.toString(),
        currency,
      })),
    })),
  );

interface Contest {
  readonly name: string;
  readonly clients: number;
  readonly pick: Pick;
  /** Transactions of one call. */
  readonly size: number;
  readonly target: number;
}

async function againstBare(bench: Bench, { name, clients, pick, size, target }: Contest): Promise<boolean> {
  const pairs = () => Array.from({ length: size }, () => pick());
  const rounds = [];
  for (let round = 0; round < bench.rounds; round += 1) {
    const ours = await rateOfClients(bench, clients, (client) => postPairs(client, pairs()));
    const bare = await rateOfClients(bench, clients, (client) => insertBare(client, pairs()));
    rounds.push({ ours, bare, ratio: ours / bare });
  }
  return report(
    name,
    'bare',
    rounds.map(({ ours }) => ours),
    rounds.map(({ bare }) => bare),
    target,
  );
}

async function againstOneByOne(
  bench: Bench,
  { name, callers, pick }: { name: string; callers: number; pick: Pick },
): Promise<boolean> {
  const [batched, oneByOne, byMany]: [number[], number[], number[]] = [[], [], []];
  for (let round = 0; round < bench.rounds; round += 1) {
    batched.push(await rateOfPoster(bench, callers, pick));
    oneByOne.push(await rateOfClients(bench, 1, (client) => postPairs(client, [pick()])));
    byMany.push(await rateOfClients(bench, MANY, (client) => postPairs(client, [pick()])));
  }
  const isFast = callers < MANY_CALLERS || median(batched) >= TARGETS.batchedPerSecond;
  const isMet = report(name, 'one by one with 1 client', batched, oneByOne, TARGETS.batchedToOneByOne);
  report('  the same', `one by one with ${MANY}`, batched, byMany, 0);
  if (!isFast) print(`  below ${TARGETS.batchedPerSecond} a second`);
  return isMet && isFast;
}

function report(
  name: string,
  baseline: string,
  ours: readonly number[],
  base: readonly number[],
  target: number,
): boolean {
  const ratios = ours.map((rate, nth) => rate / (base[nth] ?? Number.NaN));
  const met = median(ratios) >= target;
  const owed = target === 0 ? '' : `, target ${target}${met ? '' : ' MISSED'}`;
  print(
    `${name.padEnd(56)} ${Math.round(median(ours)).toString().padStart(7)}/s, ${baseline} ${Math.round(median(base)).toString().padStart(7)}/s, ratio ${spread(ratios)}${owed}`,
  );
  return met;
}

async function rateOfClients(bench: Bench, clients: number, work: (client: Tx) => Promise<number>): Promise<number> {
  const connections = await Promise.all(Array.from({ length: clients }, () => bench.pool.connect()));
  try {
    return await rateOf(bench.ms, clients, (nth) => work(connections[nth] as Tx));
  } finally {
    for (const connection of connections) connection.release();
  }
}

async function rateOfPoster(bench: Bench, callers: number, pick: Pick): Promise<number> {
  const poster = createPoster(bench.pool);
  const rate = await rateOf(bench.ms, callers, async () => {
    await poster.post(transactionOf(pick()));
    return 1;
  });
  await poster.close();
  return rate;
}

/** How many a second, by so many who begin anew as soon as they are done. */
async function rateOf(ms: number, workers: number, work: (nth: number) => Promise<number>): Promise<number> {
  const startedAt = performance.now();
  const endsAt = startedAt + ms;
  let done = 0;
  await Promise.all(
    Array.from({ length: workers }, async (_, nth) => {
      while (performance.now() < endsAt) {
        // Not `done += await …`, which would add to what was there before the wait.
        const more = await work(nth);
        done += more;
      }
    }),
  );
  return done / ((performance.now() - startedAt) / 1_000);
}

async function postPairs(client: Tx, pairs: readonly (readonly [string, string])[]): Promise<number> {
  const outcomes = await postAll(client, pairs.map(transactionOf), { prepared: true });
  const refused = outcomes.find(({ status }) => status !== 'posted');
  if (refused !== undefined) throw new Error(`a posting was not posted: ${JSON.stringify(refused)}`);
  return outcomes.length;
}

function transactionOf([debit, credit]: readonly [string, string]): NewTransaction {
  return {
    idempotencyKey: randomUUID(),
    entries: [
      { accountId: debit, amountCents: 100n, currency: 'USD' },
      { accountId: credit, amountCents: -100n, currency: 'USD' },
    ],
  };
}

async function prepare(pool: Pool): Promise<Bench['picks']> {
  const accounts = await openAccounts(
    pool,
    Array.from({ length: ACCOUNTS }, (_, nth) => ({ type: 'payable', currency: 'USD', name: `account_${nth}` })),
  );
  const [spread = ''] = await openAccounts(pool, [{ type: 'payable', currency: 'USD', name: 'spread' }]);
  await addSlots(pool, { accountId: spread, slots: SLOTS });
  await createBareLedger(pool);
  await createStrippedLedger(pool);
  await pool.query('analyze');
  const at = (nth: number) => accounts[nth] as string;
  const another = (not: number) => (not + 1 + Math.floor(Math.random() * (ACCOUNTS - 1))) % ACCOUNTS;
  const pairFrom = (nth: number) => [at(nth), at(another(nth))] as const;
  const zipf = zipfOf(ACCOUNTS);
  return {
    uniform: () => pairFrom(Math.floor(Math.random() * ACCOUNTS)),
    zipf: () => pairFrom(zipf()),
    hot: () => pairFrom(0),
    slotted: () => [spread, at(another(0))],
  };
}

/** Rank n with probability in proportion to 1/n. */
function zipfOf(size: number): () => number {
  let sum = 0;
  const cumulated = Array.from({ length: size }, (_, nth) => {
    sum += 1 / (nth + 1);
    return sum;
  });
  return () => {
    const drawn = Math.random() * sum;
    let [low, high] = [0, size - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((cumulated[middle] ?? 0) < drawn) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

/** What one transaction of two entries adds, in calls of 1,000: table and index by relation, and the log of the server. */
async function reportBytes(bench: Bench): Promise<void> {
  const CALLS = 20;
  const SIZE = 1_000;
  const tables = ['events', 'entries', 'balances'];
  const measure = async () => {
    const { rows } = await bench.pool.query<{ wal: string; sizes: Record<string, [number, number]> }>(
      `select pg_current_wal_insert_lsn() - '0/0' as wal,
              jsonb_object_agg(t, jsonb_build_array(pg_table_size(('payments.' || t)::regclass), pg_indexes_size(('payments.' || t)::regclass))) as sizes
       from unnest($1::text[]) as t`,
      [tables],
    );
    return rows[0];
  };
  await bench.pool.query('checkpoint').catch(() => undefined);
  const before = await measure();
  const client = await bench.pool.connect();
  for (let call = 0; call < CALLS; call += 1) {
    await postPairs(
      client,
      Array.from({ length: SIZE }, () => bench.picks.uniform()),
    );
  }
  client.release();
  const after = await measure();
  if (before === undefined || after === undefined) return;
  const each = (a: number, b: number) => Math.round((b - a) / (CALLS * SIZE));
  print(`bytes of WAL per transaction: ${each(Number(before.wal), Number(after.wal))}`);
  for (const table of tables) {
    const [from = [0, 0], to = [0, 0]] = [before.sizes[table], after.sizes[table]];
    print(
      `bytes of ${table} per transaction: ${each(from[0], to[0])} in the table, ${each(from[1], to[1])} in indexes`,
    );
  }
}
