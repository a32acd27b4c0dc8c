import pg from 'pg';
import { connectionsOf, type Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { type Canary, type CanaryInput, startCanary } from './canary.ts';
import type { Measured } from './throttle.ts';

/** For so long after another session was last seen at work, it may notice us. */
const COMPANY_MS = 5_000;
/** Long enough for a lag that matters, short enough to be forgotten by a run of days. */
const WAL_POSITIONS_KEPT = 1_200;
const WAL_RATE_MS = 2_000;

/** What a run does to those beside it, as far as the role may see it. */
export interface Load {
  /** Looks at the server, and answers what was measured since `forget`. */
  measure(): Promise<Omit<Measured, 'isPaused'>>;
  forget(): void;
  /** What the role may not see. */
  blind(): string[];
  /** On the connection that looks. */
  readonly query: pg.Client['query'];
  stop(): Promise<void>;
}

/** @throws AppError DB_* */
export async function watchLoad(input: CanaryInput): Promise<Load> {
  const { pool } = input;
  // Beside the pool, whose connections are at work, or which has only one. What it shows need not wait for the disk.
  const client = new pg.Client({
    ...pool.options,
    options: `${pool.options.options ?? ''} -c synchronous_commit=off`,
  });
  let failure: unknown;
  client.on('error', (error) => {
    failure ??= error;
  });
  let last: Look;
  let canary: Canary;
  try {
    await client.connect();
    // What this run did before, on connections that nobody tells us of, is no company; who writes beside the first canaries is.
    last = await lookAtServer(client, { ours: pidsOf(pool), since: undefined });
    canary = await startCanary(input);
  } catch (error) {
    await client.end();
    throw toAppError(error);
  }
  const positions: WalPosition[] = [];
  let companyAt = Number.NEGATIVE_INFINITY;

  return {
    measure: async () => {
      if (failure !== undefined) throw toAppError(failure);
      last = await lookAtServer(client, { ours: [canary.pid, ...pidsOf(pool)], since: last.at });
      const now = performance.now();
      positions.push({ atMs: now, position: last.walPosition });
      positions.splice(0, positions.length - WAL_POSITIONS_KEPT);
      if (last.hasCompany) companyAt = now;
      return {
        canary: canary.since(),
        isAlone: now - companyAt > COMPANY_MS,
        lockWaiters: last.lockWaiters,
        replicationLagSeconds: lagSeconds(positions, last.replayedPosition, now),
        walMbPerSecond: walMbPerSecond(positions),
      };
    },
    forget: canary.forget,
    blind: () => [
      ...(last.seesSessions ? [] : ['sessions']),
      ...(last.seesReplicas ? [] : ['replicas']),
      ...(canary.locksWallets ? [] : ['wallets']),
    ],
    query: client.query.bind(client),
    stop: async () => {
      await canary.stop();
      await client.end().catch(() => undefined);
    },
  };
}

interface WalPosition {
  readonly atMs: number;
  readonly position: number;
}

/**
 * How long ago the server wrote what a replica applies next; at least, where that was longer ago than we remember. PostgreSQL's own
 * replay_lag is what it was when the replica last said something, and says nothing of one that stands still.
 */
export function lagSeconds(positions: readonly WalPosition[], replayed: number | null, nowMs: number): number {
  if (replayed === null) return 0;
  const next = positions.find(({ position }) => position > replayed);
  return next === undefined ? 0 : (nowMs - next.atMs) / 1_000;
}

export function walMbPerSecond(positions: readonly WalPosition[]): number {
  const to = positions.at(-1);
  const from = positions.find(({ atMs }) => to !== undefined && atMs >= to.atMs - WAL_RATE_MS);
  if (to === undefined || from === undefined || to.atMs === from.atMs) return 0;
  return (to.position - from.position) / 1_000 / (to.atMs - from.atMs);
}

interface Look {
  /** The server's clock. */
  readonly at: Date;
  readonly hasCompany: boolean;
  readonly seesSessions: boolean;
  readonly lockWaiters: number;
  readonly walPosition: number;
  /** Of the replica that is farthest behind; null without one. */
  readonly replayedPosition: number | null;
  readonly seesReplicas: boolean;
}

async function lookAtServer(
  client: pg.Client,
  { ours, since }: { ours: readonly number[]; since: Date | undefined },
): Promise<Look> {
  // Whoever may not see a session's state still sees that it is there. Sessions without a user are the server's own, such as autovacuum.
  const { rows } = await client.query<Look>(
    `with other as (
       select a.pid, a.state, a.state = 'active' or a.state_change >= $2 as is_at_work
       from pg_stat_activity a
       where a.usesysid is not null and a.datname = current_database() and a.pid <> pg_backend_pid() and a.pid <> all ($1)
         and (a.leader_pid is null or a.leader_pid <> all ($1))
     ), replica as (
       select pg_wal_lsn_diff(r.replay_lsn, '0/0')::float8 as position, r.state from pg_stat_replication r
     )
     select clock_timestamp() as at,
            exists (select from other where is_at_work is not false) as "hasCompany",
            not exists (select from other where state is null) as "seesSessions",
            (select count(distinct l.pid)::integer from pg_locks l
             where not l.granted and l.pid <> all ($1) and pg_blocking_pids(l.pid) && $1) as "lockWaiters",
            pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 as "walPosition",
            (select min(position) from replica) as "replayedPosition",
            not exists (select from replica where state is null) as "seesReplicas"`,
    [ours, since],
  );
  const [look] = rows;
  if (look === undefined) throw new Error('a query without FROM answered no row');
  return look;
}

function pidsOf(pool: Pool): number[] {
  return connectionsOf(pool).flatMap((client) => ('processID' in client ? [client.processID as number] : []));
}
