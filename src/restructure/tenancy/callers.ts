import pg from 'pg';
import { qualified, type Step } from '../statements.ts';
import type { PolicyContext } from './policies.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/**
 * The functions that say for whom the caller acts. They run as their owner, whom the policies of the tables of memberships do not concern:
 * a policy on memberships that read them as the caller would ask itself. Whoever is no member is a member of nothing, whatever he claims.
 */
export function callerFunctionSteps(context: PolicyContext): readonly (Step & { readonly object: string })[] {
  const { tenancy, from } = context;
  const { organizations, memberships, current } = tenancy;
  const claim = `(${tenancy.claims}) ->> ${literal(current.claim)}`;
  const functions = [
    {
      name: current.function,
      returns: 'uuid',
      body: `select m.${ident(organizations.group)} ${membersOf(organizations, context)} and m.${ident(organizations.group)}::text = ${claim} limit 1`,
    },
    {
      name: organizations.function,
      returns: 'uuid[]',
      // Who claims to act for one of his organizations acts for that one alone.
      body: `select coalesce(array_agg(m.${ident(organizations.group)}), '{}') ${membersOf(organizations, context)}
    and coalesce(m.${ident(organizations.group)}::text = nullif(${claim}, ''), true)`,
    },
    ...memberships.map((membership) => ({
      name: membership.function,
      returns: 'uuid[]',
      body: `select coalesce(array_agg(distinct m.${ident(membership.group)}), '{}') ${membersOf(membership, context)}`,
    })),
  ];
  return functions.map(({ name, returns, body }) => {
    const called = `${qualified(from, name)}()`;
    return {
      object: called,
      statements: [
        `create function ${called} returns ${returns} language sql stable security definer set search_path = '' as $caller$
  ${body}
$caller$`,
      ],
      inverse: [`drop function ${called}`],
      mayChange: [],
    };
  });
}

function membersOf(
  { table, user, organization }: { table: string; user: string; organization?: string | undefined },
  { places, tenancy, from }: PolicyContext,
): string {
  const place = places.get(table);
  if (place === undefined) throw new Error(`no place of ${table}`);
  const byUser = `m.${ident(user)} = ${tenancy.caller}`;
  const byOrganization =
    organization === undefined
      ? ''
      : ` or m.${ident(organization)} = any (${qualified(from, tenancy.organizations.function)}())`;
  return `from ${qualified(place.schema, place.name)} m where (${byUser}${byOrganization})`;
}
