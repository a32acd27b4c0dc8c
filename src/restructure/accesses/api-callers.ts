import type { Queryable } from '../../db/pool.ts';

/** Who asks: the database role that the API takes on, and the claims of the token that came with the request. */
export interface ApiCaller {
  readonly name: string;
  readonly role: string;
  readonly claims: Readonly<Record<string, string>>;
}

const SERVICE: ApiCaller = { name: 'service', role: 'service_role', claims: { role: 'service_role' } };
const STRANGER: ApiCaller = { name: 'anonymous', role: 'anon', claims: { role: 'anon' } };

export const userCaller = (name: string, id: string): ApiCaller => ({
  name,
  role: 'authenticated',
  claims: { role: 'authenticated', sub: id },
});

/**
 * Who asks in a recording: the service, an owner of an organization and an attendee who is a member of none, as far as there are any, and
 * somebody who has not signed in. The same each time for the same rows.
 * @throws AppError DB_*
 */
export async function chooseCallers(db: Queryable): Promise<readonly ApiCaller[]> {
  const owner = await findUser(db, { tables: ['org_memberships'], sql: OWNER });
  const attendee = await findUser(db, { tables: ['org_memberships', 'tickets'], sql: ATTENDEE });
  return [
    SERVICE,
    ...(owner === undefined ? [] : [userCaller('owner', owner)]),
    ...(attendee === undefined ? [] : [userCaller('attendee', attendee)]),
    STRANGER,
  ];
}

async function findUser(
  db: Queryable,
  { tables, sql }: { tables: readonly string[]; sql: string },
): Promise<string | undefined> {
  const { rows: there } = await db.query<{ all: boolean }>(
    `select bool_and(to_regclass('public.' || name) is not null) as all from unnest($1::text[]) t (name)`,
    [tables],
  );
  if (there[0]?.all !== true) return undefined;
  const { rows } = await db.query<{ id: string }>(sql);
  return rows[0]?.id;
}

/** Of the organization with the most members: most of what policies ask is asked there. */
const OWNER = `
  select m.user_id as id from public.org_memberships m
  where m.role::text = 'owner'
  order by (select count(*) from public.org_memberships o where o.org_id = m.org_id) desc, m.org_id, m.user_id limit 1`;

const ATTENDEE = `
  select t.owner_user_id as id from public.tickets t
  where t.owner_user_id is not null and not exists (select from public.org_memberships m where m.user_id = t.owner_user_id)
  group by t.owner_user_id order by count(*) desc, t.owner_user_id limit 1`;
