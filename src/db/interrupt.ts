import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { AppError } from '../errors.ts';
import { connectionConfig } from './pool.ts';

/** The longest that the server is asked, over a connection of its own, to cancel what is under way. */
const CANCEL_DEADLINE_MS = 3_000;
const AGAIN_MS = 100;

/**
 * Runs `work`, and ends its connections when `signal` aborts, so that whatever it waits for on the server fails at once.
 * The server is asked to cancel first: by itself it goes on with a query whose client is gone.
 * @throws AppError STOPPED when the work failed after the abort; the work's own error otherwise
 */
export async function interruptible<T>(
  input: { signal: AbortSignal; databaseUrl: string; connections: () => readonly pg.ClientBase[] },
  work: () => Promise<T>,
): Promise<T> {
  const { signal } = input;
  if (signal.aborted) throw stopped(signal);
  let ended: Promise<void> | undefined;
  let isSettled = false;
  // Again until the work has ended: a connection that was being opened is none yet.
  const endAll = async () => {
    do await endConnections(input);
    while (!isSettled && (await pause(AGAIN_MS, true)));
  };
  const onAbort = () => {
    ended = endAll();
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await work();
  } catch (error) {
    throw signal.aborted ? stopped(signal, error) : error;
  } finally {
    isSettled = true;
    signal.removeEventListener('abort', onAbort);
    await ended;
  }
}

function stopped(signal: AbortSignal, cause?: unknown): AppError {
  return new AppError(
    'STOPPED',
    `${String(signal.reason)} stopped the command before its end, and what it had under way was cancelled. Run it again.`,
    { cause },
  );
}

async function endConnections(input: {
  databaseUrl: string;
  connections: () => readonly pg.ClientBase[];
}): Promise<void> {
  const clients = input.connections();
  await terminate(input.databaseUrl, clients).catch(() => undefined);
  // Those that the server did not end: behind a pooler it knows them by other ids.
  for (const client of clients) void (client as pg.Client).end().catch(() => undefined);
}

async function terminate(databaseUrl: string, clients: readonly pg.ClientBase[]): Promise<void> {
  const pids = clients.flatMap((client) => ('processID' in client ? [client.processID] : []));
  const canceller = new pg.Client({
    ...connectionConfig({ databaseUrl, applicationName: 'liventix-cancel' }),
    connectionTimeoutMillis: CANCEL_DEADLINE_MS,
    query_timeout: CANCEL_DEADLINE_MS,
  });
  canceller.on('error', () => undefined);
  try {
    await canceller.connect();
    await canceller.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where pid = any ($1) and datname = current_database() and usename = current_user
         and application_name in ('liventix', 'liventix-migrate')`,
      [pids],
    );
  } finally {
    await canceller.end();
  }
}
