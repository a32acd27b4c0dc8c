import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { systemFailure } from '../db/sqlstate.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { readStanding } from '../restructure/journal.ts';
import { LIVENTIX_MAPPING, readMapping } from '../restructure/mapping.ts';
import { readChangedSince } from '../restructure/verify/changed-since.ts';
import { checkRestructuring } from '../restructure/verify/checks.ts';
import { type Comparison, compareWithRecording } from '../restructure/verify/recording/compare.ts';
import { invalid, parseRecording, type Recording, textOfRecording } from '../restructure/verify/recording/file.ts';
import { takeRecording } from '../restructure/verify/recording/record.ts';
import { SLOW, viewerName } from '../restructure/verify/recording/viewers.ts';
import { watchChecks } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { wholeNumber } from './options.ts';
import { formatCount, paintOut } from './output.ts';
import { printable } from './printable.ts';
import { createProgress, type Progress } from './progress.ts';
import { packageVersion } from './version.ts';
import { assertNewFile, writeWholeFile } from './whole-file.ts';

interface VerifyOptions {
  readonly record?: string;
  readonly against?: string;
  readonly mapping?: string;
  readonly patience?: number;
  readonly strict?: boolean;
  readonly json?: boolean;
}

/** Some hundred kB for the largest mapping there is; what is beyond that is something else. */
const MAX_FILE_BYTES = 100_000_000;
const NOTES_OF_A_KIND = 5;
const patience = wholeNumber(1, 86_400);

/** Finding out whether nothing changed but what was to change. */
export function registerRestructureVerify(restructure: Command, context: CommandContext): void {
  restructure
    .command('verify')
    .description('prove that nothing changed but where tables are; exits with 1 when something does not hold')
    .addOption(
      new Option('--record <file>', 'write what the tables of the mapping show now, before anything moves').conflicts(
        'against',
      ),
    )
    .option('--against <file>', 'compare with what a recording says that they showed, too')
    .option('--patience <s>', 'leave out, and say so, what a role needs longer to see of one table', patience)
    .option('--mapping <file>', "with --record: which tables, roles and tenants, as JSON; Liventix's own when left out")
    .option('--strict', 'what somebody changed of the tables since, such as an index, does not hold either')
    .option('--json', 'print one JSON object')
    .addHelpText('after', VERIFY_HELP)
    .action((options: VerifyOptions) =>
      options.record === undefined ? runVerify(options, context) : runRecord(options.record, options, context),
    );
}

const VERIFY_HELP = `
Reads in one snapshot, every row of every moved table by both names, and changes nothing: what the catalog says of each table against what
it said before and after each step, views against tables, privileges by role, rows, foreign keys, policies. What migrations and others
changed of the tables since is noted, and no fault but with --strict.

--record: of every table, what its rows come to, in 64 parts; how many rows, and which, each role of the mapping sees, with the claims of
no user and of three, of different organizations, and how many of them it may insert, update, delete; what each role may do. --against: that
it is so by the old names, and by the new. Rows that were written or went since are no fault; policies of liventix restructure isolate may
show less, and never more. Run it as a role that may become the others and that row security does not concern; it says which were left out.
A recording is of one database, on one major version. It has no rows, but the ids of those users.

Policies that ask a function about every row can take hours: a table that somebody looks at for longer than --patience, 10 s, is left out
of what roles and tenants see, and named. All of it is one snapshot, which holds back VACUUM while it lasts.

Exits with 0 when all holds, 1 when something does not, 2 for a file that is no recording of this database, 3 when it
could not be found out.

Examples:
  liventix restructure verify --record before.json
  liventix restructure verify
  liventix restructure verify --against before.json`;

const patienceOf = ({ patience: seconds }: VerifyOptions) => (seconds === undefined ? undefined : seconds * 1_000);

async function runVerify(
  { against, mapping, strict = false, json = false, ...rest }: VerifyOptions,
  context: CommandContext,
): Promise<void> {
  if (mapping !== undefined)
    throw new AppError('USAGE', '--mapping goes with --record: a recording says itself what it is of.');
  const recording = against === undefined ? undefined : parseRecording(await readRecording(against), against);
  await withDatabase(context, async (pool) => {
    const progress = createProgress(context);
    const { checks, changed, isMoved, notes } = await withTransaction(
      pool,
      async (tx) => {
        const watch = watchChecks(context, progress, json);
        const compared =
          recording === undefined
            ? NOT_COMPARED
            : await compareWithRecording(tx, recording, {
                ...watch,
                patienceMs: patienceOf(rest),
                onProgress: showing(progress),
              });
        const checks = [...compared.checks, ...(await checkRestructuring(tx, watch))];
        const changed = (await readChangedSince(tx)).map((text) => ({ kind: 'changed since' as const, text }));
        const isMoved = (await readStanding(tx)).length > 0;
        return { checks, changed, isMoved, notes: [...compared.notes, ...changed] };
      },
      ONE_SNAPSHOT,
    ).finally(progress.clear);
    const paint = paintOut(context);
    const holds = checks.every((check) => check.holds) && !(strict && changed.length > 0);
    if (json) context.out.write(`${toJson({ holds, checks, notes })}\n`);
    else
      context.out.write(`${noteLines(notes)}\n${holds ? paint.good('It holds.') : paint.bad('It does NOT hold.')}\n`);
    // With the wrong DATABASE_URL, nothing would look like a proof.
    if (!isMoved) context.err.write(`Nothing was moved in ${await databaseName(pool)}.\n`);
    if (!holds) context.exitWith(1);
  });
}

