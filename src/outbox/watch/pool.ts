import { connectionConfig, createPool, type Pool } from '../../db/pool.ts';
import type { Sockets } from '../../db/sockets.ts';
import { OUTBOX_SESSION } from '../held-connection.ts';

/** A pool for looking on: whatever takes longer than `timeoutMs` is given up, by the server too, because it is asked again soon. */
export function createWatchPool(options: {
  readonly databaseUrl: string;
  readonly applicationName: string;
  readonly max: number;
  readonly timeoutMs: number;
  readonly sockets: Sockets;
}): Pool {
  const { timeoutMs, sockets } = options;
  return createPool(options, {
    options: `${connectionConfig(options).options} ${OUTBOX_SESSION} -c statement_timeout=${timeoutMs}`,
    connectionTimeoutMillis: timeoutMs,
    query_timeout: timeoutMs,
    stream: sockets.open,
  });
}
