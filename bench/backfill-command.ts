import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const MEMORY_SAMPLE_MS = 100;

interface RunResult {
  readonly seconds: number;
  readonly finished: boolean;
  readonly imported: number;
  readonly walletsDiffering?: number;
  readonly walletsChanging?: number;
}

export interface BackfillCommand {
  readonly result: Promise<RunResult & { readonly peakRssMb: number }>;
  /** As Ctrl-C does: it ends after the chunk under way. */
  stop(): void;
}

/** The command as a user runs it, in a process of its own, so that its memory is its own too. */
export function startBackfill(databaseUrl: string, ...flags: string[]): BackfillCommand {
  const bin = fileURLToPath(new URL('../bin/liventix', import.meta.url));
  const child = spawn(process.execPath, [bin, 'backfill', 'run', '--json', ...flags], {
    env: { ...process.env, DATABASE_URL: databaseUrl },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let peakRssMb = 0;
  const timer = setInterval(() => {
    peakRssMb = Math.max(peakRssMb, peakMemoryMb(child.pid));
  }, MEMORY_SAMPLE_MS);
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  const result = once(child, 'close').then(() => {
    clearInterval(timer);
    return { ...(JSON.parse(stdout) as RunResult), peakRssMb };
  });
  return { result, stop: () => child.kill('SIGTERM') };
}

/** Runs it to the end. Throws where the books do not equal the old tables after it. */
export async function runToTheEnd(databaseUrl: string, ...flags: string[]) {
  const result = await startBackfill(databaseUrl, ...flags).result;
  if (!result.finished || result.walletsDiffering !== 0) {
    throw new Error(`the backfill did not hold: ${JSON.stringify(result)}`);
  }
  return result;
}

/** The kernel's own high-water mark of a process; 0 where there is no /proc. */
function peakMemoryMb(pid: number | undefined): number {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return Number(line?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}
