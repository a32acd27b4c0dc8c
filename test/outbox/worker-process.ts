import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { TEST_ENCRYPTION_KEY } from '../support/liventix.ts';

const BIN = fileURLToPath(new URL('../../bin/liventix', import.meta.url));

export interface WorkerProcess {
  readonly pid: number;
  /** The lines that its log consists of so far. */
  log(): readonly { readonly msg: string; readonly err?: { readonly message: string } }[];
  stderr(): string;
  kill(signal: NodeJS.Signals): void;
  readonly exitCode: Promise<number | null>;
}

/** `liventix worker` as a process of its own, whose log can be read while it runs; it seals nothing unless told to. */
export function startWorkerProcess(flags: readonly string[], env: Record<string, string>): WorkerProcess {
  const child = spawn(process.execPath, [BIN, 'worker', ...flags], {
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      OUTBOX_ENCRYPTION_KEY: TEST_ENCRYPTION_KEY,
      LIVENTIX_SEAL_INTERVAL_S: '0',
      ...env,
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  return {
    pid: child.pid ?? -1,
    stderr: () => stderr,
    log: () =>
      stderr
        .split('\n')
        .slice(0, -1)
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line)),
    kill: (signal) => child.kill(signal),
    exitCode: once(child, 'close').then(([code]) => code as number | null),
  };
}
