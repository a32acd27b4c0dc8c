// Runs the test suite after making sure of what it needs beside npm's packages: a redis-server, because half of the
// outbox's promises are about Redis. Root on Debian gets it installed; anybody else is told what to install.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [full, rest] = [process.argv.includes('--full'), process.argv.slice(2).filter((arg) => arg !== '--full')];

const succeeds = (command, args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

if (!succeeds('redis-server', ['--version'])) {
  if (process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
    console.error('Installing redis-server, which the tests start …');
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    spawnSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 2, 2], env });
    // Without recommends, and without letting the package start a server of its own on the default port.
    spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'redis-server'], {
      stdio: ['ignore', 2, 2],
      env: { ...env, RUNLEVEL: '1' },
    });
  }
  if (!succeeds('redis-server', ['--version'])) {
    console.error(
      'liventix: USAGE: the tests need redis-server. Install it (Debian: apt-get install redis-server) and run again.',
    );
    process.exit(2);
  }
}

const vitest = fileURLToPath(new URL('../node_modules/vitest/vitest.mjs', import.meta.url));
const run = spawnSync(process.execPath, [vitest, 'run', ...rest], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, LIVENTIX_DRILLS: full ? 'full' : 'short' },
});
process.exit(run.status ?? 1);
