import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** How a contender's worker is started. */
export interface WorkerCommand {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Every contender works in one process of the same Node. */
export interface WorkerProcess {
  readonly pid: number;
  /** At once: nobody wants anything of its database any more. */
  kill(): Promise<void>;
}

const READY = 'ready';
const KEPT_CHARS = 10_000;

/** Until it has said that it is ready. @throws what it printed, when it ended instead */
export async function startWorkerProcess({ args, env }: WorkerCommand): Promise<WorkerProcess> {
  const child = spawn(process.execPath, args, {
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], ...env },
    // The channel says nothing. When it closes, because this process is gone, the worker ends as well.
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  const closed = once(child, 'close');
  let said = '';
  let logged = '';
  const ready = new Promise<void>((resolve) => {
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      said = `${said}${chunk}`.slice(-KEPT_CHARS);
      if (said.includes(READY)) resolve();
    });
  });
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    logged = `${logged}${chunk}`.slice(-KEPT_CHARS);
  });
  const ended = closed.then(() => {
    throw new Error(`the worker ended before it was ready: ${said}${logged}`);
  });
  await Promise.race([ready, ended]);
  return {
    pid: child.pid ?? -1,
    kill: async () => {
      child.kill('SIGKILL');
      await closed;
    },
  };
}
