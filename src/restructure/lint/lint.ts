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
}

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
  await loadParser();
  const files: ParsedFile[] = [];
  for (const { path, sql } of sources) {
    // Lets a signal be heard: parsing lets nothing else run.
    await setImmediate();
    if (signal.aborted) throw new AppError('STOPPED', 'Stopped before everything was looked at.');
    files.push(parseFile(path, sql, { alone }));
  }
  const isAsked = (rule: string) => !disabled.includes(rule) && (squawk !== undefined || !rule.startsWith(SQUAWK));
  const found = [
    ...runRules(
      RULES.filter(({ id }) => isAsked(id)),
      files,
    ),
    ...(squawk === undefined ? [] : await squawkFindings(squawk, files, signal)).filter(({ rule }) => isAsked(rule)),
  ];
  const perFile = files.map((file) =>
    applyAllows(
      file,
      found.filter(({ path }) => path === file.path),
      { isRule, isAsked },
    ),
  );
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

function runRules(rules: readonly Rule[], files: readonly ParsedFile[]): Finding[] {
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
  for (const statement of files.flatMap(({ statements }) => statements)) {
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
