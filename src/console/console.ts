import type { Logger } from 'pino';
import { createPool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type Auth, assertGuarded, type Place } from './access/gate.ts';
import { actionsOf, pagesOf } from './pages.ts';
import { createQueueBoard } from './queue-board.ts';
import { awaitReader, createReader, installReader, keepGranted } from './reader.ts';
import { createServer } from './server.ts';
import { createRunner } from './verifying.ts';

export interface ConsoleOptions {
  readonly databaseUrl: string;
  /** Where pages read, when it is not there: a replica shows what was true a moment ago, and is in nobody's way. */
  readonly replicaUrl?: string | undefined;
  /** Where the queue of the deliveries is, when it is not in PostgreSQL. */
  readonly redisUrl?: string | undefined;
  readonly place: Place;
  /** CIDRs of the proxies before it, which are believed what address somebody has. */
  readonly proxies?: readonly string[];
  readonly auth: Auth;
  readonly version: string;
  readonly poolMax: number;
  readonly log: Logger;
}

/** For so long, downloads may go on after the console was told to end. */
const DRAIN_MS = 5_000;

export interface Console {
  /** As browsers reach it. */
  readonly url: string;
  /** Where it listens, with the port that it got: behind a proxy, another. */
  readonly listensAt: string;
  stop(): Promise<void>;
}

/**
 * Serves the console until it is stopped.
 * @throws AppError CONSOLE_EXPOSED, CONSOLE_READER_MISSING, HTTP_UNAVAILABLE, DB_*
 */
export async function startConsole(options: ConsoleOptions): Promise<Console> {
  const { databaseUrl, replicaUrl, redisUrl, place, proxies = [], auth, version, poolMax, log } = options;
  assertGuarded(place, auth);
  const owner = createPool({ databaseUrl, max: poolMax, applicationName: 'liventix-console' });
  const pools = new Set([owner]);
  const endPools = async () => {
    await Promise.all([...pools].map((pool) => pool.end()));
  };
  try {
    const role = await installReader(owner);
    const reader = createReader(replicaUrl ?? databaseUrl, { role, max: poolMax });
    const primary = replicaUrl === undefined ? reader : createReader(databaseUrl, { role, max: 1 });
    pools.add(reader).add(primary);
    const runner = createRunner(owner, { databaseUrl, version, log });
    const board = createQueueBoard({ databaseUrl, redisUrl, db: primary });
    const database = await awaitReader(reader);
    const server = await createServer(
      // Pages have the other half of the connections.
      { owner, reader, auth, place, proxies, database, mostDownloads: Math.ceil(poolMax / 2), log },
      { pages: pagesOf({ reader, primary, board }), actions: actionsOf(runner) },
    );
    await board.serve(server, { log });
    const listensAt = await server.listen({ host: place.host, port: place.port }).catch((cause) => {
      throw unavailable(place, cause);
    });
    const granting = keepGranted(owner, (err) => log.warn({ err }, 'the console could not look for new books'));
    return {
      url: place.origin ?? listensAt,
      listensAt,
      stop: async () => {
        granting.stop();
        // Whoever takes something large away does not keep the console from its end.
        const cut = setTimeout(() => server.server.closeAllConnections(), DRAIN_MS).unref();
        await Promise.all([server.close(), runner.stop()]);
        clearTimeout(cut);
        await board.close();
        await endPools();
      },
    };
  } catch (error) {
    await endPools();
    throw error;
  }
}

function unavailable({ host, port }: Place, cause: unknown): AppError {
  const { code } = cause as { code?: string };
  const why = code === 'EADDRINUSE' ? 'another process listens there' : (code ?? 'it was refused');
  return new AppError(
    'HTTP_UNAVAILABLE',
    `${host}:${port} cannot be listened on: ${why}. Give another address with --http.`,
    { cause },
  );
}
