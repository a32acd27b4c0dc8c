import { Cluster, Redis, type RedisOptions } from 'ioredis';
import { redisUrls } from '../config.ts';
import { AppError } from '../errors.ts';
import { inTime } from './deadline.ts';

/** One Redis, or a Redis Cluster, as it was found behind REDIS_URL. */
export type RedisServers =
  | { readonly kind: 'single'; readonly url: string }
  | {
      readonly kind: 'cluster';
      /** Where a client may begin: those that were named, and those that they know. */
      readonly nodes: readonly RedisNode[];
      readonly masters: readonly RedisMaster[];
      /** What the node that answered first says of the whole. */
      readonly info: RedisInfo;
      /** What is the same for every node. */
      readonly access: Pick<RedisOptions, 'username' | 'password' | 'tls' | 'family'>;
    };

export interface RedisNode {
  readonly host: string;
  readonly port: number;
}

interface RedisMaster extends RedisNode {
  /** How many are ready to take its place. */
  readonly replicas: number;
}

/** What INFO or CLUSTER INFO says, by name. */
export type RedisInfo = ReadonlyMap<string, string>;

interface ClientSettings {
  /** Whether commands wait for ever for a server that is away, as BullMQ's workers need it; else they fail soon. */
  readonly isPatient: boolean;
  /** After how many milliseconds it tries once more to connect; null ends it. */
  readonly retryStrategy: (times: number) => number | null;
  readonly timeouts: Pick<RedisOptions, 'connectTimeout' | 'commandTimeout' | 'socketTimeout' | 'disconnectTimeout'>;
}

const DEFAULT_REDIS_PORT = 6379;
export const ANSWER_TIMEOUT_MS = 5_000;
/**
 * How often a cluster may send a command elsewhere, or put it off by 100 ms, before whoever is not patient is told: a relay that waited
 * longer would be taken for gone.
 */
const MAX_REDIRECTIONS = 4;

/**
 * Asks all servers that REDIS_URL names at once, and believes the first that answers: of a cluster, some may be down.
 * @throws AppError QUEUE_UNREACHABLE
 */
export async function findRedis(redisUrl: string, signal: AbortSignal): Promise<RedisServers> {
  const urls = redisUrls(redisUrl);
  const probes = urls.map(openProbe);
  try {
    const found = Promise.any(probes.map((probe) => probe.ask({ isAlone: urls.length === 1 })));
    const servers = await inTime(found, { ms: ANSWER_TIMEOUT_MS, signal });
    if (servers.kind === 'single') return servers;
    return { ...servers, nodes: withoutDuplicates([...probes.map(({ node }) => node), ...servers.nodes]) };
  } catch (error) {
    throw queueUnreachable(redisUrl, error);
  } finally {
    for (const probe of probes) probe.end();
  }
}

/** A client that is not connected yet. */
export function redisClient(servers: RedisServers, settings: ClientSettings): Redis | Cluster {
  const { isPatient, retryStrategy } = settings;
  const options = { ...settings.timeouts, maxRetriesPerRequest: isPatient ? null : 1 };
  if (servers.kind === 'single') return new Redis(servers.url, { ...options, retryStrategy, lazyConnect: true });
  const cluster = new Cluster([...servers.nodes], {
    lazyConnect: true,
    clusterRetryStrategy: retryStrategy,
    // One that waited for the cluster to be up would never say what came of connecting while it is down, and BullMQ wait for ever for that.
    enableReadyCheck: false,
    ...(isPatient ? {} : { enableOfflineQueue: false, maxRedirections: MAX_REDIRECTIONS }),
    // Names are left to the socket: one that does not resolve would keep all others from being tried, and a certificate bears names.
    dnsLookup: (name, found) => found(null, name),
    redisOptions: { ...servers.access, ...options },
  });
  return keepStatus(cluster);
}

/**
 * A cluster's client is told that it has no connection left once for each that ends at its end, and each time says that it closes: after
 * it said that it tries again, or ended, nobody would believe that any more, and BullMQ wait for ever for what was over.
 */
