import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { AppError } from '../../errors.ts';
import type { ParsedFile } from './parse.ts';
import type { Finding } from './statement.ts';

/** What marks a rule as one of squawk's. */
export const SQUAWK = 'squawk/';

/** Rules of squawk's that are left out, and why. */
export const LEFT_OUT: Readonly<Record<string, string>> = {
  'require-lock-timeout':
    'ours, lock-without-timeout, knows which tables the file itself creates, and looks into DO blocks',
  'require-statement-timeout': 'what is waited for is bounded by lock_timeout; a backfill may take its time',
  'require-timeout-settings': 'the same two in one',
  'renaming-table': 'ours, rename-without-view, knows the view that takes the old name',
  'ban-concurrent-index-creation-in-transaction':
    'ours, not-in-a-transaction, finds it in a file of one statement too, and the others that PostgreSQL refuses there',
  'transaction-nesting': 'begin and commit divide a file, here',
  'prefer-robust-stmts': 'a migration runs once, in a transaction; IF NOT EXISTS hides that it did not do what it says',
  'prefer-bigint-over-int': 'a choice of type, which no traffic waits for',
  'prefer-bigint-over-smallint': 'a choice of type, which no traffic waits for',
  'prefer-identity': 'a choice of type, which no traffic waits for',
  'prefer-text-field': 'a choice of type, which no traffic waits for',
  'prefer-timestamp-tz': 'a choice of type, which no traffic waits for',
  'ban-char-field': 'a choice of type, which no traffic waits for',
  'require-table-schema': 'a choice of style',
};

/** Its own parser, where it knows less than PostgreSQL's; ours has said whatever is no SQL. */
const OF_ITS_PARSER = 'syntax-error';
const OLDEST_POSTGRES = '15';
const MAX_FILES_A_RUN = 500;
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
const LONGEST_RUN_MS = 60_000;

export interface Squawk {
  readonly binary: string;
  readonly version: string;
}

/** It comes as a program for each platform, and for some it does not come. */
export function findSquawk(): Squawk | undefined {
  const require = createRequire(import.meta.url);
  try {
    const { getBinaryPath } = require('squawk-cli/js/index.js') as { getBinaryPath: () => string };
    const { version } = require('squawk-cli/package.json') as { version: string };
    return { binary: getBinaryPath(), version };
  } catch {
    return undefined;
  }
}

interface Reported {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly help: string | null;
  readonly rule_name: string;
}

/** What squawk finds in files, in the shape of what we find. @throws AppError SYSTEM_FAILED */
export async function squawkFindings(
  squawk: Squawk,
  files: readonly ParsedFile[],
  signal: AbortSignal,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const inTransaction of [true, false]) {
    const those = files.filter(({ isAlone, statements }) => isAlone !== inTransaction && statements.length > 0);
    for (let first = 0; first < those.length; first += MAX_FILES_A_RUN) {
      findings.push(...(await runOn(squawk, those.slice(first, first + MAX_FILES_A_RUN), { inTransaction, signal })));
    }
  }
  return findings;
}

async function runOn(
  { binary }: Squawk,
  files: readonly ParsedFile[],
  { inTransaction, signal }: { inTransaction: boolean; signal: AbortSignal },
): Promise<Finding[]> {
  const byPath = new Map(files.map((file) => [resolve(file.path), file]));
  const args = [
    '--reporter=json',
    `--pg-version=${OLDEST_POSTGRES}`,
    ...Object.keys(LEFT_OUT).map((rule) => `--exclude=${rule}`),
    inTransaction ? '--assume-in-transaction' : '--no-assume-in-transaction',
    '--',
    ...[...byPath.keys()].map(literally),
  ];
  const reported = parseReport(await run(binary, args, signal));
  return reported.flatMap(({ file: path, line, column, message, help, rule_name: rule }) => {
    const file = byPath.get(resolve(path));
    if (file === undefined || rule === OF_ITS_PARSER) return [];
    const at = file.text.at(file.text.offsetOf(line, column));
    return {
      rule: `${SQUAWK}${rule}`,
      path: file.path,
      ...at,
      message: oneLine(help === null ? message : `${message} ${help}.`),
    };
  });
}

const oneLine = (text: string) => text.replace(/\s+/g, ' ').replace(/\.\.$/, '.').trim();

/** It takes a path for a pattern. */
const literally = (path: string) => path.replace(/[*?[\]{}]/g, '[$&]');

function run(binary: string, args: readonly string[], signal: AbortSignal): Promise<string> {
  // Away from any configuration of squawk's own: what is left out is ours to say.
  const options = { cwd: resolve(binary, '..'), signal, maxBuffer: MAX_OUTPUT_BYTES, timeout: LONGEST_RUN_MS };
  return new Promise((done, failed) => {
    execFile(binary, args, options, (error, stdout, stderr) => {
      // It ends with 1 when it found something.
      if (error === null || (error.code === 1 && stdout.startsWith('['))) done(stdout);
      else if (signal.aborted) failed(new AppError('STOPPED', 'Stopped before everything was looked at.'));
      else failed(didNotRun(`squawk failed: ${oneLine(stderr) || error.message}`, error));
    });
  });
}

function parseReport(stdout: string): readonly Reported[] {
  try {
    return JSON.parse(stdout) as Reported[];
  } catch (error) {
    throw didNotRun('what squawk printed cannot be read', error);
  }
}

function didNotRun(what: string, cause: unknown): AppError {
  return new AppError(
    'SYSTEM_FAILED',
    `The rules of squawk were not asked: ${what}. Remove the cause, or go without: --no-squawk.`,
    { cause },
  );
}
