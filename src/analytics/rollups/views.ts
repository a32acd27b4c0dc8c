import type { Pool } from '../../db/pool.ts';
import { untilStopped } from '../../db/until-stopped.ts';

export interface Refreshed {
  readonly view: string;
  readonly status: 'refreshed' | 'under way' | 'failed';
  readonly seconds: number | null;
  readonly rows: bigint | null;
  readonly error: string | null;
  /** It failed because rows are not unique by what the view is declared to be unique by. */
  readonly isNotUnique: boolean;
}

/**
 * Refreshes a view beside its readers, unless somebody else is at it.
 * @throws AppError ROLLUP_UNKNOWN, STOPPED, DB_*
 */
export function refreshView(
  pool: Pool,
  view: string,
  { stop }: { readonly stop?: AbortSignal | undefined } = {},
): Promise<Refreshed> {
  return untilStopped(pool, { stop, left: `${view} has the rows that it had.` }, async (client) => {
    const before = await lastRefresh(client, view);
    await client.query('call rollups.refresh($1)', [view]);
    const last = await lastRefresh(client, view);
    if (last === undefined || last.id === before?.id || last.seconds === null)
      return { view, status: 'under way', seconds: null, rows: null, error: null, isNotUnique: false };
    const { seconds, rows, error, isNotUnique } = last;
    return { view, status: error === null ? 'refreshed' : 'failed', seconds, rows, error, isNotUnique };
  });
}

/** What helps a view that could not be filled or refreshed. Its name is that of its file. */
export const viewRemedy = (name: string, isNotUnique: boolean): string =>
  isNotUnique
    ? `Change "unique" of ${name} in the file, then run: liventix rollups remove --name ${name}, and apply.`
    : 'Remove the cause, then run: liventix rollups refresh.';

/** Refreshes what is due: each view within its interval, what failed a minute later, then ever more seldom. For a worker. */
export async function refreshViews(pool: Pool): Promise<readonly Refreshed[]> {
  const { rows } = await pool.query<{ view: string }>('select v.view from rollups.due_views() v (view)');
  const refreshed: Refreshed[] = [];
  for (const { view } of rows) refreshed.push(await refreshView(pool, view));
  return refreshed;
}

interface Last {
  readonly id: bigint;
  readonly seconds: number | null;
  readonly rows: bigint | null;
  readonly error: string | null;
  readonly isNotUnique: boolean;
}

async function lastRefresh(db: Pick<Pool, 'query'>, view: string): Promise<Last | undefined> {
  const { rows } = await db.query<Last>(
    `select id, extract(epoch from finished_at - started_at)::float8 as seconds, rows, error, is_not_unique as "isNotUnique"
     from rollups.refreshes where view = $1 order by id desc limit 1`,
    [view],
  );
  return rows[0];
}