const NOT_COMPARED: Comparison = { checks: [], notes: [] };

const showing =
  (progress: Progress) =>
  (what: string, done: number, total: number): void =>
    progress.update(printable(what), done, total);

/** What is no fault, the first of each kind. */
function noteLines(notes: Comparison['notes']): string {
  const kinds = [...new Set(notes.map(({ kind }) => kind))];
  const lines = kinds.flatMap((kind) => {
    const texts = notes.filter((each) => each.kind === kind).map(({ text }) => text);
    const more = texts.length - NOTES_OF_A_KIND;
    return [
      ...texts.slice(0, NOTES_OF_A_KIND).map((text) => `note: ${kind}: ${printable(text)}`),
      ...(more > 0 ? [`note: ${kind}: and ${formatCount(more)} more; --json has all`] : []),
    ];
  });
  return lines.length === 0 ? '' : `\n${lines.join('\n')}\n`;
}

async function runRecord(file: string, { mapping, json = false, ...rest }: VerifyOptions, context: CommandContext) {
  const wanted = await readMapping(mapping ?? LIVENTIX_MAPPING);
  await assertNewFile(file);
  await withDatabase(context, async (pool) => {
    context.err.write(`Recording what ${await databaseName(pool)} shows.\n`);
    const recorded: { recording: Recording; sha256: string }[] = [];
    const record = (into: Pool) => {
      const progress = createProgress(context);
      const options = {
        now: new Date(),
        program: `liventix ${packageVersion()}`,
        patienceMs: patienceOf(rest),
        onProgress: showing(progress),
      };
      return takeRecording(into, wanted, options).finally(progress.clear);
    };
    // The file is opened first: a name that nothing can be written to shall not show after an hour.
    async function* chunks(): AsyncGenerator<string> {
      const recording = await record(pool);
      const text = textOfRecording(recording);
      recorded.push({ recording, sha256: createHash('sha256').update(text).digest('hex') });
      yield text;
    }
    await writeWholeFile(file, chunks());
    for (const each of recorded)
      context.out.write(json ? `${toJson(summaryOf(file, each))}\n` : recordedText(file, each));
  });
}

const rowsOf = ({ relations }: Recording): number =>
  relations.flatMap(({ chunks }) => chunks).reduce((sum, [, rows]) => sum + rows, 0);

const summaryOf = (file: string, { recording, sha256 }: { recording: Recording; sha256: string }) => ({
  file,
  sha256,
  relations: recording.relations.length,
  rows: rowsOf(recording),
  viewers: recording.viewers,
  leftOut: recording.leftOut,
  tooSlow: tooSlow(recording),
});

const tooSlow = ({ relations }: Recording): readonly string[] =>
  relations.filter(({ seen }) => seen.includes(SLOW)).map(({ schema, name }) => `${schema}.${name}`);

function recordedText(file: string, { recording, sha256 }: { recording: Recording; sha256: string }): string {
  const { relations, viewers, leftOut } = recording;
  return [
    `${formatCount(rowsOf(recording))} rows of ${formatCount(relations.length)} tables and partitions`,
    `seen by ${viewers.length === 0 ? 'nobody' : viewers.map(viewerName).map(printable).join(', ')}`,
    ...leftOut.map((role) => `note: left out: ${printable(role)}: you may not become it`),
    ...tooSlow(recording).map(
      (name) => `note: left out: ${printable(name)}: what somebody sees of it takes too long to read; see --patience`,
    ),
    `Recording: ${file}, SHA-256 ${sha256}`,
    '',
  ].join('\n');
}

async function readRecording(file: string): Promise<string> {
  try {
    if ((await stat(file)).size > MAX_FILE_BYTES) throw invalid(file, 'is larger than any recording');
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof AppError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'EISDIR') throw systemFailure(error as Error);
    throw invalid(file, 'names no file');
  }
}
