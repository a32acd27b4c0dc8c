import type { Queryable } from '../../../src/db/pool.ts';
import type { Caller } from '../callers.ts';
import { FACTS } from './facts.ts';

/** Who calls, and for which organization, where he says so. */
export interface Person extends Caller {
  readonly name: string;
  /** The claim `org_id` of the token, as it is written there. */
  readonly claim?: unknown;
}

/** Those of a filled platform whose views are compared. */
export interface People {
  readonly nobody: Person;
  /** Owner of the organization with the most events, member of no other. */
  readonly inA: Person;
  /** The same of another organization, of which the most tables have rows, in nothing of the first. */
  readonly inB: Person;
  readonly organizationA: string;
  readonly organizationB: string;
  /** Holds tickets, and is a member of nothing. */
  readonly attendee: Person;
  /** Holds events of his own, for no organization. */
  readonly host: Person;
  /** A member of a sponsor, and of no organization. */
  readonly sponsor: Person;
  /** A member of several organizations, who acts for one of them. */
  readonly inSeveral: Person;
  readonly inSeveralFor: Person;
  readonly service: Person;
}

/** Finds them, as the superuser, in a platform whose tables have moved. */
export async function findPeople(db: Queryable): Promise<People> {
  const one = async (sql: string): Promise<readonly string[]> => {
    const { rows } = await db.query<{ found: string[] }>(sql);
    const [row] = rows;
    if (row === undefined) throw new Error(`the platform has nobody such: ${sql}`);
    return row.found;
  };
  const { rows: owners } = await db.query<{ user: string; organization: string }>(OWNERS);
  const filled = await tablesOf(db);
  const [a, ...others] = owners;
  const [b] = others.toSorted(
    (one, other) => (filled.get(other.organization)?.length ?? 0) - (filled.get(one.organization)?.length ?? 0),
  );
  if (a === undefined || b === undefined)
    throw new Error('the platform has no two organizations with owners of their own');
  const [attendee = ''] = await one(ATTENDEE);
  const [host = ''] = await one(HOST);
  const [sponsor = ''] = await one(SPONSOR);
  const [several = '', first = ''] = await one(SEVERAL);
  const signedIn = (name: string, userId: string, claim?: string): Person => ({
    name,
    role: 'authenticated',
    userId,
    ...(claim === undefined ? {} : { claim }),
  });
  return {
    nobody: { name: 'nobody', role: 'anon' },
    inA: signedIn('member of A', a.user),
    inB: signedIn('member of B', b.user),
    organizationA: a.organization,
    organizationB: b.organization,
    attendee: signedIn('attendee', attendee),
    host: signedIn('host', host),
    sponsor: signedIn('member of a sponsor', sponsor),
    inSeveral: signedIn('member of several', several),
    inSeveralFor: signedIn('member of several, for one', several, first),
    service: { name: 'service', role: 'bypassing_service' },
  };
}

/** By organization, the tables with rows of it. */
export async function tablesOf(db: Queryable): Promise<ReadonlyMap<string, readonly string[]>> {
  const each = Object.entries(FACTS).flatMap(([table, { organization }]) =>
    organization === undefined
      ? []
      : [`select '${table}' as "table", ${organization} as organization from public.${table} t`],
  );
  const { rows } = await db.query<{ organization: string; tables: string[] }>(
    `select organization, array_agg(distinct "table") as tables from (${each.join(' union all ')}) x where organization is not null group by 1`,
  );
  return new Map(rows.map(({ organization, tables }) => [organization, tables]));
}

const REAL = `select m.user_id, m.org_id, m.role from org_memberships m join organizations o on o.id = m.org_id where o.name <> 'Personal'`;

const OWNERS = `
  with member as (${REAL})
  select m.user_id as "user", m.org_id as organization
  from member m
  where m.role = 'owner' and (select count(*) from member x where x.user_id = m.user_id) = 1
    and not exists (select from sponsor_members s where s.user_id = m.user_id)
  order by (select count(*) from events e where e.owner_context_id = m.org_id) desc, 1`;

const UNBOUND = `not exists (select from org_memberships m where m.user_id = x.id) and not exists (select from sponsor_members s where s.user_id = x.id)`;

const ATTENDEE = `
  select array[x.id::text] as found from (select t.owner_user_id as id, count(*) as n from tickets t group by 1) x
  where ${UNBOUND} order by n desc, 1 limit 1`;

const HOST = `
  select array[x.id::text] as found
  from (select e.created_by as id, count(*) as n from events e where e.owner_context_type = 'individual' group by 1) x
  order by n desc, 1 limit 1`;

const SPONSOR = `
  select array[m.user_id::text] as found from sponsor_members m join sponsorship_orders o on o.sponsor_id = m.sponsor_id
  where not exists (select from org_memberships x where x.user_id = m.user_id)
  group by m.user_id order by count(*) desc, 1 limit 1`;

const SEVERAL = `
  with member as (${REAL})
  select array[m.user_id::text, min(m.org_id::text)] as found from member m
  group by m.user_id having count(*) > 1 order by count(*) desc, m.user_id limit 1`;
