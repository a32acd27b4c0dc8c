import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startLocalServer, stopLocalServer } from '../../src/db/server.ts';

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
    expect(await ask(server.adminUrl, 'select count(*)::int as n from pg_database')).toEqual([{ n: 3 }]);
    await server.stop();
    await server.stop();
    await expect(ask(server.adminUrl, 'select 1')).rejects.toThrow(/ECONNREFUSED/);
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
    await ask(orphanUrl, 'create table left_behind (id int)');
    child.kill('SIGKILL');
    await once(child, 'close');
    expect(await ask(orphanUrl, 'select 1 as alive')).toEqual([{ alive: 1 }]);

    const server = await startLocalServer({ stateDir });
    await expect(ask(orphanUrl, 'select 1')).rejects.toThrow();
    await expect(ask(server.adminUrl, 'select 1 from left_behind')).rejects.toThrow(/does not exist/);
    await server.stop();
  });
});

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}
