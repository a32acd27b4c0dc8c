import { setImmediate } from 'node:timers/promises';
import { AppError } from '../../errors.ts';
import { applyAllows } from './allows.ts';
import { applyBaseline, type Baseline } from './baseline.ts';
import { type ParsedFile, parseFile } from './parse.ts';
import { loadParser } from './plain-sql.ts';
import { enter, replay } from './replay.ts';
import type { Hit, Rule } from './rule.ts';
import { RULES } from './rules.ts';
import { LEFT_OUT, SQUAWK, type Squawk, squawkFindings } from './squawk.ts';
import type { Finding, Unread } from './statement.ts';
import { World } from './world.ts';

export interface LintOptions {
  /** Every statement is a transaction of its own, as psql runs a file; else each file is one, as node-pg-migrate runs it. */
  readonly alone?: boolean;
  readonly disabled?: readonly string[];
  readonly baseline?: Baseline | undefined;
  readonly squawk?: Squawk | undefined;
  readonly signal?: AbortSignal;
  /** How far it is, and with what. */
  readonly onProgress?: (label: string, done: number, total: number) => void;
}

/** So many statements are looked at before anything else may run. */
const STATEMENTS_AT_ONCE = 1_000;

export interface Source {
  readonly path: string;
  readonly sql: string;
}

export interface Report {
  readonly findings: readonly Finding[];
  readonly files: number;
  /** Found, and allowed by a comment. */
  readonly allowed: number;
  /** Found, and in the baseline. */
  readonly baselined: number;
  /** What could not be looked into: bodies that need a catalog, SQL that is put together as it runs. */
  readonly unread: readonly Unread[];
}

/** Whether there is a rule of that name; those of squawk's that it has beyond the ones that we know are taken for rules. */
export function isRule(rule: string): boolean {
  if (rule.startsWith(SQUAWK)) return !Object.hasOwn(LEFT_OUT, rule.slice(SQUAWK.length));
  return RULES.some(({ id }) => id === rule);
}

/**
 * Looks at files of SQL, in their order, as one set of changes: what an earlier one creates, moves or publishes, a later one meets.
 * @throws AppError SYSTEM_FAILED where squawk does not run; STOPPED
 */
export async function lint(sources: readonly Source[], options: LintOptions = {}): Promise<Report> {
  const { alone = false, disabled = [], baseline, squawk, signal = new AbortController().signal } = options;
  const goOn = async (label: string, done: number, total: number) => {
    options.onProgress?.(label, done, total);
    // Lets a signal be heard: parsing and looking let nothing else run.
    await setImmediate();
    if (signal.aborted) throw new AppError('STOPPED', 'Stopped before everything was looked at.');
  };
  await loadParser();
  const files: ParsedFile[] = [];
  for (const [done, { path, sql }] of sources.entries()) {
    await goOn('reading files', done, sources.length);
    files.push(parseFile(path, sql, { alone }));
  }
  const isAsked = (rule: string) => !disabled.includes(rule) && (squawk !== undefined || !rule.startsWith(SQUAWK));
  const found = [
    ...(await runRules(
      RULES.filter(({ id }) => isAsked(id)),
      files,
      goOn,
    )),
    ...(squawk === undefined ? [] : await squawkFindings(squawk, files, signal)).filter(({ rule }) => isAsked(rule)),
  ];
  const byPath = new Map<string, Finding[]>(files.map(({ path }) => [path, []]));
  for (const finding of found) byPath.get(finding.path)?.push(finding);
  const perFile = files.map((file) => applyAllows(file, byPath.get(file.path) ?? [], { isRule, isAsked }));
  const judged = [...files.flatMap(({ faults }) => faults), ...perFile.flatMap(({ left }) => left)];
  const paths = files.map(({ path }) => path);
  const { left, baselined } =
    baseline === undefined
      ? { left: judged, baselined: 0 }
      : applyBaseline(baseline, judged, { files: paths, isAsked });
  return {
    findings: sorted(left, paths),
    files: files.length,
    allowed: perFile.reduce((sum, { allowed }) => sum + allowed, 0),
    baselined,
    unread: files.flatMap(({ unread }) => unread),
  };
}

async function runRules(
  rules: readonly Rule[],
  files: readonly ParsedFile[],
  goOn: (label: string, done: number, total: number) => Promise<void>,
): Promise<Finding[]> {
  const world = new World();
  const findings: Finding[] = [];
  const report = (rule: string, hits: Iterable<Hit> = []) => {
    for (const { statement, offset = statement.offset, message } of hits) {
      findings.push({
        rule,
        path: statement.file.path,
        ...statement.file.text.at(offset),
        message: withNames(message),
      });
    }
  };
  const statements = files.flatMap((file) => file.statements);
  for (const [done, statement] of statements.entries()) {
    if (done % STATEMENTS_AT_ONCE === 0) await goOn('looking at statements', done, statements.length);
    enter(world, statement);
    for (const { id, each } of rules) report(id, each?.(statement, world));
    replay(world, statement);
  }
  for (const { id, end } of rules) report(id, end?.(world));
  return findings;
}

/** What `format` puts into a name only a run knows. */
const withNames = (message: string) => message.replace(/%[Is]/g, '<name>');

function sorted(findings: readonly Finding[], paths: readonly string[]): Finding[] {
  const orderOf = new Map(paths.map((path, index) => [path, index]));
  const order = ({ path }: Finding) => orderOf.get(path) ?? paths.length;
  return findings.toSorted(
    (a, b) => order(a) - order(b) || a.line - b.line || a.column - b.column || (a.rule < b.rule ? -1 : 1),
  );
}
