import { type Command, InvalidArgumentError, Option } from 'commander';
import { interruptible } from '../db/interrupt.ts';
import { toJson } from '../db/json-value.ts';
import { connectionsOf, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { LEGACY_ACCESSES, readAccesses } from '../restructure/accesses/access.ts';
import { findForgetting } from '../restructure/perf/cold.ts';
import { assertSameQuestions, assertSameRows, compareRecordings, isAtFault } from '../restructure/perf/compare.ts';
import { type MeasureOptions, measure } from '../restructure/perf/measure.ts';
import { LIVENTIX_QUERIES, readQueries } from '../restructure/perf/queries.ts';
import { isIncomplete, type Recording, readPerfRecording, textOfRecording } from '../restructure/perf/recording.ts';
import { pageOf } from '../restructure/perf/report/page.ts';
import { openMeasuringPool } from '../restructure/perf/session.ts';
import { drawMaterial, type Material, withReplacements } from '../restructure/perf/subjects.ts';
import { LEAST_RUNS } from '../restructure/perf/timings.ts';
import { type CommandContext, requireDatabaseUrl, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { duration, durationText, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';
import { comparedText, jsonOf, recordedText, summaryOf } from './restructure-perf-text.ts';
import { packageVersion } from './version.ts';
import { assertWritable, writeWholeFile } from './whole-file.ts';

/** Where `record` writes and `compare` reads, unless told otherwise. */
const RECORDING_FILE = 'restructure-perf.json';
const MOST_ROUNDS = 10_000;
const MOST_SEEDS = 1_000_000;
const LARGEST_RATIO = 1_000;
const MOST_CLIENTS = 1_000;
const MOST_SECONDS = 3_600;

/** Finding out whether what is asked most became faster, or slower. */
export function registerRestructurePerf(restructure: Command, context: CommandContext): void {
  const perf = restructure
    .command('perf')
    .description('time the dashboards and the accesses of an application before a change and after it, and compare')
    .addHelpText('after', '\nExample:\n  liventix restructure perf record');

  measuring(
    perf
      .command('record')
      .description('time every query and access as it is now, and write times, plans and answers as a file for compare')
      .option('--output <file>', 'where the recording is written', RECORDING_FILE)
      .option('--queries <file>', "the dashboards' queries, as JSON; Liventix's own when left out")
      .option('--accesses <file>', "the application's accesses, as JSON; a sample of Liventix's own when left out")
      .option('--no-accesses', 'time the queries alone')
      .option('--seed <n>', 'which rows values are taken from', wholeNumber(0, MOST_SEEDS), 1),
  )
    .option('--json', 'print one JSON object')
    .addHelpText('after', RECORD_HELP)
    .action((options: RecordOptions) => runRecord(options, context));

  measuring(
    perf
      .command('compare')
      .description('ask the same again, and say of each query whether it became faster or slower, or answers otherwise')
      .argument('[before]', 'what record wrote before the change', RECORDING_FILE)
      .argument('[after]', 'what record or compare wrote after it; measured now when left out')
      .option('--output <file>', 'keep what is measured now')
      .option('--queries <file>', 'take from here which query each one of the recording is replaced by'),
  )
    .option('--html <file>', 'write the report as a page too, with charts')
    .option('--other-rows', 'compare although tables have other rows than before; answers are not judged')
    .option('--fail-slower <ratio>', 'exit with 1 when a query takes so many times as long, such as 1.5', timesAsLong)
    .option('--json', 'print one JSON object')
    .addHelpText('after', COMPARE_HELP)
    .action((before: string, after: string | undefined, options: CompareOptions) =>
      runCompare({ before, after }, options, context),
    );
}

/** How long a measuring goes on, and what else it does. */
const measuring = (command: Command): Command =>
  command
    .option(
      '--rounds <n>',
      'how often each is asked, with all of its values, all in turn',
      wholeNumber(LEAST_RUNS, MOST_ROUNDS),
      20,
    )
    .addOption(
      timeOption('--timeout <time>', 'what takes longer is a finding, and the others go on', {
        most: '1h',
        ms: 60_000,
      }),
    )
    .addOption(
      timeOption('--budget <time>', 'what took as long altogether is asked no more, after 3 rounds', {
        most: '1d',
        ms: 20_000,
      }),
    )
    .option('--clients <n>', 'then let so many ask at once, and watch the connections', wholeNumber(1, MOST_CLIENTS))
    .option('--seconds <s>', 'with --clients: for how long', wholeNumber(1, MOST_SECONDS), 10)
    .option(
      '--pooler <url>',
      'with --clients: through this PgBouncer too; user and database as in DATABASE_URL when left out',
    )
    .option('--cold', 'time the queries with empty shared buffers too, which slows everybody on that server meanwhile');

const timeOption = (flags: string, what: string, { most, ms }: { most: string; ms: number }): Option =>
  new Option(flags, what).argParser(duration('100ms', most)).default(ms, durationText(ms));

interface MeasuringOptions {
  readonly rounds: number;
  readonly timeout: number;
  readonly budget: number;
  readonly cold?: boolean;
  readonly clients?: number;
  readonly seconds: number;
  readonly pooler?: string;
}

interface RecordOptions extends MeasuringOptions {
  readonly output: string;
  readonly queries?: string;
  /** False where none are to be timed; true where nothing was said. */
  readonly accesses: string | boolean;
  readonly seed: number;
  readonly json?: boolean;
}

interface CompareOptions extends MeasuringOptions {
  readonly output?: string;
  readonly queries?: string;
  readonly html?: string;
  readonly otherRows?: boolean;
  readonly failSlower?: number;
  readonly json?: boolean;
}

const timesAsLong = (text: string): number => {
  const ratio = /^\d{1,4}(?:\.\d{1,4})?$/.test(text) ? Number(text) : Number.NaN;
  if (ratio >= 1 && ratio <= LARGEST_RATIO) return ratio;
  throw new InvalidArgumentError(`Give a number from 1 to ${LARGEST_RATIO}, such as 1.5.`);
};

const RECORD_HELP = `
Everything is asked over connections that can write nothing, each query in a transaction that is undone. Each is asked twice for its
answer, once for its plan, and then --rounds times by the clock, with each of its sets of values, all of them in turn, so that what
disturbs the machine disturbs all alike.
A query that fails or takes longer than --timeout (an access: 8 s at most) is a finding, and the others go on. Exits with 1 when one of the
queries failed, or nothing could be timed; the recording is written all the same. What there are no rows for is left out, with the reason.

The queries: {"tables": ["public.orders"], "queries": [{"name": "orders-daily", "title": "orders by day",
"parameters": "select id from shops order by id limit 3", "before": "select ... where shop_id = $1::uuid",
"after": {"needs": ["analytics.orders_daily"], "sql": "select ..."}, "isOrdered": true, "promised": 10}]}
What must have as many rows before and after; for each query who asks ("caller": SQL that gives a user's id; whoever is connected when left
out), the rows of values that $1, $2 stand for, what is asked, what else gives the same once its tables are there, and how many times as
fast it shall be.

The accesses are those of liventix restructure accesses, the ones that read, as service_role, an owner, an attendee and anon.
DATABASE_URL has to name a role that may take on those. The file holds values of rows: keep it as carefully as the database.

Examples:
  liventix restructure perf record --output before.json
  liventix restructure perf record --no-accesses --cold
  liventix restructure perf record --queries shop.json --no-accesses --rounds 100 --json`;

const COMPARE_HELP = `
Asks with the values of the recording, so that both answered the same question, and compares the answers too: a faster wrong answer is a
wrong one. Every query is listed, the slowest first: the ratio of the medians, the span in which it lies and how sure that is, and what
became of it: slower, same (within noise) or faster. With two files nothing is measured, and no database is needed.

Exits with 1 when an answer differs, when a query is not answered any more, or fails more often than it did, or as --fail-slower says; 2 for
a recording of other data or of other queries.

Examples:
  liventix restructure perf compare
  liventix restructure perf compare before.json --html report.html --fail-slower 1.5
  liventix restructure perf compare before.json after.json --json`;

async function runRecord(options: RecordOptions, context: CommandContext): Promise<void> {
  await assertWritable({ option: '--output', path: options.output });
  const queries = await readQueries(options.queries ?? LIVENTIX_QUERIES);
  const accesses =
    options.accesses === false
      ? []
      : await readAccesses(typeof options.accesses === 'string' ? options.accesses : LEGACY_ACCESSES);
  const recording = await measured(options, context, (pool, onProgress) =>
    drawMaterial(pool, queries, accesses, { seed: options.seed, timeoutMs: options.timeout, onProgress }),
  );
  await writeWholeFile(options.output, chunksOf(textOfRecording(recording)));
  context.out.write(options.json === true ? `${toJson(summaryOf(recording))}\n` : recordedText(recording));
  context.err.write(
    `The recording is in ${options.output}. After the change: liventix restructure perf compare ${options.output}\n`,
  );
  if (isIncomplete(recording)) context.exitWith(1);
}

async function* chunksOf(text: string): AsyncGenerator<string> {
  yield text;
}

async function runCompare(
  files: { readonly before: string; readonly after: string | undefined },
  options: CompareOptions,
  context: CommandContext,
): Promise<void> {
  if (options.output !== undefined) await assertWritable({ option: '--output', path: options.output });
  if (options.html !== undefined) await assertWritable({ option: '--html', path: options.html });
  const recorded = await readPerfRecording(files.before);
  const before =
    options.queries === undefined ? recorded : withReplacements(recorded, await readQueries(options.queries));
  const after =
    files.after === undefined
      ? await measured(options, context, async () => before.material)
      : await readPerfRecording(files.after);
  if (files.after === undefined && options.output !== undefined)
    await writeWholeFile(options.output, chunksOf(textOfRecording(after)));
  assertSameQuestions(before, after);
  const comparison = compareRecordings(before, after);
  if (options.otherRows !== true) assertSameRows(comparison);
  context.out.write(options.json === true ? `${toJson(jsonOf(comparison))}\n` : comparedText(comparison, context));
  if (options.html !== undefined) {
    await writeWholeFile(options.html, chunksOf(pageOf(comparison)));
    context.err.write(
      `The page is ${options.html}. Keys of JSON and what the server says of a failure may be values of rows: keep it carefully.\n`,
    );
  }
  if (isAtFault(comparison, options)) context.exitWith(1);
}

type OnProgress = (what: string, done: number, total: number) => void;

/** Measures what `draw` gives, over connections that can write nothing. */
function measured(
  options: MeasuringOptions,
  context: CommandContext,
  draw: (pool: Pool, onProgress: OnProgress) => Promise<Material>,
): Promise<Recording> {
  return withDatabase(
    context,
    async (asking) => {
      const databaseUrl = requireDatabaseUrl(context.config);
      context.err.write(`Timing ${await databaseName(asking)}. Nothing is written.\n`);
      const pool = openMeasuringPool({ databaseUrl, max: 2 });
      const progress = createProgress(context);
      try {
        return await interruptible(
          { signal: context.stop, databaseUrl, connections: () => connectionsOf(pool) },
          async () =>
            measure(pool, await draw(pool, progress.update), {
              now: new Date(),
              program: `liventix ${packageVersion()}`,
              rounds: options.rounds,
              budgetMs: options.budget,
              timeoutMs: options.timeout,
              forgetting: options.cold === true ? await findForgetting(pool) : { why: 'it was not asked for: --cold' },
              loads: loadsOf(options, context),
              signal: context.stop,
              onProgress: progress.update,
            }),
        );
      } finally {
        progress.clear();
        await pool.end();
      }
    },
    { isBeforeMigrations: true },
  );
}

/** By our own pool, and through a pooler where one is named. @throws AppError USAGE */
function loadsOf({ clients, seconds, pooler }: MeasuringOptions, { config }: CommandContext): MeasureOptions['loads'] {
  if (clients === undefined) {
    if (pooler !== undefined) throw new AppError('USAGE', '--pooler goes with --clients: how many ask at once?');
    return [];
  }
  const load = { databaseUrl: requireDatabaseUrl(config), clients, poolSize: config.poolMax, seconds };
  return [
    { ...load, poolerUrl: null },
    ...(pooler === undefined ? [] : [{ ...load, poolerUrl: poolerUrl(pooler, load.databaseUrl) }]),
  ];
}

/** Where the pooler is, and who asks for which database, as the server is asked where the pooler's URL leaves it out. */
function poolerUrl(text: string, databaseUrl: string): string {
  if (!/^postgres(?:ql)?:\/\//.test(text) || !URL.canParse(text))
    throw new AppError(
      'USAGE',
      '--pooler is no URL such as postgresql://127.0.0.1:6432. See: liventix restructure perf record --help',
    );
  const [url, server] = [new URL(text), new URL(databaseUrl)];
  if (url.username === '') [url.username, url.password] = [server.username, server.password];
  if (url.pathname.length <= 1) url.pathname = server.pathname;
  return url.href;
}
