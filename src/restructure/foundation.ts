import pg from 'pg';
import type { Pool, Queryable } from '../db/pool.ts';
import { isDenied } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import type { StepKind } from './journal.ts';
import type { Mapping } from './mapping.ts';
import { takeStep } from './move.ts';
import type { Plan } from './planned.ts';
import type { Step } from './statements.ts';
import type { Replacement } from './tenancy/declaration.ts';
import type { TriggerFunction } from './trigger-functions.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** What has to be there before a table moves, and after all have. */
export interface FoundationStep extends Step {
  readonly kind: StepKind;
  readonly object: string;
}

/** What there is of what the mapping asks for. */
interface Ground {
  readonly database: string;
  readonly roles: ReadonlySet<string>;
  /** `role member`, of the groups of the mapping. */
  readonly members: ReadonlySet<string>;
  readonly schemas: ReadonlySet<string>;
  /** `schema role`, where the role may use the schema by a grant to itself. */
  readonly usages: ReadonlySet<string>;
  /** `schema role r SELECT`, of what is made there later by whoever is connected; S for sequences. */
  readonly laterGrants: ReadonlySet<string>;
}

/** Roles, schemas, who may use them, and what may be done with what is made there later. @throws AppError DB_* */
export function readFoundation(pool: Pool, plan: Plan): Promise<readonly FoundationStep[]> {
  return withTransaction(pool, async (tx) => {
    // So that the server writes names with their schemas: whoever undoes a step may have another search_path.
    await tx.query(`set local search_path = ''`);
    const ground = await readGround(tx, plan.mapping);
    return [
      ...roleSteps(plan.mapping, ground),
      ...schemaSteps(plan, ground),
      ...(await replacementSteps(tx, plan.mapping.replacements, 'replacement')),
    ];
  });
}

/** A body names tables as whoever calls it finds them, not as whoever replaces it does. */
const BODY_UNCHECKED = 'set local check_function_bodies = off';

/** Bodies that would break behind views, replaced before anything moves by such as work before and after. */
export async function replacementSteps(
  db: Queryable,
  replacements: readonly Replacement[],
  kind: 'replacement' | 'tenant replacement',
): Promise<readonly FoundationStep[]> {
  if (replacements.length === 0) return [];
  const { rows } = await db.query<{ function: string; definition: string; body: string }>(
    `select f as function, pg_get_functiondef(to_regprocedure(f)) as definition, restructure.body_of(to_regprocedure(f)) as body
     from unnest($1::text[]) f where to_regprocedure(f) is not null`,
    [replacements.map((each) => each.function)],
  );
  return rows.map((former) => ({
    kind,
    object: former.function,
    statements: [
      `select restructure.assert_body(${literal(former.function)}, ${literal(former.body)})`,
      BODY_UNCHECKED,
      (replacements.find((each) => each.function === former.function)?.definition ?? []).join('\n'),
    ],
    inverse: [assertAsMade(kind, former.function), BODY_UNCHECKED, former.definition],
    mayChange: [],
  }));
}

/** What somebody made of it since the step is not undone with the step. */
export const assertAsMade = (kind: StepKind, object: string): string =>
  `select restructure.assert_as_made(${literal(kind)}, ${literal(object)})`;

/** Functions that only triggers call: bound by oid, they go without anybody's notice. */
export const functionSteps = (from: string, functions: readonly TriggerFunction[]): readonly FoundationStep[] =>
  functions.map(({ function: called, name, target }) => ({
    kind: 'function',
    object: called,
    statements: [`alter function ${called} set schema ${ident(target)}`],
    inverse: [`alter function ${ident(target)}.${ident(name)}() set schema ${ident(from)}`],
    mayChange: [],
  }));

