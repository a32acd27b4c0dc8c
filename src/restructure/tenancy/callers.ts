import pg from 'pg';
import { qualified, type Step } from '../statements.ts';
import { comparedWhen, groupsOf, keyOf, ownedFunction, type PolicyContext, placeOf, SAFE_PATH } from './conditions.ts';
import { type ColumnWhen, type Owner, ownersIn, type Tenancy } from './declaration.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** A function, and the table that it reads. */
export interface CallerFunction extends Step {
  readonly object: string;
  readonly reads: string;
}

/**
 * The functions that say for whom the caller acts. They run as their owner, whom the policies of the tables of memberships do not concern:
 * a policy on memberships that read them as the caller would ask itself. Whoever is no member is a member of nothing, whatever he claims.
 */
export function callerFunctionSteps(context: PolicyContext): readonly CallerFunction[] {
  const { tenancy, from } = context;
  const { organizations, memberships, current } = tenancy;
  // As the server writes a uuid, however the token does.
  const claim = `pg_catalog.lower((${tenancy.claims}) ->> ${literal(current.claim)})`;
  const functions = [
    {
      name: current.function,
      reads: organizations.table,
      returns: 'uuid',
      body: `select m.${ident(organizations.group)} ${membersOf(organizations, context)} and m.${ident(organizations.group)}::pg_catalog.text = ${claim} limit 1`,
    },
    {
      name: organizations.function,
      reads: organizations.table,
      returns: 'uuid[]',
      // Who claims to act for one of his organizations acts for that one alone.
      body: `select coalesce(array_agg(m.${ident(organizations.group)}), '{}') ${membersOf(organizations, context)}
    and coalesce(m.${ident(organizations.group)}::pg_catalog.text = nullif(${claim}, ''), true)`,
    },
    ...memberships.map((membership) => ({
      name: membership.function,
      reads: membership.table,
      returns: 'uuid[]',
      body: `select coalesce(array_agg(distinct m.${ident(membership.group)}), '{}') ${membersOf(membership, context)}`,
    })),
    ...ownersOf(tenancy).map((owner) => ({
      name: ownedFunction(owner),
      reads: owner.of,
      returns: 'uuid[]',
      body: `select coalesce(array_agg(o.${ident(keyOf(owner.of, context))}), '{}') ${ownedBy(owner, context)}`,
    })),
  ];
  return functions.map(({ name, reads, returns, body }) => {
    const called = `${qualified(from, name)}()`;
    return {
      object: called,
      reads,
      statements: [
        `create function ${called} returns ${returns} language sql stable security definer set search_path = ${SAFE_PATH} as $caller$
  ${body}
$caller$`,
      ],
      inverse: [`drop function ${called}`],
      mayChange: [],
    };
  });
}

/** Every way in which a row of another table belongs to somebody, once; what another asks of comes first. */
function ownersOf({ tables }: Tenancy): readonly Owner[] {
  const owners = new Map<string, Owner>();
  const add = (owner: Owner): void => {
    const next = owner.user === undefined ? tables.find(({ table }) => table === owner.of)?.owner : undefined;
    if (next !== undefined) add(next);
    owners.set(ownedFunction(owner), owner);
  };
  for (const owner of tables.flatMap(ownersIn)) add(owner);
  return [...owners.values()];
}

/** The rows `o` of the table that belong to the caller. */
function ownedBy({ of, user, when }: Owner, context: PolicyContext): string {
  const { tenancy } = context;
  const place = placeOf(of, context);
  const rows = `from ${qualified(place.schema, place.name)} o where`;
  if (user !== undefined) return `${rows} ${comparedWhen({ column: user, when }, 'o.', tenancy.caller)}`;
  const next = tenancy.tables.find(({ table }) => table === of)?.owner;
  if (next === undefined) throw new Error(`no owner of ${of}`);
  return `${rows} o.${ident(next.by)} = ${groupsOf(ownedFunction(next), context)}`;
}

function membersOf(
  { table, user, organization }: { table: string; user: ColumnWhen; organization?: ColumnWhen | undefined },
  context: PolicyContext,
): string {
  const { tenancy } = context;
  const place = placeOf(table, context);
  const byUser = comparedWhen(user, 'm.', tenancy.caller);
  const groups = groupsOf(tenancy.organizations.function, context);
  const byOrganization = organization === undefined ? '' : ` or ${comparedWhen(organization, 'm.', groups)}`;
  return `from ${qualified(place.schema, place.name)} m where (${byUser}${byOrganization})`;
}
