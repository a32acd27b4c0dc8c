import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import type { Mapping } from '../mapping.ts';
import type { AccessStep } from './access.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

interface Definer {
  readonly function: string;
  readonly owner: string;
  readonly isOurs: boolean;
  /** As the catalog has it; null where it looks names up as whoever calls does. */
  readonly path: string | null;
}

export interface Definers {
  readonly steps: readonly AccessStep[];
  /** Functions of others, whom alone they obey, with their owners. */
  readonly ofOthers: readonly string[];
}

/**
 * Where functions that run as their owner look names up: as before, and in pg_temp last. Unless that is said, tables and types are looked
 * for there first, where whoever calls has put what he likes: a table of members by which he is one, a trigger that the owner then runs.
 * @param usual the schemas that a function looks names up in where nothing says it
 */
export async function definerSteps(db: Queryable, mapping: Mapping, usual: readonly string[]): Promise<Definers> {
  const { rows } = await db.query<Definer>(DEFINERS, [
    [mapping.from, ...mapping.schemas.map(({ name }) => name)],
    mapping.tenancy?.functions.invoker ?? [],
  ]);
  return {
    steps: rows.filter(({ isOurs }) => isOurs).map((definer) => definerStep(definer, usual)),
    ofOthers: rows.filter(({ isOurs }) => !isOurs).map((definer) => `${definer.function} of ${definer.owner}`),
  };
}

function definerStep({ function: called, path }: Definer, usual: readonly string[]): AccessStep {
  const alter = `alter routine ${called}`;
  return {
    kind: 'function path',
    object: called,
    relations: [],
    statements: [`${alter} set search_path = ${[...namesOf(path, usual), 'pg_temp'].join(', ')}`],
    inverse: [whereItEndsSo(called, `${alter} ${former(path)}`)],
    mayChange: [],
  };
}

/** What it looks through but pg_temp. An empty path still finds what is PostgreSQL's. */
function namesOf(path: string | null, usual: readonly string[]): readonly string[] {
  if (path === null) return usual.map(ident);
  const names = (path.match(/"(?:[^"]|"")*"|[^\s,"]+/gu) ?? []).filter((name) => !/^(?:""|"?pg_temp"?)$/u.test(name));
  return names.length === 0 ? ['pg_catalog'] : names;
}

const former = (path: string | null): string => {
  if (path === null) return 'reset search_path';
  return `set search_path = ${path === '' || path === '""' ? `''` : path}`;
};

/** Not where somebody has dropped it since, or said something else. */
const whereItEndsSo = (called: string, statement: string): string =>
  `do ${literal(`begin
  if exists (
    select from pg_catalog.pg_proc f, pg_catalog.unnest(f.proconfig) setting
    where f.oid = pg_catalog.to_regprocedure(${literal(called)}) and setting ~ '${ENDS_WITH_PG_TEMP}'
  ) then
    ${statement};
  end if;
end`)}`;

/** Of a setting in pg_proc.proconfig. */
const ENDS_WITH_PG_TEMP = '^search_path=(.*, ?)?"?pg_temp"?$';

/** Functions of extensions are not ours; those of $2 are about to run as whoever calls them. */
const DEFINERS = `
  select f.oid::regprocedure::text as function, pg_get_userbyid(f.proowner) as owner, pg_has_role(f.proowner, 'usage') as "isOurs",
    (select substr(setting, length('search_path=') + 1) from unnest(f.proconfig) setting where setting like 'search\\_path=%') as path
  from pg_proc f join pg_namespace n on n.oid = f.pronamespace
  where f.prosecdef and n.nspname = any ($1) and f.proname <> all ($2)
    and not exists (select from unnest(f.proconfig) setting where setting ~ '${ENDS_WITH_PG_TEMP}')
    and not exists (
      select from pg_depend d
      where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')
  order by 1`;
