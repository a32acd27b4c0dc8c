import { constants } from 'node:os';
import { Command, CommanderError, Help, type Option } from 'commander';
import { loadConfig } from '../config.ts';
import { systemFailure, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { CommandContext } from './context.ts';
import { keepFormerSpellings } from './former-spellings.ts';
import { errorLine, paintOut } from './output.ts';
import { isColoured, paintOf } from './paint.ts';
import { misspeltFlag, suggestChoices } from './suggestion.ts';
import { packageVersion } from './version.ts';

const EXAMPLES = `Examples:
  liventix demo
  liventix migrate --dry-run
  liventix books verify --help`;
const EXIT_CODES = 'Exit codes: 0 holds or done, 1 does not hold, 2 wrong usage, 3 could not find out.';

const USUAL_WIDTH = 80;
/** Longer lines nobody reads to their end. */
const MAX_HELP_WIDTH = 140;

/**
 * The composition root: the only place that reads the environment, listens to signals and decides the exit code.
 * @param args what follows the program's name
 * @param heard the signals that came while the launcher loaded this
 */
export async function main(args: readonly string[], heard: readonly NodeJS.Signals[] = []): Promise<number> {
  const stop = stopOnSignals(heard);
  const surroundings = { env: process.env, out: process.stdout, err: process.stderr, stop: stop.signal };
  process.stdout.on('error', (error) => process.exit(reportUntold(error, surroundings)));
  process.on('uncaughtException', (error) => process.exit(reportFailure(error, surroundings)));
  const exitCode = await runCommand(args, surroundings);
  // One that was stopped does not wait for a reader that does not read.
  if (exitCode !== 0 && stop.signal.aborted && process.stdout.writableLength > 0) process.exit(exitCode);
  stop.release();
  return exitCode;
}

interface Surroundings extends Pick<CommandContext, 'out' | 'err' | 'stop'> {
  readonly env: NodeJS.ProcessEnv;
}

/** Runs one command line, tells its failure in one line, and answers the exit code. Never throws. */
export async function runCommand(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const { env, ...streams } = surroundings;
  let exitCode = 0;
  try {
    const context: CommandContext = {
      ...streams,
      colours: { out: isColoured(streams.out, env), err: isColoured(streams.err, env) },
      config: loadConfig(env),
      exitWith: (code) => {
        exitCode = code;
      },
    };
    const program = await buildProgram(context, args[0]);
    await program.parseAsync(args as string[], { from: 'user' });
    return exitCode;
  } catch (error) {
    return reportFailure(error, surroundings);
  }
}

/** Every command, as `runCommand` runs them; or the one of that name, if there is one: what the others need is not loaded. */
export async function buildProgram(context: CommandContext, name = ''): Promise<Command> {
  const program = new Command('liventix')
    .description(
      'An event-sourced double-entry ledger, its replay from legacy wallets, and an outbox that loses nothing.',
    )
    .version(packageVersion(), '--version')
    .helpOption('--help', 'show this help')
    .addHelpText('after', `\n${EXAMPLES}`)
    .addHelpText('afterAll', `\n${EXIT_CODES}`)
    .showSuggestionAfterError()
    .configureHelp({ optionDescription: describeOption, styleTitle: paintOut(context).strong })
    .configureOutput({
      writeOut: (text) => context.out.write(text),
      writeErr: () => undefined,
      getOutHasColors: () => context.colours?.out === true,
      getOutHelpWidth: () => Math.min(context.out.columns ?? USUAL_WIDTH, MAX_HELP_WIDTH),
    });
  // A completion is made of all of them.
  const isKnown = Object.hasOwn(COMMANDS, name) && name !== 'completion';
  for (const [each, load] of Object.entries(COMMANDS)) {
    if (!isKnown || each === name) (await load())(program, context);
  }
  keepFormerSpellings(program);
  inheritSettings(program);
  nameTheirHelp(program);
  refuseUnknownSubcommands(program);
  suggestChoices(program);
  return program;
}

// An option that may be given several times begins with a list, which nobody writes as JSON.
function describeOption(this: Help, option: Option): string {
  const { defaultValue: value } = option;
  if (!Array.isArray(value)) return Help.prototype.optionDescription.call(this, option);
  return value.length === 0 ? option.description : `${option.description} (default: ${value.join(',')})`;
}

/** From the program's name to the command's: `['liventix', 'books', 'verify']`. */
function pathOf(command: Command): string[] {
  return [...(command.parent === null ? [] : pathOf(command.parent)), command.name()];
}

// Wrong usage of a command is answered with the help of that very command.
function nameTheirHelp(command: Command): void {
  const help = `${pathOf(command).join(' ')} --help`;
  command.exitOverride((error) => {
    if (error.exitCode === 0) throw error;
    const isMissing = error.code === 'commander.missingMandatoryOptionValue';
    const said = (isMissing ? misspeltFlag(command) : undefined) ?? usageMessage(error);
    throw new AppError('USAGE', `${said} See: ${help}`, { cause: error });
  });
  for (const child of command.commands) nameTheirHelp(child);
}

type Register = (program: Command, context: CommandContext) => void;

/** In the order in which the help lists them. */
const COMMANDS: Readonly<Record<string, () => Promise<Register>>> = {
  demo: async () => (await import('./demo.ts')).registerDemo,
  migrate: async () => (await import('./migrate.ts')).registerMigrate,
  backfill: async () => (await import('./backfill.ts')).registerBackfill,
  replay: async () => (await import('./replay.ts')).registerReplay,
  books: async () => (await import('./books.ts')).registerBooks,
  ledger: async () => (await import('./ledger.ts')).registerLedger,
  outbox: async () => (await import('./outbox.ts')).registerOutbox,
  states: async () => (await import('./states.ts')).registerStates,
  restructure: async () => (await import('./restructure.ts')).registerRestructure,
  partitions: async () => (await import('./partitions.ts')).registerPartitions,
  rollups: async () => (await import('./rollups.ts')).registerRollups,
  embeddings: async () => (await import('./embeddings.ts')).registerEmbeddings,
  console: async () => (await import('./console.ts')).registerConsole,
  worker: async () => (await import('./worker.ts')).registerWorker,
  doctor: async () => (await import('./doctor.ts')).registerDoctor,
  completion: async () => (await import('./completion.ts')).registerCompletion,
};

// commander copies settings to subcommands made through `.command()`, but not the help option's wording.
function inheritSettings(command: Command): void {
  for (const child of command.commands) {
    child.helpOption('--help', 'show this help').copyInheritedSettings(command);
    inheritSettings(child);
  }
}

// A command that does something by itself takes a mistyped subcommand for an argument too many, and suggests nothing.
function refuseUnknownSubcommands(command: Command): void {
  for (const child of command.commands) refuseUnknownSubcommands(child);
  if (command.commands.length === 0) return;
  command.allowExcessArguments().hook('preAction', (_command, called) => {
    if (called === command && command.args.length > 0) throwUnknownSubcommand(command);
  });
}

// A group, which does nothing by itself, knows what to say.
function throwUnknownSubcommand(command: Command): void {
  const group = new Command(command.name()).copyInheritedSettings(command);
  for (const child of command.commands) group.command(child.name());
  group.parse(command.args, { from: 'user' });
}

function reportFailure(error: unknown, { err, env }: Pick<Surroundings, 'err' | 'env'>): number {
  // --help and --version end here, their text already written.
  if (error instanceof CommanderError && error.exitCode === 0) return 0;
  const failure = toAppError(error);
  err.write(errorLine(failure, paintOf(isColoured(err, env))));
  if (failure.code === 'INTERNAL' && env['LOG_LEVEL'] === 'debug' && error instanceof Error) {
    err.write(`${error.stack ?? ''}\n`);
  }
  return failure.exitCode;
}

/** What was to be told is not told, so it was not found out either. A reader that read enough, as `head` does, is no fault. */
function reportUntold(error: NodeJS.ErrnoException, surroundings: Surroundings): number {
  const failure = systemFailure(error);
  return error.code === 'EPIPE' ? failure.exitCode : reportFailure(failure, surroundings);
}

function usageMessage(error: CommanderError): string {
  const text = error.message
    .replace(/^error: /, '')
    .replace(/\s+/g, ' ')
    .replace(/^command-argument value ('.*?') is invalid for argument '([^']*)'\./, '$1 is no $2.')
    // A value is repeated as far as one knows it by.
    .replace(/'([^']{100})[^']+'/g, "'$1…'")
    .trim();
  const sentence = error.code === 'commander.help' ? 'which command?' : text;
  return /[.?!)]$/.test(sentence) ? sentence : `${sentence}.`;
}

const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** One sent to the process group comes twice: by itself, and from the launcher that hands it on. */
const SAME_SIGNAL_MS = 1_000;

/** The first signal asks to stop. A person who presses Ctrl-C again means now; a supervisor that repeats itself does not. */
function stopOnSignals(heard: readonly NodeJS.Signals[]): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const firstHeardAt = new Map<NodeJS.Signals, number>();
  const onSignal = (signal: NodeJS.Signals) => {
    const heardAt = firstHeardAt.get(signal) ?? performance.now();
    firstHeardAt.set(signal, heardAt);
    controller.abort(signal);
    if (signal !== 'SIGINT' || performance.now() - heardAt < SAME_SIGNAL_MS) return;
    process.stderr.write(`liventix ends at once: ${signal} came again\n`);
    process.exit(128 + constants.signals[signal]);
  };
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  for (const signal of heard) onSignal(signal);
  return {
    signal: controller.signal,
    release: () => {
      for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
    },
  };
}
