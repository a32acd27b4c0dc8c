import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable } from '../../db/pool.ts';
import { type UnderLockOptions, underLock } from '../../db/under-lock.ts';
import { AppError } from '../../errors.ts';
import type { RefreshedView, Rollup } from './declaration.ts';
import { targetOf } from './names.ts';
import { madeName } from './resolve.ts';
import { dropStatements } from './statements.ts';

export type RemoveOptions = Pick<UnderLockOptions, 'stop' | 'maxTries' | 'onBusy' | 'lockedForAtMostMs'>;

export interface Removed {
  readonly kind: 'rollup' | 'view';
  readonly name: string;
  /** The source that its triggers were on, as it is called now; null where there is none any more. */
  readonly of: string | null;
  readonly statements: readonly string[];
}

interface Kept {
  readonly declaration: Rollup;
  readonly source: string | null;
  readonly isLast: boolean;
}

// A source that has become a view, or is gone, has nothing of ours.
const KEPT = `
  with kept as (
    select r.name, r.declaration, (
      select s.name from unnest(r.sources) with ordinality s (name, number)
      join pg_class c on c.oid = to_regclass(s.name) and c.relkind in ('r', 'p')
      order by s.number limit 1) as source
    from rollups.rollups r)
  select k.declaration, k.source, not exists (select from kept o where o.source = k.source and o.name <> k.name) as "isLast"
  from kept k where $1::text[] is null or k.name = any ($1) order by k.name`;

/**
 * Undoes apply: drops rollups with what was counted, their triggers and, with the last of a source, the column recorded_xid; and views.
 * @param names all of them when left out
 * @throws AppError ROLLUP_UNKNOWN, ROLLUP_BUSY, ROLLUP_TOO_LONG, DB_*
 */
export async function removeRollups(
  pool: Pool,
  names: readonly string[] | undefined,
  options: RemoveOptions = {},
): Promise<readonly Removed[]> {
  await assertKnown(pool, names);
  const removed: Removed[] = [];
  for (const view of await keptViews(pool, names)) {
    const dropped = await droppedView(pool, view);
    await givingWay(pool, { code: 'ROLLUP_BUSY', what: dropped.name, ...options }, async (tx) => {
      await tx.query(dropped.statements.join(';\n'));
      await tx.query('delete from rollups.views where name = $1', [dropped.name]);
    });
    removed.push(dropped);
  }
  for (const { name } of (await keptRollups(pool, names)).map(({ declaration }) => declaration)) {
    const [kept] = await keptRollups(pool, [name]);
    if (kept === undefined) continue;
    const dropped = await droppedRollup(pool, kept);
    await underLock(pool, { room: 'ROLLUP', what: dropped.of ?? dropped.name, ...options }, async (tx) => ({
      names: dropped.of === null ? [] : [dropped.of],
      // The rollup's table; what is beside it nobody else uses.
      locksLater: 1,
      work: async () => {
        await tx.query(dropped.statements.join(';\n'));
        await tx.query('delete from rollups.marks where rollup = $1', [name]);
        await tx.query('delete from rollups.rollups where name = $1', [name]);
      },
    }));
    removed.push(dropped);
  }
  return removed;
}

/** What remove would do, as the SQL that would run. */
export async function planRemoval(db: Queryable, names: readonly string[] | undefined): Promise<readonly Removed[]> {
  await assertKnown(db, names);
  const planned: Removed[] = [];
  for (const view of await keptViews(db, names)) planned.push(await droppedView(db, view));
  for (const kept of await keptRollups(db, names)) planned.push(await droppedRollup(db, kept));
  return planned;
}

const keptRollups = async (db: Queryable, names: readonly string[] | undefined): Promise<readonly Kept[]> =>
  (await db.query<Kept>(KEPT, [names ?? null])).rows;

const keptViews = async (db: Queryable, names: readonly string[] | undefined): Promise<readonly RefreshedView[]> => {
  const { rows } = await db.query<{ declaration: RefreshedView }>(
    `select declaration from rollups.views where $1::text[] is null or declaration ->> 'name' = any ($1) order by name`,
    [names ?? null],
  );
  return rows.map(({ declaration }) => declaration);
};

const droppedView = async (db: Queryable, view: RefreshedView): Promise<Removed> => ({
  kind: 'view',
  name: await madeName(db, view),
  of: null,
  statements: [`drop materialized view if exists ${targetOf(view)}`],
});

const droppedRollup = async (db: Queryable, { declaration, source, isLast }: Kept): Promise<Removed> => ({
  kind: 'rollup',
  name: await madeName(db, declaration),
  of: source,
  statements: dropStatements(declaration, source, isLast),
});

async function assertKnown(db: Queryable, names: readonly string[] | undefined): Promise<void> {
  if (names === undefined) return;
  const { rows } = await db.query<{ name: string }>(
    `select name from rollups.rollups union select declaration ->> 'name' from rollups.views`,
  );
  const unknown = names.find((name) => !rows.some((row) => row.name === name));
  if (unknown !== undefined)
    throw new AppError(
      'ROLLUP_UNKNOWN',
      `There is no rollup or view ${unknown}. Those that are kept: liventix rollups status`,
    );
}
