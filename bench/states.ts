import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { createPool, openPool, type Pool, type Tx } from '../src/db/pool.ts';
import { createLegacyDatabase, createMachineTables } from '../src/demo/legacy-database.ts';
import { install } from '../src/states/install.ts';
import { proposal } from '../src/states/machines/proposal.ts';
import { median, print, spread } from './figures.ts';
import { openBenchHome } from './home.ts';

const ROWS = 5_000;
const SESSIONS = [1, 16] as const;
/** What is owed, in a transaction: at most so many times what the same costs on the same table without the machine. */
const TARGETS: Readonly<Record<Change, number>> = { 'a change of state': 1.5, 'another change': 1.05 };

type Change = 'a change of state' | 'another change';
/** `in a transaction`: begin, update, commit, as applications do. `by itself`: the statement is the transaction. */
type Way = 'in a transaction' | 'by itself';

const WAYS: readonly Way[] = ['in a transaction', 'by itself'];

/** Word for word what old code runs, on a row of random choice: a proposal is sent, answered by a counter-offer, sent again. */
const UPDATES: Readonly<Record<Change, (table: string) => string>> = {
  'a change of state': (table) =>
    `update ${table} set status = case status when 'sent' then 'counter' else 'sent' end where id = $1`,
  'another change': (table) => `update ${table} set created_by = created_by where id = $1`,
};

/** Both have the old platform's triggers and indexes; the second has none of ours. */
const TABLES = { watched: 'public.proposal_threads', plain: 'public.plain_threads' } as const;

/**
 * What does a machine cost whoever writes its table: a change of state (judged, written into the history, announced) and any other, each
 * against the same statement on a table that is the same but for the machine? Answers whether the targets were met.
 */
export async function benchStates(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { rounds: { type: 'string', default: '15' }, seconds: { type: 'string', default: '1' } },
  });
  const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
  const home = await openBenchHome();
  try {
    const setUp = await openPool({ databaseUrl: home.databaseUrl });
    await fill(setUp, home.databaseUrl).finally(() => setUp.end());
    const pool = createPool({ databaseUrl: home.databaseUrl, max: Math.max(...SESSIONS) });
    try {
      print(`load of the machine: ${loadavg()[0]?.toFixed(1)}; ${rounds} rounds of ${seconds} s for each, by turns`);
      const met: boolean[] = [];
      for (const change of Object.keys(UPDATES) as Change[]) {
        for (const sessions of SESSIONS) {
          for (const way of WAYS) met.push(await compare(pool, { change, sessions, way }, rounds, seconds * 1_000));
        }
      }
      if (!met.every(Boolean)) print('\na target was MISSED');
      return met.every(Boolean);
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function fill(pool: Pool, databaseUrl: string): Promise<void> {
  await createLegacyDatabase(pool);
  await createMachineTables(pool);
  await migrate(databaseUrl);
  await pool.query(
    `with organiser as (
       insert into auth.users (email) values ('a@example.org') returning id
     ), organization as (
       insert into public.organizations (name, created_by) select 'Organisers', id from organiser returning id, created_by
     ), event as (
       insert into public.events (owner_context_type, owner_context_id, created_by, title, start_at, end_at)
       select 'organization', id, created_by, 'An evening', now(), now() + interval '1 day' from organization
       returning id, created_by
     ), sponsor as (
       insert into public.sponsors (name, created_by) select 'Sponsors', created_by from event, generate_series(1, ${ROWS}) returning id
     )
     insert into public.proposal_threads (event_id, sponsor_id, created_by, status)
     select e.id, s.id, e.created_by, 'sent' from event e, sponsor s`,
  );
  await pool.query(
    `create table ${TABLES.plain} (like ${TABLES.watched} including all);
     create trigger set_updated_at before update on ${TABLES.plain} for each row execute function public.trigger_set_updated_at();
     insert into ${TABLES.plain} select * from ${TABLES.watched}`,
  );
  await install(pool, proposal);
  await pool.query(`vacuum analyze ${TABLES.plain}, ${TABLES.watched}`);
}

interface Case {
  readonly change: Change;
  readonly sessions: number;
  readonly way: Way;
}

/** Prints how many times as long it takes. A statement by itself shows what of that is the server's, and is not owed. */
async function compare(pool: Pool, the: Case, rounds: number, ms: number): Promise<boolean> {
  const ids = (await pool.query<{ id: string }>(`select id from ${TABLES.plain}`)).rows.map(({ id }) => id);
  const rates = { watched: [] as number[], plain: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const side of round % 2 === 0 ? (['plain', 'watched'] as const) : (['watched', 'plain'] as const)) {
      rates[side].push(await commitsPerSecond(pool, the, TABLES[side], ids, ms));
    }
  }
  const ratios = rates.plain.map((plain, round) => plain / (rates.watched[round] ?? Number.NaN));
  const target = the.way === 'in a transaction' ? TARGETS[the.change] : undefined;
  const owed = target === undefined ? '' : `; at most ${target}: ${median(ratios) <= target ? 'met' : 'MISSED'}`;
  const perSecond = `${Math.round(median(rates.watched))} and ${Math.round(median(rates.plain))} a second`;
  print(`${the.change}, ${the.sessions} sessions, ${the.way}: ${spread(ratios)} times (${perSecond})${owed}`);
  return target === undefined || median(ratios) <= target;
}

async function commitsPerSecond(
  pool: Pool,
  the: Case,
  table: string,
  ids: readonly string[],
  ms: number,
): Promise<number> {
  const statement = { name: `${the.change} ${table}`, text: UPDATES[the.change](table) };
  const startedAt = performance.now();
  let commits = 0;
  await Promise.all(
    Array.from({ length: the.sessions }, async () => {
      const client = await pool.connect();
      while (performance.now() < startedAt + ms) {
        const values = [ids[Math.floor(Math.random() * ids.length)]];
        await change(client, the.way, { ...statement, values });
        commits += 1;
      }
      client.release();
    }),
  );
  return (commits * 1_000) / (performance.now() - startedAt);
}

async function change(
  client: Tx,
  way: Way,
  statement: { name: string; text: string; values: unknown[] },
): Promise<void> {
  if (way === 'by itself') {
    await client.query(statement);
    return;
  }
  await client.query('begin');
  await client.query(statement);
  await client.query('commit');
}