async function readGround(db: Queryable, { roles, schemas, from }: Mapping): Promise<Ground> {
  const groups = roles === undefined ? [] : [roles.read, roles.write];
  const { rows } = await db.query<
    Record<'members' | 'roles' | 'schemas' | 'usages' | 'laterGrants', string[]> & { database: string }
  >(
    `select current_database() as database,
       array(select rolname::text from pg_roles) as roles,
       array(
         select g.rolname || ' ' || m.rolname from pg_auth_members a join pg_roles g on g.oid = a.roleid
         join pg_roles m on m.oid = a.member where g.rolname = any ($1)) as members,
       array(select nspname::text from pg_namespace) as schemas,
       array(
         select n.nspname || ' ' || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end
         from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
         where n.nspname = any ($2) and g.privilege_type = 'USAGE') as usages,
       array(
         select concat_ws(' ', n.nspname, pg_get_userbyid(g.grantee), d.defaclobjtype, g.privilege_type)
         from pg_default_acl d join pg_namespace n on n.oid = d.defaclnamespace, aclexplode(d.defaclacl) g
         where d.defaclrole = current_user::regrole and n.nspname = any ($2)) as "laterGrants"`,
    [groups, [from, ...schemas.map(({ name }) => name)]],
  );
  const [ground] = rows;
  if (ground === undefined) throw new AppError('INTERNAL', 'The server did not say what roles there are.');
  return {
    database: ground.database,
    roles: new Set(ground.roles),
    members: new Set(ground.members),
    schemas: new Set(ground.schemas),
    usages: new Set(ground.usages),
    laterGrants: new Set(ground.laterGrants),
  };
}

function roleSteps({ roles }: Mapping, ground: Ground): readonly FoundationStep[] {
  if (roles === undefined) return [];
  return [...groupSteps(roles.read, roles.readers, ground), ...groupSteps(roles.write, roles.writers, ground)];
}

/** One step a member: another plan may have more of them. */
function groupSteps(group: string, members: readonly string[], ground: Ground): readonly FoundationStep[] {
  const create: FoundationStep = {
    kind: 'role',
    object: group,
    statements: [`create role ${ident(group)} nologin`],
    inverse: [dropUnlessUsed(group)],
    mayChange: [],
  };
  const joining = members.filter((role) => ground.roles.has(role) && !ground.members.has(`${group} ${role}`));
  return [
    ...(ground.roles.has(group) ? [] : [create]),
    ...joining.map(
      (role): FoundationStep => ({
        kind: 'member',
        object: `${role} of ${group}`,
        statements: [`grant ${ident(group)} to ${ident(role)}`],
        inverse: [`revoke ${ident(group)} from ${ident(role)}`],
        mayChange: [],
      }),
    ),
  ];
}

/** Roles are the whole server's: what another database of it has granted to one keeps it. */
const dropUnlessUsed = (role: string): string =>
  `do ${literal(`begin drop role ${ident(role)}; exception when dependent_objects_still_exist then null; end`)}`;

/** Of those schemas alone that something goes to: where nothing can, the plan says so. */
function schemaSteps({ mapping, tables }: Plan, ground: Ground): readonly FoundationStep[] {
  return mapping.schemas.flatMap(({ name, tables: all, laterTables }) => {
    const going = tables.filter(({ target, readiness }) => target === name && readiness !== 'blocked');
    if (going.length === 0 && all.length > 0) return [];
    const isNew = !ground.schemas.has(name);
    const later = mapping.roles === undefined ? [] : laterGrants(name, mapping.roles, { laterTables, ground });
    const schema: FoundationStep = {
      kind: 'schema',
      object: name,
      statements: [...(isNew ? [`create schema ${ident(name)}`] : []), ...later.map(({ grant }) => grant)],
      inverse: [...later.map(({ revoke }) => revoke), ...(isNew ? [`drop schema ${ident(name)}`] : [])],
      mayChange: [],
    };
    const users = new Set([
      ...(mapping.roles === undefined ? [] : [mapping.roles.read, mapping.roles.write]),
      // Who could reach a table goes on reaching it, and foreign keys are checked with the rights of its owner.
      ...going.flatMap(({ changes }) => changes?.grantees ?? []),
    ]);
    return [
      ...(schema.statements.length === 0 ? [] : [schema]),
      ...[...users].filter((role) => !ground.usages.has(`${name} ${role}`)).map((role) => usageStep(name, role)),
    ];
  });
}

