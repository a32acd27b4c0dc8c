import pg from 'pg';
import { AppError } from '../errors.ts';
import { trackSockets } from './sockets.ts';
import { toAppError } from './sqlstate.ts';

/** A pool, or one client of it: whatever can run a query. */
export type Queryable = Pick<pg.Pool, 'query'>;
/** A client inside an open database transaction. */
export type Tx = pg.PoolClient;
export type Pool = pg.Pool;

const OLDEST_SUPPORTED_POSTGRES = 15;

const CONNECT_TIMEOUT_MS = 10_000;
const INT8_OID = 20;

/**
 * UTC whatever the server's or the user's zone: a day boundary must not move with the machine. No timeouts of the
 * database or the role, which are meant for requests (Supabase: 2 minutes): a large table is surveyed, and large books are
 * verified, for as long as it takes, while the connection that keeps a second backfill away is idle. Ctrl-C ends them.
 * No JIT: compiling took a tenth of a backfill's time, and a quarter of a verification's.
 */
const SESSION_SETTINGS = '-c timezone=UTC -c statement_timeout=0 -c idle_session_timeout=0 -c jit=off';

// bigint for int8: a balance in cents passes 2^53 long before it passes 2^63.
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === INT8_OID && format !== 'binary'
      ? BigInt
      : pg.types.getTypeParser(oid, format as 'text')) as typeof pg.types.getTypeParser,
};

export interface PoolOptions {
  readonly databaseUrl: string;
  readonly max?: number;
  readonly applicationName?: string;
  /** Further settings of each session, as libpq's `options` has them: `-c name=value`. */
  readonly settings?: string;
}

/** What every connection of ours is opened with: types, time zone, timeouts, name, a bound on connecting. */
export function connectionConfig(options: PoolOptions): pg.ClientConfig {
  return {
    connectionString: options.databaseUrl,
    application_name: options.applicationName ?? 'liventix',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    types,
    options: options.settings === undefined ? SESSION_SETTINGS : `${SESSION_SETTINGS} ${options.settings}`,
  };
}

/** Opens a pool lazily: the first query connects. int8 arrives as `bigint`, instants in UTC. */
export function createPool(options: PoolOptions, settings: pg.PoolConfig = {}): Pool {
  const pool = new pg.Pool({ ...connectionConfig(options), max: options.max ?? 10, ...settings });
  // A client that loses its server says so as an event too, which would end the process when nobody listens. The query
  // under way, or the next one, reports what is wrong.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  const connections = new Set<pg.PoolClient>();
  pool.on('connect', (client) => connections.add(client)).on('remove', (client) => connections.delete(client));
  OPEN_CONNECTIONS.set(pool, connections);
  return pool;
}

/**
 * Another pool on the same database, whose statements take one processor each, as what builds indexes and reads whole tables beside an application
 * leaves it the others; and whose rows no policy filters: the server refuses what a policy would concern. End it.
 */
export function modestPool(pool: Pool): Pool {
  const settings =
    '-c max_parallel_workers_per_gather=0 -c max_parallel_maintenance_workers=0 -c row_security=off -c backend_flush_after=1MB';
  const modest = new pg.Pool({ ...pool.options, options: `${pool.options.options ?? ''} ${settings}` });
  modest.on('error', () => undefined);
  modest.on('connect', (client) => client.on('error', () => undefined));
  return modest;
}

const OPEN_CONNECTIONS = new WeakMap<Pool, ReadonlySet<pg.PoolClient>>();

/** The connections that a pool of `createPool` holds open, those at work and those that wait. */
export function connectionsOf(pool: Pool): readonly pg.PoolClient[] {
  return [...(OPEN_CONNECTIONS.get(pool) ?? [])];
}

/**
 * Opens a pool and proves that it works and that the server is one we support.
 * @throws AppError DB_UNREACHABLE, DB_AUTH_FAILED, DB_NOT_FOUND, DB_TOO_OLD
 */
export async function openPool(options: PoolOptions): Promise<Pool> {
  const sockets = trackSockets();
  const pool = createPool(options, { stream: sockets.open });
  try {
    await assertSupportedServer(pool);
    return pool;
  } catch (error) {
    await pool.end();
    // The driver forgets a connection that it gave up itself, as without a password, and the server waits for a minute.
    sockets.destroyAll();
    throw toAppError(error);
  }
}

export async function assertSupportedServer(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ version: string; number: number }>(
    `select current_setting('server_version') as version, current_setting('server_version_num')::int as number`,
  );
  const server = rows[0];
  if (server === undefined || Math.floor(server.number / 10_000) < OLDEST_SUPPORTED_POSTGRES) {
    throw new AppError(
      'DB_TOO_OLD',
      `The server is PostgreSQL ${server?.version ?? 'of an unknown version'}; ${OLDEST_SUPPORTED_POSTGRES} or newer is needed. Upgrade it, or point DATABASE_URL at another.`,
    );
  }
}
