import pg from 'pg';
import type { Step } from '../statements.ts';
import { qualified } from '../statements.ts';
import {
  type ColumnWhen,
  type Condition,
  type Owner,
  type Rule,
  TEMPLATES,
  type Tenancy,
  type TenantTable,
} from './declaration.ts';
import { nameFor } from './names.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** Where a table is by now, and what it has. */
export interface Place {
  readonly schema: string;
  readonly name: string;
}

export interface PolicyContext {
  readonly tenancy: Tenancy;
  /** The schema of the functions that say who the caller is. */
  readonly from: string;
  /** By bare name, where the tables are that policies read. */
  readonly places: ReadonlyMap<string, Place>;
  /** By bare name, the one column of the primary key. */
  readonly keys: ReadonlyMap<string, string>;
}

/** What every added column is called. */
export const TENANT_COLUMN = 'organization_id';

/** The caller's id, asked once a statement: a function that is not wrapped is called for every row. */
const callerOf = ({ tenancy }: PolicyContext): string => `(select ${tenancy.caller})`;

/** Whether something is one of the groups that a function of the caller's gives, asked once a statement. */
export const groupsOf = (name: string, { from }: PolicyContext): string =>
  `any ((select ${qualified(from, name)}())::uuid[])`;

/** A condition on a row, which may be given a name to be told from others by: `old.`. */
const conditionText = (condition: Condition, row = ''): string => {
  const column = `${row}${ident(condition.column)}`;
  return 'is' in condition ? `${column} = ${literal(condition.is)}` : `${column} <> ${literal(condition.isNot)}`;
};

/** A comparison of a column that counts under a condition. */
export const comparedWhen = ({ column, when }: ColumnWhen, row: string, comparison: string): string =>
  `${when === undefined ? '' : `${conditionText(when, row)} and `}${row}${ident(column)} = ${comparison}`;

/** The expression that gives the organization of a row; null where the table has none. */
export function organizationOf({ organization }: TenantTable, row = ''): string | null {
  if (organization === undefined) return null;
  if ('of' in organization) return `${row}${ident(TENANT_COLUMN)}`;
  const column = `${row}${ident(organization.column)}`;
  return organization.when === undefined
    ? column
    : `case when ${conditionText(organization.when, row)} then ${column} end`;
}

/** A rule as a condition on a row of the table; undefined where the table has not what it needs. */
function conditionOf(rule: Rule, table: TenantTable, context: PolicyContext): string | undefined {
  switch (rule) {
    case 'anyone':
      return 'true';
    case 'nobody':
      return 'false';
    case 'organization':
      return organizationCondition(table, context);
    case 'group':
      return groupCondition(table, context);
    case 'user':
      if (table.user === undefined) return undefined;
      return table.user.map((each) => comparedWhen(each, '', callerOf(context))).join(' or ');
    case 'guest':
      if (table.user === undefined) return undefined;
      return table.user
        .map(({ column }) => `(${ident(column)} is null or ${ident(column)} = ${callerOf(context)})`)
        .join(' and ');
    case 'owner':
      return ownerCondition(table, context);
    case 'parent':
      return parentCondition(table, context);
  }
}

// Not organizationOf: a condition of its own leaves the column bare, so that its index is used.
function organizationCondition({ organization }: TenantTable, context: PolicyContext): string | undefined {
  if (organization === undefined) return undefined;
  const groups = groupsOf(context.tenancy.organizations.function, context);
  if ('of' in organization) return `${ident(TENANT_COLUMN)} = ${groups}`;
  const { column, when } = organization;
  return when === undefined
    ? `${ident(column)} = ${groups}`
    : `${conditionText(when)} and ${ident(column)} = ${groups}`;
}

function groupCondition({ groups }: TenantTable, context: PolicyContext): string | undefined {
  const conditions = context.tenancy.memberships.flatMap(({ name, function: called }) => {
    const column = groups[name];
    return column === undefined ? [] : [`${ident(column)} = ${groupsOf(called, context)}`];
  });
  return conditions.length === 0 ? undefined : conditions.join(' or ');
}

/**
 * Not by a subquery: what belongs to the caller is asked once a statement, so that the reference's index is used, and of a function that
 * runs as its owner, since the old policies of the table that is asked may well ask this one.
 */
function ownerCondition({ owner }: TenantTable, context: PolicyContext): string | undefined {
  return owner === undefined ? undefined : `${ident(owner.by)} = ${groupsOf(ownedFunction(owner), context)}`;
}

/** The function that gives the keys of the rows of a table that belong to the caller. */
export const ownedFunction = ({ of, user }: Owner): string => nameFor('caller_owned', `${of}_by_${user ?? 'owner'}`);

function parentCondition({ parent, table }: TenantTable, context: PolicyContext): string | undefined {
  if (parent === undefined) return undefined;
  const [place, key] = [placeOf(parent.of, context), parent.key ?? keyOf(parent.of, context)];
  return `exists (select from ${qualified(place.schema, place.name)} p where p.${ident(key)} = ${ident(table)}.${ident(parent.by)})`;
}

export function placeOf(table: string, { places }: PolicyContext): Place {
  const place = places.get(table);
  if (place === undefined) throw new Error(`no place of ${table}`);
  return place;
}

