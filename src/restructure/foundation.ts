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
import type { TriggerFunction } from './trigger-functions.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** What has to be there before a table moves, and after all have. */
export interface FoundationStep extends Step {
  readonly kind: StepKind;
  readonly object: string;
}

/** What there is of what the mapping asks for. */
interface Ground {
  readonly currentUser: string;
  readonly database: string;
  readonly roles: ReadonlySet<string>;
  /** `role member`, of the groups of the mapping. */
  readonly members: ReadonlySet<string>;
  readonly schemas: ReadonlySet<string>;
  /** `schema role`, where the role may use the schema by a grant to itself. */
  readonly usages: ReadonlySet<string>;
  /** By role, what its search_path is set to in this database; absent where it is not. */
  readonly searchPaths: ReadonlyMap<string, string>;
}

/** Roles, schemas, who may use them, and what may be done with what is made there later. @throws AppError DB_* */
export async function readFoundation(db: Queryable, plan: Plan): Promise<readonly FoundationStep[]> {
  const ground = await readGround(db, plan.mapping);
  return [
    ...roleSteps(plan.mapping, ground),
    ...schemaSteps(plan, ground),
    ...(await replacementSteps(db, plan.mapping)),
  ];
}

/** Bodies that would break behind views, replaced before anything moves by such as work before and after. */
async function replacementSteps(db: Queryable, { replacements }: Mapping): Promise<readonly FoundationStep[]> {
  const { rows } = await db.query<{ function: string; definition: string }>(
    `select f as function, pg_get_functiondef(to_regprocedure(f)) as definition
     from unnest($1::text[]) f where to_regprocedure(f) is not null`,
    [replacements.map((each) => each.function)],
  );
  return rows.map((former) => ({
    kind: 'replacement',
    object: former.function,
    statements: [(replacements.find((each) => each.function === former.function)?.definition ?? []).join('\n')],
    inverse: [former.definition],
    mayChange: [],
  }));
}

/** That unqualified names go on meaning the same when the views are gone: one step a role. @throws AppError DB_* */
export async function readSearchPaths(db: Queryable, plan: Plan): Promise<readonly FoundationStep[]> {
  const ground = await readGround(db, plan.mapping);
  const { roles, from, schemas } = plan.mapping;
  const path = [from, ...schemas.map(({ name }) => name)].map(ident).join(', ');
  return [...(roles?.readers ?? []), ...(roles?.writers ?? [])]
    .filter((role) => ground.roles.has(role))
    .map((role) => {
      const setting = `alter role ${ident(role)} in database ${ident(ground.database)}`;
      const former = ground.searchPaths.get(role);
      return {
        kind: 'search path',
        object: role,
        statements: [`${setting} set search_path = ${path}`],
        inverse: [former === undefined ? `${setting} reset search_path` : `${setting} set search_path = ${former}`],
        mayChange: [],
      };
    });
}

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
    Record<'members' | 'roles' | 'schemas' | 'usages', string[]> & {
      currentUser: string;
      database: string;
      searchPaths: { role: string; path: string }[];
    }
  >(
    `select current_user as "currentUser", current_database() as database,
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
         select jsonb_build_object('role', r.rolname, 'path', substr(setting, length('search_path=') + 1))
         from pg_db_role_setting s join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) setting
         where s.setdatabase = (select oid from pg_database where datname = current_database())
           and setting like 'search\\_path=%') as "searchPaths"`,
    [groups, [from, ...schemas.map(({ name }) => name)]],
  );
  const [ground] = rows;
  if (ground === undefined) throw new AppError('INTERNAL', 'The server did not say what roles there are.');
  return {
    currentUser: ground.currentUser,
    database: ground.database,
    roles: new Set(ground.roles),
    members: new Set(ground.members),
    schemas: new Set(ground.schemas),
    usages: new Set(ground.usages),
    searchPaths: new Map(ground.searchPaths.map(({ role, path }) => [role, path])),
  };
}

