import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Redis } from 'ioredis';
import { freePort } from '../../src/db/server.ts';
import type { TestCertificates } from './certificates.ts';
import { eventually } from './eventually.ts';
import { type RedisServer, startRedisServer } from './redis.ts';

export interface TestClusterNode extends RedisServer {
  readonly port: number;
  /** Where it takes TLS, if it does. */
  readonly tlsPort: number;
  /** Again, with what it knew of the cluster, and without data. */
  start(): Promise<void>;
}

export interface TestRedisCluster {
  /** Of all nodes, as REDIS_URL names them. */
  readonly url: string;
  readonly masters: readonly TestClusterNode[];
  /** The master with the only keys there are: a queue's. */
  holder(): Promise<TestClusterNode>;
  /** Until every node that runs says that the cluster answers, and takes the same one for the master of each slot. */
  settled(): Promise<void>;
  stop(): Promise<void>;
}

export interface ClusterOptions {
  /** Each master has one. */
  readonly replicas?: boolean;
  /** For localhost, by which name each node is then known; `url` stays as it is without TLS. */
  readonly tls?: TestCertificates;
  readonly flags?: readonly string[];
}

const MASTERS = 3;
const SLOTS = 16_384;
const MOST_TRIES = 5;
/** After so long a node that is silent counts as failed: soon, for tests. */
const NODE_TIMEOUT_MS = 1_000;
const FLAGS = [
  '--cluster-enabled',
  'yes',
  '--cluster-node-timeout',
  `${NODE_TIMEOUT_MS}`,
  '--repl-diskless-sync-delay',
  '0',
];

