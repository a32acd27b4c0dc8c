import { fencesOf, type Page } from './pages.ts';

/** A line of a shell, and where it is written. */
export interface CommandLine {
  readonly at: string;
  readonly line: string;
}

/** The lines of a page's `sh` blocks. */
export function commandLinesOf(page: Page): readonly CommandLine[] {
  return fencesOf(page)
    .filter(({ info }) => info === 'sh')
    .flatMap(({ lines, firstLine }) =>
      joined(lines).map(({ line, offset }) => ({ at: `${page.path}:${firstLine + offset}`, line })),
    );
}

/** Our program, as it is named in a checkout and where it is installed. */
export const LIVENTIX = /^(?:bin\/)?liventix$/;

/** Lines that end in a backslash go on in the next one. */
function joined(written: readonly string[]): { readonly line: string; readonly offset: number }[] {
  const whole: { line: string; offset: number }[] = [];
  let goesOn = false;
  for (const [offset, text] of written.entries()) {
    const last = whole.at(-1);
    if (goesOn && last !== undefined) last.line += ` ${text.replace(/\\$/, '')}`;
    else whole.push({ line: text.replace(/\\$/, ''), offset });
    goesOn = text.endsWith('\\');
  }
  return whole;
}

/** The words after each use of a program in a line, as a shell takes them apart; what is redirected belongs to no program. */
export function commandsOf(line: string, program: RegExp): string[][] {
  return simpleCommands(line).flatMap((words) => {
    const named = words.findIndex((word) => !/^[A-Z_]+=/.test(word));
    return program.test(words[named] ?? '') ? [words.slice(named + 1).map(filledIn)] : [];
  });
}

/** An id that is written 6f1c…, … or $NAME stands for a whole one, and ROOT for a root. */
function filledIn(word: string): string {
  return word
    .replace(/^(?:[0-9a-f]*…|\$[A-Z_]+)$/, '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4')
    .replace(/^ROOT$/, 'ab'.repeat(32));
}

function simpleCommands(line: string): string[][] {
  const commands: string[][] = [[]];
  let redirected = false;
  for (const [token] of line.matchAll(
    /&&|\|\|?|;|[0-9]?>>?|<|#.*$|(?:'[^']*'|"[^"]*"|\\.|[^\s'"|;&<>#\\]|(?<=\S)#)+|&/g,
  )) {
    if (/^#/.test(token)) break;
    if (/^(?:&&?|\|\|?|;)$/.test(token)) commands.push([]);
    else if (/^[0-9]?>>?$|^<$/.test(token)) redirected = true;
    else if (redirected) redirected = false;
    else commands.at(-1)?.push(token.replace(/'([^']*)'|"([^"]*)"|\\(.)/g, '$1$2$3'));
  }
  return commands;
}
