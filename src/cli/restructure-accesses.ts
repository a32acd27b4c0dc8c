import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { type Access, LEGACY_ACCESSES, nameOfAccess, readAccesses } from '../restructure/accesses/access.ts';
import type { AccessDifference } from '../restructure/accesses/compare.ts';
import {
  compareRecording,
  type Recording,
  readRecording,
  recordAccesses,
  writeRecording,
} from '../restructure/accesses/recording.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

/** Where `record` writes and `compare` reads, unless told otherwise. */
const RECORDING_FILE = 'restructure-accesses.json';
const MOST_SEEDS = 1_000_000;

/** Finding out whether an application is answered as before. */
export function registerRestructureAccesses(restructure: Command, context: CommandContext): void {
  const accesses = restructure
    .command('accesses')
    .description(
      'send what an application sends through PostgREST, before a move and after it, and compare the answers',
    )
    .addHelpText('after', '\nExample:\n  liventix restructure accesses record');

  accesses
    .command('record')
    .description('send every access as several callers, undo it, and write what it gave as a file for compare')
    .option('--accesses <file>', "the accesses, as JSON; a sample of the Liventix application's own when left out")
    .option('--output <file>', 'where the recording is written', RECORDING_FILE)
    .option('--seed <n>', 'which rows values are taken from', wholeNumber(0, MOST_SEEDS), 1)
    .option('--json', 'print one JSON object')
    .addHelpText('after', RECORD_HELP)
    .action((options: RecordOptions) => runRecord(options, context));

  accesses
    .command('compare')
    .description('send the accesses of a recording again, and say which of them is not answered as it was')
    .option('--recording <file>', 'what record wrote', RECORDING_FILE)
    .option('--json', 'print one JSON object')
    .addHelpText('after', COMPARE_HELP)
    .action((options: CompareOptions) => runCompare(options, context));
}

interface RecordOptions {
  readonly accesses?: string;
  readonly output: string;
  readonly seed: number;
  readonly json?: boolean;
}

interface CompareOptions {
  readonly recording: string;
  readonly json?: boolean;
}

const RECORD_HELP = `
Each access becomes the SQL that PostgREST would send, with values of rows that are there, as service_role, as an owner of an organization,
as an attendee and as anon, in a transaction that is undone. What it writes by triggers and functions is recorded too; what changes from run
to run, such as now() and new ids, is left out. DATABASE_URL has to name a role that may take on those roles, as postgres may on Supabase.

Record and compare while nobody writes: in a copy, or at a quiet hour. Sequences go on, and rows that are written wait for each other.
The file holds values of rows: keep it as carefully as the database.

An access: {"table": "orders", "op": "select", "select": "id, events!orders_event_id_fkey(title)", "filters": ["eq:user_id", "limit"]}
or {"rpc": "get_home_feed", "args": ["p_user_id"]}, all of them in {"accesses": [...]}.

Examples:
  liventix restructure accesses record
  liventix restructure accesses record --accesses shop.json --output shop-before.json --seed 7`;

const COMPARE_HELP = `
Exits with 1 when an access is not answered as it was: other rows, other values, another error, or something else written.

Examples:
  liventix restructure accesses compare
  liventix restructure accesses compare --recording shop-before.json --json`;

async function runRecord(
  { accesses, output, seed, json = false }: RecordOptions,
  context: CommandContext,
): Promise<void> {
  const wanted = await readAccesses(accesses ?? LEGACY_ACCESSES);
  await withDatabase(
    context,
    async (pool) => {
      context.err.write(
        `Sending ${formatCount(wanted.length)} accesses to ${await databaseName(pool)}, and undoing each.\n`,
      );
      const progress = createProgress(context);
      const recording = await recordAccesses(pool, wanted, {
        seed,
        now: new Date(),
        onProgress: progress.update,
      }).finally(progress.clear);
      await writeRecording(output, recording);
      context.out.write(json ? `${toJson(summaryOf(recording))}\n` : recordedText(recording));
      context.err.write(`The recording is in ${output}. After the move: liventix restructure accesses compare\n`);
    },
    { isBeforeMigrations: true },
  );
}

const summaryOf = ({ callers, prepared, notApplicable, results }: Recording) => ({
  accesses: prepared.length,
  callers: callers.map(({ name, role }) => ({ name, role })),
  answered: results.filter(({ outcome }) => outcome.status === 'rows').length,
  refused: results.filter(({ outcome }) => outcome.status === 'refused').length,
  notApplicable,
});

function recordedText(recording: Recording): string {
  const { accesses, callers, answered, refused, notApplicable } = summaryOf(recording);
  const names = callers.map(({ name }) => name).join(', ');
  return [
    ...notApplicable.map(({ access, reason }) => `left out  ${printable(nameOfAccess(access))}: ${printable(reason)}`),
    `${accesses} accesses as ${names}: ${formatCount(answered)} answers, ${formatCount(refused)} refusals.`,
    '',
  ].join('\n');
}

async function runCompare({ recording: file, json = false }: CompareOptions, context: CommandContext): Promise<void> {
  const recording = await readRecording(file);
  await withDatabase(
    context,
    async (pool) => {
      context.err.write(
        `Sending what was recorded at ${printable(recording.recordedAt)} to ${await databaseName(pool)} again, and undoing each.\n`,
      );
      const progress = createProgress(context);
      const differences = await compareRecording(pool, recording, progress.update).finally(progress.clear);
      context.out.write(
        json ? `${toJson(comparisonOf(recording, differences))}\n` : comparedText(recording, differences),
      );
      if (differences.length > 0) context.exitWith(1);
    },
    { isBeforeMigrations: true },
  );
}

const accessesOf = ({ prepared }: Recording): ReadonlyMap<number, Access> =>
  new Map(prepared.map(({ number, access }) => [number, access]));

function comparisonOf(recording: Recording, differences: readonly AccessDifference[]) {
  const accesses = accessesOf(recording);
  return {
    compared: recording.results.length,
    notApplicable: recording.notApplicable.length,
    differences: differences.map((each) => ({ ...each, access: accesses.get(each.number) })),
  };
}

function comparedText(recording: Recording, differences: readonly AccessDifference[]): string {
  const accesses = accessesOf(recording);
  const lines = differences.map(({ number, caller, what }) => {
    const access = accesses.get(number);
    const name = access === undefined ? 'an access' : nameOfAccess(access);
    return `differs  ${number} ${printable(name)} as ${printable(caller)}: ${printable(what)}`;
  });
  const { length } = recording.results;
  return [...lines, `${formatCount(length)} answers compared, ${formatCount(differences.length)} differ.`, ''].join(
    '\n',
  );
}
