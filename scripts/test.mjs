// Runs the test suite after making sure of what it needs beside npm's packages: redis-server, because half of the
// outbox's promises are about Redis; pgbouncer, because `doctor` must know a pooler when it meets one; faketime,
// because clocks jump; script, because it gives a command a terminal; bash, zsh and fish, because they read the completions; hledger and Beancount, because they must read what
// is exported for them; pg_cron, because it may see to the months; chromium, because people look at the console in a browser; pdfinfo and pdftotext, because a PDF must hold what the page holds; python3, because the checker of proofs is written for it. Root on Debian gets them installed;
// anybody else is told what to install.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [full, rest] = [process.argv.includes('--full'), process.argv.slice(2).filter((arg) => arg !== '--full')];

/** Each with the Debian package that brings it. */
const PROGRAMS = {
  'redis-server': 'redis-server',
  pgbouncer: 'pgbouncer',
  faketime: 'faketime',
  script: 'bsdutils',
  bash: 'bash',
  zsh: 'zsh',
  fish: 'fish',
  python3: 'python3',
  hledger: 'hledger',
  'bean-check': 'beancount',
  'bean-query': 'beancount',
  chromium: 'chromium',
  pdfinfo: 'poppler-utils',
  pdftotext: 'poppler-utils',
};
/** Those of poppler know no other. */
const VERSION_FLAGS = { pdfinfo: '-v', pdftotext: '-v' };
/** What is no program. pg_cron is tested on Debian's PostgreSQL 15, where that is. */
const FILES = existsSync('/usr/lib/postgresql/15/bin/postgres')
  ? { '/usr/lib/postgresql/15/lib/pg_cron.so': 'postgresql-15-cron' }
  : {};
// Debian keeps servers where an ordinary user's PATH does not look.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };
const missing = () => [
  ...Object.keys(PROGRAMS).filter(
    (name) => spawnSync(name, [VERSION_FLAGS[name] ?? '--version'], { stdio: 'ignore', env }).status !== 0,
  ),
  ...Object.keys(FILES).filter((file) => !existsSync(file)),
];
const packagesOf = (wanted) => [...new Set(wanted.map((name) => PROGRAMS[name] ?? FILES[name]))];

if (missing().length > 0 && process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
  console.error(`Installing ${missing().join(' and ')}, which the tests run …`);
  const apt = (...args) =>
    spawnSync('apt-get', args, {
      stdio: ['ignore', 2, 2],
      // No questions, and no server that the package starts on its default port.
      env: { ...env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    });
  apt('update', '-qq');
  apt('install', '-y', '-qq', '--no-install-recommends', ...packagesOf(missing()));
}
if (missing().length > 0) {
  const packages = packagesOf(missing()).join(' ');
  console.error(
    `liventix: USAGE: the tests need ${missing().join(' ')}. Install it (Debian: apt-get install ${packages}) and run again.`,
  );
  process.exit(2);
}

const vitest = fileURLToPath(new URL('../node_modules/vitest/vitest.mjs', import.meta.url));
// The pinned Node, whichever one started this script.
const runVitest = (drills, args) =>
  spawnSync(`${root}node_modules/node/bin/node`, [vitest, 'run', ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...env, LIVENTIX_DRILLS: drills },
  }).status ?? 1;

process.exitCode = runVitest(full ? 'full' : 'short', rest);
// The figures of speed last, with the machine to themselves.
if (full && rest.length === 0 && process.exitCode === 0) process.exitCode = runVitest('speed', ['--project', 'speed']);
