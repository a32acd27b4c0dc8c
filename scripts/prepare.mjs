// Makes a bare checkout ready: installs the locked dependencies when they are missing or older than the lockfile.
// Plain JavaScript without imports from node_modules, because it runs before there are any.
import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const at = (path) => `${root}${path}`;
const installed = at('node_modules/.package-lock.json');

const oldest = [20, 18];
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
  console.error(`liventix: USAGE: Node ${process.versions.node} is too old; ${oldest.join('.')} or newer is needed.`);
  process.exit(2);
}

const isReady =
  existsSync(at('node_modules/node/bin/node')) &&
  existsSync(installed) &&
  statSync(installed).mtimeMs >= statSync(at('package-lock.json')).mtimeMs;

if (!isReady) {
  console.error('Installing the locked dependencies …');
  // Output goes to stderr, so that `--json` keeps stdout to itself.
  const install = spawnSync('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (install.status !== 0) {
    console.error('liventix: USAGE: npm ci failed; what it printed above says why. Correct that and run again.');
    process.exit(3);
  }
}
