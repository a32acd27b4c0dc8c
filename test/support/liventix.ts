import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { runCommand } from '../../src/cli/main.ts';
import { eventually } from './eventually.ts';

const BIN = fileURLToPath(new URL('../../bin/liventix', import.meta.url));

/** What every command of a test finds in its environment, unless the test says otherwise. */
export const TEST_ENCRYPTION_KEY = Buffer.alloc(32, 'liventix').toString('base64');

export interface Run {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningLiventix {
  readonly pid: number;
  readonly done: Promise<Run>;
  /** At its end already, unless `stdin` is asked for. */
  readonly stdin: Writable;
  /** Read already, unless `unread` is asked for. */
  readonly stdout: Readable;
  kill(signal: NodeJS.Signals): void;
  /** Ctrl-C, of a command that sleeps: resolves when it has heard, and sleeps again. Else what it waits for could come first. */
  interrupt(): Promise<void>;
}

export interface LiventixOptions {
  /** The folder to run in; this process's when left out. */
  readonly cwd?: string;
  /** The launcher of another checkout. */
  readonly bin?: string;
  /** Leaves what is piped into the command to whoever writes `stdin`. */
  readonly stdin?: boolean;
  /** Leaves what it prints to whoever reads `stdout`. */
  readonly unread?: boolean;
  /** On a terminal, where stdout and stderr are one, and what is written to `stdin` is typed. */
  readonly terminal?: boolean;
}

/** Starts the command line as a user would, with nothing of this process's environment but PATH and HOME, and the tests' key. */
export function startLiventix(
  args: readonly string[],
  env: Record<string, string> = {},
  options: LiventixOptions = {},
): RunningLiventix {
  const { bin = BIN, terminal = false, stdin = terminal, unread = false, ...place } = options;
  const command = [process.execPath, bin, ...args];
  const [program = '', ...rest] = terminal ? onTerminal(command) : command;
  const child = spawn(program, rest, {
    ...place,
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      OUTBOX_ENCRYPTION_KEY: TEST_ENCRYPTION_KEY,
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  if (!stdin) child.stdin.end();
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8');
  if (!unread) {
    child.stdout.on('data', (chunk: string) => {
      stdout += chunk;
    });
  }
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  return {
    pid: child.pid ?? -1,
    stdin: child.stdin,
    stdout: child.stdout,
    done: once(child, 'close').then(([exitCode]) => ({ exitCode: exitCode as number | null, stdout, stderr })),
    kill: (signal) => child.kill(signal),
    interrupt: async () => {
      const before = timesAsleep(child.pid);
      child.kill('SIGINT');
      await eventually('it has heard', () => timesAsleep(child.pid) > before);
    },
  };
}

/** How often a process has gone to sleep, of its own accord. */
const timesAsleep = (pid = -1): number =>
  Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);

/** By util-linux, which gives it one of its own. */
function onTerminal(command: readonly string[]): readonly string[] {
  const quoted = command.map((word) => `'${word.replaceAll("'", "'\\''")}'`);
  return ['script', '--quiet', '--return', '--command', `exec ${quoted.join(' ')}`, '/dev/null'];
}

/**
 * Runs a command to its end in this process, which costs a tenth of one of its own. What is of the process (signals,
 * stdin, a working directory, what the environment sets for Node and its libraries) wants `startLiventix`.
 */
export async function liventix(
  args: readonly string[],
  env: Record<string, string> = {},
  stop = new AbortController().signal,
): Promise<Run> {
  let stdout = '';
  let stderr = '';
  const exitCode = await runCommand(args, {
    env: { OUTBOX_ENCRYPTION_KEY: TEST_ENCRYPTION_KEY, ...env },
    out: {
      write: (text) => {
        stdout += text;
      },
    },
    err: {
      write: (text) => {
        stderr += text;
      },
    },
    stop,
  });
  return { exitCode, stdout, stderr };
}
