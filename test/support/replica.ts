import { once } from 'node:events';
import pg from 'pg';
import { connectionConfig } from '../../src/db/pool.ts';
import type { TestDatabase } from './database.ts';

/** The connection of `pg` that the types leave out. */
type ReplicationClient = pg.Client & {
  readonly connection: NodeJS.EventEmitter & { query(text: string): void; sendCopyFromChunk(chunk: Buffer): void };
};

/**
 * Connects as a replica does, and says once that it has applied everything up to now. What comes later it receives and never applies.
 */
export async function connectStuckReplica(database: TestDatabase): Promise<pg.Client> {
  const config = { ...connectionConfig({ databaseUrl: database.adminUrl }), replication: 'true' };
  const client = new pg.Client(config) as ReplicationClient;
  client.on('error', () => undefined);
  await client.connect();
  const { rows } = await database.pool.query<{ lsn: string; position: bigint }>(
    `select lsn::text, pg_wal_lsn_diff(lsn, '0/0')::bigint as position from pg_current_wal_flush_lsn() lsn`,
  );
  const [at] = rows;
  const started = once(client.connection, 'replicationStart');
  client.connection.query(`START_REPLICATION PHYSICAL ${at?.lsn}`);
  await started;
  client.connection.sendCopyFromChunk(appliedUpTo(at?.position ?? 0n));
  return client;
}

/** The message of the streaming protocol: written, flushed and applied up to a position, at no particular time, without asking back. */
function appliedUpTo(position: bigint): Buffer {
  const message = Buffer.alloc(1 + 3 * 8 + 8 + 1);
  message.write('r');
  for (const offset of [1, 9, 17]) message.writeBigUInt64BE(position, offset);
  return message;
}