/** One step a role: another plan may have tables of more of them. */
const usageStep = (schema: string, role: string): FoundationStep => ({
  kind: 'usage',
  object: `${schema} by ${role}`,
  statements: [`grant usage on schema ${ident(schema)} to ${roleName(role)}`],
  inverse: [`revoke usage on schema ${ident(schema)} from ${roleName(role)}`],
  mayChange: [],
});

const roleName = (role: string): string => (role === 'public' ? 'public' : ident(role));

/** Those grants that are not there. */
function laterGrants(
  schema: string,
  { read, write }: { read: string; write: string },
  { laterTables, ground }: { laterTables: LaterTables; ground: Ground },
) {
  const inSchema = `alter default privileges in schema ${ident(schema)}`;
  return LATER_GRANTS[laterTables].flatMap(({ privileges, on, to }) => {
    const group = to === 'read' ? read : write;
    const kind = on === 'tables' ? 'r' : 'S';
    const lacking = privileges.filter(
      (privilege) => !ground.laterGrants.has(`${schema} ${group} ${kind} ${privilege.toUpperCase()}`),
    );
    if (lacking.length === 0) return [];
    const what = `${lacking.join(', ')} on ${on}`;
    return [
      {
        grant: `${inSchema} grant ${what} to ${ident(group)}`,
        revoke: `${inSchema} revoke ${what} from ${ident(group)}`,
      },
    ];
  });
}

type LaterTables = Mapping['schemas'][number]['laterTables'];

interface LaterGrant {
  readonly privileges: readonly string[];
  readonly on: 'tables' | 'sequences';
  readonly to: 'read' | 'write';
}

const TO_READ: readonly LaterGrant[] = [
  { privileges: ['select'], on: 'tables', to: 'read' },
  { privileges: ['select'], on: 'sequences', to: 'read' },
];

const LATER_GRANTS: Readonly<Record<LaterTables, readonly LaterGrant[]>> = {
  nothing: [],
  read: [...TO_READ, { privileges: ['select'], on: 'tables', to: 'write' }],
  write: [
    ...TO_READ,
    { privileges: ['select', 'insert', 'update', 'delete'], on: 'tables', to: 'write' },
    { privileges: ['usage', 'select'], on: 'sequences', to: 'write' },
  ],
};

/** What could not be done after the tables had gone, where nothing that matters now depends on it. */
export interface Denied {
  readonly kind: StepKind;
  readonly object: string;
  readonly reason: string;
}

/** Takes those steps that do not stand, each in a transaction of its own. @throws AppError DB_* */
export async function takeFoundation(
  pool: Pool,
  steps: readonly FoundationStep[],
  options: { plan: string; standing: ReadonlySet<string> },
): Promise<readonly Denied[]> {
  const denied: Denied[] = [];
  for (const step of steps) {
    if (options.standing.has(`${step.kind} ${step.object}`)) continue;
    try {
      await withTransaction(pool, (tx) => takeStep(tx, { ...step, relations: [], plan: options.plan, expected: null }));
    } catch (error) {
      if (!(error instanceof AppError) || !maySkip(step, error)) throw error;
      denied.push({ kind: step.kind, object: step.object, reason: error.message });
    }
  }
  return denied;
}

/** PostgreSQL 16 and later let nobody set what a role is, but whoever administers it; a function may be of a name that is taken. */
const maySkip = ({ kind }: FoundationStep, error: AppError): boolean =>
  (kind === 'search path' || kind === 'function') && (isDenied(error.cause) || error.code === 'DB_FAILED');
