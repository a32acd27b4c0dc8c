import pg from 'pg';
import type { Queryable, Tx } from '../../../db/pool.ts';
import { isDenied } from '../../../db/sqlstate.ts';
import { withSavepoint } from '../../../db/transaction.ts';
import { AppError } from '../../../errors.ts';
import type { Mapping } from '../../mapping.ts';
import { type Content, SAME_TEXT, wholeSql } from '../content.ts';
import { nameNow, oldName, type Place } from './places.ts';
import { readWriteConditions, type WriteConditions, type Writes } from './writes.ts';

const { escapeIdentifier: ident } = pg;

/** Whose eyes a table is looked at with: a role, and the user that the claims of a token name; nobody where it is null. */
export interface Viewer {
  readonly role: string;
  readonly user: string | null;
}

export const viewerName = ({ role, user }: Viewer): string => (user === null ? role : `${role} as ${user}`);

/** How many rows a viewer sees and the sum of their hashes, or the SQLSTATE with which he is refused; SLOW where looking took too long. */
export type Seen = [rows: number, hash: string] | string;
export const SLOW = '57014';

export interface Sight {
  readonly seen: Seen;
  /** How many of the rows that he sees are older than a recording; null where that was not asked for, or refused. */
  readonly older: number | null;
  /** What he may write of them; null where that was not asked for, or refused. */
  readonly writes: Writes | null;
}

export interface Viewers {
  /** All roles of the mapping that there are. */
  readonly roles: readonly string[];
  readonly viewers: readonly Viewer[];
  /** Roles that whoever asks may not become. */
  readonly leftOut: readonly string[];
}

/** Readers as nobody and as each tenant, writers as nobody, in the order of the mapping. */
export async function findViewers(tx: Tx, mapping: Mapping, places: readonly Place[]): Promise<Viewers> {
  const readers = mapping.roles?.readers ?? [];
  const roles = await existingRoles(tx, [...new Set([...readers, ...(mapping.roles?.writers ?? [])])]);
  const leftOut: string[] = [];
  for (const role of roles) if (!(await mayBecome(tx, role))) leftOut.push(role);
  const tenants = await findTenants(tx, mapping, places);
  const viewers = roles
    .filter((role) => !leftOut.includes(role))
    .flatMap((role) => [
      { role, user: null },
      ...(readers.includes(role) ? tenants.map((user) => ({ role, user })) : []),
    ]);
  return { roles, viewers, leftOut };
}

/** In the order of those asked for. */
export async function existingRoles(db: Queryable, roles: readonly string[]): Promise<readonly string[]> {
  const { rows } = await db.query<{ role: string }>('select rolname as role from pg_roles where rolname = any ($1)', [
    roles,
  ]);
  return roles.filter((role) => rows.some((row) => row.role === role));
}

export async function mayBecome(tx: Tx, role: string): Promise<boolean> {
  try {
    await withSavepoint(tx, () => tx.query(`set local role ${ident(role)}; set local role none`));
    return true;
  } catch (error) {
    if (error instanceof AppError && isDenied(error.cause)) return false;
    throw error;
  }
}

const TENANTS = 3;

/** One member of each of the largest organizations, who belongs to as few others as possible: always the same for the same rows. */
async function findTenants(tx: Tx, { tenancy }: Mapping, places: readonly Place[]): Promise<readonly string[]> {
  const place = places.find(({ name, table }) => name === tenancy?.organizations.table && name === table);
  if (tenancy === undefined || place === undefined) return [];
  const [user, group] = [ident(columnOf(tenancy.organizations.user)), ident(tenancy.organizations.group)];
  const { rows } = await tx.query<{ users: string[] }>(
    `with member as (
       select distinct ${user}::text as "user", ${group}::text as "group" from ${nameNow(place)} where ${user} is not null and ${group} is not null
     ), counted as (select m.*, count(*) over (partition by m."user") as groups from member m)
     select (array_agg("user" order by groups, "user" collate "C"))[1:${TENANTS}] as users
     from counted group by "group" order by count(*) desc, "group" collate "C" limit ${TENANTS}`,
  );
  const tenants: string[] = [];
  for (const { users } of rows) tenants.push(...users.filter((each) => !tenants.includes(each)).slice(0, 1));
  return tenants;
}

/** A column of a mapping, whether or not it says when it counts. */
const columnOf = (said: string | { readonly column: string }): string =>
  typeof said === 'string' ? said : said.column;

/** How a session is made a viewer's. */
export interface Disguise {
  /** The setting that has the claims of the token. */
  readonly claimsSetting: string;
  /** That of whoever runs it: names in the functions of policies are looked up as they are for him. */
  readonly searchPath: string;
  readonly patience: Patience;
}

/** A policy may ask a function about every row, and a look at one table take hours. */
export interface Patience {
  /** For how long one look may take. */
  readonly ms: number;
  /** The oids of tables where one took longer, which nobody looks at any more. */
  readonly slow: Set<number>;
}
export const PATIENCE_MS = 10_000;

