import { dirname, relative, resolve, sep } from 'node:path';
import { AppError } from '../../errors.ts';
import type { Finding } from './statement.ts';

/** What was found before, in files that can be changed no more: so many findings of a rule in a file. */
export interface Baseline {
  readonly path: string;
  readonly entries: readonly Entry[];
}

interface Entry {
  readonly line: number;
  readonly file: string;
  readonly rule: string;
  readonly findings: number;
}

const ENTRY = /^(?<file>\S+)\s+(?<rule>[\w/-]+)\s+(?<findings>[1-9]\d{0,5})\s+because\s+\S/;

/**
 * One line an entry, `FILE RULE HOW-MANY because REASON`, with files as they lie from the baseline; # begins a comment.
 * @throws AppError USAGE
 */
export function parseBaseline(path: string, text: string): Baseline {
  const entries = text.split(/\r?\n/).flatMap((line, index) => {
    if (line.trim() === '' || line.startsWith('#')) return [];
    const { file, rule, findings } = ENTRY.exec(line)?.groups ?? {};
    if (file === undefined || rule === undefined) {
      throw new AppError(
        'USAGE',
        `${path}:${index + 1} is no entry of a baseline. Write: FILE RULE HOW-MANY because REASON.`,
      );
    }
    return { line: index + 1, file, rule, findings: Number(findings) };
  });
  return { path, entries };
}

export interface Baselined {
  readonly left: readonly Finding[];
  readonly baselined: number;
}

/**
 * Leaves out what the baseline has. Where a file has more of it than that, all are left, as nobody knows which are new; where it has less,
 * the entry is reported, so that it does not cover what is to come. Entries of files that were not looked at are passed over.
 */
export function applyBaseline({ path, entries }: Baseline, findings: readonly Finding[], looked: Looked): Baselined {
  const nameOf = (file: string) =>
    relative(dirname(resolve(path)), resolve(file))
      .split(sep)
      .join('/');
  const keyOf = ({ path: file, rule }: Finding) => `${nameOf(file)} ${rule}`;
  const counts = new Map<string, number>();
  for (const finding of findings) counts.set(keyOf(finding), (counts.get(keyOf(finding)) ?? 0) + 1);
  const files = new Set(looked.files.map(nameOf));
  const expected = new Map(entries.map((entry) => [`${entry.file} ${entry.rule}`, entry.findings]));
  const left = findings.filter((finding) => expected.get(keyOf(finding)) !== counts.get(keyOf(finding)));
  const stale = entries.flatMap(({ line, file, rule, findings: wanted }): Finding[] => {
    const found = counts.get(`${file} ${rule}`) ?? 0;
    if (found === wanted || !looked.isAsked(rule) || !files.has(file)) return [];
    return [
      {
        rule: 'baseline',
        path,
        line,
        column: 1,
        message: `${file} has ${found} findings of ${rule}, not ${wanted}. Correct the entry, or take it away.`,
      },
    ];
  });
  return { left: [...left, ...stale], baselined: findings.length - left.length };
}

interface Looked {
  readonly files: readonly string[];
  readonly isAsked: (rule: string) => boolean;
}