/** A Redis Cluster of the test's own: three masters on free ports of loopback, which keep nothing but who they are. */
export async function startRedisCluster(options: ClusterOptions = {}): Promise<TestRedisCluster> {
  const dir = await mkdtemp(join(tmpdir(), 'liventix-cluster-'));
  const flags = [...FLAGS, ...(await tlsFlags(dir, options.tls)), ...(options.flags ?? [])];
  const count = options.replicas === true ? 2 * MASTERS : MASTERS;
  const nodes = await Promise.all(Array.from({ length: count }, () => startNode(dir, flags)));
  const [masters, replicas] = [nodes.slice(0, MASTERS), nodes.slice(MASTERS)];
  await Promise.all(masters.map(({ client }, nth) => serveItsPart(client, nth)));
  const [first] = masters;
  for (const node of nodes.slice(1)) await first?.client.cluster('MEET', '127.0.0.1', node.meetPort, node.busPort);
  await Promise.all(nodes.map(({ client }) => eventually('it knows all nodes', () => knows(client, count))));
  await Promise.all(replicas.map(async ({ client }, nth) => client.cluster('REPLICATE', await idOf(masters[nth]))));
  await Promise.all(replicas.map(({ client }) => eventually('it follows its master', () => follows(client))));
  const running = () => nodes.filter(({ client }) => client.status === 'ready');
  const settled = async () => {
    await eventually('the cluster answers', () => unlessClosed(agree(running())), 30_000);
  };
  await settled();
  return {
    url: nodes.map(({ url }) => url).join(','),
    masters,
    holder: () => eventually('one master holds the queue', () => unlessClosed(holderAmong(running()))),
    settled,
    stop: async () => {
      await Promise.all(nodes.map((node) => node.kill()));
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Moves a slot while its keys are in use: by the steps that redis-cli takes, one key at a time. */
export async function moveSlot(
  slot: number,
  { from, to }: { from: TestClusterNode; to: TestClusterNode },
): Promise<number> {
  const [fromId, toId] = [await idOf(from), await idOf(to)];
  await to.client.cluster('SETSLOT', slot, 'IMPORTING', fromId);
  await from.client.cluster('SETSLOT', slot, 'MIGRATING', toId);
  let moved = 0;
  for (;;) {
    const [key] = await from.client.cluster('GETKEYSINSLOT', slot, 1);
    if (key === undefined) break;
    await from.client.migrate('127.0.0.1', to.port, key, 0, 5_000);
    moved += 1;
  }
  await to.client.cluster('SETSLOT', slot, 'NODE', toId);
  await from.client.cluster('SETSLOT', slot, 'NODE', toId);
  return moved;
}

async function tlsFlags(dir: string, certificates: TestCertificates | undefined): Promise<string[]> {
  if (certificates === undefined) return [];
  const { caFile, good } = certificates;
  const [certFile, keyFile] = [join(dir, 'node.pem'), join(dir, 'node.key')];
  await Promise.all([writeFile(certFile, good.cert), writeFile(keyFile, good.key)]);
  const files = ['--tls-cert-file', certFile, '--tls-key-file', keyFile, '--tls-ca-cert-file', caFile];
  const names = ['--cluster-announce-hostname', 'localhost', '--cluster-preferred-endpoint-type', 'hostname'];
  return [...files, '--tls-cluster', 'yes', '--tls-auth-clients', 'no', ...names];
}

type StartedNode = TestClusterNode & { readonly busPort: number; readonly meetPort: number };

/** Somebody else may take a port that was free a moment ago, and a node has three. */
async function startNode(dir: string, flags: readonly string[], triesLeft = MOST_TRIES): Promise<StartedNode> {
  const [port, busPort, tlsPort] = [await freePort(), await freePort(), await freePort()];
  const own = join(dir, `${port}`);
  await mkdir(own);
  const tls = flags.includes('--tls-cert-file') ? ['--tls-port', `${tlsPort}`] : [];
  const run = () => startRedisServer(port, own, ['--cluster-port', `${busPort}`, ...tls, ...flags]);
  let server: RedisServer;
  try {
    server = await run();
  } catch (error) {
    if (triesLeft <= 1) throw error;
    return startNode(dir, flags, triesLeft - 1);
  }
  return {
    port,
    busPort,
    tlsPort,
    meetPort: tls.length > 0 ? tlsPort : port,
    url: server.url,
    get client() {
      return server.client;
    },
    kill: () => server.kill(),
    freeze: () => server.freeze(),
    thaw: () => server.thaw(),
    start: async () => {
      server = await run();
    },
  };
}

async function serveItsPart(client: Redis, nth: number): Promise<void> {
  const [start, end] = [nth, nth + 1].map((part) => Math.floor((part * SLOTS) / MASTERS));
  await client.call('CLUSTER', 'ADDSLOTSRANGE', `${start}`, `${(end ?? 0) - 1}`);
  // Those that never met would all begin with the same one, and have to find that out.
  await client.cluster('SET-CONFIG-EPOCH', nth + 1);
}

const follows = async (client: Redis) => (await client.info('replication')).includes('master_link_status:up');

const knows = async (client: Redis, count: number) =>
  (await client.cluster('INFO')).includes(`cluster_known_nodes:${count}\r`);

const idOf = async (node: TestClusterNode | undefined) => (await node?.client.cluster('MYID')) ?? '';

async function holderAmong(nodes: readonly StartedNode[]): Promise<StartedNode | undefined> {
  for (const node of nodes) {
    const isMaster = (await node.client.role())[0] === 'master';
    if (isMaster && (await node.client.dbsize()) > 0) return node;
  }
  return undefined;
}

/** A node that was killed seems to be there until its connection is told: who asked it then asks again. */
async function unlessClosed<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (/^Connection is closed/.test((error as Error).message)) return undefined;
    throw error;
  }
}

async function agree(nodes: readonly TestClusterNode[]): Promise<boolean> {
  const views = await Promise.all(
    nodes.map(async ({ client }) => {
      const isUp = (await client.cluster('INFO')).includes('cluster_state:ok');
      return isUp ? JSON.stringify(await client.cluster('SLOTS')) : '';
    }),
  );
  return new Set(views).size === 1 && views[0] !== '';
}