function keepStatus(cluster: Cluster): Cluster {
  let wentOnTo: 'reconnecting' | 'end' | undefined;
  cluster.on('connecting', () => {
    wentOnTo = undefined;
  });
  for (const status of ['reconnecting', 'end'] as const) {
    cluster.on(status, () => {
      wentOnTo = status;
    });
  }
  cluster.on('close', () => {
    if (cluster.status === 'close' && wentOnTo !== undefined) cluster.status = wentOnTo;
  });
  const duplicate = cluster.duplicate.bind(cluster);
  cluster.duplicate = (...args) => keepStatus(duplicate(...args));
  return cluster;
}

/** One sentence that names the servers, and never a password. */
export function queueUnreachable(redisUrl: string, cause: unknown): AppError {
  const servers = redisUrls(redisUrl).map((url) => {
    const { hostname: host, port } = new URL(url);
    return addressOf({ host, port: Number(port) || DEFAULT_REDIS_PORT });
  });
  return new AppError(
    'QUEUE_UNREACHABLE',
    `Redis at ${servers.join(', ')} cannot be used (${reasonOf(cause)}): check that it runs and that REDIS_URL names its host, port, user, password and database, or unset REDIS_URL to queue in PostgreSQL.`,
    { cause },
  );
}

export function parseInfo(text: string): RedisInfo {
  const lines = text.split('\r\n').filter((line) => line.includes(':'));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]));
}

function openProbe(url: string) {
  const client = new Redis(url, {
    lazyConnect: true,
    connectTimeout: ANSWER_TIMEOUT_MS,
    socketTimeout: ANSWER_TIMEOUT_MS,
    retryStrategy: () => null,
  });
  let connectionError: Error | undefined;
  client.on('error', (error) => {
    connectionError = error;
  });
  const { host = '', port = DEFAULT_REDIS_PORT } = client.options;
  return {
    node: { host, port },
    ask: async (named: { isAlone: boolean }): Promise<RedisServers> => {
      try {
        await client.connect();
        return await askServer(client, url, named);
      } catch (error) {
        // A command says only that the connection was closed; the connection said why.
        throw client.status === 'ready' ? error : (connectionError ?? error);
      }
    },
    end: () => client.disconnect(),
  };
}

async function askServer(client: Redis, url: string, { isAlone }: { isAlone: boolean }): Promise<RedisServers> {
  const { db = 0, username, password, tls, family } = client.options;
  const isCluster = parseInfo(await client.info('cluster')).get('cluster_enabled') === '1';
  if (isCluster && db !== 0) throw new Error('it is a Redis Cluster, which has no database but 0');
  if (!isCluster && !isAlone) throw new Error('REDIS_URL names several servers, and this one is of no Redis Cluster');
  if (!isCluster) {
    // A client whose database does not exist goes on with database 0, and says nothing.
    if (db !== 0) await client.select(db);
    return { kind: 'single', url };
  }
  const info = parseInfo(`${await client.cluster('INFO')}`);
  return { kind: 'cluster', info, access: { username, password, tls, family }, ...(await readNodes(client)) };
}

async function readNodes(client: Redis): Promise<{ nodes: RedisNode[]; masters: RedisMaster[] }> {
  const ranges = (await client.cluster('SLOTS')) as unknown as [number, number, ...[string, number, string][]][];
  // A node that does not know its own address is at the one by which it was reached.
  const toNode = ([host, port]: [string, number, string]) => ({ host: host || client.options.host || '', port });
  const served = ranges.map(([, , ...nodes]) => nodes.map(toNode));
  return {
    nodes: withoutDuplicates(served.flat()),
    masters: withoutDuplicates(
      served.flatMap(([master, ...replicas]) => (master ? [{ ...master, replicas: replicas.length }] : [])),
    ),
  };
}

export const addressOf = ({ host, port }: RedisNode): string => `${host}:${port}`;

function withoutDuplicates<Node extends RedisNode>(nodes: readonly Node[]): Node[] {
  return [...new Map(nodes.map((node) => [addressOf(node), node])).values()];
}

// A name with several addresses fails with an error whose message is empty, and so do several servers.
function reasonOf(cause: unknown): string {
  if (cause instanceof AggregateError) return reasonOf(cause.errors[0]);
  const text = cause instanceof Error ? cause.message : String(cause);
  return text.replace(/\s+/g, ' ').replace(/[\s.]+$/, '');
}
