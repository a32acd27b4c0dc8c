import pgListen, { type Subscriber } from 'pg-listen';
import { connectionConfig, type Queryable } from '../db/pool.ts';
import type { Sockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { CONNECT_TIMEOUT_MS } from './held-connection.ts';
import type { OutageLog } from './outage-log.ts';

/** Hears the NOTIFY of an announcement, over every loss of its connection. */
export interface Listener {
  /** Whether its connection is there, as far as is known. */
  listens(): boolean;
  close(): Promise<void>;
}

export interface ListenerOptions {
  readonly databaseUrl: string;
  readonly db: Queryable;
  readonly outage: OutageLog;
  readonly sockets: Sockets;
  /** Called at each notification, and at each reconnection, because what was said meanwhile is gone. */
  readonly onWake: () => void;
  /** Called instead where somebody said that endpoints or deliveries were changed. */
  readonly onChange: () => void;
  /** How often the connection is asked whether it is still there. */
  readonly checkMs?: number;
  /** How long it may take to say so. */
  readonly checkTimeoutMs?: number;
}

const CHANNEL = 'liventix_outbox';
/** What whoever changes endpoints or deliveries notifies of; an announcement's payload is empty. */
const CHANGED = 'changed';
const CHECK_MS = 10_000;
/** Without it the check of a half-open connection would wait for ever. */
const CHECK_TIMEOUT_MS = 5_000;
const RECONNECT_INTERVAL_MS = 500;
const PROOF_DEADLINE_MS = 5_000;

/**
 * Listens, and proves by a notification to itself that notifications arrive: a transaction pooler accepts LISTEN and
 * then loses them.
 * @throws AppError LISTEN_UNAVAILABLE, DB_*
 */
export async function startListener(options: ListenerOptions): Promise<Listener> {
  let [closing, isConnected] = [false, true];
  const subscriber = pgListen.default(
    {
      ...connectionConfig({ databaseUrl: options.databaseUrl, applicationName: 'liventix-listen' }),
      query_timeout: options.checkTimeoutMs ?? CHECK_TIMEOUT_MS,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      stream: options.sockets.open,
    },
    {
      // Never give up: by default it stops after three seconds, and says nothing.
      retryTimeout: 0,
      // Throwing is the only way to end its reconnecting when it is closed meanwhile.
      retryInterval: () => {
        if (closing) throw new Error('closed');
        return RECONNECT_INTERVAL_MS;
      },
      paranoidChecking: options.checkMs ?? CHECK_MS,
      parse: (payload) => payload,
    },
  );
  const close = async () => {
    closing = true;
    await subscriber.close();
  };
  subscriber.events.on('error', (error) => {
    if (!closing) options.outage.failed('listener', error);
  });
  subscriber.events.on('reconnect', () => {
    isConnected = false;
    if (!closing) options.outage.failed('listener', new Error('the connection that listens was lost'));
  });
  try {
    await subscriber.connect();
    await subscriber.listenTo(CHANNEL);
    await proveArrival(subscriber, options.db);
  } catch (error) {
    await close().catch(() => undefined);
    throw toAppError(error);
  }
  subscriber.notifications.on(CHANNEL, (payload) => (payload === CHANGED ? options.onChange() : options.onWake()));
  subscriber.events.on('connected', () => {
    // It may have been closed while it reconnected; then the new connection is closed too.
    if (closing) {
      void subscriber.close();
      return;
    }
    isConnected = true;
    options.outage.works('listener');
    options.onChange();
  });
  return { listens: () => isConnected, close };
}

async function proveArrival(subscriber: Subscriber, db: Queryable): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const arrived = new Promise<void>((resolve, reject) => {
    subscriber.notifications.once(CHANNEL, () => resolve());
    timer = setTimeout(() => reject(listenUnavailable()), PROOF_DEADLINE_MS);
  });
  try {
    await Promise.all([arrived, db.query('select pg_notify($1, $2)', [CHANNEL, ''])]);
  } finally {
    clearTimeout(timer);
  }
}

function listenUnavailable(): AppError {
  return new AppError(
    'LISTEN_UNAVAILABLE',
    `A notification on ${CHANNEL} did not arrive within ${PROOF_DEADLINE_MS} ms, so DATABASE_URL probably goes through a transaction pooler. Point it at the server itself, or at a session pooler.`,
  );
}
