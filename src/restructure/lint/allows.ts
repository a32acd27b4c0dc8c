import type { ParsedFile } from './parse.ts';
import type { Comment, Finding } from './statement.ts';
import { firstFrom } from './text.ts';
import { isAlone } from './transactions.ts';

/** `-- lint: allow RULE because REASON`: on a statement, which it says of that the rule is broken on purpose. */
interface Allow {
  readonly rules: readonly string[];
  readonly comment: Comment;
  /** The statement that it is on. */
  readonly start: number;
  readonly end: number;
}

const SAID = /^--\s*lint:\s*(?<said>.*)$/s;
const ALLOWS = /^allow\s+(?<rules>[\w/-]+(?:\s*,\s*[\w/-]+)*)\s+because\s+\S.*$/s;

export interface Allowed {
  readonly left: readonly Finding[];
  readonly allowed: number;
}

interface Known {
  /** Whether there is a rule of that name. */
  readonly isRule: (rule: string) => boolean;
  /** Whether it was looked for: of one that was not, nobody knows whether it is allowed for nothing. */
  readonly isAsked: (rule: string) => boolean;
}

/** Leaves out what a comment allows, and reports comments that allow nothing, or cannot be read. */
export function applyAllows(file: ParsedFile, findings: readonly Finding[], { isRule, isAsked }: Known): Allowed {
  const { allows, faults } = allowsOf(file, isRule);
  const used = new Set<string>();
  const left = findings.filter((finding) => {
    const found = allows.filter((allow) => allow.rules.includes(finding.rule) && covers(file, allow, finding));
    for (const { comment } of found) used.add(`${comment.offset} ${finding.rule}`);
    return found.length === 0;
  });
  const unused = allows.flatMap(({ rules, comment }) =>
    rules
      .filter((rule) => isAsked(rule) && !used.has(`${comment.offset} ${rule}`))
      .map((rule) =>
        fault(
          file,
          comment,
          `There is no ${rule} to allow here. Take the comment away, so that it allows nothing later.`,
        ),
      ),
  );
  return { left: [...left, ...faults, ...unused], allowed: findings.length - left.length };
}

function allowsOf(file: ParsedFile, isRule: Known['isRule']): { allows: Allow[]; faults: Finding[] } {
  const allows: Allow[] = [];
  const faults: Finding[] = [];
  for (const comment of file.comments) {
    const said = SAID.exec(comment.text)?.groups?.['said'];
    if (said === undefined || isAlone(comment)) continue;
    const rules = ALLOWS.exec(said)?.groups?.['rules']?.split(/\s*,\s*/);
    const unknown = rules?.find((rule) => !isRule(rule));
    const span = spanOf(file, comment);
    if (rules === undefined)
      faults.push(
        fault(
          file,
          comment,
          'This allows nothing. Write: -- lint: allow RULE because REASON; or: -- lint: no-transaction.',
        ),
      );
    else if (unknown !== undefined)
      faults.push(fault(file, comment, `There is no rule ${unknown}. docs/lint.md has those that there are.`));
    else if (span === undefined)
      faults.push(fault(file, comment, 'There is no statement after this comment that it could be on.'));
    else allows.push({ rules, comment, ...span });
  }
  return { allows, faults };
}

/** The statement that a comment is in, or ends the line of, or comes before. */
function spanOf({ spans, text }: ParsedFile, { offset }: Comment) {
  const next = firstFrom(spans, offset + 1);
  const before = spans[next - 1];
  if (before !== undefined && offset < before.end) return before;
  return before !== undefined && text.isOnOneLine(before.end, offset) ? before : spans[next];
}

function covers({ text }: ParsedFile, { start, end }: Allow, { line, column }: Finding): boolean {
  const from = text.at(start);
  const to = text.at(end);
  const isAfter = line > from.line || (line === from.line && column >= from.column);
  return isAfter && (line < to.line || (line === to.line && column <= to.column));
}

function fault({ path, text }: ParsedFile, { offset }: Comment, message: string): Finding {
  return { rule: 'allow', path, ...text.at(offset), message };
}
