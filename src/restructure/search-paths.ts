import pg from 'pg';
import type { Queryable } from '../db/pool.ts';
import { assertAsMade, type FoundationStep } from './foundation.ts';
import type { Mapping } from './mapping.ts';

const { escapeIdentifier: ident } = pg;

interface Found {
  readonly role: string;
  readonly database: string;
  /** What it looks names up in, as it is set for it in this database, for it, for this database, or for the server. */
  readonly path: string;
  /** What is set for it in this database. */
  readonly own: string | null;
}

/**
 * That unqualified names go on meaning the same when the views are gone: one step a role. The new schemas come after the old one, with
 * all else as it was; whoever does not look there is left alone.
 * @throws AppError DB_*
 */
export async function readSearchPaths(
  db: Queryable,
  { roles, from, schemas }: Mapping,
): Promise<readonly FoundationStep[]> {
  const { rows } = await db.query<Found>(PATHS, [[...(roles?.readers ?? []), ...(roles?.writers ?? [])]]);
  return rows.flatMap(({ role, database, path, own }) => {
    const extended = extendedPath(path, { from, targets: schemas.map(({ name }) => name) });
    if (extended === undefined) return [];
    const setting = `alter role ${ident(role)} in database ${ident(database)}`;
    return [
      {
        kind: 'search path' as const,
        object: role,
        statements: [`${setting} set search_path = ${extended}`],
        inverse: [
          assertAsMade('search path', role),
          own === null ? `${setting} reset search_path` : `${setting} set search_path = ${own}`,
        ],
        mayChange: [],
      },
    ];
  });
}

/** The path with the targets after the schema that they come from; undefined where it has not that one, or has them all. */
export function extendedPath(
  path: string,
  { from, targets }: { from: string; targets: readonly string[] },
): string | undefined {
  const names = [...path.matchAll(/"((?:[^"]|"")*)"|([^\s,"]+)/gu)].map(([, quoted, bare]) =>
    quoted === undefined ? (bare ?? '').toLowerCase() : quoted.replaceAll('""', '"'),
  );
  const lacking = targets.filter((target) => !names.includes(target));
  if (!names.includes(from) || lacking.length === 0) return undefined;
  return names
    .flatMap((name) => (name === from ? [name, ...lacking] : [name]))
    .map(ident)
    .join(', ');
}

/** A session of ours may have a path of its own: then the server's is what it comes with. */
const PATHS = `
  with set_for as (
    select s.setrole, s.setdatabase, substr(setting, length('search_path=') + 1) as path
    from pg_db_role_setting s, unnest(s.setconfig) setting
    where setting like 'search\\_path=%' and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  )
  select r.rolname::text as role, current_database() as database,
    coalesce(
      (select s.path from set_for s where s.setrole in (0, r.oid) order by s.setrole = 0, s.setdatabase = 0 limit 1),
      (select case when p.source in ('default', 'configuration file') then p.reset_val else p.boot_val end from pg_settings p where p.name = 'search_path')
    ) as path,
    (select s.path from set_for s where s.setrole = r.oid and s.setdatabase <> 0) as own
  from unnest($1::text[]) with ordinality asked (name, at) join pg_roles r on r.rolname = asked.name
  group by r.oid, r.rolname
  order by min(asked.at)`;
