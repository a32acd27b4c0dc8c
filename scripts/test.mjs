// Runs the test suite after making sure of what it needs beside npm's packages: redis-server, because half of the
// outbox's promises are about Redis, and pgbouncer, because `doctor` must know a pooler when it meets one. Root on
// Debian gets them installed; anybody else is told what to install.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [full, rest] = [process.argv.includes('--full'), process.argv.slice(2).filter((arg) => arg !== '--full')];

const PROGRAMS = ['redis-server', 'pgbouncer'];
// Debian keeps servers where an ordinary user's PATH does not look.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };
const missing = () => PROGRAMS.filter((name) => spawnSync(name, ['--version'], { stdio: 'ignore', env }).status !== 0);

if (missing().length > 0 && process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
  console.error(`Installing ${missing().join(' and ')}, which the tests start …`);
  const apt = (...args) =>
    spawnSync('apt-get', args, {
      stdio: ['ignore', 2, 2],
      // No questions, and no server that the package starts on its default port.
      env: { ...env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    });
  apt('update', '-qq');
  apt('install', '-y', '-qq', '--no-install-recommends', ...missing());
}
if (missing().length > 0) {
  const names = missing().join(' ');
  console.error(
    `liventix: USAGE: the tests need ${names}. Install it (Debian: apt-get install ${names}) and run again.`,
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
