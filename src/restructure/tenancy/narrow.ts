import type { Owner, Tenancy, TenantTable } from './declaration.ts';

/** What is said of tables that there are, by tables that there are. */
export function narrowTenancy(tenancy: Tenancy, names: ReadonlySet<string>): Tenancy {
  const memberships = tenancy.memberships.filter(({ table }) => names.has(table));
  const tables = tenancy.tables
    .filter(({ table }) => names.has(table))
    .map(({ organization, owner, parent, groups, needs, ...table }) => ({
      ...table,
      ...(organization === undefined || ('of' in organization && !names.has(organization.of)) ? {} : { organization }),
      ...(owner === undefined || !isOwned(owner, tenancy.tables, names) ? {} : { owner }),
      ...(parent === undefined || !names.has(parent.of) ? {} : { parent }),
      needs: needs.filter((need) =>
        need === 'parent'
          ? parent !== undefined && names.has(parent.of)
          : !('of' in need) || isOwned(need, tenancy.tables, names),
      ),
      groups: Object.fromEntries(
        Object.entries(groups).filter(([name]) => memberships.some((each) => each.name === name)),
      ),
    }));
  return { ...tenancy, memberships, tables };
}

/** Whether all tables are there by which one finds whose something is. */
function isOwned({ of, user }: Owner, tables: readonly TenantTable[], names: ReadonlySet<string>): boolean {
  if (!names.has(of)) return false;
  if (user !== undefined) return true;
  const next = tables.find(({ table }) => table === of)?.owner;
  return next !== undefined && isOwned(next, tables, names);
}
