import { connectionConfig, createPool, type Pool } from '../db/pool.ts';
import { type Sockets, trackSockets } from '../db/sockets.ts';
import { within } from './deadline.ts';
import { CONNECT_TIMEOUT_MS, OUTBOX_SESSION } from './held-connection.ts';
import { createOutageLog, type OutageLog } from './outage-log.ts';
import type { Outages } from './relay.ts';
import type { WorkerOptions } from './worker-options.ts';

/** A worker's way to PostgreSQL: the pool, the sockets of all of its connections, and what is said of both servers when they are away. */
export interface WorkerConnections {
  readonly db: Pool;
  readonly sockets: Sockets;
  readonly outages: Outages;
  /** Says goodbye, and waits no longer than GOODBYE_MS for an answer. */
  close(): Promise<void>;
}

const POOL_MAX = 10;
/** No statement of ours takes this long on a server that answers. */
export const QUERY_TIMEOUT_MS = 5_000;
/** For connections to say goodbye to a server that may have gone silent. */
export const GOODBYE_MS = 500;

export function openConnections(options: Pick<WorkerOptions, 'databaseUrl' | 'redisUrl' | 'log'>): WorkerConnections {
  const sockets = trackSockets();
  const db = createWorkerPool(options.databaseUrl, sockets);
  return {
    db,
    sockets,
    outages: watchOutages(options, sockets),
    close: async () => {
      await within(GOODBYE_MS, db.end());
      sockets.destroyAll();
    },
  };
}

function createWorkerPool(databaseUrl: string, sockets: Sockets): Pool {
  const options = { databaseUrl, applicationName: 'liventix-worker', max: POOL_MAX };
  return createPool(options, {
    options: `${connectionConfig(options).options ?? ''} ${OUTBOX_SESSION}`,
    query_timeout: QUERY_TIMEOUT_MS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    stream: sockets.open,
  });
}

function watchOutages({ log, redisUrl }: Pick<WorkerOptions, 'log' | 'redisUrl'>, sockets: Sockets): Outages {
  const outage = createOutageLog({ log, server: 'PostgreSQL' });
  const postgres: OutageLog = {
    ...outage,
    failed: (witness, error) => {
      outage.failed(witness, error);
      if (isSilence(error)) sockets.breakAll();
    },
  };
  return { postgres, queue: redisUrl === undefined ? postgres : createOutageLog({ log, server: 'Redis' }) };
}

/** Whether a statement was not answered in time: its connection leads nowhere, and so, most likely, do the others. */
function isSilence(error: unknown): boolean {
  return error instanceof Error && error.message === 'Query read timeout';
}
