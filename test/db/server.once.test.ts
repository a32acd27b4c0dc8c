import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startLocalServer, stopLocalServer } from '../../src/db/server.ts';
import { query } from '../support/query.ts';

const isRoot = process.getuid?.() === 0;

let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'liventix-server-'));
});
afterEach(async () => {
  await stopLocalServer(stateDir);
  await rm(stateDir, { recursive: true, force: true });
});

describe('the embedded server', () => {
  it('starts empty in a folder that only its owner may enter, and stops twice', async () => {
    const server = await startLocalServer({ stateDir });
    expect(await query(server.adminUrl, 'select count(*)::int as n from pg_database')).toEqual([{ n: 3 }]);
    await server.stop();
    await server.stop();
    await expect(query(server.adminUrl, 'select 1')).rejects.toThrow(/ECONNREFUSED/);
  });

  it('recovers what a killed run left: the orphan is stopped, its lock and data are gone', async () => {
    const module = fileURLToPath(new URL('../../src/db/server.ts', import.meta.url));
    const script = `const { startLocalServer } = await import(${JSON.stringify(module)});
      const server = await startLocalServer({ stateDir: ${JSON.stringify(stateDir)} });
      console.log(server.adminUrl); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string];
    const orphanUrl = line.trim();
    await query(orphanUrl, 'create table left_behind (id int)');
    child.kill('SIGKILL');
    await once(child, 'close');
    expect(await query(orphanUrl, 'select 1 as alive')).toEqual([{ alive: 1 }]);
    const orphanData = await dataDirOf(orphanUrl);

    const server = await startLocalServer({ stateDir });
    await expect(query(orphanUrl, 'select 1')).rejects.toThrow();
    await expect(query(server.adminUrl, 'select 1 from left_behind')).rejects.toThrow(/does not exist/);
    if (isRoot) expect(existsSync(orphanData)).toBe(false);
    await server.stop();
  });

  it.each(['initdb', 'postgres'])('is EMBEDDED_POSTGRES_FAILED when %s cannot be run', async (broken) => {
    const binDir = join(stateDir, 'native', 'bin');
    await mkdir(binDir, { recursive: true });
    for (const program of ['initdb', 'postgres']) {
      const interpreter = program === broken ? '/no/such/interpreter' : '/bin/sh';
      await writeFile(join(binDir, program), `#!${interpreter}\nexit 0\n`, { mode: 0o755 });
    }
    await expect(startLocalServer({ stateDir, binDir })).rejects.toMatchObject({
      code: 'EMBEDDED_POSTGRES_FAILED',
      message: expect.stringMatching(new RegExp(`^${broken} cannot be run: .*ENOENT`)),
    });
  });

  it('removes nothing but a home of its own, whatever its record names', async () => {
    const precious = await mkdtemp(join(tmpdir(), 'liventix-precious-'));
    await writeFile(join(stateDir, 'server.json'), JSON.stringify({ away: precious }));
    expect(await stopLocalServer(stateDir)).toBe(false);
    expect(existsSync(precious)).toBe(true);
    await rm(precious, { recursive: true });
  });
});

// As root it runs under another account, which may not enter the folder that mkdtemp makes.
describe.runIf(isRoot)('the home of a server that may not enter its folder', () => {
  it('is of a new name at each start, made by root, and gone after the next start and after the stop', async () => {
    const first = await startLocalServer({ stateDir });
    const firstHome = dirname(await dataDirOf(first.adminUrl));
    expect(firstHome).toMatch(/^\/var\/tmp\/liventix-[0-9a-f]{32}$/);
    expect(await stat(firstHome)).toMatchObject({ uid: 0, mode: 0o40755 });

    const second = await startLocalServer({ stateDir });
    const secondHome = dirname(await dataDirOf(second.adminUrl));
    expect(secondHome).not.toBe(firstHome);
    expect(existsSync(firstHome)).toBe(false);
    await second.stop();
    expect(existsSync(secondHome)).toBe(false);
  });
});

async function dataDirOf(url: string): Promise<string> {
  const [row] = await query<{ data_directory: string }>(url, 'show data_directory');
  return row?.data_directory ?? '';
}
