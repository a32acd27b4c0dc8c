import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../src/db/transaction.ts';
import { markOfSeal, type Scope } from '../src/ledger/scope.ts';
import { sealBook } from '../src/ledger/seals.ts';
import { type CheckResult, runChecks } from '../src/ledger/verify.ts';
import { median, print, spread } from './figures.ts';
import { fillBooks } from './filled-books.ts';
import { openBenchHome } from './home.ts';

const ACCOUNTS = 10_000;
/** What is owed: at most so many times the plain sums, and at most this part of the whole. */
const TARGETS = { toPlain: 4, sinceToWhole: 0.05 };
const PLAIN = `
  select count(*) filter (where s.cents <> 0)
  from (select transaction_id, sum(amount_cents) as cents from payments.entries group by transaction_id) s`;

/**
 * How long does `books verify` take, against a plain SUM of every transaction, which proves next to nothing? And since a seal
 * after which one event in a hundred came? Answers whether the targets were met.
 */
export async function benchVerify(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { entries: { type: 'string', default: '1000000' }, rounds: { type: 'string', default: '3' } },
  });
  const transactions = Number(values.entries) / 2;
  const home = await openBenchHome();
  try {
    await migrate(home.databaseUrl);
    const pool = await openPool({ databaseUrl: home.databaseUrl, max: 1 });
    try {
      await fillBooks(home.databaseUrl, { accounts: ACCOUNTS, transactions: (transactions * 99) / 100 });
      const seals = await sealBook(pool, 1);
      await fillBooks(home.databaseUrl, { accounts: ACCOUNTS, transactions: transactions / 100 });
      await pool.query('vacuum analyze');
      return await compare(pool, Number(values.rounds), seals.length);
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function compare(pool: Pool, rounds: number, seals: number): Promise<boolean> {
  const since = { bookId: 1, since: await markOfSeal(pool, 1, seals) };
  const times: { plain: number; whole: number; news: number }[] = [];
  let [ofWhole, ofNews]: [readonly CheckResult[], readonly CheckResult[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    const plain = await seconds(() => pool.query(PLAIN));
    const whole = await seconds(async () => {
      ofWhole = await verify(pool, {});
    });
    const news = await seconds(async () => {
      ofNews = await verify(pool, since);
    });
    times.push({ plain, whole, news });
  }
  printSlowest('all', ofWhole);
  printSlowest('new', ofNews);
  const toPlain = times.map(({ plain, whole }) => whole / plain);
  const sinceToWhole = times.map(({ whole, news }) => news / whole);
  print(`plain sums         ${median(times.map(({ plain }) => plain)).toFixed(1)} s`);
  print(
    `books verify       ${median(times.map(({ whole }) => whole)).toFixed(1)} s, ${spread(toPlain, 1)} times that; target at most ${TARGETS.toPlain}`,
  );
  print(
    `books verify since ${median(times.map(({ news }) => news)).toFixed(2)} s, ${spread(sinceToWhole, 3)} of the whole; target at most ${TARGETS.sinceToWhole}`,
  );
  return median(toPlain) <= TARGETS.toPlain && median(sinceToWhole) <= TARGETS.sinceToWhole;
}

function printSlowest(what: string, checks: readonly CheckResult[]): void {
  for (const { check, seconds: took } of checks.toSorted((a, b) => b.seconds - a.seconds).slice(0, 5)) {
    print(`  ${what} ${took.toFixed(2).padStart(6)} s  ${check}`);
  }
}

async function verify(pool: Pool, scope: Scope): Promise<CheckResult[]> {
  const checks = await withTransaction(pool, (tx) => runChecks(tx, {}, scope), ONE_SNAPSHOT);
  const failed = checks.find(({ holds }) => !holds);
  if (failed !== undefined) throw new Error(`the books do not balance: ${failed.check}: ${failed.first.join('; ')}`);
  return checks;
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1_000;
}
