import type { Queryable } from '../db/pool.ts';

const RUNS = new WeakMap<Queryable, Map<string, number>>();

/**
 * The name under which a statement is prepared: another after ten, a hundred, a thousand … runs. A plan is kept for as long as its name
 * is; one that was made while the tables were empty would read all of them when they are not.
 */
export function preparedName(db: Queryable, statement: string): string {
  const runs = RUNS.get(db) ?? new Map<string, number>();
  RUNS.set(db, runs);
  const run = (runs.get(statement) ?? 0) + 1;
  runs.set(statement, run);
  return `${statement} ${Math.floor(Math.log10(run))}`;
}
