import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { connectionConfig } from '../db/pool.ts';
import type { Sockets } from '../db/sockets.ts';

export interface HeldConnectionOptions {
  readonly databaseUrl: string;
  readonly applicationName: string;
  readonly sockets: Sockets;
  readonly queryTimeoutMs: number;
  /** What is done with a connection, until it fails or `until` is aborted; it is given another when it ends. */
  readonly session: (client: pg.Client, until: AbortSignal) => Promise<void>;
  readonly onFailure: (error: unknown) => void;
  /** Called whenever it got on: with a statement, or with an attempt to connect. */
  readonly onBeat: () => void;
}

export interface HeldConnection {
  close(): Promise<void>;
}

const RECONNECT_MS = 250;
/** Whoever begins to connect while the network is silent tries again this much later. */
export const CONNECT_TIMEOUT_MS = 3_000;

/**
 * How the outbox works on its tables. No commit waits for the disk: what a crash of the server forgets is found again from the messages,
 * which their own transactions made durable, and is at worst delivered twice under one webhook-id. And every statement goes by an index:
 * the tables grow faster than anybody counts them, and a plan made for an empty one reads all of it. The server gives a statement up before
 * its client does: one that nobody waits for any more would keep the locks of its session.
 */
export const OUTBOX_SESSION =
  '-c statement_timeout=4500 -c synchronous_commit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off';

/**
 * A connection of its own for what lasts as long as a session: whoever loses it has lost what he held by it, and begins anew on the
 * next.
 */
export function holdConnection(options: HeldConnectionOptions): HeldConnection {
  const closing = new AbortController();

  async function onConnection(): Promise<void> {
    options.onBeat();
    // Ours to break: a connection that went silent would wait for its server's goodbye.
    const socket = options.sockets.open();
    const client = new pg.Client({
      ...connectionConfig(options),
      options: `${connectionConfig(options).options} ${OUTBOX_SESSION}`,
      query_timeout: options.queryTimeoutMs,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      stream: () => socket,
    });
    // It is told to whoever asks next as well.
    client.on('error', () => undefined);
    // After each statement, answered or not in time.
    client.on('drain', options.onBeat);
    try {
      await client.connect();
      await options.session(client, closing.signal);
    } finally {
      // What it held is let go of when the server hears of it, without waiting for an answer.
      client.end().catch(() => undefined);
      socket.end();
    }
  }

  async function run(): Promise<void> {
    while (!closing.signal.aborted) {
      try {
        await onConnection();
      } catch (error) {
        if (!closing.signal.aborted) options.onFailure(error);
      }
      await pause(RECONNECT_MS, undefined, { signal: closing.signal }).catch(() => undefined);
    }
  }

  const running = run();
  return {
    close: async () => {
      closing.abort();
      await running;
    },
  };
}
