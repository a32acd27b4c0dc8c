import pg from 'pg';

/** What a PgBouncer says of itself to those who may ask. */
export interface PoolerConsole {
  /** In words, whether it says anything. */
  readonly note: string;
  /** Clients that wait for a connection; null where it does not say. */
  waiting(): Promise<number | null>;
  /** The most connections to the server that were seen. */
  poolSize(): number | null;
  close(): void;
}

/** The name by which PgBouncer's own tables are asked for. */
const CONSOLE = 'pgbouncer';

interface PoolLine {
  readonly database: string;
  readonly cl_waiting: string | number;
  readonly sv_active: string | number;
  readonly sv_idle: string | number;
  readonly sv_used: string | number;
}

/** Opens its console as the same user. Never throws: whoever may not ask is told nothing. */
export async function openConsole(poolerUrl: string): Promise<PoolerConsole> {
  const url = new URL(poolerUrl);
  const database = decodeURIComponent(url.pathname.slice(1));
  url.pathname = `/${CONSOLE}`;
  const client = new pg.Client({ connectionString: url.href });
  client.on('error', () => undefined);
  const show = async () =>
    (await client.query<PoolLine>('show pools')).rows.filter((line) => line.database === database);
  try {
    await client.connect();
    await show();
  } catch (error) {
    void client.end().catch(() => undefined);
    return {
      note: `SHOW POOLS is not allowed (${(error as Error).message}): who waits in the pooler was not seen`,
      waiting: async () => null,
      poolSize: () => null,
      close: () => undefined,
    };
  }
  let most = 0;
  return {
    note: 'who waits is as SHOW POOLS says',
    waiting: async () => {
      const lines = await show().catch(() => []);
      const sum = (of: (line: PoolLine) => number) => lines.reduce((total, line) => total + of(line), 0);
      most = Math.max(
        most,
        sum((line) => Number(line.sv_active) + Number(line.sv_idle) + Number(line.sv_used)),
      );
      return sum((line) => Number(line.cl_waiting));
    },
    poolSize: () => most,
    close: () => void client.end().catch(() => undefined),
  };
}