function roleSteps({ roles }: Mapping, ground: Ground): readonly FoundationStep[] {
  if (roles === undefined) return [];
  return [groupStep(roles.read, roles.readers, ground), groupStep(roles.write, roles.writers, ground)];
}

function groupStep(group: string, members: readonly string[], ground: Ground): FoundationStep {
  const isNew = !ground.roles.has(group);
  const joining = members.filter((role) => ground.roles.has(role) && !ground.members.has(`${group} ${role}`));
  return {
    kind: 'role',
    object: group,
    statements: [
      ...(isNew ? [`create role ${ident(group)} nologin`] : []),
      ...joining.map((role) => `grant ${ident(group)} to ${ident(role)}`),
    ],
    inverse: isNew ? [dropUnlessUsed(group)] : joining.map((role) => `revoke ${ident(group)} from ${ident(role)}`),
    mayChange: [],
  };
}

/** Roles are the whole server's: what another database of it has granted to one keeps it, with its members. */
const dropUnlessUsed = (role: string): string =>
  `do ${literal(`begin drop role ${ident(role)}; exception when dependent_objects_still_exist then null; end`)}`;

function schemaSteps({ mapping, tables }: Plan, ground: Ground): readonly FoundationStep[] {
  return mapping.schemas.map(({ name, laterTables }) => {
    const isNew = !ground.schemas.has(name);
    const grantees = new Set([
      ...(mapping.roles === undefined ? [] : [mapping.roles.read, mapping.roles.write]),
      // Who had a right on a table has it by its new name too. Behind a view nobody asks for USAGE: it is for whoever writes the name.
      ...tables.filter(({ target }) => target === name).flatMap(({ changes }) => changes?.grantees ?? []),
    ]);
    const lacking = [...grantees].filter((role) => !ground.usages.has(`${name} ${role}`));
    const defaults = mapping.roles === undefined ? [] : defaultGrants(name, mapping.roles, laterTables);
    return {
      kind: 'schema',
      object: name,
      statements: [
        ...(isNew ? [`create schema ${ident(name)}`] : []),
        ...lacking.map((role) => `grant usage on schema ${ident(name)} to ${roleName(role)}`),
        ...defaults.map(({ grant }) => grant),
      ],
      inverse: [
        ...defaults.map(({ revoke }) => revoke),
        ...(isNew
          ? [`drop schema ${ident(name)}`]
          : lacking.map((role) => `revoke usage on schema ${ident(name)} from ${roleName(role)}`)),
      ],
      mayChange: [],
    };
  });
}

const roleName = (role: string): string => (role === 'public' ? 'public' : ident(role));

function defaultGrants(schema: string, { read, write }: { read: string; write: string }, laterTables: LaterTables) {
  const inSchema = `alter default privileges in schema ${ident(schema)}`;
  return DEFAULT_GRANTS[laterTables].map(([what, group]) => {
    const role = ident(group === 'read' ? read : write);
    return { grant: `${inSchema} grant ${what} to ${role}`, revoke: `${inSchema} revoke ${what} from ${role}` };
  });
}

type LaterTables = Mapping['schemas'][number]['laterTables'];

const TO_READ = [
  ['select on tables', 'read'],
  ['select on sequences', 'read'],
] as const;

const DEFAULT_GRANTS: Readonly<Record<LaterTables, readonly (readonly [what: string, group: 'read' | 'write'])[]>> = {
  nothing: [],
  read: [...TO_READ, ['select on tables', 'write']],
  write: [...TO_READ, ['select, insert, update, delete on tables', 'write'], ['usage, select on sequences', 'write']],
};

/** What a role of ours was not allowed to do, where nothing that matters now depends on it. */
export interface Denied {
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
      // PostgreSQL 16 and later let nobody set what a role is, but whoever administers it.
      if (step.kind !== 'search path' || !(error instanceof AppError) || !isDenied(error.cause)) throw error;
      denied.push({ object: step.object, reason: error.message });
    }
  }
  return denied;
}
