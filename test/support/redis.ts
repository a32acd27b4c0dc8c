import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from '../../src/db/server.ts';
import { eventually } from './eventually.ts';

export interface TestRedis {
  readonly url: string;
  readonly port: number;
  readonly client: Redis;
  flush(): Promise<void>;
  stop(): Promise<void>;
}

export interface RedisServer {
  readonly url: string;
  readonly client: Redis;
  /** As if its machine lost its power; what it has on disk stays. */
  kill(): Promise<void>;
  /** Answers nobody until it is thawed, and keeps every connection. */
  freeze(): void;
  thaw(): void;
}

/** A redis-server on loopback with the given flags, of which nothing is kept that they do not ask for. */
export async function startRedisServer(port: number, dir: string, flags: readonly string[] = []): Promise<RedisServer> {
  const child = spawn(
    'redis-server',
    ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', dir, '--save', '', '--appendonly', 'no', ...flags],
    { stdio: 'ignore' },
  );
  const closed = once(child, 'close');
  const ended = closed.then(() => {
    throw new Error(`redis-server on port ${port} ended: is one of its ports taken?`);
  });
  const url = `redis://127.0.0.1:${port}`;
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => 50, maxRetriesPerRequest: null });
  client.on('error', () => undefined);
  const answers = eventually('redis-server answers', async () => (await client.ping()) === 'PONG');
  await Promise.race([answers, ended]).catch((error: unknown) => {
    client.disconnect();
    throw error;
  });
  ended.catch(() => undefined);
  return {
    url,
    client,
    kill: async () => {
      client.disconnect();
      child.kill('SIGKILL');
      await closed;
    },
    freeze: () => child.kill('SIGSTOP'),
    thaw: () => child.kill('SIGCONT'),
  };
}

/** A real redis-server of the test's own on a free port of loopback, with nothing kept on disk. */
export async function startRedis(options: { port?: number } = {}): Promise<TestRedis> {
  const dir = await mkdtemp(join(tmpdir(), 'liventix-redis-'));
  const port = options.port ?? (await freePort());
  const { url, client, kill } = await startRedisServer(port, dir);
  return {
    url,
    port,
    client,
    flush: async () => {
      await client.flushall();
    },
    stop: async () => {
      await kill();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
