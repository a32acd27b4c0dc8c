import { Command, InvalidArgumentError } from 'commander';
import { AppError, type ErrorCode } from '../errors.ts';

/** Those of the names that a text resembles, by the rule by which commander suggests commands. */
function similar(text: string, names: readonly string[]): readonly string[] {
  const known = new Command()
    .helpCommand(false)
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  for (const name of new Set(names)) known.command(name);
  try {
    known.parse(['--', text], { from: 'user' });
  } catch (error) {
    const said = /\(Did you mean (?:one of )?(.*)\?\)/s.exec((error as Error).message)?.[1];
    return said?.split(', ') ?? [];
  }
  return [];
}

/** ` (Did you mean ticket?)`; empty where nothing resembles the text. */
export function didYouMean(text: string, names: readonly string[], prefix = ''): string {
  const found = similar(text, names).map((name) => `${prefix}${name}`);
  if (found.length === 0) return '';
  return ` (Did you mean ${found.length === 1 ? '' : 'one of '}${found.join(', ')}?)`;
}

/** Adds to what a command refuses of a known set what may have been meant. */
export function suggestChoices(command: Command): void {
  for (const each of [...command.options, ...command.registeredArguments]) {
    const { argChoices: names, parseArg: read } = each;
    if (names === undefined || read === undefined) continue;
    each.parseArg = <T>(text: string, former: T): T => {
      try {
        return read.call(each, text, former) as T;
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error;
        throw new InvalidArgumentError(`${error.message}${didYouMean(text, names)}`);
      }
    };
  }
  for (const child of command.commands) suggestChoices(child);
}

/** A flag that was misspelt where it had to be given: commander, which looks for those first, says that it is missing. */
export function misspeltFlag(command: Command): string | undefined {
  const typed = command.args.find((arg) => /^--[^=]/.test(arg))?.split('=')[0];
  if (typed === undefined) return undefined;
  const flags = command
    .createHelp()
    .visibleOptions(command)
    .flatMap(({ long }) => long?.slice(2) ?? []);
  return `unknown option '${typed}'${didYouMean(typed.slice(2), flags, '--')}`;
}

interface Known {
  /** What an unknown one is refused with. */
  readonly code: ErrorCode;
  readonly given: readonly string[];
  /** Those that there are; asked only when one was refused. */
  readonly names: () => Promise<readonly string[]>;
}

/** Does `work`, and adds to its refusal of a name that the database does not know which of those that it knows may have been meant. */
export async function suggestingNames<T>({ code, given, names }: Known, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== code) throw error;
    const known: readonly string[] = await names().catch(() => []);
    const unknown = given.find((name) => !known.includes(name)) ?? '';
    throw new AppError(code, `${error.message}${didYouMean(unknown, known)}`, {
      details: error.details,
      cause: error,
    });
  }
}
