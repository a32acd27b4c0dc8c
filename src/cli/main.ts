import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { loadConfig } from '../config.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { registerBackfill } from './backfill.ts';
import { registerBooks } from './books.ts';
import type { CommandContext } from './context.ts';
import { registerDemo } from './demo.ts';
import { registerDoctor } from './doctor.ts';
import { registerMigrate } from './migrate.ts';
import { registerOutbox } from './outbox.ts';
import { errorLine } from './output.ts';
import { registerWorker } from './worker.ts';

const EXIT_CODES = 'Exit codes: 0 holds or done, 1 does not hold, 2 wrong usage, 3 could not find out.';

/**
 * The composition root: the only place that reads the environment, listens to signals and decides the exit code.
 * @param args what follows the program's name
 */
export async function main(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  // Whoever reads the output may stop reading (`| head`): that ends the command, quietly.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCode);
    throw error;
  });
  process.on('uncaughtException', (error) => process.exit(reportFailure(error)));
  const stop = stopOnSignals();
  try {
    const context: CommandContext = {
      config: loadConfig(process.env),
      out: process.stdout,
      err: process.stderr,
      stop: stop.signal,
      exitWith: (code) => {
        exitCode = code;
      },
    };
    await buildProgram(context).parseAsync(args as string[], { from: 'user' });
    return exitCode;
  } catch (error) {
    return reportFailure(error);
  } finally {
    stop.release();
  }
}

function buildProgram(context: CommandContext): Command {
  const program = new Command('liventix')
    .description(
      'An event-sourced double-entry ledger, its replay from legacy wallets, and an outbox that loses nothing.',
    )
    .version(packageVersion(), '--version')
    .helpOption('--help', 'show this help')
    .addHelpText('after', `\n${EXIT_CODES}`)
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  for (const register of COMMANDS) register(program, context);
  inheritSettings(program);
  refuseUnknownSubcommands(program);
  return program;
}

const COMMANDS: readonly ((program: Command, context: CommandContext) => void)[] = [
  registerDemo,
  registerMigrate,
  registerBackfill,
  registerBooks,
  registerOutbox,
  registerWorker,
  registerDoctor,
];

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

function reportFailure(error: unknown): number {
  if (error instanceof CommanderError) {
    // --help and --version end here too, with exit code 0 and their text already written.
    if (error.exitCode === 0) return 0;
    const usage = new AppError('USAGE', `${usageMessage(error)} See: liventix --help`);
    process.stderr.write(errorLine(usage));
    return usage.exitCode;
  }
  const failure = toAppError(error);
  process.stderr.write(errorLine(failure));
  if (failure.code === 'INTERNAL' && process.env['LOG_LEVEL'] === 'debug' && error instanceof Error) {
    process.stderr.write(`${error.stack ?? ''}\n`);
  }
  return failure.exitCode;
}

function usageMessage(error: CommanderError): string {
  const text = error.message
    .replace(/^error: /, '')
    .replace(/\s+/g, ' ')
    .trim();
  const sentence = error.code === 'commander.help' ? 'which command?' : text;
  return /[.?!)]$/.test(sentence) ? sentence : `${sentence}.`;
}

function stopOnSignals(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    // The second Ctrl-C means: now.
    if (controller.signal.aborted) process.exit(signal === 'SIGINT' ? 130 : 143);
    controller.abort(signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return {
    signal: controller.signal,
    release: () => process.off('SIGINT', onSignal).off('SIGTERM', onSignal),
  };
}

function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