/** A place, which of its columns are looked at, and what is counted of its rows. */
export interface Sighting {
  readonly place: Place;
  readonly content: Content;
  /** SQL that is true of rows that are older than a recording. */
  readonly older?: string;
}

/** What a place shows by its old name, and by the new where it has one. */
export interface Sights {
  readonly now: Sight;
  readonly byNewName: Sight | null;
}

/** Looks at each in turn with a viewer's eyes, and becomes oneself again. What he is refused is an answer; what fails otherwise is thrown. */
export async function lookAs(
  tx: Tx,
  viewer: Viewer,
  { claimsSetting, searchPath, patience }: Disguise,
  sightings: readonly Sighting[],
): Promise<readonly Sights[]> {
  const claims = viewer.user === null ? '' : JSON.stringify({ sub: viewer.user, role: viewer.role });
  const places = sightings.map(({ place }) => place);
  const conditions = await readWriteConditions(tx, viewer.role, places);
  await tx.query('savepoint disguise');
  await tx.query(`set local row_security = on; set local statement_timeout = ${patience.ms}; ${SAME_TEXT}`);
  await tx.query(`select set_config($1, $2, true), set_config('search_path', $3, true)`, [
    claimsSetting,
    claims,
    searchPath,
  ]);
  await tx.query(`set local role ${ident(viewer.role)}`);
  const sights: Sights[] = [];
  for (const { place, content, older } of sightings) {
    const writes = conditions.get(place.oid);
    const seeing = (looked: Looked) => (patience.slow.has(place.oid) ? TOO_SLOW : look(tx, looked));
    const itself = await seeing({ name: nameNow(place), content, older, writes });
    if (itself.seen === SLOW) patience.slow.add(place.oid);
    sights.push(
      place.isMoved
        ? { now: await seeing({ name: oldName(place), content }), byNewName: itself }
        : { now: itself, byNewName: null },
    );
  }
  await tx.query('rollback to savepoint disguise; release savepoint disguise');
  return sights;
}

interface Looked {
  readonly name: string;
  readonly content: Content;
  readonly older?: string | undefined;
  readonly writes?: WriteConditions | undefined;
}

const TOO_SLOW: Sight = { seen: SLOW, older: null, writes: null };

async function look(tx: Tx, { name, content, older, writes = [] }: Looked): Promise<Sight> {
  const counted = [...(older === undefined ? [] : [older]), ...writes];
  const more = counted.map((condition, at) => `count(*) filter (where ${condition}) as count_${at}`);
  try {
    const { rows } = await withSavepoint(tx, () =>
      tx.query<{ rows: bigint; hash: string } & Record<`count_${number}`, bigint>>(wholeSql(name, content, more)),
    );
    const [row] = rows;
    if (row === undefined) throw new AppError('INTERNAL', `The server counted no rows of ${name}.`);
    const counts = counted.map((_, at) => Number(row[`count_${at}`]));
    const ofOlder = older === undefined ? null : (counts.shift() ?? null);
    const [inserts, updates, deletes] = counts;
    const isAsked = inserts !== undefined && updates !== undefined && deletes !== undefined;
    return {
      seen: [Number(row.rows), row.hash],
      older: ofOlder,
      writes: isAsked ? [inserts, updates, deletes] : null,
    };
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal === SLOW) return TOO_SLOW;
    // Whoever may read every column may still not read by whom a row was written, nor call what another verb's policy does.
    return counted.length === 0 ? { seen: refusal, older: null, writes: null } : look(tx, { name, content });
  }
}

/** What a role is refused, what took too long, or what is wrong with a policy, a function or a name: not what is the machine's or the network's. */
function refusalOf(error: unknown): string {
  const cause = error instanceof AppError ? error.cause : undefined;
  if (cause instanceof pg.DatabaseError && /^(?:22|25006|42|57014|P0)/u.test(cause.code ?? '')) return cause.code ?? '';
  throw error;
}

const VERBS = ['select', 'insert', 'update', 'delete'] as const;

/** By relation, then by role, in words: `select insert update(columns)`; none where nothing bears the name. */
export async function readPrivileges(
  db: Queryable,
  roles: readonly string[],
  names: readonly string[],
): Promise<readonly (readonly string[])[]> {
  const { rows } = await db.query<{ words: string[] }>(
    `select array(
       select coalesce(string_agg(v.verb || case
           when has_table_privilege(r.role::name, t.oid, v.verb) then ''
           when v.verb = 'delete' then null
           when has_any_column_privilege(r.role::name, t.oid, v.verb) then '(columns)' end, ' ' order by v.at), '')
       from unnest($1::text[]) with ordinality r (role, at) cross join unnest($3::text[]) with ordinality v (verb, at)
       group by r.at order by r.at) as words
     from (select to_regclass(name)::oid as oid, at from unnest($2::text[]) with ordinality n (name, at)) t order by t.at`,
    [roles, names, VERBS],
  );
  return rows.map(({ words }) => words);
}
