import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isAlive, startLocalServer } from '../../src/db/server.ts';
import type { TestServer } from './database.ts';
import { eventually } from './eventually.ts';
import { prepareServer } from './postgres.ts';
import { query } from './query.ts';

/** A server of the test's own that may crash, with the migrated template. */
export interface CrashingServer extends TestServer {
  /** Ends at once, as by a power cut: what was committed and not written to the log yet is forgotten. Comes back and recovers. */
  crash(): Promise<void>;
  stop(): Promise<void>;
}

/** Nothing but a commit that waits for the disk writes the log, so that what does not wait is surely forgotten. */
const FORGETFUL = ['wal_writer_delay=10000', 'wal_writer_flush_after=1GB', 'fsync=off', 'autovacuum=off'];

export async function startCrashingServer(settings: readonly string[] = FORGETFUL): Promise<CrashingServer> {
  const stateDir = await mkdtemp(join(tmpdir(), 'liventix-crashing-'));
  const { adminUrl, stop } = await startLocalServer({ stateDir, settings });
  const ownerUrl = await prepareServer(adminUrl);
  return {
    ownerUrl,
    adminUrl,
    crash: () => restartServer(adminUrl, { signal: 'SIGQUIT' }),
    stop: async () => {
      await stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

/** Ends a server by a signal, and starts it again as it was, by whom it was; in another environment when there is one. */
export async function restartServer(
  adminUrl: string,
  { signal, environment = process.env }: { signal: NodeJS.Signals; environment?: NodeJS.ProcessEnv },
): Promise<void> {
  const [place] = await query<{ dir: string }>(adminUrl, `select current_setting('data_directory') as dir`);
  const pid = Number((await readFile(join(place?.dir ?? '', 'postmaster.pid'), 'utf8')).split('\n')[0]);
  const [program = '', ...args] = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  const { uid, gid } = await stat(`/proc/${pid}`);
  process.kill(pid, signal);
  await eventually('the server is gone', () => !isAlive(pid));
  spawn(program, args, { uid, gid, cwd: '/', detached: true, stdio: 'ignore', env: environment }).unref();
  await eventually('the server is back', () => query(adminUrl, 'select').catch(() => undefined));
}