export function keyOf(table: string, { keys }: PolicyContext): string {
  const key = keys.get(table);
  if (key === undefined) throw new Error(`no key of ${table}`);
  return key;
}

/** One condition of several rules, what is cheap to find out first; the rules that the table cannot have are left out. */
function anyOf(rules: readonly Rule[], table: TenantTable, context: PolicyContext): string {
  const conditions = rules.flatMap((rule) => conditionOf(rule, table, context) ?? []);
  if (conditions.includes('true')) return 'true';
  const met = conditions.filter((condition) => condition !== 'false');
  return met.length === 0 ? 'false' : met.map((condition) => `(${condition})`).join(' or ');
}

export interface TenantConditions {
  readonly reads: string;
  readonly inserts: string;
  readonly writes: string;
  /** What a row has to be after it was changed. */
  readonly becomes: string;
}

/** Who may read, insert, and change or delete a row. */
export function conditionsOf(table: TenantTable, context: PolicyContext): TenantConditions {
  const template = TEMPLATES[table.kind];
  const reads = anyOf(table.reads ?? template.reads, table, context);
  const writes = table.writes ?? template.writes;
  const isInsertable = table.inserts !== undefined && !table.inserts.includes('nobody');
  const [written, inserted] = [anyOf(writes, table, context), anyOf(table.inserts ?? writes, table, context)];
  return {
    reads: table.open === undefined || reads === 'true' ? reads : `(${conditionText(table.open)}) or ${reads}`,
    inserts: inserted,
    writes: written,
    becomes: isInsertable ? `(${written}) and (${inserted})` : written,
  };
}

/** A table, or a partition of it, as it is before its policies. */
export interface Unprotected extends Place {
  readonly hasRowSecurity: boolean;
  readonly columns: readonly string[];
  /** Roles, `public` among them, that may update every column. */
  readonly updaters: readonly string[];
}

/**
 * Row security for a table, and for each partition, which whoever names it reaches past its parent. The old policies stay and go on
 * saying what somebody may do; the new ones are restrictive and say of which tenant: both have to agree.
 */
export function policyStep(
  table: TenantTable,
  relations: readonly Unprotected[],
  context: PolicyContext & { readonly writers: readonly string[] },
): Step {
  const parts = relations.flatMap((relation) => [
    relationPolicies({ ...table, table: relation.name }, relation, context),
    fixedColumns(table, relation, context),
  ]);
  return {
    statements: parts.flatMap(({ statements }) => statements),
    inverse: parts.toReversed().flatMap(({ inverse }) => inverse),
    mayChange: [
      '+policy',
      'relation.row security',
      'relation.row security forced',
      ...(table.fixed.length === 0 ? [] : ['relation.grants', 'column.grants']),
    ],
  };
}

function relationPolicies(
  table: TenantTable,
  relation: Unprotected,
  context: PolicyContext,
): Pick<Step, 'statements' | 'inverse'> {
  const { schema, name, hasRowSecurity } = relation;
  const on = qualified(schema, name);
  const { reads, inserts, writes, becomes } = conditionsOf(table, context);
  const policies = [
    ['tenant_reads', `for select using (${reads})`],
    ['tenant_inserts', `for insert with check (${inserts})`],
    ['tenant_updates', `for update using (${writes}) with check (${becomes})`],
    ['tenant_deletes', `for delete using (${writes})`],
  ] as const;
  return {
    statements: [
      ...policies.map(([policy, clause]) => `create policy ${policy} on ${on} as restrictive ${clause}`),
      // Without row security everybody with a grant came to every row: what the others restrict is let in by this one.
      ...(hasRowSecurity
        ? []
        : [
            `create policy tenant_access on ${on} using (true) with check (true)`,
            `alter table ${on} enable row level security`,
          ]),
      ...(table.force ? [`alter table ${on} force row level security`] : []),
    ],
    inverse: [
      ...(table.force ? [`alter table ${on} no force row level security`] : []),
      ...(hasRowSecurity ? [] : [`alter table ${on} disable row level security`, `drop policy tenant_access on ${on}`]),
      ...policies.map(([policy]) => `drop policy ${policy} on ${on}`),
    ],
  };
}

/** Whoever may update a row, but is no writer, may update all but these columns: by the table's name and by that of its view. */
function fixedColumns(
  { fixed }: TenantTable,
  { schema, name, columns, updaters }: Unprotected,
  { from, writers }: PolicyContext & { readonly writers: readonly string[] },
): Pick<Step, 'statements' | 'inverse'> {
  const roles = updaters.filter((role) => !writers.includes(role));
  if (fixed.length === 0 || roles.length === 0) return { statements: [], inverse: [] };
  const to = roles.map((role) => (role === 'public' ? role : ident(role))).join(', ');
  const names = [...new Set([qualified(schema, name), qualified(from, name)])];
  const list = (each: readonly string[]) => each.map(ident).join(', ');
  // The tenant's column is not one of the view's, and is the trigger's to write.
  const free = columns.filter((column) => !fixed.includes(column) && column !== TENANT_COLUMN);
  return {
    statements: names.flatMap((on) => [
      `revoke update on ${on} from ${to}`,
      `grant update (${list(free)}) on ${on} to ${to}`,
    ]),
    inverse: names.flatMap((on) => [
      `revoke update (${list(free)}) on ${on} from ${to}`,
      `grant update on ${on} to ${to}`,
    ]),
  };
}
