import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fencesOf, type Page } from './pages.ts';

/** A block of commands of a page, and what the page says that it prints; undefined where it says nothing of it. */
export interface Step {
  readonly at: string;
  readonly commands: string;
  readonly output: string | undefined;
}

/** The `sh` blocks of a page in their order; a `text` block is the output of the one before it. */
export function stepsOf(page: Page): readonly Step[] {
  const fences = fencesOf(page);
  return fences.flatMap((fence, index) => {
    if (fence.info !== 'sh') return [];
    const next = fences[index + 1];
    const output = next?.info === 'text' ? next.lines.join('\n') : undefined;
    return [{ at: `${page.path}:${fence.firstLine}`, commands: fence.lines.join('\n'), output }];
  });
}

export interface Told {
  readonly exitCode: number | null;
  /** What each step wrote to stdout, as far as it came. */
  readonly outputs: readonly string[];
  readonly stderr: string;
}

const MARK = '@@ step @@';

/** Runs all steps in one bash, as somebody who copies them would; it ends at the first that fails. Leaves none of its processes. */
export async function runSteps(
  steps: readonly Step[],
  place: { readonly cwd: string; readonly env: Readonly<Record<string, string>> },
): Promise<Told> {
  const script = ['set -eu', ...steps.flatMap(({ commands }) => [`printf '%s\\n' '${MARK}'`, commands])].join('\n');
  const child = spawn('bash', ['-c', script], { ...place, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const closed = once(child, 'close');
  const [exitCode] = (await once(child, 'exit')) as [number | null];
  // What it left in the background holds its output open.
  endGroup(child.pid);
  await closed;
  return { exitCode, outputs: stdout.split(`${MARK}\n`).slice(1), stderr };
}

function endGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // It left nothing.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

/** What an output must match, where … stands for anything within a line. */
export function patternOf(output: string): RegExp {
  const escaped = output
    .trim()
    .split('…')
    .map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
  return new RegExp(`^${escaped.join('.*')}$`);
}

/** What was printed, as it is compared: no line ends in spaces. */
export const shown = (printed: string | undefined): string => (printed ?? '').replace(/ +$/gm, '').trim();
