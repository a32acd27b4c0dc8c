import pg from 'pg';
import { connectionConfig } from '../../src/db/pool.ts';

/** Connections of a test's own beside the pool; `end` closes all that were opened. */
export function testClients(url: () => string) {
  const clients: pg.Client[] = [];
  return {
    connect: async (databaseUrl = url()): Promise<pg.Client> => {
      const client = new pg.Client(connectionConfig({ databaseUrl }));
      clients.push(client);
      await client.connect();
      return client;
    },
    end: async (): Promise<void> => {
      for (const client of clients.splice(0)) await client.end();
    },
  };
}
