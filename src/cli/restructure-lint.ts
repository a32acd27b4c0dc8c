import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import { parseBaseline } from '../restructure/lint/baseline.ts';
import { findSqlFiles, readSqlFile, readTextFile } from '../restructure/lint/files.ts';
import { isRule, lint, type Report, type Source } from '../restructure/lint/lint.ts';
import { findSquawk, type Squawk } from '../restructure/lint/squawk.ts';
import type { Finding } from '../restructure/lint/statement.ts';
import type { CommandContext } from './context.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

interface LintFlags {
  readonly json?: boolean;
  readonly disable: readonly string[];
  readonly baseline?: string;
  readonly transaction: boolean;
  readonly squawk: boolean;
}

const HELP = `
Looks at the files in their order as one set of changes, and asks no database. A folder stands for the files below it that end in .sql.
Each file is one transaction, as a migration is; begin and commit divide it. For a file whose statements are transactions of their own,
as create index concurrently needs it, write into it: -- lint: no-transaction
To break a rule on purpose, write on the statement: -- lint: allow RULE because REASON
A baseline holds what landed files break and nobody can change any more, a line each: FILE RULE HOW-MANY because REASON
Rules of squawk, which runs along where its program is installed, begin with squawk/. docs/lint.md explains each of ours.

Exits with 0 when nothing is found, and with 1 when something is, a file that PostgreSQL does not parse among it.

Examples:
  liventix restructure lint migrations
  liventix restructure lint 0053_move_orders.sql --disable squawk/ban-drop-column
  liventix restructure lint migrations --baseline lint-baseline.txt --json`;

const rules = (text: string, former: readonly string[]): readonly string[] => {
  if (isRule(text)) return [...former, text];
  throw new InvalidArgumentError('There is no such rule. docs/lint.md has those that there are.');
};

export function registerRestructureLint(restructure: Command, context: CommandContext): void {
  restructure
    .command('lint')
    .description(
      'find what would hurt in files of SQL before they run: long locks, lost names, leaks past row-level security',
    )
    .argument('<path...>', 'files of SQL, or folders of them')
    .option('--disable <rule>', 'leave a rule out; may be given several times', rules, [])
    .option('--baseline <file>', 'what is known of files that can be changed no more')
    .option('--no-transaction', 'every statement of every file is a transaction of its own')
    .option('--no-squawk', 'leave the rules of squawk out')
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action((paths: readonly string[], flags: LintFlags) => runLint(paths, flags, context));
}

async function runLint(paths: readonly string[], flags: LintFlags, context: CommandContext): Promise<void> {
  const sources: Source[] = [];
  for (const path of await findSqlFiles(paths)) sources.push({ path, sql: await readSqlFile(path) });
  const { baseline: file, disable: disabled, transaction } = flags;
  const baseline = file === undefined ? undefined : parseBaseline(file, await readTextFile(file));
  const squawk = flags.squawk ? findSquawk() : undefined;
  const progress = createProgress(context);
  const report = await lint(sources, {
    alone: !transaction,
    disabled,
    baseline,
    squawk,
    signal: context.stop,
    onProgress: progress.update,
  }).finally(progress.clear);
  if (flags.json) context.out.write(`${toJson({ ...report, squawk: squawk?.version ?? null })}\n`);
  else context.out.write(report.findings.map(findingLine).join(''));
  context.err.write(summary(report, { squawk, isWanted: flags.squawk }));
  if (report.findings.length > 0) context.exitWith(1);
}

function findingLine({ path, line, column, rule, message }: Finding): string {
  return `${printable(path)}:${line}:${column} ${rule} ${printable(message)}\n`;
}

function summary(
  { findings, files, allowed, baselined, unread }: Report,
  of: { squawk: Squawk | undefined; isWanted: boolean },
): string {
  const found = findings.length === 0 ? 'Nothing found' : `${count(findings.length, 'finding')}`;
  const passed = [
    allowed === 0 ? '' : `, ${formatCount(allowed)} allowed`,
    baselined === 0 ? '' : `, ${formatCount(baselined)} in the baseline`,
  ].join('');
  const first = unread[0];
  const notRead =
    first === undefined
      ? ''
      : `Not looked into: ${count(unread.length, 'body or string', 'bodies and strings')} of SQL that only a run knows; the first is ${printable(`${first.path}:${first.line}:${first.column}, ${first.why}`)}.\n`;
  const lacking = of.isWanted && of.squawk === undefined;
  return `${found} in ${count(files, 'file')}${passed}.\n${notRead}${lacking ? NO_SQUAWK : ''}`;
}

const NO_SQUAWK =
  'The rules of squawk were not asked: its program is not installed. npm install squawk-cli brings it, where there is one for the platform.\n';

function count(number: number, one: string, many = `${one}s`): string {
  return `${formatCount(number)} ${number === 1 ? one : many}`;
}
