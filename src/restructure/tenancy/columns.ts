import pg from 'pg';
import { qualified, type Step } from '../statements.ts';
import { organizationOf, type Place, type PolicyContext, SAFE_PATH, TENANT_COLUMN } from './conditions.ts';
import type { TenantTable } from './declaration.ts';
import { nameFor } from './names.ts';

const { escapeIdentifier: ident } = pg;

/** From which row of which table a row's organization is. */
export interface Source {
  readonly of: TenantTable;
  readonly by: string;
  readonly place: Place;
  readonly key: string;
}

/** Null where the table has a column of its own for it, or none at all. */
export function sourceOf(table: TenantTable, context: PolicyContext): Source | null {
  const { organization } = table;
  if (organization === undefined || !('of' in organization)) return null;
  const of = context.tenancy.tables.find((each) => each.table === organization.of);
  const [place, key] = [context.places.get(organization.of), context.keys.get(organization.of)];
  if (of === undefined || place === undefined || key === undefined) throw new Error(`no source of ${table.table}`);
  return { of, by: organization.by, place, key };
}

/** The organization of a row whose reference is `reference`, as SQL. */
const lookUp = ({ of, place, key }: Source, reference: string): string =>
  `(select ${organizationOf(of, 's.') ?? 'null'} from ${qualified(place.schema, place.name)} s where s.${ident(key)} = ${reference})`;

/**
 * The column, and the trigger that gives it to every row that is written from then on, whoever writes it and whatever it says: the function
 * runs as its owner, since whoever writes a row need not see what it belongs to.
 */
export function columnStep(place: Place, source: Source): Step {
  const on = qualified(place.schema, place.name);
  const called = `${ident(place.schema)}.${ident(nameFor('organization_of', place.name))}`;
  return {
    statements: [
      `alter table ${on} add column ${ident(TENANT_COLUMN)} uuid`,
      `create function ${called}() returns trigger language plpgsql security definer set search_path = ${SAFE_PATH} as $fill$
begin
  new.${ident(TENANT_COLUMN)} := ${lookUp(source, `new.${ident(source.by)}`)};
  return new;
end
$fill$`,
      `revoke all on function ${called}() from public`,
      // By name after whatever else is done before a row is written, such as finding out what it refers to.
      `create trigger zz_organization before insert or update of ${ident(source.by)}, ${ident(TENANT_COLUMN)} on ${on} for each row execute function ${called}()`,
    ],
    inverse: [
      `drop trigger zz_organization on ${on}`,
      `drop function ${called}()`,
      `alter table ${on} drop column ${ident(TENANT_COLUMN)}`,
    ],
    mayChange: ['+column', '+trigger'],
  };
}

/**
 * What gives the rows of a table another organization when the row that they belong to gets another. `path`: the schemas in which old
 * functions look names up.
 */
export function followStep(child: Place, source: Source, path: readonly string[]): Step {
  const on = qualified(source.place.schema, source.place.name);
  const called = `${ident(child.schema)}.${ident(nameFor('organization_follows', child.name))}`;
  const trigger = ident(nameFor('zz_organization_follows', child.name));
  const changed = `${organizationOf(source.of, 'old.')} is distinct from ${organizationOf(source.of, 'new.')}`;
  return {
    statements: [
      // The old triggers of what follows are fired by it, and find their tables where they always did.
      `create function ${called}() returns trigger language plpgsql security definer set search_path = ${[...path.map(ident), 'pg_temp'].join(', ')} as $follow$
begin
  -- What is given is not looked at: the trigger of the table looks it up.
  update ${qualified(child.schema, child.name)} set ${ident(TENANT_COLUMN)} = null where ${ident(source.by)} = new.${ident(source.key)};
  return null;
end
$follow$`,
      `revoke all on function ${called}() from public`,
      `create trigger ${trigger} after update on ${on} for each row when (${changed}) execute function ${called}()`,
    ],
    inverse: [`drop trigger ${trigger} on ${on}`, `drop function ${called}()`],
    mayChange: ['+trigger'],
  };
}

/** Gives a stretch of a table's pages the column, where rows have none. Parameters: the first page, and the one after the last. */
export const fillStatement = (place: Place, source: Source): string => {
  const on = qualified(place.schema, place.name);
  return `update ${on} t set ${ident(TENANT_COLUMN)} = f.organization
from (
  select r.ctid as at, ${lookUp(source, `r.${ident(source.by)}`)} as organization from ${on} r
  where r.ctid >= $1::tid and r.ctid < $2::tid and r.${ident(TENANT_COLUMN)} is null
) f
where t.ctid = f.at and f.organization is not null`;
};

/** What is left without: rows that belong to nobody's organization. */
export const countLeftStatement = (place: Place): string =>
  `select count(*) as left from ${qualified(place.schema, place.name)} where ${ident(TENANT_COLUMN)} is null`;

const CHECK = 'organization_id_is_there';

/**
 * That every row has one: a check that new rows are held to, one that all are, then what the check has proved, which therefore reads no
 * row; then the check has done its work.
 */
export function notNullStatements(place: Place) {
  const table = `alter table ${qualified(place.schema, place.name)}`;
  const column = `alter column ${ident(TENANT_COLUMN)}`;
  const step: Step = {
    statements: [`${table} ${column} set not null`],
    inverse: [`${table} ${column} drop not null`],
    mayChange: ['column.not null', '+constraint'],
  };
  return {
    promise: `${table} add constraint ${CHECK} check (${ident(TENANT_COLUMN)} is not null) not valid`,
    validate: `${table} validate constraint ${CHECK}`,
    step,
    takeBack: `${table} drop constraint if exists ${CHECK}`,
  };
}

export const indexNameFor = (table: string, column: string): string => nameFor(`tenant_${column}`, table);
