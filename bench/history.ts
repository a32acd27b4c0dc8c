import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { effectiveBalance, recordedBalance } from '../src/ledger/history.ts';
import { openAccounts, post } from '../src/ledger/ledger.ts';
import { closePeriod } from '../src/ledger/periods.ts';
import { type StatementRequest, statementPage } from '../src/ledger/statement.ts';
import { trialBalance } from '../src/ledger/trial-balance.ts';
import { median, print } from './figures.ts';
import { openBenchHome } from './home.ts';

/** What is owed on an account with a million entries, in milliseconds at the median. */
const TARGET_BALANCE_MS = 5;
const TARGET_PAGE_MS = 10;

const SAMPLES = 200;
/** Of what takes long. */
const FEW = 10;
const CALL_TRANSACTIONS = 1_000;
/** One posting in so many has a date of its own: dated back by up to a twentieth of the history, or ahead by as much. */
const ONE_DATED_IN = 100;

/**
 * How long does history take on an account of a million entries? One account that was posted to, one posting in a hundred
 * with a date of its own, and one that was imported, where every entry has. Answers whether the targets were met for the
 * first. Against the obvious: the SUM over the account's entries up to a date.
 */
export async function benchHistory(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({ args: [...args], options: { entries: { type: 'string', default: '1000000' } } });
  const entries = Number(values.entries);
  const home = await openBenchHome();
  try {
    await migrate(home.databaseUrl);
    const pool = await openPool({ databaseUrl: home.databaseUrl, max: 1 });
    try {
      return await measure(pool, home.databaseUrl, entries);
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function measure(pool: Pool, databaseUrl: string, entries: number): Promise<boolean> {
  const [imported = '', importedFrom = '', posted = '', postedFrom = ''] = await openAccounts(
    pool,
    ['imported', 'imported_from', 'posted', 'posted_from'].map((name) => ({ type: 'payable', currency: 'USD', name })),
  );
  const importMs = await timed(() => fill(pool, { to: imported, from: importedFrom, entries, effective: IMPORTED_AT }));
  print(`filled by import: ${perSecond(entries, importMs)}`);
  const filling = { to: posted, from: postedFrom, entries, effective: mostlyNow(importMs) };
  print(`filled by posting: ${perSecond(entries, await timed(() => fill(pool, filling)))}`);
  await pool.query('vacuum analyze payments.entries');
  const span = await spanOf(pool, posted);
  const isFastEnough = await askPosted(pool, posted, span);
  await askImported(pool, imported, span, entries);
  await askBook(pool, span);
  await closeBeside(pool, databaseUrl, [posted, postedFrom], span);
  return isFastEnough;
}

async function askPosted(pool: Pool, accountId: string, span: Span): Promise<boolean> {
  const balances = [
    await sample('posted: balance as recorded', () => recordedBalance(pool, accountId, { at: span.random() })),
    await sample('posted: balance as effective', () => effectiveBalance(pool, accountId, span.random())),
  ];
  await sample('posted: naive SUM of what was effective', () => naive(pool, accountId, span.random()), FEW);
  const pages = [
    ...(await samplePages('posted', pool, { accountId, by: 'recorded' }, span)),
    ...(await samplePages('posted', pool, { accountId, by: 'effective' }, span)),
  ];
  return Math.max(...balances) <= TARGET_BALANCE_MS && Math.max(...pages) <= TARGET_PAGE_MS;
}

async function askImported(pool: Pool, accountId: string, span: Span, entries: number): Promise<void> {
  const years = { at: span.at, random: () => new Date(IMPORT_BEGAN + Math.random() * 1_000 * entries).toISOString() };
  await sample('imported: balance as effective, long after', () => effectiveBalance(pool, accountId, span.random()));
  const inTheYears = () => effectiveBalance(pool, accountId, years.random());
  await sample('imported: balance as effective, in the years imported', inTheYears, FEW);
  await samplePages('imported', pool, { accountId, by: 'effective' }, years, FEW);
}

async function askBook(pool: Pool, span: Span): Promise<void> {
  for (const by of ['recorded', 'effective'] as const) {
    await sample(`trial balance as ${by}`, () => trialBalance(pool, { asOf: { at: span.random(), by } }), FEW);
  }
}

/** How long a close takes, and how long a posting beside it waits. */
async function closeBeside(
  pool: Pool,
  databaseUrl: string,
  accounts: readonly [string, string],
  span: Span,
): Promise<void> {
  const [debit, credit] = accounts;
  const other = await openPool({ databaseUrl, max: 1 });
  let isClosed = false;
  const waits: number[] = [];
  const posting = async () => {
    const entries = [
      { accountId: debit, amountCents: 1n, currency: 'USD' },
      { accountId: credit, amountCents: -1n, currency: 'USD' },
    ];
    while (!isClosed) waits.push(await timed(() => post(other, { entries })));
  };
  const posted = posting();
  await sample('close of the first period', () => closePeriod(pool, { until: span.at(0.5) }), 1);
  isClosed = true;
  await posted;
  await other.end();
  print(
    `of ${waits.length} postings beside it the longest took ${Math.max(...waits).toFixed(2)} ms, the median one ${median(waits).toFixed(2)}`,
  );
}

const IMPORT_BEGAN = Date.UTC(2023, 0, 1);
/** A second later each, with as much disorder as several old tables bring. */
const IMPORTED_AT = `timestamptz '2023-01-01Z' + interval '1 second' * (n.number + random() * 100)`;

function mostlyNow(spanMs: number): string {
  return `case when random() < 1.0 / ${ONE_DATED_IN} then clock_timestamp() + interval '1 millisecond' * (random() - 0.5) * ${spanMs / 10} end`;
}

interface Filling {
  readonly to: string;
  readonly from: string;
  readonly entries: number;
  /** SQL of each transaction's effective date, from `n.number`. */
  readonly effective: string;
}

async function fill(pool: Pool, { to, from, entries, effective }: Filling): Promise<void> {
  for (let done = 0; done < entries; done += CALL_TRANSACTIONS) {
    await pool.query(
      `select count(*) from payments.post_transactions(1, (
         select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'effective_at', to_char((${effective}) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           'entries', jsonb_build_array(
             jsonb_build_object('account_id', $1::text, 'amount_cents', -100 - n.number % 7, 'currency', 'USD'),
             jsonb_build_object('account_id', $2::text, 'amount_cents', 100 + n.number % 7, 'currency', 'USD')))))
         from generate_series($3::int, $3::int + $4::int - 1) as n (number)))`,
      [to, from, done, Math.min(CALL_TRANSACTIONS, entries - done)],
    );
  }
}

interface Span {
  /** An instant of the history: 0 its beginning, 1 its end. */
  readonly at: (part: number) => string;
  readonly random: () => string;
}

async function spanOf(pool: Pool, accountId: string): Promise<Span> {
  const { rows } = await pool.query<{ first: Date; last: Date }>(
    'select min(created_at) as first, max(created_at) as last from payments.entries where account_id = $1',
    [accountId],
  );
  const [first, last] = [rows[0]?.first.getTime() ?? 0, rows[0]?.last.getTime() ?? 0];
  const at = (part: number) => new Date(first + part * (last - first)).toISOString();
  return { at, random: () => at(Math.random()) };
}

async function samplePages(what: string, pool: Pool, request: StatementRequest, span: Span, samples = SAMPLES) {
  const tokens: { from: string; page: string }[] = [];
  const first = await sample(
    `${what}: first page by ${request.by}, from anywhere`,
    async () => {
      const from = span.random();
      const { nextPage } = await statementPage(pool, { ...request, from });
      if (nextPage !== undefined) tokens.push({ from, page: nextPage });
    },
    samples,
  );
  const next = await sample(
    `${what}: a later page by ${request.by}`,
    () => statementPage(pool, { ...request, ...tokens.pop() }),
    tokens.length,
  );
  return [first, next];
}

function naive(pool: Pool, accountId: string, at: string) {
  return pool.query('select sum(amount_cents) from payments.entries where account_id = $1 and effective_at <= $2', [
    accountId,
    at,
  ]);
}

async function sample(what: string, work: () => Promise<unknown>, samples = SAMPLES): Promise<number> {
  const times: number[] = [];
  for (let count = 0; count < samples; count += 1) times.push(await timed(work));
  const sorted = times.toSorted((a, b) => a - b);
  const slow = sorted[Math.floor(sorted.length * 0.95)] ?? Number.NaN;
  const middle = median(times);
  print(
    `${what.padEnd(56)} median ${middle.toFixed(2)} ms, 95% ${slow.toFixed(2)}, max ${Math.max(...times).toFixed(2)}`,
  );
  return middle;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

const perSecond = (count: number, ms: number) => `${Math.round(count / (ms / 1_000)).toLocaleString('en-US')}/s`;
