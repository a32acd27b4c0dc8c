import type pg from 'pg';
import type { Pool, Queryable } from '../../../src/db/pool.ts';
import { type Act, Written } from './act.ts';
import type { Pools } from './running.ts';
import { type Cast, scenariosOf } from './scenarios.ts';
import { actsOf, pairActs } from './table-acts.ts';
import { readOldTables } from './tables.ts';

/** All that the old application does with these tables: what fails before they move is not among it. */
export async function possibleActs(pools: Pools, names: readonly string[]): Promise<readonly Act[]> {
  const tables = await readOldTables(pools.owner, names);
  const acts = [...tables.flatMap(actsOf), ...pairActs(tables), ...scenariosOf(await readCast(pools.owner))];
  const possible: Act[] = [];
  for (const act of acts) if (await isPossible(pools[act.as], act)) possible.push(act);
  return possible;
}

/** Both ways, as they will be taken. */
async function isPossible(pool: Pool, act: Act): Promise<boolean> {
  const client = await pool.connect();
  try {
    for (const isQualified of [true, false]) {
      await client.query('begin');
      const inside = withoutTransactions(client);
      await act.run(inside, { pick: () => 0, written: new Written(), isQualified });
      await client.query('rollback');
    }
    return true;
  } catch {
    await client.query('rollback');
    return false;
  } finally {
    client.release();
  }
}

/** The same connection, on which an act's own transaction is a part of the one that is rolled back. */
function withoutTransactions(client: pg.PoolClient): pg.PoolClient {
  const query = (text: unknown, values?: unknown[]) =>
    typeof text === 'string' && /^(begin|commit|rollback)$/u.test(text)
      ? Promise.resolve({ rows: [] })
      : client.query(text as string, values);
  return { query } as unknown as pg.PoolClient;
}

async function readCast(db: Queryable): Promise<Cast> {
  const ids = async (text: string) => (await db.query<{ id: string }>(text)).rows.map(({ id }) => id);
  const { rows: posts } = await db.query<Cast['posts'][number]>(
    `select min(p.id::text) as "postId", p.event_id as "eventId" from event_posts p
     join post_video_counters pc on pc.post_id = p.id join event_video_counters ec on ec.event_id = p.event_id
     group by p.event_id order by p.event_id limit 12`,
  );
  return {
    posts,
    people: await ids('select distinct user_id as id from notifications limit 12'),
    organizations: await ids('select id from organizations limit 12'),
    tiers: await ids(`select id from ticket_tiers where status = 'active' limit 12`),
    wallets: await ids('select id from wallets limit 12'),
  };
}
