import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { migrate } from '../../src/db/migrate.ts';
import { createPool, type Queryable } from '../../src/db/pool.ts';
import { addEndpoint } from '../../src/outbox/endpoints.ts';
import { createKeyRing } from '../../src/outbox/key-ring.ts';
import { outboxStatus } from '../../src/outbox/status.ts';
import { CONCURRENCY, type Contender, type Place, PRODUCER_CONNECTIONS, type Producer } from './contender.ts';
import { PAYLOAD_SQL, payloadOf, TOPIC } from './message.ts';
import type { WorkerCommand } from './worker-process.ts';

const LOOPBACK = '127.0.0.0/8';
const KEY = randomBytes(32);
const KEY_RING = createKeyRing([KEY]);
const BIN = fileURLToPath(new URL('../../bin/liventix', import.meta.url));

/** Room for all of the worker's requests at the one endpoint, and for as many that wait in the queue. */
const MAX_IN_FLIGHT = 6 * CONCURRENCY;

/** What carries the jobs. */
export type OurBackend = 'redis' | 'postgres';

export const OUR_BACKENDS: readonly OurBackend[] = ['redis', 'postgres'];

interface Subscriptions {
  readonly endpoints: number;
  /** Each message to every endpoint, or message n to endpoint n modulo their number alone. */
  readonly each: 'to-all' | 'to-one';
  readonly maxInFlight?: number;
}

const ONE_ENDPOINT: Subscriptions = { endpoints: 1, each: 'to-all', maxInFlight: MAX_IN_FLIGHT };

export const ours = (backend: OurBackend, subscriptions = ONE_ENDPOINT): Contender => ({
  name: `ours-${backend}`,
  install: async (databaseUrl) => {
    await migrate(databaseUrl);
  },
  worker: (place) => workerOf(place, backend),
  open: (place) => openOurs(place, subscriptions),
});

/** `liventix worker`, as anybody starts it, but that it has no books to seal. */
function workerOf({ databaseUrl, redisUrl }: Place, backend: OurBackend): WorkerCommand {
  return {
    args: [BIN, 'worker', '--concurrency', `${CONCURRENCY}`],
    env: {
      DATABASE_URL: databaseUrl,
      OUTBOX_EGRESS_ALLOW: LOOPBACK,
      OUTBOX_ENCRYPTION_KEY: KEY.toString('base64'),
      LIVENTIX_SEAL_INTERVAL_S: '0',
      ...(backend === 'redis' ? { REDIS_URL: redisUrl } : {}),
    },
  };
}

async function openOurs(place: Place, subscriptions: Subscriptions): Promise<Producer> {
  const pool = createPool({ databaseUrl: place.databaseUrl, max: PRODUCER_CONNECTIONS });
  await subscribe(pool, place, subscriptions);
  const { endpoints, each } = subscriptions;
  return {
    preload: async (count) => {
      await pool.query(
        `insert into public.outbox (topic, payload) select $2, ${PAYLOAD_SQL} from generate_series(0, $1 - 1) as n`,
        [count, TOPIC],
      );
      await pool.query('analyze');
    },
    announce: async (n) => {
      await pool.query({
        name: 'announce',
        text: 'insert into public.outbox (topic, payload) values ($1, $2)',
        values: [each === 'to-all' ? TOPIC : topicOf(n % endpoints), JSON.stringify(payloadOf(n))],
      });
    },
    unrecorded: async () => {
      const { messages, deliveries } = await outboxStatus(pool);
      return messages.unprocessed + deliveries.pending + deliveries.queued + deliveries.delivering;
    },
    close: () => pool.end(),
  };
}

async function subscribe(db: Queryable, { receiverUrl }: Place, subscriptions: Subscriptions): Promise<void> {
  const { endpoints, each, ...limits } = subscriptions;
  for (let endpoint = 0; endpoint < endpoints; endpoint += 1) {
    const topics = [each === 'to-all' ? '*' : topicOf(endpoint)];
    await addEndpoint(db, {
      url: `${receiverUrl}/${endpoint}`,
      topics,
      egressAllow: [LOOPBACK],
      keyRing: KEY_RING,
      ...limits,
    });
  }
}

const topicOf = (endpoint: number) => `endpoint_${endpoint}.told`;
