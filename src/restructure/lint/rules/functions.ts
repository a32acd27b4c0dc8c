import type { Rule } from '../rule.ts';

export const definerWithoutSearchPath: Rule = {
  id: 'definer-without-search-path',
  *end({ routines }) {
    for (const { name, statement, isDefiner, hasSearchPath } of routines.values()) {
      if (!isDefiner || hasSearchPath) continue;
      yield {
        statement,
        message: `${name} runs with the rights of its owner and finds names by the caller's search_path: the caller decides which table or operator that is. set search_path = pg_catalog, pg_temp on it, and write schemas out.`,
      };
    }
  },
};
