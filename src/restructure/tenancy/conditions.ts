import pg from 'pg';
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

/**
 * Where a function that runs as its owner looks names up. An empty path is none: there, types and tables are looked for in pg_temp before
 * everything else, where whoever calls has put what he likes.
 */
export const SAFE_PATH = 'pg_catalog, pg_temp';

/** The caller's id, asked once a statement: a function that is not wrapped is called for every row. */
const callerOf = ({ tenancy }: PolicyContext): string => `(select ${tenancy.caller})`;

/** Whether something is one of the groups that a function of the caller's gives, asked once a statement. */
export const groupsOf = (name: string, { from }: PolicyContext): string =>
  `any ((select ${qualified(from, name)}())::pg_catalog.uuid[])`;

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
  return owner === undefined ? undefined : ownedCondition(owner, context);
}

const ownedCondition = (owner: Owner, context: PolicyContext): string =>
  `${ident(owner.by)} = ${groupsOf(ownedFunction(owner), context)}`;

/** The function that gives the keys of the rows of a table that belong to the caller. */
export const ownedFunction = ({ of, user }: Owner): string => nameFor('caller_owned', `${of}_by_${user ?? 'owner'}`);

function parentCondition({ parent, table }: TenantTable, context: PolicyContext): string | undefined {
  if (parent === undefined) return undefined;
  const [place, key] = [placeOf(parent.of, context), parent.key ?? keyOf(parent.of, context)];
  return `exists (select from ${qualified(place.schema, place.name)} p where p.${ident(key)} = ${ident(table)}.${ident(parent.by)})`;
}

function neededCondition(need: TenantTable['needs'][number], table: TenantTable, context: PolicyContext): string {
  if (need === 'parent') return parentCondition(table, context) ?? 'false';
  return 'of' in need ? ownedCondition(need, context) : conditionText(need);
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
  const needed = table.needs.map((need) => `(${neededCondition(need, table, context)})`);
  return {
    reads: table.open === undefined || reads === 'true' ? reads : `(${conditionText(table.open)}) or ${reads}`,
    inserts: [needed.length === 0 ? inserted : `(${inserted})`, ...needed].join(' and '),
    writes: written,
    becomes: isInsertable ? `(${written}) and (${inserted})` : written,
  };
}
