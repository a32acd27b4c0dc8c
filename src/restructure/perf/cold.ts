import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import type { Failure } from './session.ts';
import type { Subject } from './subjects.ts';
import { type Timed, timedOf, timeRound } from './timings.ts';

/** Makes the server forget what it has in shared buffers. */
export interface Forgetting {
  /** In words, how. */
  readonly how: string;
  forget(client: Tx): Promise<void>;
}

export type Cold =
  | { readonly status: 'measured'; readonly how: string; readonly times: ReadonlyMap<Subject, Timed> }
  | { readonly status: 'not measured'; readonly why: string };

/** How often each is asked, with all of its values, with nothing in memory. */
const COLD_ROUNDS = 3;

/**
 * How long each takes with empty shared buffers. What the operating system has in its own memory, it keeps: that is said with the figures.
 * @throws AppError DB_* where the connection is gone
 */
export async function timeCold(
  client: Tx,
  subjects: readonly Subject[],
  options: {
    readonly forgetting: Forgetting | { readonly why: string };
    readonly timeoutMs: number;
    readonly onProgress: (done: number, total: number) => void;
  },
): Promise<Cold> {
  const { forgetting, timeoutMs, onProgress } = options;
  if ('why' in forgetting) return { status: 'not measured', why: forgetting.why };
  const rounds = new Map<Subject, (readonly number[] | Failure)[]>(subjects.map((subject) => [subject, []]));
  for (let round = 0; round < COLD_ROUNDS; round += 1) {
    for (const [at, subject] of subjects.entries()) {
      onProgress(round * subjects.length + at, COLD_ROUNDS * subjects.length);
      rounds
        .get(subject)
        ?.push(await timeRound(client, subject, { timeoutMs, first: () => forgetting.forget(client) }));
    }
  }
  return {
    status: 'measured',
    how: forgetting.how,
    times: new Map([...rounds].map(([subject, each]) => [subject, timedOf(each)])),
  };
}

const FIRST_WITH_EVICTION = 170_000;

/** What this server can be asked for, by whoever is connected; or why it cannot. @throws AppError DB_* */
export async function findForgetting(pool: Pool): Promise<Forgetting | { readonly why: string }> {
  const { rows } = await pool.query<{ version: number; isSuperuser: boolean; schema: string | null }>(
    `select current_setting('server_version_num')::int as version, current_setting('is_superuser') = 'on' as "isSuperuser",
       (select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'pg_buffercache') as schema`,
  );
  const { version = 0, isSuperuser = false, schema = null } = rows[0] ?? {};
  if (version < FIRST_WITH_EVICTION) return { why: 'shared buffers can be emptied from PostgreSQL 17 on' };
  if (!isSuperuser) return { why: 'only a superuser may empty shared buffers' };
  if (schema === null) return { why: 'it takes the extension pg_buffercache: create extension pg_buffercache' };
  if (!(await hasEviction(pool)))
    return { why: 'its pg_buffercache is of an older version: alter extension pg_buffercache update' };
  return {
    how: 'shared buffers emptied before each run, by pg_buffercache_evict; the operating system keeps what it has',
    forget: async (client) => {
      await client.query(
        `select count(${schema}.pg_buffercache_evict(bufferid)) from ${schema}.pg_buffercache
         where reldatabase in (0, (select oid from pg_database where datname = current_database()))`,
      );
    },
  };
}

async function hasEviction(db: Queryable): Promise<boolean> {
  const { rowCount } = await db.query(`select from pg_proc where proname = 'pg_buffercache_evict'`);
  return (rowCount ?? 0) > 0;
}
