import { RedisConnection } from 'bullmq';
import { Redis } from 'ioredis';
import { type Check, check, type Finding, skipped } from '../db/diagnosis.ts';
import {
  ANSWER_TIMEOUT_MS,
  addressOf,
  findRedis,
  parseInfo,
  type RedisInfo,
  type RedisServers,
} from './redis-servers.ts';

/** What REDIS_URL leads to: of a cluster, all of its masters. */
interface Asked {
  readonly servers: RedisServers;
  /** What INFO says of each, by `host:port`; undefined of one that does not answer. */
  readonly infos: ReadonlyMap<string, RedisInfo | undefined>;
}

const REDIS_CHECKS: readonly { readonly name: string; readonly look: (asked: Asked) => Finding }[] = [
  { name: 'redis', look: (asked) => worstOf(asked, judgeVersion) },
  { name: 'redis-cluster', look: judgeCluster },
  { name: 'redis-persistence', look: (asked) => worstOf(asked, judgePersistence) },
  { name: 'redis-eviction', look: (asked) => worstOf(asked, judgeEviction) },
];

/** What BullMQ stands on. Without a URL that is PostgreSQL, which has its own checks. */
export async function diagnoseRedis(redisUrl: string | undefined): Promise<readonly Check[]> {
  if (redisUrl === undefined) {
    return REDIS_CHECKS.map(({ name }) => skipped(name, 'REDIS_URL is not set: BullMQ runs on PostgreSQL'));
  }
  let asked: Asked | undefined;
  const checks: Check[] = [];
  for (const { name, look } of REDIS_CHECKS) {
    const inVain = checks.length > 0 && asked === undefined;
    checks.push(
      inVain
        ? skipped(name, 'Redis was not reached')
        : await check(name, async () => {
            asked ??= await askAll(redisUrl);
            return look(asked);
          }),
    );
  }
  return checks;
}

// INFO, because managed servers forbid CONFIG; it says all of it.
async function askAll(redisUrl: string): Promise<Asked> {
  const servers = await findRedis(redisUrl, new AbortController().signal);
  const settings = {
    lazyConnect: true,
    connectTimeout: ANSWER_TIMEOUT_MS,
    commandTimeout: ANSWER_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  };
  const clients =
    servers.kind === 'single'
      ? [new Redis(servers.url, settings)]
      : servers.masters.map(({ host, port }) => new Redis({ ...servers.access, ...settings, host, port }));
  const infos = clients.map(async (client): Promise<[string, RedisInfo | undefined]> => {
    const { host = '', port = 0 } = client.options;
    return [addressOf({ host, port }), await readInfo(client)];
  });
  return { servers, infos: new Map(await Promise.all(infos)) };
}

async function readInfo(client: Redis): Promise<RedisInfo | undefined> {
  client.on('error', () => undefined);
  try {
    return parseInfo(await client.info());
  } catch {
    // It answered a moment ago where it is alone, and where it is one of several the cluster is judged for it.
    return undefined;
  } finally {
    client.disconnect();
  }
}

const RESULTS = ['failed', 'warning', 'ok'];

/** Of one Redis what is found; of several what is worst, and where. */
function worstOf({ servers, infos }: Asked, judge: (info: RedisInfo) => Finding): Finding {
  const findings = [...infos].flatMap(([address, info]) => {
    if (info === undefined) return [];
    const finding = judge(info);
    const isNamed = servers.kind === 'cluster' && finding.result !== 'ok';
    return [isNamed ? { ...finding, found: `${address}: ${finding.found}` } : finding];
  });
  const [worst] = findings.sort((a, b) => RESULTS.indexOf(a.result) - RESULTS.indexOf(b.result));
  return worst ?? { result: 'failed', found: 'no server answers INFO', todo: 'Bring Redis back, and look again.' };
}

function judgeCluster({ servers, infos }: Asked): Finding {
  if (servers.kind === 'single') return { result: 'skipped', found: 'Redis is one server, not a cluster' };
  const away = [...infos].flatMap(([address, info]) => (info === undefined ? [address] : []));
  const lonely = servers.masters.filter(({ replicas }) => replicas === 0);
  const state = servers.info.get('cluster_state') ?? 'not known';
  const found = `${servers.masters.length} masters, cluster_state ${state}, ${servers.info.get('cluster_slots_ok')} of 16384 slots are served`;
  if (state !== 'ok' || away.length > 0) {
    return {
      result: 'failed',
      found: `${found}${away.length > 0 ? `; no answer from ${away.join(', ')}` : ''}`,
      todo: 'Bring back what is away, or let a replica take its place: redis-cli --cluster check. Nothing is lost meanwhile.',
    };
  }
  if (lonely.length > 0) {
    return {
      result: 'warning',
      found: `${found}; without a replica: ${lonely.map(addressOf).join(', ')}`,
      todo: 'Give each master a replica. Without one, what is queued there waits until it is back; nothing is lost.',
    };
  }
  return { result: 'ok', found };
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
