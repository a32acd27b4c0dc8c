import type { Rule } from '../rule.ts';
import type { Routine } from '../world.ts';

export const definerWithoutSearchPath: Rule = {
  id: 'definer-without-search-path',
  *end({ routines }) {
    for (const routine of routines.values()) {
      const fault = routine.isDefiner ? faultOf(routine) : undefined;
      if (fault !== undefined) yield { statement: routine.statement, message: fault };
    }
  },
};

/** PostgreSQL looks for tables and types among the temporary ones first, unless the path says where they come. */
function faultOf({ name, searchPath: path }: Routine): string | undefined {
  if (path === undefined)
    return `${name} runs with the rights of its owner and finds names by the caller's search_path: the caller decides which table or operator that is. set search_path = pg_catalog, pg_temp on it, and write schemas out.`;
  if (path.length > 0 && path.indexOf('pg_temp') === path.length - 1) return undefined;
  return `${name} runs with the rights of its owner, and its search_path does not end in pg_temp: a temporary table or type of the caller's is found first, whatever else is in the path. set search_path = pg_catalog, pg_temp on it, and write schemas out.`;
}
