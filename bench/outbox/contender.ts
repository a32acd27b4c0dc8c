import type { WorkerCommand } from './worker-process.ts';

/** Where one run of one contender takes place. */
export interface Place {
  /** Of a database of this run's own. */
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly receiverUrl: string;
}

/** A queue that takes a committed row or job to a signed POST answered 200, and records it. */
export interface Contender {
  readonly name: string;
  /** Into the empty database that each run gets a copy of. */
  install(databaseUrl: string): Promise<void>;
  worker(place: Place): WorkerCommand;
  open(place: Place): Promise<Producer>;
}

/** The side that announces, and can tell what has been recorded. */
export interface Producer {
  /** Messages 0 to `count - 1`, all due when the worker starts. */
  preload(count: number): Promise<void>;
  /** Message n in a commit of its own. */
  announce(n: number): Promise<void>;
  /** How many have been announced and not recorded as delivered. */
  unrecorded(): Promise<number>;
  close(): Promise<void>;
}

/** Whether the targets are owed by it. */
export const isOurs = (name: string) => name.startsWith('ours-');

/** Requests on their way at once, whoever makes them. */
export const CONCURRENCY = 100;
/** Sessions that a load generator commits by, whoever's. */
export const PRODUCER_CONNECTIONS = 20;
