import { createPool, type Pool } from '../../../src/db/pool.ts';
import type { Written } from './act.ts';
import { draw } from './draw.ts';
import { possibleActs } from './possible-acts.ts';
import { type Phase, Running } from './running.ts';
import { readSlowly } from './slow-reader.ts';

const CONNECTIONS = { owner: 20, authenticated: 6 } as const;
/** Then another is opened in its place: what a session asks for the first time is asked in the middle of a move too. */
const USES_OF_A_CONNECTION = 200;

export interface WorkloadOptions {
  /** As the owner. */
  readonly databaseUrl: string;
  /** As a role that may become `authenticated`. */
  readonly gatewayUrl: string;
  /** The tables that it reads and writes, by their bare names. */
  readonly tables: readonly string[];
  readonly perSecond: number;
}

/** The old application at work. What is due is begun at its time, whether what was before it is done or not. */
export interface OldWorkload {
  /** What is due from now on belongs to this phase. */
  enter(phase: string): void;
  phase(name: string): Phase;
  readonly writtenTables: ReadonlySet<string>;
  readonly written: Written;
  /** Begins nothing more, and waits for what was begun. */
  stop(): Promise<void>;
}

/**
 * Starts it, at so many a second, with a reader beside it that holds the locks of some tables for three seconds, again and again. What fails
 * before the tables move is not what the old application does, and is left out.
 */
export async function startOldWorkload(options: WorkloadOptions): Promise<OldWorkload> {
  const { databaseUrl, gatewayUrl, perSecond } = options;
  const pools = {
    owner: applicationPool(databaseUrl, CONNECTIONS.owner),
    authenticated: applicationPool(gatewayUrl, CONNECTIONS.authenticated),
  };
  const acts = await possibleActs(pools, options.tables);
  const running = new Running(pools, draw(acts));
  const timer = running.beginAt(perSecond);
  const reader = readSlowly(databaseUrl, options.tables, running);
  return {
    enter: (phase) => running.enter(phase),
    phase: (name) => running.phase(name),
    writtenTables: new Set(acts.flatMap(({ writes }) => writes)),
    written: running.written,
    stop: async () => {
      timer.stop();
      await reader.stop();
      await running.settled();
      await Promise.all([pools.owner.end(), pools.authenticated.end()]);
    },
  };
}

const applicationPool = (databaseUrl: string, max: number): Pool =>
  createPool(
    { databaseUrl, max, applicationName: 'old application' },
    { connectionTimeoutMillis: 0, idleTimeoutMillis: 0, maxUses: USES_OF_A_CONNECTION },
  );
