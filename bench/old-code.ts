import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { connectionConfig } from '../src/db/pool.ts';

/** One write of old code: it locks the wallet, inserts a row, writes what the balance comes to, and commits. */
export async function writeAsOldCode(client: pg.ClientBase, walletId: string): Promise<void> {
  await client.query('begin');
  const { rows } = await client.query<{ balance: number }>(
    'select balance_credits as balance from wallets where id = $1 for update',
    [walletId],
  );
  await client.query(
    `insert into wallet_transactions (wallet_id, type, credits_delta, reference_type) values ($1, 'adjustment', 1, 'system')`,
    [walletId],
  );
  await client.query('update wallets set balance_credits = $2 where id = $1', [walletId, (rows[0]?.balance ?? 0) + 1]);
  await client.query('commit');
}

export interface Workload {
  readonly databaseUrl: string;
  readonly clients: number;
  readonly ms: number;
  /** Writes of the first so many ms are made and not counted: a session's first ones fill its caches. */
  readonly leadMs?: number;
  /** Of an open loop: a write is due at its time, whether those before it are done or not. Left out, each client writes one after the other. */
  readonly perSecond?: number | undefined;
}

export interface Worked {
  readonly errors: number;
  /** From when each was due until it was committed. */
  readonly tookMs: readonly number[];
}

/** Writes to wallets that are picked in turn, until the time is over. Says when it begins to count. */
export async function work(
  { databaseUrl, clients, ms, leadMs = 0, perSecond }: Workload,
  onCounted: () => void = () => undefined,
): Promise<Worked> {
  const connections = Array.from({ length: clients }, () => new pg.Client(connectionConfig({ databaseUrl })));
  const tookMs: number[] = [];
  let errors = 0;
  let next = 0;
  await Promise.all(connections.map((client) => client.connect()));
  try {
    const walletIds = await pickWallets(connections[0]);
    const startedAt = performance.now();
    const countedFrom = startedAt + leadMs;
    const until = countedFrom + ms;
    setTimeout(onCounted, leadMs);
    const runClient = async (client: pg.Client) => {
      for (;;) {
        const nth = next;
        next += 1;
        const dueAt = perSecond === undefined ? performance.now() : startedAt + (nth * 1_000) / perSecond;
        if (dueAt >= until) return;
        const waitMs = dueAt - performance.now();
        if (waitMs > 0) await sleep(waitMs);
        try {
          await writeAsOldCode(client, walletIds[nth % walletIds.length] ?? '');
        } catch {
          errors += 1;
          await client.query('rollback');
        }
        if (dueAt >= countedFrom) tookMs.push(performance.now() - dueAt);
      }
    };
    await Promise.all(connections.map(runClient));
  } finally {
    await Promise.all(connections.map((client) => client.end()));
  }
  return { errors, tookMs };
}

/** In no order that the tables know. */
async function pickWallets(client: pg.Client | undefined): Promise<string[]> {
  const { rows } = (await client?.query<{ id: string }>('select id from wallets order by hashtext(id::text)')) ?? {
    rows: [],
  };
  return rows.map(({ id }) => id);
}
