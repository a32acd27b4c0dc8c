import { RedisConnection } from 'bullmq';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { type Check, check, type Finding, skipped } from '../db/diagnosis.ts';
import { createPool } from '../db/pool.ts';
import { trackSockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { startListener } from './listener.ts';
import { createOutageLog } from './outage-log.ts';
import { assertDatabaseExists, queueUnreachable } from './redis-backend.ts';

const REDIS_TIMEOUT_MS = 5_000;

/** The database was reached before: these say that notifications do not arrive, not that nobody could find out. */
const ANSWERS: ReadonlySet<string> = new Set(['LISTEN_UNAVAILABLE', 'DB_FAILED', 'DB_POOLER_UNSUITABLE']);

/** Listens as the relay does, and is notified over another connection. */
export function diagnoseListening(databaseUrl: string): Promise<Check> {
  return check('notifications', async () => {
    const db = createPool({ databaseUrl, max: 1 });
    const sockets = trackSockets();
    try {
      const listener = await startListener({
        databaseUrl,
        db,
        sockets,
        outage: createOutageLog({ log: pino({ level: 'silent' }), server: 'PostgreSQL' }),
        onWake: () => undefined,
        onChange: () => undefined,
      });
      await listener.close();
      return { result: 'ok', found: 'a NOTIFY of another connection arrived' };
    } catch (error) {
      const failure = toAppError(error);
      if (!ANSWERS.has(failure.code)) throw failure;
      return {
        result: 'failed',
        found: `${failure.code}: ${failure.message}`,
        todo: 'The worker needs LISTEN: point DATABASE_URL at the server itself, or at a session pooler.',
      };
    } finally {
      await db.end();
      sockets.destroyAll();
    }
  });
}

type RedisInfo = ReadonlyMap<string, string>;

const REDIS_CHECKS: readonly { readonly name: string; readonly look: (info: RedisInfo) => Finding }[] = [
  { name: 'redis', look: judgeVersion },
  { name: 'redis-persistence', look: judgePersistence },
  { name: 'redis-eviction', look: judgeEviction },
];

/** What BullMQ stands on. Without a URL that is PostgreSQL, which has its own checks. */
export async function diagnoseRedis(redisUrl: string | undefined): Promise<readonly Check[]> {
  if (redisUrl === undefined) {
    return REDIS_CHECKS.map(({ name }) => skipped(name, 'REDIS_URL is not set: BullMQ runs on PostgreSQL'));
  }
  let info: RedisInfo | undefined;
  const checks: Check[] = [];
  for (const { name, look } of REDIS_CHECKS) {
    const inVain = checks.length > 0 && info === undefined;
    checks.push(
      inVain
        ? skipped(name, 'Redis was not reached')
        : await check(name, async () => {
            info ??= await readInfo(redisUrl);
            return look(info);
          }),
    );
  }
  return checks;
}

// INFO, because managed servers forbid CONFIG; it says all of it.
async function readInfo(redisUrl: string): Promise<RedisInfo> {
  const client = new Redis(redisUrl, {
    lazyConnect: true,
    connectTimeout: REDIS_TIMEOUT_MS,
    commandTimeout: REDIS_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  let connectionError: Error | undefined;
  client.on('error', (error: Error) => {
    connectionError = error;
  });
  try {
    await client.connect();
    await assertDatabaseExists(client);
    const lines = (await client.info()).split('\r\n');
    return new Map(lines.filter((line) => line.includes(':')).map((line) => splitOnce(line, ':')));
  } catch (error) {
    throw queueUnreachable(redisUrl, connectionError ?? error);
  } finally {
    client.disconnect();
  }
}

function splitOnce(line: string, separator: string): [string, string] {
  const at = line.indexOf(separator);
  return [line.slice(0, at), line.slice(at + separator.length)];
}

function judgeVersion(info: RedisInfo): Finding {
  const version = info.get('redis_version') ?? 'of an unknown version';
  const { minimumVersion, recommendedMinimumVersion: recommended } = RedisConnection;
  if (isOlder(version, minimumVersion)) {
    return { result: 'failed', found: `Redis ${version}`, todo: `BullMQ needs ${minimumVersion}: upgrade it.` };
  }
  if (isOlder(version, recommended)) {
    return {
      result: 'warning',
      found: `Redis ${version}`,
      todo: `BullMQ recommends ${recommended} or newer: upgrade it.`,
    };
  }
  return { result: 'ok', found: `Redis ${version}` };
}

function isOlder(version: string, than: string): boolean {
  return version.localeCompare(than, 'en', { numeric: true }) < 0;
}

function judgePersistence(info: RedisInfo): Finding {
  if (info.get('aof_enabled') === '1') return { result: 'ok', found: 'appendonly yes' };
  return {
    result: 'warning',
    found: 'appendonly no: a restart forgets the jobs, and each is delivered only after its lease is found lost',
    todo: 'Set appendonly yes. Nothing is lost without it: the messages are in PostgreSQL.',
  };
}

function judgeEviction(info: RedisInfo): Finding {
  const policy = info.get('maxmemory_policy') ?? 'not known';
  if (policy === 'noeviction') return { result: 'ok', found: 'maxmemory-policy noeviction' };
  return {
    result: 'warning',
    found: `maxmemory-policy ${policy}: when memory is short Redis drops jobs, and with them the queue's own bookkeeping`,
    todo: 'Set maxmemory-policy noeviction.',
  };
}
