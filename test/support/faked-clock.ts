import { spawnSync } from 'node:child_process';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inject } from 'vitest';
import { startLocalServer } from '../../src/db/server.ts';
import { restartServer } from './crashing-server.ts';
import type { TestServer } from './database.ts';
import { POSTGRES_15, prepareServer } from './postgres.ts';

/** More than the servers of one drill leave names behind, one after the other, when they are killed. */
const ASKED_AT_MOST = 50;

/** A wall clock that may jump, for whatever runs in its environment; what counts the time that passes is the machine's. */
export interface FakedClock {
  readonly environment: Readonly<Record<string, string>>;
  /** From now on it is so far ahead of the machine's. */
  setAhead(aheadMs: number): Promise<void>;
  remove(): Promise<void>;
}

/** By libfaketime, which reads in a file how far the clock is ahead. */
export async function fakeClock(): Promise<FakedClock> {
  const dir = await mkdtemp(join(tmpdir(), 'liventix-clock-'));
  // Whose server it is reads it too.
  await chmod(dir, 0o755);
  const file = join(dir, 'ahead');
  const setAhead = async (aheadMs: number) => {
    await writeFile(`${file}.new`, `${aheadMs < 0 ? '' : '+'}${aheadMs / 1_000}\n`);
    await rename(`${file}.new`, file);
  };
  await setAhead(0);
  return {
    environment: {
      LD_PRELOAD: preloaded(),
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
    setAhead,
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

/**
 * Where the library is, as its own command has it. The command names what it shares after its process id, and refuses a
 * name that a process left which was killed, so that it is run again, under another id.
 */
function preloaded(): string {
  const complaints = new Set<string>();
  for (let run = 0; run < ASKED_AT_MOST; run++) {
    const { stdout, stderr, error } = spawnSync('faketime', ['-f', '+0', 'printenv', 'LD_PRELOAD'], {
      encoding: 'utf8',
    });
    if (stdout?.includes('libfaketime')) return stdout.trim();
    complaints.add(error?.message ?? stderr.trim());
  }
  throw new Error(`faketime does not say where its library is: ${[...complaints].join('; ')}`);
}

export interface ServerOfItsOwnClock extends TestServer {
  readonly clock: FakedClock;
  stop(): Promise<void>;
}

/** A server of the test's own, of the project's version, whose clock may jump. */
export async function startServerOfItsOwnClock(): Promise<ServerOfItsOwnClock> {
  const stateDir = await mkdtemp(join(tmpdir(), 'liventix-jumping-'));
  const clock = await fakeClock();
  const { adminUrl, stop } = await startLocalServer({
    stateDir,
    settings: ['fsync=off'],
    ...(inject('postgresMajor') === 15 ? { binDir: POSTGRES_15 } : {}),
  });
  const stopAll = async () => {
    await stop();
    await clock.remove();
    await rm(stateDir, { recursive: true, force: true });
  };
  try {
    await restartServer(adminUrl, { signal: 'SIGINT', environment: { LC_ALL: 'C', TZ: 'UTC', ...clock.environment } });
    return { ownerUrl: await prepareServer(adminUrl), adminUrl, clock, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}
