import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { freePort } from '../../src/db/server.ts';
import { eventually } from './eventually.ts';

export interface TestPgBouncer {
  /** The database of `databaseUrl`, through the pooler. */
  readonly url: string;
  stop(): Promise<void>;
}

export interface PgBouncerOptions {
  readonly databaseUrl: string;
  readonly poolMode: 'session' | 'transaction';
  /** Whether it lets `options` through without heeding it; out of the box it refuses the connection. */
  readonly ignoresOptions?: boolean;
}

/** A real PgBouncer of the test's own on a free port of loopback. */
export async function startPgBouncer(options: PgBouncerOptions): Promise<TestPgBouncer> {
  const server = new URL(options.databaseUrl);
  const database = server.pathname.slice(1);
  const port = await freePort();
  const dir = await mkdtemp(join(tmpdir(), 'liventix-pgbouncer-'));
  const config = join(dir, 'pgbouncer.ini');
  await writeFile(
    config,
    `[databases]
${database} = host=${server.hostname} port=${server.port} user=${server.username} password=${server.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${options.poolMode}
${options.ignoresOptions ? 'ignore_startup_parameters = options' : ''}
`,
  );
  // As root it runs only when it is told whose rights to take.
  const isRoot = process.getuid?.() === 0;
  await chmod(dir, 0o755);
  const child = spawn('pgbouncer', [...(isRoot ? ['-u', 'nobody'] : []), config], { stdio: 'ignore' });
  const closed = once(child, 'close');
  const url = Object.assign(new URL(options.databaseUrl), { host: `127.0.0.1:${port}` }).href;
  await eventually('pgbouncer answers', async () => {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    const answered = await client.connect().then(
      () => true,
      () => false,
    );
    await client.end().catch(() => undefined);
    return answered;
  });
  return {
    url,
    stop: async () => {
      child.kill('SIGKILL');
      await closed;
      await rm(dir, { recursive: true, force: true });
    },
  };
}
