import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import type { StepKind } from '../journal.ts';
import type { Mapping } from '../mapping.ts';
import { qualified, type Step } from '../statements.ts';
import type { Tenancy } from './declaration.ts';

const { escapeIdentifier: ident } = pg;

/** A step on one object, and the relations whose facts are compared. */
export interface AccessStep extends Step {
  readonly kind: StepKind;
  readonly object: string;
  readonly relations: readonly number[];
}

export interface Grant {
  /** `public` for everybody. */
  readonly grantee: string;
  readonly privilege: string;
  readonly withGrantOption: boolean;
}

const GRANTS = `coalesce((
  select jsonb_agg(jsonb_build_object('grantee', case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
    'privilege', g.privilege_type, 'withGrantOption', g.is_grantable) order by g.privilege_type, g.grantee)
  from aclexplode(coalesce(ACL)) g where g.grantee <> OWNER), '[]') as grants`;

/** The grants of an object but its owner's, as a column `grants`. */
export const grantsOf = (acl: string, kind: string, owner: string): string =>
  GRANTS.replace('coalesce(ACL)', `coalesce(${acl}, acldefault('${kind}', ${owner}))`).replace('OWNER', owner);

/** Views that have to ask for their reader's rights, or that nobody but writers reads from now on. */
export async function viewSteps(db: Queryable, tenancy: Tenancy, mapping: Mapping): Promise<readonly AccessStep[]> {
  const { invoker, closed, barrier } = tenancy.views;
  const named = [...invoker, ...closed, ...barrier].map((name) => inSchema(name, mapping.from));
  const { rows } = await db.query<{
    oid: number;
    schema: string;
    name: string;
    isInvoker: boolean;
    isBarrier: boolean;
    grants: Grant[];
  }>(
    `select c.oid, n.nspname as schema, c.relname as name, coalesce(c.reloptions @> array['security_invoker=true'], false) as "isInvoker",
       coalesce(c.reloptions @> array['security_barrier=true'], false) as "isBarrier",
       ${grantsOf('c.relacl', 'r', 'c.relowner')}
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname || '.' || c.relname = any ($1) and c.relkind in ('v', 'm') order by 2`,
    [named],
  );
  return rows.flatMap(({ oid, schema, name, isInvoker, isBarrier, grants }): AccessStep[] => {
    const object = `${schema}.${name}`;
    const view = qualified(schema, name);
    const about = { kind: 'view', object, relations: [oid] } as const;
    if (closed.some((each) => inSchema(each, mapping.from) === object)) {
      const { statements, inverse } = closing(view, grants, mapping);
      return [{ ...about, statements, inverse, mayChange: ['relation.grants'] }];
    }
    const isOfBarrier = barrier.some((each) => inSchema(each, mapping.from) === object);
    if (isOfBarrier ? isBarrier : isInvoker) return [];
    const option = isOfBarrier ? 'security_barrier' : 'security_invoker';
    return [
      {
        ...about,
        statements: [`alter view ${view} set (${option} = true)`],
        inverse: [`alter view ${view} reset (${option})`],
        mayChange: ['relation.options'],
      },
    ];
  });
}

/** A name of the mapping: in the schema that tables leave, unless it says another. */
const inSchema = (name: string, from: string): string => (name.includes('.') ? name : `${from}.${name}`);

/** Functions that have to ask for their caller's rights, or that nobody but writers calls from now on. */
export async function functionSteps(db: Queryable, tenancy: Tenancy, mapping: Mapping): Promise<readonly AccessStep[]> {
  const { invoker, definer, closed } = tenancy.functions;
  const { rows } = await db.query<{ function: string; name: string; isDefiner: boolean; grants: Grant[] }>(
    `select f.oid::regprocedure::text as function, f.proname as name, f.prosecdef as "isDefiner",
       ${grantsOf('f.proacl', 'f', 'f.proowner')}
     from pg_proc f join pg_namespace n on n.oid = f.pronamespace
     where n.nspname = any ($1) and f.proname = any ($2) order by 1`,
    [
      [mapping.from, ...mapping.schemas.map(({ name }) => name)],
      [...invoker, ...definer, ...closed],
    ],
  );
  return rows.flatMap(({ function: called, name, isDefiner, grants }): AccessStep[] => {
    const about = { kind: 'function access', object: called, relations: [], mayChange: [] } as const;
    if (closed.includes(name)) return [{ ...about, ...closing(`function ${called}`, grants, mapping) }];
    if (definer.includes(name)) {
      if (isDefiner) return [];
      return [
        {
          ...about,
          statements: [`alter function ${called} security definer set search_path = ${ident(mapping.from)}, pg_temp`],
          inverse: [`alter function ${called} security invoker reset search_path`],
        },
      ];
    }
    if (!isDefiner) return [];
    return [
      {
        ...about,
        statements: [`alter function ${called} security invoker`],
        inverse: [`alter function ${called} security definer`],
      },
    ];
  });
}

/** Takes from everybody, and from readers, what they were granted; gives writers what they had as a part of everybody. */
function closing(object: string, grants: readonly Grant[], { roles }: Mapping): Pick<Step, 'statements' | 'inverse'> {
  const [readers, writers] = [roles?.readers ?? [], roles?.writers ?? []];
  const taken = grants.filter(
    ({ grantee }) => grantee === 'public' || readers.includes(grantee) || grantee === roles?.read,
  );
  const ofEverybody = taken.filter(({ grantee }) => grantee === 'public');
  const given = writers.flatMap((writer) =>
    ofEverybody
      .filter((grant) => !grants.some((had) => had.grantee === writer && had.privilege === grant.privilege))
      .map((grant) => ({ ...grant, grantee: writer })),
  );
  return {
    statements: [
      ...given.map((grant) => `grant ${grant.privilege} on ${object} to ${roleName(grant.grantee)}`),
      ...taken.map((grant) => `revoke ${grant.privilege} on ${object} from ${roleName(grant.grantee)}`),
    ],
    inverse: [
      ...taken.map(
        (grant) =>
          `grant ${grant.privilege} on ${object} to ${roleName(grant.grantee)}${grant.withGrantOption ? ' with grant option' : ''}`,
      ),
      ...given.map((grant) => `revoke ${grant.privilege} on ${object} from ${roleName(grant.grantee)}`),
    ],
  };
}

export const roleName = (role: string): string => (role === 'public' ? 'public' : ident(role));
