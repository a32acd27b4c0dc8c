import type { Queryable } from '../db/pool.ts';

export type StepKind =
  | 'role'
  | 'member'
  | 'schema'
  | 'usage'
  | 'table'
  | 'function'
  | 'replacement'
  | 'search path'
  // Whose rows are whose.
  | 'tenant function'
  | 'tenant replacement'
  | 'tenant column'
  | 'tenant follows'
  | 'tenant not null'
  | 'tenant index'
  | 'policies'
  | 'privileges'
  | 'view'
  | 'old policies'
  | 'function access'
  | 'function path';

/** What was done and is not undone. */
export interface StandingStep {
  readonly id: bigint;
  readonly kind: StepKind;
  /** By the name that it had before: `public.orders`. */
  readonly object: string;
  /** Of a table, its bare name then. */
  readonly table: string | null;
  /** The relations that it was done to, the object first. */
  readonly relations: readonly number[];
  /** How many sequences belong to them. */
  readonly sequences: number;
  readonly plan: string;
  readonly inverse: readonly string[];
  readonly doneAt: Date;
}

/** In the order in which it was done. */
export async function readStanding(db: Queryable): Promise<readonly StandingStep[]> {
  const { rows } = await db.query<StandingStep>(
    `select id, kind, object, relations, (
       select substr(fact, length(relations[1] || ' relation ') + 1) from jsonb_object_keys(before) fact
       where kind = 'table' and starts_with(fact, relations[1] || ' relation ')) as table,
       (select count(*)::int from jsonb_object_keys(before) fact where split_part(fact, ' ', 2) = 'sequence') as sequences,
        plan, inverse, done_at as "doneAt"
     from restructure.steps where undone_at is null order by id`,
  );
  return rows;
}

/** By which a step is known to stand: `table public.orders`. */
export const standingKeys = (standing: readonly StandingStep[]): ReadonlySet<string> =>
  new Set(standing.map(({ kind, object }) => `${kind} ${object}`));
