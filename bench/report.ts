import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { pageOf } from '../src/report/page.ts';
import { parsePeriod } from '../src/report/period.ts';
import { readReport } from '../src/report/read.ts';
import { median, print, spread } from './figures.ts';
import { fillBooks } from './filled-books.ts';
import { openBenchHome } from './home.ts';

const ACCOUNTS = 10_000;
const DAYS = 365;
/** What is owed: the figures of a month in at most so many times what the sum of every account takes. */
const TARGET_TO_PLAIN = 4;
const PLAIN = `
  select count(*) filter (where s.cents <> 0)
  from (select account_id, sum(amount_cents) as cents from payments.entries where effective_at < now() group by account_id) s`;

/**
 * How long does a report take, of a month and of a year, against a plain SUM of every account, which knows no days, types or counts?
 * Answers whether the target was met.
 */
export async function benchReport(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { entries: { type: 'string', default: '1000000' }, rounds: { type: 'string', default: '3' } },
  });
  const home = await openBenchHome();
  try {
    await migrate(home.databaseUrl);
    const pool = await openPool({ databaseUrl: home.databaseUrl, max: 1 });
    try {
      await fillBooks(home.databaseUrl, { accounts: ACCOUNTS, transactions: Number(values.entries) / 2, days: DAYS });
      await pool.query('vacuum analyze');
      return await compare(pool, Number(values.rounds));
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function compare(pool: Pool, rounds: number): Promise<boolean> {
  const [today = '', yearAgo = ''] = [0, DAYS].map((days) => new Date(Date.now() - days * 86_400_000).toISOString());
  const spans = {
    month: parsePeriod(today.slice(0, 7)),
    year: parsePeriod(`${yearAgo.slice(0, 10)}..${today.slice(0, 10)}`),
  };
  const times: { plain: number; month: number; year: number; verification: number; page: number }[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const plainAt = performance.now();
    await pool.query(PLAIN);
    const plain = (performance.now() - plainAt) / 1_000;
    const read = (period: typeof spans.month, verification: 'now' | (() => Promise<undefined>)) =>
      readReport(pool, { bookId: 1, period, zone: 'Europe/Berlin', version: 'bench', verification });
    const month = await read(spans.month, async () => undefined);
    const year = await read(spans.year, 'now');
    const pageAt = performance.now();
    pageOf(year, { zone: 'Europe/Berlin', locale: 'en-GB' });
    times.push({
      plain,
      month: month.made.seconds.figures,
      year: year.made.seconds.figures,
      verification: year.made.seconds.verification,
      page: (performance.now() - pageAt) / 1_000,
    });
  }
  const of = (what: keyof (typeof times)[number]) => times.map((each) => each[what]);
  const toPlain = times.map(({ plain, month }) => month / plain);
  print(`plain sums        ${median(of('plain')).toFixed(2)} s`);
  print(
    `figures, a month  ${median(of('month')).toFixed(2)} s, ${spread(toPlain, 1)} times that; target at most ${TARGET_TO_PLAIN}`,
  );
  print(
    `figures, a year   ${median(of('year')).toFixed(2)} s, ${spread(
      times.map(({ plain, year }) => year / plain),
      1,
    )} times that`,
  );
  print(`the verification  ${median(of('verification')).toFixed(2)} s`);
  print(`the page          ${median(of('page')).toFixed(3)} s`);
  return median(toPlain) <= TARGET_TO_PLAIN;
}
