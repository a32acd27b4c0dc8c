import { spawn } from 'node:child_process';
import { access, constants, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { AppError } from '../errors.ts';

/** As Debian, Google and macOS name it. */
const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];
const MAX_PRINT_MS = 120_000;
const MAX_SAID = 300;
const PRIVATE = 0o600;

/**
 * Where Chromium is: what was named, or the first of its names in the folders of `path`.
 * @throws AppError REPORT_BROWSER_MISSING
 */
export async function findBrowser({
  named,
  path,
}: {
  readonly named: string | undefined;
  readonly path: string;
}): Promise<string> {
  const folders = path.split(delimiter).filter((folder) => folder !== '');
  const candidates =
    named === undefined ? NAMES.flatMap((name) => folders.map((folder) => join(folder, name))) : [named];
  for (const candidate of candidates) if (await isProgram(candidate)) return candidate;
  const where =
    named === undefined ? `none of ${NAMES.join(', ')} is in the PATH` : `${JSON.stringify(named)} is no program`;
  throw new AppError(
    'REPORT_BROWSER_MISSING',
    `A PDF is printed by Chromium, and ${where}. Install it (Debian: apt-get install chromium), give --chromium, or write --format html and print that from any browser.`,
  );
}

async function isProgram(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) return false;
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/**
 * Prints a page to PDF by a headless Chromium with a profile of its own, which is gone afterwards, and no network.
 * @param print.path where it looks for what it runs in turn
 * @throws AppError REPORT_BROWSER_FAILED; what the signal was aborted by
 */
export async function printToPdf(
  page: string,
  print: { readonly browser: string; readonly path: string; readonly signal: AbortSignal },
): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'liventix-report-'));
  try {
    const [from, to] = [join(folder, 'report.html'), join(folder, 'report.pdf')];
    await writeFile(from, page, { mode: PRIVATE });
    const said = await run(
      print.browser,
      [...FLAGS, `--user-data-dir=${join(folder, 'profile')}`, `--print-to-pdf=${to}`, pathToFileURL(from).href],
      {
        signal: print.signal,
        env: { PATH: print.path, HOME: folder, XDG_CONFIG_HOME: folder, XDG_CACHE_HOME: folder },
      },
    );
    return await readFile(to).catch(() => {
      throw failed(print.browser, said);
    });
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

const FLAGS = [
  '--headless',
  '--no-pdf-header-footer',
  '--no-first-run',
  '--no-default-browser-check',
  '--disable-gpu',
  '--disable-extensions',
  '--disable-sync',
  '--disable-background-networking',
  '--disable-component-update',
  // Whatever it would ask for: nothing has an address.
  '--host-resolver-rules=MAP * ~NOTFOUND',
  // In a container /dev/shm is often too small.
  '--disable-dev-shm-usage',
  // Root may not run Chromium's sandbox. The page is ours, its text escaped, and its policy lets no script run.
  ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
];

/** What it said, at its end. */
async function run(
  program: string,
  args: readonly string[],
  { signal, env }: { readonly signal: AbortSignal; readonly env: Readonly<Record<string, string>> },
): Promise<string> {
  signal.throwIfAborted();
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env,
    // A group of its own: its helpers end with it.
    detached: true,
  });
  const kill = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  };
  const timer = setTimeout(kill, MAX_PRINT_MS);
  signal.addEventListener('abort', kill, { once: true });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = `${said}${text}`.slice(-MAX_SAID);
  });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    }).catch((error: Error) => {
      throw failed(program, error.message, error);
    });
    signal.throwIfAborted();
    if (code !== 0) throw failed(program, code === null ? `it did not end within ${MAX_PRINT_MS / 1_000} s` : said);
    return said;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', kill);
    kill();
  }
}

const failed = (program: string, said: string, cause?: Error): AppError =>
  new AppError(
    'REPORT_BROWSER_FAILED',
    `${program} printed no PDF: ${said.replaceAll(/\s+/gu, ' ').trim() || 'it said nothing'}. Does it start by itself? Or write --format html, and print that from any browser.`,
    { cause },
  );
